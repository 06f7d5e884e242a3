//! Attaches to the programs of this machine's nodes, knows their processes, reports their losses.
//!
//! A program is attached to for every process that runs it, so a node that is restarted is followed with nothing to do; where that
//! cannot be (programs.rs), for each process as soon as it is seen. An upgrade puts another file in place: it is seen, and
//! attached to, as soon as it runs, or before, where its path is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer_observer_bus::loss::What;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_node::discover::{self, NodeProcess};
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::regular;
use peer_observer_node::watch::{NodeEvent, NodeWatcher, Subscription};

use super::check;
use super::clock::Offset;
use super::config::Config;
use super::kernel::{Book, KernelBooks, NO_PLACE};
use super::nodes::Processes;
use super::paths::ProgramPaths;
use super::pipeline::{Lost, Work};
use super::programs::{AtPath, Programs, Reach};

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

/// A node that runs.
struct Known {
    process: Arc<NodeProcess>,
    /// Its name, once its program is attached to.
    name: Option<Arc<str>>,
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
    nodes: Subscription,
    watcher: Arc<NodeWatcher>,
    paths: ProgramPaths,
    known: HashMap<u32, Known>,
    /// Processes that are gone, and since when.
    gone: HashMap<u32, Instant>,
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
    #[allow(clippy::too_many_arguments, reason = "each is another part of the extractor")]
    pub(super) fn new(
        config: Config,
        programs: Programs,
        watcher: Arc<NodeWatcher>,
        processes: Arc<Processes>,
        offset: Arc<Mutex<Offset>>,
        work: SyncSender<Work>,
        watching: OnWatched,
    ) -> Result<Self, super::kernel::Error> {
        Ok(Watcher {
            books: programs.books()?,
            config,
            programs,
            nodes: watcher.subscribe(),
            watcher,
            paths: ProgramPaths::default(),
            known: HashMap::new(),
            gone: HashMap::new(),
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

    /// Takes what happened to nodes. Returns whether something did.
    pub(super) fn take_events(&mut self) -> bool {
        let events = self.nodes.poll();
        let is_news = !events.is_empty();
        for event in events {
            match event {
                NodeEvent::Appeared(process) => {
                    self.gone.remove(&process.pid);
                    self.processes.started(&process);
                    self.known.insert(process.pid, Known { process, name: None });
                }
                NodeEvent::Changed(process) => {
                    // Its name may be another, now that its data directory is known.
                    self.known.insert(process.pid, Known { process, name: None });
                }
                NodeEvent::Gone(process, ended) => {
                    let name = self.known.remove(&process.pid).and_then(|known| known.name);
                    let node = name.unwrap_or_else(|| self.processes.name(process.pid));
                    self.processes.ended(&process, Instant::now());
                    self.gone.insert(process.pid, Instant::now());
                    tracing::warn!(%node, pid = process.pid, %ended, "node is gone, waiting for its return");
                }
            }
        }
        is_news
    }

    /// Attaches to what is not attached to yet, and detaches from what is gone.
    pub(super) fn look(&mut self) {
        self.take_events();
        self.processes.allow_looks();
        let at_paths = self.at_paths();
        // A program that is known by its path is attached to before it runs, so that nothing of its start is missed.
        if self.config.watches_programs() {
            for at in &at_paths {
                self.programs.attach_file(at);
            }
        }
        let pids: Vec<u32> = self.known.keys().copied().collect();
        for pid in pids {
            self.attach(pid);
        }
        self.forget_gone();
        self.programs.keep(self.known.values().map(|known| &*known.process), &at_paths);
        self.say_what_is_missing();
    }

    /// Programs that are known by their path and are there now, with the users who chose them: those asked for, and those of
    /// nodes that were seen.
    fn at_paths(&mut self) -> Vec<AtPath> {
        let now = Instant::now();
        for known in self.known.values() {
            self.paths.refresh(&known.process, now);
        }
        let asked_for = self
            .config
            .bitcoind_path
            .iter()
            .filter_map(|path| AtPath::new(path, regular::open(path).ok()?, 0));
        asked_for.chain(self.paths.programs(now)).collect()
    }

    /// Attaches to the program of a process, and makes the process known.
    fn attach(&mut self, pid: u32) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        let node = &known.process;
        // Containers of one image have one program under many ids: by file, each hit would be seen once for each.
        let reach = match self.config.watches_programs() && node.shares_root {
            true => Reach::All(node),
            false => Reach::One(node),
        };
        self.programs.attach(reach);
        if known.name.is_some() {
            return;
        }
        let Some(probes) = self.programs.probes(node.file) else { return };
        let name = self.processes.meet(node, probes);
        tracing::info!(
            node = %name, pid, network = node.network.as_str(), datadir = %node.datadir.display(),
            program = %node.exe.display(), "watching"
        );
        known.name = Some(name.clone());
        (self.watching)(&Watched { node: name, pid });
        self.said_none = false;
        // Where its program is, its next one will be.
        if self.config.bitcoind_path.is_empty() {
            self.paths.remember(node, Instant::now());
        }
    }

    /// Forgets processes that are gone for so long that their last records are read.
    fn forget_gone(&mut self) {
        let now = Instant::now();
        let forgotten: Vec<u32> = self
            .gone
            .extract_if(|_, since| now.duration_since(*since) > KEEP_DEAD)
            .map(|(pid, _)| pid)
            .collect();
        for pid in forgotten {
            self.forget(pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        self.told.remove(&pid);
        self.books.forget(pid);
        self.processes.forget(pid);
    }

    /// It runs, or its last records may still come.
    fn is_known(&self, pid: u32) -> bool {
        self.known.contains_key(&pid) || self.gone.contains_key(&pid)
    }

    /// Forgets processes that ended between two looks.
    fn forget_strangers(&mut self, books: &BTreeMap<u32, Book>) {
        if !self.has_kernels_pids {
            return;
        }
        let strangers: Vec<u32> =
            books.keys().copied().filter(|pid| *pid != NO_PLACE && !self.is_known(*pid)).collect();
        for pid in self.strangers.gone(&strangers, is_alive, Instant::now()) {
            self.forget(pid);
        }
    }

    fn say_what_is_missing(&mut self) {
        let is_idle = self.known.is_empty() && self.watcher.has_looked();
        let hidden = if is_idle { discover::hidden() } else { Vec::new() };
        if !hidden.is_empty() && !self.said_hidden {
            self.said_hidden = true;
            tracing::warn!(
                pids = ?hidden,
                "nodes of other users run here and may not be looked at: run as root, or with CAP_SYS_PTRACE"
            );
        }
        if is_idle && !self.said_none {
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
