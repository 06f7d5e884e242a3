//! Whether a node has started, and is not stopping.
//!
//! Its socket is there before its chain is, and until the process ends. A call of the Mining interface before there is a chain, or
//! after, ends a node of Bitcoin Core 30: an assertion on `m_node.chainman` fails (src/init.cpp, steps 4a and 7; from version 31 on,
//! `makeMining` waits). A connection at the very end meets another one, on `m_loop`. Whoever connects again as soon as there is a
//! socket would do either, so a node is left alone until it shows that it has started: by the thread that handles messages of
//! peers, which comes last (step 12) and goes first.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
    /// What says for how long it may be called. Nothing when it may not.
    pub(super) fn started(&self) -> Option<Started> {
        let tasks = self.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/task")));
        match tasks.and_then(|tasks| threads(&tasks)) {
            Some(threads) => threads.into_iter().find(|thread| is_handling(thread)).map(Started::Thread),
            None => is_older_than(self.socket, AGE).then_some(Started::Hidden),
        }
    }
}

/// A node that has started.
#[derive(Debug)]
pub(super) enum Started {
    /// It handles messages in this thread (a file of procfs).
    Thread(PathBuf),
    /// Its threads cannot be looked at.
    Hidden,
}

impl Started {
    /// Whether it has begun to stop.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Started::Thread(thread) => !is_handling(thread),
            Started::Hidden => false,
        }
    }
}

/// The socket of a node that stops: it has to be left alone until it is gone, because it ends badly when it is connected to, or asked,
/// while it takes its IPC server down. The node that is started next makes another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Socket {
    inode: u64,
    made: SystemTime,
}

impl Socket {
    /// The one that is there.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Socket { inode: metadata.ino(), made: metadata.modified().ok()? })
    }
}

/// The name files of a process's threads. Nothing where they cannot be looked at.
fn threads(tasks: &Path) -> Option<Vec<PathBuf>> {
    // A thread that has just ended is no reason to know nothing.
    Some(fs::read_dir(tasks).ok()?.filter_map(|task| Some(task.ok()?.path().join("comm"))).collect())
}

fn is_handling(thread: &Path) -> bool {
    fs::read_to_string(thread).is_ok_and(|name| name.trim_end() == THREAD)
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
        assert!(peer.started().is_none());
        socket.as_file().set_modified(std::time::SystemTime::now() - AGE).unwrap();
        assert!(!peer.started().unwrap().is_over());
        assert!(Peer { pid: None, socket: Path::new("/nonexistent/node.sock") }.started().is_none());
    }

    #[test]
    fn a_node_has_started_when_it_handles_messages_however_old_its_socket_is() {
        let socket = tempfile::NamedTempFile::new().unwrap();
        socket.as_file().set_modified(std::time::SystemTime::now() - AGE).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let peer = |pid| Peer { pid: i32::try_from(pid).ok(), socket: socket.path() };
        assert!(peer(other.id()).started().is_none());
        other.kill().unwrap();
        other.wait().unwrap();

        let thread = peer_observer_testkit::ipc_node::HasStarted::start();
        let started = peer(std::process::id()).started().unwrap();
        assert!(!started.is_over());
        drop(thread);
        assert!(started.is_over());
    }
}
