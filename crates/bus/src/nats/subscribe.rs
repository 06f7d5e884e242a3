//! The reading side: one subscription, holes noticed at once, then the tool's bounded queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures_util::StreamExt;
use peer_observer_events::proto::observer::{Source, loss::Stage};
use peer_observer_events::sequence::Seen;
use peer_observer_events::{GapTracker, Subject, peek};
use prost::Message;
use tokio::sync::watch;

use super::Up;
use crate::loss::{Complaint, LossBook, What};
use crate::now_ns;
use crate::publisher::Stamper;
use crate::queue::Priority;
use crate::subscriber::{Delivery, Item, Mailbox};

/// Streams to find holes in: nodes x extractors x subjects, and the sessions before a restart.
const STREAMS: usize = 16_384;

/// Messages that the client keeps until they are taken. It drops what is beyond without a word, and takes from the socket as fast
/// as the server sends: its own default of 65,536 was full after a fifth of a second of a burst. Nothing is reserved.
///
/// The client knows no bound in bytes. What keeps them few is that nothing between it and the tool's queue waits for anything:
/// [`Reader::run`] only looks at the first bytes of a message and hands it on, without a copy, to the queue, which refuses what
/// is beyond its bytes.
const UNREAD: usize = 1 << 20;

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
    loss_subject: Option<async_nats::Subject>,
    prefix_words: usize,
    streams: GapTracker,
    /// Since when whatever is sent should have come.
    listening: Option<Instant>,
    book: LossBook,
    complaint: Complaint,
    stamper: Stamper,
}

impl Reader {
    pub(super) fn new(mailbox: Arc<Mailbox>, subjects: &[Subject], prefix: Option<&str>) -> Self {
        // One subscription keeps the order of a publisher over all its subjects. `>` brings other subjects too; they are
        // left aside.
        let subscription = match subjects {
            [one] => with_prefix(prefix, one.as_str()),
            _ => with_prefix(prefix, ">"),
        };
        let loss_subject = match prefix {
            Some(prefix) if prefix.contains('*') => None,
            _ => Some(with_prefix(prefix, Subject::Loss.as_str())),
        };
        Reader {
            book: LossBook::new(mailbox.component),
            mailbox,
            subscription,
            loss_subject,
            prefix_words: prefix.map_or(0, |p| p.split('.').count()),
            streams: GapTracker::new(STREAMS),
            listening: None,
            complaint: Complaint::default(),
            stamper: Stamper::new(Source::Tool),
        }
    }

    /// Runs until the connection is closed for good.
    pub(super) async fn run(
        mut self,
        options: ConnectOptions,
        address: String,
        mut is_up: watch::Receiver<Option<Up>>,
    ) {
        let component = self.mailbox.component;
        let options = options.subscription_capacity(UNREAD);
        let client = match options.connect(super::publish::addresses(&address)).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(component, address, %error, "cannot set up the nats connection");
                return;
            }
        };
        let subscribed = client.subscribe(self.subscription.clone()).await;
        let mut messages = match subscribed {
            Ok(messages) => messages.ready_chunks(256),
            // The tool ended before the server was there.
            Err(_) if self.mailbox.gone.load(Ordering::Relaxed) => return,
            Err(error) => {
                tracing::error!(component, address, %error, "cannot subscribe");
                return;
            }
        };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.tell_losses(&client).await,
                Ok(()) = is_up.changed(), if self.listening.is_none() => {
                    self.listening = is_up.borrow().map(|up| up.since);
                }
                chunk = messages.next() => {
                    let Some(chunk) = chunk else { return };
                    self.take(chunk);
                }
            }
        }
    }

    fn subject(&self, text: &str) -> Option<Subject> {
        let mut rest = text;
        for _ in 0..self.prefix_words {
            rest = rest.split_once('.')?.1;
        }
        Subject::parse(rest)
    }

    fn take(&mut self, chunk: Vec<async_nats::Message>) {
        let mut items = Vec::with_capacity(chunk.len());
        for message in chunk {
            let Some(subject) = self.subject(&message.subject) else { continue };
            if !self.mailbox.wants(subject) {
                continue;
            }
            self.look_for_holes(subject, &message.payload);
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

    fn look_for_holes(&mut self, subject: Subject, payload: &Bytes) {
        let stats = &self.mailbox.stats;
        // What is malformed is counted by whoever decodes it.
        let Ok(origin) = peek::origin(payload) else { return };
        let Some(origin) = origin else {
            stats.without_origin.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let listening = self.listening.map_or(Duration::ZERO, |since| since.elapsed());
        match self.streams.see(subject, &origin, listening) {
            Seen::InOrder => {}
            Seen::Repeated => {
                stats.repeated.fetch_add(1, Ordering::Relaxed);
            }
            Seen::After(gap) => {
                stats.lost_transport.fetch_add(gap.count(), Ordering::Relaxed);
                tracing::warn!(
                    component = self.mailbox.component,
                    node = %gap.node, %subject, first = gap.first, last = gap.last,
                    "events were lost on the way"
                );
                let what = What {
                    stage: Stage::Transport,
                    cause: "gap",
                    node: gap.node.clone(),
                    subject: Some(subject),
                    tracepoint: None,
                    session: Some(gap.session),
                };
                self.book.add(what, gap.count(), Some((gap.first, gap.last)), now_ns());
            }
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
        let full = self.mailbox.stats.lost_queue.load(Ordering::Relaxed);
        self.complaint.of_full_queue(self.mailbox.component, full);
        if self.book.is_empty() {
            return;
        }
        for (node, loss) in self.book.take() {
            let event = self.stamper.event(&node, now_ns(), loss, Subject::Loss);
            if let Some(subject) = &self.loss_subject
                && let Err(error) = client.publish(subject.clone(), event.encode_to_vec().into()).await
            {
                tracing::debug!(component = self.mailbox.component, %error, "cannot publish a loss");
            }
            if self.loss_subject.is_none() && self.mailbox.wants(Subject::Loss) {
                let delivery = Delivery { subject: Subject::Loss, event: Arc::new(event) };
                // The reserve holds it; when even that is full, the counters still have it.
                let _ = self.mailbox.queue.push(Item::Decoded(delivery), 0, Priority::Reserve);
            }
        }
    }
}
