//! Which process is which node.
//!
//! Events name nodes, the kernel names processes. A process stays known for a while after its end: its last records may still wait in the ring.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use peer_observer_node::discover::NodeProcess;
use peer_observer_node::names::Names;
use peer_observer_node::probes::Probes;
use peer_observer_node::watch::NodeWatcher;

/// Processes that ended before anyone looked have their numbers for names, up to so many. Any user can start more.
const MAX_NUMBERS: usize = 256;
/// Processes that are known. The watcher tracks fewer; the rest is for those that ended, and those it does not track yet.
const MAX_PROCESSES: usize = 1024;
/// Processes that the decoder looks at between two looks of the watcher, at most.
const MAX_LOOKS: usize = 64;

/// What the decoder has to know of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) node: Arc<str>,
    /// Its block connection times are in us (Core before 25).
    pub(super) block_time_in_us: bool,
}

/// The processes that are known, by id: to the watcher, which looks for them, and to the decoder, which gets hits of a new one
/// before the watcher looks again.
#[derive(Debug)]
pub(super) struct Processes {
    known: Mutex<Known>,
    watcher: Arc<NodeWatcher>,
}

#[derive(Debug)]
struct Entry {
    process: Process,
    /// When it started: its id may be another's by now.
    started: u64,
    owner: u32,
    /// The watcher tracks it. Any other may be gone.
    is_tracked: bool,
    /// When this was last set.
    since: Instant,
}

#[derive(Debug)]
struct Known {
    names: Arc<Names>,
    processes: HashMap<u32, Entry>,
    /// Processes that were looked at because of a hit, since the watcher looked: not again for each hit.
    looked_at: HashSet<u32>,
    /// Names that are numbers of processes.
    numbers: HashMap<u32, Arc<str>>,
}

impl Known {
    /// The name of a process of which nothing but its number is known.
    fn number(&mut self, pid: u32) -> Arc<str> {
        if let Some(name) = self.numbers.get(&pid) {
            return name.clone();
        }
        if self.numbers.len() >= MAX_NUMBERS {
            return "pid-others".into();
        }
        let name: Arc<str> = format!("pid-{pid}").into();
        self.numbers.insert(pid, name.clone());
        name
    }

    /// What is known of a process without looking at it.
    fn process(&mut self, pid: u32) -> Process {
        match self.processes.get(&pid) {
            Some(entry) => entry.process.clone(),
            None => Process { node: self.number(pid), block_time_in_us: false },
        }
    }

    /// A process may be looked at because of a hit: it was not yet, and there are not too many.
    fn may_look_at(&mut self, pid: u32) -> bool {
        self.looked_at.len() < MAX_LOOKS && self.looked_at.insert(pid)
    }

    fn insert(&mut self, node: &NodeProcess, probes: &Probes, is_tracked: bool) -> Process {
        let process = Process { node: self.names.name(node), block_time_in_us: probes.block_time_in_us() };
        let before = self.processes.get(&node.pid);
        // The watcher may have been faster than the decoder.
        let is_tracked = is_tracked || before.is_some_and(|e| e.started == node.started && e.is_tracked);
        if before.is_none() && self.processes.len() >= MAX_PROCESSES && !self.evict() {
            return process;
        }
        let (started, owner, since) = (node.started, node.owner, Instant::now());
        let entry = Entry { process: process.clone(), started, owner, is_tracked, since };
        self.processes.insert(node.pid, entry);
        process
    }

    /// Makes room: forgets a process that the watcher does not track, the oldest of the user who has most of them.
    fn evict(&mut self) -> bool {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for entry in self.processes.values().filter(|entry| !entry.is_tracked) {
            *counts.entry(entry.owner).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(owner, _)| owner);
        let candidates =
            self.processes.iter().filter(|(_, entry)| !entry.is_tracked && Some(entry.owner) == most);
        let oldest = candidates.min_by_key(|(_, entry)| entry.since).map(|(pid, _)| *pid);
        oldest.is_some_and(|pid| self.processes.remove(&pid).is_some())
    }
}

impl Processes {
    pub(super) fn new(names: Arc<Names>, watcher: Arc<NodeWatcher>) -> Self {
        let (processes, looked_at, numbers) = Default::default();
        Processes { known: Mutex::new(Known { names, processes, looked_at, numbers }), watcher }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a running node known that the watcher tracks, and whose program has these tracepoints. Returns its name.
    pub(super) fn meet(&self, node: &NodeProcess, probes: &Probes) -> Arc<str> {
        self.lock().insert(node, probes, true).node
    }

    /// The process that a hit is of. One that ended before anyone looked has its number for a name, as has one that cannot be
    /// looked at now, until the watcher tracks it.
    pub(super) fn of_hit(&self, pid: u32) -> Process {
        let before = {
            let mut known = self.lock();
            let is_tracked = known.processes.get(&pid).is_some_and(|entry| entry.is_tracked);
            if is_tracked || !known.may_look_at(pid) {
                return known.process(pid);
            }
            known.processes.get(&pid).map(|entry| entry.started)
        };
        // Any other may have ended, and its id may be another's.
        if let Some(node) = self.watcher.process(pid)
            && before != Some(node.started)
        {
            self.started(&node);
            if let Ok(probes) = Probes::of_node(&node) {
                return self.lock().insert(&node, &probes, false);
            }
        }
        self.lock().process(pid)
    }

    /// The name of the node that a process is.
    pub(super) fn name(&self, pid: u32) -> Arc<str> {
        self.lock().process(pid).node
    }

    /// This process runs: whatever else is known by its id is gone.
    pub(super) fn started(&self, node: &NodeProcess) {
        let mut known = self.lock();
        if known.processes.get(&node.pid).is_some_and(|entry| entry.started != node.started) {
            known.processes.remove(&node.pid);
        }
    }

    /// This process is not tracked any more. Its last records may still come.
    pub(super) fn ended(&self, node: &NodeProcess, now: Instant) {
        let mut known = self.lock();
        if let Some(entry) = known.processes.get_mut(&node.pid)
            && entry.started == node.started
        {
            (entry.is_tracked, entry.since) = (false, now);
        }
    }

    /// Forgets a process that is gone.
    pub(super) fn forget(&self, pid: u32) {
        self.lock().processes.remove(&pid);
    }

    /// Processes may be looked at again because of a hit.
    pub(super) fn allow_looks(&self) {
        self.lock().looked_at.clear();
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_node::discover::process;
    use peer_observer_node::watch::Selection;
    use peer_observer_testkit::{LONG, wait_until};

    use super::*;

    /// Above the largest process id that Linux gives (PID_MAX_LIMIT).
    const NOBODY: u32 = (4 << 20) + 1;

    /// With a watcher that tracks nothing.
    fn processes() -> Processes {
        let watcher = NodeWatcher::start(Selection { pid: Some(NOBODY), ..Selection::default() }).unwrap();
        Processes::new(Arc::default(), Arc::new(watcher))
    }

    /// The process of the test with another id, as if this user ran it.
    fn node(pid: u32, started: u64, owner: u32) -> NodeProcess {
        NodeProcess { pid, started, owner, ..process(std::process::id()).unwrap() }
    }

    #[test]
    fn names_of_ended_processes_are_bounded() {
        let processes = processes();
        assert_eq!(&*processes.of_hit(NOBODY).node, format!("pid-{NOBODY}"));
        for pid in NOBODY..NOBODY + 100_000 {
            processes.of_hit(pid);
        }
        assert_eq!(&*processes.name(NOBODY + 100_000), "pid-others");
        assert_eq!(&*processes.name(NOBODY), format!("pid-{NOBODY}"), "it keeps its name");
        let known = processes.lock();
        assert!(known.numbers.len() == MAX_NUMBERS && known.looked_at.len() == MAX_LOOKS);
    }

    #[test]
    fn flood_of_unknown_processes_costs_few_looks() {
        let processes = processes();
        for pid in NOBODY..NOBODY + 1000 {
            processes.of_hit(pid);
        }
        // It runs, and is not looked at before the watcher looks again.
        let own = std::process::id();
        assert_eq!(&*processes.of_hit(own).node, "pid-others");
        let is_found = wait_until(LONG, || {
            processes.allow_looks();
            &*processes.of_hit(own).node != "pid-others"
        });
        assert!(is_found);
    }

    #[test]
    fn process_gets_its_name_once_it_is_tracked() {
        let processes = processes();
        let node = node(NOBODY, 1, 0);
        assert_eq!(&*processes.of_hit(NOBODY).node, format!("pid-{NOBODY}"));
        let name = processes.meet(&node, &Probes::default());
        assert_ne!(&*name, format!("pid-{NOBODY}"));
        assert_eq!(processes.of_hit(NOBODY).node, name);
        processes.ended(&node, Instant::now());
        assert_eq!(
            (&processes.of_hit(NOBODY).node, &processes.name(NOBODY)),
            (&name, &name),
            "its last hits"
        );
    }

    #[test]
    fn process_with_a_reused_id_does_not_take_the_name_of_the_one_before() {
        let own = process(std::process::id()).unwrap();
        let before = node(own.pid, own.started.wrapping_sub(1), 4711);
        for is_announced in [false, true] {
            let processes = processes();
            let name = processes.meet(&before, &Probes::default());
            assert_eq!(processes.of_hit(own.pid).node, name);
            processes.ended(&before, Instant::now());
            if is_announced {
                processes.started(&own);
            }
            let is_found = wait_until(LONG, || {
                processes.allow_looks();
                let found = processes.of_hit(own.pid).node;
                found != name && !found.starts_with("pid-")
            });
            assert!(is_found, "{is_announced}");
            let new = processes.of_hit(own.pid);
            // What is heard of the one before by now does not concern this one.
            processes.ended(&before, Instant::now());
            assert_eq!(processes.of_hit(own.pid), new);
        }
    }

    #[test]
    fn known_processes_are_bounded_and_those_tracked_are_kept() {
        let processes = processes();
        let tracked = node(NOBODY, 1, 1000);
        let ended = node(NOBODY + 1, 1, 1000);
        for node in [&tracked, &ended] {
            processes.meet(node, &Probes::default());
        }
        processes.ended(&ended, Instant::now());
        // A stranger starts and ends many, some of which the watcher never tracks.
        for i in 0..2 * MAX_PROCESSES as u32 {
            let node = node(NOBODY + 2 + i, 1, 2000);
            processes.lock().insert(&node, &Probes::default(), i % 2 == 0);
            processes.ended(&node, Instant::now());
        }
        let known = processes.lock();
        assert_eq!(known.processes.len(), MAX_PROCESSES);
        assert!(known.processes.contains_key(&tracked.pid) && known.processes.contains_key(&ended.pid));
    }
}
