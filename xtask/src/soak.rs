//! Runs an attack of tests/tests/attacks.rs for long, against a release build, and keeps what it shows in docs/soaks.md.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// Where the results are kept, a line for each soak.
const RESULTS: &str = "docs/soaks.md";
const INTRODUCTION: &str = "# Soaks\n\n\
    Attacks of the end-to-end tests, repeated for long with `cargo xtask soak NAME` against a release\n\
    build. Memory is the program's own, without what is only mapped from files; all that is resident\n\
    is in brackets. After each attack on a node beside an honest one, the honest one is watched to\n\
    the last hit, through its log and RPC interface as well, and the program was never restarted.\n\n";

/// What can be soaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// 1,000 fake nodes of four users, half of them with 16 MiB of settings, again and again
    FakeNodes,
    /// Short-lived processes with paths of 120 kB
    LongPaths,
    /// A user who exchanges the folder of a log with a link to one of root
    Exchange,
}

impl Name {
    fn test(self) -> &'static str {
        match self {
            Name::FakeNodes => "thousand_fake_nodes_with_megabytes_of_settings_do_no_harm",
            Name::LongPaths => "long_paths_of_short_lived_processes_do_no_harm",
            Name::Exchange => "folder_exchanged_with_a_link_gives_nothing_away",
        }
    }
}

/// Runs it for so many minutes, and writes its line.
pub(crate) fn run(root: &Path, name: Name, minutes: u64) -> Result<()> {
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root);
        command
    };
    let built =
        cargo().args(["build", "--release", "-p", "peer-observer"]).status().context("running cargo")?;
    if !built.success() {
        bail!("the release build failed: {built}");
    }
    let program = crate::bench::release_folder(root).join("peer-observer");
    let output = cargo()
        .args([
            "test",
            "--release",
            "-p",
            "peer-observer-e2e",
            "--test",
            "attacks",
            "--",
            "--exact",
            "--nocapture",
        ])
        .arg(name.test())
        .env("PEER_OBSERVER", program)
        .env("PEER_OBSERVER_SOAK_SECONDS", (minutes * 60).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .context("running the soak")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(result) = text.lines().find_map(|line| line.split_once("soak: ")).map(|(_, result)| result)
    else {
        bail!("the soak failed: {}\n{text}", output.status);
    };
    let path = root.join(RESULTS);
    let before = fs::read_to_string(&path).unwrap_or_else(|_| INTRODUCTION.to_owned());
    // A soak replaces its result of before.
    let attack = result.split(':').next().unwrap_or(result);
    let kept: Vec<&str> = before.lines().filter(|line| !line.starts_with(&format!("- {attack}:"))).collect();
    let page = format!("{}\n- {result}\n", kept.join("\n").trim_end());
    fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("{result}");
    Ok(())
}
