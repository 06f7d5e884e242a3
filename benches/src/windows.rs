//! The other windows into a node: what reading its log and asking its RPC interface cost.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_observer_bus::Bus;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::log;
use peer_observer_node::debug_log::{Lines, Parser};
use peer_observer_node::recording;
use peer_observer_testkit::fake_rpc::{Behaviour, FakeRpc};
use peer_observer_testkit::process::Process;
use peer_observer_testkit::{data_dir, wait_until};

use crate::measure::{cpu, median, memory_mb, own_cpu};
use crate::report::{Report, thousands};
use crate::rig::peer_observer;

const ROUNDS: usize = 9;
/// How often the recorded log is read in a round.
const TIMES: usize = 40;
/// What the extractor reads at once, bytes.
const CHUNK: usize = 64 << 10;
const LINES_PER_SECOND: f64 = 500_000.0;

const PEERS: usize = 125;
/// The node is asked so many times as often as by default, so that the measurement does not take an hour.
const HURRY: u64 = 10;
const MEASURED: Duration = Duration::from_secs(24);
const PERCENT_OF_A_CORE: f64 = 1.0;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for name in ["debug.log", "debug-threadnames.log"] {
        read_log(report, name)?;
    }
    ask(report)
}

fn read_log(report: &mut Report, name: &str) -> Result<()> {
    let path = data_dir().join(format!("regtest-tour/{name}.zst"));
    let text = recording::read_file(&path, 1 << 30).context("reading the recorded log")?.repeat(TIMES);
    let bus = Bus::in_process();
    let mut publisher = bus.publisher(Source::Log, "log");
    let node: Arc<str> = "bench".into();
    let mut rates = Vec::new();
    let mut plain = Vec::new();
    let mut count = 0;
    for _ in 0..ROUNDS {
        let begin = own_cpu()?;
        count = 0;
        let (mut lines, mut parser) = (Lines::new(CHUNK), Parser::default());
        for chunk in text.chunks(CHUNK) {
            lines.push(chunk, |raw| {
                let text = String::from_utf8_lossy(raw.bytes);
                let line = parser.parse(&text);
                let time_ns = line.time_us.unwrap_or(0) * 1000;
                let event = log::log(&line, raw.length());
                publisher.publish(&node, time_ns, PeerObserverEvent::LogExtractor(event));
                count += 1;
            });
        }
        let took = own_cpu()?.saturating_sub(begin);
        rates.push(f64::from(count) / took.as_secs_f64());

        let begin = own_cpu()?;
        let mut lines = Lines::new(CHUNK);
        let mut bytes = 0;
        for chunk in text.chunks(CHUNK) {
            lines.push(chunk, |raw| bytes += raw.length());
        }
        std::hint::black_box(bytes);
        plain.push(f64::from(count) / own_cpu()?.saturating_sub(begin).as_secs_f64());
    }
    let what = format!("log: lines of the tour's {name} to events on the in-process bus, per core");
    let beside = format!(
        "{} lines of {} B; cutting them apart alone: {}/s",
        thousands(f64::from(count)),
        text.len() / usize::try_from(count)?.max(1),
        thousands(median(&mut plain))
    );
    report.add_at_least(&what, median(&mut rates), "/s", LINES_PER_SECOND, beside);
    Ok(())
}

/// The recorded peers, as often as it takes, with numbers of their own.
fn many_peers(folder: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(folder.join("getpeerinfo.json")).context("reading the recorded peers")?;
    let recorded: Vec<serde_json::Value> =
        serde_json::from_str(&text).context("reading the recorded peers")?;
    let peers = recorded.iter().cycle().take(PEERS).enumerate().map(|(id, peer)| {
        let mut peer = peer.clone();
        peer["id"] = id.into();
        peer
    });
    Ok(serde_json::to_string(&peers.collect::<Vec<_>>())?)
}

fn ask(report: &mut Report) -> Result<()> {
    let folder = data_dir().join("rpc-samples");
    let node = FakeRpc::start("bench:bench").context("starting the RPC server")?;
    node.play(&folder)?;
    let peers = many_peers(&folder)?;
    let size = peers.len();
    node.behave("getpeerinfo", Behaviour::Answer(peers));
    let mut command = peer_observer()?;
    command.args(["extract", "rpc", "--rpc-user", "bench", "--rpc-password", "bench"]);
    command.args(["--rpc-host", &node.addr().to_string(), "--prometheus-address", "127.0.0.1:0"]);
    command.args(["--query-interval", &(10 / HURRY).to_string()]);
    command.args(["--query-interval-less-frequent", &(120 / HURRY).to_string()]);
    let extractor = Process::spawn(command)?;
    // The first round finds everything cold.
    if !wait_until(Duration::from_secs(60), || node.calls("getpeerinfo") >= 2) {
        bail!("the rpc extractor does not ask for getpeerinfo");
    }
    let (calls, before, begin) = (node.calls("getpeerinfo"), cpu(extractor.id(), "")?, Instant::now());
    std::thread::sleep(MEASURED);
    let (used, took) = (cpu(extractor.id(), "")?.saturating_sub(before), begin.elapsed());
    let calls = node.calls("getpeerinfo") - calls;
    let percent = used.as_secs_f64() / took.as_secs_f64() * 100.0 / HURRY as f64;
    let beside = format!(
        "{calls} rounds in {:.0} s, {HURRY} times as often, divided by that; getpeerinfo of {size} B; resident {:.1} MB",
        took.as_secs_f64(),
        memory_mb(extractor.id(), "VmRSS")?
    );
    let what = format!("rpc: all methods at their intervals, {PEERS} peers");
    report.add_at_most(&what, percent, "% of a core", PERCENT_OF_A_CORE, beside);
    Ok(())
}
