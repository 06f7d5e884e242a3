//! The pipeline without a node: a recording of a real one, through real probes where that is allowed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use peer_observer_bus::Bus;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::{capture, ebpf};
use peer_observer_node::recording;
use tokio_util::sync::CancellationToken;

use crate::components::{Sections, ToolKind};
use crate::run::{Parts, stop_on_signal};

/// A tour of a real Bitcoin Core node on regtest; data/regtest-tour/README.md tells more.
const RECORDING: &[u8] = include_bytes!("../../../data/regtest-tour/tracepoints.bin.zst");
/// What the recording takes when decompressed, at most.
const RECORDING_LIMIT: usize = 64 << 20;
/// Name of the demo's node.
const NODE: &str = "demo";

/// Settings of the demo.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// End with the recording, instead of serving metrics until stopped
    #[arg(long)]
    once: bool,
    /// How fast: 1 is as it was recorded, which takes 27 seconds
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// Do not use probes even where that is allowed
    #[arg(long)]
    no_probes: bool,
    /// Address and port to serve the metrics at [default: 127.0.0.1:8282]
    #[arg(short = 'm', long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<String>,
}

/// The recording, as records.
pub(crate) fn recording() -> Result<Vec<u8>> {
    recording::decompress(RECORDING, RECORDING_LIMIT).context("the demo's recording is broken")
}

/// Runs the demo.
pub(crate) async fn run(config: Config, mut sections: Sections) -> Result<()> {
    if !(config.speed > 0.0 && config.speed.is_finite()) {
        bail!("--speed {} must be a positive number", config.speed);
    }
    if let Some(address) = &config.metrics_address {
        sections.metrics.metrics_address.clone_from(address);
    }
    let stop = stop_on_signal()?;
    let bus = Bus::in_process();
    let mut parts = Parts::start_tools(&bus, &sections, &[ToolKind::Logger, ToolKind::Metrics]);
    let stop_extractors = parts.stop_extractors();
    let lacking = missing(&config);
    if lacking.is_empty() {
        tracing::info!("playing a recorded node through real probes and the kernel");
        let publisher = bus.publisher(Source::Ebpf, "ebpf");
        parts.spawn(through_probes(config, publisher, stop_extractors));
    } else {
        tracing::info!("playing a recorded node straight from the recording, not through probes: {lacking}");
        let publisher = bus.publisher(Source::Capture, "capture");
        parts.spawn(from_recording(config, publisher, stop_extractors));
    }
    parts.until_end(&bus, stop).await
}

/// Why probes cannot be used; empty when they can.
fn missing(config: &Config) -> String {
    if config.no_probes {
        return "--no-probes".into();
    }
    let findings = ebpf::check(&ebpf::Config::default());
    let bad: Vec<String> = findings.into_iter().filter(|f| !f.ok).map(|f| f.what).collect();
    bad.join("; ")
}

async fn from_recording(
    config: Config,
    mut publisher: peer_observer_bus::Publisher,
    stop: CancellationToken,
) -> Result<()> {
    let recording = recording()?;
    let node: Arc<str> = NODE.into();
    let events = capture::play(&recording, &node, config.speed, &mut publisher, &stop).await;
    after_recording(&config, events, stop).await;
    Ok(())
}

async fn through_probes(
    config: Config,
    publisher: peer_observer_bus::Publisher,
    stop: CancellationToken,
) -> Result<()> {
    let speed = config.speed;
    let mut node = tokio::task::spawn_blocking(move || DemoNode::start(speed)).await??;
    let pid = node.child.id();
    let settings = ebpf::Config {
        bitcoind_pid: Some(pid),
        node: vec![format!("{pid}={NODE}").parse()?],
        ..Default::default()
    };
    let (attached, is_attached) = std::sync::mpsc::sync_channel(1);
    let play = tokio::task::spawn_blocking(move || -> Result<(DemoNode, u64)> {
        // Ends with an error when the extractor does.
        is_attached.recv().context("the ebpf extractor ended")?;
        let fired = node.fire()?;
        Ok((node, fired))
    });
    let extractor = ebpf::run_and_tell(settings, publisher, stop.clone(), move |_| {
        let _ = attached.try_send(());
    });
    let played = async {
        let (node, fired) = play.await??;
        after_recording(&config, fired, stop.clone()).await;
        stop.cancel();
        drop(node);
        anyhow::Ok(())
    };
    tokio::select! {
        // The extractor ends when it is stopped, or when it fails.
        result = extractor => Ok(result?),
        // It still has to hand over the last events, so its end is waited for.
        () = async { if let Err(error) = played.await { tracing::error!("{error:#}"); } std::future::pending().await } => Ok(()),
    }
}

/// Says what comes next, and waits for it.
async fn after_recording(config: &Config, events: u64, stop: CancellationToken) {
    if config.once {
        tracing::info!(events, "that was the recording");
        return;
    }
    tracing::info!(events, "that was the recording; metrics are served until you stop this with Ctrl-C");
    stop.cancelled().await;
}

/// The process that fires the recording. Ends with its input, so never stays behind.
struct DemoNode {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl DemoNode {
    fn start(speed: f64) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = std::process::Command::new(program)
            .args(["demo-node", "--speed", &speed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the demo's node")?;
        let stdin = child.stdin.take().context("input of the demo's node")?;
        let stdout = child.stdout.take().context("output of the demo's node")?;
        let mut node = DemoNode { child, stdin, stdout: BufReader::new(stdout) };
        node.line()?;
        Ok(node)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("listening to the demo's node")?;
        Ok(line)
    }

    /// Fires the recording. Returns the number of hits.
    fn fire(&mut self) -> Result<u64> {
        writeln!(self.stdin, "go").context("starting the demo's recording")?;
        let line = self.line()?;
        line.trim().strip_prefix("fired ").and_then(|n| n.parse().ok()).context("the demo's node ended early")
    }
}

impl Drop for DemoNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
