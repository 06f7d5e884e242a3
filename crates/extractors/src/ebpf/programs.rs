//! Attaches to the programs of nodes, and detaches before what is in a file can change.
//!
//! The kernel knows a probe by file and offset, and puts a breakpoint there in every process that runs the file from then on, whatever is in
//! it by then. A program that is overwritten in place (`cp` over a node that was stopped) would get the breakpoints of the
//! one before, in the middle of its instructions, and crash or compute something else. So there are two ways to attach:
//!
//! - to a file, for all processes that run it now and later, under a lease: whoever opens it for writing waits until we have
//!   detached from it;
//! - to one process, where no lease is to be had: other processes get no breakpoint, and what a process runs cannot be written.
//!
//! The kernel's programs have room for [`kernel::MAX_FORMS`] forms of arguments, and whoever writes a program chooses how many
//! it has. So there is a limit for each tracepoint of a program, and one for all programs of a user. What cannot be attached
//! to is tried again, less and less often.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libbpf_rs::{ErrorKind, Link};
use peer_observer_node::discover::{FileId, NodeProcess};
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::probes::{self, MAX_PLACES, Probes};

use super::kernel::{self, Kernel, KernelBooks, MAX_FORMS};
use super::lease::{Lease, Leases};

/// Forms of arguments for the programs of one user other than root: 64 nodes of Bitcoin Core, attached to process by process.
const MAX_FORMS_OF_USER: usize = MAX_FORMS as usize / 4;
/// Forms for the programs of all such users: the rest is for root's.
const MAX_FORMS_OF_USERS: usize = MAX_FORMS as usize - MAX_FORMS_OF_USER;
/// What failed is tried again after this time, after twice as long the next time, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A process: its id, and when it started.
type ProcessId = (u32, u64);

/// An attachment: to which file, and for which process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    file: FileId,
    process: Option<ProcessId>,
}

/// What tells that a file has changed: its length, and the times of its last changes.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A program that is known by its path, running or not.
pub(super) struct AtPath {
    pub(super) path: PathBuf,
    pub(super) program: File,
    pub(super) file: FileId,
    /// The user who chose it.
    pub(super) owner: u32,
}

impl AtPath {
    /// The program that is at the path now.
    pub(super) fn new(path: &Path, program: File, owner: u32) -> Option<Self> {
        let file = FileId::from(&program.metadata().ok()?);
        Some(AtPath { path: path.to_path_buf(), program, file, owner })
    }
}

/// Whose hits are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach<'a> {
    /// Of all that run the program, now and later. Where that cannot be, of this one that runs it.
    All(&'a NodeProcess),
    /// Of this process, and no other.
    One(&'a NodeProcess),
}

/// What is to be attached to.
struct Target<'a> {
    program: &'a File,
    path: &'a Path,
    key: Key,
    /// The user who chose the program.
    owner: u32,
}

/// In this order it is detached from: no probe is left when the file may be written.
struct Attached {
    links: Vec<(Tracepoint, Link)>,
    lease: Option<Lease>,
    probes: Probes,
    state: State,
    path: PathBuf,
    owner: u32,
}

impl Attached {
    /// Forms of arguments that it may take up.
    fn forms(&self) -> usize {
        self.links.iter().map(|(tracepoint, _)| self.probes.places(*tracepoint)).sum()
    }
}

/// An attempt that failed.
struct Failure {
    /// What the file was then: one that is still being written is tried again when it has changed.
    state: State,
    /// When to try again in any case; nothing when only another file will do.
    again: Option<Instant>,
    pause: Duration,
}

/// Why a tracepoint was not attached to.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the kernel refuses: {source} ({})", hint(source))]
    Kernel { source: libbpf_rs::Error },
    #[error("the programs of user {owner} have more than {MAX_FORMS_OF_USER} places with tracepoints")]
    OfUser { owner: u32 },
    #[error("the programs of all users have more than {MAX_FORMS_OF_USERS} places with tracepoints")]
    OfUsers,
}

/// What to do about an error of libbpf.
fn hint(error: &libbpf_rs::Error) -> &'static str {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::PermissionDenied => "run as root, or with CAP_BPF and CAP_PERFMON",
        ErrorKind::TooBig => "other programs take up all places for forms of arguments: it is tried again",
        _ if text.contains("os error 24") || text.contains("os error 23") => {
            "out of file descriptors: raise LimitNOFILE or `ulimit -n`"
        }
        _ if text.contains("os error 28") || text.contains("os error 12") => {
            "the kernel is out of memory for probes"
        }
        _ => "it is tried again",
    }
}

/// What is attached to.
pub(super) struct Programs {
    kernel: Kernel,
    wanted: Vec<Tracepoint>,
    leases: Leases,
    attached: HashMap<Key, Attached>,
    failed: HashMap<Key, Failure>,
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

    /// Attaches to a program before it runs, so that nothing of its start is missed.
    pub(super) fn attach_file(&mut self, at: &AtPath) {
        let key = Key { file: at.file, process: None };
        if self.is_attached(key) || self.files().any(|file| file == at.file) {
            return;
        }
        let target = Target { program: &at.program, path: &at.path, key, owner: at.owner };
        if self.is_left_alone(&target) {
            return;
        }
        if let Some(lease) = self.lease(&at.program, &at.path) {
            self.attach_to(&target, Some(lease));
        }
    }

    /// Attaches to the program of a node, unless it is attached to already.
    pub(super) fn attach(&mut self, reach: Reach<'_>) {
        let (Reach::One(node) | Reach::All(node)) = reach;
        let of_all = Key { file: node.file, process: None };
        let of_process = Key { file: node.file, process: Some((node.pid, node.started)) };
        let attached = [of_all, of_process].into_iter().find(|key| self.is_attached(*key));
        let is_complete = |key: &Key| self.attached[key].links.len() == self.wanted_of(key).count();
        if attached.is_some_and(|key| is_complete(&key)) {
            return;
        }
        let Ok(program) = node.open_program() else { return };
        let target = |key| Target { program: &program, path: &node.exe, key, owner: node.owner };
        if let Some(key) = attached {
            return self.attach_rest(&target(key));
        }
        if [of_all, of_process].into_iter().any(|key| self.is_left_alone(&target(key))) {
            return;
        }
        let lease = match reach {
            // What is attached to for one process as well would tell of each of its hits twice.
            Reach::All(_) if self.files().all(|attached| attached != node.file) => {
                self.lease(&program, &node.exe)
            }
            _ => None,
        };
        let key = if lease.is_some() { of_all } else { of_process };
        self.attach_to(&target(key), lease);
    }

    fn is_attached(&self, key: Key) -> bool {
        self.attached.contains_key(&key)
    }

    /// The files that are attached to.
    fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.attached.keys().map(|key| key.file)
    }

    /// The tracepoints that are wanted of a program that is attached to, and there.
    fn wanted_of(&self, key: &Key) -> impl Iterator<Item = Tracepoint> + '_ {
        let probes = self.attached.get(key).map(|attached| &attached.probes);
        self.wanted.iter().copied().filter(move |wanted| probes.is_some_and(|probes| probes.has(*wanted)))
    }

    /// It failed, and is not to be tried again yet.
    fn is_left_alone(&self, target: &Target<'_>) -> bool {
        let Some(failure) = self.failed.get(&target.key) else { return false };
        let is_the_same = target.program.metadata().is_ok_and(|meta| State::from(&meta) == failure.state);
        is_the_same && failure.again.is_none_or(|again| Instant::now() < again)
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

    /// Attaches to a program that nothing is attached to. From the lease on, what is read of it is what is attached to.
    fn attach_to(&mut self, target: &Target<'_>, lease: Option<Lease>) {
        let Ok(meta) = target.program.metadata() else { return };
        let state = State::from(&meta);
        let Some(probes) = self.read(target) else {
            self.failed.insert(target.key, Failure { state, again: None, pause: FIRST_PAUSE });
            return;
        };
        let (path, owner) = (target.path.to_path_buf(), target.owner);
        let attached = Attached { links: Vec::new(), lease, probes, state, path, owner };
        self.attached.insert(target.key, attached);
        self.attach_rest(target);
        let Some(attached) = self.attached.get(&target.key) else { return };
        if attached.links.is_empty() {
            self.attached.remove(&target.key);
            return;
        }
        let pid = target.key.process.map(|(pid, _)| pid);
        let (tracepoints, core) = (attached.links.len(), attached.probes.release());
        tracing::info!(program = %target.path.display(), tracepoints, core, pid, "attached");
        self.report_missing(target.path, &attached.probes);
    }

    /// Attaches to the tracepoints of a program that are not attached to yet.
    fn attach_rest(&mut self, target: &Target<'_>) {
        if self.is_left_alone(target) {
            return;
        }
        let Some(attached) = self.attached.get(&target.key) else { return };
        let state = attached.state.clone();
        let has = |tracepoint: Tracepoint| attached.links.iter().any(|(linked, _)| *linked == tracepoint);
        // Messages come last, so that no message is seen of a connection that was not.
        let mut missing: Vec<Tracepoint> = self.wanted_of(&target.key).filter(|t| !has(*t)).collect();
        missing.reverse();
        // The path may lead elsewhere by now.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", target.program.as_raw_fd()));
        let pid = target.key.process.map(|(pid, _)| pid);
        let before = self.failed.remove(&target.key);
        for tracepoint in missing {
            let linked = self.check_forms(target, tracepoint).and_then(|()| {
                self.kernel.attach(&opened, pid, tracepoint).map_err(|source| Refused::Kernel { source })
            });
            match linked {
                Ok(link) => {
                    if let Some(attached) = self.attached.get_mut(&target.key) {
                        attached.links.push((tracepoint, link));
                    }
                }
                Err(error) => {
                    let pause =
                        before.as_ref().map_or(FIRST_PAUSE, |before| (2 * before.pause).min(LONGEST_PAUSE));
                    // Once: it is the same for all, and is tried again.
                    if before.is_none() {
                        tracing::error!(
                            tracepoint = tracepoint.as_str(), program = %target.path.display(), pid, %error, "cannot attach"
                        );
                    }
                    let again = Some(Instant::now() + pause);
                    self.failed.insert(target.key, Failure { state, again, pause });
                    return;
                }
            }
        }
    }

    /// Refuses what would leave no room for the programs of others.
    fn check_forms(&self, target: &Target<'_>, tracepoint: Tracepoint) -> Result<(), Refused> {
        let more = self.attached.get(&target.key).map_or(0, |attached| attached.probes.places(tracepoint));
        if target.owner == 0 {
            return Ok(());
        }
        let used = |of: &dyn Fn(u32) -> bool| -> usize {
            self.attached.values().filter(|attached| of(attached.owner)).map(Attached::forms).sum()
        };
        if used(&|owner| owner == target.owner) + more > MAX_FORMS_OF_USER {
            return Err(Refused::OfUser { owner: target.owner });
        }
        if used(&|owner| owner != 0) + more > MAX_FORMS_OF_USERS {
            return Err(Refused::OfUsers);
        }
        Ok(())
    }

    /// The tracepoints of a program, if it can be attached to at all. Says why if not.
    fn read(&self, target: &Target<'_>) -> Option<Probes> {
        let failed = |source| probes::Error::Read { path: target.path.display().to_string(), source };
        let program = target.program.try_clone().map_err(failed);
        let probes = match program.and_then(|program| Probes::of_file(program, target.path)) {
            Ok(probes) => probes,
            Err(error) => {
                tracing::error!(%error, "cannot look for tracepoints");
                return None;
            }
        };
        if let Some(tracepoint) = probes.excessive() {
            tracing::error!(
                program = %target.path.display(), tracepoint = tracepoint.as_str(), places = probes.places(tracepoint),
                max = MAX_PLACES, "this program has a tracepoint in too many places, it is not attached to"
            );
            return None;
        }
        if !self.wanted.iter().any(|wanted| probes.has(*wanted)) {
            report_no_tracepoints(target.path, &probes);
            return None;
        }
        Some(probes)
    }

    fn report_missing(&self, path: &Path, probes: &Probes) {
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

    /// Waits until a writer waits for one of the programs, or the time is over, and detaches from programs that are to be written.
    pub(super) fn wait(&mut self, at_most: Duration) {
        self.leases.wait(at_most);
        let is_wanted = |attached: &Attached| attached.lease.as_ref().is_some_and(Lease::is_wanted);
        let wanted = self.take(|_, attached| is_wanted(attached));
        for attached in &wanted {
            tracing::info!(program = %attached.path.display(), "the program is being written: let go of it");
        }
        let_go(wanted);
    }

    /// Detaches from processes that ended, and from files that nobody runs and that are at none of the known paths, or are not what they were.
    pub(super) fn keep<'a>(&mut self, running: impl Iterator<Item = &'a NodeProcess>, at_paths: &[AtPath]) {
        let running: Vec<(FileId, ProcessId)> = running.map(|n| (n.file, (n.pid, n.started))).collect();
        let files: HashSet<FileId> = running.iter().map(|(file, _)| *file).collect();
        let processes: HashSet<ProcessId> = running.iter().map(|(_, process)| *process).collect();
        let at_path = |file: &FileId| at_paths.iter().find(|at| at.file == *file);
        // A lease says nothing of what is written from another machine.
        let is_as_it_was =
            |at: &AtPath, state: &State| at.program.metadata().is_ok_and(|meta| State::from(&meta) == *state);
        let unused = self.take(|key, attached| match key.process {
            Some(process) => !processes.contains(&process),
            None if files.contains(&key.file) => false,
            None => at_path(&key.file).is_none_or(|at| !is_as_it_was(at, &attached.state)),
        });
        let_go(unused);
        self.failed.retain(|key, _| match key.process {
            Some(process) => processes.contains(&process),
            None => files.contains(&key.file) || at_path(&key.file).is_some(),
        });
    }

    fn take(&mut self, which: impl Fn(&Key, &Attached) -> bool) -> Vec<Attached> {
        self.attached.extract_if(|key, attached| which(key, attached)).map(|(_, attached)| attached).collect()
    }

    /// Detaches from everything: no hit comes after this.
    pub(super) fn detach(&mut self) {
        let_go(self.take(|_, _| true));
    }
}

fn let_go(mut attached: Vec<Attached>) {
    if !attached.is_empty() {
        let links = attached.iter_mut().flat_map(|a| std::mem::take(&mut a.links));
        kernel::detach(links.map(|(_, link)| link).collect());
    }
    // The leases go only now.
}

fn report_no_tracepoints(path: &Path, probes: &Probes) {
    if probes.any() {
        tracing::error!(program = %path.display(), "this program has none of the wanted tracepoints");
    } else {
        tracing::error!(
            program = %path.display(),
            "this program has no tracepoints: use a release of Bitcoin Core 22 or later for Linux, or build with -DWITH_USDT=ON \
             (and systemtap-sdt-dev installed)"
        );
    }
}
