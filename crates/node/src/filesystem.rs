//! File systems on which no file of a node is opened.
//!
//! A path that a process names can lead into /proc, where what a file says depends on who opens it,
//! or into a file system that another user serves (FUSE), where every question can be left without
//! an answer. So a file is asked only for what the kernel knows by itself (`AT_STATX_DONT_SYNC`),
//! and what kind of file system it is on comes from the list of mounts.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags};

use crate::process::{FileId, ProcessDir};

/// A list of mounts is read up to this, bytes: some 40,000 mounts.
const MAX_MOUNTS: u64 = 4 << 20;

/// Kinds of file systems that hold files of users. Others, such as proc and sysfs, hold what the
/// kernel or a program makes up. FUSE is here as well, with a condition: see
/// [`Mount::may_hold_files`].
const OF_FILES: &[&str] = &[
    "9p",
    "affs",
    "bcachefs",
    "btrfs",
    "ceph",
    "cifs",
    "ecryptfs",
    "erofs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "hfs",
    "hfsplus",
    "iso9660",
    "jfs",
    "lustre",
    "msdos",
    "nfs",
    "nfs4",
    "nilfs2",
    "ntfs",
    "ntfs3",
    "ocfs2",
    "overlay",
    "ramfs",
    "reiserfs",
    "smb3",
    "squashfs",
    "tmpfs",
    "udf",
    "ufs",
    "vboxsf",
    "vfat",
    "virtiofs",
    "xfs",
    "zfs",
];

/// What a file is, as far as the kernel knows without asking its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) id: FileId,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Major number of the device; 0 for file systems that are on none, those of FUSE and of the
    /// kernel itself among them.
    major: u32,
    /// The mount through which it was reached, as in /proc/PID/mountinfo.
    pub(crate) mount: u64,
}

impl Stat {
    fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind() == 0o120_000
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind() == 0o040_000
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == 0o100_000
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.kind() == 0o140_000
    }
}

/// What is open here, without asking its file system.
pub(crate) fn stat(file: BorrowedFd<'_>) -> io::Result<Stat> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, "", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok(Stat {
        id: FileId {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        },
        mode: u32::from(found.stx_mode),
        uid: found.stx_uid,
        gid: found.stx_gid,
        major: found.stx_dev_major,
        mount: found.stx_mnt_id,
    })
}

/// Refuses what is open here when it is on a file system that does not hold files of users, or may
/// never answer.
///
/// # Errors
/// Which one; or that it cannot be told.
pub(crate) fn check(file: BorrowedFd<'_>, process: &ProcessDir) -> io::Result<()> {
    check_in(&stat(file)?, process)
}

/// The same, by the mounts of this process.
pub(crate) fn check_ours(stat: &Stat) -> io::Result<()> {
    match stat.major {
        0 => check_in(stat, &ProcessDir::open(std::process::id())?),
        _ => Ok(()),
    }
}

/// The same, by the mounts of a process.
pub(crate) fn check_in(stat: &Stat, process: &ProcessDir) -> io::Result<()> {
    // What is on a device is a file system of files; the kernel itself reads it.
    if stat.major != 0 {
        return Ok(());
    }
    let mounts = process.read("mountinfo", MAX_MOUNTS)?;
    let mounts = String::from_utf8_lossy(&mounts);
    let found = mounts.lines().filter_map(Mount::parse).find(|mount| mount.id == stat.mount);
    match found {
        // Users are numbered anew in a user namespace: user 0 of a container may be anybody.
        Some(mount) if mount.may_hold_files() && (!mount.is_fuse() || process.shares_namespace("user")) => {
            Ok(())
        }
        Some(mount) => Err(Refused(format!("it is on a file system of type {:?}", mount.kind)).into()),
        None => Err(Refused("it is on a file system that is not mounted".into()).into()),
    }
}

/// Why a file is not opened for a node.
#[derive(Debug, thiserror::Error)]
#[error("{0}, where no files of nodes are read")]
struct Refused(String);

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        io::Error::new(io::ErrorKind::PermissionDenied, refused)
    }
}

/// A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    id: u64,
    kind: &'a str,
    /// Options of the file system.
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // Optional fields end with a hyphen; spaces in paths are escaped.
        let (mount, file_system) = line.split_once(" - ")?;
        let id = mount.split(' ').next()?;
        let mut words = file_system.split(' ');
        let kind = words.next()?;
        Some(Mount { id: id.parse().ok()?, kind, options: words.nth(1).unwrap_or_default() })
    }

    fn is_fuse(&self) -> bool {
        self.kind.starts_with("fuse")
    }

    /// It holds files of users, and answers when the kernel asks it. A FUSE file system answers if
    /// it likes, so only those that root mounted count (ntfs-3g, mergerfs and others, from fstab).
    fn may_hold_files(&self) -> bool {
        let kind = self.kind.split('.').next().unwrap_or_default();
        OF_FILES.contains(&kind)
            && (!self.is_fuse() || self.options.split(',').any(|option| option == "user_id=0"))
    }
}

pub(crate) fn parse_everything(text: &str) {
    for mount in text.lines().filter_map(Mount::parse) {
        let _ = mount.may_hold_files();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn of(path: &str) -> io::Result<()> {
        let file = std::fs::File::open(path).unwrap();
        check_ours(&stat(file.as_fd()).unwrap())
    }

    #[test]
    fn files_of_the_kernel_are_refused() {
        for path in ["/proc/self/maps", "/proc", "/sys", "/sys/kernel"] {
            let error = of(path).unwrap_err();
            assert!(error.to_string().contains("where no files of nodes are read"), "{path}: {error}");
        }
    }

    #[test]
    fn ordinary_files_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        of(folder.path().to_str().unwrap()).unwrap();
        of("/").unwrap();
        of("/etc/passwd").unwrap();
    }

    #[test]
    fn fuse_counts_only_when_root_mounted_it() {
        let line = |kind: &str, options: &str| {
            format!(
                "36 35 0:98 /mnt1 /mnt/with\\040space rw,noatime shared:1 master:2 - {kind} /dev/x {options}"
            )
        };
        let may = |kind: &str, options: &str| Mount::parse(&line(kind, options)).unwrap().may_hold_files();
        assert!(may("fuse.mergerfs", "rw,user_id=0,group_id=0,allow_other"));
        assert!(may("fuseblk", "rw,user_id=0"));
        assert!(!may("fuse.sshfs", "rw,user_id=1000,group_id=1000,allow_other"));
        assert!(!may("fuse", "rw"));
        assert!(may("ext4", "rw") && may("overlay", "rw,lowerdir=a:b"));
        assert!(!may("proc", "rw") && !may("fusectl", "rw") && !may("cgroup2", "rw") && !may("nsfs", "rw"));
        let mount = line("tmpfs", "rw");
        assert_eq!(Mount::parse(&mount), Some(Mount { id: 36, kind: "tmpfs", options: "rw" }));
        assert_eq!(Mount::parse("36 35 0:98 / /"), None);
    }
}
