//! Which process is which node.
//!
//! Events name nodes, the kernel names processes. A process stays known for a while after its end: its last records may still wait in the ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peer_observer_node::discover::{self, NodeProcess};
use peer_observer_node::names::Names;
use peer_observer_node::probes::Probes;

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
pub(super) struct Processes(Mutex<Known>);

#[derive(Debug)]
struct Known {
    names: Arc<Names>,
    processes: HashMap<u32, Process>,
}

impl Processes {
    pub(super) fn new(names: Arc<Names>) -> Self {
        Processes(Mutex::new(Known { names, processes: HashMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let known = self.lock().processes.get(&pid).cloned();
        if let Some(process) = known {
            return process;
        }
        if let Some(node) = discover::process(pid)
            && let Ok(probes) = Probes::of_binary(&node.exe_link())
        {
            let node = self.meet(&node, &probes);
            return Process { node, block_time_in_us: probes.block_time_in_us() };
        }
        Process { node: number(pid), block_time_in_us: false }
    }

    /// The name of the node that a process is.
    pub(super) fn name(&self, pid: u32) -> Arc<str> {
        self.lock().processes.get(&pid).map_or_else(|| number(pid), |process| process.node.clone())
    }

    /// Forgets a process that is gone.
    pub(super) fn forget(&self, pid: u32) {
        self.lock().processes.remove(&pid);
    }
}

fn number(pid: u32) -> Arc<str> {
    format!("pid-{pid}").into()
}
