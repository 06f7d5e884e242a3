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
use crate::demo_node;
use crate::demo_windows::{Round, Windows};
use crate::run::{Parts, stop_on_signal};

/// A tour of a real Bitcoin Core node on regtest; data/regtest-tour/README.md tells more.
const RECORDING: &[u8] = include_bytes!("../../../data/regtest-tour/tracepoints.bin.zst");
/// A node that has to evict, for after the tour; data/regtest-busy/README.md tells more.
const BUSY: &[u8] = include_bytes!("../../../data/regtest-busy/tracepoints.bin.zst");
/// What a recording takes when decompressed, at most.
const RECORDING_LIMIT: usize = 64 << 20;
/// Name of the demo's node.
pub(crate) const NODE: &str = "demo";

/// Settings of the demo.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// Print the tour, a line each event, and end; without it a busy node follows, over and over, to look at on the live page
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
    /// Address and port to serve the live page at [default: 127.0.0.1:47482]
    #[arg(short = 'w', long, value_name = "ADDRESS:PORT")]
    web_address: Option<String>,
}

/// The recording of the tour, as records.
pub(crate) fn recording() -> Result<Vec<u8>> {
    recording::decompress(RECORDING, RECORDING_LIMIT).context("the demo's recording is broken")
}

/// The recording of the busy node, as records.
pub(crate) fn busy() -> Result<Vec<u8>> {
    recording::decompress(BUSY, RECORDING_LIMIT).context("the demo's recording is broken")
}

/// The same records, as if they began now and were recorded `speed` times faster: what is shown of them is live.
fn from_now(records: Vec<u8>, speed: f64) -> Vec<u8> {
    begun_at(peer_observer_bus::now_ns(), records, speed)
}

/// The same records, as if they began at that time, ns since the UNIX epoch, and were recorded `speed` times faster.
fn begun_at(begin_ns: u64, mut records: Vec<u8>, speed: f64) -> Vec<u8> {
    let (mut at, mut first) = (0, None);
    // A record is the length of what follows, and its time: data/regtest-tour/README.md.
    while let Some(head) = records.get_mut(at..at + 12) {
        let (length, time) = head.split_at_mut(4);
        let (Ok(length), Ok(time_ns)) = (<[u8; 4]>::try_from(length), <[u8; 8]>::try_from(&*time)) else {
            break;
        };
        let time_ns = u64::from_le_bytes(time_ns);
        let since = time_ns.saturating_sub(*first.get_or_insert(time_ns)) as f64 / speed;
        time.copy_from_slice(&begin_ns.saturating_add(since as u64).to_le_bytes());
        at += 4 + u32::from_le_bytes(length) as usize;
    }
    records
}

/// Runs the demo.
pub(crate) async fn run(config: Config, mut sections: Sections) -> Result<()> {
    if !(config.speed > 0.0 && config.speed.is_finite()) {
        bail!("--speed {} must be a positive number", config.speed);
    }
    if let Some(address) = &config.metrics_address {
        sections.metrics.metrics_address.clone_from(address);
    }
    if let Some(address) = &config.web_address {
        sections.web.web_address.clone_from(address);
    }
    let stop = stop_on_signal()?;
    let bus = Bus::in_process();
    // Lines that rush by would hide where to look.
    let last = if config.once { ToolKind::Logger } else { ToolKind::Web };
    let mut parts = Parts::start_tools(&bus, &sections, &[ToolKind::Metrics, last]);
    let stop_extractors = parts.stop_extractors();
    // Whoever has the tour printed wants what tracepoints tell.
    let windows = if config.once { None } else { Some(Windows::open(&bus, config.speed)?) };
    let lacking = missing(&config);
    if lacking.is_empty() {
        tracing::info!("playing a recorded node through real probes and the kernel");
        let publisher = bus.publisher(Source::Ebpf, "ebpf");
        parts.spawn(through_probes(config, windows, publisher, stop_extractors));
    } else {
        tracing::info!("playing a recorded node straight from the recording, not through probes: {lacking}");
        let publisher = bus.publisher(Source::Capture, "capture");
        parts.spawn(from_recording(config, windows, publisher, stop_extractors));
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
    windows: Option<Windows>,
    mut publisher: peer_observer_bus::Publisher,
    stop: CancellationToken,
) -> Result<()> {
    let node: Arc<str> = NODE.into();
    let begins = |round| windows.iter().for_each(|windows| windows.begins(round));
    begins(Round::Tour);
    let tour = from_now(recording()?, config.speed);
    let events = capture::play(&tour, &node, 1.0, &mut publisher, &stop).await;
    after_tour(&config, events);
    while !config.once && !stop.is_cancelled() {
        begins(Round::Busy);
        capture::play(&from_now(busy()?, config.speed), &node, 1.0, &mut publisher, &stop).await;
    }
    Ok(())
}

async fn through_probes(
    config: Config,
    windows: Option<Windows>,
    publisher: peer_observer_bus::Publisher,
    stop: CancellationToken,
) -> Result<()> {
    let (speed, once) = (config.speed, config.once);
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
        windows.iter().for_each(|windows| windows.begins(Round::Tour));
        let fired = node.fire(if once { demo_node::ONCE } else { demo_node::ON_AND_ON })?;
        if let Some(windows) = windows {
            node.tell(windows);
        }
        Ok((node, fired))
    });
    let extractor = ebpf::run_and_tell(settings, publisher, stop.clone(), move |_| {
        let _ = attached.try_send(());
    });
    let played = async {
        let (node, fired) = play.await??;
        after_tour(&config, fired);
        if config.once {
            stop.cancel();
        }
        // The node goes on by itself.
        stop.cancelled().await;
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

/// Says what comes next.
fn after_tour(config: &Config, events: u64) {
    if config.once {
        tracing::info!(events, "that was the recording");
        return;
    }
    tracing::info!(
        events,
        "that was a tour; a busy node follows, over and over, until you stop this with Ctrl-C"
    );
}

/// The process that fires the recording. Ends with its input, so never stays behind.
struct DemoNode {
    child: Child,
    stdin: ChildStdin,
    /// What it says, until its windows listen to it.
    stdout: Option<BufReader<ChildStdout>>,
}

impl DemoNode {
    fn start(speed: f64) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = std::process::Command::new(program)
            .args(["demo-node", "--speed", &speed.to_string(), "--"])
            .args(demo_node::OPTIONS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the demo's node")?;
        let stdin = child.stdin.take().context("input of the demo's node")?;
        let stdout = child.stdout.take().context("output of the demo's node")?;
        let mut node = DemoNode { child, stdin, stdout: Some(BufReader::new(stdout)) };
        node.line()?;
        Ok(node)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().context("nobody listens to the demo's node")?;
        stdout.read_line(&mut line).context("listening to the demo's node")?;
        Ok(line)
    }

    /// Tells the windows whenever the busy node's recording begins, until the process ends.
    fn tell(&mut self, windows: Windows) {
        let Some(stdout) = self.stdout.take() else { return };
        let lines = stdout.lines().map_while(Result::ok);
        std::thread::spawn(move || {
            lines.filter(|line| line == demo_node::BUSY).for_each(|_| windows.begins(Round::Busy));
        });
    }

    /// Fires the tour, and what follows it. Returns the number of hits of the tour.
    fn fire(&mut self, what: &str) -> Result<u64> {
        writeln!(self.stdin, "{what}").context("starting the demo's recording")?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peer_observer_bus::{Limits, Publisher};
    use peer_observer_tools::web;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Longer than anything takes on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    fn times(records: &[u8]) -> Vec<u64> {
        recording::Records::new(records).map(|record| record.unwrap().time_ns).collect()
    }

    /// The live page, to which recordings are played without waiting.
    struct Page {
        address: std::net::SocketAddr,
        bus: Bus,
        publisher: Publisher,
        stop: CancellationToken,
        /// When the next recording begins, ns since the UNIX epoch.
        next_ns: u64,
        events: u64,
    }

    impl Page {
        async fn open() -> Self {
            let bus = Bus::in_process();
            let config = web::Config::default();
            let subscriber = bus.subscriber("web", &web::subjects(&config), Limits::default());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            tokio::spawn(async move { web::serve(listener, &config, subscriber, stopped).await });
            let publisher = bus.publisher(Source::Capture, "capture");
            Page {
                address,
                bus,
                publisher,
                stop,
                next_ns: peer_observer_bus::now_ns().next_multiple_of(1000),
                events: 0,
            }
        }

        /// Plays a recording after those before. Returns when it began, us since the UNIX epoch.
        async fn play(&mut self, records: Vec<u8>) -> u64 {
            let begin_ns = self.next_ns;
            let records = begun_at(begin_ns, records, 1.0);
            // The page tells whole microseconds.
            self.next_ns = times(&records).into_iter().max().unwrap().next_multiple_of(1000) + 1000;
            let node = NODE.into();
            self.events += capture::play(&records, &node, 0.0, &mut self.publisher, &self.stop).await;
            let all_there = async {
                while self.get("health").await["events"] != self.events {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(LONG, all_there).await.expect("all events reach the page");
            begin_ns / 1000
        }

        async fn get(&self, topic: &str) -> Value {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!(
                "GET /api/v1/{topic} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.address
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    fn all<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
        answer[key].as_array().unwrap()
    }

    #[tokio::test]
    async fn every_transaction_of_the_demos_node_itself_is_accepted_and_followed_once() {
        let mut page = Page::open().await;
        for records in [recording().unwrap(), busy().unwrap()] {
            page.play(records).await;
            let answer = page.get("transactions").await;
            let is_own = |row: &&Value| row["first_peer"].is_null() && row["told_to"] != 0;
            let own: Vec<_> = all(&answer, "transactions").iter().filter(is_own).collect();
            assert!(own.len() > 20, "{answer:#}");
            for row in own {
                assert!(row["added"].is_object() && row["to_accept_us"].is_null(), "{row:#}");
            }
        }
    }

    /// What the page says of the recording that began then, in a form that is the same whenever that was.
    async fn said(page: &Page, begin_us: u64) -> Value {
        let since = |us: &Value| us.as_u64().and_then(|us| us.checked_sub(begin_us));
        let answer = page.get("transactions").await;
        let rows = all(&answer, "transactions");
        assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row["first_us"].as_u64())));
        let newest: Vec<_> = rows[..20]
            .iter()
            .map(|row| (since(&row["first_us"]), &row["hash"], &row["first_peer"], &row["to_accept_us"]))
            .collect();
        let first: u64 = all(&answer, "peers").iter().filter_map(|row| row["first"].as_u64()).sum();
        let overview = page.get("overview").await;
        let tips: Vec<_> = all(&overview, "blocks")[..5]
            .iter()
            .map(|block| (since(&block["time_us"]), &block["height"], &block["first_peer"]))
            .collect();
        let blocks = page.get("blocks").await;
        let blocks: Vec<_> = all(&blocks, "blocks")[..5]
            .iter()
            .map(|block| (since(&block["first_us"]), &block["told"], &block["connected"]))
            .collect();
        serde_json::json!({ "newest": newest, "first": first, "tips": tips, "blocks": blocks })
    }

    #[tokio::test]
    async fn what_the_demo_plays_again_happens_again() {
        for records in [recording().unwrap(), busy().unwrap()] {
            let mut page = Page::open().await;
            let begin_us = page.play(records.clone()).await;
            let once = said(&page, begin_us).await;
            let begin_us = page.play(records).await;
            let again = said(&page, begin_us).await;
            assert_eq!(once, again, "{once:#} {again:#}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_demos_node_has_a_log_and_an_address_manager_of_now() {
        let page = Page::open().await;
        let begin_us = peer_observer_bus::now_ns() / 1000;
        // Nobody waits for four minutes.
        let windows = Windows::open(&page.bus, 100.0).unwrap();
        for (round, address_groups, last_line) in
            [(Round::Tour, 1, "CreateNewBlock() chunks"), (Round::Busy, 50, "Shutdown done")]
        {
            windows.begins(round);
            let is_over = async {
                loop {
                    let log = page.get("log").await;
                    let text = all(&log, "lines").last().map(|line| line["text"].to_string());
                    if text.is_some_and(|text| text.contains(last_line)) {
                        return log;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let log = tokio::time::timeout(LONG, is_over).await.expect("the log is told to its end");
            assert!(all(&log, "lines").is_sorted_by_key(|line| line["time_us"].as_u64()));
            assert!(all(&log, "lines")[0]["time_us"].as_u64().unwrap() >= begin_us, "{log:#}");
            let addrman = page.get("addrman").await;
            let groups = addrman["tables"]["group_count"].as_u64().unwrap();
            assert!(groups >= address_groups, "{addrman:#}");
        }
    }

    #[test]
    fn a_recording_from_now_on_has_the_same_hits_at_the_same_distances() {
        let before = recording().unwrap();
        let now_ns = peer_observer_bus::now_ns();
        let after = from_now(before.clone(), 2.0);
        let (before, after) = (times(&before), times(&after));
        assert_eq!(before.len(), after.len());
        assert!(after[0] >= now_ns);
        for (before_ns, after_ns) in before.iter().zip(&after) {
            assert!((after_ns - after[0]).abs_diff((before_ns - before[0]) / 2) <= 1);
        }
    }
}
