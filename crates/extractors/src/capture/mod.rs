//! What was recorded, played again as the same events: Bitcoin Core's own `-capturemessages` files, and recordings of
//! tracepoint hits (tracepoints.bin, plain or compressed with Zstandard).
//!
//! For a machine where eBPF is not to be had, and for looking at an incident again with today's tools. Events carry the times of
//! the recording. Capture files know neither Core's peer ids nor connection types: peers are numbered as they first appear.
//!
//! What is broken is passed over, said in the log, and told as a loss on the bus like any other.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use peer_observer_bus::loss::{LossBook, What};
use peer_observer_bus::{Finding, Publisher, now_ns};
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_node::capture_file::{self, Merged};
use peer_observer_node::hit::{Hit, Message};
use peer_observer_node::names::{BadName, check_name};
use peer_observer_node::recording::{self, Reader};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::convert;

/// Broken records of a recording that are logged; further ones are only counted.
const MAX_WARNINGS: u64 = 10;
/// Capture files open at a time.
const MAX_OPEN: usize = 256;
/// Events that are handed on together when there is no pace to keep.
const BATCH: usize = 64;

/// Settings of the capture extractor.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Capture extractor")]
pub struct Config {
    /// Recording of tracepoint hits, plain or .zst; may be repeated
    #[arg(long, value_name = "FILE")]
    pub recording: Vec<PathBuf>,
    /// Folder `message_capture` that a node with -capturemessages wrote; may be repeated
    #[arg(long, value_name = "DIR")]
    pub capturemessages: Vec<PathBuf>,
    /// Name of the node that was recorded
    #[arg(long, value_name = "NAME", default_value = "capture")]
    pub capture_node: String,
    /// How fast: 1 is as it was recorded, 10 ten times that, 0 as fast as events are taken
    #[arg(long, value_name = "FACTOR", default_value_t = 0.0)]
    pub speed: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            recording: Vec::new(),
            capturemessages: Vec::new(),
            capture_node: "capture".into(),
            speed: 0.0,
        }
    }
}

/// Why something recorded cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to play was named.
    #[error("name what to play, with --recording FILE or --capturemessages DIR")]
    Nothing,
    /// The speed makes no sense.
    #[error("--speed {0} must be 0 or a positive number")]
    Speed(f64),
    /// The name cannot be one.
    #[error("--capture-node: {0}")]
    Name(BadName),
    /// A recording cannot be read.
    #[error("cannot read recording {path}: {source}")]
    Recording {
        /// The file.
        path: PathBuf,
        /// Why.
        source: recording::Error,
    },
    /// Not even the first record of a file can be read.
    #[error("{path} is no recording, or its first record is cut short: {source}")]
    NoRecording {
        /// The file.
        path: PathBuf,
        /// Why.
        source: recording::Error,
    },
    /// A folder cannot be read.
    #[error(transparent)]
    Capture(#[from] capture_file::Error),
}

impl Config {
    /// Refuses settings that cannot work. That nothing is named to be played is for who asks for it.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        if !self.speed.is_finite() || self.speed < 0.0 {
            return Err(Error::Speed(self.speed));
        }
        check_name(&self.capture_node).map_err(Error::Name)
    }
}

/// What is wrong with the settings, for `doctor`.
pub fn check(config: &Config) -> Vec<Finding> {
    if let Err(error) = config.validate() {
        return vec![Finding::bad(error.to_string(), "correct the settings of the capture extractor")];
    }
    let finding = |path: &Path, error: Option<String>| match error {
        None => Finding::good(format!("{} can be played", path.display())),
        Some(error) => Finding::bad(error, "name a file or folder that is there"),
    };
    let recordings = config
        .recording
        .iter()
        .map(|path| finding(path, recording::open(path).err().map(|error| error.to_string())));
    let folders = config.capturemessages.iter().map(|path| {
        finding(
            path,
            std::fs::read_dir(path).err().map(|error| format!("cannot read {}: {error}", path.display())),
        )
    });
    recordings.chain(folders).collect()
}

/// Plays everything named in the settings, in the order it is named, until the end or `stop`.
///
/// # Errors
/// When something cannot be read. What is broken within a recording is logged, told as a loss, and passed over.
pub async fn run(config: Config, mut publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    if config.recording.is_empty() && config.capturemessages.is_empty() {
        return Err(Error::Nothing);
    }
    config.validate()?;
    let node: Arc<str> = config.capture_node.as_str().into();
    for path in &config.recording {
        let failed = |source| Error::Recording { path: path.clone(), source };
        let mut reader = recording::open(path).map_err(failed)?;
        let played = play_records(&mut reader, &node, config.speed, &mut publisher, &stop).await;
        let played = played.map_err(|source| match source {
            recording::Error::CutShort { .. } | recording::Error::TooLong { .. } => {
                Error::NoRecording { path: path.clone(), source }
            }
            source => failed(source),
        })?;
        tracing::info!(recording = %path.display(), events = played, "played");
    }
    for path in &config.capturemessages {
        let merged = Merged::open(path, MAX_OPEN)?;
        let played = play_captures(merged, &node, config.speed, &mut publisher, &stop).await;
        tracing::info!(folder = %path.display(), events = played, "played");
    }
    Ok(())
}

/// What of a recording could not be played.
struct Losses {
    node: Arc<str>,
    book: LossBook,
}

impl Losses {
    fn new(node: &Arc<str>, publisher: &Publisher) -> Self {
        Losses { node: node.clone(), book: LossBook::new(publisher.component()) }
    }

    /// `cause` is `malformed`, or `truncated` where the file ends too early. How many messages were in what cannot be read is
    /// not known: it counts as one.
    fn count(&mut self, cause: &'static str, count: usize) {
        let what = What {
            stage: Stage::Decode,
            cause,
            node: self.node.clone(),
            subject: None,
            tracepoint: None,
            session: None,
        };
        self.book.add(what, count as u64, None, now_ns());
    }

    /// Tells them, as what they are: found now, whenever the recording was made.
    fn tell(mut self, publisher: &mut Publisher) {
        for (node, loss) in self.book.take() {
            publisher.publish(&node, now_ns(), loss);
        }
    }
}

/// Plays a recording of tracepoint hits that is in memory. Returns the number of events.
pub async fn play(
    bytes: &[u8],
    node: &Arc<str>,
    speed: f64,
    publisher: &mut Publisher,
    stop: &CancellationToken,
) -> u64 {
    match play_records(&mut Reader::new(bytes), node, speed, publisher, stop).await {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "the recording cannot be played");
            0
        }
    }
}

/// Plays a recording. Returns the number of events.
///
/// # Errors
/// When the first record is none, or the file cannot be read to its end: what was played until then may be damaged, too.
async fn play_records<R: Read + Send>(
    reader: &mut Reader<R>,
    node: &Arc<str>,
    speed: f64,
    publisher: &mut Publisher,
    stop: &CancellationToken,
) -> Result<u64, recording::Error> {
    let mut pace = Pace::new(speed);
    let mut events = 0;
    let mut broken: u64 = 0;
    let mut losses = Losses::new(node, publisher);
    let outcome = loop {
        let (time_ns, event) = match reader.next_record() {
            Ok(Some(record)) => (record.time_ns, convert::event(&record.hit)),
            Ok(None) => break Ok(()),
            Err(error @ recording::Error::Broken { .. }) => {
                broken += 1;
                losses.count("malformed", 1);
                match broken.cmp(&MAX_WARNINGS) {
                    Ordering::Less => tracing::warn!(%error, "passing over a broken record"),
                    Ordering::Equal => {
                        tracing::warn!(%error, "passing over a broken record; further ones are only counted");
                    }
                    Ordering::Greater => {}
                }
                // All of a large file can be broken.
                if !pace.take_turn(stop).await {
                    break Ok(());
                }
                continue;
            }
            Err(
                error @ (recording::Error::CutShort { offset: 0, .. }
                | recording::Error::TooLong { offset: 0, .. }),
            ) => return Err(error),
            Err(error @ recording::Error::CutShort { .. }) => {
                tracing::warn!(%error, "the recording is truncated");
                losses.count("truncated", 1);
                break Ok(());
            }
            Err(error @ recording::Error::TooLong { .. }) => {
                tracing::warn!(%error, "leaving out the rest of the recording");
                losses.count("malformed", 1);
                break Ok(());
            }
            Err(error) => {
                losses.count("malformed", 1);
                break Err(error);
            }
        };
        if !pace.keep(time_ns, stop).await {
            break Ok(());
        }
        tokio::select! {
            () = publisher.publish_when_it_fits(node, time_ns, event) => events += 1,
            () = stop.cancelled() => break Ok(()),
        }
    };
    losses.tell(publisher);
    outcome.map(|()| events)
}

async fn play_captures(
    mut merged: Merged,
    node: &Arc<str>,
    speed: f64,
    publisher: &mut Publisher,
    stop: &CancellationToken,
) -> u64 {
    let mut pace = Pace::new(speed);
    let mut peers: HashMap<Arc<str>, i64> = HashMap::new();
    let mut events = 0;
    let mut losses = Losses::new(node, publisher);
    for message in &mut merged {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "leaving out the rest of a capture file");
                losses.count("malformed", 1);
                continue;
            }
        };
        let time_ns = u64::try_from(message.message.time_us).unwrap_or(0).saturating_mul(1000);
        if !pace.keep(time_ns, stop).await {
            break;
        }
        let next = peers.len() as i64;
        let peer_id = *peers.entry(message.peer.clone()).or_insert(next);
        let hit = Hit::Message(Message {
            inbound: message.inbound,
            peer_id,
            addr: message.peer.as_bytes(),
            conn_type: b"",
            msg_type: message.message.msg_type(),
            size: message.message.payload.len() as u64,
            payload: &message.message.payload,
        });
        tokio::select! {
            () = publisher.publish_when_it_fits(node, time_ns, convert::event(&hit)) => events += 1,
            () = stop.cancelled() => break,
        }
    }
    if merged.incomplete() > 0 {
        tracing::warn!(
            files = merged.incomplete(),
            "capture files end in the middle of a message: the node was writing it, or died while it did"
        );
        losses.count("truncated", merged.incomplete());
    }
    losses.tell(publisher);
    events
}

/// Waits so that events come as far apart as they were recorded, or `speed` times closer.
struct Pace {
    speed: f64,
    begin: Option<(u64, Instant)>,
    since_yield: usize,
}

impl Pace {
    fn new(speed: f64) -> Self {
        Pace { speed, begin: None, since_yield: 0 }
    }

    /// Waits for the event of that time. Returns whether to go on.
    async fn keep(&mut self, time_ns: u64, stop: &CancellationToken) -> bool {
        if self.speed > 0.0 {
            let (first, start) = *self.begin.get_or_insert((time_ns, Instant::now()));
            let after = Duration::from_nanos((time_ns.saturating_sub(first) as f64 / self.speed) as u64);
            let wait = after.saturating_sub(start.elapsed());
            if wait > Duration::from_millis(1) {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        self.take_turn(stop).await
    }

    /// Lets others work now and then. Returns whether to go on.
    async fn take_turn(&mut self, stop: &CancellationToken) -> bool {
        self.since_yield += 1;
        if self.since_yield >= BATCH {
            self.since_yield = 0;
            tokio::task::yield_now().await;
        }
        !stop.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_bus::{Bus, Delivery, Limits};
    use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
    use peer_observer_events::proto::observer::Source;
    use peer_observer_events::{PeerObserverEvent, Subject};

    use peer_observer_node::recording::Records;

    use super::*;

    /// The largest file of the tests has 5 MB.
    const MAX_RECORDING: usize = 64 << 20;

    fn data(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(path)
    }

    async fn played(config: Config) -> Result<Vec<Delivery>, Error> {
        let bus = Bus::in_process();
        let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
        let played = run(config, bus.publisher(Source::Capture, "capture"), CancellationToken::new()).await;
        bus.close(Duration::ZERO).await;
        let mut all = Vec::new();
        while subscriber.recv_many(&mut all, 1000).await > 0 {}
        played.map(|()| all)
    }

    /// What a message says, but for what capture files do not know.
    fn messages(deliveries: &[Delivery]) -> Vec<(u64, String, bool, String)> {
        let mut all: Vec<_> = deliveries
            .iter()
            .filter_map(|d| match d.event.peer_observer_event.as_ref()? {
                PeerObserverEvent::EbpfExtractor(ebpf) => match ebpf.ebpf_event.as_ref()? {
                    EbpfEvent::Message(m) => {
                        Some((m.meta.size, m.meta.addr.clone(), m.meta.inbound, format!("{:?}", m.msg)))
                    }
                    _ => None,
                },
                _ => None,
            })
            .collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn a_recording_becomes_its_events_in_order_with_its_times() {
        let path = data("regtest-tour/tracepoints.bin.zst");
        let events = played(Config { recording: vec![path.clone()], ..Config::default() }).await.unwrap();
        let bytes = recording::read_file(&path, MAX_RECORDING).unwrap();
        let recorded: Vec<_> = Records::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(events.len(), 1653);
        for (event, record) in events.iter().zip(&recorded) {
            assert_eq!(event.event.origin.as_ref().unwrap().time_ns, record.time_ns);
            assert_eq!(event.event.peer_observer_event.as_ref(), Some(&convert::event(&record.hit)));
        }
    }

    #[tokio::test]
    async fn capture_files_become_the_messages_that_the_tracepoints_saw() {
        let dir = tempfile::tempdir().unwrap();
        let unpacked = dir.path();
        let tar = recording::read_file(&data("regtest-tour/message_capture.tar.zst"), MAX_RECORDING).unwrap();
        std::fs::write(unpacked.join("captures.tar"), tar).unwrap();
        let status = std::process::Command::new("tar")
            .arg("-xf")
            .arg("captures.tar")
            .current_dir(unpacked)
            .status()
            .unwrap();
        assert!(status.success());

        let folder = unpacked.join("message_capture");
        let captured = played(Config { capturemessages: vec![folder], ..Config::default() }).await.unwrap();
        let traced =
            played(Config { recording: vec![data("regtest-tour/tracepoints.bin.zst")], ..Config::default() });
        assert_eq!(messages(&captured), messages(&traced.await.unwrap()));
    }

    /// What was told as lost, by cause; the rest are events that were played.
    fn told(deliveries: &[Delivery]) -> (Vec<(String, u64)>, usize) {
        let losses: Vec<_> = deliveries
            .iter()
            .filter_map(|d| match d.event.peer_observer_event.as_ref()? {
                PeerObserverEvent::Loss(loss) => {
                    assert_eq!((loss.stage(), loss.component.as_str()), (Stage::Decode, "capture"));
                    assert_eq!(d.event.origin.as_ref().unwrap().node, "capture");
                    Some((loss.cause.clone(), loss.count))
                }
                _ => None,
            })
            .collect();
        let events = deliveries.len() - losses.len();
        (losses, events)
    }

    #[tokio::test]
    async fn what_is_broken_in_a_recording_is_told_as_lost() {
        let whole = recording::read_file(&data("regtest-tour/tracepoints.bin.zst"), MAX_RECORDING).unwrap();
        let mut damaged = whole[..whole.len() - 1].to_vec();
        // The kind of the first record, behind its length and time.
        damaged[12] = 99;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracepoints.bin");
        std::fs::write(&path, damaged).unwrap();
        let (losses, events) =
            told(&played(Config { recording: vec![path], ..Config::default() }).await.unwrap());
        assert_eq!(losses, [("malformed".to_owned(), 1), ("truncated".to_owned(), 1)]);
        assert_eq!(events, 1653 - 2);
    }

    #[tokio::test]
    async fn what_is_broken_in_capture_files_is_told_as_lost() {
        let message = |msg_type: &[u8; 12], length: u32| {
            let time = 1_700_000_000_000_000_i64.to_le_bytes();
            [&time[..], msg_type, &length.to_le_bytes()].concat()
        };
        let good = message(b"verack\0\0\0\0\0\0", 0);
        let damaged = message(b"ver\0ack\0\0\0\0\0", 0);
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            ("127.0.0.1_1", [good.as_slice(), &damaged, &good].concat()),
            ("127.0.0.1_2", [good.as_slice(), &good[..good.len() - 1]].concat()),
            ("127.0.0.1_3", [good.as_slice(), &good].concat()),
        ];
        for (peer, bytes) in cases {
            std::fs::create_dir(folder.path().join(peer)).unwrap();
            std::fs::write(folder.path().join(peer).join(capture_file::RECEIVED), bytes).unwrap();
        }
        let config = Config { capturemessages: vec![folder.path().to_owned()], ..Config::default() };
        let (losses, events) = told(&played(config).await.unwrap());
        assert_eq!(losses, [("malformed".to_owned(), 1), ("truncated".to_owned(), 1)]);
        assert_eq!(events, 4);
    }

    #[tokio::test]
    async fn damaged_compression_ends_the_recording_with_an_error() {
        let whole = std::fs::read(data("regtest-tour/tracepoints.bin.zst")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracepoints.bin.zst");
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for (bytes, why) in
            [(&damaged[..], "checksum"), (&whole[..whole.len() / 2], "cannot read or decompress")]
        {
            std::fs::write(&path, bytes).unwrap();
            let error =
                played(Config { recording: vec![path.clone()], ..Config::default() }).await.unwrap_err();
            assert!(matches!(error, Error::Recording { .. }) && error.to_string().contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_played_is_an_error() {
        assert!(matches!(played(Config::default()).await, Err(Error::Nothing)));
        let missing = Config { recording: vec!["/nonexistent".into()], ..Config::default() };
        assert!(matches!(played(missing).await, Err(Error::Recording { .. })));
        let missing = Config { capturemessages: vec!["/nonexistent".into()], ..Config::default() };
        assert!(matches!(played(missing).await, Err(Error::Capture(capture_file::Error::Open { .. }))));
        // A file that is no recording, and a data directory instead of what is in it.
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let other = Config { recording: vec![source.join("Cargo.toml")], ..Config::default() };
        assert!(matches!(played(other).await, Err(Error::NoRecording { .. })));
        let other = Config { capturemessages: vec![source], ..Config::default() };
        let error = played(other).await.unwrap_err();
        assert!(error.to_string().contains("name the folder message_capture"), "{error}");
        let speed = Config { recording: vec!["/x".into()], speed: f64::NAN, ..Config::default() };
        assert!(matches!(played(speed).await, Err(Error::Speed(_))));
    }
}
