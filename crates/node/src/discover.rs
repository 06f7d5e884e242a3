//! Finds the Bitcoin Core nodes that run on this machine, from /proc alone.
//!
//! Everything about a process is read through /proc/PID: `exe` is the program itself even when its file was replaced since, and
//! `root` is its file system even when it runs in a container.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::access::{Access, User};
pub use crate::p2p::Network;
use crate::settings::Settings;

/// Configuration files that one may include; a node that includes more is read in part.
const MAX_INCLUDED: usize = 16;
/// Longer configuration files are read in part, bytes.
const MAX_CONF: u64 = 1 << 20;

/// Programs of Bitcoin Core that are nodes.
pub const NODE_PROGRAMS: &[&str] = &["bitcoind", "bitcoin-node", "bitcoin-qt", "bitcoin-gui"];

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
        fs::metadata(path).ok().map(|meta| FileId::from(&meta))
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(meta: &fs::Metadata) -> Self {
        FileId { device: meta.dev(), inode: meta.ino() }
    }
}

/// A running node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProcess {
    /// Process id, as this process sees it.
    pub pid: u32,
    /// Start of the process in clock ticks since boot: tells processes with the same id apart.
    pub started: u64,
    /// The program's path, as the process sees it.
    pub exe: PathBuf,
    /// The program's file.
    pub file: FileId,
    /// The data directory, as the process sees it, without the network's folder.
    pub datadir: PathBuf,
    /// The data directory itself, whatever its path: two containers can have the same path, and a container that is started again
    /// has the same directory in another file system. Nothing when it cannot be looked at.
    pub datadir_id: Option<FileId>,
    /// It is the data directory that Bitcoin Core takes when none is given.
    pub default_datadir: bool,
    /// The chain, from the command line and bitcoin.conf.
    pub network: Network,
    /// User it runs as.
    pub user: User,
    /// What it was told: its command line, and bitcoin.conf as it is now.
    pub settings: Settings,
}

impl NodeProcess {
    /// The program's file as this process can open it, also if it was replaced or is in a container.
    pub fn exe_link(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", self.pid))
    }

    /// A path of the node as this process can open it.
    pub fn host_path(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(relative)
    }
}

/// Which processes are nodes.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Programs by file, besides those with a known name. With any of these or `pids`, names do not count.
    pub files: Vec<FileId>,
    /// Processes by id.
    pub pids: Vec<u32>,
    /// Processes that were nodes before: they are, whatever their program is called by now.
    pub met: Vec<Met>,
}

/// A node that was found before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Its process id.
    pub pid: u32,
    /// Start of the process, as [`NodeProcess::started`].
    pub started: u64,
    /// Its program's file.
    pub file: FileId,
}

/// The nodes that run now, by process id. Processes that end meanwhile, or may not be looked at, are left out.
pub fn running(wanted: &Wanted) -> Vec<NodeProcess> {
    let by_name = wanted.files.is_empty() && wanted.pids.is_empty();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<NodeProcess> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let is_wanted = (by_name && has_node_name(&exe))
                || wanted.pids.contains(&pid)
                || (!wanted.files.is_empty()
                    && FileId::of(Path::new(&format!("/proc/{pid}/exe")))
                        .is_some_and(|f| wanted.files.contains(&f)));
            if !is_wanted && !wanted.met.iter().any(|met| met.pid == pid) {
                return None;
            }
            let node = look_at(pid, exe)?;
            let met = Met { pid, started: node.started, file: node.file };
            (is_wanted || wanted.met.contains(&met)).then_some(node)
        })
        .collect();
    found.sort_by_key(|n| n.pid);
    found
}

/// The node that is this process, whatever its name; nothing when there is no such process.
pub fn process(pid: u32) -> Option<NodeProcess> {
    look_at(pid, fs::read_link(format!("/proc/{pid}/exe")).ok()?)
}

/// Nodes by name that run and whose program may not be looked at: /proc/PID/exe of other users needs CAP_SYS_PTRACE.
pub fn hidden() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                // The kernel cuts names at 15 bytes; Core names its main thread b-NAME.
                .is_ok_and(|comm| NODE_PROGRAMS.contains(&comm.trim_end().trim_start_matches("b-")))
                && fs::read_link(format!("/proc/{pid}/exe"))
                    .is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
        })
        .collect()
}

/// The path without the mark that the kernel puts behind a replaced or removed file.
fn without_deleted(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(bytes) => PathBuf::from(OsString::from_vec(bytes.to_vec())),
        None => path.to_path_buf(),
    }
}

fn has_node_name(exe: &Path) -> bool {
    let exe = without_deleted(exe);
    exe.file_name().and_then(|n| n.to_str()).is_some_and(|name| NODE_PROGRAMS.contains(&name))
}

fn look_at(pid: u32, exe: PathBuf) -> Option<NodeProcess> {
    let file = FileId::of(Path::new(&format!("/proc/{pid}/exe")))?;
    let started = start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // A process that is just being started has its program before it has its command line: without this, it would be taken for
    // a node on the main chain with the default data directory.
    if cmdline.is_empty() {
        return None;
    }
    let user = User::of_process(pid)?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    let home = environment(pid, b"HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let settings = Settings::of_command_line(&cmdline);
    let mut node = NodeProcess {
        pid,
        started,
        exe: without_deleted(&exe),
        file,
        datadir: home.join(".bitcoin"),
        datadir_id: None,
        default_datadir: true,
        network: Network::Mainnet,
        user,
        settings,
    };
    if let Some(dir) = node.settings.datadir() {
        node.datadir = cwd.join(dir);
        node.default_datadir = node.datadir == home.join(".bitcoin");
    }
    let is_asked_for = node.settings.datadir().is_some();
    let conf = node.datadir.join(node.settings.conf().unwrap_or("bitcoin.conf"));
    let text = read_bounded(&node, &conf);
    node.settings.add_file(&text);
    // Core: the command line wins over the file, and a data directory in the file moves all but the file itself.
    if !is_asked_for && let Some(dir) = node.settings.datadir() {
        node.datadir = cwd.join(dir);
        node.default_datadir = false;
    }
    node.datadir_id = FileId::of(&node.host_path(&node.datadir));
    node.network = node.settings.network().unwrap_or(Network::Mainnet);
    let included = node.settings.all("includeconf", node.network).into_iter().take(MAX_INCLUDED);
    let included: Vec<PathBuf> = included.map(|file| node.datadir.join(file)).collect();
    for file in included {
        let text = read_bounded(&node, &file);
        node.settings.add_file(&text);
    }
    Some(node)
}

/// A file of the node, as far as its user may read it and it is not too long; nothing when it may not.
fn read_bounded(node: &NodeProcess, path: &Path) -> String {
    use std::io::Read;
    let access = Access::new(node.user.clone(), node.host_path(Path::new("/")));
    let mut text = Vec::new();
    if let Ok(file) = access.open(&node.host_path(path))
        && file.take(MAX_CONF).read_to_end(&mut text).is_ok()
    {
        return String::from_utf8_lossy(&text).into_owned();
    }
    String::new()
}

fn environment(pid: u32, name: &[u8]) -> Option<OsString> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    all.split(|b| *b == 0)
        .find_map(|var| var.strip_prefix(name)?.strip_prefix(b"="))
        .map(|value| OsString::from_vec(value.to_vec()))
}

/// Field 22 of /proc/PID/stat. The second field is a name in brackets that may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 12";
        assert_eq!(start_time(stat), Some(98765));
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn this_process_is_found_by_its_id_and_by_its_file() {
        let me = std::process::id();
        let by_pid = running(&Wanted { pids: vec![me], ..Wanted::default() });
        assert_eq!(by_pid.iter().map(|n| n.pid).collect::<Vec<_>>(), [me]);
        let by_file = running(&Wanted { files: vec![by_pid[0].file], ..Wanted::default() });
        assert!(by_file.iter().any(|n| n.pid == me));
        assert!(by_pid[0].host_path(Path::new("/proc")).exists());
    }

    #[test]
    fn a_node_whose_program_gets_another_name_is_one_still() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("bitcoind"), folder.path().join("bitcoind.old"));
        fs::copy("/bin/sleep", &path).unwrap();
        let mut child = std::process::Command::new(&path).arg("1000").spawn().unwrap();
        let is_among = |wanted: &Wanted| running(wanted).into_iter().find(|n| n.pid == child.id());
        let node = loop {
            if let Some(node) = is_among(&Wanted::default()) {
                break node;
            }
        };
        fs::rename(&path, &old).unwrap();
        fs::copy("/bin/true", &path).unwrap();
        assert_eq!(is_among(&Wanted::default()), None);
        let met = Met { pid: node.pid, started: node.started, file: node.file };
        let wanted = Wanted { met: vec![met], ..Wanted::default() };
        assert_eq!(is_among(&wanted).unwrap().exe, old);
        // Another process that has its id by now is not meant.
        for other in
            [Met { started: met.started + 1, ..met }, Met { file: FileId { device: 1, inode: 1 }, ..met }]
        {
            assert_eq!(is_among(&Wanted { met: vec![other], ..Wanted::default() }), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_being_started_is_no_node_yet() {
        for _ in 0..100 {
            let mut child = std::process::Command::new("sh")
                .args(["-c", "read line", "sh", "-regtest", "-datadir=/nowhere"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let node = loop {
                if let Some(node) = process(child.id()) {
                    break node;
                }
            };
            drop(child.stdin.take());
            child.wait().unwrap();
            assert_eq!((node.datadir.to_str(), node.network), (Some("/nowhere"), Network::Regtest));
        }
    }

    #[test]
    fn a_replaced_program_keeps_its_name() {
        assert!(has_node_name(Path::new("/usr/bin/bitcoind (deleted)")));
        assert!(!has_node_name(Path::new("/usr/bin/bitcoin-cli")));
    }
}
