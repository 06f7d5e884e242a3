//! Whether a node has started, and is not stopping.
//!
//! Its socket is there before its chain is, and until the process ends. A call of the Mining interface before there is a chain, or
//! after, ends a node of Bitcoin Core 30: an assertion on `m_node.chainman` fails (src/init.cpp, steps 4a and 7; from version 31 on,
//! `makeMining` waits). A connection at the very end meets another one, on `m_loop`. Whoever connects again as soon as there is a
//! socket would do either, so a node is left alone until it shows that it has started: by the thread that handles messages of
//! peers, which comes last (step 12) and goes first.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Name of that thread (Bitcoin Core src/net.cpp, `CConnman::Start`; src/util/threadnames.cpp puts `b-` before it).
const THREAD: &str = "b-msghand";
/// Where threads cannot be looked at: age of the socket at which its node is taken to have a chain. It has one as soon as it has
/// verified its wallets, even if it then loads or reindexes for hours.
const AGE: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer<'a> {
    /// Its process id; nothing where it is out of sight, in another container.
    pub(super) pid: Option<i32>,
    /// The socket that it listens on.
    pub(super) socket: &'a Path,
}

impl Peer<'_> {
    /// Whether it may be called.
    pub(super) fn has_started(&self) -> bool {
        let threads = self.pid.and_then(|pid| threads(Path::new(&format!("/proc/{pid}/task"))));
        threads.map_or_else(|| is_older_than(self.socket, AGE), |names| names.iter().any(|n| n == THREAD))
    }
}

/// Names of a process's threads. Nothing where they cannot be read.
fn threads(tasks: &Path) -> Option<Vec<String>> {
    let names = fs::read_dir(tasks).ok()?.filter_map(|task| {
        // A thread that has just ended is no reason to know nothing.
        let name = fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim_end().to_owned())
    });
    Some(names.collect())
}

fn is_older_than(socket: &Path, age: Duration) -> bool {
    let made = fs::metadata(socket).and_then(|metadata| metadata.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|elapsed| elapsed >= age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_threads_are_hidden_is_taken_by_the_age_of_its_socket() {
        let socket = tempfile::NamedTempFile::new().unwrap();
        let peer = Peer { pid: None, socket: socket.path() };
        assert!(!peer.has_started());
        socket.as_file().set_modified(std::time::SystemTime::now() - AGE).unwrap();
        assert!(peer.has_started());
        assert!(!Peer { pid: None, socket: Path::new("/nonexistent/node.sock") }.has_started());
    }

    #[test]
    fn a_node_has_started_when_it_handles_messages_however_old_its_socket_is() {
        let socket = tempfile::NamedTempFile::new().unwrap();
        socket.as_file().set_modified(std::time::SystemTime::now() - AGE).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let peer = |pid| Peer { pid: i32::try_from(pid).ok(), socket: socket.path() };
        assert!(!peer(other.id()).has_started());
        other.kill().unwrap();
        other.wait().unwrap();

        let _thread = peer_observer_testkit::ipc_node::HasStarted::start();
        assert!(peer(std::process::id()).has_started());
    }
}
