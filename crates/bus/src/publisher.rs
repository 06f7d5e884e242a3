//! What extractors see of a bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::event::Event;
use peer_observer_events::proto::observer::{Origin, Source};
use peer_observer_events::{PeerObserverEvent, Sequencer, Subject};

use crate::local::Hub;
use crate::nats::Spool;
use crate::now_ns;
use crate::subscriber::Delivery;

/// Events that are handed on together.
const BATCH: usize = 256;

/// An event that is not yet numbered: numbers are drawn when it is really sent.
pub(crate) struct Pending {
    pub(crate) node: Arc<str>,
    pub(crate) time_ns: u64,
    pub(crate) subject: Subject,
    pub(crate) event: PeerObserverEvent,
}

/// Whether a publisher that announces positions goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It announced its last event.
    Yes,
    /// There may be more.
    No,
}

/// Makes events of what happened: origin, number, timestamp.
pub(crate) struct Stamper {
    session: u64,
    source: Source,
    sequencer: Sequencer,
    /// When what is stamped now is sent. Nothing within a process, where no beginning is missed.
    pub(crate) now: Option<Instant>,
}

impl Stamper {
    pub(crate) fn new(source: Source) -> Self {
        Stamper { session: rand::random(), source, sequencer: Sequencer::default(), now: None }
    }

    pub(crate) fn event(
        &mut self,
        node: &Arc<str>,
        time_ns: u64,
        event: PeerObserverEvent,
        subject: Subject,
    ) -> Event {
        let (sequence, stream_age_s) = match self.now {
            Some(now) => {
                let (sequence, age) = self.sequencer.next_at(node, subject, now);
                (sequence, Some(age))
            }
            None => (self.sequencer.next(node, subject), None),
        };
        let origin = Origin {
            node: node.to_string(),
            extractor: self.source as i32,
            session: self.session,
            sequence,
            time_ns,
            stream_age_s,
        };
        Event { timestamp: time_ns / 1_000_000, origin: Some(origin), peer_observer_event: Some(event) }
    }

    pub(crate) fn stamp(
        &mut self,
        node: &Arc<str>,
        time_ns: u64,
        event: PeerObserverEvent,
        subject: Subject,
    ) -> Delivery {
        Delivery { subject, event: Arc::new(self.event(node, time_ns, event, subject)) }
    }

    pub(crate) fn undo(&mut self, node: &Arc<str>, subject: Subject) {
        self.sequencer.undo(node, subject);
    }

    /// Whether a stream began that [`Stamper::positions`] has not named.
    pub(crate) fn has_new_streams(&self) -> bool {
        self.sequencer.has_new_streams()
    }

    /// How far the streams are, to announce now.
    pub(crate) fn positions(&mut self, leaving: Leaving) -> Vec<Pending> {
        let positions = self.sequencer.positions(Instant::now(), leaving == Leaving::Yes);
        let pending = |(node, positions)| Pending {
            node,
            time_ns: now_ns(),
            subject: Subject::Books,
            event: PeerObserverEvent::StreamPositions(positions),
        };
        positions.into_iter().map(pending).collect()
    }
}

/// About how much memory an event takes, bytes. Cheap rather than exact: it bounds queues.
pub(crate) fn weight(event: &PeerObserverEvent) -> usize {
    const OVERHEAD: usize = 512;
    let PeerObserverEvent::EbpfExtractor(ebpf) = event else {
        return OVERHEAD + event.encoded_len();
    };
    let Some(EbpfEvent::Message(message)) = &ebpf.ebpf_event else { return OVERHEAD };
    // The payload, and the decoded form that points into it.
    OVERHEAD + usize::try_from(message.meta.size).unwrap_or(usize::MAX / 4).min(8 << 20) * 2
}

enum Kind {
    Local { hub: Arc<Hub>, stamper: Stamper, batch: Vec<Delivery> },
    Spooled { spool: Arc<Spool>, batch: Vec<Pending> },
}

/// Counters of a publisher.
#[derive(Debug, Default)]
pub struct PublisherStats {
    /// Events given to the bus.
    pub published: AtomicU64,
}

/// How far a bus is with what one publisher gave it. Events are handed on in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Events that it took; what it had no room for is told as lost.
    pub taken: u64,
    /// Of these, those that it is done with: they are with the server, or with the tools of this process.
    pub handed_on: u64,
}

impl Progress {
    /// Events that still wait.
    pub fn left(self) -> u64 {
        self.taken.saturating_sub(self.handed_on)
    }
}

/// Publishes the events of one extractor, in order. Publishing never waits.
pub struct Publisher {
    component: &'static str,
    kind: Kind,
    stats: Arc<PublisherStats>,
}

impl Publisher {
    pub(crate) fn local(hub: Arc<Hub>, source: Source, component: &'static str) -> Self {
        let kind = Kind::Local { hub, stamper: Stamper::new(source), batch: Vec::new() };
        Publisher { component, kind, stats: Arc::default() }
    }

    pub(crate) fn spooled(spool: Arc<Spool>, component: &'static str) -> Self {
        Publisher { component, kind: Kind::Spooled { spool, batch: Vec::new() }, stats: Arc::default() }
    }

    /// The extractor this publishes for.
    pub fn component(&self) -> &'static str {
        self.component
    }

    /// The largest event that gets through, bytes on the wire, for who can make smaller ones. Nothing within a process, where
    /// there is no limit, and while no server has said how much it takes.
    pub fn max_payload(&self) -> Option<usize> {
        match &self.kind {
            Kind::Local { .. } => None,
            Kind::Spooled { spool, .. } => spool.max_payload(),
        }
    }

    /// The counters of this publisher.
    pub fn stats(&self) -> Arc<PublisherStats> {
        self.stats.clone()
    }

    /// How far the bus is with what this publisher gave it, for who can give it again after a restart.
    pub fn progress(&self) -> Progress {
        match &self.kind {
            Kind::Local { .. } => {
                let published = self.stats.published.load(Ordering::Relaxed);
                Progress { taken: published, handed_on: published }
            }
            Kind::Spooled { spool, .. } => spool.progress(),
        }
    }

    /// Publishes one event of `node` that happened at `time_ns` (since the UNIX epoch).
    pub fn publish(&mut self, node: &Arc<str>, time_ns: u64, event: PeerObserverEvent) {
        self.batch().publish(node, time_ns, event);
    }

    /// Publishes an event when there is room for it on its way. For what can wait, such as something recorded; what happens now has
    /// to be published now. Within one process, there is nothing to wait for. Cancelled before its end, it publishes nothing.
    pub async fn publish_when_it_fits(&mut self, node: &Arc<str>, time_ns: u64, event: PeerObserverEvent) {
        if let Kind::Spooled { spool, .. } = &self.kind {
            spool.queue.room(weight(&event)).await;
        }
        self.publish(node, time_ns, event);
    }

    /// For several events at once: they are handed on together when the batch is dropped, or when it gets large.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch { publisher: self }
    }

    fn add(&mut self, node: &Arc<str>, time_ns: u64, event: PeerObserverEvent) {
        let Some(subject) = Subject::of(&event) else {
            debug_assert!(false, "an event without content has no subject");
            return;
        };
        let full = match &mut self.kind {
            Kind::Local { stamper, batch, .. } => {
                batch.push(stamper.stamp(node, time_ns, event, subject));
                batch.len() >= BATCH
            }
            Kind::Spooled { batch, .. } => {
                batch.push(Pending { node: node.clone(), time_ns, subject, event });
                batch.len() >= BATCH
            }
        };
        if full {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let n = match &mut self.kind {
            Kind::Local { hub, batch, .. } => {
                hub.publish(batch);
                let n = batch.len();
                batch.clear();
                n
            }
            Kind::Spooled { spool, batch } => {
                let n = batch.len();
                spool.push(batch.drain(..));
                n
            }
        };
        self.stats.published.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl Drop for Publisher {
    /// Lets the writer of a connection end, once it has sent what is there.
    fn drop(&mut self) {
        if let Kind::Spooled { spool, .. } = &self.kind {
            spool.queue.close();
        }
    }
}

/// Events that are handed on together.
pub struct Batch<'a> {
    publisher: &'a mut Publisher,
}

impl Batch<'_> {
    /// Adds one event of `node` that happened at `time_ns` (since the UNIX epoch).
    pub fn publish(&mut self, node: &Arc<str>, time_ns: u64, event: PeerObserverEvent) {
        self.publisher.add(node, time_ns, event);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.publisher.flush();
    }
}
