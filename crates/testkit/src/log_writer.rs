//! Writes a debug.log as a node does, with what happens to it meanwhile: recorded logs at any pace, and rotation.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use peer_observer_node::recording;

use crate::{MAX_RECORDING, data_dir};

/// A recorded log, uncompressed: `regtest-tour/debug.log.zst`.
pub fn recorded_log(name: &str) -> Result<Vec<u8>, recording::Error> {
    recording::read_file(&data_dir().join(name), MAX_RECORDING)
}

/// How a log is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The file gets another name, and the node opens a new one, as on SIGHUP.
    Rename,
    /// The file is copied, then truncated (logrotate's `copytruncate`).
    CopyTruncate,
}

/// How a log is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Play {
    /// Lines that are written at once; at least 1.
    pub lines_at_once: usize,
    /// Pause between these.
    pub pause: Duration,
    /// Rotate after so many of these, and how.
    pub rotate: Option<(usize, Rotation)>,
}

/// A log and who writes it. The file is not removed when this is dropped.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    rotations: u32,
}

impl LogWriter {
    /// Opens a log, which need not be there yet, to write at its end.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = append_to(&path)?;
        Ok(LogWriter { path, file, rotations: 0 })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes these bytes at once.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Rotates the log: `debug.log.1` is the first file that was put away, `debug.log.2` the next.
    pub fn rotate(&mut self, how: Rotation) -> io::Result<()> {
        self.rotations += 1;
        let mut away = self.path.clone().into_os_string();
        away.push(format!(".{}", self.rotations));
        match how {
            Rotation::Rename => {
                fs::rename(&self.path, away)?;
                self.file = append_to(&self.path)?;
            }
            Rotation::CopyTruncate => {
                fs::copy(&self.path, away)?;
                self.file.set_len(0)?;
            }
        }
        Ok(())
    }

    /// Writes a log, line by line.
    pub fn play(&mut self, log: &[u8], play: Play) -> io::Result<()> {
        let lines: Vec<&[u8]> = log.split_inclusive(|b| *b == b'\n').collect();
        for (i, lines) in lines.chunks(play.lines_at_once.max(1)).enumerate() {
            if let Some((every, how)) = play.rotate
                && i > 0
                && i % every.max(1) == 0
            {
                self.rotate(how)?;
            }
            self.write(&lines.concat())?;
            thread::sleep(play.pause);
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_played_is_all_there_after_any_rotation() {
        let log = recorded_log("regtest-tour/debug.log.zst").unwrap();
        for how in [Rotation::Rename, Rotation::CopyTruncate] {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = LogWriter::open(folder.path().join("debug.log")).unwrap();
            let play = Play { lines_at_once: 100, pause: Duration::ZERO, rotate: Some((30, how)) };
            writer.play(&log, play).unwrap();
            let mut all = Vec::new();
            for i in 1..=writer.rotations {
                all.extend(fs::read(folder.path().join(format!("debug.log.{i}"))).unwrap());
            }
            all.extend(fs::read(writer.path()).unwrap());
            assert_eq!(writer.rotations, 2);
            assert!(all == log, "{how:?}");
        }
    }
}
