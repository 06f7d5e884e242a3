//! Follows the nodes of this machine: attaches to their programs, knows their processes, tells their losses.
//!
//! A program is attached to for every process that runs it, so a node that is restarted is followed with nothing to do; where that
//! cannot be (programs.rs), for each process as soon as it is seen. An upgrade puts another file in place: it is seen, and
//! attached to, as soon as it runs, or before, where its path is known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer_observer_bus::loss::What;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_node::discover::{self, FileId, Met, NodeProcess, Wanted};
use peer_observer_node::hit::Tracepoint;

use super::check;
use super::clock::Offset;
use super::config::Config;
use super::kernel::{Book, KernelBooks, NO_PLACE};
use super::nodes::Processes;
use super::pipeline::{Lost, Work};
use super::programs::{Programs, Reach};

/// How long a process that is gone stays known: its last records are read long before.
const KEEP_DEAD: Duration = Duration::from_secs(30);

/// A node process whose hits are seen from now on.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Name of the node.
    pub node: Arc<str>,
    /// Its process.
    pub pid: u32,
}

/// Told of every process that becomes known.
pub(super) type OnWatched = Box<dyn FnMut(&Watched) + Send>;

struct Known {
    started: u64,
    file: FileId,
    node: Arc<str>,
    gone_since: Option<Instant>,
}

/// Processes with books that were gone before anyone looked at them, and since when they are known to be gone. Without this, they
/// would keep their books for ever, and there is room for a few hundred.
#[derive(Default)]
struct Strangers {
    gone: HashMap<u32, Instant>,
}

impl Strangers {
    /// Of the processes that have books and nobody knows, those that are gone for so long that their last records are read.
    fn gone(&mut self, with_books: &[u32], is_alive: impl Fn(u32) -> bool, now: Instant) -> Vec<u32> {
        self.gone.retain(|pid, _| with_books.contains(pid));
        let mut forgotten = Vec::new();
        for pid in with_books {
            if is_alive(*pid) {
                self.gone.remove(pid);
                continue;
            }
            let since = *self.gone.entry(*pid).or_insert(now);
            if now.duration_since(since) > KEEP_DEAD {
                forgotten.push(*pid);
            }
        }
        forgotten
    }
}

/// There is a process with this id. /proc can hide those of other users; this cannot.
fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    // SAFETY: signal 0 is never delivered; the call only checks.
    let found = unsafe { libc::kill(pid, 0) } == 0;
    found || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

pub(super) struct Watcher {
    config: Config,
    programs: Programs,
    books: KernelBooks,
    // Of nodes that were seen in our own file system: what is put there later is the same node's next program.
    paths: HashSet<PathBuf>,
    known: HashMap<u32, Known>,
    strangers: Strangers,
    // Else ids in the books mean other processes here, or none.
    has_kernels_pids: bool,
    told: HashMap<u32, Book>,
    processes: Arc<Processes>,
    offset: Arc<Mutex<Offset>>,
    work: SyncSender<Work>,
    watching: OnWatched,
    said_none: bool,
    said_hidden: bool,
}

impl Watcher {
    pub(super) fn new(
        config: Config,
        programs: Programs,
        processes: Arc<Processes>,
        offset: Arc<Mutex<Offset>>,
        work: SyncSender<Work>,
        watching: OnWatched,
    ) -> Result<Self, super::kernel::Error> {
        Ok(Watcher {
            books: programs.books()?,
            config,
            programs,
            paths: HashSet::new(),
            known: HashMap::new(),
            strangers: Strangers::default(),
            has_kernels_pids: check::has_kernels_pids(),
            told: HashMap::new(),
            processes,
            offset,
            work,
            watching,
            said_none: false,
            said_hidden: false,
        })
    }

    /// Looks for nodes that came, went, or were replaced.
    pub(super) fn look(&mut self) {
        let pid = self.pid_asked_for();
        let files = self.files_at_paths();
        // A program that is known by its path is attached to before it runs, so that nothing of its start is missed.
        if pid.is_none() {
            for (path, _) in &files {
                self.programs.attach(path, Reach::All(None));
            }
        }
        let running = match pid {
            Some(pid) => pid.and_then(discover::process).into_iter().collect(),
            None => {
                let mut wanted = Wanted::default();
                if !self.config.bitcoind_path.is_empty() {
                    wanted.files.extend(files.iter().map(|f| f.1));
                    // What was attached to is watched on when its file is replaced.
                    wanted.files.extend(self.programs.files());
                }
                // Those that were met are followed on when their program gets another name.
                let known = self.known.iter();
                wanted.met = known
                    .map(|(pid, known)| Met { pid: *pid, started: known.started, file: known.file })
                    .collect();
                discover::running(&wanted)
            }
        };
        for node in &running {
            let reach = if pid.is_some() || !is_in_our_root(node) {
                // Containers of one image have one program under many ids: by file, each hit would be seen once for each.
                Reach::One(node)
            } else {
                Reach::All(Some(node))
            };
            self.programs.attach(&node.exe_link(), reach);
            self.meet(node);
        }
        self.part(&running);
        self.programs.keep(&running, &files);
        self.say_what_is_missing(&running);
    }

    /// `Some` when only one process shall be watched; inside, its id if it is known.
    fn pid_asked_for(&self) -> Option<Option<u32>> {
        if let Some(pid) = self.config.bitcoind_pid {
            return Some(Some(pid));
        }
        let path = self.config.bitcoind_pid_file.as_ref()?;
        Some(std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()))
    }

    /// Programs that are known by their path and what file is there now: those asked for, and those of nodes that were seen.
    fn files_at_paths(&self) -> Vec<(PathBuf, FileId)> {
        let paths = self.config.bitcoind_path.iter().chain(&self.paths);
        paths.filter_map(|p| Some((p.clone(), FileId::of(p)?))).collect()
    }

    /// Makes a running process known.
    fn meet(&mut self, node: &NodeProcess) {
        if let Some(known) = self.known.get_mut(&node.pid)
            && known.started == node.started
        {
            known.gone_since = None;
            return;
        }
        let Some(probes) = self.programs.probes(node.file) else { return };
        if self.config.bitcoind_path.is_empty() && is_in_our_root(node) {
            self.paths.insert(node.exe.clone());
        }
        let name = self.processes.meet(node, probes);
        tracing::info!(
            node = %name, pid = node.pid, network = node.network.as_str(), datadir = %node.datadir.display(),
            program = %node.exe.display(), "watching"
        );
        (self.watching)(&Watched { node: name.clone(), pid: node.pid });
        let known = Known { started: node.started, file: node.file, node: name, gone_since: None };
        self.known.insert(node.pid, known);
        self.said_none = false;
    }

    /// Notes which processes are gone, and forgets those that are gone for long.
    fn part(&mut self, running: &[NodeProcess]) {
        let alive: HashSet<u32> = running.iter().map(|n| n.pid).collect();
        let now = Instant::now();
        let mut forgotten = Vec::new();
        for (pid, known) in &mut self.known {
            if alive.contains(pid) {
                continue;
            }
            let since = *known.gone_since.get_or_insert_with(|| {
                tracing::warn!(node = %known.node, pid, "node is gone, waiting for its return");
                now
            });
            if now.duration_since(since) > KEEP_DEAD {
                forgotten.push(*pid);
            }
        }
        for pid in forgotten {
            self.known.remove(&pid);
            self.forget(pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        self.told.remove(&pid);
        self.books.forget(pid);
        self.processes.forget(pid);
    }

    /// Forgets processes that ended between two looks.
    fn forget_strangers(&mut self, books: &BTreeMap<u32, Book>) {
        if !self.has_kernels_pids {
            return;
        }
        let strangers: Vec<u32> =
            books.keys().copied().filter(|pid| *pid != NO_PLACE && !self.known.contains_key(pid)).collect();
        for pid in self.strangers.gone(&strangers, is_alive, Instant::now()) {
            self.forget(pid);
        }
    }

    fn say_what_is_missing(&mut self, running: &[NodeProcess]) {
        let hidden = if running.is_empty() { discover::hidden() } else { Vec::new() };
        if !hidden.is_empty() && !self.said_hidden {
            self.said_hidden = true;
            tracing::warn!(
                pids = ?hidden,
                "nodes of other users run here and may not be looked at: run as root, or with CAP_SYS_PTRACE"
            );
        }
        if running.is_empty() && !self.said_none {
            self.said_none = true;
            match (&self.config.bitcoind_pid, &self.config.bitcoind_pid_file) {
                (Some(pid), _) => tracing::warn!(pid, "no such process, waiting for it"),
                (None, Some(file)) => {
                    tracing::warn!(file = %file.display(), "the pid file names no running process, waiting for it");
                }
                (None, None) => {
                    tracing::warn!("no running Bitcoin Core node found, waiting for one to start")
                }
            }
        }
    }

    /// Samples the clocks again and tells what the kernel dropped since the last time.
    pub(super) fn keep_books(&mut self) {
        if let Ok(offset) = Offset::sample() {
            *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = offset;
        }
        let books = self.books.read();
        let lost = self.new_losses(&books);
        if !lost.is_empty() {
            // The decoder ends only after this thread.
            let _ = self.work.send(Work::Lost(lost));
        }
        let _ = self.work.send(Work::Books(self.by_node(&books)));
        self.forget_strangers(&books);
    }

    fn new_losses(&mut self, books: &BTreeMap<u32, Book>) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (pid, book) in books {
            let told = self.told.entry(*pid).or_default();
            for tracepoint in Tracepoint::ALL {
                let kind = *tracepoint as usize;
                let dropped = book.dropped[kind].saturating_sub(told.dropped[kind]);
                if dropped > 0 {
                    let what = What {
                        stage: Stage::RingBuffer,
                        cause: "full",
                        node: self.processes.name(*pid),
                        subject: None,
                        tracepoint: Some(tracepoint.as_str()),
                        session: None,
                    };
                    lost.push(Lost { what, count: dropped });
                }
            }
            *told = *book;
        }
        lost
    }

    fn by_node(&self, books: &BTreeMap<u32, Book>) -> Vec<(u32, Arc<str>, Book)> {
        books.iter().map(|(pid, book)| (*pid, self.processes.name(*pid), *book)).collect()
    }

    /// Lets go of everything: nothing new comes after this.
    pub(super) fn detach(&mut self) {
        self.programs.detach();
    }

    /// Waits for so long, or for shorter when a program is to be written, which waits for us.
    pub(super) fn wait(&mut self, at_most: Duration) {
        self.programs.wait(at_most);
    }
}

/// It is in no container: its paths lead us to the same files.
fn is_in_our_root(node: &NodeProcess) -> bool {
    let root = Path::new("/");
    FileId::of(&node.host_path(root)) == FileId::of(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_looked_at_is_forgotten_some_time_after_its_end() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let with_books = [std::process::id(), child.id()];
        let mut strangers = Strangers::default();
        let start = Instant::now();
        let late = start + 2 * KEEP_DEAD;
        assert!(strangers.gone(&with_books, is_alive, start).is_empty());
        assert!(strangers.gone(&with_books, is_alive, late).is_empty(), "they live");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(strangers.gone(&with_books, is_alive, late).is_empty(), "its last records may wait");
        assert_eq!(strangers.gone(&with_books, is_alive, late + 2 * KEEP_DEAD), [child.id()]);
        // Its id is in no book any more, and may come again.
        assert!(strangers.gone(&with_books[..1], is_alive, late + 3 * KEEP_DEAD).is_empty());
        assert!(strangers.gone.is_empty());
    }
}
