//! The place in a log, kept in a small file over our restart. It is written anew and moved into place, so it is never half.

use std::collections::VecDeque;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use peer_observer_node::debug_log::Position;
use serde::{Deserialize, Serialize};

/// More than this is no state of ours, bytes.
const MAX_STATE: u64 = 64 << 10;

/// What is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The log that it is about.
    log: PathBuf,
    /// Where its next line begins, bytes.
    offset: u64,
    /// How the file begins.
    head: Vec<u8>,
    /// What stands in front of the place.
    tail: Vec<u8>,
    /// When the file was made, if it was still empty.
    empty_since: Option<SystemTime>,
}

/// Places that wait, at most; a server can be away for days.
const MAX_WAITING: usize = 64;

/// Places in a log whose lines may still wait for the server: kept before, they would be lost with this process.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many events the bus had taken at each, and the place.
    places: VecDeque<(u64, Position)>,
}

impl Waiting {
    /// Adds a place, behind lines that are among the first `taken` events of the bus.
    pub(super) fn add(&mut self, position: Position, taken: u64) {
        if self.places.back().is_some_and(|(_, last)| *last == position) {
            return;
        }
        if self.places.len() == MAX_WAITING {
            // Any later place will do instead.
            self.places.pop_back();
        }
        self.places.push_back((taken, position));
    }

    /// The last place whose lines are among the first `handed_on` events.
    pub(super) fn until(&mut self, handed_on: u64) -> Option<Position> {
        let done = self.places.partition_point(|(taken, _)| *taken <= handed_on);
        self.places.drain(..done).next_back().map(|(_, position)| position)
    }
}

/// The file that keeps the place.
pub(super) struct State {
    file: PathBuf,
    log: PathBuf,
    kept: Option<Position>,
    is_failing: bool,
}

impl State {
    /// Opens the state of `log`, in the file that was asked for or else in the usual place. Nothing when it cannot be written,
    /// which is said.
    pub(super) fn open(asked_for: Option<&Path>, log: &Path) -> Option<Self> {
        let file = match State::check(asked_for, log) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(
                    log = %log.display(), error,
                    "the place in the log is not kept over restarts; name a folder that can be written, with $STATE_DIRECTORY, or for `extract log` a file, with --log-state"
                );
                return None;
            }
        };
        Some(State::read(file, log))
    }

    /// What was kept of `log` in this file.
    pub(super) fn read(file: PathBuf, log: &Path) -> Self {
        let log = std::path::absolute(log).unwrap_or_else(|_| log.to_path_buf());
        let kept = match read(&file) {
            Ok(kept) if kept.log == log => {
                let Kept { offset, head, tail, empty_since, .. } = kept;
                Some(Position { offset, head, tail, empty_since })
            }
            Ok(kept) => {
                tracing::warn!(state = %file.display(), of = %kept.log.display(), "the place kept here is of another log");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(state = %file.display(), %error, "cannot read the place in the log, beginning at its end");
                None
            }
        };
        State { file, log, kept, is_failing: false }
    }

    /// The file for the state of `log`, if it can be written. Makes the folder.
    pub(super) fn check(asked_for: Option<&Path>, log: &Path) -> Result<PathBuf, String> {
        let file = match asked_for {
            Some(file) => file.to_path_buf(),
            None => default_file(log)?,
        };
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let result = fs::create_dir_all(folder).and_then(|()| {
            // A name of its own: an extractor that runs may be writing its new state.
            let probe = beside(&file, &format!("probe-{}", std::process::id()));
            File::create(&probe).and_then(|_| fs::remove_file(&probe))
        });
        match result {
            Ok(()) => Ok(file),
            Err(error) => Err(format!("cannot write {}: {error}", file.display())),
        }
    }

    /// The place that was kept.
    pub(super) fn position(&self) -> Option<Position> {
        self.kept.clone()
    }

    /// Keeps this place.
    pub(super) fn keep(&mut self, position: Position) {
        if self.kept.as_ref() == Some(&position) {
            return;
        }
        match self.write(&position) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !self.is_failing {
                    tracing::warn!(state = %self.file.display(), %error, "cannot keep the place in the log");
                }
                self.is_failing = true;
            }
        }
        self.kept = Some(position);
    }

    fn write(&self, position: &Position) -> io::Result<()> {
        let kept = Kept {
            log: self.log.clone(),
            offset: position.offset,
            head: position.head.clone(),
            tail: position.tail.clone(),
            empty_since: position.empty_since,
        };
        let new = beside(&self.file, "new");
        // Some of the log is in it, which not everybody may read.
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        drop(file);
        fs::rename(new, &self.file)
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_STATE).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A file beside the state, with its name and more.
fn beside(file: &Path, what: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// A file of its own for every log: `log-%var%lib%bitcoind%debug.log.json`.
fn default_file(log: &Path) -> Result<PathBuf, String> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = match set("STATE_DIRECTORY") {
        // systemd gives it to services with StateDirectory=.
        Some(folder) => folder,
        None => set("XDG_STATE_HOME")
            .or_else(|| Some(set("HOME")?.join(".local/state")))
            .map(|folder| folder.join("peer-observer"))
            .ok_or("there is no $STATE_DIRECTORY, $XDG_STATE_HOME or $HOME")?,
    };
    let log = std::path::absolute(log).map_err(|error| error.to_string())?;
    let log = log.to_str().ok_or("the log's path is not UTF-8")?.replace('/', "%");
    Ok(folder.join(format!("log-{log}.json")))
}
