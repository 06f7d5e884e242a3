//! Every P2P message, connection, mempool change and block of the Bitcoin Core nodes on this machine, in real time, from
//! their tracepoints.
//!
//! An eBPF program at each tracepoint copies the arguments into one ring buffer in the kernel, so order is kept, and keeps books
//! of hits and drops. The node is never made to wait: when the ring is full, the hit is counted and dropped.
//!
//! | file | what it is for |
//! |---|---|
//! | bpf/probes.bpf.c | the programs in the kernel |
//! | kernel.rs | loads and attaches them, reads ring and books |
//! | messages.rs | sends messages of libbpf to our log |
//! | record.rs | the layout of the kernel's records |
//! | pipeline.rs | ring to bus: a thread that copies, a thread that decodes and publishes |
//! | watcher.rs | finds nodes, follows restarts and upgrades, tells losses |
//! | programs.rs | attaches to their programs, and lets go before these change |
//! | paths.rs | where programs are attached to before they run |
//! | lease.rs | has writers of a program wait until it is let go of |
//! | nodes.rs | which process is which node |
//! | exit.rs | how nodes ended |
//! | clock.rs | kernel time to UNIX time |
//! | config.rs | flags |
//! | check.rs | what the machine must have |

mod check;
mod clock;
mod config;
mod exit;
pub mod kernel;
mod lease;
mod messages;
mod nodes;
mod paths;
mod pipeline;
mod programs;
mod record;
mod watcher;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peer_observer_bus::Publisher;
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::names::Names;
use peer_observer_node::watch::NodeWatcher;
use tokio_util::sync::CancellationToken;

pub use check::{check, check_node, drop_capabilities, may_run, needed_capabilities};
pub use config::{Config, TypeLimit};

use clock::Offset;
use kernel::{Kernel, LoadOptions};
use nodes::Processes;
use programs::Programs;
pub use watcher::Watched;
use watcher::Watcher;

/// Chunks of records between reader and decoder. They bound memory: each is about half a MiB, or one large message.
const CHUNKS: usize = 8;
/// How often to look at programs, and for nodes that are not attached to yet.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often to look whether there is something to do.
const TICK: Duration = Duration::from_millis(20);
/// How often to read the kernel's books.
const BOOKS_EVERY: Duration = Duration::from_secs(1);

/// What ends the extractor before it is told to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work.
    #[error("{0}")]
    Config(String),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A clock or thread is not to be had.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A thread ended in a way it never should.
    #[error("the {0} thread of the ebpf extractor crashed: please report this")]
    Crashed(&'static str),
}

/// Watches the nodes of this machine until `stop`, and publishes what they do. Nodes may come and go.
///
/// # Errors
/// When the kernel refuses the programs, or the settings cannot work.
pub async fn run(config: Config, publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    run_and_tell(config, publisher, stop, |_| ()).await
}

/// [`run`], and tells of every node process once its hits are seen.
///
/// # Errors
/// As for [`run`].
pub async fn run_and_tell(
    config: Config,
    publisher: Publisher,
    stop: CancellationToken,
    watching: impl FnMut(&Watched) + Send + 'static,
) -> Result<(), Error> {
    let names = Arc::new(Names::new(config.node.clone()));
    let nodes = NodeWatcher::start(config.selection())
        .map_err(|source| Error::System { doing: "starting to look for nodes", source })?;
    run_with(config, Nodes { names, watcher: Arc::new(nodes) }, publisher, stop, watching).await
}

/// The nodes of this machine and their names, for all extractors.
#[derive(Debug, Clone)]
pub struct Nodes {
    /// Their names.
    pub names: Arc<Names>,
    /// Finds them.
    pub watcher: Arc<NodeWatcher>,
}

/// [`run_and_tell`], with nodes that other extractors share.
///
/// # Errors
/// As for [`run`].
pub async fn run_with(
    config: Config,
    nodes: Nodes,
    publisher: Publisher,
    stop: CancellationToken,
    watching: impl FnMut(&Watched) + Send + 'static,
) -> Result<(), Error> {
    config.validate()?;
    check::warn_of_machine();
    let stopping = Arc::new(AtomicBool::new(false));
    let threads = thread::Builder::new().name("ebpf-watcher".into());
    let (done, finished) = tokio::sync::oneshot::channel();
    let flag = stopping.clone();
    threads
        .spawn(move || {
            let _ = done.send(watch(config, nodes, publisher, &flag, Box::new(watching)));
        })
        .map_err(|source| Error::System { doing: "starting the ebpf threads", source })?;
    let mut finished = finished;
    tokio::select! {
        result = &mut finished => result.map_err(|_| Error::Crashed("watcher"))?,
        () = stop.cancelled() => {
            stopping.store(true, Ordering::Relaxed);
            finished.await.map_err(|_| Error::Crashed("watcher"))?
        }
    }
}

/// The life of the extractor, on its own thread: libbpf calls wait, and belong on no runtime.
fn watch(
    config: Config,
    nodes: Nodes,
    publisher: Publisher,
    stopping: &AtomicBool,
    watching: watcher::OnWatched,
) -> Result<(), Error> {
    messages::route(config.libbpf_debug);
    let options = LoadOptions {
        ring_bytes: config.ring_buffer_bytes,
        max_payload: config.max_payload,
        type_limits: config.type_limits(),
        watches_signals: !exit::pidfd_tells(),
    };
    let kernel = Kernel::load(&options)?;
    let ring = kernel.ring()?;
    let offset = Offset::sample().map_err(|source| Error::System { doing: "reading the clocks", source })?;
    let offset = Arc::new(Mutex::new(offset));
    let Nodes { names, watcher } = nodes;
    match exit::pidfd_tells() {
        true => watcher.add_exit_source(Arc::new(exit::Pidfds)),
        false => match exit::Signals::new(&kernel) {
            Ok(signals) => watcher.add_exit_source(Arc::new(signals)),
            Err(error) => tracing::warn!(%error, "how nodes end will not be known"),
        },
    }
    let processes = Arc::new(Processes::new(names, watcher.clone()));
    let (work, take_work) = sync_channel(CHUNKS);
    let (give_back, spare) = sync_channel(CHUNKS);
    let decoder = pipeline::Decoder::new(publisher, processes.clone(), offset.clone());
    let wanted = Tracepoint::ALL.iter().copied().filter(|t| config.wants(*t)).collect();
    let programs = Programs::new(kernel, wanted)
        .map_err(|source| Error::System { doing: "preparing to take leases on programs", source })?;
    let mut watcher = Watcher::new(config, programs, watcher, processes, offset, work.clone(), watching)?;

    let reader_stop = Arc::new(AtomicBool::new(false));
    let threads = Threads {
        decoder: spawn("ebpf-decoder", move || decoder.run(&take_work, &give_back))?,
        reader: spawn("ebpf-reader", {
            let stop = reader_stop.clone();
            move || pipeline::read_ring(&ring, &work, &spare, &stop)
        })?,
    };

    let mut next_books = Instant::now() + BOOKS_EVERY;
    let mut next_look = Instant::now();
    while !stopping.load(Ordering::Relaxed) && threads.work() {
        let now = Instant::now();
        if watcher.take_events() || now >= next_look {
            watcher.look();
            next_look = Instant::now() + LOOK_EVERY;
        }
        if now >= next_books {
            watcher.keep_books();
            next_books = now + BOOKS_EVERY;
        }
        watcher.wait(TICK);
    }
    // In this order nothing is left behind: no new hits, then the rest of the ring, then the books of all of it.
    watcher.detach();
    reader_stop.store(true, Ordering::Relaxed);
    threads.end(|| {
        watcher.keep_books();
        drop(watcher);
    })
}

/// The two threads between ring and bus. Neither ends before it is told to, unless it fails.
struct Threads {
    reader: thread::JoinHandle<Result<(), kernel::Error>>,
    decoder: thread::JoinHandle<()>,
}

impl Threads {
    /// Both do their work: without either, hits would go nowhere, and nobody would hear of it.
    fn work(&self) -> bool {
        !self.reader.is_finished() && !self.decoder.is_finished()
    }

    /// Waits for their end; `between` closes the books, when the reader has read all and the decoder still listens.
    fn end(self, between: impl FnOnce()) -> Result<(), Error> {
        let read = self.reader.join().map_err(|_| Error::Crashed("reader"))?;
        between();
        self.decoder.join().map_err(|_| Error::Crashed("decoder"))?;
        Ok(read?)
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Error> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|source| Error::System { doing: "starting the ebpf threads", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_crashes_ends_the_extractor_with_an_error() {
        for crashing in ["reader", "decoder"] {
            let (end, until_end) = sync_channel::<()>(0);
            let (end_too, until_end_too) = sync_channel::<()>(0);
            let crash_or = move |name: &'static str, until: std::sync::mpsc::Receiver<()>| {
                let _ = until.recv();
                assert_ne!(name, crashing, "this is what is tested");
            };
            let threads = Threads {
                reader: thread::spawn(move || {
                    crash_or("reader", until_end);
                    Ok(())
                }),
                decoder: thread::spawn(move || crash_or("decoder", until_end_too)),
            };
            assert!(threads.work());
            let other = if crashing == "reader" {
                drop(end);
                end_too
            } else {
                drop(end_too);
                end
            };
            while threads.work() {
                thread::sleep(Duration::from_millis(1));
            }
            drop(other);
            let ended = threads.end(|| ());
            assert!(matches!(ended, Err(Error::Crashed(name)) if name == crashing), "{ended:?}");
        }
    }
}
