//! Where the bytes of a log come from.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use peer_observer_node::debug_log::{Break, Follower, Step};
use peer_observer_node::discover::FileId;

/// How long to wait before a file is looked at again.
const FILE_POLL: Duration = Duration::from_millis(200);
/// The same for a pipe, which holds 64 KiB only, and makes who writes to it wait when it is full.
const PIPE_POLL: Duration = Duration::from_millis(25);
/// Pieces of standard input that may wait to be taken.
const STDIN_PIECES: usize = 4;
/// Size of these, bytes at most.
const STDIN_PIECE: usize = 64 << 10;

/// What a step brought.
pub(super) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// What comes next does not continue what was before.
    Break(Break),
    /// Nothing will come any more.
    End,
}

/// Where the bytes come from.
pub(super) enum Source {
    File(Box<Follower>),
    Pipe(Pipe),
    Stdin(Stdin),
}

impl Source {
    /// Puts what is new into `buffer`. Waits for a moment at most.
    pub(super) fn step(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        match self {
            Source::File(follower) => Ok(match follower.step(buffer)? {
                Step::Read(n) => Got::Bytes(n),
                Step::Idle => Got::Nothing,
                Step::Break(why) => Got::Break(why),
            }),
            Source::Pipe(pipe) => pipe.step(buffer),
            Source::Stdin(stdin) => stdin.step(buffer),
        }
    }

    /// How long to wait when there was nothing.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Source::File(_) => FILE_POLL,
            Source::Pipe(_) => PIPE_POLL,
            // It has waited itself.
            Source::Stdin(_) => Duration::ZERO,
        }
    }

    /// There is no such file. A pipe says so itself.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Source::File(follower) if follower.is_missing())
    }

    /// It can be read again, so the place in it is worth keeping.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Source::File(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(follower) => follower.path().display().fmt(f),
            Source::Pipe(pipe) => pipe.path.display().fmt(f),
            Source::Stdin(_) => f.write_str("standard input"),
        }
    }
}

/// A named pipe. Who writes to it may come and go.
pub(super) struct Pipe {
    path: PathBuf,
    open: Option<(File, FileId)>,
    /// Something came since nobody wrote last, so a line may have begun.
    begun: bool,
    is_missed: bool,
}

impl Pipe {
    pub(super) fn new(path: &Path) -> Self {
        Pipe { path: path.to_path_buf(), open: None, begun: false, is_missed: false }
    }

    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        let Some((file, id)) = &mut self.open else { return self.find() };
        match file.read(buffer) {
            // Nobody has it open for writing.
            Ok(0) if self.begun => {
                self.begun = false;
                Ok(Got::Break(Break::Rotated))
            }
            Ok(0) => {
                if FileId::of(&self.path) != Some(*id) {
                    self.open = None;
                }
                Ok(Got::Nothing)
            }
            Ok(n) => {
                self.begun = true;
                Ok(Got::Bytes(n))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(Got::Nothing)
            }
            Err(error) => {
                self.open = None;
                Err(error)
            }
        }
    }

    fn find(&mut self) -> io::Result<Got> {
        match fs::metadata(&self.path) {
            Ok(meta) if !meta.file_type().is_fifo() => return Err(io::Error::other("not a named pipe")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.is_missed {
                    tracing::warn!(pipe = %self.path.display(), "the pipe is not there yet, waiting; make it with mkfifo");
                    self.is_missed = true;
                }
                return Ok(Got::Nothing);
            }
            Err(error) => return Err(error),
        }
        // Opening would wait for somebody who writes otherwise.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        self.is_missed = false;
        if let Some(id) = FileId::of(&self.path) {
            self.open = Some((file, id));
        }
        Ok(Got::Nothing)
    }
}

/// Standard input, or what is read like it. A thread of its own waits for it, as it cannot be told to stop.
pub(super) struct Stdin {
    pieces: Receiver<io::Result<Vec<u8>>>,
}

impl Stdin {
    pub(super) fn start(mut input: impl Read + Send + 'static) -> io::Result<Self> {
        let (give, pieces) = sync_channel(STDIN_PIECES);
        thread::Builder::new().name("log-stdin".into()).spawn(move || {
            loop {
                let mut piece = vec![0; STDIN_PIECE];
                let read = match input.read(&mut piece) {
                    Ok(0) => return,
                    Ok(n) => {
                        piece.truncate(n);
                        Ok(piece)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let is_over = read.is_err();
                if give.send(read).is_err() || is_over {
                    return;
                }
            }
        })?;
        Ok(Stdin { pieces })
    }

    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        debug_assert!(buffer.len() >= STDIN_PIECE);
        match self.pieces.recv_timeout(PIPE_POLL) {
            Ok(piece) => {
                let piece = piece?;
                buffer[..piece.len()].copy_from_slice(&piece);
                Ok(Got::Bytes(piece.len()))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Got::Nothing),
            Err(RecvTimeoutError::Disconnected) => Ok(Got::End),
        }
    }
}
