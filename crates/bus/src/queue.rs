//! The bounded queue in front of every subscriber and every connection.
//!
//! Bounded by number and by bytes: a million pings and a dozen blocks are both reasonable, a million blocks are not. A
//! channel of the runtime bounds the number only. What does not fit is the newest, so what was taken stays in order and
//! without holes; the caller counts it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// How much a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Limits {
    /// Events that may wait
    #[arg(long = "queue-events", default_value_t = 1 << 20, value_name = "N")]
    pub events: usize,
    /// Bytes of events that may wait, roughly
    #[arg(long = "queue-bytes", default_value_t = 256 << 20, value_name = "BYTES")]
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { events: 1 << 20, bytes: 256 << 20 }
    }
}

/// Kept free beyond the limits for `loss` events, so that a full queue can still say that it is full.
const RESERVE: usize = 1024;

/// An item and what it weighs, in bytes.
struct Weighed<T> {
    item: T,
    weight: usize,
}

struct Inner<T> {
    items: VecDeque<Weighed<T>>,
    bytes: usize,
    closed: bool,
}

/// A bounded queue of one or more writers and one reader.
pub struct Queue<T> {
    limits: Limits,
    inner: Mutex<Inner<T>>,
    readable: Notify,
    roomy: Notify,
}

/// How urgent an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Takes its place within the limits.
    Normal,
    /// May use the reserve: `loss` events.
    Reserve,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        let inner = Inner { items: VecDeque::new(), bytes: 0, closed: false };
        Queue { limits, inner: Mutex::new(inner), readable: Notify::new(), roomy: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing in here panics with the lock held; were it to, the items are still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds items under one lock. `refused` gets those that do not fit, or come after the queue was closed.
    pub fn push_all(
        &self,
        items: impl IntoIterator<Item = (T, usize, Priority)>,
        mut refused: impl FnMut(T),
    ) {
        let mut inner = self.lock();
        let was_empty = inner.items.is_empty();
        for (item, weight, priority) in items {
            let room = match priority {
                Priority::Normal => self.has_room(&inner, weight),
                Priority::Reserve => inner.items.len() < self.limits.events + RESERVE,
            };
            if inner.closed || !room {
                refused(item);
                continue;
            }
            inner.bytes += weight;
            inner.items.push_back(Weighed { item, weight });
        }
        let wake = was_empty && !inner.items.is_empty();
        drop(inner);
        if wake {
            self.readable.notify_one();
        }
    }

    /// Adds one item; gives it back when it does not fit or the queue is closed.
    ///
    /// # Errors
    /// The item.
    pub fn push(&self, item: T, weight: usize, priority: Priority) -> Result<(), T> {
        let mut back = None;
        self.push_all([(item, weight, priority)], |item| back = Some(item));
        back.map_or(Ok(()), Err)
    }

    /// Waits for items and moves up to `max` of them to `out`. Returns how many; 0 when the queue is closed and empty.
    /// Cancel safe.
    pub async fn recv_many(&self, out: &mut Vec<T>, max: usize) -> usize {
        loop {
            {
                let mut inner = self.lock();
                if !inner.items.is_empty() {
                    let n = max.min(inner.items.len());
                    let mut weight = 0;
                    out.extend(inner.items.drain(..n).map(|w| {
                        weight += w.weight;
                        w.item
                    }));
                    inner.bytes -= weight;
                    // A burst leaves a large buffer behind, which would stay for ever.
                    if inner.items.is_empty() && inner.items.capacity() > 1 << 16 {
                        inner.items = VecDeque::new();
                    }
                    let more = !inner.items.is_empty();
                    drop(inner);
                    self.roomy.notify_one();
                    if more {
                        self.readable.notify_one();
                    }
                    return n;
                }
                if inner.closed {
                    return 0;
                }
            }
            self.readable.notified().await;
        }
    }

    fn has_room(&self, inner: &Inner<T>, weight: usize) -> bool {
        inner.items.len() < self.limits.events
            && (inner.bytes + weight <= self.limits.bytes || inner.items.is_empty())
    }

    /// Waits until an item of that weight fits, or the queue is closed. For a writer that can wait, and is the only one.
    pub async fn room(&self, weight: usize) {
        let has_room = || {
            let inner = self.lock();
            inner.closed || self.has_room(&inner, weight)
        };
        while !has_room() {
            self.roomy.notified().await;
        }
    }

    /// No more items; the reader gets what is there, then the end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.readable.notify_one();
        self.roomy.notify_one();
    }

    /// Whether there will be no more items.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Number of items that wait, and their weight in bytes.
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.items.len(), inner.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_the_newest_and_is_given_back() {
        let q = Queue::new(Limits { events: 3, bytes: 100 });
        let mut refused = Vec::new();
        q.push_all((0..5).map(|i| (i, 10, Priority::Normal)), |i| refused.push(i));
        assert_eq!(refused, [3, 4]);
        assert_eq!(q.push(9, 10, Priority::Reserve), Ok(()));
        let mut out = Vec::new();
        assert_eq!(q.recv_many(&mut out, 10).await, 4);
        assert_eq!(out, [0, 1, 2, 9]);
        assert_eq!(q.depth(), (0, 0));
    }

    #[tokio::test]
    async fn bytes_are_bounded_but_one_large_item_always_fits() {
        let q = Queue::new(Limits { events: 10, bytes: 100 });
        assert!(q.push(1, 5_000_000, Priority::Normal).is_ok());
        assert!(q.push(2, 1, Priority::Normal).is_err());
    }

    #[tokio::test]
    async fn after_close_the_rest_is_read_and_then_the_end() {
        let q = Queue::new(Limits::default());
        assert!(q.push(1, 1, Priority::Normal).is_ok());
        q.close();
        assert!(q.push(2, 1, Priority::Normal).is_err());
        let mut out = Vec::new();
        assert_eq!(q.recv_many(&mut out, 10).await, 1);
        assert_eq!(q.recv_many(&mut out, 10).await, 0);
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_room_loses_nothing() {
        let q = std::sync::Arc::new(Queue::new(Limits { events: 8, bytes: 1000 }));
        let writer = tokio::spawn({
            let q = q.clone();
            async move {
                for i in 0..1000 {
                    q.room(10).await;
                    assert_eq!(q.push(i, 10, Priority::Normal), Ok(()));
                }
                q.close();
                q.room(10).await;
            }
        });
        let mut out = Vec::new();
        while q.recv_many(&mut out, 3).await > 0 {}
        writer.await.unwrap();
        assert_eq!(out, (0..1000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let q = std::sync::Arc::new(Queue::new(Limits::default()));
        let reader = tokio::spawn({
            let q = q.clone();
            async move {
                let mut out = Vec::new();
                while out.len() < 1000 {
                    q.recv_many(&mut out, 7).await;
                }
                out
            }
        });
        for i in 0..1000 {
            assert!(q.push(i, 1, Priority::Normal).is_ok());
            if i % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(reader.await.unwrap(), (0..1000).collect::<Vec<_>>());
    }
}
