//! Every line of a node's debug.log as an event, and as more than text where it means something to us.
//!
//! The log says what tracepoints do not: why a connection was closed, that a download stalls, how long the cache takes, with
//! which options the node runs. It is read from the file itself, so the node needs no setting and loses nothing when
//! nobody reads; a named pipe or standard input do as well.
//!
//! | file | what it is for |
//! |---|---|
//! | source.rs | where bytes come from: a file that is followed, a named pipe, standard input |
//! | convert.rs | a line as an event |
//! | state.rs | the place in the log, kept over our restart |

mod convert;
mod source;
mod state;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use peer_observer_bus::loss::{LossBook, What};
use peer_observer_bus::{Finding, Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::log::log_detail::Kind;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_node::access;
use peer_observer_node::debug_log::{Begin, Break, Follower, Lines, Parser, RawLine};
use peer_observer_node::names::{BadName, check_name};
use peer_observer_node::windows::LogWindow;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use convert::log;
use source::{Got, Pipe, Source, Stdin};
use state::{State, Waiting};

/// Longer lines are cut, bytes. The longest that Bitcoin Core writes, a transaction in hex, has 8 MB.
const MAX_LINE: usize = 10_000_000;
/// What is read at once, bytes.
const CHUNK: usize = 64 << 10;
/// How long to wait between two chunks while there is more: 16 MB/s at most, so that the queues of tools can follow.
const PACE: Duration = Duration::from_millis(4);
/// How often to tell losses, and to keep the place while there is no end of new lines.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long to wait at the end until the bus has handed on what was read. A server that is away takes longer, and what it did
/// not get is read again after a restart.
const HAND_ON: Duration = Duration::from_millis(500);
/// How long a wait may last without looking whether to stop.
const STOP_LATENCY: Duration = Duration::from_millis(50);

/// Settings of the log extractor.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Log extractor")]
pub struct Config {
    /// Follow this debug.log, also through rotation and when it appears later; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "bitcoind_pipe")]
    pub log_file: Option<PathBuf>,
    /// Read a named pipe instead that something writes lines of debug.log to
    #[arg(short = 'b', long, value_name = "FIFO")]
    pub bitcoind_pipe: Option<PathBuf>,
    /// Name of the node
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub log_node: String,
    /// Keep the place in the file here; default: a file for each log in $STATE_DIRECTORY, $XDG_STATE_HOME/peer-observer or
    /// ~/.local/state/peer-observer
    #[arg(long, value_name = "FILE")]
    pub log_state: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Config { log_file: None, bitcoind_pipe: None, log_node: "node".into(), log_state: None }
    }
}

/// What ends the extractor before it is told to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be one.
    #[error("--log-node: {0}")]
    Name(BadName),
    /// No log was named.
    #[error("name a log, with --log-file FILE or --bitcoind-pipe FIFO")]
    Nothing,
    /// Two logs were named.
    #[error("both log_file and bitcoind_pipe are set: name only one log")]
    Both,
    /// What was named as a file is a pipe or a folder.
    #[error("cannot follow --log-file {0}: it is not a regular file; a named pipe goes with --bitcoind-pipe")]
    NotAFile(PathBuf),
    /// What was named as a pipe is none.
    #[error("cannot read --bitcoind-pipe {0}: it is not a named pipe; a file goes with --log-file")]
    NotAPipe(PathBuf),
    /// Standard input cannot be read.
    #[error("cannot read the log from standard input: {0}")]
    Stdin(io::Error),
    /// There is no thread to be had.
    #[error("cannot start a thread for the log: {0}")]
    Thread(io::Error),
    /// A thread ended in a way it never should.
    #[error("the log extractor crashed: please report this")]
    Crashed,
}

/// Which log the settings name.
enum Named<'a> {
    File(&'a Path),
    Pipe(&'a Path),
    Stdin,
}

impl Config {
    /// Refuses settings that cannot work. That no log is named is for who asks for one.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        check_name(&self.log_node).map_err(Error::Name)?;
        match self.named() {
            Ok(_) | Err(Error::Nothing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn named(&self) -> Result<Named<'_>, Error> {
        match (&self.log_file, &self.bitcoind_pipe) {
            (None, None) => Err(Error::Nothing),
            (Some(_), Some(_)) => Err(Error::Both),
            (Some(file), None) if file.as_os_str() == "-" => Ok(Named::Stdin),
            (Some(file), None) => match fs::metadata(file) {
                Ok(meta) if !meta.is_file() => Err(Error::NotAFile(file.clone())),
                _ => Ok(Named::File(file)),
            },
            (None, Some(pipe)) => match fs::metadata(pipe) {
                Ok(meta) if !meta.file_type().is_fifo() => Err(Error::NotAPipe(pipe.clone())),
                _ => Ok(Named::Pipe(pipe)),
            },
        }
    }
}

/// What is wrong with the settings, for `doctor`. Nothing when no log is named.
pub fn check(config: &Config) -> Vec<Finding> {
    let path = match config.validate().and_then(|()| config.named()) {
        Err(Error::Nothing) => return Vec::new(),
        Err(error) => return vec![Finding::bad(error.to_string(), "correct the settings")],
        Ok(Named::Stdin) => return vec![Finding::good("the log comes from standard input")],
        Ok(Named::File(path) | Named::Pipe(path)) => path,
    };
    let shown = path.display();
    if !path.exists() {
        let fix = "start the node, or name the right file; it is waited for";
        return vec![Finding::bad(format!("{shown} is not there yet"), fix)];
    }
    // To open a pipe would disturb who writes to it.
    let opened = if path.is_file() { fs::File::open(path).map(|_| ()) } else { Ok(()) };
    let mut findings = vec![readable(path, opened)];
    if path.is_file() {
        findings.push(match State::check(config.log_state.as_deref(), path) {
            Ok(file) => Finding::good(format!("the place in the log is kept in {}", file.display())),
            Err(error) => Finding::bad(
                format!("the place in the log is not kept over restarts: {error}"),
                "name a file that can be written, with --log-state FILE",
            ),
        });
    }
    findings
}

/// Publishes every line that is written from now on, or since the place that was kept, until `stop` or the end of
/// standard input.
///
/// # Errors
/// When the settings cannot work. A log that is not there, or cannot be read, is waited for.
pub async fn run(config: Config, publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    let mut state = None;
    let source = match config.named()? {
        Named::Stdin => Source::Stdin(Stdin::start(io::stdin()).map_err(Error::Stdin)?),
        Named::Pipe(path) => Source::Pipe(Pipe::new(path)),
        Named::File(path) => {
            state = State::open(config.log_state.as_deref(), path);
            let position = state.as_ref().and_then(State::position);
            Source::File(Box::new(Follower::new(path, position, Begin::End)))
        }
    };
    work(config.log_node.as_str().into(), source, state, publisher, stop).await
}

/// [`run`] for the log of a node that was found. Its place is kept in a file of its own, in the usual folder.
///
/// # Errors
/// When it crashes. A log that is not there, or cannot be read, is waited for.
pub async fn run_found(
    found: LogWindow,
    node: Arc<str>,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let state = State::open(None, &found.known_as);
    let position = state.as_ref().and_then(State::position);
    let follower = Follower::new(found.path, position, Begin::End).with_access(found.access);
    work(node, Source::File(Box::new(follower)), state, publisher, stop).await
}

/// Whether the log of a node that was found can be read, for `doctor`.
pub fn check_found(found: &LogWindow) -> Finding {
    readable(&found.path, found.access.open(&found.path).map(|_| ()))
}

/// What is said of a log that was tried to be opened.
fn readable(path: &Path, opened: io::Result<()>) -> Finding {
    let shown = path.display();
    let error = match opened {
        Ok(()) => return Finding::good(format!("{shown} can be read")),
        Err(error) => error,
    };
    let fix = match error.kind() {
        io::ErrorKind::NotFound => {
            "the node writes it when it starts, unless its debuglogfile was changed since; it is waited for"
        }
        _ if access::is_denied_to_node(&error) => {
            "let the node's user read it: what that user may not read is not read for the node"
        }
        io::ErrorKind::PermissionDenied => {
            "let the user that runs peer-observer read it, for example as a member of the node's group"
        }
        _ => "let debuglogfile name a regular file",
    };
    Finding::bad(format!("cannot read {shown}: {error}"), fix)
}

async fn work(
    node: Arc<str>,
    source: Source,
    state: Option<State>,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let worker = Worker::new(node, source, state, publisher);
    let (done, finished) = oneshot::channel();
    // Reading a file can take its time, and belongs on no thread of the runtime. Nor on one of those that the runtime has for
    // such work: whoever starts processes chooses how many logs there are, and pages are rendered there.
    let thread = thread::Builder::new().name("log".into()).spawn(move || {
        worker.run(&stop);
        let _ = done.send(());
    });
    thread.map_err(Error::Thread)?;
    finished.await.map_err(|_| Error::Crashed)
}

/// What became of the lines, for the log of our own.
#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    cut: u64,
    bytes_cut: u64,
    not_utf8: u64,
    nul_bytes: u64,
    gaps: u64,
}

/// Makes events of lines.
struct Reporter {
    node: Arc<str>,
    publisher: Publisher,
    parser: Parser,
    counts: Counts,
    losses: LossBook,
    /// Time of the last line that had one, ns since the UNIX epoch.
    last_ns: Option<u64>,
}

/// Moves a log to the bus.
struct Worker {
    source: Source,
    lines: Lines,
    state: Option<State>,
    /// Places whose lines may still be with the bus.
    waiting: Waiting,
    reporter: Reporter,
    /// Why the source could not be read last, so that it is said once.
    trouble: Option<String>,
}

impl Worker {
    fn new(node: Arc<str>, source: Source, state: Option<State>, publisher: Publisher) -> Self {
        let losses = LossBook::new(publisher.component());
        let reporter = Reporter {
            node,
            publisher,
            parser: Parser::default(),
            counts: Counts::default(),
            losses,
            last_ns: None,
        };
        let waiting = Waiting::default();
        Worker { source, lines: Lines::new(MAX_LINE), state, waiting, reporter, trouble: None }
    }

    fn run(mut self, stop: &CancellationToken) {
        let mut buffer = vec![0; CHUNK];
        let mut keep_at = Instant::now() + KEEP_EVERY;
        let mut is_known = false;
        while !stop.is_cancelled() {
            match self.source.step(&mut buffer) {
                Ok(Got::Bytes(n)) => {
                    self.trouble = None;
                    is_known = true;
                    self.take(&buffer[..n]);
                    if n == CHUNK {
                        thread::sleep(PACE);
                    }
                    if Instant::now() < keep_at {
                        continue;
                    }
                }
                Ok(Got::Break(why)) => self.begin_anew(why),
                Ok(Got::End) => break,
                Ok(Got::Nothing) => {
                    if !is_known && self.source.is_missing() {
                        tracing::warn!(log = %self.source, "the log is not there yet, waiting for it");
                        is_known = true;
                    }
                    wait(self.source.patience(), stop);
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.trouble.as_ref() != Some(&error) {
                        tracing::warn!(source = %self.source, error, "cannot read the log, trying again");
                        self.trouble = Some(error);
                    }
                    wait(KEEP_EVERY, stop);
                }
            }
            if Instant::now() >= keep_at || self.source.is_file() {
                self.keep();
                keep_at = Instant::now() + KEEP_EVERY;
            }
        }
        if !self.source.is_file() {
            // Nobody could read it again.
            self.finish_line();
        }
        self.keep();
        self.hand_on();
        let Counts { lines, cut, not_utf8, gaps, .. } = self.reporter.counts;
        tracing::info!(source = %self.source, lines, cut, not_utf8, gaps, "done with the log");
    }

    fn take(&mut self, bytes: &[u8]) {
        let reporter = &mut self.reporter;
        self.lines.push(bytes, |line| reporter.report(line));
    }

    fn finish_line(&mut self) {
        let reporter = &mut self.reporter;
        self.lines.finish(|line| reporter.report(line));
    }

    fn begin_anew(&mut self, why: Break) {
        self.finish_line();
        match why {
            Break::Rotated => tracing::info!(source = %self.source, "the log begins anew"),
            Break::Gap => {
                tracing::warn!(source = %self.source, "the log was cut or replaced, lines may be missing");
                self.reporter.counts.gaps += 1;
                self.reporter.lost(Stage::Probe, "gap");
            }
        }
    }

    /// Waits until the bus has handed on what was read, so that it is not read again.
    fn hand_on(&mut self) {
        let until = Instant::now() + HAND_ON;
        while self.state.is_some() && self.reporter.publisher.progress().left() > 0 && Instant::now() < until
        {
            thread::sleep(HAND_ON / 50);
        }
        self.keep();
    }

    /// Tells losses, and keeps the place behind the last line that the bus has handed on.
    fn keep(&mut self) {
        for (node, event) in self.reporter.losses.take() {
            self.reporter.publisher.publish(&node, now_ns(), event);
        }
        let (Some(state), Source::File(follower)) = (&mut self.state, &self.source) else { return };
        let progress = self.reporter.publisher.progress();
        if let Some(position) = follower.position(self.lines.pending()) {
            self.waiting.add(position, progress.taken);
        }
        if let Some(position) = self.waiting.until(progress.handed_on) {
            state.keep(position);
        }
    }
}

impl Reporter {
    fn report(&mut self, raw: RawLine<'_>) {
        self.counts.lines += 1;
        if raw.nuls > 0 {
            self.counts.nul_bytes += raw.nuls;
            self.lost(Stage::Decode, "nul_bytes");
        }
        let text = String::from_utf8_lossy(raw.bytes);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            self.counts.not_utf8 += 1;
            self.lost(Stage::Decode, "not_utf8");
        }
        if raw.cut > 0 {
            self.counts.cut += 1;
            self.counts.bytes_cut += raw.cut;
            self.lost(Stage::Decode, "cut");
        }
        let line = self.parser.parse(&text);
        if let Some(time_us) = line.time_us {
            self.last_ns = Some(time_us.saturating_mul(1000));
        }
        // A line that continues another belongs to its time.
        let time_ns = self.last_ns.unwrap_or_else(now_ns);
        let event = convert::log(&line, raw.length());
        if let Some(Kind::NodeStarted(started)) =
            event.detail.as_ref().and_then(|detail| detail.kind.as_ref())
        {
            tracing::info!(node = %self.node, version = started.version, "the node has started");
        }
        self.publisher.publish(&self.node, time_ns, PeerObserverEvent::LogExtractor(event));
    }

    fn lost(&mut self, stage: Stage, cause: &'static str) {
        let what =
            What { stage, cause, node: self.node.clone(), subject: None, tracepoint: None, session: None };
        self.losses.add(what, 1, None, now_ns());
    }
}

/// Waits, but not longer than until `stop`.
fn wait(time: Duration, stop: &CancellationToken) {
    let until = Instant::now() + time;
    while !stop.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(STOP_LATENCY));
    }
}
