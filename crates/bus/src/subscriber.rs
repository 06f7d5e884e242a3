//! What tools see of a bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use peer_observer_events::{Event, Subject, peek};
use tokio_util::sync::DropGuard;

use crate::queue::Queue;

/// An event that arrived.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The subject it came on, without prefix.
    pub subject: Subject,
    /// The event. Its oneof can be empty only when a foreign publisher left it so.
    pub event: Arc<Event>,
}

/// What waits for a subscriber: decoded within a process, encoded from a server.
pub(crate) enum Item {
    Decoded(Delivery),
    Encoded(Subject, Bytes),
}

/// Counters of a subscriber. All only grow.
#[derive(Debug, Default)]
pub struct SubscriberStats {
    /// Events handed to the tool.
    pub received: AtomicU64,
    /// What came on one of our subjects and is no event.
    pub undecodable: AtomicU64,
    /// Events missing in their stream: lost between publisher and here.
    pub lost_transport: AtomicU64,
    /// Sessions that fell silent without announcing their last sequence numbers: what is missing of
    /// their ends is unknown.
    pub sessions_silent: AtomicU64,
    /// Events that found the tool's queue full.
    pub lost_queue: AtomicU64,
    /// Events whose number, or a later one, had been seen before.
    pub repeated: AtomicU64,
    /// Events without origin: of public extractors, where holes cannot be seen.
    pub without_origin: AtomicU64,
}

/// Adds to a counter, which stays at its limit.
pub(crate) fn add_saturating(counter: &AtomicU64, n: u64) {
    let add = |value: u64| Some(value.saturating_add(n));
    // It always has a new value.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
}

/// What is shared between a subscriber and the bus that feeds it.
pub(crate) struct Mailbox {
    pub(crate) component: &'static str,
    pub(crate) queue: Queue<Item>,
    pub(crate) stats: Arc<SubscriberStats>,
    /// The subscriber is gone: what does not get in is not lost.
    pub(crate) gone: AtomicBool,
    wanted: [bool; Subject::ALL.len()],
}

impl Mailbox {
    pub(crate) fn new(component: &'static str, subjects: &[Subject], limits: crate::Limits) -> Arc<Self> {
        let mut wanted = [false; Subject::ALL.len()];
        for subject in subjects {
            wanted[*subject as usize] = true;
        }
        Arc::new(Mailbox {
            component,
            queue: Queue::new(limits),
            stats: Arc::default(),
            gone: AtomicBool::new(false),
            wanted,
        })
    }

    pub(crate) fn wants(&self, subject: Subject) -> bool {
        self.wanted[subject as usize]
    }
}

/// Receives events, in the order of each publisher.
pub struct Subscriber {
    mailbox: Arc<Mailbox>,
    items: Vec<Item>,
    // Ends the task that feeds the mailbox, if there is one.
    _feeder: Option<DropGuard>,
}

impl Subscriber {
    pub(crate) fn new(mailbox: Arc<Mailbox>, feeder: Option<DropGuard>) -> Self {
        Subscriber { mailbox, items: Vec::new(), _feeder: feeder }
    }

    /// Waits for events and appends up to `max` to `out`. Returns how many; 0 when the bus has ended. Cancel safe: what
    /// was taken from the queue is in `out`.
    pub async fn recv_many(&mut self, out: &mut Vec<Delivery>, max: usize) -> usize {
        loop {
            if self.mailbox.queue.recv_many(&mut self.items, max).await == 0 {
                return 0;
            }
            let before = out.len();
            for item in self.items.drain(..) {
                match item {
                    Item::Decoded(delivery) => out.push(delivery),
                    Item::Encoded(subject, bytes) => match peek::decode(bytes) {
                        Ok(event) => out.push(Delivery { subject, event: Arc::new(event) }),
                        Err(error) => {
                            self.mailbox.stats.undecodable.fetch_add(1, Ordering::Relaxed);
                            tracing::debug!(%subject, %error, "undecodable event");
                        }
                    },
                }
            }
            let n = out.len() - before;
            if n > 0 {
                self.mailbox.stats.received.fetch_add(n as u64, Ordering::Relaxed);
                return n;
            }
        }
    }

    /// The counters of this subscriber.
    pub fn stats(&self) -> Arc<SubscriberStats> {
        self.mailbox.stats.clone()
    }

    /// Tells how many events wait, and about how many bytes they take, also while a task waits for events.
    pub fn depth(&self) -> impl Fn() -> (usize, usize) + Send + Sync + use<> {
        let mailbox = self.mailbox.clone();
        move || mailbox.queue.depth()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.mailbox.gone.store(true, Ordering::Relaxed);
        self.mailbox.queue.close();
    }
}
