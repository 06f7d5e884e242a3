//! The extractor as an operator runs it, and what a tool sees of it over NATS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use peer_observer_bus::{Bus, Limits, NatsConfig};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::observer::{Books, Loss};
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::need;
use peer_observer_testkit::process::{Process, Signal};
use tokio_util::sync::CancellationToken;

/// The extractor attaches and detaches in a second; more is a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A running extractor, and everything that it published so far.
pub(super) struct Watch {
    extractor: Process,
    subscriber: JoinHandle<Result<u64>>,
    stop: CancellationToken,
    events: Arc<Mutex<Vec<Arc<Event>>>>,
    _nats: NatsServer,
}

/// What is left when the extractor has ended.
pub(super) struct Ended {
    /// All events, in the order in which they came.
    pub(super) events: Vec<Arc<Event>>,
    /// Events that the subscriber misses.
    pub(super) lost_transport: u64,
}

impl Watch {
    /// Starts `peer-observer extract ebpf` on these programs, which need not run yet. `names` are data directories and the
    /// names their nodes shall have.
    pub(super) fn start(
        peer_observer: &Path,
        programs: &[PathBuf],
        names: &[(PathBuf, &str)],
    ) -> Result<Self> {
        let state = std::env::temp_dir();
        Self::start_as(peer_observer, &["extract", "ebpf"], programs, names, &state)
    }

    /// The same with other words in front of the flags: an extractor or a tool, and flags of its own. `state` is where it keeps
    /// what it has to remember.
    pub(super) fn start_as(
        peer_observer: &Path,
        words: &[&str],
        programs: &[PathBuf],
        names: &[(PathBuf, &str)],
        state: &Path,
    ) -> Result<Self> {
        let nats = NatsServer::start()?;
        let address = format!("127.0.0.1:{}", nats.port());
        let events = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let subscriber = subscribe(address.clone(), events.clone(), stop.clone());

        let mut command = Command::new(peer_observer);
        command.env("NO_COLOR", "1").env("STATE_DIRECTORY", state);
        command.args(words).args(["--nats-address", &address]);
        for program in programs {
            command.arg("--bitcoind-path").arg(program);
        }
        for (datadir, name) in names {
            command.arg("--node").arg(format!("{}={name}", datadir.display()));
        }
        let extractor = Process::spawn(command)?;
        let mut watch = Watch { extractor, subscriber, stop, events, _nats: nats };
        let attached: Vec<String> =
            programs.iter().map(|p| format!("attached program={}", p.display())).collect();
        watch.wait_for_log(&attached)?;
        Ok(watch)
    }

    /// Waits until the extractor has logged all of these texts, in any order, and gives the lines they are in.
    pub(super) fn wait_for_log(&mut self, texts: &[String]) -> Result<Vec<String>> {
        let mut missing = texts.to_vec();
        let mut lines = Vec::new();
        while !missing.is_empty() {
            let line = self
                .extractor
                .wait_for_line(|line| missing.iter().any(|text| line.contains(text.as_str())), LONG)
                .with_context(|| format!("waiting for the extractor to log {missing:?}"))?;
            missing.retain(|text| !line.contains(text.as_str()));
            lines.push(line);
        }
        Ok(lines)
    }

    /// How many events there are so far.
    pub(super) fn mark(&self) -> usize {
        self.lock().len()
    }

    /// Events of a node from `mark` on.
    pub(super) fn since(&self, mark: usize, node: &str) -> Vec<Arc<Event>> {
        let is_of_node =
            |event: &&Arc<Event>| event.origin.as_ref().is_some_and(|origin| origin.node == node);
        self.lock()[mark..].iter().filter(is_of_node).cloned().collect()
    }

    /// Stops the extractor and waits for its last events.
    pub(super) fn finish(mut self) -> Result<Ended> {
        self.extractor.signal(Signal::Terminate)?;
        let status = self.extractor.wait(LONG)?;
        ensure!(status.success(), "the extractor ended with {status}");
        // The server hands on what it has in milliseconds. If not, events are missing in the books, and that is told.
        std::thread::sleep(Duration::from_secs(1));
        self.stop.cancel();
        let lost_transport =
            self.subscriber.join().map_err(|_| anyhow!("the subscriber's thread crashed"))??;
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Ended { events, lost_transport })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Event>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects events on a thread until `stop`; tells how many were lost on the way.
fn subscribe(
    address: String,
    events: Arc<Mutex<Vec<Arc<Event>>>>,
    stop: CancellationToken,
) -> JoinHandle<Result<u64>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let bus = Bus::nats(NatsConfig { nats_address: Some(address), ..NatsConfig::default() })?;
            let mut subscriber = bus.subscriber("check-node", Subject::ALL, Limits::default());
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    count = subscriber.recv_many(&mut batch, 1_000) => {
                        if count == 0 {
                            bail!("the connection to NATS ended");
                        }
                    }
                }
                let new = batch.drain(..).map(|delivery| delivery.event);
                events.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
            }
            Ok(subscriber.stats().lost_transport.load(std::sync::atomic::Ordering::Relaxed))
        })
    })
}

/// Builds `peer-observer` the way this program was built, and tells where it is.
pub(super) fn build() -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding this program")?;
    let mut folder = this.parent().context("finding the folder of this program")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("finding the folder of programs")?;
    }
    let profile = match folder.file_name() {
        Some(name) if name == "release" => "release",
        _ => "dev",
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "peer-observer", "--profile", profile])
        // Its build needs Cap'n Proto: only where there is a node to talk to.
        .args(need::bitcoin_node().is_ok().then_some("--features=ipc"))
        .arg("--target-dir")
        .arg(folder.parent().unwrap_or(Path::new("target")))
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "peer-observer does not build");
    Ok(folder.join("peer-observer"))
}

impl Ended {
    /// The last books of every process, with the node it was.
    pub(super) fn books(&self) -> BTreeMap<(String, u32), Books> {
        let books = self.events.iter().filter_map(|event| match &event.peer_observer_event {
            Some(PeerObserverEvent::Books(books)) => {
                Some(((event.origin.as_ref()?.node.clone(), books.pid), books.clone()))
            }
            _ => None,
        });
        books.collect()
    }

    /// What was told as lost.
    pub(super) fn losses(&self) -> Vec<Loss> {
        let losses = self.events.iter().filter_map(|event| match &event.peer_observer_event {
            Some(PeerObserverEvent::Loss(loss)) => Some(loss.clone()),
            _ => None,
        });
        losses.collect()
    }

    /// Events that arrived, by node and tracepoint.
    pub(super) fn arrived(&self) -> BTreeMap<(String, &'static str), u64> {
        let mut arrived = BTreeMap::new();
        for event in &self.events {
            let (Some(origin), Some(tracepoint)) = (&event.origin, tracepoint(event)) else { continue };
            *arrived.entry((origin.node.clone(), tracepoint)).or_default() += 1;
        }
        arrived
    }
}

/// The tracepoint that an event is of.
fn tracepoint(event: &Event) -> Option<&'static str> {
    use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event as Connection;
    use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event as Mempool;
    let ebpf = match event.peer_observer_event.as_ref()? {
        PeerObserverEvent::Utxocache(_) => return Some("utxocache:flush"),
        PeerObserverEvent::EbpfExtractor(ebpf) => ebpf.ebpf_event.as_ref()?,
        _ => return None,
    };
    Some(match ebpf {
        EbpfEvent::Message(message) if message.meta.inbound => "net:inbound_message",
        EbpfEvent::Message(_) => "net:outbound_message",
        EbpfEvent::Connection(connection) => match connection.event.as_ref()? {
            Connection::Closed(_) => "net:closed_connection",
            Connection::InboundEvicted(_) => "net:evicted_inbound_connection",
            Connection::Inbound(_) => "net:inbound_connection",
            Connection::Outbound(_) => "net:outbound_connection",
            Connection::Misbehaving(_) => "net:misbehaving_connection",
        },
        EbpfEvent::Mempool(mempool) => match mempool.event.as_ref()? {
            Mempool::Added(_) => "mempool:added",
            Mempool::Removed(_) => "mempool:removed",
            Mempool::Replaced(_) => "mempool:replaced",
            Mempool::Rejected(_) => "mempool:rejected",
        },
        EbpfEvent::Validation(_) => "validation:block_connected",
        EbpfEvent::Addrman(_) => return None,
    })
}
