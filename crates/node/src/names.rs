//! What nodes are called.
//!
//! Several extractors watch one node, each by means of its own, and what they tell has to carry the
//! same name. A node keeps its name over restarts because the name comes from its data directory,
//! not from its process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::discover::{FileId, NodeProcess};

/// Longest name of a node, bytes: it is in every event.
pub const MAX_NAME: usize = 255;

/// Something that cannot be the name of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node's name must be 1 to {MAX_NAME} bytes long")]
pub struct BadName;

/// Refuses what cannot be the name of a node.
///
/// # Errors
/// When it is empty or too long.
pub fn check_name(name: &str) -> Result<(), BadName> {
    if name.is_empty() || name.len() > MAX_NAME { Err(BadName) } else { Ok(()) }
}

/// A word that does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It has no key, or no `=`.
    #[error("{0:?}: give PID=NAME or /DATA/DIRECTORY=NAME")]
    Form(String),
    /// The name cannot be one.
    #[error("{text:?}: {why}")]
    Name {
        /// The word.
        text: String,
        /// What is wrong with the name.
        why: BadName,
    },
}

/// What a node is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKey {
    /// Process id.
    Pid(u32),
    /// Data directory, as the node sees it.
    Datadir(PathBuf),
}

/// A node and the name it shall have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeName {
    /// Which node.
    pub key: NodeKey,
    /// Its name.
    pub name: String,
}

impl FromStr for NodeName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (key, name) = text
            .rsplit_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| ParseError::Form(text.into()))?;
        check_name(name).map_err(|why| ParseError::Name { text: text.into(), why })?;
        let key = match key.parse() {
            Ok(pid) => NodeKey::Pid(pid),
            Err(_) => NodeKey::Datadir(key.trim_end_matches('/').into()),
        };
        Ok(NodeName { key, name: name.into() })
    }
}

impl From<NodeName> for String {
    fn from(node: NodeName) -> String {
        match node.key {
            NodeKey::Pid(pid) => format!("{pid}={}", node.name),
            NodeKey::Datadir(dir) => format!("{}={}", dir.display(), node.name),
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// Nodes of one user, other than root, that get names of their own.
const MAX_NAMES_OF_USER: usize = 64;
/// Nodes that get names of their own.
const MAX_NAMES: usize = 1024;
/// Where there is no room for another name, those are forgotten that nobody asked for in this time.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What makes a node the same after a restart: who runs it, and where. A user's process cannot be
/// another user's node by naming its data directory.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    owner: u32,
    datadir: Datadir,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Datadir {
    /// A directory that belongs to the node's user.
    Own(FileId),
    /// The path of any other.
    Path(PathBuf),
}

/// Gives names to nodes, to all who ask the same ones. A name that was given is not given to another node.
#[derive(Debug, Default)]
pub struct Names {
    asked_for: Vec<NodeName>,
    given: Mutex<HashMap<Place, Given>>,
}

/// A name that was given.
#[derive(Debug)]
struct Given {
    name: Arc<str>,
    /// When it was asked for last.
    used: Instant,
}

impl Names {
    /// Gives the names that were asked for, and others to other nodes.
    pub fn new(asked_for: Vec<NodeName>) -> Self {
        Names { asked_for, given: Mutex::default() }
    }

    /// The name of a node: the one asked for; else its network, or the last part of a data
    /// directory of its own; with a number behind when another node has that name. A name is for
    /// one node: a data directory counts only if it belongs to the user who runs the node. One
    /// user's nodes beyond the first 64 share a name.
    pub fn name(&self, node: &NodeProcess) -> Arc<str> {
        let of_pid = |name: &&NodeName| name.key == NodeKey::Pid(node.pid);
        if let Some(asked_for) = self.asked_for.iter().find(of_pid) {
            return asked_for.name.as_str().into();
        }
        let datadir = match node.datadir_id {
            Some(id) => Datadir::Own(id),
            None => Datadir::Path(node.datadir.clone()),
        };
        let place = Place { owner: node.owner, datadir };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(given) = given.get_mut(&place) {
            given.used = Instant::now();
            return given.name.clone();
        }
        let is_of_root = node.is_of_root();
        let is_full = |given: &HashMap<Place, Given>| {
            let of_owner = given.keys().filter(|place| place.owner == node.owner).count();
            !is_of_root && (of_owner >= MAX_NAMES_OF_USER || given.len() >= MAX_NAMES)
        };
        if is_full(&given) {
            given.retain(|_, given| given.used.elapsed() < FORGET_AFTER);
        }
        if is_full(&given) {
            return format!("nodes-of-user-{}", node.owner).into();
        }
        let is_asked_for = |name: &&NodeName| match &name.key {
            NodeKey::Pid(_) => false,
            // In a container that users can make for themselves, any path can be anything.
            NodeKey::Datadir(dir) => {
                *dir == node.datadir && node.datadir_id.is_some() && (node.shares_root || node.shares_users)
            }
        };
        let asked_for = self.asked_for.iter().find(is_asked_for).map(|name| name.name.clone());
        let own = node.datadir.file_name().filter(|_| !node.default_datadir);
        let base = match (&asked_for, node.datadir_id, own) {
            (Some(name), ..) => name.clone(),
            // What a user says of a directory that is not his own names nobody.
            (None, None, _) if !is_of_root => format!("{}-user-{}", node.network.as_str(), node.owner),
            (None, _, Some(last)) => last.to_string_lossy().into_owned(),
            (None, _, None) => node.network.as_str().to_owned(),
        };
        let taken = |name: &str| {
            given.values().any(|given| *given.name == *name)
                || (asked_for.as_deref() != Some(name) && self.asked_for.iter().any(|n| n.name == name))
        };
        let name = (1..)
            .map(|i| if i == 1 { with_end(&base, "") } else { with_end(&base, &format!("-{i}")) })
            .find(|name| !taken(name))
            .unwrap_or(base);
        let name: Arc<str> = name.into();
        given.insert(place, Given { name: name.clone(), used: Instant::now() });
        name
    }
}

/// A name that ends so. The last part of a path may be too long for it, once bytes that are no text
/// were replaced by longer ones.
fn with_end(base: &str, end: &str) -> String {
    let base = &base[..base.floor_char_boundary(MAX_NAME - end.len())];
    format!("{base}{end}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::discover::process;
    use crate::p2p::Network;

    /// Directories have numbers made of their paths here.
    fn node(pid: u32, datadir: &str, default_datadir: bool) -> NodeProcess {
        let inode = datadir.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte));
        NodeProcess {
            pid,
            datadir: datadir.into(),
            datadir_id: Some(FileId { device: 1, inode }),
            default_datadir,
            network: Network::Signet,
            owner: 1000,
            shares_root: true,
            shares_users: true,
            ..process(std::process::id()).unwrap()
        }
    }

    #[test]
    fn nodes_are_named_by_pid_or_data_directory() {
        let by_pid: NodeName = "123=alice".parse().unwrap();
        assert_eq!(by_pid, NodeName { key: NodeKey::Pid(123), name: "alice".into() });
        let by_dir: NodeName = "/data/a=b/=bob".parse().unwrap();
        assert_eq!(by_dir, NodeName { key: NodeKey::Datadir("/data/a=b".into()), name: "bob".into() });
        let longest = format!("1={}", "n".repeat(MAX_NAME));
        assert!(longest.parse::<NodeName>().is_ok());
        for bad in ["alice", "=alice", "123=", &format!("{longest}n")] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_keeps_its_name_over_a_restart_and_shares_it_with_no_other() {
        let names = Names::new(vec!["/srv/c=carol".parse().unwrap(), "7=dave".parse().unwrap()]);
        assert_eq!(&*names.name(&node(1, "/home/a/.bitcoin", true)), "signet");
        assert_eq!(&*names.name(&node(2, "/home/b/.bitcoin", true)), "signet-2");
        assert_eq!(&*names.name(&node(3, "/home/a/.bitcoin", true)), "signet");
        assert_eq!(&*names.name(&node(4, "/srv/alice", false)), "alice");
        assert_eq!(&*names.name(&node(5, "/srv/c", false)), "carol");
        assert_eq!(&*names.name(&node(6, "/other/carol", false)), "carol-2");
        assert_eq!(&*names.name(&node(7, "/srv/x", false)), "dave");
    }

    #[test]
    fn a_name_from_a_long_path_is_cut_and_still_shared_with_no_other() {
        let names = Names::new(Vec::new());
        // Each byte that is no text becomes three.
        let odd = |parent: &str| {
            let last = std::ffi::OsString::from_vec(vec![0xff; 255]);
            NodeProcess { datadir: PathBuf::from(parent).join(last), ..node(1, parent, false) }
        };
        let [one, other] = ["/a", "/b"].map(|parent| names.name(&odd(parent)));
        assert_ne!(one, other);
        for name in [&one, &other] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(names.name(&odd("/b")), other);
    }

    #[test]
    fn a_container_keeps_its_name_when_it_is_started_again_and_another_has_its_own() {
        let names = Names::new(Vec::new());
        let in_container = |pid, inode| NodeProcess {
            datadir_id: Some(FileId { device: 9, inode }),
            ..node(pid, "/data/bitcoin", false)
        };
        assert_eq!(&*names.name(&in_container(1, 1)), "bitcoin");
        assert_eq!(&*names.name(&in_container(2, 2)), "bitcoin-2");
        assert_eq!(&*names.name(&in_container(3, 1)), "bitcoin");
    }

    #[test]
    fn stranger_takes_no_name_of_the_owner() {
        let stranger = |datadir: &str, default| NodeProcess {
            owner: 666,
            datadir_id: None,
            ..node(9, datadir, default)
        };
        // Whoever comes first.
        for stranger_first in [true, false] {
            let names = Names::new(vec!["/srv/c=carol".parse().unwrap()]);
            let cases = [
                ("/home/a/.bitcoin", true, "signet"),
                ("/srv/c", false, "carol"),
                ("/srv/alice", false, "alice"),
            ];
            for (datadir, default, expected) in cases {
                if stranger_first {
                    names.name(&stranger(datadir, default));
                }
                assert_eq!(&*names.name(&node(1, datadir, default)), expected);
                let its = names.name(&stranger(datadir, default));
                assert!(its.starts_with("signet-user-666"), "{its}");
            }
        }
    }

    #[test]
    fn names_of_one_user_are_bounded() {
        let names = Names::new(Vec::new());
        let base = node(1, "", false);
        for i in 0..10_000 {
            let datadir_id = Some(FileId { device: 2, inode: i });
            names.name(&NodeProcess { datadir: format!("/data/{i}").into(), datadir_id, ..base.clone() });
        }
        assert_eq!(names.given.lock().unwrap().len(), MAX_NAMES_OF_USER);
        assert_eq!(&*names.name(&node(1, "/data/new", false)), "nodes-of-user-1000");
        let first = NodeProcess {
            datadir: "/data/7".into(),
            datadir_id: Some(FileId { device: 2, inode: 7 }),
            ..base.clone()
        };
        assert_eq!(&*names.name(&first), "7", "a name that was given stays");
        let other = NodeProcess { owner: 1001, ..node(1, "/data/new", false) };
        assert_eq!(&*names.name(&other), "new");
    }
}
