//! Follows the nodes of this machine: which run, what changed, which ended and how.
//!
//! One thread looks, for everybody who wants to know. Each [`Subscription`] compares what it has
//! reported with what there is, so a subscriber that is slow holds nothing up and costs no memory.
//!
//! How many nodes there are is up to whoever starts processes, so their number is bounded, in all
//! and for each user. Nodes of root and of our own user have places that no other user can take.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::discover::{Candidate, NodeProcess, Wanted};
use crate::process::{FileId, Identity, ProcessDir, User};

/// Nodes that are followed at once.
pub const MAX_NODES: usize = 256;
/// Of these, those of one user other than root and our own.
pub const MAX_NODES_OF_USER: usize = 64;
/// Of these, those of all such users: the rest is for root and our own user.
const MAX_NODES_OF_USERS: usize = MAX_NODES - MAX_NODES_OF_USER;
/// Ends of processes that are remembered for slow subscribers.
const MAX_ENDS: usize = 4 * MAX_NODES;
/// New nodes of users that are looked at in one look, however long that takes.
const AT_LEAST: usize = 8;
/// No further ones after this time.
const AT_MOST: Duration = Duration::from_millis(100);
/// A node is reported without a data directory only after so many looks.
const WAIT_FOR_DATADIR: u32 = 2;
/// Processes that are looked at between two looks, for who cannot wait.
const LOOKUPS: u32 = 16;
/// Processes that change all the time, and are left alone for some time.
const MAX_UNSTEADY: usize = 4 * MAX_NODES;
/// They are looked at again after this time at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The credentials of a node that is followed are read in one look of so many.
const CREDENTIALS_EVERY: u64 = 4;
/// Who asks for a look waits for so long at most.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A line about nodes that are left out is not repeated sooner.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Which processes are nodes: a program of Bitcoin Core by its name, unless something else is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this process.
    pub pid: Option<u32>,
    /// Only the process whose id is in this file.
    pub pid_file: Option<PathBuf>,
    /// Only processes that run one of these programs.
    pub programs: Vec<PathBuf>,
}

impl Selection {
    /// The process that is asked for, if one is; inside, its id, if it is known.
    fn process(&self) -> Option<Option<u32>> {
        if let Some(pid) = self.pid {
            return Some(Some(pid));
        }
        let file = crate::regular::open(self.pid_file.as_ref()?);
        let read = file.and_then(|file| io::read_to_string(io::Read::take(file, 64)));
        Some(read.ok().and_then(|text| text.trim().parse().ok()))
    }

    fn wanted(&self, followed: impl Iterator<Item = FileId>) -> Wanted {
        if let Some(process) = self.process() {
            return Wanted { pids: Some(process.into_iter().collect()), ..Wanted::default() };
        }
        let mut files: Vec<FileId> = self.programs.iter().filter_map(|path| FileId::of(path)).collect();
        let by_file = !self.programs.is_empty();
        // A program that was replaced may be started again by whoever has it open.
        files.extend(followed.filter(|_| by_file));
        Wanted { files, pids: None, by_file }
    }
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited, with this status.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// The process goes on, and is no node any more: it runs another program.
    Replaced,
    /// The kernel does not say.
    Unknown,
}

impl Ended {
    /// From the status that wait(2) returns.
    pub fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Ended::Exit(status >> 8 & 0xff),
            signal => Ended::Signal(signal),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exit(status) => write!(f, "exit status {status}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
            Ended::Replaced => f.write_str("runs another program"),
            Ended::Unknown => f.write_str("unknown"),
        }
    }
}

/// Says how processes ended, where reading /proc does not.
pub trait ExitSource: Send + Sync {
    /// From now on this process may end.
    fn expect(&self, pid: u32);
    /// How a process ended that is gone: `pidfd` refers to it, where the kernel has that.
    fn ended(&self, pidfd: Option<BorrowedFd<'_>>, pid: u32) -> Option<Ended>;
    /// This process is gone, and its id may be another's.
    fn forget(&self, pid: u32);
}

/// Something that happened to a node.
#[derive(Debug, Clone)]
pub enum NodeEvent {
    /// It runs.
    Appeared(Arc<NodeProcess>),
    /// It is the same process, with another program, user or data directory.
    Changed(Arc<NodeProcess>),
    /// It is gone.
    Gone(Arc<NodeProcess>, Ended),
}

/// A process: its id and when it started.
type ProcessId = (u32, u64);

fn id(node: &NodeProcess) -> ProcessId {
    (node.pid, node.started)
}

/// A process that is followed.
struct Tracked {
    process: Arc<ProcessDir>,
    /// Refers to the process also when it is gone.
    pidfd: Option<OwnedFd>,
    identity: Identity,
    node: Arc<NodeProcess>,
}

/// A process that could not be looked at, as it changed meanwhile: it is tried again less and less often.
struct Unsteady {
    failures: u32,
    again: Instant,
}

/// What subscribers read.
#[derive(Default)]
struct Published {
    nodes: BTreeMap<u32, (u64, Arc<NodeProcess>)>,
    ends: VecDeque<(ProcessId, Ended)>,
}

#[derive(Default)]
struct Shared {
    published: Mutex<Published>,
    /// Grows with each change.
    version: AtomicU64,
    /// Number of looks so far.
    looks: AtomicU64,
    /// Processes that may be looked at between two looks.
    lookups: AtomicU32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn publish(&self, node: Arc<NodeProcess>) {
        let mut published = locked(&self.published);
        let version = self.version.load(Ordering::Acquire) + 1;
        published.nodes.insert(node.pid, (version, node));
        // Only now: who sees the new version finds what is new in it.
        self.version.store(version, Ordering::Release);
    }

    fn remove(&self, node: &NodeProcess, ended: Ended) {
        let mut published = locked(&self.published);
        published.nodes.remove(&node.pid);
        if published.ends.len() == MAX_ENDS {
            published.ends.pop_front();
        }
        published.ends.push_back((id(node), ended));
        self.version.store(self.version.load(Ordering::Acquire) + 1, Ordering::Release);
    }
}

/// How many nodes there are, and whether there is room for one more.
#[derive(Default)]
struct Room {
    nodes: usize,
    /// Of users other than root and our own.
    of_users: HashMap<u32, usize>,
}

impl Room {
    fn of<'a>(nodes: impl Iterator<Item = &'a NodeProcess>, own_uid: u32) -> Self {
        let mut room = Room::default();
        for node in nodes {
            room.add(node.owner, is_privileged(node, own_uid));
        }
        room
    }

    fn add(&mut self, uid: u32, is_privileged: bool) {
        self.nodes += 1;
        if !is_privileged {
            *self.of_users.entry(uid).or_default() += 1;
        }
    }

    fn has_place(&self, uid: u32, is_privileged: bool) -> bool {
        let of_user = self.of_users.get(&uid).copied().unwrap_or(0);
        let of_users: usize = self.of_users.values().sum();
        self.nodes < MAX_NODES
            && (is_privileged || (of_user < MAX_NODES_OF_USER && of_users < MAX_NODES_OF_USERS))
    }
}

/// It is a node of root or of our own user, and not of root in a container only.
fn is_privileged(node: &NodeProcess, own_uid: u32) -> bool {
    node.is_of_root() || (node.owner == own_uid && own_uid != 0)
}

/// Looks for nodes. Not a thread: [`NodeWatcher`] is.
struct Tracker {
    selection: Selection,
    shared: Arc<Shared>,
    tracked: BTreeMap<u32, Tracked>,
    unsteady: HashMap<u32, Unsteady>,
    exits: Vec<Arc<dyn ExitSource>>,
    own_uid: u32,
    reported: Option<Instant>,
    /// Processes that have no data directory yet, and for how many looks.
    incomplete: HashMap<u32, u32>,
    /// Looks for which they are waited for.
    patience: u32,
}

impl Tracker {
    fn new(selection: Selection, shared: Arc<Shared>) -> Self {
        Tracker {
            selection,
            shared,
            tracked: BTreeMap::new(),
            unsteady: HashMap::new(),
            exits: Vec::new(),
            own_uid: own_uid(),
            reported: None,
            incomplete: HashMap::new(),
            patience: WAIT_FOR_DATADIR,
        }
    }

    fn look(&mut self) {
        let files = self.tracked.values().map(|tracked| tracked.identity.program.file);
        let wanted = self.selection.wanted(files);
        let pids: Vec<u32> = self.tracked.keys().copied().collect();
        for pid in pids {
            self.look_again(pid);
        }
        let began = Instant::now();
        let mut left_out = Vec::new();
        let mut room = self.room();
        let skip = |pid| {
            let is_left_alone = self.unsteady.get(&pid).is_some_and(|unsteady| began < unsteady.again);
            self.tracked.contains_key(&pid) || is_left_alone
        };
        let has_room = |uid| {
            // Whether it is of root in a container only is known when it was looked at.
            let is_privileged = uid == 0 || uid == self.own_uid;
            let has_place = room.has_place(uid, is_privileged);
            if has_place {
                room.add(uid, is_privileged);
            }
            has_place
        };
        let mut candidates = wanted.candidates(skip, has_room, |pid| left_out.push(pid));
        // Root's and our own first, then those that were there first.
        candidates.sort_by_cached_key(|candidate| {
            let identity = candidate.process.identity().ok();
            let started = identity.as_ref().map_or(u64::MAX, |identity| identity.started);
            (!self.is_exempt(candidate, identity.as_ref()), started)
        });
        for (at, candidate) in candidates.iter().enumerate() {
            // The settings of new nodes can be made to take long. The others have their turn at the
            // next look.
            let is_over = at >= AT_LEAST && began.elapsed() > AT_MOST;
            if is_over && !self.is_exempt(candidate, candidate.process.identity().ok().as_ref()) {
                break;
            }
            match self.track(candidate, &wanted) {
                Tracking::Follows => drop(self.unsteady.remove(&candidate.process.pid())),
                Tracking::NoPlace => left_out.push(candidate.process.pid()),
                Tracking::Later => {}
                Tracking::Unsteady => self.leave_alone(candidate.process.pid()),
            }
        }
        self.incomplete.retain(|pid, _| candidates.iter().any(|candidate| candidate.process.pid() == *pid));
        self.unsteady.retain(|_, unsteady| unsteady.again + LONGEST_PAUSE > began);
        self.report_left_out(&left_out);
        self.shared.lookups.store(LOOKUPS, Ordering::Relaxed);
        self.shared.looks.fetch_add(1, Ordering::AcqRel);
    }

    /// It is looked at however long the others took.
    fn is_exempt(&self, candidate: &Candidate, identity: Option<&Identity>) -> bool {
        let is_ours = |uid| uid == 0 || uid == self.own_uid;
        is_ours(candidate.uid) && identity.is_some_and(|identity| is_ours(identity.credentials.real_uid()))
    }

    fn room(&self) -> Room {
        Room::of(self.tracked.values().map(|tracked| &*tracked.node), self.own_uid)
    }

    /// This process changed while it was looked at. Most of these have only just been started.
    fn leave_alone(&mut self, pid: u32) {
        if self.unsteady.len() >= MAX_UNSTEADY && !self.unsteady.contains_key(&pid) {
            return;
        }
        let failures = self.unsteady.get(&pid).map_or(0, |unsteady| unsteady.failures);
        let pause = LOOK_EVERY * 2_u32.saturating_pow(failures) - LOOK_EVERY;
        let again = Instant::now() + pause.min(LONGEST_PAUSE);
        self.unsteady.insert(pid, Unsteady { failures: failures.saturating_add(1).min(16), again });
    }

    /// Looks at a process that is followed.
    fn look_again(&mut self, pid: u32) {
        let looks = self.shared.looks.load(Ordering::Acquire);
        let Some(tracked) = self.tracked.get_mut(&pid) else { return };
        // A process gets more rights only with another program, which takes one call to see; that
        // it gives up some may be seen a moment later.
        let is_due = (looks + u64::from(pid)).is_multiple_of(CREDENTIALS_EVERY);
        let now = match is_due {
            true => tracked.process.identity(),
            false => {
                let program = tracked.process.program();
                program.map(|program| Identity { program, ..tracked.identity.clone() })
            }
        };
        match now {
            Ok(now) if now == tracked.identity => {
                // The node makes its data directory when it starts, which may be by now.
                if let Some(node) = completed(&tracked.node) {
                    tracked.node = Arc::new(node);
                    self.shared.publish(tracked.node.clone());
                }
            }
            // It is another node, if it is one still: as such it has to find a place again, and is
            // looked at within a time.
            Ok(_) => {
                self.untrack(pid, Ended::Replaced);
                self.leave_alone(pid);
            }
            Err(_) if tracked.process.is_gone() => {
                let ended = self.end_of(pid);
                self.untrack(pid, ended);
            }
            // It changes at this moment, or we are out of file descriptors: that is no end.
            Err(_) => {}
        }
    }

    fn end_of(&self, pid: u32) -> Ended {
        let Some(tracked) = self.tracked.get(&pid) else { return Ended::Unknown };
        if let Some(status) = tracked.process.zombie() {
            return Ended::from_wait_status(status);
        }
        let pidfd = tracked.pidfd.as_ref().map(AsFd::as_fd);
        self.exits.iter().find_map(|source| source.ended(pidfd, pid)).unwrap_or(Ended::Unknown)
    }

    fn untrack(&mut self, pid: u32, ended: Ended) {
        if let Some(tracked) = self.tracked.remove(&pid) {
            self.exits.iter().for_each(|source| source.forget(pid));
            self.shared.remove(&tracked.node, ended);
        }
    }

    /// Follows a process from now on, if there is a place for it.
    fn track(&mut self, candidate: &Candidate, wanted: &Wanted) -> Tracking {
        let process = &candidate.process;
        // Before the process is looked at: it is the same one when it still is there afterwards.
        let pidfd = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let room = self.room();
        let Ok(identity) = process.identity() else { return Tracking::Unsteady };
        // A process that runs with the rights of another user is still of the one who started it.
        let uid = identity.credentials.real_uid();
        if !room.has_place(uid, uid == 0 || uid == self.own_uid) {
            return Tracking::NoPlace;
        }
        let Ok(node) = NodeProcess::read(process.clone()) else { return Tracking::Unsteady };
        if node.file != identity.program.file || node.owner != uid || !wanted.wants(process) {
            return Tracking::Unsteady;
        }
        if !room.has_place(uid, is_privileged(&node, self.own_uid)) {
            return Tracking::NoPlace;
        }
        // Its name depends on it, and the node makes it when it starts.
        if node.has_no_datadir {
            let looks = self.incomplete.entry(node.pid).or_default();
            *looks += 1;
            if *looks <= self.patience {
                return Tracking::Later;
            }
        }
        self.exits.iter().for_each(|source| source.expect(node.pid));
        let node = Arc::new(node);
        let tracked = Tracked { process: process.clone(), pidfd, identity, node: node.clone() };
        self.tracked.insert(process.pid(), tracked);
        self.shared.publish(node);
        Tracking::Follows
    }

    fn report_left_out(&mut self, left_out: &[u32]) {
        let is_due = self.reported.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if left_out.is_empty() || !is_due {
            return;
        }
        self.reported = Some(Instant::now());
        let shown = &left_out[..left_out.len().min(8)];
        tracing::warn!(
            count = left_out.len(), pids = ?shown, max = MAX_NODES, max_of_a_user = MAX_NODES_OF_USER,
            "too many nodes, these are not watched"
        );
    }
}

/// What came of a candidate.
#[derive(Debug, PartialEq, Eq)]
enum Tracking {
    /// It is followed.
    Follows,
    /// There is no place for it.
    NoPlace,
    /// It is not complete yet.
    Later,
    /// It is gone, or changed meanwhile.
    Unsteady,
}

fn own_uid() -> u32 {
    User::own().map_or(0, |user| user.uid())
}

/// The node with its data directory, if that was not there when the node was looked at, and is now.
fn completed(node: &NodeProcess) -> Option<NodeProcess> {
    if !node.has_no_datadir {
        return None;
    }
    let mut found = node.clone();
    found.find_datadir();
    (!found.has_no_datadir).then_some(found)
}

/// Follows the nodes of this machine on a thread of its own, until it is dropped.
pub struct NodeWatcher {
    shared: Arc<Shared>,
    tracker: Arc<Mutex<Tracker>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// When it was asked to look at once.
    asked: Mutex<Option<Instant>>,
}

impl fmt::Debug for NodeWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeWatcher")
    }
}

impl NodeWatcher {
    /// Starts to look for nodes.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(selection: Selection) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let tracker = Arc::new(Mutex::new(Tracker::new(selection, shared.clone())));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("node-watcher".into()).spawn({
            let (tracker, stop) = (tracker.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    locked(&tracker).look();
                    thread::park_timeout(LOOK_EVERY);
                }
            }
        })?;
        Ok(NodeWatcher { shared, tracker, stop, thread: Some(thread), asked: Mutex::default() })
    }

    /// Asks this source as well how nodes ended.
    pub fn add_exit_source(&self, source: Arc<dyn ExitSource>) {
        let mut tracker = locked(&self.tracker);
        tracker.tracked.keys().for_each(|pid| source.expect(*pid));
        tracker.exits.push(source);
    }

    /// What happens from now on, beginning with the nodes that are there.
    pub fn subscribe(&self) -> Subscription {
        Subscription { shared: self.shared.clone(), version: 0, reported: HashMap::new() }
    }

    /// The nodes that run, by process id.
    pub fn nodes(&self) -> Vec<Arc<NodeProcess>> {
        locked(&self.shared.published).nodes.values().map(|(_, node)| node.clone()).collect()
    }

    /// The node that is this process, whatever its program is called. Looks at it if it is not
    /// known yet, at a few processes between two looks, and does not wait for the thread that
    /// looks.
    pub fn process(&self, pid: u32) -> Option<Arc<NodeProcess>> {
        let own_uid = own_uid();
        let (known, room) = {
            let published = locked(&self.shared.published);
            let nodes = published.nodes.values().map(|(_, node)| &**node);
            (published.nodes.get(&pid).map(|(_, node)| node.clone()), Room::of(nodes, own_uid))
        };
        if known.is_some() {
            return known;
        }
        let lookups = &self.shared.lookups;
        lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let node = NodeProcess::read(Arc::new(ProcessDir::open(pid).ok()?)).ok()?;
        room.has_place(node.owner, is_privileged(&node, own_uid)).then(|| Arc::new(node))
    }

    /// Looks now, and returns when that is done. At most four times a second: whoever makes us ask
    /// more often gets what was found then.
    pub fn look_now(&self) {
        {
            let mut asked = locked(&self.asked);
            if asked.is_some_and(|at| at.elapsed() < LOOK_EVERY / 2) {
                return;
            }
            *asked = Some(Instant::now());
        }
        // One that is under way may have passed by what is asked for.
        let wanted = self.shared.looks.load(Ordering::Acquire) + 2;
        let deadline = Instant::now() + LONGEST_LOOK;
        while self.shared.looks.load(Ordering::Acquire) < wanted && Instant::now() < deadline {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// It has looked at least once.
    pub fn has_looked(&self) -> bool {
        self.shared.looks.load(Ordering::Acquire) > 0
    }
}

impl Drop for NodeWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}

/// The nodes that run now. Looks once.
pub fn running(selection: &Selection) -> Vec<Arc<NodeProcess>> {
    let shared = Arc::<Shared>::default();
    let mut tracker = Tracker::new(selection.clone(), shared.clone());
    tracker.patience = 0;
    tracker.look();
    let published = locked(&shared.published);
    published.nodes.values().map(|(_, node)| node.clone()).collect()
}

/// What happened to nodes, for one who wants to know.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    version: u64,
    /// What was reported as there, and in which version.
    reported: HashMap<u32, (u64, Arc<NodeProcess>)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Subscription {
    /// What happened since the last call. Does not wait.
    pub fn poll(&mut self) -> Vec<NodeEvent> {
        let version = self.shared.version.load(Ordering::Acquire);
        if version == self.version {
            return Vec::new();
        }
        self.version = version;
        let published = locked(&self.shared.published);
        let mut events = Vec::new();
        let is_there = |node: &NodeProcess| published.nodes.get(&node.pid).is_some_and(|(_, n)| n.is(node));
        self.reported.retain(|_, (_, node)| {
            if is_there(node) {
                return true;
            }
            let ended = published.ends.iter().rev().find(|(process, _)| *process == id(node));
            events.push(NodeEvent::Gone(node.clone(), ended.map_or(Ended::Unknown, |(_, ended)| *ended)));
            false
        });
        for (pid, (version, node)) in &published.nodes {
            let before = self.reported.insert(*pid, (*version, node.clone()));
            match before {
                None => events.push(NodeEvent::Appeared(node.clone())),
                Some((before, _)) if before != *version => events.push(NodeEvent::Changed(node.clone())),
                Some(_) => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests;
