//! Where nodes' programs are: what is put there later is the same node's next program, and is attached to before it runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peer_observer_node::access::Access;
use peer_observer_node::discover::{FileId, NodeProcess};

use super::programs::AtPath;

/// Paths that are kept, at most.
const MAX_PATHS: usize = 64;
/// A path is kept for so long after a node of it ran last.
const KEEP_PATH: Duration = Duration::from_secs(24 * 60 * 60);

/// A path, by the user who ran a node from there: another user's node does not change what is kept for this one.
type Key = (u32, PathBuf);

#[derive(Debug)]
struct ProgramPath {
    access: Access,
    /// When a node ran from there last.
    seen: Instant,
}

/// The paths of programs that nodes ran.
#[derive(Debug, Default)]
pub(super) struct ProgramPaths {
    paths: HashMap<Key, ProgramPath>,
}

impl ProgramPaths {
    /// Remembers the path of a node's program, unless this process finds another file there.
    pub(super) fn remember(&mut self, node: &NodeProcess, now: Instant) {
        let Some(user) = node.user.clone() else { return };
        let access = Access::new(user, "/".into());
        if !is_ours(node, &access) {
            return;
        }
        let key = (node.owner, node.exe.clone());
        if self.paths.len() >= MAX_PATHS && !self.paths.contains_key(&key) {
            let Some(oldest) = self.evictable() else { return };
            self.paths.remove(&oldest);
        }
        self.paths.insert(key, ProgramPath { access, seen: now });
    }

    /// The oldest path of the user who has most of them. Those of root are never given up for others.
    fn evictable(&self) -> Option<Key> {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for (owner, _) in self.paths.keys().filter(|(owner, _)| *owner != 0) {
            *counts.entry(*owner).or_default() += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let of_user = self.paths.iter().filter(|((owner, _), _)| *owner == most);
        of_user.min_by_key(|(_, path)| path.seen).map(|(key, _)| key.clone())
    }

    /// A node runs: its path is kept from now on.
    pub(super) fn refresh(&mut self, node: &NodeProcess, now: Instant) {
        if let Some(path) = self.paths.get_mut(&(node.owner, node.exe.clone())) {
            path.seen = now;
        }
    }

    /// The programs that are at the paths now.
    pub(super) fn programs(&mut self, now: Instant) -> Vec<AtPath> {
        self.paths.retain(|_, path| now.duration_since(path.seen) < KEEP_PATH);
        let programs = self.paths.iter().filter_map(|((owner, path), ProgramPath { access, .. })| {
            AtPath::new(path, access.open(path).ok()?, *owner)
        });
        programs.collect()
    }
}

/// The path leads this process to the node's program. A service with mounts of its own (systemd's PrivateTmp) has our root, and
/// mostly the same files; a container has neither.
fn is_ours(node: &NodeProcess, access: &Access) -> bool {
    node.shares_mounts || (node.shares_root && access.id(&node.exe).is_ok_and(|id: FileId| id == node.file))
}

#[cfg(test)]
mod tests {
    use peer_observer_node::discover::process;

    use super::*;

    /// The process of the test, as if this user ran it.
    fn node(owner: u32, exe: &str) -> NodeProcess {
        NodeProcess { owner, exe: exe.into(), ..own() }
    }

    fn own() -> NodeProcess {
        process(std::process::id()).unwrap()
    }

    fn has(paths: &ProgramPaths, owner: u32, path: &str) -> bool {
        paths.paths.contains_key(&(owner, path.into()))
    }

    #[test]
    fn path_is_kept_for_a_day_after_its_node_ran_last() {
        let (node, start) = (own(), Instant::now());
        let mut paths = ProgramPaths::default();
        paths.remember(&node, start);
        let hour = Duration::from_secs(60 * 60);
        // It runs for three days.
        for i in 1..=72 {
            paths.refresh(&node, start + i * hour);
            assert_eq!(paths.programs(start + i * hour).len(), 1, "{i}");
        }
        assert_eq!(paths.programs(start + 95 * hour)[0].file, node.file);
        assert!(paths.programs(start + 96 * hour).is_empty());
        paths.refresh(&node, start + 96 * hour);
        assert!(paths.paths.is_empty(), "only a path that is known is refreshed");
    }

    #[test]
    fn path_of_a_node_with_mounts_of_its_own_is_kept_if_it_leads_to_its_program() {
        let private_tmp = NodeProcess { shares_mounts: false, ..own() };
        assert!(private_tmp.shares_root);
        let other_file = NodeProcess { exe: "/proc/self/status".into(), ..private_tmp.clone() };
        let nothing = NodeProcess { exe: "/nothing/bitcoind".into(), ..private_tmp.clone() };
        let container = NodeProcess { shares_root: false, ..private_tmp.clone() };
        for (node, is_kept) in [(private_tmp, 1), (other_file, 0), (nothing, 0), (container, 0)] {
            let mut paths = ProgramPaths::default();
            paths.remember(&node, Instant::now());
            assert_eq!(paths.paths.len(), is_kept, "{}", node.exe.display());
        }
    }

    #[test]
    fn paths_of_root_and_of_users_with_few_are_never_evicted() {
        let now = Instant::now();
        let mut paths = ProgramPaths::default();
        paths.remember(&node(0, "/usr/bin/bitcoind"), now);
        paths.remember(&node(1000, "/home/honest/bitcoind"), now);
        // A stranger runs root's program, and many of his own, all of them later.
        paths.remember(&node(2000, "/usr/bin/bitcoind"), now);
        for i in 0..1000 {
            paths.remember(&node(2000, &format!("/tmp/{i}/bitcoind")), now + Duration::from_secs(i));
        }
        assert_eq!(paths.paths.len(), MAX_PATHS);
        assert!(has(&paths, 0, "/usr/bin/bitcoind") && has(&paths, 1000, "/home/honest/bitcoind"));
        assert!(has(&paths, 2000, "/tmp/999/bitcoind") && !has(&paths, 2000, "/tmp/0/bitcoind"));
    }
}
