//! Prints events, a line each.
//!
//! Writing to a pipe or a terminal can block for as long as the reader likes, so a thread of its own writes and the task that
//! takes events waits for it. What piles up meanwhile waits in the tool's queue on the bus, which counts what it cannot hold.
//!
//! | file | what it is for |
//! |---|---|
//! | filter.rs | which events are printed |
//! | line.rs | what an event looks like |
//! | writer.rs | the thread that writes |

mod filter;
mod line;
mod writer;

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use peer_observer_bus::{Delivery, Finding, Subscriber, SubscriberStats};
use peer_observer_events::Subject;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use filter::Filter;
use line::{Colour, Form};
use writer::Writer;

use crate::terminal::shows_colours;

/// Events that are formatted before they are handed to the writer.
const BATCH: usize = 256;
/// How often losses of our own are told at most.
const TELL_LOSSES: Duration = Duration::from_secs(1);

/// Settings of the logger.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Print P2P messages. Without any of the flags for a kind, events of all kinds are printed, but for books.
    #[arg(long)]
    pub messages: bool,
    /// Print connections that are opened, closed, evicted, and misbehaving peers.
    #[arg(long)]
    pub connections: bool,
    /// Print changes of the mempool.
    #[arg(long)]
    pub mempool: bool,
    /// Print connected blocks.
    #[arg(long)]
    pub validation: bool,
    /// Print answers of RPC methods.
    #[arg(long)]
    pub rpc: bool,
    /// Print events of the P2P extractor.
    #[arg(long)]
    pub p2p_extractor: bool,
    /// Print lines of debug.log.
    #[arg(long)]
    pub log_extractor: bool,
    /// Print events of the IPC extractor.
    #[arg(long)]
    pub ipc_extractor: bool,
    /// Print events of the address manager, which only patched nodes have.
    #[arg(long)]
    pub addrman: bool,
    /// Print flushes of the UTXO set.
    #[arg(long)]
    pub utxocache: bool,
    /// Print what was lost on the way.
    #[arg(long)]
    pub loss: bool,
    /// Print the books that the eBPF extractor keeps of hits and what became of them.
    #[arg(long)]
    pub books: bool,
    /// Print attacks and anomalies.
    #[arg(long)]
    pub incidents: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Only messages and connections of the peer with this id; other kinds only if asked for. Can be repeated.
    #[arg(long = "peer", value_name = "ID")]
    pub peers: Vec<u64>,
    /// Only messages of this name; other kinds only if asked for. Can be repeated.
    #[arg(long = "command", value_name = "NAME")]
    pub commands: Vec<String>,
}

/// Why the logger cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output does not take what is written.
    #[error("cannot write events to standard output: {source}; see what it is connected to (a full disk?)")]
    Write {
        /// Why.
        source: std::io::Error,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start a thread to write events with: {source}; the limit of processes may be reached")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

/// The subjects that the tool wants.
pub fn subjects(config: &Config) -> Vec<Subject> {
    Filter::new(config).subjects()
}

impl Config {
    /// Refuses nothing: all settings can work.
    ///
    /// # Errors
    /// Never.
    pub fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// What the tool needs, and whether it is there: it needs nothing but its output.
pub fn check(_config: &Config) -> Vec<Finding> {
    Vec::new()
}

/// Prints events to standard output until `stop`, until the bus ends, or until nobody reads the output any more.
///
/// # Errors
/// When the output does not take what is written.
pub async fn run(config: Config, subscriber: Subscriber, stop: CancellationToken) -> Result<(), Error> {
    let stdout = std::io::stdout();
    let colour = if shows_colours(&stdout) { Colour::Ansi } else { Colour::None };
    run_to(config, subscriber, stop, stdout, colour).await
}

async fn run_to(
    config: Config,
    mut subscriber: Subscriber,
    stop: CancellationToken,
    out: impl Write + Send + 'static,
    colour: Colour,
) -> Result<(), Error> {
    let filter = Filter::new(&config);
    let form = if config.json { Form::Json } else { Form::Text(colour) };
    let writer = Writer::start(out).map_err(|source| Error::Thread { source })?;
    let stats = subscriber.stats();
    let mut losses = Losses::default();
    let mut batch: Vec<Delivery> = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => break,
            () = writer.closed() => break,
            received = subscriber.recv_many(&mut batch, BATCH) => received,
        };
        if received == 0 {
            break;
        }
        let mut lines = Vec::new();
        for delivery in batch.drain(..).filter(|delivery| filter.wants(delivery)) {
            line::write(&mut lines, &delivery.event, form);
        }
        losses.tell(&stats);
        let written = tokio::select! {
            () = stop.cancelled() => break,
            written = writer.write(lines) => written,
        };
        if written.is_err() {
            break;
        }
    }
    losses.tell_all(&stats);
    writer.finish().await.map_err(|source| Error::Write { source })
}

/// Says on the log what the logger itself did not get: the `loss` events may not be among what it prints.
#[derive(Default)]
struct Losses {
    not_taken: u64,
    lost_on_the_way: u64,
    last: Option<Instant>,
}

impl Losses {
    fn tell(&mut self, stats: &SubscriberStats) {
        if self.last.is_none_or(|last| last.elapsed() >= TELL_LOSSES) {
            self.tell_all(stats);
        }
    }

    fn tell_all(&mut self, stats: &SubscriberStats) {
        let not_taken = stats.lost_queue.load(Ordering::Relaxed);
        let lost_on_the_way = stats.lost_transport.load(Ordering::Relaxed);
        if (not_taken, lost_on_the_way) == (self.not_taken, self.lost_on_the_way) {
            return;
        }
        tracing::warn!(
            not_taken,
            lost_on_the_way,
            "events are missing in the output, so many since the start"
        );
        (self.not_taken, self.lost_on_the_way) = (not_taken, lost_on_the_way);
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Arc, Mutex};

    use peer_observer_bus::{Bus, Limits};
    use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
    use peer_observer_events::proto::observer::{Source, UtxoCache};
    use peer_observer_events::{Event, PeerObserverEvent};
    use peer_observer_testkit::{LONG, STOP};

    use super::*;
    use crate::tour::tour;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Fails when written to.
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Says that it is written to, and blocks until it is let go.
    struct Blocked(SyncSender<()>, Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.try_send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn publish(bus: &Bus, count: u64) {
        let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
        let node: Arc<str> = "alice".into();
        let mut batch = publisher.batch();
        for i in 0..count {
            batch.publish(&node, i, PeerObserverEvent::Utxocache(UtxoCache::default()));
        }
    }

    fn subscribe(bus: &Bus) -> Subscriber {
        bus.subscriber("logger", &[Subject::UtxoCache], Limits::default())
    }

    #[tokio::test]
    async fn every_event_is_a_line_when_the_bus_ends() {
        let bus = Bus::in_process();
        let subscriber = subscribe(&bus);
        publish(&bus, 1000);
        bus.close(Duration::ZERO).await;
        let out = Buffer::default();
        run_to(Config::default(), subscriber, CancellationToken::new(), out.clone(), Colour::None)
            .await
            .unwrap();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert!(text.starts_with("1970-01-01T00:00:00.000000Z alice # UTXOCACHE "), "{text}");
    }

    #[tokio::test]
    async fn a_tour_is_printed_as_text_and_as_json_and_in_part() {
        let bus = Bus::in_process();
        let tour = tour();
        let pings = tour.iter().filter(|d| is_ping(&d.event)).count();
        assert!(pings > 0 && pings < tour.len());
        let json = Config { json: true, ..Config::default() };
        let only_pings = Config { commands: vec!["ping".into()], ..json.clone() };
        let cases = [(Config::default(), tour.len()), (json, tour.len()), (only_pings, pings)];
        let subscribers: Vec<_> =
            cases.iter().map(|_| bus.subscriber("logger", Subject::ALL, Limits::default())).collect();
        let node: Arc<str> = "alice".into();
        let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
        for delivery in tour {
            let event = Arc::unwrap_or_clone(delivery.event);
            let mut batch = publisher.batch();
            batch.publish(&node, event.timestamp * 1_000_000, event.peer_observer_event.unwrap());
        }
        bus.close(Duration::ZERO).await;
        for ((config, expected), subscriber) in cases.into_iter().zip(subscribers) {
            let out = Buffer::default();
            let json = config.json;
            run_to(config, subscriber, CancellationToken::new(), out.clone(), Colour::None).await.unwrap();
            let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), expected);
            for line in text.lines() {
                let object = serde_json::from_str::<serde_json::Value>(line);
                assert_eq!(object.is_ok(), json, "{line}");
            }
        }
    }

    fn is_ping(event: &Event) -> bool {
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &event.peer_observer_event else { return false };
        matches!(&ebpf.ebpf_event, Some(EbpfEvent::Message(message)) if message.meta.command == "ping")
    }

    #[tokio::test]
    async fn a_reader_that_has_enough_ends_it_without_an_error() {
        let bus = Bus::in_process();
        let subscriber = subscribe(&bus);
        publish(&bus, 10);
        let out = Broken(io::ErrorKind::BrokenPipe);
        let run = run_to(Config::default(), subscriber, CancellationToken::new(), out, Colour::None);
        tokio::time::timeout(LONG, run).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_output_that_fails_is_an_error() {
        let bus = Bus::in_process();
        let subscriber = subscribe(&bus);
        publish(&bus, 10);
        let out = Broken(io::ErrorKind::StorageFull);
        let run = run_to(Config::default(), subscriber, CancellationToken::new(), out, Colour::None);
        let error = tokio::time::timeout(LONG, run).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error}");
    }

    #[test]
    fn settings_without_flags_are_those_without_a_file() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            config: Config,
        }
        let from_flags = |flags: &[&str]| <Cli as clap::Parser>::parse_from(flags).config;
        assert_eq!(from_flags(&["logger"]), Config::default());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        let some =
            from_flags(&["logger", "--peer", "1", "--peer", "2", "--command", "ping", "--p2p-extractor"]);
        let expected = Config {
            peers: vec![1, 2],
            commands: vec!["ping".into()],
            p2p_extractor: true,
            ..Config::default()
        };
        assert_eq!(some, expected);
        assert!(serde_json::from_str::<Config>("{\"color\": true}").is_err());
    }

    #[tokio::test]
    async fn a_blocked_output_does_not_keep_it_from_stopping() {
        let bus = Bus::in_process();
        let subscriber = subscribe(&bus);
        publish(&bus, 10 * BATCH as u64);
        let (blocked, writing) = sync_channel(1);
        let (release, released) = sync_channel(0);
        let stop = CancellationToken::new();
        let run =
            run_to(Config::default(), subscriber, stop.clone(), Blocked(blocked, released), Colour::None);
        let run = tokio::spawn(run);
        tokio::task::spawn_blocking(move || writing.recv()).await.unwrap().unwrap();
        stop.cancel();
        tokio::time::timeout(STOP, run).await.unwrap().unwrap().unwrap();
        drop(release);
    }
}
