//! All windows into a node at once, for a while: `peer-observer run` beside a node that lives, is stopped and started again, and whose
//! log is rotated. Nobody helps it; what each extractor told is compared with what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::validation::validation_event;
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::observer::p2p_extra::P2pEvent as Extra;
use peer_observer_events::proto::observer::{Source, peer_info::Transport};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::peer::Peer;
use peer_observer_testkit::process::Signal;
use peer_observer_testkit::{free_port, need};
use serde_json::{Value, json};

use super::coins::{self, ANYONE, Coin, NODE_ARGS};
use super::report::{Report, Table};
use super::watch::{Ended, Watch};
use super::{FEE, LONG, wait};

/// Blocks that give coins, about one for each round of ten minutes.
const COIN_BLOCKS: u32 = 140;
/// A round: transactions, a block, peers that come and go.
const ROUND: Duration = Duration::from_secs(4);
/// Seconds between queries of RPC methods, and of those that are asked for less often: often enough for a short check to see
/// them several times.
const QUERY: (u64, u64) = (2, 10);
/// The node tells the new connection of blocks once it takes it for up to date.
const SETTLED_NS: u64 = 5_000_000_000;

/// Runs the check for about so long.
pub(super) fn check(report: &mut Report, peer_observer: &Path, time: Duration) -> Result<()> {
    let p2p = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let page = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let addnode = format!("-addnode={p2p}");
    let own = [addnode.as_str(), "-debug=validation", "-debug=cmpctblock", "-logtimemicros=1"];
    let args = [&NODE_ARGS[..], &own].concat();
    let has_ipc = need::bitcoin_node().is_ok();
    let mut node = if has_ipc { RealNode::start_with_ipc(&args)? } else { RealNode::start(&args)? };
    node.rpc("generatetodescriptor", json!([COIN_BLOCKS + 100, ANYONE]))?;
    let coins = coins::mined(&node, 1..=COIN_BLOCKS)?;
    node.stop()?;
    let set = [
        format!("rpc.prometheus_address={page}"),
        format!("rpc.query_interval={}", QUERY.0),
        format!("rpc.query_interval_less_frequent={}", QUERY.1),
    ];
    let p2p = p2p.to_string();
    let mut args = vec!["run", "--quiet", "-m", "127.0.0.1:0", "--no-web", "--p2p", "--p2p-address", &p2p];
    for value in &set {
        args.extend(["--set", value]);
    }
    // Nothing is known of places in logs from an earlier check.
    let state = tempfile::tempdir()?;
    let names = [(node.datadir(), "alice")];
    let mut watch = Watch::start_as(peer_observer, &args, &[node.program()], &names, state.path())?;
    let mut life = Life { node, coins, mined: Vec::new(), lives: Vec::new() };
    life.start_again(&mut watch)?;
    // Lines of the log that may be missed: those before it was first looked at.
    wait("the log to be read", || {
        // It is read from its end, so the node has to write something.
        life.node.rpc("generatetodescriptor", json!([1, ANYONE]))?;
        std::thread::sleep(ROUND / 4);
        Ok(!of(&watch.since(0, "alice"), Source::Log).is_empty())
    })?;
    let before = life.lines()?.len();

    let begin = Instant::now();
    life.rounds(begin + time / 3)?;
    life.node.stop()?;
    life.start_again(&mut watch)?;
    life.rounds(begin + time * 2 / 3)?;
    life.rotate()?;
    life.rounds(begin + time)?;

    let mark = watch.mark();
    wait("answers of RPC methods about the last block", || {
        Ok(last_answers(&watch.since(mark, "alice")).len() >= 2)
    })?;
    let minutes = begin.elapsed().as_secs() / 60;
    let what = |window: &str| format!("all windows, {minutes} minutes: {window}");
    compare_answers(report, &what("rpc, the last answers"), &life, &watch.since(mark, "alice"))?;
    let metrics = fetch(page)?;
    // What a log says can be compared when nobody writes to it any more.
    life.node.stop()?;
    wait("the last lines of the log", || life.tail_is_seen(&watch.since(0, "alice")))?;
    let events = watch.since(0, "alice");
    let (seen, differences) = life.compare_lines(&events, before)?;
    report.check(what("log, every line in order, through a restart and a rotation"), seen, differences);
    let (seen, differences) = life.compare_announcements(&events);
    report.check(what("p2p, blocks announced while it was connected"), seen, differences);
    let (seen, differences) = compare_pings(&events, begin.elapsed());
    report.check(what("p2p, pings"), seen, differences);
    let (seen, differences) = life.compare_blocks(&events);
    report.check(what("ebpf, blocks connected"), seen, differences);
    compare_metrics(report, &what("rpc, what it says of itself"), &metrics);
    if has_ipc {
        let (seen, differences) = life.compare_tips(&events);
        report.check(what("ipc, tips while it was connected"), seen, differences);
    }
    let mut sources = vec![Source::Ebpf, Source::Rpc, Source::Log, Source::P2p];
    sources.extend(has_ipc.then_some(Source::Ipc));
    compare_names(report, &what("one name"), &watch.finish()?, &sources);
    report.table(Table {
        title: "RPC extractor of `run`, in its own metrics",
        header: &["method", "events", "fetch errors", "missed rounds", "not understood", "unknown fields"],
        rows: rows_of(&metrics),
    });
    Ok(())
}

/// A node that lives, and what happened to it.
struct Life {
    node: RealNode,
    coins: Vec<Coin>,
    /// Blocks of the rounds: hash as RPC writes it, and when it was there, ns since the UNIX epoch.
    mined: Vec<(String, u64)>,
    /// When the node was started, and when it was about to be stopped next.
    lives: Vec<(u64, u64)>,
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

impl Life {
    fn start_again(&mut self, watch: &mut Watch) -> Result<()> {
        if let Some(life) = self.lives.last_mut() {
            life.1 = now_ns();
        }
        self.node.restart()?;
        self.lives.push((now_ns(), u64::MAX));
        watch.wait_for_log(&[format!("looking into node=alice pid={}", self.node.pid())])?;
        Ok(())
    }

    /// Lets things happen until `end`.
    fn rounds(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            let round = Instant::now();
            let mut peers =
                [Peer::connect(self.node.p2p_addr(), LONG)?, Peer::connect(self.node.p2p_addr(), LONG)?];
            if let Some(coin) = self.coins.pop() {
                coins::send(&self.node, &coins::spend(coin, FEE))?;
            }
            peers[0].send("hello", b"?")?;
            peers[1].ping(1, LONG)?;
            let hashes = self.node.rpc("generatetodescriptor", json!([1, ANYONE]))?;
            let hash = hashes[0].as_str().context("no block was mined")?;
            self.mined.push((hash.to_owned(), now_ns()));
            std::thread::sleep(ROUND.saturating_sub(round.elapsed()));
        }
        Ok(())
    }

    /// Rotates the log as logrotate does: another name, and a signal for the node to open a new one.
    fn rotate(&mut self) -> Result<()> {
        let log = self.log();
        fs::rename(&log, log.with_extension("log.1")).context("renaming the log")?;
        // It does so with the next line that it writes.
        self.node.process().signal(Signal::Hangup)?;
        Ok(())
    }

    fn log(&self) -> std::path::PathBuf {
        self.node.datadir().join("regtest/debug.log")
    }

    /// Lengths of all lines that the node wrote, bytes.
    fn lines(&self) -> Result<Vec<u64>> {
        let log = self.log();
        let mut bytes = match fs::read(log.with_extension("log.1")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context("reading the rotated log"),
        };
        bytes.extend(fs::read(&log).context("reading the log")?);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        Ok(lines.map(|line| line.len() as u64 - 1).collect())
    }

    /// The last line that the node wrote has come, and all before it since the first that did.
    fn tail_is_seen(&self, events: &[Arc<Event>]) -> Result<bool> {
        let seen = line_lengths(events);
        Ok(!seen.is_empty() && self.lines()?.ends_with(&seen))
    }

    fn compare_lines(&self, events: &[Arc<Event>], before: usize) -> Result<(String, Vec<String>)> {
        let (seen, written) = (line_lengths(events), self.lines()?);
        let mut differences = Vec::new();
        if !written.ends_with(&seen) {
            differences.push(format!("the last {} lines have other lengths", seen.len()));
        }
        if seen.len() + before < written.len() {
            differences.push(format!("{} lines of {} after the first {before}", seen.len(), written.len()));
        }
        Ok((
            format!("{} lines, to the byte the last of {} in the files", seen.len(), written.len()),
            differences,
        ))
    }

    fn compare_blocks(&self, events: &[Arc<Event>]) -> (String, Vec<String>) {
        let connected: BTreeSet<String> = connected(events).into_keys().collect();
        let missing = self.mined.iter().filter(|(hash, _)| !connected.contains(hash));
        (
            format!("{} blocks", self.mined.len()),
            missing.map(|(hash, _)| format!("{hash} is missing")).collect(),
        )
    }

    /// Every block of a round became the tip, and the interface for it was there soon after each start.
    fn compare_tips(&self, events: &[Arc<Event>]) -> (String, Vec<String>) {
        let mut tips: BTreeMap<String, u64> = BTreeMap::new();
        for event in events {
            if let (Some(PeerObserverEvent::IpcExtractor(ipc)), Some(origin)) =
                (&event.peer_observer_event, &event.origin)
                && let Some(IpcEvent::BlockTip(tip)) = &ipc.ipc_event
            {
                tips.entry(display_order(&tip.hash)).or_insert(origin.time_ns);
            }
        }
        let is_connected =
            |at: u64| self.lives.iter().any(|(start, end)| start + SETTLED_NS < at && at < *end);
        let due: Vec<&str> =
            self.mined.iter().filter(|(_, at)| is_connected(*at)).map(|(hash, _)| hash.as_str()).collect();
        let missing: Vec<String> = due
            .iter()
            .filter(|hash| !tips.contains_key(**hash))
            .map(|hash| format!("{hash} is missing"))
            .collect();
        let delays = delays(&due, &tips, &connected(events));
        let seen = format!("{} of {} blocks, {delays}", due.len() - missing.len(), due.len());
        (seen, missing)
    }

    /// Blocks that were mined while the node was connected must have been announced.
    fn compare_announcements(&self, events: &[Arc<Event>]) -> (String, Vec<String>) {
        let mut announced: BTreeMap<String, u64> = BTreeMap::new();
        let mut connections = Vec::new();
        for event in events {
            let (Some(PeerObserverEvent::P2pExtra(extra)), Some(origin)) =
                (&event.peer_observer_event, &event.origin)
            else {
                continue;
            };
            match &extra.p2p_event {
                Some(Extra::PeerInfo(info)) => connections.push((origin.time_ns, info.transport())),
                Some(Extra::BlockAnnounced(block)) => {
                    announced.entry(display_order(&block.hash)).or_insert(origin.time_ns);
                }
                None => {}
            }
        }
        let mut differences = Vec::new();
        for (started, ended) in &self.lives {
            if !connections.iter().any(|(at, _)| started <= at && at < ended) {
                differences.push("the node did not connect in one of its lives".to_owned());
            }
        }
        let is_connected = |at: u64| {
            connections.iter().any(|(since, _)| {
                let end = self.lives.iter().map(|(_, ended)| *ended).find(|ended| ended > since);
                since + SETTLED_NS < at && end.is_none_or(|end| at < end)
            })
        };
        let due: Vec<&str> =
            self.mined.iter().filter(|(_, at)| is_connected(*at)).map(|(hash, _)| hash.as_str()).collect();
        differences.extend(
            due.iter()
                .filter(|hash| !announced.contains_key(**hash))
                .map(|hash| format!("{hash} is missing")),
        );
        let delays = delays(&due, &announced, &connected(events));
        let v2 = connections.iter().filter(|(_, transport)| *transport == Transport::V2).count();
        let seen = format!(
            "{} of {} blocks announced, {delays}; {} connections, {v2} of them v2",
            due.len() - differences.len().min(due.len()),
            due.len(),
            connections.len(),
        );
        (seen, differences)
    }
}

fn of(events: &[Arc<Event>], source: Source) -> Vec<Arc<Event>> {
    let is_of = |event: &&Arc<Event>| {
        let is_loss = matches!(event.peer_observer_event, Some(PeerObserverEvent::Loss(_)));
        !is_loss && event.origin.as_ref().is_some_and(|origin| origin.extractor() == source)
    };
    events.iter().filter(is_of).cloned().collect()
}

fn line_lengths(events: &[Arc<Event>]) -> Vec<u64> {
    let lengths = events.iter().filter_map(|event| match &event.peer_observer_event {
        Some(PeerObserverEvent::LogExtractor(log)) => Some(log.log_line_bytes),
        _ => None,
    });
    lengths.collect()
}

/// A hash as RPC writes it: the reverse, in hex.
fn display_order(hash: &[u8]) -> String {
    hash.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// Blocks that the tracepoint told, and when.
fn connected(events: &[Arc<Event>]) -> BTreeMap<String, u64> {
    let mut connected = BTreeMap::new();
    for event in events {
        let (Some(PeerObserverEvent::EbpfExtractor(ebpf)), Some(origin)) =
            (&event.peer_observer_event, &event.origin)
        else {
            continue;
        };
        if let Some(EbpfEvent::Validation(validation)) = &ebpf.ebpf_event
            && let Some(validation_event::Event::BlockConnected(block)) = &validation.event
        {
            connected.entry(display_order(&block.hash)).or_insert(origin.time_ns);
        }
    }
    connected
}

/// How long after the tracepoint these blocks were told otherwise.
fn delays(blocks: &[&str], told: &BTreeMap<String, u64>, connected: &BTreeMap<String, u64>) -> String {
    let delay = |hash: &&str| Some(i128::from(*told.get(*hash)?) - i128::from(*connected.get(*hash)?));
    let mut delays: Vec<i128> = blocks.iter().filter_map(delay).collect();
    delays.sort_unstable();
    let ms = |ns: Option<&i128>| ns.map_or(0.0, |ns| *ns as f64 / 1e6);
    format!(
        "{:.1} ms after validation:block_connected at the median (from {:.1} to {:.1})",
        ms(delays.get(delays.len() / 2)),
        ms(delays.first()),
        ms(delays.last())
    )
}

/// What the last answers about chain and peers said: best block, and ids of peers.
fn last_answers(events: &[Arc<Event>]) -> BTreeMap<&'static str, Value> {
    let mut last = BTreeMap::new();
    for event in events {
        let Some(PeerObserverEvent::RpcExtractor(rpc)) = &event.peer_observer_event else { continue };
        match &rpc.rpc_event {
            Some(RpcEvent::BlockchainInfo(info)) => {
                last.insert("getblockchaininfo: bestblockhash", json!(info.bestblockhash));
            }
            Some(RpcEvent::PeerInfos(peers)) => {
                let ids: BTreeSet<u32> = peers.infos.iter().map(|peer| peer.id).collect();
                last.insert("getpeerinfo: ids", json!(ids));
            }
            _ => {}
        }
    }
    last
}

fn compare_answers(report: &mut Report, what: &str, life: &Life, events: &[Arc<Event>]) -> Result<()> {
    let peers = life.node.rpc("getpeerinfo", json!([]))?;
    let ids: BTreeSet<u64> =
        peers.as_array().into_iter().flatten().filter_map(|peer| peer["id"].as_u64()).collect();
    let theirs = BTreeMap::from([
        ("getblockchaininfo: bestblockhash", life.node.rpc("getbestblockhash", json!([]))?),
        ("getpeerinfo: ids", json!(ids)),
    ]);
    let ours = last_answers(events);
    let differences = theirs
        .iter()
        .filter(|(key, value)| ours.get(*key) != Some(value))
        .map(|(key, value)| format!("{key}: node {value}, events {:?}", ours.get(key)))
        .collect();
    let answers = of(events, Source::Rpc).len();
    report.check(
        what,
        format!("in the last {answers} events: {}", theirs.keys().copied().collect::<Vec<_>>().join(", ")),
        differences,
    );
    Ok(())
}

fn compare_pings(events: &[Arc<Event>], time: Duration) -> (String, Vec<String>) {
    let mut pings: Vec<u64> = events
        .iter()
        .filter_map(|event| match &event.peer_observer_event {
            Some(PeerObserverEvent::P2pExtractor(p2p)) => match &p2p.p2p_event {
                Some(P2pEvent::PingDuration(ping)) => Some(ping.duration),
                _ => None,
            },
            _ => None,
        })
        .collect();
    pings.sort_unstable();
    // Every ten seconds; fewer while the node is away.
    let due = time.as_secs() / 10;
    let ms = |ns: Option<&u64>| ns.map_or(0.0, |ns| *ns as f64 / 1e6);
    let seen = format!(
        "{} pings, {:.2} ms at the median, {:.2} ms at most",
        pings.len(),
        ms(pings.get(pings.len() / 2)),
        ms(pings.last())
    );
    let differences = match pings.len() as u64 * 10 >= due * 8 {
        true => Vec::new(),
        false => vec![format!("{due} were due")],
    };
    (seen, differences)
}

/// All events are of one node, from all of `sources`, and what was lost was told.
fn compare_names(report: &mut Report, what: &str, ended: &Ended, sources: &[Source]) {
    let mut by: BTreeMap<(String, Source), u64> = BTreeMap::new();
    for event in &ended.events {
        let Some(origin) = &event.origin else { continue };
        *by.entry((origin.node.clone(), origin.extractor())).or_default() += 1;
    }
    let mut differences: Vec<String> =
        by.keys().filter(|(node, _)| node != "alice").map(|key| format!("events of {key:?}")).collect();
    let mut seen = Vec::new();
    for source in sources {
        let name = source.as_str_name().to_lowercase();
        match by.get(&("alice".to_owned(), *source)) {
            Some(count) => seen.push(format!("{count} of {name}")),
            None => differences.push(format!("no events of {name}")),
        }
    }
    let losses = ended.losses();
    seen.push(format!("{} losses", losses.len() as u64 + ended.lost_transport));
    differences.extend(losses.iter().map(|loss| format!("{loss:?}")));
    report.check(what, seen.join(", "), differences);
}

/// Samples of a metric by method.
fn by_method(metrics: &str, name: &str) -> BTreeMap<String, u64> {
    let samples = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix("{node=\"alice\",rpc_method=\"")?;
        let (method, value) = labels.split_once("\"} ")?;
        Some((method.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

const COUNTS: [&str; 5] =
    ["events", "rpc_fetch_errors", "missed_rounds", "rpc_model_errors", "unknown_fields"];

fn rows_of(metrics: &str) -> Vec<Vec<String>> {
    let counts = COUNTS.map(|count| by_method(metrics, &format!("rpcextractor_{count}_total")));
    let methods = counts[0].keys();
    methods
        .map(|method| {
            let numbers =
                counts.iter().map(|count| count.get(method).copied().unwrap_or_default().to_string());
            std::iter::once(method.clone()).chain(numbers).collect()
        })
        .collect()
}

fn compare_metrics(report: &mut Report, what: &str, metrics: &str) {
    let sum = |count: &str| by_method(metrics, &format!("rpcextractor_{count}_total")).values().sum::<u64>();
    let silent =
        by_method(metrics, "rpcextractor_events_total").into_iter().filter(|(_, events)| *events == 0);
    let mut differences: Vec<String> = silent.map(|(method, _)| format!("no event of {method}")).collect();
    for count in ["rpc_model_errors", "unknown_fields"] {
        if sum(count) > 0 {
            differences.push(format!("{} {count}", sum(count)));
        }
    }
    let seen = format!(
        "{} events; {} calls without a result, while the node was away; {} rounds missed",
        sum("events"),
        sum("rpc_fetch_errors"),
        sum("missed_rounds")
    );
    report.check(what, seen, differences);
}

fn fetch(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connecting to the metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(16 << 20).read_to_string(&mut answer).context("reading the metrics")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "no metrics: {answer}");
    Ok(answer)
}
