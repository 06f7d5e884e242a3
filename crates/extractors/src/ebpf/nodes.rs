//! Which process is which node.
//!
//! Events name nodes, the kernel names processes. A node keeps its name over restarts because the name comes from its data
//! directory. A process stays known for a while after its end: its last records may still wait in the ring.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peer_observer_node::discover::{self, FileId, NodeProcess};
use peer_observer_node::probes::Probes;

use super::config::{NodeKey, NodeName};

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
    names: Names,
    processes: HashMap<u32, Process>,
}

impl Processes {
    pub(super) fn new(names: Names) -> Self {
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

/// What makes a node the same after a restart.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Place {
    Directory(FileId),
    Path(PathBuf),
}

/// Gives names to nodes.
#[derive(Debug)]
pub(super) struct Names {
    asked_for: Vec<NodeName>,
    given: HashMap<Place, Arc<str>>,
}

impl Names {
    pub(super) fn new(asked_for: Vec<NodeName>) -> Self {
        Names { asked_for, given: HashMap::new() }
    }

    /// The name of a node: the one asked for; else its network, or the last part of a data directory of its own; with a number
    /// behind when another node has that name.
    pub(super) fn name(&mut self, node: &NodeProcess) -> Arc<str> {
        let asked_for = self.asked_for.iter().find(|n| match &n.key {
            NodeKey::Pid(pid) => *pid == node.pid,
            NodeKey::Datadir(dir) => *dir == node.datadir,
        });
        if let Some(asked_for) = asked_for {
            return asked_for.name.as_str().into();
        }
        let key = match node.datadir_id {
            Some(id) => Place::Directory(id),
            None => Place::Path(node.datadir.clone()),
        };
        if let Some(name) = self.given.get(&key) {
            return name.clone();
        }
        let base = if node.default_datadir { None } else { node.datadir.file_name() };
        let base =
            base.map_or_else(|| node.network.as_str().to_owned(), |n| n.to_string_lossy().into_owned());
        let taken = |name: &str| {
            self.given.values().any(|n| **n == *name) || self.asked_for.iter().any(|n| n.name == name)
        };
        let name = (1..)
            .map(|i| if i == 1 { base.clone() } else { format!("{base}-{i}") })
            .find(|name| !taken(name))
            .unwrap_or(base);
        let name: Arc<str> = name.into();
        self.given.insert(key, name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_node::discover::Network;

    use super::*;

    fn node(pid: u32, datadir: &str, default_datadir: bool) -> NodeProcess {
        NodeProcess {
            pid,
            started: 1,
            exe: "/usr/bin/bitcoind".into(),
            file: FileId { device: 1, inode: 1 },
            datadir: datadir.into(),
            datadir_id: None,
            default_datadir,
            network: Network::Signet,
            uid: 0,
        }
    }

    #[test]
    fn a_node_keeps_its_name_over_a_restart_and_shares_it_with_no_other() {
        let mut names = Names::new(vec!["/srv/c=carol".parse().unwrap(), "7=dave".parse().unwrap()]);
        assert_eq!(&*names.name(&node(1, "/home/a/.bitcoin", true)), "signet");
        assert_eq!(&*names.name(&node(2, "/home/b/.bitcoin", true)), "signet-2");
        assert_eq!(&*names.name(&node(3, "/home/a/.bitcoin", true)), "signet");
        assert_eq!(&*names.name(&node(4, "/srv/alice", false)), "alice");
        assert_eq!(&*names.name(&node(5, "/srv/c", false)), "carol");
        assert_eq!(&*names.name(&node(6, "/other/carol", false)), "carol-2");
        assert_eq!(&*names.name(&node(7, "/srv/x", false)), "dave");
    }

    #[test]
    fn a_container_keeps_its_name_when_it_is_started_again_and_another_has_its_own() {
        let mut names = Names::new(Vec::new());
        let in_container = |pid, inode| NodeProcess {
            datadir_id: Some(FileId { device: 9, inode }),
            ..node(pid, "/data/bitcoin", false)
        };
        assert_eq!(&*names.name(&in_container(1, 1)), "bitcoin");
        assert_eq!(&*names.name(&in_container(2, 2)), "bitcoin-2");
        assert_eq!(&*names.name(&in_container(3, 1)), "bitcoin");
    }
}
