//! The kernel's side: loading the programs, attaching them, reading ring and books.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libbpf_rs::{
    ErrorExt, ErrorKind, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, RingBufferBuilder,
};
use peer_observer_node::hit::Tracepoint;

/// Made of bpf/probes.bpf.c by `cargo xtask regenerate bpf`.
#[cfg(target_arch = "x86_64")]
const OBJECT: &[u8] = include_bytes!("bpf/probes.x86_64.bpf.o");
#[cfg(target_arch = "aarch64")]
const OBJECT: &[u8] = include_bytes!("bpf/probes.aarch64.bpf.o");

/// Kinds of tracepoints in a book, as in probes.bpf.c.
const KINDS: usize = 16;
/// Length of a message type in `type_limits`, as in probes.bpf.c.
const MSG_TYPE: usize = 16;
/// Largest payload that can be captured, bytes: what Core takes from a peer is less (4,000,000, net.h).
pub const MAX_PAYLOAD: u32 = 4 << 20;

/// Program that notes which signals end nodes.
const SIGNALS: &str = "signal_delivered";
/// Map of libbpf's USDT code with the forms of arguments of all probes that are attached to (usdt.bpf.h).
const FORMS: &str = "__bpf_usdt_specs";
/// Forms that there is room for. A node of Bitcoin Core takes up some 15 for each file or process that is attached to.
pub const MAX_FORMS: u32 = 4096;

/// Threads that let go of links at once.
const MAX_THREADS: usize = 16;

/// What goes wrong with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The programs cannot be loaded.
    #[error("cannot load the eBPF programs: {source:#} ({})", load_hint(source))]
    Load {
        /// What libbpf says.
        source: libbpf_rs::Error,
    },
    /// The ring buffer cannot be read.
    #[error("cannot read the ring buffer: {source:#}")]
    Ring {
        /// What libbpf or the kernel says.
        source: libbpf_rs::Error,
    },
    /// The committed object is not the one this code was written for.
    #[error("the BPF object has no {0}: run `cargo xtask regenerate bpf`")]
    Object(&'static str),
}

fn load_hint(error: &libbpf_rs::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "run as root, or give the program CAP_BPF and CAP_PERFMON; `peer-observer doctor` tells more"
        }
        ErrorKind::TooBig => {
            "this kernel's verifier looks at more of them than it has patience for: please report this with `uname -r` and the settings"
        }
        ErrorKind::InvalidInput => "the kernel may be too old: Linux 5.15 or later is needed",
        _ => "`peer-observer doctor` tells what this machine lacks",
    }
}

/// Settings that are fixed when the programs are loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Size of the ring buffer, bytes: a power of two.
    pub ring_bytes: u32,
    /// Payload bytes captured of a message, at most.
    pub max_payload: u32,
    /// The same for some message types.
    pub type_limits: BTreeMap<String, u32>,
    /// Watch which signals end nodes, as [`NodeSignals`].
    pub watches_signals: bool,
}

/// The loaded programs.
pub struct Kernel {
    object: Object,
}

impl Kernel {
    /// Loads the programs.
    ///
    /// # Errors
    /// When the kernel refuses: no permission, too old, no memory for the ring.
    pub fn load(options: &LoadOptions) -> Result<Self, Error> {
        let load = |source| Error::Load { source };
        let mut builder = ObjectBuilder::default();
        builder.name("peer_observer").map_err(load)?;
        let mut open = builder.open_memory(OBJECT).map_err(load)?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name == "events" {
                map.set_max_entries(options.ring_bytes).map_err(load)?;
            } else if name == FORMS {
                map.set_max_entries(MAX_FORMS).map_err(load)?;
            } else if name.ends_with(".rodata") {
                // `config` is the first thing in there; see probes.bpf.c.
                let value = map.initial_value_mut().ok_or(Error::Object("configuration"))?;
                let (config, _) = value.split_first_chunk_mut::<8>().ok_or(Error::Object("configuration"))?;
                if config[..4] != MAX_PAYLOAD.to_ne_bytes() {
                    return Err(Error::Object("configuration where it is expected"));
                }
                config[..4].copy_from_slice(&options.max_payload.min(MAX_PAYLOAD).to_ne_bytes());
                config[4..].copy_from_slice(&u32::from(!options.type_limits.is_empty()).to_ne_bytes());
            }
        }
        for mut program in open.progs_mut() {
            if program.name() == SIGNALS && !options.watches_signals {
                program.set_autoload(false);
            }
        }
        let object = open.load().map_err(load)?;
        let kernel = Kernel { object };
        let limits = kernel.map("type_limits")?;
        for (name, limit) in &options.type_limits {
            let mut key = [0; MSG_TYPE];
            let length = name.len().min(MSG_TYPE - 1);
            key[..length].copy_from_slice(&name.as_bytes()[..length]);
            limits.update(&key, &limit.to_ne_bytes(), MapFlags::ANY).map_err(load)?;
        }
        Ok(kernel)
    }

    fn map(&self, name: &'static str) -> Result<MapHandle, Error> {
        let map = self.object.maps().find(|m| m.name() == name).ok_or(Error::Object(name))?;
        MapHandle::try_from(&map).map_err(|source| Error::Load { source })
    }

    /// Attaches the program of a tracepoint to a binary: to all processes that run it now and later, or to one.
    ///
    /// # Errors
    /// When the binary has no such probe, or the kernel refuses.
    pub fn attach(&self, binary: &Path, pid: Option<u32>, tracepoint: Tracepoint) -> libbpf_rs::Result<Link> {
        self.attach_program(program(tracepoint), binary, pid, tracepoint)
    }

    /// Attaches the program that does nothing: the floor of what any tracing costs the node.
    ///
    /// # Errors
    /// As for [`Kernel::attach`].
    pub fn attach_nothing(&self, binary: &Path, tracepoint: Tracepoint) -> libbpf_rs::Result<Link> {
        self.attach_program("nothing", binary, None, tracepoint)
    }

    fn attach_program(
        &self,
        program: &str,
        binary: &Path,
        pid: Option<u32>,
        tracepoint: Tracepoint,
    ) -> libbpf_rs::Result<Link> {
        let program = self
            .object
            .progs_mut()
            .find(|p| p.name() == program)
            .ok_or_else(|| libbpf_rs::Error::from_raw_os_error(libc::ENOENT))
            .context("the BPF object lacks a program")?;
        let pid = pid.map_or(-1, |pid| i32::try_from(pid).unwrap_or(i32::MAX));
        program.attach_usdt(pid, binary, tracepoint.provider(), tracepoint.name())
    }

    /// Notes which signals end nodes, from now on. Needs [`LoadOptions::watches_signals`].
    ///
    /// # Errors
    /// When the kernel refuses, or the object is not the one this code was written for.
    pub fn signals(&self) -> Result<NodeSignals, Error> {
        let program = self.object.progs_mut().find(|program| program.name() == SIGNALS);
        let program = program.ok_or(Error::Object(SIGNALS))?;
        let link = program.attach().map_err(|source| Error::Load { source })?;
        Ok(NodeSignals { map: self.map("node_signals")?, _link: link })
    }

    /// The ring's reading end.
    ///
    /// # Errors
    /// When the object is not the one this code was written for.
    pub fn ring(&self) -> Result<Ring, Error> {
        Ok(Ring { map: self.map("events")? })
    }

    /// The books.
    ///
    /// # Errors
    /// When the object is not the one this code was written for.
    pub fn books(&self) -> Result<KernelBooks, Error> {
        let bss = self
            .object
            .maps()
            .find(|m| m.name().to_string_lossy().ends_with(".bss"))
            .ok_or(Error::Object("bss"))?;
        let bss = MapHandle::try_from(&bss).map_err(|source| Error::Load { source })?;
        Ok(KernelBooks { books: self.map("books")?, bss })
    }
}

/// The number of the error of the system (errno) that caused an error of libbpf, which only has it in its text.
pub(super) fn errno(error: &libbpf_rs::Error) -> Option<i32> {
    // Without `#`, it is the text of what failed, not of its cause.
    let text = format!("{error:#}");
    let (_, number) = text.rsplit_once("(os error ")?;
    number.split_once(')')?.0.parse().ok()
}

/// Detaches: when this returns, no program of these links runs any more. `descriptors` are those of the links.
///
/// The kernel takes some 50 ms to let go of a link, and libbpf lets go of one after the other and is not made for threads: with
/// two binaries that is longer than a stop may take. So the links are kept open here while libbpf closes them, and are closed side
/// by side afterwards. A link that cannot be kept open, because no descriptor is left, is closed by libbpf.
pub(super) fn detach(links: Vec<Link>, descriptors: &[RawFd]) {
    let open: Vec<OwnedFd> = descriptors.iter().copied().filter_map(second_descriptor).collect();
    drop(links);
    drop_side_by_side(open, thread::Builder::new);
}

fn is_link(descriptor: RawFd) -> bool {
    let path = format!("/proc/self/fd/{descriptor}");
    std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == "anon_inode:bpf_link")
}

fn second_descriptor(descriptor: RawFd) -> Option<OwnedFd> {
    if !is_link(descriptor) {
        return None;
    }
    // SAFETY: it is borrowed for one call, which fails when the descriptor is closed meanwhile.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned().ok()
}

/// Descriptors of all links of this process. libbpf does not tell those of a USDT link (`bpf_link__fd` is 0): they are the ones
/// that are there after it was made, and were not before.
pub(super) fn link_descriptors() -> HashSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return HashSet::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| is_link(*number)).collect()
}

/// Drops items whose drop waits, each thread a share of them.
fn drop_side_by_side<T: Send>(mut items: Vec<T>, builder: impl Fn() -> thread::Builder) {
    let share = items.len().div_ceil(MAX_THREADS).max(1);
    thread::scope(|threads| {
        while !items.is_empty() {
            let rest = items.split_off(share.min(items.len()));
            let share = std::mem::replace(&mut items, rest);
            // When there is no thread to be had, the share is dropped with the closure, here.
            let _ = builder().spawn_scoped(threads, move || drop(share));
        }
    });
}

fn program(tracepoint: Tracepoint) -> &'static str {
    match tracepoint {
        Tracepoint::InboundMessage => "inbound_message",
        Tracepoint::OutboundMessage => "outbound_message",
        Tracepoint::InboundConnection => "inbound_connection",
        Tracepoint::OutboundConnection => "outbound_connection",
        Tracepoint::ClosedConnection => "closed_connection",
        Tracepoint::EvictedInboundConnection => "evicted_inbound_connection",
        Tracepoint::MisbehavingConnection => "misbehaving_connection",
        Tracepoint::MempoolAdded => "mempool_added",
        Tracepoint::MempoolRemoved => "mempool_removed",
        Tracepoint::MempoolReplaced => "mempool_replaced",
        Tracepoint::MempoolRejected => "mempool_rejected",
        Tracepoint::BlockConnected => "block_connected",
        Tracepoint::UtxoCacheFlush => "utxocache_flush",
        Tracepoint::AddrmanAttemptAdd => "addrman_attempt_add",
        Tracepoint::AddrmanMoveToGood => "addrman_move_to_good",
    }
}

/// The ring buffer.
pub struct Ring {
    map: MapHandle,
}

impl Ring {
    /// A reader that gives every record to `take`, in order.
    ///
    /// # Errors
    /// When the ring cannot be mapped.
    pub fn reader<'a>(&'a self, mut take: impl FnMut(&[u8]) + 'a) -> Result<RingReader<'a>, Error> {
        let mut builder = RingBufferBuilder::new();
        let ring = |source| Error::Ring { source };
        builder
            .add(&self.map, move |record| {
                take(record);
                0
            })
            .map_err(ring)?;
        Ok(RingReader { ring: builder.build().map_err(ring)? })
    }
}

/// Reads the ring.
pub struct RingReader<'a> {
    ring: libbpf_rs::RingBuffer<'a>,
}

impl RingReader<'_> {
    /// Waits until there is something to read, at most `timeout`. The kernel wakes only a reader that had read everything, so
    /// one that sleeps a little before it reads costs the node few wake-ups.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(&self, timeout: Duration) -> std::io::Result<bool> {
        // SAFETY: the descriptor belongs to the ring, which outlives the call.
        let epoll = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
        let mut poll = libc::pollfd { fd: epoll.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd that lives through the call.
        let n = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if n < 0 {
            let error = std::io::Error::last_os_error();
            return if error.kind() == std::io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
        }
        Ok(n > 0)
    }

    /// Takes what is there. Returns the number of records.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn consume(&self) -> Result<usize, Error> {
        let n = self.ring.consume_raw();
        usize::try_from(n).map_err(|_| Error::Ring { source: libbpf_rs::Error::from_raw_os_error(-n) })
    }
}

/// Hits of a process, by tracepoint kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Book {
    /// Hits.
    pub hits: [u64; KINDS],
    /// Hits that found the ring full.
    pub dropped: [u64; KINDS],
    /// Hits of which something could not be read; they are recorded all the same.
    pub unread: [u64; KINDS],
}

impl Book {
    /// The process it is of (0: nobody), then 4 bytes of nothing, then the numbers: `struct book` in probes.bpf.c.
    const SIZE: usize = 8 + 3 * KINDS * 8;

    fn parse(bytes: &[u8]) -> Option<(u32, Self)> {
        let (owner, numbers) = bytes.get(..Self::SIZE)?.split_at(8);
        let owner = u32::from_ne_bytes(*owner.first_chunk()?);
        let mut book = Book::default();
        for (place, number) in book.places().zip(numbers.chunks_exact(8)) {
            *place = u64::from_ne_bytes(number.try_into().ok()?);
        }
        Some((owner, book))
    }

    /// Hits of a kind of which there is a record.
    pub fn recorded(&self, kind: usize) -> u64 {
        self.hits[kind].saturating_sub(self.dropped[kind])
    }

    fn add(&mut self, mut other: Book) {
        for (sum, number) in self.places().zip(other.places()) {
            *sum += *number;
        }
    }

    fn places(&mut self) -> impl Iterator<Item = &mut u64> {
        self.hits.iter_mut().chain(&mut self.dropped).chain(&mut self.unread)
    }
}

/// Signals that ended nodes.
pub struct NodeSignals {
    map: MapHandle,
    _link: Link,
}

impl NodeSignals {
    /// From now on, a signal that ends this process is noted.
    pub fn expect(&self, pid: u32) {
        let _ = self.map.update(&pid.to_ne_bytes(), &0u32.to_ne_bytes(), MapFlags::ANY);
    }

    /// The signal that ended a process, if one did.
    pub fn of(&self, pid: u32) -> Option<i32> {
        let value = self.map.lookup(&pid.to_ne_bytes(), MapFlags::ANY).ok()??;
        let signal = i32::from_ne_bytes(*value.first_chunk()?);
        (signal != 0).then_some(signal)
    }

    /// This process is gone.
    pub fn forget(&self, pid: u32) {
        let _ = self.map.delete(&pid.to_ne_bytes());
    }
}

/// Stands for the processes that found no place for a book of their own.
pub const NO_PLACE: u32 = 0;

/// The kernel's books.
pub struct KernelBooks {
    books: MapHandle,
    bss: MapHandle,
}

impl KernelBooks {
    /// The books of all processes, and that of [`NO_PLACE`], if there were such processes.
    pub fn read(&self) -> BTreeMap<u32, Book> {
        let mut all: BTreeMap<u32, Book> = BTreeMap::new();
        for (_, pid, book) in self.places() {
            // A process has two when a place before its first one was freed meanwhile.
            all.entry(pid).or_default().add(book);
        }
        // .bss holds `overflow` and nothing else.
        if let Ok(Some(bss)) = self.bss.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)
            && let Some((_, overflow)) = Book::parse(&bss)
            && overflow != Book::default()
        {
            all.insert(NO_PLACE, overflow);
        }
        all
    }

    /// The places that are taken: which, by whom, what is there.
    fn places(&self) -> impl Iterator<Item = (u32, u32, Book)> {
        (0..self.books.max_entries()).filter_map(|place| {
            let value = self.books.lookup(&place.to_ne_bytes(), MapFlags::ANY).ok()??;
            let (owner, book) = Book::parse(&value)?;
            (owner != 0).then_some((place, owner, book))
        })
    }

    /// Forgets a process that is gone.
    pub fn forget(&self, pid: u32) {
        for (place, ..) in self.places().filter(|(_, owner, _)| *owner == pid) {
            let _ = self.books.update(&place.to_ne_bytes(), &[0; Book::SIZE], MapFlags::ANY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use peer_observer_testkit::{need, require};

    use super::*;

    /// The verifier gives up at 1,000,000, and older kernels need more than newer ones for the same program.
    const MOST_INSTRUCTIONS: u64 = 150_000;

    /// How many instructions the verifier looked at, by program.
    fn verified(kernel: &Kernel) -> Vec<(String, u64)> {
        let programs = kernel.object.progs();
        programs
            .filter_map(|program| {
                let info = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
                let info = std::fs::read_to_string(info).unwrap();
                let count = info.lines().find_map(|line| line.strip_prefix("verified_insns:"))?;
                Some((program.name().to_string_lossy().into_owned(), count.trim().parse().unwrap()))
            })
            .collect()
    }

    #[test]
    fn the_programs_are_far_from_what_the_verifier_refuses_whatever_is_set() {
        require!(need::root());
        for (max_payload, limits) in [
            (MAX_PAYLOAD, &[][..]),
            (MAX_PAYLOAD, &[("block", 80)]),
            (1_000, &[("block", 0), ("tx", 70_000)]),
            (0, &[]),
        ] {
            let type_limits = limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
            let kernel = Kernel::load(&LoadOptions {
                ring_bytes: 4096,
                max_payload,
                type_limits,
                watches_signals: true,
            })
            .unwrap();
            for (program, instructions) in verified(&kernel) {
                assert!(
                    instructions < MOST_INSTRUCTIONS,
                    "{program}, at most {max_payload}, {limits:?}: {instructions}"
                );
            }
        }
    }

    /// Notes on which thread it is dropped.
    struct Dropped<'a>(&'a Mutex<Vec<ThreadId>>);

    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }

    fn dropped_on(count: usize, builder: impl Fn() -> thread::Builder) -> Vec<ThreadId> {
        let dropped = Mutex::default();
        drop_side_by_side((0..count).map(|_| Dropped(&dropped)).collect(), builder);
        dropped.into_inner().unwrap()
    }

    #[test]
    fn links_are_closed_by_at_most_16_threads() {
        for count in [0, 1, 15, 16, 17, 960] {
            let dropped = dropped_on(count, thread::Builder::new);
            assert_eq!(dropped.len(), count);
            let threads: HashSet<ThreadId> = dropped.into_iter().collect();
            assert!(threads.len() <= MAX_THREADS && !threads.contains(&thread::current().id()), "{count}");
            assert!(threads.len() >= count.min(MAX_THREADS / 2), "{count}: {}", threads.len());
        }
    }

    #[test]
    fn links_are_closed_inline_without_threads() {
        // No machine has that much memory for a stack.
        let dropped = dropped_on(960, || thread::Builder::new().stack_size(1 << 60));
        assert_eq!(dropped, [thread::current().id(); 960]);
    }

    #[test]
    fn errno_is_found_beneath_context() {
        for number in [libc::E2BIG, libc::EMFILE, libc::ENOSPC] {
            let plain = libbpf_rs::Error::from_raw_os_error(number);
            assert_eq!(errno(&plain), Some(number));
            let failed: libbpf_rs::Result<()> = Err(plain);
            assert_eq!(errno(&failed.context("cannot attach").unwrap_err()), Some(number));
        }
    }

    #[test]
    fn programs_that_the_verifier_gives_up_on_are_told_apart() {
        let too_big = Error::Load { source: libbpf_rs::Error::from_raw_os_error(libc::E2BIG) };
        assert!(too_big.to_string().contains("verifier"), "{too_big}");
    }
}
