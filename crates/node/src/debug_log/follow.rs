//! Follows a log file while the node writes it, through rotation by renaming, by copying and truncating, the node's own
//! shrinking at its start (Bitcoin Core src/logging.cpp `ShrinkDebugFile`), and through our own restarts.
//!
//! Inodes are used again and names move, so a place in a log is known by content: how the file begins, and what was read last.
//! When the file is no longer the one that was read, the place is looked for in the files beside it, and in what is left of
//! the file itself. Only what is found in neither is missing, and that is told. Of an empty file, which has no content to know it by,
//! it is known when it was made: what was written later goes on there.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memchr::memmem;

use crate::access::{self, Access};
use crate::process::FileId;
use crate::regular;

/// How much of a file's beginning tells it from others, bytes. Bitcoin Core's first lines have the time of its start.
const HEAD: usize = 256;
/// How much of what was read last tells the place, bytes: some lines.
const TAIL: usize = 512;
/// Bitcoin Core keeps 10 MB when it shrinks its log: the place is not looked for behind this, bytes.
const SEARCH: u64 = 16 << 20;
/// A file that was truncated may be about to be written again (shrinking); it is looked at again so often before the
/// place is given up.
const LOOKS: u32 = 5;
/// Rotated files that are looked at, at most.
const MAX_ROTATED: usize = 1000;
/// Entries of a folder that are looked at, at most: whoever owns the folder of a log chooses how many there are.
const MAX_ENTRIES: usize = 10_000;

/// A place in a log, which survives its rotation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Where in the file the next line begins, bytes.
    pub offset: u64,
    /// How the file begins.
    pub head: Vec<u8>,
    /// What stands in front of the place.
    pub tail: Vec<u8>,
    /// When a file was made, or cut, that was still empty; nothing for any other.
    pub empty_since: Option<SystemTime>,
}

/// Where to begin when no place is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the first line of the file.
    Start,
    /// At the first line that is written from now on. A file that appears later is read from its first line.
    End,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It read so many bytes; none when it has opened a file. There may be more.
    Read(usize),
    /// There is nothing new.
    Idle,
    /// What is read from now on does not continue what was read before.
    Break(Break),
}

/// Why what follows does not continue what was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The file was rotated and read to its end; the next one begins.
    Rotated,
    /// The place is lost: lines between the last one read and the next may be missing.
    Gap,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: FileId,
    offset: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// When it was made, if it was empty then.
    empty_since: Option<SystemTime>,
    /// The next file was seen to have something in it, so this one is complete.
    complete: bool,
}

/// Where the next file and the place in it come from.
#[derive(Debug)]
enum Next {
    /// There was none yet.
    First(Begin),
    /// Here, and how often it was looked for in vain and how large the file was then.
    At { position: Position, looks: u32, size: u64 },
    /// The next one, from its beginning.
    Whole,
}

/// Follows a file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    open: Option<Open>,
    next: Next,
    /// Rotated files to read before the one at `path`.
    rotated: Vec<PathBuf>,
    /// Who may read it; nothing when that is whoever runs this.
    access: Option<Access>,
}

impl Follower {
    /// Follows the file at `path`, which need not be there yet, from `position` on if it is known.
    pub fn new(path: impl Into<PathBuf>, position: Option<Position>, begin: Begin) -> Self {
        let next = match position {
            Some(position) => Next::At { position, looks: 0, size: 0 },
            None => Next::First(begin),
        };
        Follower { path: path.into(), open: None, next, rotated: Vec::new(), access: None }
    }

    /// Reads only what `access` may.
    pub fn with_access(self, access: Access) -> Self {
        Follower { access: Some(access), ..self }
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// There is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(open_if_there(&self.path, self.access.as_ref()), Ok(None))
    }

    /// The place behind what was read but for the last `pending` bytes. Nothing as long as nothing was found to read.
    pub fn position(&self, pending: u64) -> Option<Position> {
        let mut position = match (&self.open, &self.next) {
            (Some(open), _) => open.position(),
            (None, Next::At { position, .. }) => position.clone(),
            (None, Next::First(_) | Next::Whole) => return None,
        };
        position.offset = position.offset.saturating_sub(pending);
        position.tail.truncate((position.tail.len() as u64).saturating_sub(pending) as usize);
        Some(position)
    }

    /// Reads what is new into `buffer`, or finds out where to go on. Does not wait.
    ///
    /// # Errors
    /// When a file cannot be opened or read. It can be tried again.
    pub fn step(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        loop {
            let Some(open) = &mut self.open else { return self.find() };
            if !open.is_as_it_was()? {
                let position = self.position(0).unwrap_or_default();
                self.open = None;
                self.next = Next::At { position, looks: 0, size: 0 };
                continue;
            }
            let read = open.read(buffer)?;
            if read > 0 {
                return Ok(Step::Read(read));
            }
            if open.complete {
                if self.rotated.is_empty() {
                    // The file may have been rotated more than once since it was looked at. One that is compressed now is no
                    // gap: there was no time to write, rotate and compress another.
                    let access = self.access.as_ref();
                    let rotated = rotated(&self.path, access);
                    let is_this = |path: &Path| id_of(path, access) == Some(open.id);
                    if let Some(at) = rotated.iter().position(|(_, path)| is_this(path)) {
                        let after = &rotated[at + 1..];
                        (self.rotated, _) =
                            newer(&self.path, after, Some(&rotated[at].1), &open.head, access);
                    }
                }
                self.open = None;
                self.next = Next::Whole;
                return Ok(Step::Break(Break::Rotated));
            }
            let access = self.access.as_ref();
            let is_over = !self.rotated.is_empty()
                || (id_of(&self.path, access).is_some_and(|next| next != open.id)
                    && open_if_there(&self.path, access)
                        .is_ok_and(|next| next.is_some_and(|(_, meta)| meta.len() > 0)));
            if !is_over {
                return Ok(Step::Idle);
            }
            // The node wrote to the next file, so it has closed this one; but maybe after we read.
            open.complete = true;
        }
    }

    /// Opens the file to go on with, at the right place.
    fn find(&mut self) -> io::Result<Step> {
        let access = self.access.as_ref();
        match &mut self.next {
            Next::First(begin) => {
                let begin = *begin;
                let Some((file, meta)) = open_if_there(&self.path, access)? else {
                    self.next = Next::Whole;
                    return Ok(Step::Idle);
                };
                let offset = match begin {
                    Begin::Start => 0,
                    Begin::End => last_line_end(&file, meta.len())?,
                };
                self.open = Some(Open::at(file, &meta, offset)?);
                Ok(Step::Read(0))
            }
            Next::Whole => {
                if !self.rotated.is_empty() {
                    let path = self.rotated.remove(0);
                    let Ok(Some((file, meta))) = open_if_there(&path, access) else {
                        return Ok(Step::Break(Break::Gap));
                    };
                    self.open = Some(Open::at(file, &meta, 0)?);
                    return Ok(Step::Read(0));
                }
                let Some((file, meta)) = open_if_there(&self.path, access)? else { return Ok(Step::Idle) };
                self.open = Some(Open::at(file, &meta, 0)?);
                Ok(Step::Read(0))
            }
            Next::At { position, looks, size } => {
                let found = locate(&self.path, position, access)?;
                if let Some(found) = found {
                    self.open = Some(found.open);
                    self.rotated = found.newer;
                    return Ok(if found.gap { Step::Break(Break::Gap) } else { Step::Read(0) });
                }
                // Its volume may not be mounted yet, or the node not started.
                let Ok(Some((_, meta))) = open_if_there(&self.path, access) else { return Ok(Step::Idle) };
                let now = meta.len();
                let settled = *looks > 0 && now == *size && now > 0;
                *size = now;
                *looks += 1;
                if !settled && *looks < LOOKS {
                    return Ok(Step::Idle);
                }
                self.next = Next::Whole;
                Ok(Step::Break(Break::Gap))
            }
        }
    }
}

impl Open {
    fn at(file: File, meta: &Metadata, offset: u64) -> io::Result<Self> {
        let head = read_range(&file, 0, HEAD)?;
        let kept = offset.min(TAIL as u64);
        let tail = read_range(&file, offset - kept, kept as usize)?;
        let empty_since = meta.modified().ok().filter(|_| head.is_empty());
        Ok(Open { file, id: file_id(meta), offset, head, tail, empty_since, complete: false })
    }

    fn position(&self) -> Position {
        let (head, tail) = (self.head.clone(), self.tail.clone());
        let empty_since = self.empty_since.filter(|_| head.is_empty());
        Position { offset: self.offset, head, tail, empty_since }
    }

    /// The file still has what was read, as far as its size and its beginning tell.
    fn is_as_it_was(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        let head = read_range(&self.file, 0, HEAD)?;
        if !head.starts_with(&self.head) {
            return Ok(false);
        }
        if head.len() > self.head.len() {
            self.head = head;
        }
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        let new = &buffer[..read];
        if new.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&new[new.len() - TAIL..]);
        } else {
            let too_much = (self.tail.len() + new.len()).saturating_sub(TAIL);
            self.tail.drain(..too_much);
            self.tail.extend_from_slice(new);
        }
        Ok(read)
    }
}

struct Found {
    open: Open,
    /// Files that were written after this one, the oldest first.
    newer: Vec<PathBuf>,
    /// Some of these cannot be read.
    gap: bool,
}

/// Looks for the place in the file, in the rotated ones beside it, and in what is left of the file.
fn locate(path: &Path, position: &Position, access: Option<&Access>) -> io::Result<Option<Found>> {
    let current = open_if_there(path, access)?;
    if position.head.is_empty() && position.tail.is_empty() {
        return since_empty(path, current, position, access);
    }
    if let Some((file, meta)) = &current
        && holds(file, meta, position)?
    {
        let open = Open::at(file.try_clone()?, meta, position.offset)?;
        return Ok(Some(Found { open, newer: Vec::new(), gap: false }));
    }
    let rotated = rotated(path, access);
    for (at, (_, part)) in rotated.iter().enumerate() {
        // One that is gone or may not be read is no better than one that is not the right one.
        let Ok(Some((file, meta))) = open_if_there(part, access) else { continue };
        if !holds(&file, &meta, position).unwrap_or(false) {
            continue;
        }
        let (newer, gap) = newer(path, &rotated[at + 1..], Some(part), &position.head, access);
        return Ok(Some(Found { open: Open::at(file, &meta, position.offset)?, newer, gap }));
    }
    let Some((file, meta)) = current else { return Ok(None) };
    let Some(offset) = find_in(&file, &position.tail)? else { return Ok(None) };
    Ok(Some(Found { open: Open::at(file, &meta, offset)?, newer: Vec::new(), gap: false }))
}

/// Looks for what was written since the file was seen empty: it may have been rotated, more than once.
fn since_empty(
    path: &Path,
    current: Option<(File, Metadata)>,
    position: &Position,
    access: Option<&Access>,
) -> io::Result<Option<Found>> {
    let Some(since) = position.empty_since else { return Ok(None) };
    let rotated = rotated(path, access);
    let at = rotated.partition_point(|(written, _)| *written <= since);
    let (mut parts, mut gap) = newer(path, &rotated[at..], None, &[], access);
    while !parts.is_empty() {
        let part = parts.remove(0);
        if let Ok(Some((file, meta))) = open_if_there(&part, access) {
            return Ok(Some(Found { open: Open::at(file, &meta, 0)?, newer: parts, gap }));
        }
        gap = true;
    }
    let Some((file, meta)) = current else { return Ok(None) };
    Ok(Some(Found { open: Open::at(file, &meta, 0)?, newer: parts, gap }))
}

/// The file has this place at its offset.
fn holds(file: &File, meta: &Metadata, position: &Position) -> io::Result<bool> {
    if meta.len() < position.offset {
        return Ok(false);
    }
    let tail_at = position.offset.saturating_sub(position.tail.len() as u64);
    Ok(read_range(file, 0, position.head.len())? == position.head
        && read_range(file, tail_at, position.tail.len())? == position.tail)
}

/// Where in the file these bytes end, the last time they occur.
fn find_in(file: &File, tail: &[u8]) -> io::Result<Option<u64>> {
    const CHUNK: usize = 256 << 10;
    if tail.is_empty() {
        return Ok(None);
    }
    let mut found = None;
    let mut at = 0;
    while at < SEARCH {
        // Chunks overlap, so that nothing is cut in two.
        let chunk = read_range(file, at, CHUNK + tail.len())?;
        found = memmem::find_iter(&chunk, tail).last().map(|i| at + (i + tail.len()) as u64).or(found);
        if chunk.len() < CHUNK + tail.len() {
            break;
        }
        at += CHUNK as u64;
    }
    Ok(found)
}

/// Files beside `path` whose names begin like it (`debug.log.1`), the one that was written last at the end.
fn rotated(path: &Path, access: Option<&Access>) -> Vec<(SystemTime, PathBuf)> {
    let (Some(name), Some(folder)) = (path.file_name().map(OsStr::as_encoded_bytes), path.parent()) else {
        return Vec::new();
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = match access {
        Some(access) => access.list(folder, MAX_ENTRIES),
        None => access::list_own(folder, MAX_ENTRIES),
    };
    let is_rotated = |other: &[u8]| other.len() > name.len() && other.starts_with(name);
    let mut found: Vec<_> = entries
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.is_file && is_rotated(entry.name.as_encoded_bytes()))
        .take(MAX_ROTATED)
        .map(|entry| (entry.modified, folder.join(entry.name)))
        .collect();
    found.sort();
    found
}

/// Those of `later` files that go on with the one that was `read`, which begins with `head`, and whether there are some that cannot be
/// read.
fn newer(
    log: &Path,
    later: &[(SystemTime, PathBuf)],
    read: Option<&Path>,
    head: &[u8],
    access: Option<&Access>,
) -> (Vec<PathBuf>, bool) {
    let mut newer: Vec<PathBuf> = Vec::new();
    let mut heads = vec![head.to_vec()];
    let mut gap = false;
    let is_form_of = |path: &Path, known: &Path| {
        path.as_os_str().as_encoded_bytes().starts_with(known.as_os_str().as_encoded_bytes())
    };
    for (_, path) in later.iter().filter(|(_, path)| is_rotation(log, path)) {
        match looks_like(path, &heads, access) {
            Looks::Log(head) => {
                newer.push(path.clone());
                heads.push(head);
            }
            Looks::Copy => {}
            // The same, about to be replaced by its compressed form: debug.log.1.gz
            Looks::Unreadable
                if read
                    .into_iter()
                    .chain(newer.iter().map(PathBuf::as_path))
                    .any(|k| is_form_of(path, k)) => {}
            Looks::Unreadable => gap = true,
        }
    }
    (newer, gap)
}

/// What compressors put behind a name.
const COMPRESSED_NAMES: [&str; 6] = [".gz", ".bz2", ".zst", ".lz4", ".xz", ".Z"];

/// What people put behind the name of a log that they moved away.
const MOVED: [&str; 4] = [".old", ".bak", ".prev", ".last"];

/// Whether a file beside the log has the name of a rotated one, with a number or a time as logrotate and newsyslog have them:
/// `debug.log.1`, `debug.log-20260101.gz`, `debug.log.2026-01-01T00:00:00Z`. Somebody may write a log of his own to `debug.log.errors`.
fn is_rotation(log: &Path, other: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(log), Some(other)) = (name(log), name(other)) else { return false };
    let Some(suffix) = other.strip_prefix(&log) else { return false };
    let suffix = COMPRESSED_NAMES.iter().find_map(|end| suffix.strip_suffix(end)).unwrap_or(suffix);
    if MOVED.contains(&suffix) {
        return true;
    }
    let is_of_time = |c: char| c.is_ascii_digit() || "-_.:+TZ".contains(c);
    suffix
        .strip_prefix(['.', '-', '_'])
        .is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()) && time.chars().all(is_of_time))
}

/// First bytes of gzip (RFC 1952), bzip2, Zstandard (RFC 8878), LZ4 frames and xz.
const COMPRESSED: [&[u8]; 5] = [
    &[0x1f, 0x8b],
    b"BZh",
    &[0x28, 0xb5, 0x2f, 0xfd],
    &[0x04, 0x22, 0x4d, 0x18],
    &[0xfd, b'7', b'z', b'X', b'Z'],
];

/// What a rotated file is to one who knows files that begin with `known`.
enum Looks {
    /// The next part of the log, which begins so.
    Log(Vec<u8>),
    /// The same again.
    Copy,
    /// Compressed, or not to be opened.
    Unreadable,
}

fn looks_like(path: &Path, known: &[Vec<u8>], access: Option<&Access>) -> Looks {
    let Ok(Some((file, _))) = open_if_there(path, access) else { return Looks::Unreadable };
    let Ok(head) = read_range(&file, 0, HEAD) else { return Looks::Unreadable };
    if COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
        return Looks::Unreadable;
    }
    let is_known = known.iter().any(|known| !known.is_empty() && head.starts_with(known));
    if is_known { Looks::Copy } else { Looks::Log(head) }
}

fn file_id(meta: &Metadata) -> FileId {
    FileId { device: meta.dev(), inode: meta.ino() }
}

/// What stands at this path, unless it cannot be found.
fn id_of(path: &Path, access: Option<&Access>) -> Option<FileId> {
    match access {
        Some(access) => access.id(path).ok(),
        None => FileId::of(path),
    }
}

/// The file, unless there is none.
fn open_if_there(path: &Path, access: Option<&Access>) -> io::Result<Option<(File, Metadata)>> {
    let opened = match access {
        Some(access) => access.open(path),
        None => regular::open(path),
    };
    match opened {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Some((file, meta)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As many of these bytes as there are.
fn read_range(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match file.read_at(&mut bytes[read..], offset + read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Where the last line that is complete ends, if that is in the last 64 KiB; else the end of the file.
fn last_line_end(file: &File, size: u64) -> io::Result<u64> {
    const LOOK_BACK: u64 = 64 << 10;
    let from = size.saturating_sub(LOOK_BACK);
    let bytes = read_range(file, from, (size - from) as usize)?;
    Ok(match memchr::memrchr(b'\n', &bytes) {
        Some(at) => from + at as u64 + 1,
        None if from == 0 => 0,
        None => size,
    })
}

#[cfg(test)]
mod tests;
