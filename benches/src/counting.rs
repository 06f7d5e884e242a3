//! How fast the metrics tool counts, and whether it counts everything of a burst.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_observer_bus::Delivery;
use peer_observer_e2e::everything;
use peer_observer_events::gaps::GapTracker;
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{Event, PeerObserverEvent, Subject, peek};
use peer_observer_extractors::log;
use peer_observer_node::debug_log::Parser;
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::process::Process;
use peer_observer_testkit::{free_port, wait_until};
use peer_observer_tools::metrics::{Config, Metrics};
use prost::Message;
use tokio::runtime::Runtime;

use crate::measure::{cpu, median, own_cpu};
use crate::report::{Report, thousands};
use crate::rig::peer_observer;
use crate::tour;

const ROUNDS: usize = 9;
const TIMES: usize = 200;
/// Events that the tool takes at once.
const BATCH: usize = 1024;
const TARGET: f64 = 1_000_000.0;
/// Address lists, and subnets in each.
const LISTS: usize = 4;
const SUBNETS: usize = 10_000;

pub(crate) fn measure(report: &mut Report, runtime: &Runtime) -> Result<()> {
    let encoded = tour::encoded(1, TIMES)?;
    let bytes: usize = encoded.iter().map(|(_, event)| event.len()).sum();
    let mix = format!("tour mix, {} B an event", bytes / encoded.len());

    let deliveries = encoded
        .iter()
        .take(encoded.len() / TIMES)
        .map(|(subject, bytes)| {
            Ok(Delivery { subject: *subject, event: Event::decode(bytes.clone())?.into() })
        })
        .collect::<Result<Vec<_>>>()?;
    let rate = rate(encoded.len(), || {
        let mut metrics = Metrics::new(&Config::default())?;
        for _ in 0..TIMES {
            metrics.observe_batch(&deliveries);
        }
        Ok(())
    })?;
    report.add("metrics tool: decoded events, per core", format!("{}/s", thousands(rate)), mix.clone());

    let folder = tempfile::tempdir().context("making a folder for lists")?;
    let everything_on = everything_on(folder.path())?;
    let all_windows = all_windows()?;
    let (mut rates, mut rates_on) = (Vec::new(), Vec::new());
    // In turns, so that both have the same machine.
    for _ in 0..ROUNDS {
        rates.push(rate_once(encoded.len(), || count(&Config::default(), &encoded))?);
        rates_on.push(rate_once(all_windows.len(), || count(&everything_on, &all_windows))?);
    }
    let (rate, rate_on) = (median(&mut rates), median(&mut rates_on));
    let what = "metrics tool: encoded events (holes looked for, decoded, counted), per core";
    report.add_at_least(what, rate, "/s", TARGET, mix.clone());
    let what = "metrics tool: the same with everything on (lists, AS map, nodes apart) and the events of all windows";
    let beside = format!(
        "{:.2} of the rate above, in turns with it; {LISTS} lists of {} subnets, a map of one AS, two nodes in turns",
        rate_on / rate,
        thousands(SUBNETS as f64)
    );
    report.add_at_least(what, rate_on, "/s", TARGET, beside);
    burst(report, runtime, &encoded)
}

/// Looks for holes in events, decodes and counts them.
fn count(config: &Config, encoded: &[(Subject, bytes::Bytes)]) -> Result<()> {
    let mut metrics = Metrics::new(config)?;
    let mut gaps = GapTracker::new(1000);
    let mut batch = Vec::with_capacity(BATCH);
    for chunk in encoded.chunks(BATCH) {
        for (subject, bytes) in chunk {
            let origin = peek::origin(bytes)?.context("an event without origin")?;
            gaps.see(*subject, &origin, std::time::Duration::ZERO);
            batch.push(Delivery { subject: *subject, event: Event::decode(bytes.clone())?.into() });
        }
        metrics.observe_batch(&batch);
        batch.clear();
    }
    Ok(())
}

/// Every setting that makes counting more work. The public lists have some thousand entries each.
fn everything_on(folder: &Path) -> Result<Config> {
    let written = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        anyhow::Ok(path)
    };
    let subnets: String = (0..SUBNETS).map(|i| format!("198.{}.{}.0/24\n", i >> 8, i & 255)).collect();
    let list = written("list", subnets.as_bytes())?;
    let ip_lists =
        ["gmax", "monero", "tor_exit", "own"].map(|name| format!("{name}={}", list.display()).parse());
    Ok(Config {
        ip_lists: ip_lists.into_iter().collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?,
        // Three bytes of a map lead everything to AS 1.
        asmap_file: Some(written("asmap", &[0; 3])?),
        as_names_file: Some(written("names", b"AS1 Example\n")?),
        node_label: true,
        ..Config::default()
    })
}

/// The tour mix with what the rpc, log and p2p extractors tell beside it, of two nodes.
fn all_windows() -> Result<Vec<(Subject, bytes::Bytes)>> {
    let mut contents = tour::contents()?;
    let time_ns = contents.first().context("an empty tour")?.0;
    let others = everything::events(1, time_ns / 1_000_000_000);
    let told = others.into_iter().filter(|(source, _)| [Source::Rpc, Source::P2p].contains(source));
    let mut others: Vec<_> = told.map(|(_, event)| event).collect();
    let mut parser = Parser::default();
    for text in everything::log_lines(1).lines() {
        let event = log::log(&parser.parse(text), text.len() as u64);
        others.push(PeerObserverEvent::LogExtractor(event));
    }
    // Spread, as they come.
    let distance = contents.len() / others.len();
    for (i, event) in others.into_iter().enumerate() {
        contents.insert(i * (distance + 1), (time_ns, event));
    }
    tour::as_it_arrives(&contents, TIMES, &mut ["alice", "bob"].map(|node| tour::Numbering::of(node, 3)))
}

/// Events a second of CPU time.
fn rate(events: usize, mut round: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(rate_once(events, &mut round)?);
    }
    Ok(median(&mut rates))
}

fn rate_once(events: usize, round: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = own_cpu()?;
    round()?;
    Ok(events as f64 / own_cpu()?.saturating_sub(begin).as_secs_f64())
}

/// Everything at once, as fast as the server takes it, to a running tool.
fn burst(report: &mut Report, runtime: &Runtime, encoded: &[(Subject, bytes::Bytes)]) -> Result<()> {
    let server = NatsServer::start()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = peer_observer()?;
    command.args(["metrics", "--nats-address", &server.url(), "--metrics-address", &address]);
    let tool = Process::spawn(command)?;
    let client = runtime.block_on(async_nats::connect(server.url())).context("connecting to the server")?;
    let (subject, first) = &tour::encoded(2, 1)?[0];
    let ready = wait_until(Duration::from_secs(60), || {
        let knock = client.publish(subject.as_str(), first.clone());
        runtime.block_on(knock).is_ok() && received(&address).is_ok_and(|n| n > 0)
    });
    if !ready {
        bail!("the metrics tool counts nothing");
    }
    // The last knocks may still be on their way.
    let mut before = received(&address)?;
    wait_until(Duration::from_secs(2), || {
        let now = received(&address).unwrap_or(0);
        std::mem::replace(&mut before, now) == now && now > 0
    });

    let cpu_before = cpu(tool.id(), "")?;
    let begin = Instant::now();
    runtime.block_on(async {
        for (subject, event) in encoded {
            client.publish(subject.as_str(), event.clone()).await?;
        }
        client.flush().await?;
        anyhow::Ok(())
    })?;
    let sent = begin.elapsed();
    let mut counted = 0;
    let mut last_change = Instant::now();
    while counted < encoded.len() as u64 && last_change.elapsed() < Duration::from_secs(10) {
        // Making the page is work for the tool, too.
        std::thread::sleep(Duration::from_millis(100));
        let now = received(&address)? - before;
        if now != counted {
            counted = now;
            last_change = Instant::now();
        }
    }
    let took = last_change.duration_since(begin);
    let per_core = counted as f64 / cpu(tool.id(), "")?.saturating_sub(cpu_before).as_secs_f64();
    let verdict = if counted == encoded.len() as u64 { "all" } else { "NOT all" };
    let result =
        format!("{} of {} counted: {verdict}", thousands(counted as f64), thousands(encoded.len() as f64));
    let beside = format!(
        "sent in {:.2} s, counted in {:.2} s; {}/s of its CPU, NATS client included",
        sent.as_secs_f64(),
        took.as_secs_f64(),
        thousands(per_core)
    );
    report.add(&format!("metrics tool: burst of the tour mix x {TIMES} over NATS"), result, beside);
    Ok(())
}

/// Events that the tool has received, as its page says.
fn received(address: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address).context("connecting to the metrics tool")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page).context("reading the metrics page")?;
    page.lines()
        .find_map(|line| line.strip_prefix("peerobserver_pipeline_received ")?.parse().ok())
        .context("finding peerobserver_pipeline_received on the metrics page")
}
