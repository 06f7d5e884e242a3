//! The writing side: a spool, and the one task that empties it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use peer_observer_events::proto::observer::{Source, loss::Stage};
use peer_observer_events::{PeerObserverEvent, Subject};
use prost::Message;
use tokio::sync::watch;

use super::Up;
use crate::loss::{Complaint, LossBook, What};
use crate::now_ns;
use crate::publisher::{Leaving, Pending, Progress, Stamper, weight};
use crate::queue::{Limits, Priority, Queue};

/// Events on their way to the server.
pub(crate) struct Spool {
    component: &'static str,
    pub(crate) queue: Queue<Pending>,
    /// Events that it took.
    taken: AtomicU64,
    /// Of these, those that the writer is done with: given to the client, or told as lost.
    handed_on: AtomicU64,
    /// What the server takes, bytes; 0 while it has not said so.
    max_payload: AtomicUsize,
    book: Mutex<LossBook>,
    complaint: Mutex<Complaint>,
}

impl Spool {
    pub(super) fn new(component: &'static str, limits: Limits) -> Self {
        Spool {
            component,
            queue: Queue::new(limits),
            taken: AtomicU64::new(0),
            handed_on: AtomicU64::new(0),
            max_payload: AtomicUsize::new(0),
            book: Mutex::new(LossBook::new(component)),
            complaint: Mutex::default(),
        }
    }

    /// Adds events; what does not fit is counted.
    pub(crate) fn push(&self, batch: impl IntoIterator<Item = Pending>) {
        let mut refused = Vec::new();
        let items = batch.into_iter().map(|p| {
            let weight = weight(&p.event);
            let priority = if p.subject == Subject::Loss { Priority::Reserve } else { Priority::Normal };
            // Before the writer can be done with it.
            self.taken.fetch_add(1, Ordering::Relaxed);
            (p, weight, priority)
        });
        self.queue.push_all(items, |pending| refused.push(pending));
        if refused.is_empty() {
            return;
        }
        self.taken.fetch_sub(refused.len() as u64, Ordering::Relaxed);
        for pending in &refused {
            self.lose(&pending.node, pending.subject, "full");
        }
        if let Some(events) = locked(&self.complaint).due(refused.len() as u64) {
            tracing::error!(
                component = self.component,
                events,
                "nats does not take what is published, the spool is full and newer events are lost: see to the server, or give \
                 the spool more room with --nats-spool-bytes"
            );
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        // In this order, as both only grow.
        let handed_on = self.handed_on.load(Ordering::Acquire);
        Progress { taken: self.taken.load(Ordering::Acquire), handed_on }
    }

    /// Events that are not sent.
    pub(super) fn unsent(&self) -> u64 {
        self.progress().left()
    }

    /// Events that are lost, and nobody was told of.
    pub(super) fn untold(&self) -> u64 {
        locked(&self.book).total()
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
        locked(&self.book).add(what, 1, None, now_ns());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empties a spool into a connection.
pub(super) struct Writer {
    spool: Arc<Spool>,
    stamper: Stamper,
    subjects: Vec<async_nats::Subject>,
    /// Given to the client since it was last waited for, bytes.
    ahead: usize,
    last_complaint: Option<Instant>,
    announced: Option<Instant>,
}

/// Between two announcements of how far the streams are. Subscribers wait for three
/// ([`peer_observer_events::gaps::SILENT_AFTER`]).
const ANNOUNCE: Duration = Duration::from_secs(10);

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
        Writer {
            spool,
            stamper: Stamper::new(source),
            subjects,
            ahead: 0,
            last_complaint: None,
            announced: None,
        }
    }

    /// Runs until the spool is closed and empty. Returns how many events were left because the connection ended.
    pub(super) async fn run(
        mut self,
        options: ConnectOptions,
        address: String,
        mut is_up: watch::Receiver<Option<Up>>,
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
                    let up = *is_up.borrow();
                    if let Some(up) = up {
                        ask_for_limit();
                        if up.has_settled() {
                            self.tell_losses(&client).await;
                            self.announce_when_due(&client).await;
                        }
                    }
                }
                Ok(()) = is_up.changed() => {
                    if is_up.borrow().is_some() {
                        ask_for_limit();
                    }
                }
                n = spool.queue.recv_many(&mut chunk, CHUNK) => {
                    if n == 0 {
                        break;
                    }
                    // While the server is away, events wait in the spool, whose bound counts, and not in the client.
                    if until_settled(&mut is_up, &spool).await.is_err() {
                        return spool.unsent();
                    }
                    ask_for_limit();
                    self.stamper.now = Some(Instant::now());
                    for pending in chunk.drain(..) {
                        self.send(&client, pending).await;
                        spool.handed_on.fetch_add(1, Ordering::Release);
                    }
                }
            }
        }
        self.tell_losses(&client).await;
        self.announce(&client, Leaving::Yes).await;
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

    /// Announces how far the streams are every ten seconds, and a new stream with the next tick.
    async fn announce_when_due(&mut self, client: &Client) {
        let is_due = self.announced.is_none_or(|at| at.elapsed() >= ANNOUNCE);
        if is_due || self.stamper.has_new_streams() {
            self.announce(client, Leaving::No).await;
        }
    }

    async fn announce(&mut self, client: &Client, leaving: Leaving) {
        self.announced = Some(Instant::now());
        self.stamper.now = self.announced;
        for pending in self.stamper.positions(leaving) {
            self.send(client, pending).await;
        }
    }

    async fn tell_losses(&mut self, client: &Client) {
        self.stamper.now = Some(Instant::now());
        let losses: Vec<(Arc<str>, PeerObserverEvent)> = locked(&self.spool.book).take();
        for (node, event) in losses {
            self.send(client, Pending { node, time_ns: now_ns(), subject: Subject::Loss, event }).await;
        }
    }
}

/// Waits until the server is there, and so are those who listen; no longer for them when there is nothing more to come.
async fn until_settled(
    is_up: &mut watch::Receiver<Option<Up>>,
    spool: &Spool,
) -> Result<(), watch::error::RecvError> {
    loop {
        let up = *is_up.wait_for(Option::is_some).await?;
        if spool.queue.is_closed() || up.is_some_and(|up| up.has_settled()) {
            return Ok(());
        }
        tokio::time::sleep(super::LOOK_AT_SPOOLS).await;
    }
}

/// The servers of a comma-separated list.
pub(super) fn addresses(list: &str) -> Vec<String> {
    list.split(',').map(|one| one.trim().to_owned()).collect()
}
