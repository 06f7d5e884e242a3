//! Attaches to the programs of nodes, and detaches before what is in a file can change.
//!
//! The kernel knows a probe by file and offset, and puts a breakpoint there in every process that
//! runs the file from then on, whatever is in it by then. A program that is overwritten in place
//! (`cp` over a node that was stopped) would get the breakpoints of the one before, in the middle
//! of its instructions, and crash or compute something else. So there are two ways to attach:
//!
//! - to a file, for all processes that run it now and later, under a lease: whoever opens it for writing waits until we have
//!   detached from it;
//! - to one process, where no lease is to be had: other processes get no breakpoint, and what a process runs cannot be written.
//!
//! The kernel's programs have room for [`kernel::MAX_FORMS`] forms of arguments, and whoever writes
//! a program chooses how many it has. So there is a limit for each tracepoint of a program, and one
//! for all programs of a user. What cannot be attached to is tried again, less and less often.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libbpf_rs::{ErrorKind, Link};
use peer_observer_node::discover::{FileId, NodeProcess};
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::probes::{self, MAX_PLACES, Probes};

use super::kernel::{self, Kernel, KernelBooks, MAX_FORMS};
use super::lease::{Lease, Leases};

/// Forms of arguments for the programs of one user other than root: 64 nodes of Bitcoin Core,
/// attached to process by process.
const MAX_FORMS_OF_USER: usize = MAX_FORMS as usize / 4;
/// Forms for the programs of all such users: the rest is for root's.
const MAX_FORMS_OF_USERS: usize = MAX_FORMS as usize - MAX_FORMS_OF_USER;

/// Forms that programs of users other than root may take up.
#[derive(Debug, Clone, Copy)]
struct Limits {
    of_user: usize,
    of_users: usize,
}
/// What failed is tried again after this time, after twice as long the next time, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Attachments, of some 15 links each, that are let go of at once.
const BATCH: usize = 16;

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

impl Target<'_> {
    fn attempt(&self) -> Attempt {
        Attempt { key: self.key, owner: self.owner }
    }
}

/// An attempt to attach: what one user's programs have no room for, another's may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Attempt {
    key: Key,
    owner: u32,
}

/// In this order it is detached from: no probe is left when the file may be written.
struct Attached {
    links: Vec<(Tracepoint, Link)>,
    /// Descriptors of the links.
    descriptors: Vec<RawFd>,
    lease: Option<Lease>,
    probes: Probes,
    state: State,
    path: PathBuf,
    /// The user whose forms it takes up.
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
    #[error("the kernel refuses: {source:#} ({})", hint(source))]
    Kernel { source: libbpf_rs::Error },
    #[error("the programs of user {owner} have more than {max} places with tracepoints")]
    OfUser { owner: u32, max: usize },
    #[error("the programs of all users have more than {max} places with tracepoints")]
    OfUsers { max: usize },
}

impl Refused {
    /// There is no room for the other tracepoints either.
    fn is_exhausted(&self) -> bool {
        let Refused::Kernel { source } = self else { return true };
        let numbers = [libc::E2BIG, libc::EMFILE, libc::ENFILE, libc::ENOSPC, libc::ENOMEM];
        kernel::errno(source).is_some_and(|number| numbers.contains(&number))
    }
}

/// What to do about an error of libbpf.
fn hint(error: &libbpf_rs::Error) -> &'static str {
    match (error.kind(), kernel::errno(error)) {
        (ErrorKind::PermissionDenied, _) => "run as root, or with CAP_BPF and CAP_PERFMON",
        (ErrorKind::TooBig, _) => {
            "other programs take up all places for forms of arguments: it is tried again"
        }
        (_, Some(libc::EMFILE | libc::ENFILE)) => "out of file descriptors: raise LimitNOFILE or `ulimit -n`",
        (_, Some(libc::ENOSPC | libc::ENOMEM)) => "the kernel is out of memory for probes",
        _ => "it is tried again",
    }
}

/// What is attached to.
pub(super) struct Programs {
    wanted: Vec<Tracepoint>,
    leases: Leases,
    attached: HashMap<Key, Attached>,
    failed: HashMap<Attempt, Failure>,
    limits: Limits,
    // Dropped last: the links use memory of the loaded object when they are dropped.
    kernel: Kernel,
}

impl Programs {
    /// Call it, and all that it has, on one thread.
    ///
    /// # Errors
    /// When the kernel does not tell of leases.
    pub(super) fn new(kernel: Kernel, wanted: Vec<Tracepoint>) -> io::Result<Self> {
        let leases = Leases::of_this_thread()?;
        let (attached, failed) = Default::default();
        let limits = Limits { of_user: MAX_FORMS_OF_USER, of_users: MAX_FORMS_OF_USERS };
        Ok(Programs { wanted, leases, attached, failed, limits, kernel })
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
        let Some(failure) = self.failed.get(&target.attempt()) else { return false };
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

    /// Attaches to a program that nothing is attached to. From the lease on, what is read of it is
    /// what is attached to.
    fn attach_to(&mut self, target: &Target<'_>, lease: Option<Lease>) {
        let Ok(meta) = target.program.metadata() else { return };
        let state = State::from(&meta);
        let Some(probes) = self.read(target) else {
            self.failed.insert(target.attempt(), Failure { state, again: None, pause: FIRST_PAUSE });
            return;
        };
        let (path, owner) = (target.path.to_path_buf(), target.owner);
        let (links, descriptors) = Default::default();
        let attached = Attached { links, descriptors, lease, probes, state, path, owner };
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
        let before = self.failed.remove(&target.attempt());
        let open_before = kernel::link_descriptors();
        let (mut failed, mut first_error) = (Vec::new(), None);
        for tracepoint in missing {
            let linked = self.check_forms(target, tracepoint).and_then(|()| {
                self.kernel.attach(&opened, pid, tracepoint).map_err(|source| Refused::Kernel { source })
            });
            match linked {
                Ok(link) => {
                    if let Some(attached) = self.attached.get_mut(&target.key) {
                        attached.links.push((tracepoint, link));
                        attached.owner = target.owner;
                    }
                }
                Err(error) => {
                    failed.push(tracepoint.as_str());
                    let is_exhausted = error.is_exhausted();
                    first_error.get_or_insert(error);
                    if is_exhausted {
                        break;
                    }
                }
            }
        }
        if let Some(attached) = self.attached.get_mut(&target.key) {
            attached.descriptors.extend(kernel::link_descriptors().difference(&open_before));
        }
        let Some(error) = first_error else { return };
        let pause = before.as_ref().map_or(FIRST_PAUSE, |before| (2 * before.pause).min(LONGEST_PAUSE));
        // Once: it is tried again.
        if before.is_none() {
            tracing::error!(
                tracepoints = failed.join(" "), program = %target.path.display(), pid, %error, "cannot attach"
            );
        }
        let again = Some(Instant::now() + pause);
        self.failed.insert(target.attempt(), Failure { state, again, pause });
    }

    /// Refuses what would leave no room for the programs of others. All that the target has counts
    /// for its user, also what was attached to for another user who runs the same file.
    fn check_forms(&self, target: &Target<'_>, tracepoint: Tracepoint) -> Result<(), Refused> {
        if target.owner == 0 {
            return Ok(());
        }
        let own = self.attached.get(&target.key);
        let own = own.map_or(0, |attached| attached.forms() + attached.probes.places(tracepoint));
        let used = |of: &dyn Fn(u32) -> bool| -> usize {
            let others =
                self.attached.iter().filter(|(key, attached)| **key != target.key && of(attached.owner));
            others.map(|(_, attached)| attached.forms()).sum()
        };
        let Limits { of_user, of_users } = self.limits;
        if used(&|owner| owner == target.owner) + own > of_user {
            return Err(Refused::OfUser { owner: target.owner, max: of_user });
        }
        if used(&|owner| owner != 0) + own > of_users {
            return Err(Refused::OfUsers { max: of_users });
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

    /// Waits until a writer waits for one of the programs, or the time is over, and detaches from
    /// programs that are to be written.
    pub(super) fn wait(&mut self, at_most: Duration) {
        self.leases.wait(at_most);
        let is_wanted = |attached: &Attached| attached.lease.as_ref().is_some_and(Lease::is_wanted);
        let wanted = self.take(|_, attached| is_wanted(attached));
        for attached in &wanted {
            tracing::info!(program = %attached.path.display(), "the program is being written: let go of it");
        }
        let_go(wanted);
    }

    /// Detaches from processes that ended, and from files that nobody runs and that are at none of
    /// the known paths, or are not what they were.
    pub(super) fn keep<'a>(&mut self, running: impl Iterator<Item = &'a NodeProcess>, at_paths: &[AtPath]) {
        let running: Vec<(FileId, ProcessId, u32)> =
            running.map(|n| (n.file, (n.pid, n.started), n.owner)).collect();
        let files: HashSet<FileId> = running.iter().map(|(file, ..)| *file).collect();
        let processes: HashSet<(FileId, ProcessId)> =
            running.iter().map(|(file, process, _)| (*file, *process)).collect();
        let at_path = |file: &FileId| at_paths.iter().find(|at| at.file == *file);
        // A lease says nothing of what is written from another machine.
        let is_as_it_was =
            |at: &AtPath, state: &State| at.program.metadata().is_ok_and(|meta| State::from(&meta) == *state);
        let unused = self.take(|key, attached| match key.process {
            Some(process) => !processes.contains(&(key.file, process)),
            None if files.contains(&key.file) => false,
            None => at_path(&key.file).is_none_or(|at| !is_as_it_was(at, &attached.state)),
        });
        let_go(unused);
        let choices: HashSet<(FileId, u32)> =
            running.iter().map(|(file, _, owner)| (*file, *owner)).collect();
        let chosen = |file, owner| {
            choices.contains(&(file, owner)) || at_paths.iter().any(|at| (at.file, at.owner) == (file, owner))
        };
        self.failed.retain(|Attempt { key, owner }, _| match key.process {
            Some(process) => processes.contains(&(key.file, process)),
            None => chosen(key.file, *owner),
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
    // So few at once, because links need second descriptors meanwhile.
    for batch in attached.chunks_mut(BATCH) {
        let links =
            batch.iter_mut().flat_map(|a| std::mem::take(&mut a.links)).map(|(_, link)| link).collect();
        let descriptors: Vec<RawFd> =
            batch.iter_mut().flat_map(|a| std::mem::take(&mut a.descriptors)).collect();
        kernel::detach(links, &descriptors);
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

#[cfg(test)]
mod tests {
    use libbpf_rs::ErrorExt;
    use peer_observer_node::discover;
    use peer_observer_testkit::standin::{Binary, Config, StandIn, Variant};
    use peer_observer_testkit::{LONG, need, require, wait_until};

    use super::*;
    use crate::ebpf::kernel::LoadOptions;

    fn programs() -> Programs {
        let options = LoadOptions {
            ring_bytes: 1 << 16,
            max_payload: 0,
            type_limits: Default::default(),
            watches_signals: false,
        };
        Programs::new(Kernel::load(&options).unwrap(), Tracepoint::ALL.to_vec()).unwrap()
    }

    /// The node that a stand-in is, as if this user had started it.
    fn node(standin: &StandIn, owner: u32) -> NodeProcess {
        NodeProcess { owner, ..discover::process(standin.pid()).unwrap() }
    }

    /// Forms that it takes up to attach to all tracepoints of a node.
    fn forms(node: &NodeProcess) -> usize {
        let probes = Probes::of_node(node).unwrap();
        probes.known().map(|tracepoint| probes.places(tracepoint)).sum()
    }

    fn limit(programs: &mut Programs, of_user: usize) {
        programs.limits = Limits { of_user, of_users: 100 * of_user };
    }

    fn of_file<'a>(programs: &'a Programs, node: &NodeProcess) -> Option<&'a Attached> {
        programs.attached.get(&Key { file: node.file, process: None })
    }

    #[test]
    fn user_over_quota_does_not_block_others_with_the_same_program() {
        require!(need::root());
        // The second time, some tracepoints of the shared program fit.
        for more in [0, 3] {
            let hog = StandIn::start(Variant::Core30, &Config::pings(1)).unwrap();
            let shared = Binary::install(Variant::Core30).unwrap();
            let standins = [1, 2].map(|_| shared.start(&Config::pings(1)).unwrap());
            let hog = node(&hog, 4711);
            let (stranger, honest) = (node(&standins[0], 4711), node(&standins[1], 4712));
            let mut programs = programs();
            limit(&mut programs, forms(&hog) + more);
            programs.attach(Reach::One(&hog));
            programs.attach(Reach::All(&stranger));
            assert_eq!(of_file(&programs, &honest).map_or(0, |attached| attached.links.len()), more);
            programs.attach(Reach::All(&honest));
            let attached = of_file(&programs, &honest).unwrap();
            assert_eq!(attached.links.len(), attached.probes.known().count());
            assert_eq!(attached.owner, 4712);
            // What the stranger is refused is forgotten with the last node of his.
            assert_eq!(programs.failed.len(), 1);
            programs.keep([&hog, &honest].into_iter(), &[]);
            assert!(programs.failed.is_empty() && of_file(&programs, &honest).is_some());
        }
    }

    #[test]
    fn refused_node_is_attached_after_others_of_its_user_ended() {
        require!(need::root());
        let standins = [1, 2].map(|_| StandIn::start(Variant::Core30, &Config::pings(1)).unwrap());
        let [hog, other] = [0, 1].map(|at| node(&standins[at], 4711));
        let mut programs = programs();
        limit(&mut programs, forms(&hog));
        programs.attach(Reach::One(&hog));
        programs.attach(Reach::One(&other));
        programs.keep([&hog, &other].into_iter(), &[]);
        assert!(programs.probes(hog.file).is_some() && programs.probes(other.file).is_none());
        programs.keep([&other].into_iter(), &[]);
        assert!(programs.probes(hog.file).is_none());
        let is_attached = wait_until(LONG, || {
            programs.attach(Reach::One(&other));
            programs.probes(other.file).is_some()
        });
        assert!(is_attached);
        let (_, attached) = programs.attached.iter().next().unwrap();
        assert_eq!(attached.links.len(), attached.probes.known().count());
    }

    #[test]
    fn one_tracepoint_that_fails_does_not_keep_others_from_being_attached() {
        require!(need::root());
        let standin = StandIn::start(Variant::Core30, &Config::pings(1)).unwrap();
        let patched = Binary::install(Variant::Patched).unwrap();
        let node = node(&standin, 0);
        let mut programs = programs();
        programs.attach(Reach::All(&node));
        let key = Key { file: node.file, process: None };
        let attached = programs.attached.get_mut(&key).unwrap();
        let has = attached.links.len();
        // As if the program had two more, which come first.
        attached.probes = Probes::of_binary(patched.path()).unwrap();
        attached.links.clear();
        for attempt in 0..2 {
            programs.attach(Reach::All(&node));
            assert_eq!(programs.attached[&key].links.len(), has, "{attempt}");
            let failure = programs.failed.get_mut(&Attempt { key, owner: 0 }).unwrap();
            assert_eq!(failure.pause, FIRST_PAUSE * (1 + attempt));
            failure.again = None;
            failure.state.length += 1;
        }
    }

    #[test]
    fn nothing_is_attached_after_detach() {
        require!(need::root());
        let mut standin = StandIn::start(Variant::Core30, &Config::pings(3)).unwrap();
        let node = node(&standin, 0);
        let mut programs = programs();
        programs.attach(Reach::All(&node));
        let attached = of_file(&programs, &node).unwrap();
        assert!(attached.descriptors.len() >= attached.links.len(), "{:?}", attached.descriptors);
        for fired in [3, 0] {
            standin.go().unwrap();
            assert_eq!(standin.report(LONG).unwrap().fired, fired);
            programs.detach();
        }
    }

    #[test]
    fn hint_names_what_is_exhausted() {
        for (number, wanted, is_exhausted) in [
            (libc::EPERM, "CAP_BPF", false),
            (libc::ENOENT, "tried again", false),
            (libc::E2BIG, "forms of arguments", true),
            (libc::EMFILE, "LimitNOFILE", true),
            (libc::ENFILE, "LimitNOFILE", true),
            (libc::ENOSPC, "out of memory", true),
            (libc::ENOMEM, "out of memory", true),
        ] {
            // As it comes from libbpf_rs.
            let failed: libbpf_rs::Result<()> = Err(libbpf_rs::Error::from_raw_os_error(number));
            let source = failed.context("failed to attach USDT").unwrap_err();
            assert!(hint(&source).contains(wanted), "{source:#}: {}", hint(&source));
            let refused = Refused::Kernel { source };
            assert_eq!(refused.is_exhausted(), is_exhausted, "{refused}");
            assert!(refused.to_string().contains(&format!("os error {number}")), "{refused}");
        }
        assert!(Refused::OfUser { owner: 1, max: 1 }.is_exhausted());
        assert!(Refused::OfUsers { max: 1 }.is_exhausted());
    }
}
