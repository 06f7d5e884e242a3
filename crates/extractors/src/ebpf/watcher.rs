//! Follows the nodes of this machine: attaches to their programs, knows their processes, tells their losses.
//!
//! Programs are attached to by file and for every process that runs them, so a node that is restarted is followed with nothing
//! to do. An upgrade puts another file in place: it is seen, and attached to, as soon as it runs, or before, where its path is
//! known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use libbpf_rs::Link;
use peer_observer_bus::loss::What;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_node::discover::{self, FileId, NodeProcess, Wanted};
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::probes::Probes;

use super::check;
use super::clock::Offset;
use super::config::Config;
use super::kernel::{self, Book, Kernel, KernelBooks, NO_PLACE};
use super::nodes::Processes;
use super::pipeline::{Lost, Work};

/// How long a process that is gone stays known: its last records are read long before.
const KEEP_DEAD: Duration = Duration::from_secs(30);

/// An attachment: which file, and for which process only.
type Key = (FileId, Option<u32>);

/// What tells that a file has changed: its length and the time of its last change.
#[derive(PartialEq, Eq)]
struct State(Option<(u64, SystemTime)>);

impl State {
    fn of(path: &Path) -> Self {
        let meta = std::fs::metadata(path).ok();
        State(meta.and_then(|m| Some((m.len(), m.modified().ok()?))))
    }
}

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
    kernel: Kernel,
    books: KernelBooks,
    links: HashMap<Key, Vec<Link>>,
    probes: HashMap<FileId, Probes>,
    // With what the file was then: one that is still being written is tried again when it has changed.
    failed: HashMap<Key, State>,
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
        kernel: Kernel,
        processes: Arc<Processes>,
        offset: Arc<Mutex<Offset>>,
        work: SyncSender<Work>,
        watching: OnWatched,
    ) -> Result<Self, super::kernel::Error> {
        Ok(Watcher {
            books: kernel.books()?,
            config,
            kernel,
            links: HashMap::new(),
            probes: HashMap::new(),
            failed: HashMap::new(),
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
            for (path, file) in &files {
                self.attach(path, *file, None);
            }
        }
        let running = match pid {
            Some(pid) => pid.and_then(discover::process).into_iter().collect(),
            None => {
                let mut wanted = Wanted::default();
                if !self.config.bitcoind_path.is_empty() {
                    wanted.files.extend(files.iter().map(|f| f.1));
                    // What was attached to is watched on when its file is replaced.
                    wanted.files.extend(self.links.keys().map(|k| k.0));
                }
                discover::running(&wanted)
            }
        };
        for node in &running {
            self.attach(&node.exe_link(), node.file, pid.flatten());
            self.meet(node);
        }
        self.part(&running);
        self.detach_unused(&running, &files);
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

    fn attach(&mut self, path: &Path, file: FileId, pid: Option<u32>) {
        let key = (file, pid);
        if self.links.contains_key(&key) {
            return;
        }
        let state = State::of(path);
        if self.failed.get(&key) == Some(&state) {
            return;
        }
        let probes = match Probes::of_binary(path) {
            Ok(probes) => probes,
            Err(error) => {
                tracing::error!(%error, "cannot look for tracepoints");
                self.failed.insert(key, state);
                return;
            }
        };
        let wanted: Vec<Tracepoint> =
            Tracepoint::ALL.iter().copied().filter(|t| self.config.wants(*t)).collect();
        let mut links = Vec::new();
        // Messages come last, so that no message is seen of a connection that was not.
        for tracepoint in wanted.iter().rev().copied().filter(|t| probes.has(*t)) {
            match self.kernel.attach(path, pid, tracepoint) {
                Ok(link) => links.push(link),
                Err(error) => tracing::error!(
                    tracepoint = tracepoint.as_str(), program = %path.display(), %error,
                    "cannot attach: run as root, or with CAP_BPF and CAP_PERFMON"
                ),
            }
        }
        if links.is_empty() {
            self.failed.insert(key, state);
            say_why_nothing_is_attached(path, &probes);
            return;
        }
        let lacking: Vec<&str> = wanted
            .iter()
            .filter(|t| !probes.has(**t) && t.provider() != "addrman")
            .map(|t| t.as_str())
            .collect();
        tracing::info!(
            program = %path.display(), tracepoints = links.len(), core = probes.release(), "attached"
        );
        if !lacking.is_empty() {
            tracing::warn!(
                program = %path.display(), missing = lacking.join(" "), core = probes.release(),
                "this node lacks tracepoints, as older releases do: what they tell will be missing"
            );
        }
        self.probes.insert(file, probes);
        self.links.insert(key, links);
    }

    /// Makes a running process known.
    fn meet(&mut self, node: &NodeProcess) {
        if let Some(known) = self.known.get_mut(&node.pid)
            && known.started == node.started
        {
            known.gone_since = None;
            return;
        }
        let Some(probes) = self.probes.get(&node.file) else { return };
        if self.config.bitcoind_path.is_empty()
            && FileId::of(&node.host_path(Path::new("/"))) == FileId::of(Path::new("/"))
        {
            self.paths.insert(node.exe.clone());
        }
        let name = self.processes.meet(node, probes);
        tracing::info!(
            node = %name, pid = node.pid, network = node.network.as_str(), datadir = %node.datadir.display(),
            program = %node.exe.display(), "watching"
        );
        (self.watching)(&Watched { node: name.clone(), pid: node.pid });
        self.known.insert(node.pid, Known { started: node.started, node: name, gone_since: None });
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

    /// Lets go of replaced files that nobody runs any more, and of processes that ended.
    fn detach_unused(&mut self, running: &[NodeProcess], files: &[(PathBuf, FileId)]) {
        let mut used: HashSet<FileId> = running.iter().map(|n| n.file).collect();
        used.extend(files.iter().map(|f| f.1));
        let pids: HashSet<u32> = running.iter().map(|n| n.pid).collect();
        self.links.retain(|(file, pid), _| pid.map_or(used.contains(file), |pid| pids.contains(&pid)));
        self.probes.retain(|file, _| used.contains(file));
        self.failed.retain(|(file, _), _| used.contains(file));
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
        kernel::detach(self.links.drain().flat_map(|(_, links)| links).collect());
    }
}

fn say_why_nothing_is_attached(path: &Path, probes: &Probes) {
    if probes.any() {
        tracing::error!(
            program = %path.display(),
            "none of the wanted tracepoints could be attached: `peer-observer doctor` tells what is missing"
        );
    } else {
        tracing::error!(
            program = %path.display(),
            "this program has no tracepoints: use a release of Bitcoin Core 22 or later for Linux, or build with -DWITH_USDT=ON \
             (and systemtap-sdt-dev installed)"
        );
    }
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
