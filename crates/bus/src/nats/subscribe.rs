//! The reading side: one subscription, gaps noticed at once, then the tool's bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use peer_observer_events::gaps::{Seen, Silent};
use peer_observer_events::peek::{Origin, Peeked};
use peer_observer_events::proto::observer::{Source, StreamPosition, StreamPositions, loss::Stage};
use peer_observer_events::{GapTracker, Subject, peek};
use prost::Message;
use tokio::sync::watch;
use tokio::task::unconstrained;

use super::Up;
use crate::loss::{Complaint, LossBook, What};
use crate::now_ns;
use crate::publisher::{Leaving, Stamper};
use crate::queue::Priority;
use crate::subscriber::{Delivery, Item, Mailbox, add_saturating};

/// Streams to find holes in: nodes x extractors x subjects, and the sessions before a restart.
const STREAMS: usize = 16_384;

/// Messages that the client keeps until they are taken. It drops what is beyond without a word, and takes from the socket as fast
/// as the server sends: its own default of 65,536 was full after a fifth of a second of a burst. Nothing is reserved.
///
/// The client knows no bound in bytes. What keeps them few is that nothing between it and the tool's queue waits for anything:
/// [`Reader::run`] only looks at the first bytes of a message and hands it on, without a copy, to the queue, which refuses what
/// is beyond its bytes.
const UNREAD: usize = 1 << 20;

/// Messages that are taken at once.
const CHUNK: usize = 256;

/// Between two announcements of how far the own streams are, in ticks of a second.
const ANNOUNCE_TICKS: u64 = 10;

/// Longest announcement of positions, bytes: a subject and two numbers for each stream.
const MAX_POSITIONS: usize = 4096;

/// How long to wait at the end for the server to take the last announcement.
const LEAVE: Duration = Duration::from_secs(1);

/// A subject as it stands on the server.
pub(super) fn with_prefix(prefix: Option<&str>, subject: &str) -> async_nats::Subject {
    match prefix {
        Some(prefix) => format!("{prefix}.{subject}").into(),
        None => async_nats::Subject::from(subject.to_owned()),
    }
}

/// Fills a mailbox from a connection.
pub(super) struct Reader {
    mailbox: Arc<Mailbox>,
    subscription: async_nats::Subject,
    /// Where positions are announced, unless the subscription has them.
    positions: Option<async_nats::Subject>,
    /// Where losses are published and the positions of their streams announced.
    own_subjects: Option<OwnSubjects>,
    prefix_words: usize,
    streams: GapTracker,
    /// Since when whatever is sent should have come.
    listening: Option<Instant>,
    book: LossBook,
    complaints: Complaints,
    stamper: Stamper,
    ticks: u64,
    client: Option<Client>,
    is_up: watch::Receiver<Option<Up>>,
}

struct OwnSubjects {
    loss: async_nats::Subject,
    positions: async_nats::Subject,
}

/// What is logged at most every ten seconds.
#[derive(Default)]
struct Complaints {
    full_queue: Complaint,
    gaps: Complaint,
    silent: Complaint,
    undecodable: Complaint,
}

impl Reader {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        subjects: &[Subject],
        prefix: Option<&str>,
        is_up: watch::Receiver<Option<Up>>,
    ) -> Self {
        // One subscription keeps the order of a publisher over all its subjects. `>` brings other subjects too; they are
        // left aside.
        let subscription = match subjects {
            [one] => with_prefix(prefix, one.as_str()),
            _ => with_prefix(prefix, ">"),
        };
        let positions = match subjects {
            [one] if *one != Subject::Books => Some(with_prefix(prefix, Subject::Books.as_str())),
            _ => None,
        };
        let own_subjects = match prefix {
            Some(prefix) if prefix.contains('*') => None,
            _ => Some(OwnSubjects {
                loss: with_prefix(prefix, Subject::Loss.as_str()),
                positions: with_prefix(prefix, Subject::Books.as_str()),
            }),
        };
        Reader {
            book: LossBook::new(mailbox.component),
            mailbox,
            subscription,
            positions,
            own_subjects,
            prefix_words: prefix.map_or(0, |p| p.split('.').count()),
            streams: GapTracker::new(STREAMS),
            listening: None,
            complaints: Complaints::default(),
            stamper: Stamper::new(Source::Tool),
            ticks: 0,
            client: None,
            is_up,
        }
    }

    /// Runs until the connection is closed for good. Cancelled, it can still [leave](Self::leave).
    pub(super) async fn run(&mut self, options: ConnectOptions, address: String) {
        let component = self.mailbox.component;
        let options = options.subscription_capacity(UNREAD);
        let client = match options.connect(super::publish::addresses(&address)).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(component, address, %error, "cannot set up the nats connection");
                return;
            }
        };
        self.client = Some(client.clone());
        let subscribed = client.subscribe(self.subscription.clone()).await;
        let subscribed = match (subscribed, self.positions.clone()) {
            (Ok(messages), Some(positions)) => {
                client.subscribe(positions).await.map(|positions| (messages, positions.left_stream()))
            }
            (Ok(messages), None) => Ok((messages, stream::pending().right_stream())),
            (Err(error), _) => Err(error),
        };
        let (messages, positions) = match subscribed {
            Ok(subscribed) => subscribed,
            // The tool ended before the server was there.
            Err(_) if self.mailbox.gone.load(Ordering::Relaxed) => return,
            Err(error) => {
                tracing::error!(component, address, %error, "cannot subscribe");
                return;
            }
        };
        self.read(&client, messages.ready_chunks(CHUNK), positions).await;
    }

    async fn read(
        &mut self,
        client: &Client,
        mut messages: impl Stream<Item = Vec<async_nats::Message>> + Unpin,
        mut positions: impl Stream<Item = async_nats::Message> + Unpin,
    ) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(client).await,
                Ok(()) = self.is_up.changed() => {
                    let up = *self.is_up.borrow_and_update();
                    if let Some(up) = up {
                        self.listening.get_or_insert(up.since);
                        self.streams.resume();
                    }
                }
                chunk = messages.next() => {
                    let Some(chunk) = chunk else { return };
                    self.take(chunk);
                }
                Some(position) = positions.next() => {
                    // What was published before the announcement is in the other subscription's
                    // queue by now, and comes first.
                    for _ in 0..UNREAD / CHUNK {
                        let Some(Some(chunk)) = unconstrained(messages.next()).now_or_never() else { break };
                        self.take(chunk);
                    }
                    self.take(vec![position]);
                }
            }
        }
    }

    /// What is done every second. After the process was stopped, it is done once: what was sent
    /// meanwhile has not been read.
    async fn tick(&mut self, client: &Client) {
        self.ticks += 1;
        let is_up = self.is_up.borrow().is_some();
        if is_up {
            let silent = self.streams.tick();
            self.report_silent(silent);
        }
        self.tell_losses(client).await;
        if is_up && (self.stamper.has_new_streams() || self.ticks.is_multiple_of(ANNOUNCE_TICKS)) {
            self.announce(client, Leaving::No).await;
        }
        self.complain();
    }

    /// Publishes the last losses and announces where the own streams end, if the server is there to
    /// take it.
    pub(super) async fn leave(&mut self) {
        let Some(client) = self.client.take().filter(|_| self.is_up.borrow().is_some()) else { return };
        let component = self.mailbox.component;
        let leaving = async {
            self.tell_losses(&client).await;
            if self.announce(&client, Leaving::Yes).await > 0 {
                client.flush().await?;
            }
            Ok::<(), async_nats::client::FlushError>(())
        };
        if !matches!(tokio::time::timeout(LEAVE, leaving).await, Ok(Ok(()))) {
            tracing::debug!(component, "the last losses may not have reached nats");
        }
    }

    /// Announces how far the own streams are. Returns how many announcements that took.
    async fn announce(&mut self, client: &Client, leaving: Leaving) -> usize {
        let Some(own) = &self.own_subjects else { return 0 };
        self.stamper.now = Some(Instant::now());
        let pending = self.stamper.positions(leaving);
        let n = pending.len();
        for pending in pending {
            let event = self.stamper.event(&pending.node, pending.time_ns, pending.event, pending.subject);
            if let Err(error) = client.publish(own.positions.clone(), event.encode_to_vec().into()).await {
                tracing::debug!(component = self.mailbox.component, %error, "cannot announce positions");
            }
        }
        n
    }

    fn subject(&self, text: &str) -> Option<Subject> {
        let mut rest = text;
        for _ in 0..self.prefix_words {
            rest = rest.split_once('.')?.1;
        }
        Subject::parse(rest)
    }

    pub(super) fn take(&mut self, chunk: Vec<async_nats::Message>) {
        let mut items = Vec::with_capacity(chunk.len());
        for message in chunk {
            let Some(subject) = self.subject(&message.subject) else { continue };
            if !self.is_delivered(subject, &message.payload) {
                continue;
            }
            let weight = 256 + message.payload.len();
            let priority = if subject == Subject::Loss { Priority::Reserve } else { Priority::Normal };
            items.push((Item::Encoded(subject, message.payload), weight, priority));
        }
        let mut refused = Vec::new();
        self.mailbox.queue.push_all(items, |item| refused.push(item));
        for item in refused {
            if let Item::Encoded(subject, payload) = item {
                self.count_refused(subject, &payload);
            }
        }
    }

    /// Looks for gaps, and takes announcements of positions. Returns whether the tool gets the
    /// event.
    fn is_delivered(&mut self, subject: Subject, payload: &[u8]) -> bool {
        let is_wanted = self.mailbox.wants(subject);
        if !is_wanted && subject != Subject::Books {
            return false;
        }
        let Ok(Peeked { origin, positions }) = peek::peek(payload) else {
            return self.refuse_malformed(is_wanted);
        };
        let positions = positions.filter(|_| subject == Subject::Books);
        let listening = self.listening.map_or(Duration::ZERO, |since| since.elapsed());
        match origin {
            Some(origin) if is_wanted => {
                let seen = self.streams.see(subject, &origin, listening);
                self.count_missing(subject, &origin, seen);
            }
            None if is_wanted => {
                self.mailbox.stats.without_origin.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let Some(positions) = positions else { return is_wanted };
        let decoded = Some(positions).filter(|bytes| bytes.len() <= MAX_POSITIONS);
        let decoded = decoded.and_then(|bytes| StreamPositions::decode(bytes).ok());
        match (origin, decoded) {
            (Some(origin), Some(positions)) => self.take_positions(&origin, &positions, listening),
            _ => {
                self.refuse_malformed(is_wanted);
            }
        }
        false
    }

    /// Publishers that are silent after so many seconds.
    #[cfg(test)]
    pub(super) fn silent_after(&mut self, ticks: u64) -> u64 {
        (0..ticks).flat_map(|_| self.streams.tick()).map(|silent| silent.sessions).sum()
    }

    fn refuse_malformed(&self, is_wanted: bool) -> bool {
        if is_wanted {
            self.mailbox.stats.undecodable.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Counts what is missing up to the positions that a publisher announced. One that publishes
    /// nothing for this tool is not watched.
    fn take_positions(&mut self, origin: &Origin<'_>, positions: &StreamPositions, listening: Duration) {
        let streams = positions.streams.iter().take(Subject::ALL.len());
        let wanted: Vec<(Subject, &StreamPosition)> = streams
            .filter_map(|position| Some((Subject::parse(&position.subject)?, position)))
            .filter(|(subject, _)| *subject != Subject::Books && self.mailbox.wants(*subject))
            .collect();
        // A publisher of nothing but tracepoint counters has no position to announce.
        if wanted.is_empty() && !self.mailbox.wants(Subject::Books) {
            return;
        }
        self.streams.hear(origin);
        for (subject, position) in wanted {
            let of_stream = Origin { stream_age_s: Some(position.stream_age_s), ..*origin };
            let seen = self.streams.see_position(subject, &of_stream, position.last_sequence, listening);
            self.count_missing(subject, origin, seen);
        }
        if positions.leaving {
            self.streams.leave(origin);
        }
    }

    fn count_missing(&mut self, subject: Subject, origin: &Origin<'_>, seen: Seen) {
        let (cause, count, range) = match seen {
            Seen::InOrder => return,
            Seen::Repeated => {
                self.mailbox.stats.repeated.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Seen::Implausible => ("implausible", 1, None),
            Seen::After(gap) => ("gap", gap.count(), Some((gap.first, gap.last))),
        };
        add_saturating(&self.mailbox.stats.lost_transport, count);
        if let Some(events) = self.complaints.gaps.due(count) {
            tracing::warn!(
                component = self.mailbox.component,
                events, cause, node = ?origin.node, %subject,
                "events were lost on the way"
            );
        }
        let what = What {
            stage: Stage::Transport,
            cause,
            node: origin.node.into(),
            subject: Some(subject),
            tracepoint: None,
            session: Some(origin.session),
        };
        self.book.add(what, count, range, now_ns());
    }

    /// Reports publishers that nobody can say of where their streams end. Nothing is known to be
    /// lost, so the count is 0.
    fn report_silent(&mut self, silent: Vec<Silent>) {
        for Silent { node, session, sessions } in silent {
            add_saturating(&self.mailbox.stats.sessions_silent, sessions);
            if let Some(sessions) = self.complaints.silent.due(sessions) {
                tracing::warn!(
                    component = self.mailbox.component,
                    sessions,
                    ?node,
                    "publishers fell silent without announcing their last events, which may be missing"
                );
            }
            let what = What {
                stage: Stage::Transport,
                cause: "unknown",
                node,
                subject: None,
                tracepoint: None,
                session,
            };
            self.book.add(what, 0, None, now_ns());
        }
    }

    /// Logs the sums of what was not logged at once.
    fn complain(&mut self) {
        let (component, stats) = (self.mailbox.component, &self.mailbox.stats);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.complaints.full_queue.of_full_queue(component, load(&stats.lost_queue));
        self.complaints.undecodable.of_undecodable(component, load(&stats.undecodable));
        if let Some(events) = self.complaints.gaps.due(0) {
            tracing::warn!(component, events, "events were lost on the way");
        }
        if let Some(sessions) = self.complaints.silent.due(0) {
            tracing::warn!(
                component,
                sessions,
                "publishers fell silent without announcing their last events, which may be missing"
            );
        }
    }

    fn count_refused(&mut self, subject: Subject, payload: &Bytes) {
        if self.mailbox.gone.load(Ordering::Relaxed) {
            return;
        }
        self.mailbox.stats.lost_queue.fetch_add(1, Ordering::Relaxed);
        let origin = peek::origin(payload).ok().flatten();
        let what = What {
            stage: Stage::Subscriber,
            cause: "full",
            node: origin.map_or("", |o| o.node).into(),
            subject: Some(subject),
            tracepoint: None,
            session: origin.map(|o| o.session),
        };
        self.book.add(what, 1, origin.map(|o| (o.sequence, o.sequence)), now_ns());
    }

    /// Tells losses to everyone, this subscriber's own tool included, over the server. With a wildcard prefix there is no
    /// subject to publish on, and only the own tool hears of them.
    async fn tell_losses(&mut self, client: &Client) {
        if self.book.is_empty() {
            return;
        }
        self.stamper.now = Some(Instant::now());
        for (node, loss) in self.book.take() {
            let event = self.stamper.event(&node, now_ns(), loss, Subject::Loss);
            if let Some(own) = &self.own_subjects
                && let Err(error) = client.publish(own.loss.clone(), event.encode_to_vec().into()).await
            {
                tracing::debug!(component = self.mailbox.component, %error, "cannot publish a loss");
            }
            if self.own_subjects.is_none() && self.mailbox.wants(Subject::Loss) {
                let delivery = Delivery { subject: Subject::Loss, event: Arc::new(event) };
                // The reserve holds it; when even that is full, the counters still have it.
                let _ = self.mailbox.queue.push(Item::Decoded(delivery), 0, Priority::Reserve);
            }
        }
    }
}
