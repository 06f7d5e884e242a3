//! What became of hits: every one is delivered or counted as lost, and the extractor's books say the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use peer_observer_bus::{Bus, Delivery, Limits};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::observer::TracepointBook;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use tokio::task::JoinHandle;

use crate::LONG;
use crate::plain::KNOCKER;

/// What was seen on the bus, summed up.
#[derive(Debug, Default)]
pub struct Account {
    /// Knocks: see [`crate::plain::knock`].
    pub knocks: u64,
    /// Events that tell of hits, by node.
    pub delivered: BTreeMap<String, u64>,
    /// What was told as lost, by stage and cause.
    pub lost: BTreeMap<(Stage, String), u64>,
    /// Messages that were told as lost.
    pub lost_messages: u64,
    /// The last books of each process, by tracepoint.
    pub books: BTreeMap<(u32, String), TracepointBook>,
    /// Highest number seen in the stream of messages, by node.
    pub last_message: BTreeMap<String, u64>,
    /// Events whose number was not above the one before in their stream.
    pub out_of_order: u64,
    /// Pings whose nonce was not above the one before of the same peer.
    pub nonces_out_of_order: u64,
    sequences: BTreeMap<(String, u64, Subject), u64>,
    nonces: BTreeMap<(String, u64), u64>,
}

impl Account {
    /// Takes note of an event.
    pub fn add(&mut self, subject: Subject, event: &Event) {
        let Some(origin) = &event.origin else { return };
        if origin.node == KNOCKER {
            self.knocks += 1;
            return;
        }
        let stream = (origin.node.clone(), origin.session, subject);
        let before = self.sequences.insert(stream, origin.sequence).unwrap_or(0);
        self.out_of_order += u64::from(origin.sequence <= before);
        match &event.peer_observer_event {
            Some(PeerObserverEvent::EbpfExtractor(ebpf)) => {
                *self.delivered.entry(origin.node.clone()).or_default() += 1;
                if subject == Subject::NetMsg {
                    self.last_message.insert(origin.node.clone(), origin.sequence);
                }
                self.add_nonce(&origin.node, ebpf);
            }
            Some(PeerObserverEvent::Utxocache(_)) => {
                *self.delivered.entry(origin.node.clone()).or_default() += 1;
            }
            Some(PeerObserverEvent::Loss(loss)) => {
                *self.lost.entry((loss.stage(), loss.cause.clone())).or_default() += loss.count;
                if loss.subject.as_deref() == Some(Subject::NetMsg.as_str()) {
                    self.lost_messages += loss.count;
                }
            }
            Some(PeerObserverEvent::Books(books)) => {
                for book in &books.tracepoints {
                    self.books.insert((books.pid, book.tracepoint.clone()), book.clone());
                }
            }
            _ => {}
        }
    }

    fn add_nonce(&mut self, node: &str, ebpf: &Ebpf) {
        let Some(EbpfEvent::Message(message)) = &ebpf.ebpf_event else { return };
        let Some(Msg::Ping(ping)) = &message.msg else { return };
        // The nonce counts from 0, so the place is what comes next.
        let next = self.nonces.entry((node.to_owned(), message.meta.peer_id)).or_default();
        self.nonces_out_of_order += u64::from(ping.value < *next);
        *next = ping.value + 1;
    }

    /// Events that tell of hits.
    pub fn total(&self) -> u64 {
        self.delivered.values().sum()
    }

    /// What was told as lost, anywhere.
    pub fn total_lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Hits in the books.
    pub fn hits(&self) -> u64 {
        self.books.values().map(|book| book.hits).sum()
    }

    /// Asserts that the books are even: every hit was published or dropped.
    ///
    /// # Panics
    /// When they are not, or there are none.
    pub fn assert_books_are_even(&self) {
        assert!(!self.books.is_empty(), "no books");
        for (key, book) in &self.books {
            assert_eq!(book.hits, book.published + book.dropped, "{key:?}: {book:?}");
        }
        let dropped: u64 = self.books.values().map(|book| book.dropped).sum();
        let told = self.lost.get(&(Stage::RingBuffer, "full".to_owned())).copied().unwrap_or(0);
        assert_eq!(dropped, told, "what the books call dropped is told as lost, once");
    }
}

/// An account that is kept while a test goes on.
#[derive(Debug)]
pub struct Kept {
    account: Arc<Mutex<Account>>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Keeps the account of everything on `bus`.
    pub fn of(bus: &Bus) -> Self {
        let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
        let account = Arc::<Mutex<Account>>::default();
        let writes = account.clone();
        let task = tokio::spawn(async move {
            let mut batch: Vec<Delivery> = Vec::new();
            while subscriber.recv_many(&mut batch, 1024).await > 0 {
                let mut account = writes.lock().unwrap_or_else(PoisonError::into_inner);
                for delivery in batch.drain(..) {
                    account.add(delivery.subject, &delivery.event);
                }
            }
        });
        Kept { account, task }
    }

    /// Looks at the account as it is now.
    pub fn look<T>(&self, look: impl FnOnce(&Account) -> T) -> T {
        look(&self.account.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the bus, and closes the account when everything on it has been seen.
    ///
    /// # Panics
    /// When the bus does not end, or does not deliver what it took.
    pub async fn close(self, bus: &Bus) -> Account {
        assert_eq!(bus.close(LONG).await, 0, "events were left on the bus");
        tokio::time::timeout(LONG, self.task).await.expect("the bus ends").expect("no crash");
        std::mem::take(&mut *self.account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
