//! Opens files that a node names, as far as the node's own user may read them.
//!
//! This program may read what others may not, and what a process says of itself is up to whoever
//! started it: a "node" with `-rpccookiefile=/etc/shadow` would be sent that file as a login. So a
//! file that the node's user could not open is not opened for it.
//!
//! A path is walked one component at a time, each opened relative to the descriptor of the one
//! before, and what is checked is the descriptor. Renaming or replacing a component during the walk
//! therefore changes which file is found, never which checks it passed. Links are resolved here,
//! within the node's own root directory: the kernel would resolve an absolute link of a container
//! in our root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::filesystem::{self, Stat};
use crate::process::{FileId, ProcessDir, READ, SEARCH, User, WRITE};

/// Longer paths are refused, bytes: PATH_MAX (linux/limits.h).
pub const MAX_PATH: usize = 4096;
/// Links that are followed on the way to a file, as the kernel limits them (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Components that are walked at most, those of links included.
const MAX_STEPS: usize = 1000;
/// Access control lists are read up to this, bytes: 500 entries.
const MAX_LIST: usize = 4096;
/// Folders beneath each other that are open during a walk: each takes a file descriptor, of which
/// others need some, too.
const MAX_DEPTH: usize = 64;

/// Why a file is not opened for a node, though this process might open it.
#[derive(Debug, thiserror::Error)]
#[error("the node runs as user {uid}, who may not read it")]
struct NotForNode {
    uid: u32,
}

/// Whether a file was not opened because the node's own user may not read it.
pub fn is_denied_to_node(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|reason| reason.is::<NotForNode>())
}

/// Where the file system of a node begins. All clones are the same root: a node that was started
/// again is another process with another root, and whoever reads its files goes on there.
#[derive(Clone)]
pub struct Root(Arc<Mutex<Start>>);

#[derive(Clone)]
enum Start {
    /// A folder, `/` for a node that has our own root and mounts.
    Folder(PathBuf),
    /// The root of a process in a mount namespace of its own.
    Process(Arc<ProcessDir>),
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start() {
            Start::Folder(folder) => folder.fmt(f),
            Start::Process(process) => write!(f, "root of process {}", process.pid()),
        }
    }
}

impl Root {
    /// A folder of our own file system.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Root(Arc::new(Mutex::new(Start::Folder(folder.into()))))
    }

    /// The root of a process, which stays the one it is when another process gets its id.
    pub fn of_process(process: Arc<ProcessDir>) -> Self {
        Root(Arc::new(Mutex::new(Start::Process(process))))
    }

    /// From now on this root, and all clones of it, are where `other` is.
    pub fn move_to(&self, other: &Root) {
        let start = other.start();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = start;
    }

    fn start(&self) -> Start {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node sees other files than this process: it is in a container, or in a mount namespace of its own.
    pub fn is_elsewhere(&self) -> bool {
        !matches!(self.start(), Start::Folder(folder) if folder == Path::new("/"))
    }
}

impl Start {
    fn open(&self) -> io::Result<OwnedFd> {
        match self {
            Start::Folder(folder) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
            }
            // A process that is gone has no files any more.
            Start::Process(process) => process.root().map_err(|_| io::ErrorKind::NotFound.into()),
        }
    }

    /// Refuses files on file systems that hold no files of users.
    fn check(&self, stat: &Stat) -> io::Result<()> {
        match self {
            Start::Folder(_) => filesystem::check_ours(stat),
            Start::Process(process) => filesystem::check_in(stat, process),
        }
    }
}

/// The right of a node's user to read, in the file system that the node sees. Paths are those that
/// the node sees.
#[derive(Debug, Clone)]
pub struct Access {
    user: User,
    root: Root,
}

impl PartialEq for Access {
    /// The same user in the same place.
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.root.is_elsewhere() == other.root.is_elsewhere()
    }
}

impl Eq for Access {}

/// What an [`Access`] found at a path.
#[derive(Debug)]
struct Found {
    file: OwnedFd,
    stat: Stat,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// It is a regular file, and not a link to one.
    pub is_file: bool,
    /// Last change of its content.
    pub modified: SystemTime,
}

/// A step of the walk, for tests that change something in between.
#[cfg(test)]
type OnStep<'a> = &'a mut dyn FnMut(&OsStr);

impl Access {
    /// What `user` may read beneath the folder `root`.
    pub fn new(user: User, root: PathBuf) -> Self {
        Access { user, root: Root::folder(root) }
    }

    /// What `user` may read beneath `root`.
    pub fn beneath(user: User, root: Root) -> Self {
        Access { user, root }
    }

    /// Id of the user.
    pub fn uid(&self) -> u32 {
        self.user.uid()
    }

    /// The user sees other files than this process: it is in a container.
    pub fn is_elsewhere(&self) -> bool {
        self.root.is_elsewhere()
    }

    /// Opens a regular file for reading, without waiting for anybody.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file, or the user could not open it.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.open_found(self.find(path)?)
    }

    fn open_found(&self, found: Found) -> io::Result<File> {
        if !found.stat.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        if !self.may(READ, &found) {
            return Err(self.denied());
        }
        reopen(&found.file)
    }

    /// What stands at this path, links followed.
    ///
    /// # Errors
    /// When there is nothing, or the user could not find it.
    pub fn id(&self, path: &Path) -> io::Result<FileId> {
        Ok(self.find(path)?.stat.id)
    }

    /// Identity of the folder at this path, if it is the user's own: he owns it, or may write to it.
    ///
    /// # Errors
    /// When there is nothing, or the user could not find it.
    pub fn own_folder(&self, path: &Path) -> io::Result<Option<FileId>> {
        let found = self.find(path)?;
        let is_own = found.stat.uid == self.user.uid() || self.may(WRITE, &found);
        Ok((found.stat.is_folder() && is_own).then_some(found.stat.id))
    }

    /// The entries of a folder, at most `limit` of them.
    ///
    /// # Errors
    /// When it is no folder, or the user may not list it.
    pub fn list(&self, path: &Path, limit: usize) -> io::Result<Vec<Entry>> {
        let found = self.find(path)?;
        if !found.stat.is_folder() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !self.may(READ, &found) || !self.may(SEARCH, &found) {
            return Err(self.denied());
        }
        entries(&reopen(&found.file)?, limit)
    }

    /// Opens a socket to connect to: not the path, which could lead elsewhere by then, but
    /// `/proc/self/fd/` and this descriptor.
    ///
    /// # Errors
    /// When there is none, or the user could not connect to it.
    pub fn socket(&self, path: &Path) -> io::Result<OwnedFd> {
        let found = self.find(path)?;
        if !found.stat.is_socket() {
            return Err(io::Error::other("it is no socket"));
        }
        if !self.may(WRITE, &found) {
            return Err(self.denied());
        }
        Ok(found.file)
    }

    /// The mode of what was found lets the user do this, and its access control list if it has one.
    fn may(&self, what: u32, found: &Found) -> bool {
        let Stat { uid, gid, mode, .. } = found.stat;
        match self.user.needs_list(uid).then(|| list_of(&found.file)).flatten() {
            Some(list) => self.user.may_by_list(what, gid, &list),
            None => self.user.may(what, uid, gid, mode),
        }
    }

    fn denied(&self) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, NotForNode { uid: self.user.uid() })
    }

    fn find(&self, path: &Path) -> io::Result<Found> {
        self.walk(
            path,
            #[cfg(test)]
            &mut |_| (),
        )
    }

    /// Walks to a file. Every folder on the way must be open to the user.
    fn walk(&self, path: &Path, #[cfg(test)] on_step: OnStep<'_>) -> io::Result<Found> {
        if path.as_os_str().len() > MAX_PATH {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let start = self.root.start();
        let mut left = components(path);
        // The folders from the root to here.
        let mut above = vec![found(start.open()?)?];
        start.check(&above[0].stat)?;
        let mut links = 0;
        for _ in 0..MAX_STEPS {
            let Some(name) = left.pop_front() else { break };
            #[cfg(test)]
            on_step(&name);
            // The root is its own parent.
            if name == ".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let [.., folder] = above.as_slice() else { return Err(io::ErrorKind::NotFound.into()) };
            if !folder.stat.is_folder() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            if !self.may(SEARCH, folder) {
                return Err(self.denied());
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = found(rustix::fs::openat(&folder.file, &name, flags, Mode::empty())?)?;
            if next.stat.mount != folder.stat.mount {
                start.check(&next.stat)?;
            }
            if !next.stat.is_link() {
                if above.len() > MAX_DEPTH {
                    return Err(io::Error::other("it is in too many folders"));
                }
                above.push(next);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other("too many links"));
            }
            let target = rustix::fs::readlinkat(&next.file, "", Vec::new())?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                above.truncate(1);
            }
            for name in components(&target).into_iter().rev() {
                left.push_front(name);
            }
        }
        match (left.is_empty(), above.pop()) {
            (true, Some(last)) => Ok(last),
            _ => Err(io::Error::other("its path is too long")),
        }
    }
}

fn found(file: OwnedFd) -> io::Result<Found> {
    let stat = filesystem::stat(file.as_fd())?;
    Ok(Found { file, stat })
}

/// The access control list of a file (acl(5)), if it has one.
fn list_of(file: &OwnedFd) -> Option<Vec<u8>> {
    let mut list = vec![0; MAX_LIST];
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::getxattr(path, "system.posix_acl_access", &mut list) {
        Ok(length) => list.truncate(length),
        // One that is too long to be read lets nobody in.
        Err(rustix::io::Errno::RANGE) => list.clear(),
        Err(_) => return None,
    }
    Some(list)
}

/// Opens what is open as a path only, for reading. It is the same file, whatever has its name by now.
fn reopen(file: &OwnedFd) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The parts of a path, without its root.
fn components(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

fn entries(folder: &File, limit: usize) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut seen = 0;
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if seen == limit {
            break;
        }
        seen += 1;
        // An entry may be a file system of its own, which is not asked.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let Ok(stat) = rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS) else { continue };
        entries.push(Entry {
            name: name.to_owned(),
            is_file: rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file(),
            modified: modified(&stat),
        });
    }
    Ok(entries)
}

/// A time before 1970 counts as 1970.
fn modified(stat: &rustix::fs::Statx) -> SystemTime {
    let seconds = u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0);
    UNIX_EPOCH + Duration::new(seconds.min(1 << 40), stat.stx_mtime.tv_nsec)
}

/// The entries of a folder that this process may read itself, at most `limit` of them.
///
/// # Errors
/// When it is no folder, or may not be read.
pub(crate) fn list_own(folder: &Path, limit: usize) -> io::Result<Vec<Entry>> {
    entries(&File::open(folder)?, limit)
}

#[cfg(test)]
mod tests;
