//! A stand-in node with real probes, the extractor that watches it, and a subscriber that counts what comes out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_observer_bus::{Bus, Delivery, Limits, NatsConfig, Subscriber, now_ns};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::observer::{Source, UtxoCache, loss::Stage};
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_extractors::ebpf;
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::process::{Process, Signal};
use peer_observer_testkit::standin::{self, Report, StandIn, Variant};
use peer_observer_testkit::wait_until;
use tokio_util::sync::CancellationToken;

/// A busy machine needs a while to load and attach.
const START: Duration = Duration::from_secs(60);
/// What was fired arrives, or is told to be lost, within this time.
const SETTLE: Duration = Duration::from_secs(60);
/// Node of the event that shows that the subscriber is connected.
const KNOCK: &str = "knock";

/// How events get from the extractor to the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In this process.
    InProcess,
    /// `peer-observer extract ebpf`, a NATS server, and a subscriber in this process.
    Nats,
}

impl Way {
    pub(crate) const ALL: [Way; 2] = [Way::InProcess, Way::Nats];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::InProcess => "in-process",
            Way::Nats => "NATS",
        }
    }
}

/// What arrived.
#[derive(Default)]
pub(crate) struct Arrived {
    hits: AtomicU64,
    lost: AtomicU64,
    out_of_order: AtomicU64,
    knocked: AtomicBool,
    losses: Mutex<BTreeMap<String, u64>>,
    // Time from probe to receipt, ns.
    latencies: Mutex<Vec<f64>>,
}

impl Arrived {
    fn accounted(&self) -> u64 {
        self.hits.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }
}

enum Extractor {
    InProcess { stop: CancellationToken, ended: std::sync::mpsc::Receiver<Result<(), ebpf::Error>> },
    Process(Box<Process>),
}

/// What became of one firing.
pub(crate) struct Firing {
    /// What the stand-in says.
    pub(crate) report: Report,
    /// Events of hits that arrived.
    pub(crate) delivered: u64,
    /// Hits that were told to be lost.
    pub(crate) lost: u64,
    /// CPU time of the extractor.
    pub(crate) cpu: Duration,
    /// From the first hit until the last was accounted for.
    pub(crate) took: Duration,
}

impl Firing {
    /// CPU of the extractor for each hit, us.
    pub(crate) fn us_per_hit(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.report.fired as f64
    }
}

/// A stand-in under an extractor.
pub(crate) struct Rig {
    standin: StandIn,
    extractor: Extractor,
    arrived: Arc<Arrived>,
    bus: Bus,
    _server: Option<NatsServer>,
}

impl Rig {
    /// Starts everything, and waits until hits are seen.
    pub(crate) fn start(way: Way, load: &standin::Config) -> Result<Self> {
        let standin = StandIn::start(Variant::Core30, load)?;
        let binary = standin.binary().path().to_path_buf();
        let arrived = Arc::new(Arrived::default());
        let (bus, server) = match way {
            Way::InProcess => (Bus::in_process(), None),
            Way::Nats => {
                let server = NatsServer::start()?;
                let config = NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() };
                (Bus::nats(config)?, Some(server))
            }
        };
        let subscriber = bus.subscriber("bench", Subject::ALL, Limits::default());
        tokio::spawn(count(subscriber, arrived.clone()));
        knock(&bus, &arrived)?;
        let extractor = match &server {
            None => in_process(&bus, binary)?,
            Some(server) => process(server, binary)?,
        };
        Ok(Rig { standin, extractor, arrived, bus, _server: server })
    }

    /// Has the stand-in fire, and waits until every hit has arrived or is told to be lost.
    pub(crate) fn fire(&mut self) -> Result<Firing> {
        let hits = self.arrived.hits.load(Ordering::Relaxed);
        let lost = self.arrived.lost.load(Ordering::Relaxed);
        let cpu = self.cpu()?;
        let begin = Instant::now();
        self.standin.go()?;
        let report = self.standin.report(Duration::from_secs(300))?;
        let all = wait_until(SETTLE, || self.arrived.accounted() - hits - lost >= report.fired);
        let took = begin.elapsed();
        let firing = Firing {
            delivered: self.arrived.hits.load(Ordering::Relaxed) - hits,
            lost: self.arrived.lost.load(Ordering::Relaxed) - lost,
            cpu: self.cpu()?.saturating_sub(cpu),
            took,
            report,
        };
        if !all {
            bail!(
                "{} hits were fired, {} arrived and {} were told to be lost: the books are not exact",
                firing.report.fired,
                firing.delivered,
                firing.lost
            );
        }
        Ok(firing)
    }

    fn cpu(&self) -> Result<Duration> {
        match &self.extractor {
            Extractor::InProcess { .. } => crate::measure::cpu(std::process::id(), "ebpf-"),
            Extractor::Process(process) => crate::measure::cpu(process.id(), ""),
        }
    }

    /// Process of the extractor, when it has one.
    pub(crate) fn extractor_pid(&self) -> Option<u32> {
        match &self.extractor {
            Extractor::InProcess { .. } => None,
            Extractor::Process(process) => Some(process.id()),
        }
    }

    /// Times from probe to receipt since the last call, ns.
    pub(crate) fn take_latencies(&self) -> Vec<f64> {
        std::mem::take(&mut *self.arrived.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was lost, by stage and cause: `ring/full 5`.
    pub(crate) fn losses(&self) -> String {
        let losses = self.arrived.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let texts: Vec<String> = losses.iter().map(|(what, n)| format!("{what} {n}")).collect();
        if texts.is_empty() { "none lost".into() } else { texts.join(", ") }
    }

    /// Pings that came after one with a higher number.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.arrived.out_of_order.load(Ordering::Relaxed)
    }

    /// Ends everything.
    pub(crate) fn stop(self) -> Result<()> {
        match self.extractor {
            Extractor::InProcess { stop, ended } => {
                stop.cancel();
                ended.recv_timeout(START).context("waiting for the extractor to end")??;
            }
            Extractor::Process(mut process) => {
                process.signal(Signal::Terminate)?;
                process.wait(START)?;
            }
        }
        drop(self.bus);
        Ok(())
    }
}

fn in_process(bus: &Bus, binary: PathBuf) -> Result<Extractor> {
    let publisher = bus.publisher(Source::Ebpf, "ebpf");
    let config = ebpf::Config { bitcoind_path: vec![binary], ..ebpf::Config::default() };
    let stop = CancellationToken::new();
    let (watching, watched) = std::sync::mpsc::sync_channel(16);
    let (end, ended) = std::sync::mpsc::sync_channel(1);
    let stopped = stop.clone();
    tokio::spawn(async move {
        let tell = move |_: &ebpf::Watched| {
            let _ = watching.try_send(());
        };
        let _ = end.send(ebpf::run_and_tell(config, publisher, stopped, tell).await);
    });
    if watched.recv_timeout(START).is_err() {
        ended.recv_timeout(Duration::from_secs(1)).context("waiting for the extractor to attach")??;
        bail!("the extractor ended before it attached");
    }
    Ok(Extractor::InProcess { stop, ended })
}

fn process(server: &NatsServer, binary: PathBuf) -> Result<Extractor> {
    let mut command = peer_observer()?;
    command.args(["extract", "ebpf", "--nats-address", &server.url(), "--bitcoind-path"]).arg(binary);
    let mut process = Process::spawn(command)?;
    process.wait_for_line(|line| line.contains("watching"), START)?;
    Ok(Extractor::Process(Box::new(process)))
}

/// The program `peer-observer` that was built together with this one.
pub(crate) fn peer_observer() -> Result<Command> {
    let own = std::env::current_exe().context("finding this program")?;
    let path = own.with_file_name("peer-observer");
    if !path.exists() {
        bail!("{} is not there: run `cargo xtask bench`, which builds it", path.display());
    }
    Ok(Command::new(path))
}

/// Waits until the subscriber of a bus gets what is published.
fn knock(bus: &Bus, arrived: &Arrived) -> Result<()> {
    let mut publisher = bus.publisher(Source::Tool, "bench");
    let connected = wait_until(START, || {
        publisher.publish(&KNOCK.into(), now_ns(), PeerObserverEvent::Utxocache(UtxoCache::default()));
        arrived.knocked.load(Ordering::Relaxed)
    });
    if !connected { bail!("the subscriber did not connect within {START:?}") } else { Ok(()) }
}

async fn count(mut subscriber: Subscriber, arrived: Arc<Arrived>) {
    let mut batch = Vec::new();
    let mut last_ping = None;
    let mut latencies = Vec::new();
    while subscriber.recv_many(&mut batch, 1024).await > 0 {
        let now = now_ns();
        let mut hits = 0;
        for Delivery { event, .. } in batch.drain(..) {
            let Some(origin) = &event.origin else { continue };
            match &event.peer_observer_event {
                _ if origin.node == KNOCK => arrived.knocked.store(true, Ordering::Relaxed),
                Some(PeerObserverEvent::Loss(loss)) => {
                    let stage = Stage::try_from(loss.stage).map_or("?", |s| s.as_str_name());
                    let what = format!("{}/{}", stage.to_lowercase(), loss.cause);
                    *arrived
                        .losses
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry(what)
                        .or_default() += loss.count;
                    arrived.lost.fetch_add(loss.count, Ordering::Relaxed);
                }
                Some(PeerObserverEvent::Books(_)) => {}
                Some(content) => {
                    hits += 1;
                    latencies.push(now.saturating_sub(origin.time_ns) as f64);
                    if let Some(number) = ping(content) {
                        // The numbers go on from one firing to the next.
                        if last_ping.is_some_and(|last| number <= last) {
                            arrived.out_of_order.fetch_add(1, Ordering::Relaxed);
                        }
                        last_ping = Some(number);
                    }
                }
                None => {}
            }
        }
        arrived.latencies.lock().unwrap_or_else(PoisonError::into_inner).append(&mut latencies);
        arrived.hits.fetch_add(hits, Ordering::Relaxed);
    }
}

/// The number of a made-up ping. Those of the tour come with a size of their own choice of number, in no order.
fn ping(content: &PeerObserverEvent) -> Option<u64> {
    let PeerObserverEvent::EbpfExtractor(ebpf) = content else { return None };
    let Some(EbpfEvent::Message(message)) = &ebpf.ebpf_event else { return None };
    match &message.msg {
        Some(Msg::Ping(ping)) => Some(ping.value),
        _ => None,
    }
}
