//! A process, read through one descriptor of its folder in /proc.
//!
//! A process id is reused, and a process can replace its program and its credentials between two
//! reads. Everything about a process is therefore read through one descriptor of `/proc/PID`, which
//! fails once that process is gone, and its credentials count only when the program and the
//! credentials were the same before and after the rest was read.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

/// `/proc/PID/status` and `/proc/PID/stat` are shorter, bytes. 65,536 groups (NGROUPS_MAX) do not fit: such a process has no
/// credentials here.
const MAX_STATUS: u64 = 64 << 10;
/// `CAP_DAC_OVERRIDE` and `CAP_DAC_READ_SEARCH` (linux/capability.h), as bits of `CapEff`.
const READS_EVERYTHING: u64 = 1 << 1 | 1 << 2;

/// A file, whatever its name: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

impl FileId {
    /// Identity of the file at `path`, or nothing if there is none.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| FileId::from(&meta))
    }
}

impl From<&Metadata> for FileId {
    fn from(meta: &Metadata) -> Self {
        FileId { device: meta.dev(), inode: meta.ino() }
    }
}

/// A process, by its folder in /proc. Every read fails once the process is gone, also when its id
/// is in use again.
pub struct ProcessDir {
    pid: u32,
    folder: OwnedFd,
}

impl fmt::Debug for ProcessDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessDir({})", self.pid)
    }
}

impl ProcessDir {
    /// Opens the folder of the process that has this id now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(ProcessDir { pid, folder })
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?))
    }

    /// At most `limit` bytes of a file in the folder, and one more if it is longer.
    pub(crate) fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(name)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_text(&self, name: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read(name, MAX_STATUS)?).into_owned())
    }

    /// The target of a link in the folder.
    pub(crate) fn link(&self, name: &str) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.folder, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Opens the program that the process runs, also when its file was replaced or is in a container.
    ///
    /// # Errors
    /// When the process is gone, may not be looked at, or its program is on a file system that may
    /// never answer.
    pub fn open_program(&self) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let program = rustix::fs::openat(&self.folder, "exe", flags, Mode::empty())?;
        crate::filesystem::check(program.as_fd(), self)?;
        // The file that was checked: the process may run another one by now.
        File::open(format!("/proc/self/fd/{}", program.as_raw_fd()))
    }

    /// The file that the process runs. Does not ask the file system, which could be another user's.
    pub(crate) fn program(&self) -> io::Result<Program> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let program = rustix::fs::openat(&self.folder, "exe", flags, Mode::empty())?;
        let stat = crate::filesystem::stat(program.as_fd())?;
        Ok(Program { file: stat.id, is_set_id: stat.mode & SET_ID != 0 })
    }

    /// The root directory of the process: that of its container if it is in one.
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, "root", flags, Mode::empty())?)
    }

    /// Who the process is at this moment.
    pub(crate) fn identity(&self) -> io::Result<Identity> {
        // A program that is executed replaces /proc/PID/exe first and the credentials then (exec in
        // fs/exec.c), and a process can give up rights before it executes another. So credentials
        // that were read between two looks at the same program are those it runs with.
        let program = self.program()?;
        let status = self.read_text("status")?;
        let stat = self.read_text("stat")?;
        if self.program()? != program {
            return Err(io::Error::other("it became another program while it was looked at"));
        }
        let malformed = || io::Error::other("/proc has no such process as it should be");
        let credentials = Credentials::parse(&status).ok_or_else(malformed)?;
        Ok(Identity { program, started: start_time(&stat).ok_or_else(malformed)?, credentials })
    }

    /// It has the same namespace of this kind (`mnt`, `user`, `net`) as this process.
    pub(crate) fn shares_namespace(&self, kind: &str) -> bool {
        let name = format!("ns/{kind}");
        let own = std::fs::read_link(format!("/proc/self/{name}"));
        matches!((self.link(&name), own), (Ok(its), Ok(own)) if its == own)
    }

    /// The process has ended: reads fail, and not because something else is amiss.
    pub(crate) fn is_gone(&self) -> bool {
        match self.open_file("stat") {
            Ok(_) => self.zombie().is_some(),
            Err(error) => {
                error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
            }
        }
    }

    /// The state of the process is that of one which has ended and whose parent has not noticed,
    /// and with which status it did.
    pub(crate) fn zombie(&self) -> Option<i32> {
        let stat = self.read_text("stat").ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if !matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        // Field 52; `fields` began with the third.
        fields.nth(48)?.parse().ok()
    }
}

/// Bits of a mode: the program runs with the rights of its owner or group (inode(7)).
const SET_ID: u32 = 0o6000;

/// The file that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) file: FileId,
    /// It runs with the rights of its owner or group, and whoever started it chose its arguments.
    pub(crate) is_set_id: bool,
}

/// What must not change while a process is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) program: Program,
    /// Start of the process in clock ticks since boot.
    pub(crate) started: u64,
    pub(crate) credentials: Credentials,
}

/// The credentials of a process, from /proc/PID/status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Real, effective, saved and file-system user id.
    uids: [u32; 4],
    /// The same for groups.
    gids: [u32; 4],
    groups: Vec<u32>,
    /// It may read any file, if its user namespace is ours.
    reads_everything: bool,
}

impl Credentials {
    /// From /proc/PID/status (proc_pid_status(5)).
    fn parse(status: &str) -> Option<Self> {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let numbers = |name: &str| -> Option<Vec<u32>> {
            line(name)?.split_whitespace().map(|id| id.parse().ok()).collect()
        };
        let capabilities = u64::from_str_radix(line("CapEff:")?.trim(), 16).ok()?;
        Some(Credentials {
            uids: numbers("Uid:")?.try_into().ok()?,
            gids: numbers("Gid:")?.try_into().ok()?,
            groups: numbers("Groups:")?,
            reads_everything: capabilities & READS_EVERYTHING != 0,
        })
    }

    /// The user who started the process: a program that runs with the rights of its owner
    /// (set-user-ID) does not change it.
    pub(crate) fn real_uid(&self) -> u32 {
        self.uids[0]
    }

    /// The user that the process runs as; nothing when its ids differ, as they do in a program that
    /// runs with the rights of its owner.
    pub(crate) fn user(&self, is_in_our_namespace: bool) -> Option<User> {
        let is_one = |ids: [u32; 4]| ids.iter().all(|id| *id == ids[0]);
        if !is_one(self.uids) || !is_one(self.gids) {
            return None;
        }
        let mut gids = vec![self.gids[0]];
        gids.extend(&self.groups);
        let reads_everything = self.uids[0] == 0 && self.reads_everything && is_in_our_namespace;
        Some(User { uid: self.uids[0], gids, reads_everything })
    }
}

/// Bits of a mode (inode(7)).
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const SEARCH: u32 = 1;

/// A user, as far as files ask who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gids: Vec<u32>,
    reads_everything: bool,
}

impl User {
    /// A user with these ids. Root may read everything.
    pub fn new(uid: u32, gids: Vec<u32>) -> Self {
        User { uid, gids, reads_everything: uid == 0 }
    }

    /// The user that this process runs as.
    pub fn own() -> Option<Self> {
        ProcessDir::open(std::process::id()).ok()?.identity().ok()?.credentials.user(true)
    }

    /// User id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether more than the mode counts for files of this owner: their access control list.
    pub(crate) fn needs_list(&self, owner: u32) -> bool {
        !self.reads_everything && owner != self.uid
    }

    /// Whether an access control list lets the user do this, who is not the owner of the file
    /// (acl(5), "ACCESS CHECK ALGORITHM"). The list is as the kernel has it: a version, then tag,
    /// permissions and id of each entry (linux/posix_acl_xattr.h).
    pub(crate) fn may_by_list(&self, what: u32, group: u32, list: &[u8]) -> bool {
        const USER: u16 = 0x02;
        const OWNING_GROUP: u16 = 0x04;
        const GROUP: u16 = 0x08;
        const MASK: u16 = 0x10;
        const OTHER: u16 = 0x20;
        let entries = || {
            list.get(4..).unwrap_or_default().chunks_exact(8).filter_map(|entry| {
                let (tag, rest) = entry.split_first_chunk()?;
                let (permissions, id) = rest.split_first_chunk()?;
                let id = u32::from_le_bytes(id.try_into().ok()?);
                Some((u16::from_le_bytes(*tag), u32::from(u16::from_le_bytes(*permissions)), id))
            })
        };
        let find = |tag: u16| entries().find(|entry| entry.0 == tag).map(|entry| entry.1);
        let mask = find(MASK).unwrap_or(0o7);
        let masked = |permissions: u32| permissions & mask & what != 0;
        if let Some((.., permissions, _)) = entries().find(|(tag, _, id)| *tag == USER && *id == self.uid) {
            return masked(permissions);
        }
        let of_groups: Vec<u32> = entries()
            .filter(|(tag, _, id)| match *tag {
                OWNING_GROUP => self.gids.contains(&group),
                GROUP => self.gids.contains(id),
                _ => false,
            })
            .map(|entry| entry.1)
            .collect();
        match of_groups.is_empty() {
            true => find(OTHER).is_some_and(|permissions| permissions & what != 0),
            false => of_groups.into_iter().any(masked),
        }
    }

    /// Whether the mode of a file, with its owner and group, lets the user do this.
    pub(crate) fn may(&self, what: u32, owner: u32, group: u32, mode: u32) -> bool {
        let shift = match () {
            () if self.reads_everything => return true,
            () if owner == self.uid => 6,
            () if self.gids.contains(&group) => 3,
            () => 0,
        };
        mode >> shift & what != 0
    }
}

/// Field 22 of /proc/PID/stat. The second field is a name in brackets that may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// For fuzzing: every reader of a file in /proc.
#[doc(hidden)]
pub fn parse_everything(text: &str) {
    let _ = start_time(text);
    if let Some(credentials) = Credentials::parse(text) {
        let _ = credentials.user(true);
    }
    crate::filesystem::parse_everything(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_hostile_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 12";
        assert_eq!(start_time(stat), Some(98765));
        assert_eq!(start_time("7 (a"), None);
    }

    fn status(uids: &str, gids: &str, capabilities: &str) -> Option<Credentials> {
        Credentials::parse(&format!(
            "Name:\tb-\nUid:\t{uids}\nGid:\t{gids}\nGroups:\t9 10 \nCapEff:\t{capabilities}\n"
        ))
    }

    #[test]
    fn mixed_user_or_group_ids_are_no_user() {
        let user = |uids: &str, gids: &str| status(uids, gids, "0").unwrap().user(true);
        let expected = User { uid: 4, gids: vec![8, 9, 10], reads_everything: false };
        assert_eq!(user("4 4 4 4", "8 8 8 8"), Some(expected));
        for place in 0..4 {
            let mut ids = ["0"; 4];
            ids[place] = "1000";
            let mixed = ids.join(" ");
            assert_eq!(user(&mixed, "0 0 0 0"), None, "{mixed}");
            assert_eq!(user("0 0 0 0", &mixed), None, "{mixed}");
        }
        assert_eq!(status("4 4 4 4", "8 8 8 8", "0").unwrap().real_uid(), 4);
    }

    #[test]
    fn only_root_with_capabilities_in_our_namespace_reads_everything() {
        let may = |uid: &str, capabilities, ours| {
            let user = status(uid, "0 0 0 0", capabilities).unwrap().user(ours).unwrap();
            user.may(READ, 12_345, 12_345, 0o600)
        };
        assert!(may("0 0 0 0", "000001ffffffffff", true));
        assert!(may("0 0 0 0", "4", true));
        assert!(!may("0 0 0 0", "0000000000000000", true));
        assert!(!may("0 0 0 0", "000001ffffffffff", false));
        assert!(!may("7 7 7 7", "000001ffffffffff", true));
    }

    /// An access control list as the kernel has it.
    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn access_control_list_counts_more_than_the_mode() {
        const NOBODY: u32 = u32::MAX;
        let user = User::new(7, vec![70, 71]);
        let may = |entries: &[(u16, u16, u32)], group| user.may_by_list(READ, group, &list(entries));
        // The bits of the group in the mode are the mask then: the owning group itself may be denied.
        let owner_group_denied =
            [(1, 7, NOBODY), (2, 4, 99), (4, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 4, NOBODY)];
        assert!(!may(&owner_group_denied, 70));
        assert!(may(&owner_group_denied, 99), "of another group others' bits count");
        let user_denied = [(1, 7, NOBODY), (2, 0, 7), (4, 4, NOBODY), (0x10, 7, NOBODY), (0x20, 4, NOBODY)];
        assert!(!may(&user_denied, 70));
        let group_allowed =
            [(1, 7, NOBODY), (4, 0, NOBODY), (8, 4, 71), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
        assert!(may(&group_allowed, 70));
        let masked = [(1, 7, NOBODY), (2, 7, 7), (4, 7, NOBODY), (0x10, 0, NOBODY), (0x20, 7, NOBODY)];
        assert!(!may(&masked, 70));
        for malformed in [&[][..], &[2, 0, 0, 0], &[2, 0, 0, 0, 0x20]] {
            assert!(!user.may_by_list(READ, 70, malformed));
        }
    }

    #[test]
    fn malformed_status_is_no_credentials() {
        assert_eq!(status("x", "0 0 0 0", "0"), None);
        assert_eq!(status("0 0 0", "0 0 0 0", "0"), None);
        assert_eq!(status("0 0 0 0", "0 0 0 0", "x"), None);
        assert_eq!(Credentials::parse(""), None);
    }

    #[test]
    fn process_dir_fails_once_the_process_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessDir::open(child.id()).unwrap();
        assert_eq!(
            process.identity().unwrap().credentials.user(true).map(|u| u.uid()),
            User::own().map(|u| u.uid())
        );
        assert_eq!(process.zombie(), None);
        child.kill().unwrap();
        while process.zombie().is_none() {
            std::thread::yield_now();
        }
        // Killed by signal 9.
        assert_eq!(process.zombie(), Some(9));
        child.wait().unwrap();
        assert!(process.identity().is_err() && process.program().is_err() && process.root().is_err());
    }

    #[test]
    fn user_of_this_process_is_known() {
        let own = User::own().unwrap();
        assert_eq!(own.uid(), std::fs::metadata("/proc/self").unwrap().uid());
    }
}
