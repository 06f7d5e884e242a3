//! Which Bitcoin Core nodes run on this machine, from /proc alone.
//!
//! Whoever can start a program on this machine can start one that is called `bitcoind`, so a node
//! is what its process says only as far as its user could do the same without us. [`crate::watch`]
//! follows nodes; this module looks at one process.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{Access, MAX_PATH, Root};
use crate::filesystem;
pub use crate::p2p::Network;
pub use crate::process::FileId;
use crate::process::{Identity, ProcessDir, User};
use crate::settings::{Excess, Settings};

/// Configuration files that one may include; a node that includes more is read in part.
const MAX_INCLUDED: usize = 16;
/// All configuration files of a node together, bytes.
pub const MAX_CONF: u64 = 1 << 20;
/// The command line of a node, bytes.
pub const MAX_ARGUMENTS: u64 = 256 << 10;
/// As much of the environment is searched for HOME, bytes.
const MAX_ENVIRONMENT: u64 = 256 << 10;

/// Programs of Bitcoin Core that are nodes.
pub const NODE_PROGRAMS: &[&str] = &["bitcoind", "bitcoin-node", "bitcoin-qt", "bitcoin-gui"];

/// A running node.
#[derive(Debug, Clone)]
pub struct NodeProcess {
    /// Process id, as this process sees it.
    pub pid: u32,
    /// Start of the process in clock ticks since boot: tells processes with the same id apart.
    pub started: u64,
    /// Start of the process, ns since the UNIX epoch: the run of the node.
    pub run_ns: u64,
    /// The program's path, as the process sees it.
    pub exe: PathBuf,
    /// The program's file.
    pub file: FileId,
    /// The data directory, as the process sees it, without the network's folder.
    pub datadir: PathBuf,
    /// The data directory itself, whatever its path: two containers can have the same path, and a
    /// container that is started again has the same directory in another file system. Nothing
    /// unless it belongs to the node's user.
    pub datadir_id: Option<FileId>,
    /// There is nothing at its path: the node has not made it yet.
    pub has_no_datadir: bool,
    /// It is the data directory that Bitcoin Core takes when none is given.
    pub default_datadir: bool,
    /// The chain, from the command line and bitcoin.conf.
    pub network: Network,
    /// Id of the user who started it.
    pub owner: u32,
    /// User it runs as. Nothing when its ids differ, as they do in a program that runs with the
    /// rights of its owner (set-user-ID): then none of its interfaces is opened.
    pub user: Option<User>,
    /// Its settings: its command line, and bitcoin.conf as it is now.
    pub settings: Settings,
    /// Its root directory is ours: it is in no container.
    pub shares_root: bool,
    /// It sees the same mounts as this process.
    pub shares_mounts: bool,
    /// Its users are numbered as ours: it is in no container that numbers them anew.
    pub shares_users: bool,
    /// Its folder in /proc.
    pub process: Arc<ProcessDir>,
}

impl NodeProcess {
    /// Opens its program, also if the file was replaced or is in a container.
    ///
    /// # Errors
    /// When the process is gone, may not be looked at, or runs another program by now.
    pub fn open_program(&self) -> io::Result<fs::File> {
        let program = self.process.open_program()?;
        if FileId::from(&program.metadata()?) != self.file {
            return Err(io::Error::other("the process runs another program by now"));
        }
        Ok(program)
    }

    /// Where its file system begins.
    pub fn root(&self) -> Root {
        match self.shares_mounts {
            true => Root::folder("/"),
            false => Root::of_process(self.process.clone()),
        }
    }

    /// What its user may read beneath `root`; nothing when it has no user.
    pub fn access(&self, root: Root) -> Option<Access> {
        Some(Access::beneath(self.user.clone()?, root))
    }

    /// Root of this machine runs it, and not of a container only.
    pub fn is_of_root(&self) -> bool {
        self.owner == 0 && self.shares_root && self.shares_users
    }

    /// It is this process, whatever it runs by now.
    pub fn is(&self, other: &NodeProcess) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// Looks at a process, whatever its program is called.
    ///
    /// # Errors
    /// When it is gone, may not be looked at, or changes while it is looked at.
    pub(crate) fn read(process: Arc<ProcessDir>) -> io::Result<Self> {
        Self::read_with(process, |_| ())
    }

    /// `on_step` is called between any two reads, for tests that change something there.
    fn read_with(process: Arc<ProcessDir>, mut on_step: impl FnMut(u32)) -> io::Result<Self> {
        let mut step = 0;
        let mut next = || {
            on_step(step);
            step += 1;
        };
        let identity = process.identity()?;
        next();
        let exe = process.link("exe")?;
        next();
        let command_line = process.read("cmdline", MAX_ARGUMENTS)?;
        // A process that is just being started has its program before it has its command line:
        // without this, it would be taken for a node on the main chain with the default data
        // directory.
        if command_line.is_empty() {
            return Err(io::Error::other("it has no command line yet"));
        }
        next();
        let folder = process.link("cwd").unwrap_or_else(|_| PathBuf::from("/"));
        next();
        let home = home(&process).unwrap_or_else(|| PathBuf::from("/"));
        next();
        let root = filesystem::stat(process.root()?.as_fd())?.id;
        let shares_root = FileId::of(Path::new("/")) == Some(root);
        let shares_mounts = shares_root && process.shares_namespace("mnt");
        let shares_users = process.shares_namespace("user");
        // A program that runs with the rights of its owner is told what to do by whoever started it.
        let user = match identity.program.is_set_id {
            true => None,
            false => identity.credentials.user(shares_users),
        };
        next();
        // Before any file is opened with the rights of this user.
        still(&process, &identity)?;
        next();
        let mut node = NodeProcess {
            pid: process.pid(),
            started: identity.started,
            run_ns: run_ns(identity.started),
            exe: without_deleted(&exe),
            file: identity.program.file,
            datadir: home.join(".bitcoin"),
            datadir_id: None,
            has_no_datadir: false,
            default_datadir: true,
            network: Network::Mainnet,
            owner: identity.credentials.real_uid(),
            user,
            settings: Settings::default(),
            shares_root,
            shares_mounts,
            shares_users,
            process,
        };
        node.read_settings(&command_line, &folder, &home);
        next();
        still(&node.process, &identity)?;
        Ok(node)
    }

    fn read_settings(&mut self, command_line: &[u8], folder: &Path, home: &Path) {
        self.settings = Settings::of_command_line(command_line);
        if command_line.len() as u64 > MAX_ARGUMENTS {
            self.settings.exceed(Excess::Length("command line", MAX_ARGUMENTS));
        }
        if let Some(dir) = self.settings.datadir() {
            self.datadir = folder.join(dir);
            self.default_datadir = self.datadir == home.join(".bitcoin");
        }
        let is_asked_for = self.settings.datadir().is_some();
        let access = self.access(self.root());
        let mut files = ConfFiles { access: access.as_ref(), read: Vec::new(), left: MAX_CONF };
        let conf = self.datadir.join(self.settings.conf().unwrap_or("bitcoin.conf"));
        files.add(&conf, &mut self.settings);
        // Core: the command line wins over the file, and a data directory in the file moves all but
        // the file itself.
        if !is_asked_for && let Some(dir) = self.settings.datadir() {
            self.datadir = folder.join(dir);
            self.default_datadir = false;
        }
        self.network = self.settings.network().unwrap_or(Network::Mainnet);
        let included = self.settings.all("includeconf", self.network).into_iter().take(MAX_INCLUDED);
        let included: Vec<PathBuf> = included.map(|file| self.datadir.join(file)).collect();
        for file in included {
            files.add(&file, &mut self.settings);
        }
        if self.datadir.as_os_str().len() > MAX_PATH {
            self.settings.exceed(Excess::Value("datadir"));
            self.datadir = PathBuf::from("/");
        }
        self.find_datadir();
    }

    /// Looks for the data directory at its path.
    pub(crate) fn find_datadir(&mut self) {
        let Some(access) = self.access(self.root()) else { return };
        let found = access.own_folder(&self.datadir);
        self.has_no_datadir = found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        self.datadir_id = found.ok().flatten();
    }
}

/// Fails unless the process runs the same program with the same rights still.
fn still(process: &ProcessDir, identity: &Identity) -> io::Result<()> {
    match process.identity()? == *identity {
        true => Ok(()),
        false => Err(io::Error::other("it became another program or user while it was looked at")),
    }
}

/// The configuration files of a node, each read once, and not more than a bound for all of them.
struct ConfFiles<'a> {
    access: Option<&'a Access>,
    read: Vec<FileId>,
    /// Bytes that may be read.
    left: u64,
}

impl ConfFiles<'_> {
    /// Adds the settings of a file, as far as the node's user may read it.
    fn add(&mut self, path: &Path, settings: &mut Settings) {
        let Some(file) = self.access.and_then(|access| access.open(path).ok()) else { return };
        let Ok(meta) = file.metadata() else { return };
        let id = FileId::from(&meta);
        if self.read.contains(&id) {
            return;
        }
        self.read.push(id);
        let mut text = Vec::new();
        if file.take(self.left + 1).read_to_end(&mut text).is_err() {
            return;
        }
        if text.len() as u64 > self.left {
            text.truncate(self.left as usize);
            settings.exceed(Excess::Length("bitcoin.conf, with what it includes,", MAX_CONF));
        }
        self.left -= text.len() as u64;
        settings.add_file(&String::from_utf8_lossy(&text));
    }
}

/// Start of a process, ns since the UNIX epoch, from its start in clock ticks since boot. The
/// kernel counts these ticks at 100 a second for everybody (USER_HZ), and tells the time of the
/// boot in seconds.
fn run_ns(started: u64) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    boot.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(started.saturating_mul(TICK_NS))
}

/// A process that may be a node.
pub(crate) struct Candidate {
    pub(crate) process: Arc<ProcessDir>,
    /// Owner of its folder in /proc: its effective user.
    pub(crate) uid: u32,
}

/// Which processes are nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Programs by file, besides those with a known name. With any of these or `pids`, names do not count.
    pub(crate) files: Vec<FileId>,
    /// Processes by id.
    pub(crate) pids: Option<Vec<u32>>,
    /// Files only: names do not count.
    pub(crate) by_file: bool,
}

impl Wanted {
    /// The process runs what is wanted.
    pub(crate) fn wants(&self, process: &ProcessDir) -> bool {
        match &self.pids {
            Some(pids) => pids.contains(&process.pid()),
            None if self.by_file => process.program().is_ok_and(|program| self.files.contains(&program.file)),
            None => process.link("exe").is_ok_and(|exe| has_node_name(&exe)),
        }
    }

    /// The processes that may be nodes, but for those that `skip` knows already, and for those
    /// whose user has no room: these are not even opened, and `left_out` is told of them.
    pub(crate) fn candidates(
        &self,
        skip: impl Fn(u32) -> bool,
        mut has_room: impl FnMut(u32) -> bool,
        mut left_out: impl FnMut(u32),
    ) -> Vec<Candidate> {
        let pids: Vec<u32> = match &self.pids {
            Some(pids) => pids.clone(),
            None => processes(),
        };
        let found = pids.into_iter().filter(|pid| !skip(*pid)).filter_map(|pid| {
            // Most processes are none, and this is one call for them.
            if self.pids.is_none()
                && !self.by_file
                && !fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| has_node_name(&exe))
            {
                return None;
            }
            let open = || ProcessDir::open(pid).ok().filter(|process| self.wants(process));
            // What a process runs is known only of one that is open.
            let opened = match self.by_file {
                true => Some(open()?),
                false => None,
            };
            let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
            if !has_room(uid) {
                left_out(pid);
                return None;
            }
            let process = opened.or_else(open)?;
            Some(Candidate { process: Arc::new(process), uid })
        });
        found.collect()
    }
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The node that is this process, whatever its name; nothing when there is no such process.
pub fn process(pid: u32) -> Option<NodeProcess> {
    NodeProcess::read(Arc::new(ProcessDir::open(pid).ok()?)).ok()
}

/// Nodes by name that run and whose program may not be looked at: /proc/PID/exe of other users
/// needs CAP_SYS_PTRACE.
pub fn hidden() -> Vec<u32> {
    const SHOWN: usize = 16;
    let is_hidden = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            // The kernel cuts names at 15 bytes; Core names its main thread b-NAME.
            .is_ok_and(|comm| NODE_PROGRAMS.contains(&comm.trim_end().trim_start_matches("b-")))
            && fs::read_link(format!("/proc/{pid}/exe"))
                .is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    };
    processes().into_iter().filter(is_hidden).take(SHOWN).collect()
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

/// HOME of a process, unless it is longer than a path can be.
fn home(process: &ProcessDir) -> Option<PathBuf> {
    let all = process.read("environ", MAX_ENVIRONMENT).ok()?;
    let home = all.split(|b| *b == 0).find_map(|variable| variable.strip_prefix(b"HOME="))?;
    (home.len() <= MAX_PATH).then(|| OsString::from_vec(home.to_vec()).into())
}

#[cfg(test)]
mod tests;
