//! The program, as users run it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use peer_observer_testkit::process::{Process, Signal};
use tempfile::TempDir;

use crate::plain::{KNOCKER, knock};
use crate::{LONG, page};

/// The program under test: `$PEER_OBSERVER`, or else what Cargo makes of the sources as they are.
///
/// # Panics
/// When it cannot be built.
pub fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("PEER_OBSERVER") {
            return path.into();
        }
        let target = crate::target();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "peer-observer"])
            // Where Cargo builds tests with all features, it does not have to build everything again.
            .args(cfg!(feature = "ipc").then_some("--all-features"))
            .arg("--target-dir")
            .arg(&target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(
            built.is_ok_and(|status| status.success()),
            "cannot build the program: see `cargo build -p peer-observer`"
        );
        target.join("debug/peer-observer")
    })
}

/// The program with these arguments, and a folder for the places in logs that it keeps: nobody wants them of the nodes of tests.
///
/// # Panics
/// When there can be no folder.
pub fn command(args: &[&str]) -> (Command, TempDir) {
    let state = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(path());
    command.args(args).env("NO_COLOR", "1").env("STATE_DIRECTORY", state.path());
    (command, state)
}

/// Starts it.
///
/// # Panics
/// When it cannot be run.
pub fn start(args: &[&str]) -> Process {
    let (command, state) = command(args);
    Process::spawn(command).expect("cannot run the program").keep(state)
}

/// Runs it to its end.
///
/// # Panics
/// When it cannot be run.
pub fn output(args: &[&str]) -> Output {
    let (mut command, _state) = command(args);
    command.output().expect("cannot run the program")
}

/// Starts `peer-observer metrics` on a free port, and waits until it gets what `client` publishes on the server at `url`.
///
/// # Panics
/// When it does not start.
pub async fn start_metrics(url: &str, client: &async_nats::Client) -> (Process, SocketAddr) {
    let mut metrics = start(&["metrics", "-a", url, "-m", "127.0.0.1:0"]);
    let address = page_address(&mut metrics);
    let knocks = || page::fetch(address).map_or(0.0, |page| page::sum(&page, "pipeline_events", &[KNOCKER]));
    knock(client, || knocks() > 0.0).await;
    (metrics, address)
}

/// Where a program that has just been started serves its metrics.
///
/// # Panics
/// When it serves none.
pub fn page_address(process: &mut Process) -> SocketAddr {
    let line = process.wait_for_line(|line| line.contains("serving metrics"), LONG).expect("metrics");
    let address = line.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next());
    address.and_then(|address| address.parse().ok()).expect("the address in the log")
}

/// Waits until a page satisfies `condition`, and returns it.
///
/// # Panics
/// When it does not for long.
pub fn wait_for_page(address: SocketAddr, condition: impl Fn(&page::Samples) -> bool) -> page::Samples {
    let mut last = page::Samples::new();
    let found = peer_observer_testkit::wait_until(LONG, || {
        if let Ok(samples) = page::fetch(address) {
            last = samples;
        }
        condition(&last)
    });
    let pipeline: Vec<_> = last.iter().filter(|(series, _)| series.contains("_pipeline_")).collect();
    assert!(found, "the page does not come to say what it should: {pipeline:#?}");
    last
}

/// Ends it as systemd does, and says whether it ended well.
///
/// # Panics
/// When it does not end.
pub fn terminate(mut process: Process) -> bool {
    process.signal(Signal::Terminate).expect("it runs");
    process.wait(LONG).expect("it ends").success()
}
