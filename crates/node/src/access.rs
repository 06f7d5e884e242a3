//! Opens files that a node names, as far as the node's own user may read them.
//!
//! peer-observer may read what others may not, and what a process says of itself is up to whoever started it: a "node" with
//! -rpccookiefile=/etc/shadow would be sent that file as a login. So what the node could not open is not opened for it. Links are
//! followed within the node's file system, as the node would.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::discover::FileId;

/// Links that are followed on the way to a file, as the kernel limits them (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Bits of a mode (inode(7)).
const READ: u32 = 4;
const SEARCH: u32 = 1;

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

/// A user, as far as files ask who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group ids.
    pub gids: Vec<u32>,
}

impl User {
    /// The user that a process runs as; nothing when there is no such process.
    pub fn of_process(pid: u32) -> Option<Self> {
        Self::of_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// From /proc/PID/status (proc_pid_status(5)): real, effective, saved and file system id; then other groups.
    fn of_status(status: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|id| id.parse().ok()).collect()
        };
        let uid = *numbers("Uid:")?.get(3)?;
        let mut gids = vec![*numbers("Gid:")?.get(3)?];
        gids.extend(numbers("Groups:").unwrap_or_default());
        Some(User { uid, gids })
    }

    fn may(&self, what: u32, meta: &Metadata) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if meta.uid() == self.uid => 6,
            () if self.gids.contains(&meta.gid()) => 3,
            () => 0,
        };
        meta.mode() >> shift & what != 0
    }
}

/// The right of a node's user to read, in the file system that the node sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    user: User,
    /// Where that file system begins: `/`, or `/proc/PID/root`.
    root: PathBuf,
}

impl Access {
    /// What `user` may read beneath `root`.
    pub fn new(user: User, root: PathBuf) -> Self {
        Access { user, root }
    }

    /// Id of the user.
    pub fn uid(&self) -> u32 {
        self.user.uid
    }

    /// The user sees other files than this process: it is in a container.
    pub fn is_elsewhere(&self) -> bool {
        self.root != Path::new("/")
    }

    /// The file that has this absolute path where the user is, as this process names it.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Opens a regular file beneath the root, without waiting for anybody.
    ///
    /// # Errors
    /// When it cannot be opened, or the user could not open it.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let (path, meta) = self.resolve(path)?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        if !self.user.may(READ, &meta) {
            return Err(self.denied());
        }
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
        let opened = file.metadata()?;
        // Somebody may have put another in its place since it was looked at.
        if (opened.dev(), opened.ino()) != (meta.dev(), meta.ino()) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(file)
    }

    fn denied(&self) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, NotForNode { uid: self.user.uid })
    }

    /// The file without links on the way, and what it is. Every folder on the way must be open to the user.
    fn resolve(&self, path: &Path) -> io::Result<(PathBuf, Metadata)> {
        let beneath = path.strip_prefix(&self.root).map_err(io::Error::other)?;
        let mut left = words(beneath);
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut meta = fs::metadata(&self.root)?;
        while let Some(word) = left.pop_front() {
            if word == ".." {
                at.pop();
                meta = fs::symlink_metadata(self.root.join(&at))?;
                continue;
            }
            if !self.user.may(SEARCH, &meta) {
                return Err(self.denied());
            }
            at.push(&word);
            meta = fs::symlink_metadata(self.root.join(&at))?;
            if !meta.is_symlink() {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other("too many links"));
            }
            let target = fs::read_link(self.root.join(&at))?;
            at.pop();
            if target.is_absolute() {
                at = PathBuf::new();
            }
            let mut words = words(&target);
            words.append(&mut left);
            left = words;
            meta = fs::metadata(self.root.join(&at))?;
        }
        Ok((self.root.join(at), meta))
    }
}

/// The parts of a path, from its root if it has one.
fn words(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// Whether two paths lead to the same file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    FileId::of(one).is_some_and(|id| FileId::of(other) == Some(id))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// The user of this test, as it would be without root's rights.
    fn me(folder: &Path) -> User {
        let meta = fs::metadata(folder).unwrap();
        // Root may do anything; as somebody else, group and others count.
        match meta.uid() {
            0 => User { uid: 12_345, gids: vec![meta.gid()] },
            uid => User { uid, gids: vec![meta.gid()] },
        }
    }

    #[test]
    fn only_what_the_user_may_read_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (user, inner, file) =
            (me(folder.path()), folder.path().join("inner"), folder.path().join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        symlink("inner/file", folder.path().join("relative")).unwrap();
        symlink("/inner/file", folder.path().join("absolute")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(folder.path(), 0o755);
        let access = Access::new(user, folder.path().into());
        let opens = |name: &str| access.open(&folder.path().join(name)).is_ok();
        for (folder_mode, file_mode, expected) in [
            (0o755, 0o644, true),
            (0o700, 0o600, false),
            (0o750, 0o640, true),
            (0o755, 0o000, false),
            (0o000, 0o644, false),
        ] {
            set(&file, file_mode);
            set(&inner, folder_mode);
            // Of an own file the owner's bits count.
            let expected = expected || (access.user.uid != 12_345 && folder_mode == 0o700);
            for name in ["inner/file", "relative", "absolute", "inner/../inner/file"] {
                let opened = access.open(&folder.path().join(name));
                let denied = opened.as_ref().is_err_and(is_denied_to_node);
                assert_eq!(
                    (opened.is_ok(), denied),
                    (expected, !expected),
                    "{name} {folder_mode:o} {file_mode:o}"
                );
            }
        }
        set(&inner, 0o755);
        for name in ["loop", "inner", "missing", "inner/missing/file", "../.."] {
            assert!(!opens(name), "{name}");
        }
        assert!(access.open(Path::new("/etc/passwd")).is_err(), "it is not beneath the root");
    }

    #[test]
    fn the_user_of_a_process_is_in_its_status() {
        let status = "Name:\tb-\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        assert_eq!(User::of_status(status), Some(User { uid: 4, gids: vec![8, 9, 10] }));
        assert_eq!(User::of_status("Uid:\tx\n"), None);
        assert!(User::of_process(std::process::id()).is_some());
    }
}
