//! From the ring to the bus: one thread that copies records out, one that makes events of them.
//!
//! The copying thread does nothing else, so that the ring gets empty however long an event takes. Between the two lies a short
//! bounded queue: when the second thread cannot follow, the ring fills, and the kernel counts what it drops. So there is one
//! place to lose anything, and it keeps books.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peer_observer_bus::loss::{LossBook, What};
use peer_observer_bus::{Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::proto::observer::{Books, TracepointBook};
use peer_observer_node::hit::{Hit, Tracepoint};

use super::clock::Offset;
use super::kernel::{Book, Error, NO_PLACE, Ring};
use super::nodes::{Process, Processes};
use super::record::{self, Record};
use crate::convert;

/// How long the reader sleeps once it was woken: what comes meanwhile wakes nobody.
const NAP: Duration = Duration::from_millis(2);
/// How long the reader waits at most before it looks whether it shall stop.
const PATIENCE: Duration = Duration::from_millis(100);
/// A chunk of this size, bytes, is handed on at once.
const CHUNK: usize = 512 << 10;
/// Books are published so often.
const BOOKS_EVERY: u32 = 10;

/// A loss that the kernel counted.
pub(super) struct Lost {
    pub(super) what: What,
    pub(super) count: u64,
}

/// What the decoder is given.
pub(super) enum Work {
    /// Records, each behind its length (u32).
    Records(Vec<u8>),
    /// What the kernel dropped.
    Lost(Vec<Lost>),
    /// The kernel's books: by process, with the node it is.
    Books(Vec<(u32, Arc<str>, Book)>),
}

/// Copies records out of the ring until `stop`, and then what is left.
pub(super) fn read_ring(
    ring: &Ring,
    work: &SyncSender<Work>,
    spare: &Receiver<Vec<u8>>,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let chunk = std::cell::RefCell::new(Vec::with_capacity(CHUNK));
    let hand_on = || {
        let next = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        let full = chunk.replace(next);
        // The decoder ends only after this thread.
        let _ = work.send(Work::Records(full));
    };
    let reader = ring.reader(|record| {
        let used = record::used(record);
        {
            let mut chunk = chunk.borrow_mut();
            chunk.extend((used.len() as u32).to_ne_bytes());
            chunk.extend_from_slice(used);
            if chunk.len() < CHUNK {
                return;
            }
        }
        hand_on();
    })?;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if !stopping {
            let ready = reader.wait(PATIENCE).map_err(|e| Error::Ring { source: e.into() })?;
            if !ready {
                continue;
            }
            std::thread::sleep(NAP);
        }
        reader.consume()?;
        if !chunk.borrow().is_empty() {
            hand_on();
        }
        if stopping {
            return Ok(());
        }
    }
}

/// Makes events of records and publishes them.
pub(super) struct Decoder {
    publisher: Publisher,
    processes: Arc<Processes>,
    offset: Arc<Mutex<Offset>>,
    // Read once a record: the shared table is looked at only for processes not met yet.
    met: HashMap<u32, Process>,
    tally: Tally,
    until_books: u32,
    cut_said: bool,
    unread_said: bool,
}

/// Numbers by tracepoint kind.
type Kinds = [u64; 16];

impl Decoder {
    pub(super) fn new(publisher: Publisher, processes: Arc<Processes>, offset: Arc<Mutex<Offset>>) -> Self {
        Decoder {
            tally: Tally::new(publisher.component()),
            publisher,
            processes,
            offset,
            met: HashMap::new(),
            until_books: 0,
            cut_said: false,
            unread_said: false,
        }
    }

    /// Works until all senders are gone, then closes the books.
    pub(super) fn run(mut self, work: &Receiver<Work>, spare: &SyncSender<Vec<u8>>) {
        let mut last_books: Vec<(u32, Arc<str>, Book)> = Vec::new();
        while let Ok(item) = work.recv() {
            match item {
                Work::Records(mut chunk) => {
                    self.records(&chunk);
                    chunk.clear();
                    // Large ones are for large messages, which are rare: let them go.
                    if chunk.capacity() <= 2 * CHUNK {
                        let _ = spare.try_send(chunk);
                    }
                }
                Work::Lost(lost) => {
                    for Lost { what, count } in lost {
                        tracing::warn!(
                            node = %what.node, tracepoint = what.tracepoint, count,
                            "the ring buffer was full: hits were lost"
                        );
                        self.tally.book.add(what, count, None, now_ns());
                    }
                    self.tell_losses();
                }
                Work::Books(books) => {
                    // A process id may come again as another node.
                    self.met.clear();
                    if self.until_books == 0 {
                        self.publish_books(&books);
                        self.until_books = BOOKS_EVERY;
                    }
                    self.until_books -= 1;
                    for (pid, node, book) in &last_books {
                        if !books.iter().any(|(p, ..)| p == pid) {
                            self.tally.forget(*pid, node, book);
                        }
                    }
                    last_books = books;
                    // Of records that could not be read; the kernel's own losses were told when they came.
                    self.tell_losses();
                }
            }
        }
        self.close_books(&last_books);
    }

    fn records(&mut self, chunk: &[u8]) {
        let offset = *self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.publisher.batch();
        let mut rest = chunk;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Some((bytes, after)) = after.split_at_checked(u32::from_ne_bytes(*length) as usize) else {
                break;
            };
            rest = after;
            let Some(record) = record::parse(bytes) else {
                self.tally.malformed(bytes);
                continue;
            };
            let is_unread = record.is_unread();
            let Record { monotonic_ns, pid, flags, hit } = record;
            let process = self.met.entry(pid).or_insert_with(|| self.processes.of_hit(pid));
            let hit = match hit {
                Hit::BlockConnected { hash, height, transactions, inputs, sigops, duration }
                    if process.block_time_in_us =>
                {
                    let duration = duration.saturating_mul(1000);
                    Hit::BlockConnected { hash, height, transactions, inputs, sigops, duration }
                }
                hit => hit,
            };
            self.tally.recorded.entry(pid).or_default()[hit.tracepoint() as usize] += 1;
            if flags & record::TEXT_CUT != 0 && !self.cut_said {
                self.cut_said = true;
                tracing::warn!(
                    tracepoint = hit.tracepoint().as_str(),
                    "a text is longer than its field and was cut"
                );
            }
            if is_unread && !self.unread_said {
                self.unread_said = true;
                tracing::warn!(
                    tracepoint = hit.tracepoint().as_str(), node = %process.node,
                    "what a probe points to could not be read in the node's memory"
                );
            }
            let event = match &hit {
                Hit::Message(message) if is_unread => convert::unread_message(message),
                // Nothing else has a field that says so, and what could not be read looks like 0.
                hit if is_unread => {
                    let kind = hit.tracepoint();
                    self.tally.unpublished.entry(pid).or_default()[kind as usize] += 1;
                    let what = lost(Stage::Decode, "unread", process.node.clone(), Some(kind));
                    self.tally.book.add(what, 1, None, now_ns());
                    continue;
                }
                hit => convert::event(hit),
            };
            batch.publish(&process.node, offset.unix_ns(monotonic_ns), event);
        }
    }

    fn tell_losses(&mut self) {
        for (node, loss) in self.tally.book.take() {
            self.publisher.publish(&node, now_ns(), loss);
        }
    }

    fn publish_books(&mut self, books: &[(u32, Arc<str>, Book)]) {
        let recorded_by_book = self.tally.recorded_by_book(books);
        for (pid, node, book) in books {
            let recorded = recorded_by_book.get(pid).copied().unwrap_or_default();
            let unpublished = self.tally.unpublished.get(pid).copied().unwrap_or_default();
            let tracepoints = Tracepoint::ALL
                .iter()
                .filter(|t| book.hits[**t as usize] > 0)
                .map(|t| TracepointBook {
                    tracepoint: t.as_str().into(),
                    hits: book.hits[*t as usize],
                    dropped: book.dropped[*t as usize],
                    unread: book.unread[*t as usize],
                    published: recorded[*t as usize].saturating_sub(unpublished[*t as usize]),
                })
                .collect::<Vec<_>>();
            if tracepoints.is_empty() {
                continue;
            }
            let event = PeerObserverEvent::Books(Books { pid: *pid, tracepoints });
            self.publisher.publish(node, now_ns(), event);
        }
    }

    /// At the end, every hit must be in an event or in a loss. What is in neither is told as well.
    fn close_books(&mut self, books: &[(u32, Arc<str>, Book)]) {
        let recorded_by_book = self.tally.recorded_by_book(books);
        for (pid, node, book) in books {
            let recorded = recorded_by_book.get(pid).copied().unwrap_or_default();
            self.tally.tell_missing(node, book, &recorded);
        }
        self.tell_losses();
        self.publish_books(books);
    }
}

/// What came as records, by process, and what was lost.
struct Tally {
    book: LossBook,
    // Records by process, with those that gave no event.
    recorded: HashMap<u32, Kinds>,
    // Of these, those that gave no event: told as lost.
    unpublished: HashMap<u32, Kinds>,
    // Records that do not say whose they are: told as lost, and missing where they belong.
    nobodys: u64,
}

impl Tally {
    fn new(component: &'static str) -> Self {
        Tally {
            book: LossBook::new(component),
            recorded: HashMap::new(),
            unpublished: HashMap::new(),
            nobodys: 0,
        }
    }

    /// A record that only a fault in the BPF object can cause.
    fn malformed(&mut self, record: &[u8]) {
        self.book.add(lost(Stage::Decode, "malformed", "".into(), None), 1, None, now_ns());
        match record::origin(record) {
            Some((pid, kind)) => {
                self.recorded.entry(pid).or_default()[kind] += 1;
                self.unpublished.entry(pid).or_default()[kind] += 1;
            }
            None => self.nobodys += 1,
        }
    }

    /// Forgets a process whose last book was this one. Hits of it that are in no book of its own are in that of [`NO_PLACE`].
    fn forget(&mut self, pid: u32, node: &Arc<str>, book: &Book) {
        let recorded = self.recorded.remove(&pid).unwrap_or_default();
        self.tell_missing(node, book, &recorded);
        self.unpublished.remove(&pid);
        let of_nobody = self.recorded.entry(NO_PLACE).or_default();
        for (kind, sum) in of_nobody.iter_mut().enumerate() {
            *sum += recorded[kind].saturating_sub(book.recorded(kind));
        }
    }

    /// What was recorded, by the books that it is in. A record names its process also when its hit was counted in the book of
    /// [`NO_PLACE`]: that gets what the books of all others do not account for.
    fn recorded_by_book(&self, books: &[(u32, Arc<str>, Book)]) -> HashMap<u32, Kinds> {
        let mut recorded = self.recorded.clone();
        if !books.iter().any(|(pid, ..)| *pid == NO_PLACE) {
            return recorded;
        }
        let mut of_nobody = [0; 16];
        for (pid, kinds) in &mut recorded {
            let book = books.iter().find(|(p, ..)| p == pid && *pid != NO_PLACE).map(|(.., book)| book);
            for (kind, count) in kinds.iter_mut().enumerate() {
                let own = (*count).min(book.map_or(0, |book| book.recorded(kind)));
                of_nobody[kind] += *count - own;
                *count = own;
            }
        }
        recorded.insert(NO_PLACE, of_nobody);
        recorded
    }

    /// Tells what a last book has, and what neither came as a record nor was dropped.
    fn tell_missing(&mut self, node: &Arc<str>, book: &Book, recorded: &Kinds) {
        for tracepoint in Tracepoint::ALL {
            let kind = *tracepoint as usize;
            let missing = book.recorded(kind).saturating_sub(recorded[kind]);
            // Told already.
            let nobodys = missing.min(self.nobodys);
            self.nobodys -= nobodys;
            if missing > nobodys {
                let what = lost(Stage::Probe, "unaccounted", node.clone(), Some(*tracepoint));
                self.book.add(what, missing - nobodys, None, now_ns());
            }
        }
    }
}

fn lost(stage: Stage, cause: &'static str, node: Arc<str>, tracepoint: Option<Tracepoint>) -> What {
    What { stage, cause, node, subject: None, tracepoint: tracepoint.map(Tracepoint::as_str), session: None }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use peer_observer_bus::{Bus, Delivery, Limits, Subscriber};
    use peer_observer_events::Subject;
    use peer_observer_events::proto::observer::{Loss, Source};
    use peer_observer_node::names::Names;
    use peer_observer_node::watch::{NodeWatcher, Selection};
    use peer_observer_testkit::LONG;

    use super::*;

    /// A decoder on its thread, what it is given, and what it publishes.
    struct Rig {
        bus: Bus,
        work: SyncSender<Work>,
        decoder: std::thread::JoinHandle<()>,
        subscriber: Subscriber,
    }

    impl Rig {
        fn start() -> Self {
            let bus = Bus::in_process();
            let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
            let watcher = NodeWatcher::start(Selection::default()).unwrap();
            let processes = Arc::new(Processes::new(Arc::new(Names::new(Vec::new())), Arc::new(watcher)));
            let offset = Arc::new(Mutex::new(Offset::sample().unwrap()));
            let decoder = Decoder::new(bus.publisher(Source::Ebpf, "ebpf"), processes, offset);
            let (work, take_work) = sync_channel(8);
            let decoder = std::thread::spawn(move || decoder.run(&take_work, &sync_channel(8).0));
            Rig { bus, work, decoder, subscriber }
        }

        /// Ends it; all that it published.
        async fn end(mut self) -> Vec<Delivery> {
            drop(self.work);
            self.decoder.join().unwrap();
            self.bus.close(Duration::ZERO).await;
            let mut all = Vec::new();
            while self.subscriber.recv_many(&mut all, 1000).await > 0 {}
            all
        }
    }

    fn losses(deliveries: &[Delivery]) -> Vec<&Loss> {
        let events = deliveries.iter().filter_map(|d| d.event.peer_observer_event.as_ref());
        events.filter_map(|e| if let PeerObserverEvent::Loss(loss) = e { Some(loss) } else { None }).collect()
    }

    fn chunk(records: &[&[u8]]) -> Work {
        let with_length = |r: &&[u8]| [&(r.len() as u32).to_ne_bytes()[..], r].concat();
        Work::Records(records.iter().flat_map(with_length).collect())
    }

    /// A record of a flush, by this process.
    fn flush(pid: u32) -> Vec<u8> {
        let mut record = [0; 16].to_vec();
        record.extend(pid.to_ne_bytes());
        record.extend([Tracepoint::UtxoCacheFlush as u8, 0, 0, 0]);
        record.extend([0; 29]);
        record
    }

    fn flushes(hits: u64, dropped: u64) -> Book {
        let mut book = Book::default();
        book.hits[Tracepoint::UtxoCacheFlush as usize] = hits;
        book.dropped[Tracepoint::UtxoCacheFlush as usize] = dropped;
        book
    }

    #[tokio::test]
    async fn hits_of_processes_without_a_book_of_their_own_are_not_told_as_lost() {
        // Ids that no process has.
        let (first, second, third) = (u32::MAX - 1, u32::MAX - 2, u32::MAX - 3);
        // The first got a book at once; the second after two hits, and is forgotten; the third never. One hit is missing.
        for (last_hits, unaccounted) in [(4, 0), (5, 1)] {
            let rig = Rig::start();
            let records: Vec<_> =
                [first, second, second, second, third, first].into_iter().map(flush).collect();
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let books = |books: &[(u32, Book)]| {
                Work::Books(books.iter().map(|(pid, book)| (*pid, "alice".into(), *book)).collect())
            };
            rig.work.send(chunk(&records)).unwrap();
            let before = [(NO_PLACE, flushes(4, 1)), (first, flushes(2, 0)), (second, flushes(1, 0))];
            rig.work.send(books(&before)).unwrap();
            let last = [(NO_PLACE, flushes(last_hits, 1)), (first, flushes(2, 0))];
            rig.work.send(books(&last)).unwrap();
            let all = rig.end().await;
            let told: u64 = losses(&all).iter().map(|loss| loss.count).sum();
            assert_eq!(told, unaccounted, "{all:?}");
            let published: Vec<_> = all
                .iter()
                .filter_map(|d| match d.event.peer_observer_event.as_ref()? {
                    PeerObserverEvent::Books(books) => Some((books.pid, books.tracepoints[0].published)),
                    _ => None,
                })
                .collect();
            let expected = [(NO_PLACE, 3), (first, 2), (second, 1), (NO_PLACE, 3), (first, 2)];
            assert_eq!(published, expected);
        }
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_told_as_lost_with_the_next_books() {
        let mut rig = Rig::start();
        rig.work.send(chunk(&[b"too short", b"this too"])).unwrap();
        rig.work.send(Work::Books(Vec::new())).unwrap();
        let mut told = Vec::new();
        // The decoder goes on: it tells before its end.
        let heard = rig.subscriber.recv_many(&mut told, 1);
        tokio::time::timeout(LONG, heard).await.expect("told while it works");
        let all = losses(&told);
        assert_eq!((all[0].stage(), all[0].cause.as_str(), all[0].count), (Stage::Decode, "malformed", 2));
        assert!(rig.end().await.is_empty(), "and not again");
    }

    #[tokio::test]
    async fn what_is_missing_of_a_process_is_told_when_it_is_forgotten() {
        let pid = u32::MAX - 1;
        let mut rig = Rig::start();
        rig.work.send(chunk(&[&flush(pid)])).unwrap();
        rig.work.send(Work::Books(vec![(pid, "alice".into(), flushes(4, 1))])).unwrap();
        rig.work.send(Work::Books(Vec::new())).unwrap();
        let mut told = Vec::new();
        while losses(&told).is_empty() {
            let heard = rig.subscriber.recv_many(&mut told, 1);
            tokio::time::timeout(Duration::from_secs(20), heard).await.expect("told while it works");
        }
        let all = losses(&told);
        assert_eq!((all[0].stage(), all[0].cause.as_str(), all[0].count), (Stage::Probe, "unaccounted", 2));
        assert!(rig.end().await.is_empty(), "and not again");
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_told_as_lost_once_and_is_not_in_the_books_as_published() {
        let pid = u32::MAX - 1;
        let rig = Rig::start();
        let whole = flush(pid);
        let mut unread = whole.clone();
        unread[21] = 8;
        let mut cut_off = whole.clone();
        cut_off.truncate(30);
        rig.work.send(chunk(&[&whole, &unread, &cut_off, &whole[..10]])).unwrap();
        rig.work.send(Work::Books(vec![(pid, "alice".into(), flushes(4, 0))])).unwrap();
        let all = rig.end().await;
        let told: Vec<_> = losses(&all).iter().map(|l| (l.stage(), l.cause.as_str(), l.count)).collect();
        assert_eq!(told, [(Stage::Decode, "malformed", 2), (Stage::Decode, "unread", 1)]);
        let events = all.iter().filter(|d| d.subject == Subject::UtxoCache).count();
        assert_eq!(events, 1);
        let last = all.iter().rev().find_map(|d| match d.event.peer_observer_event.as_ref()? {
            PeerObserverEvent::Books(books) => Some(books.tracepoints[0].clone()),
            _ => None,
        });
        // The one that does not say whose it is cannot be subtracted.
        let last = last.unwrap();
        assert_eq!((last.hits, last.published), (4, 1));
    }
}
