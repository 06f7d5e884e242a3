//! The writing side: a spool, and the one task that empties it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use peer_observer_events::proto::observer::{Source, loss::Stage};
use peer_observer_events::{PeerObserverEvent, Subject};
use prost::Message;
use tokio::sync::watch;

use crate::loss::{LossBook, What};
use crate::now_ns;
use crate::publisher::{Pending, Stamper, weight};
use crate::queue::{Limits, Priority, Queue};

/// Events on their way to the server.
pub(crate) struct Spool {
    component: &'static str,
    pub(crate) queue: Queue<Pending>,
    /// Taken from the queue by the writer, not yet sent.
    in_hand: AtomicU64,
    /// What the server takes, bytes; 0 while it has not said so.
    max_payload: AtomicUsize,
    book: Mutex<LossBook>,
}

impl Spool {
    pub(super) fn new(component: &'static str, limits: Limits) -> Self {
        Spool {
            component,
            queue: Queue::new(limits),
            in_hand: AtomicU64::new(0),
            max_payload: AtomicUsize::new(0),
            book: Mutex::new(LossBook::new(component)),
        }
    }

    /// Adds events; what does not fit is counted.
    pub(crate) fn push(&self, batch: impl IntoIterator<Item = Pending>) {
        let mut refused = Vec::new();
        let items = batch.into_iter().map(|p| {
            let weight = weight(&p.event);
            let priority = if p.subject == Subject::Loss { Priority::Reserve } else { Priority::Normal };
            (p, weight, priority)
        });
        self.queue.push_all(items, |pending| refused.push(pending));
        for pending in refused {
            self.lose(&pending.node, pending.subject, "full");
        }
    }

    /// Events that are not sent.
    pub(super) fn unsent(&self) -> u64 {
        self.queue.depth().0 as u64 + self.in_hand.load(Ordering::Relaxed)
    }

    /// What the server takes, bytes, as it said last.
    pub(crate) fn max_payload(&self) -> Option<usize> {
        Some(self.max_payload.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    fn lose(&self, node: &Arc<str>, subject: Subject, cause: &'static str) {
        let what = What {
            stage: Stage::Publish,
            cause,
            node: node.clone(),
            subject: Some(subject),
            tracepoint: None,
            session: None,
        };
        self.book.lock().unwrap_or_else(PoisonError::into_inner).add(what, 1, None, now_ns());
    }
}

/// Empties a spool into a connection.
pub(super) struct Writer {
    spool: Arc<Spool>,
    stamper: Stamper,
    subjects: Vec<async_nats::Subject>,
    /// Given to the client since it was last waited for, bytes.
    ahead: usize,
    last_complaint: Option<Instant>,
}

/// Events that the writer takes from the spool at once. Few, because they are out of the spool's count while they wait.
const CHUNK: usize = 256;

/// Bytes that are given to the client before it is waited for. It bounds only the number of what it holds, 2048 messages, which are
/// gigabytes of blocks while the server is slow; so they stay in the spool, whose bound counts bytes. For small events that is a
/// wait every some ten thousand, for a task on its way.
const AHEAD: usize = 4 << 20;

impl Writer {
    pub(super) fn new(spool: Arc<Spool>, source: Source, prefix: Option<&str>) -> Self {
        let subjects =
            Subject::ALL.iter().map(|s| super::subscribe::with_prefix(prefix, s.as_str())).collect();
        Writer { spool, stamper: Stamper::new(source), subjects, ahead: 0, last_complaint: None }
    }

    /// Runs until the spool is closed and empty. Returns how many events were left because the connection ended.
    pub(super) async fn run(
        mut self,
        options: ConnectOptions,
        address: String,
        mut is_up: watch::Receiver<bool>,
    ) -> u64 {
        let component = self.spool.component;
        let client = match options.connect(addresses(&address)).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(component, address, %error, "cannot set up the nats connection");
                self.spool.queue.close();
                return self.spool.unsent();
            }
        };
        let spool = self.spool.clone();
        // Only while connected: before, the client says what it takes for usual.
        let ask_for_limit = || spool.max_payload.store(client.max_payload(), Ordering::Relaxed);
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    if *is_up.borrow() {
                        ask_for_limit();
                        self.tell_losses(&client).await;
                    }
                }
                Ok(()) = is_up.changed() => {
                    if *is_up.borrow() {
                        ask_for_limit();
                    }
                }
                n = spool.queue.recv_many(&mut chunk, CHUNK) => {
                    if n == 0 {
                        break;
                    }
                    spool.in_hand.store(n as u64, Ordering::Relaxed);
                    // While the server is away, events wait in the spool, whose bound counts, and not in the client.
                    if is_up.wait_for(|up| *up).await.is_err() {
                        return spool.unsent();
                    }
                    ask_for_limit();
                    for pending in chunk.drain(..) {
                        self.send(&client, pending).await;
                        spool.in_hand.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
        self.tell_losses(&client).await;
        if let Err(error) = client.flush().await {
            tracing::warn!(component, %error, "the last events may not have reached nats");
        }
        0
    }

    async fn send(&mut self, client: &Client, pending: Pending) {
        let Pending { node, time_ns, subject, event } = pending;
        let event = self.stamper.event(&node, time_ns, event, subject);
        let encoded = event.encode_to_vec();
        let limit = client.max_payload();
        if limit > 0 && encoded.len() > limit {
            self.stamper.undo(&node, subject);
            self.spool.lose(&node, subject, "too_large");
            self.complain_of_size(encoded.len(), limit, subject);
            return;
        }
        self.ahead += encoded.len();
        if let Err(error) = client.publish(self.subjects[subject as usize].clone(), encoded.into()).await {
            self.stamper.undo(&node, subject);
            self.spool.lose(&node, subject, "refused");
            tracing::debug!(component = self.spool.component, %error, "cannot publish");
        }
        if self.ahead >= AHEAD {
            self.ahead = 0;
            // The client comes to this command only when it has written what it took before, up to its last 64 KiB and 16
            // messages: so no more than twice `AHEAD` and two large events are with it. When the connection ends meanwhile, what
            // follows finds that out.
            let _ = client.flush().await;
        }
    }

    fn complain_of_size(&mut self, size: usize, limit: usize, subject: Subject) {
        if self.last_complaint.is_some_and(|at| at.elapsed() < Duration::from_secs(60)) {
            return;
        }
        self.last_complaint = Some(Instant::now());
        tracing::error!(
            component = self.spool.component,
            %subject, size, max_payload = limit,
            "event is larger than the nats server's max_payload and is lost: \
             set `max_payload: 5242880` in the server's configuration"
        );
    }

    async fn tell_losses(&mut self, client: &Client) {
        let losses: Vec<(Arc<str>, PeerObserverEvent)> =
            self.spool.book.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (node, event) in losses {
            self.send(client, Pending { node, time_ns: now_ns(), subject: Subject::Loss, event }).await;
        }
    }
}

/// The servers of a comma-separated list.
pub(super) fn addresses(list: &str) -> Vec<String> {
    list.split(',').map(|one| one.trim().to_owned()).collect()
}
