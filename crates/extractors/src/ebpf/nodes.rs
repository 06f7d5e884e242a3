//! Which process is which node.
//!
//! Events name nodes, the kernel names processes. A process stays known for a while after its end: its last records may still wait in the ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peer_observer_node::discover::NodeProcess;
use peer_observer_node::names::Names;
use peer_observer_node::probes::Probes;
use peer_observer_node::watch::NodeWatcher;

/// Processes that ended before anyone looked have their numbers for names, up to so many. Any user can start more.
const MAX_NUMBERS: usize = 256;

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
struct Known {
    names: Arc<Names>,
    processes: HashMap<u32, Process>,
    /// Processes that could not be looked at, until the next look: a flood of their hits does not look at them for each.
    unknown: HashMap<u32, Process>,
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
}

impl Processes {
    pub(super) fn new(names: Arc<Names>, watcher: Arc<NodeWatcher>) -> Self {
        let (processes, unknown, numbers) = Default::default();
        Processes { known: Mutex::new(Known { names, processes, unknown, numbers }), watcher }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a running node known, whose program has these tracepoints. Returns its name.
    pub(super) fn meet(&self, node: &NodeProcess, probes: &Probes) -> Arc<str> {
        let mut known = self.lock();
        let name = known.names.name(node);
        let process = Process { node: name.clone(), block_time_in_us: probes.block_time_in_us() };
        known.processes.insert(node.pid, process);
        name
    }

    /// The process that a hit is of. One that ended before anyone looked has its number for a name.
    pub(super) fn of_hit(&self, pid: u32) -> Process {
        {
            let known = self.lock();
            if let Some(process) = known.processes.get(&pid).or_else(|| known.unknown.get(&pid)) {
                return process.clone();
            }
        }
        if let Some(node) = self.watcher.process(pid)
            && let Ok(probes) = Probes::of_node(&node)
        {
            let node = self.meet(&node, &probes);
            return Process { node, block_time_in_us: probes.block_time_in_us() };
        }
        let mut known = self.lock();
        let process = Process { node: known.number(pid), block_time_in_us: false };
        if known.unknown.len() < MAX_NUMBERS {
            known.unknown.insert(pid, process.clone());
        }
        process
    }

    /// The name of the node that a process is.
    pub(super) fn name(&self, pid: u32) -> Arc<str> {
        let mut known = self.lock();
        match known.processes.get(&pid) {
            Some(process) => process.node.clone(),
            None => known.number(pid),
        }
    }

    /// Forgets a process that is gone.
    pub(super) fn forget(&self, pid: u32) {
        self.lock().processes.remove(&pid);
    }

    /// Processes that could not be looked at may be looked at again.
    pub(super) fn forget_unknown(&self) {
        self.lock().unknown.clear();
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_node::watch::Selection;

    use super::*;

    #[test]
    fn names_of_ended_processes_are_bounded() {
        let watcher = NodeWatcher::start(Selection { pid: Some(1), ..Selection::default() }).unwrap();
        let processes = Processes::new(Arc::default(), Arc::new(watcher));
        // Above the largest process id that Linux gives (PID_MAX_LIMIT).
        let first = (4 << 20) + 1;
        assert_eq!(&*processes.of_hit(first).node, format!("pid-{first}"));
        for pid in first..first + 100_000 {
            processes.of_hit(pid);
        }
        assert_eq!(&*processes.name(first + 100_000), "pid-others");
        assert_eq!(&*processes.name(first), format!("pid-{first}"), "it keeps its name");
        let known = processes.lock();
        assert!(known.numbers.len() == MAX_NUMBERS && known.unknown.len() <= MAX_NUMBERS);
    }
}
