//! Attaches to the programs of nodes, and lets go before what is in a file can change.
//!
//! The kernel knows a probe by file and offset, and puts a breakpoint there in every process that runs the file from then on, whatever is in
//! it by then. A program that is overwritten in place (`cp` over a node that was stopped) would get the breakpoints of the
//! one before, in the middle of its instructions, and crash or compute something else. So there are two ways to attach:
//!
//! - to a file, for all processes that run it now and later, under a lease: whoever opens it for writing waits until we have
//!   let go of it;
//! - to one process, where no lease is to be had: other processes get no breakpoint, and what a process runs cannot be written.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libbpf_rs::Link;
use peer_observer_node::discover::{FileId, NodeProcess};
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::probes::{self, Probes};

use super::kernel::{self, Kernel, KernelBooks};
use super::lease::{Lease, Leases};

/// A process: its id, and when it started.
type ProcessId = (u32, u64);

/// An attachment: to which file, and for which process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    file: FileId,
    process: Option<ProcessId>,
}

/// What tells that a file has changed: its length, and the times of its last changes.
#[derive(Debug, PartialEq, Eq)]
struct State {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for State {
    fn from(meta: &Metadata) -> Self {
        State {
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Whose hits are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach<'a> {
    /// Of all that run the program, now and later. Where that cannot be, of this one that runs it.
    All(Option<&'a NodeProcess>),
    /// Of this process, and no other.
    One(&'a NodeProcess),
}

/// In this order it is let go of: no probe is left when the file may be written.
struct Attached {
    links: Vec<Link>,
    lease: Option<Lease>,
    probes: Probes,
    state: State,
    path: PathBuf,
}

/// What is attached to.
pub(super) struct Programs {
    kernel: Kernel,
    wanted: Vec<Tracepoint>,
    leases: Leases,
    attached: HashMap<Key, Attached>,
    // With what the file was then: one that is still being written is tried again when it has changed.
    failed: HashMap<Key, State>,
}

impl Programs {
    /// Call it, and all that it has, on one thread.
    ///
    /// # Errors
    /// When the kernel does not tell of leases.
    pub(super) fn new(kernel: Kernel, wanted: Vec<Tracepoint>) -> io::Result<Self> {
        let leases = Leases::of_this_thread()?;
        Ok(Programs { kernel, wanted, leases, attached: HashMap::new(), failed: HashMap::new() })
    }

    /// The kernel's books of what hits them.
    ///
    /// # Errors
    /// When the object is not the one this code was written for.
    pub(super) fn books(&self) -> Result<KernelBooks, kernel::Error> {
        self.kernel.books()
    }

    /// The tracepoints of a program that is attached to.
    pub(super) fn probes(&self, file: FileId) -> Option<&Probes> {
        self.attached.iter().find(|(key, _)| key.file == file).map(|(_, attached)| &attached.probes)
    }

    /// The files that are attached to.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.attached.keys().map(|key| key.file)
    }

    /// Attaches to the program at `path`, unless it is attached to already.
    pub(super) fn attach(&mut self, path: &Path, reach: Reach<'_>) {
        let (Reach::One(node) | Reach::All(Some(node))) = reach else {
            let Some(file) = FileId::of(path) else { return };
            return self.attach_to(path, file, None, reach);
        };
        self.attach_to(path, node.file, Some((node.pid, node.started)), reach);
    }

    fn attach_to(&mut self, path: &Path, file: FileId, process: Option<ProcessId>, reach: Reach<'_>) {
        let of_all = Key { file, process: None };
        let of_process = Key { file, process };
        if [of_all, of_process].iter().any(|key| self.attached.contains_key(key)) {
            return;
        }
        let Ok(meta) = std::fs::metadata(path) else { return };
        let state = State::from(&meta);
        if [of_all, of_process].iter().any(|key| self.failed.get(key) == Some(&state)) {
            return;
        }
        let program = match File::open(path) {
            Ok(program) => program,
            Err(source) => {
                let error = probes::Error::Read { path: path.display().to_string(), source };
                tracing::error!(%error, "cannot look for tracepoints");
                self.failed.insert(of_process, state);
                return;
            }
        };
        // Another file may have been put there since.
        if !program.metadata().is_ok_and(|meta| FileId::from(&meta) == file) {
            return;
        }
        let lease = match reach {
            // What is attached to for one process as well would tell of each of its hits twice.
            Reach::All(_) if self.files().all(|attached| attached != file) => self.lease(&program, path),
            _ => None,
        };
        let key = if lease.is_some() { of_all } else { of_process };
        if lease.is_none() && process.is_none() {
            return;
        }
        match self.attached_to(&program, path, process.filter(|_| lease.is_none()), lease) {
            Some(attached) => drop(self.attached.insert(key, attached)),
            None => drop(self.failed.insert(key, state)),
        }
    }

    fn lease(&self, program: &File, path: &Path) -> Option<Lease> {
        match program.try_clone().and_then(|program| self.leases.take(program)) {
            Ok(lease) => Some(lease),
            Err(error) => {
                tracing::debug!(
                    program = %path.display(), %error,
                    "no lease on the program: it is attached to process by process"
                );
                None
            }
        }
    }

    /// From the lease on, what is read of the program is what is attached to.
    fn attached_to(
        &self,
        program: &File,
        path: &Path,
        process: Option<ProcessId>,
        lease: Option<Lease>,
    ) -> Option<Attached> {
        let (probes, state) = match read(program, path) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "cannot look for tracepoints");
                return None;
            }
        };
        // The path may lead elsewhere by now.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
        let mut links = Vec::new();
        // Messages come last, so that no message is seen of a connection that was not.
        for tracepoint in self.wanted.iter().rev().copied().filter(|t| probes.has(*t)) {
            match self.kernel.attach(&opened, process.map(|(pid, _)| pid), tracepoint) {
                Ok(link) => links.push(link),
                Err(error) => tracing::error!(
                    tracepoint = tracepoint.as_str(), program = %path.display(), %error,
                    "cannot attach: run as root, or with CAP_BPF and CAP_PERFMON"
                ),
            }
        }
        if links.is_empty() {
            say_why_nothing_is_attached(path, &probes);
            return None;
        }
        tracing::info!(
            program = %path.display(), tracepoints = links.len(), core = probes.release(),
            pid = process.map(|(pid, _)| pid), "attached"
        );
        self.say_what_is_lacking(path, &probes);
        Some(Attached { links, lease, probes, state, path: path.to_path_buf() })
    }

    fn say_what_is_lacking(&self, path: &Path, probes: &Probes) {
        let lacking: Vec<&str> = self
            .wanted
            .iter()
            .filter(|t| !probes.has(**t) && t.provider() != "addrman")
            .map(|t| t.as_str())
            .collect();
        if !lacking.is_empty() {
            tracing::warn!(
                program = %path.display(), missing = lacking.join(" "), core = probes.release(),
                "this node lacks tracepoints, as older releases do: what they tell will be missing"
            );
        }
    }

    /// Waits until a writer waits for one of the programs, or the time is over, and lets go of the programs that are to be written.
    pub(super) fn wait(&mut self, at_most: Duration) {
        self.leases.wait(at_most);
        let is_wanted = |attached: &Attached| attached.lease.as_ref().is_some_and(Lease::is_wanted);
        let wanted = self.take(|_, attached| is_wanted(attached));
        for attached in &wanted {
            tracing::info!(program = %attached.path.display(), "the program is being written: let go of it");
        }
        let_go(wanted);
    }

    /// Lets go of processes that ended, and of files that nobody runs and that are at none of the known paths, or are not what they were.
    pub(super) fn keep(&mut self, running: &[NodeProcess], at_paths: &[(PathBuf, FileId)]) {
        let run: HashSet<FileId> = running.iter().map(|n| n.file).collect();
        let processes: HashSet<ProcessId> = running.iter().map(|n| (n.pid, n.started)).collect();
        let known = |file: &FileId| run.contains(file) || at_paths.iter().any(|(_, at_path)| at_path == file);
        // A lease says nothing of what is written from another machine.
        let is_as_it_was = |path: &Path, state: &State| {
            std::fs::metadata(path).is_ok_and(|meta| State::from(&meta) == *state)
        };
        let unused = self.take(|key, attached| match key.process {
            Some(process) => !processes.contains(&process),
            None if run.contains(&key.file) => false,
            None => at_paths
                .iter()
                .find(|(_, file)| *file == key.file)
                .is_none_or(|(path, _)| !is_as_it_was(path, &attached.state)),
        });
        let_go(unused);
        self.failed.retain(|key, _| known(&key.file));
    }

    fn take(&mut self, which: impl Fn(&Key, &Attached) -> bool) -> Vec<Attached> {
        self.attached.extract_if(|key, attached| which(key, attached)).map(|(_, attached)| attached).collect()
    }

    /// Lets go of everything: no hit comes after this.
    pub(super) fn detach(&mut self) {
        let_go(self.take(|_, _| true));
    }
}

fn let_go(mut attached: Vec<Attached>) {
    if !attached.is_empty() {
        kernel::detach(attached.iter_mut().flat_map(|a| std::mem::take(&mut a.links)).collect());
    }
    // The leases go only now.
}

fn read(program: &File, path: &Path) -> Result<(Probes, State), probes::Error> {
    let failed = |source| probes::Error::Read { path: path.display().to_string(), source };
    let state = State::from(&program.metadata().map_err(failed)?);
    Ok((Probes::of_file(program.try_clone().map_err(failed)?, path)?, state))
}

fn say_why_nothing_is_attached(path: &Path, probes: &Probes) {
    if probes.any() {
        tracing::error!(
            program = %path.display(),
            "none of the wanted tracepoints could be attached: `peer-observer doctor` tells what is missing"
        );
    } else {
        tracing::error!(
            program = %path.display(),
            "this program has no tracepoints: use a release of Bitcoin Core 22 or later for Linux, or build with -DWITH_USDT=ON \
             (and systemtap-sdt-dev installed)"
        );
    }
}
