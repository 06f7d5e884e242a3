//! Metrics of the pipeline itself: what came, how late, and what got lost on the way.
//!
//! The other metrics are only as good as these: a count is exact while nothing is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use peer_observer_bus::{Delivery, SubscriberStats};
use peer_observer_events::Subject;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::observer::{Books, Loss, Origin};
use peer_observer_exporter::labels::{OTHER, SEPARATOR, bounded};
use peer_observer_exporter::registry::{
    Column, Counter, Edges, Gauge, HistogramVec, Label, Registry, TableId,
};

use super::books::Progress;

/// Source of proto/observer.proto, in lower case.
const EXTRACTOR: Label = Label {
    name: "extractor",
    values: &["unspecified", "ebpf", "rpc", "p2p", "log", "ipc", "capture", "tool", OTHER],
};

/// The subjects, as [`Subject::ALL`] has them.
const SUBJECT: Label = Label { name: "subject", values: &SUBJECT_NAMES };
const SUBJECT_NAMES: [&str; Subject::ALL.len()] = {
    let mut names = [""; Subject::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = Subject::ALL[i].as_str();
        i += 1;
    }
    names
};

/// Loss.Stage of proto/observer.proto, in lower case.
const STAGE: Label = Label {
    name: "stage",
    values: &[
        "unknown",
        "probe",
        "ring_buffer",
        "decode",
        "publish",
        "transport",
        "subscriber",
        "archive",
        OTHER,
    ],
};

/// From what a nap of the eBPF reader adds to what no one calls live.
const LATENCY: Edges = Edges {
    upper: &[
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        200_000_000,
        500_000_000,
        1_000_000_000,
        2_000_000_000,
        5_000_000_000,
        10_000_000_000,
    ],
    divisor: 1_000_000_000,
};

/// What is older did not just happen, ns.
const MAX_LATENCY_NS: u64 = 3_600_000_000_000;
/// How far another machine's clock may be ahead, ns.
const MAX_AHEAD_NS: u64 = 1_000_000_000;

/// Counts what the pipeline does.
#[derive(Debug)]
pub(crate) struct Pipeline {
    nodes: TableId,
    events: Column,
    latency: HistogramVec,
    without_origin: Counter,
    tracepoints: TableId,
    hits: [Column; 4],
    progress: Progress,
    losses: TableId,
    lost: Column,
    undecoded_messages: TableId,
    decode_errors: Column,
    received: Counter,
    undecodable: Counter,
    repeated: Counter,
    own_lost_transport: Counter,
    own_lost_queue: Counter,
    own_sessions_silent: Counter,
    numbers_capped: Counter,
    queue_events: Gauge,
    queue_bytes: Gauge,
    /// Name for the node of events that do not say which it is.
    default_node: String,
    told_without_origin: bool,
    scratch: String,
}

impl Pipeline {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry, default_node: &str) -> Self {
        let nodes = r.table(&[]);
        let tracepoints = r.table(&[]);
        // Who looks a day later must see them: all other counts are too low by these.
        let losses = r.lasting_table();
        let undecoded_messages = r.table(&[]);
        Pipeline {
            events: r.column(
                nodes,
                "peerobserver_pipeline_events",
                "Events that were counted here, by node, extractor and subject.",
                &["node"],
                &[EXTRACTOR, SUBJECT],
            ),
            latency: r.histogram_vec(
                "peerobserver_pipeline_latency_seconds",
                "Time from what an event tells of until it was counted here, of events of the last hour.",
                &[EXTRACTOR],
                LATENCY,
            ),
            without_origin: r.counter(
                "peerobserver_pipeline_events_without_origin",
                "Events that do not say where they come from; when some of these are lost, nobody can tell.",
            ),
            hits: [
                ("peerobserver_pipeline_hits", "Times that probes in nodes were hit."),
                ("peerobserver_pipeline_hits_published", "Hits of probes that became events."),
                ("peerobserver_pipeline_hits_dropped", "Hits of probes that found the ring buffer full."),
                ("peerobserver_pipeline_hits_unread", "Hits of probes with an argument that could not be read."),
            ]
            .map(|(name, help)| r.column(tracepoints, name, help, &["node", "tracepoint"], &[])),
            lost: r.column(
                losses,
                "peerobserver_pipeline_lost",
                "Events lost anywhere, as those who lost them or missed them tell, by stage, cause and component.",
                &["cause", "component"],
                &[STAGE],
            ),
            decode_errors: r.column(
                undecoded_messages,
                "peerobserver_pipeline_decode_errors",
                "P2P messages that could not be decoded, or not to their end.",
                &["message"],
                &[],
            ),
            received: r.counter("peerobserver_pipeline_received", "Events that this tool received."),
            undecodable: r.counter(
                "peerobserver_pipeline_undecodable_events",
                "What came to this tool from the bus and is no event.",
            ),
            repeated: r.counter(
                "peerobserver_pipeline_duplicates",
                "Events that came to this tool although they, or later ones, had been there before.",
            ),
            own_lost_transport: r.counter(
                "peerobserver_pipeline_own_lost_transport",
                "Events that were published and did not reach this tool.",
            ),
            own_lost_queue: r.counter(
                "peerobserver_pipeline_own_lost_queue",
                "Events that reached this tool and found its queue full.",
            ),
            own_sessions_silent: r.counter(
                "peerobserver_pipeline_own_sessions_silent",
                "Publishers that fell silent without announcing to this tool where their streams end.",
            ),
            numbers_capped: r.counter(
                "peerobserver_pipeline_numbers_capped",
                "Numbers in events above what is believed, which were counted as 2^40.",
            ),
            queue_events: r
                .gauge("peerobserver_pipeline_queue_events", "Events that wait for this tool."),
            queue_bytes: r
                .gauge("peerobserver_pipeline_queue_bytes", "Memory of the events that wait for this tool."),
            nodes,
            tracepoints,
            progress: Progress::default(),
            losses,
            undecoded_messages,
            default_node: default_node.to_owned(),
            told_without_origin: false,
            scratch: String::new(),
        }
    }

    /// Counts that an event came, at `now_ns` since the UNIX epoch.
    pub(crate) fn observe(&mut self, r: &mut Registry, delivery: &Delivery, now_ns: u64) {
        let subject = delivery.subject as usize;
        let (node, extractor) = match &delivery.event.origin {
            Some(origin) => (origin.node.as_str(), extractor(origin)),
            None => (self.default_node.as_str(), 0),
        };
        let row = r.row(self.nodes, node);
        r.add_cell(row, self.events.at2(extractor, subject), 1);
        match &delivery.event.origin {
            Some(origin) => {
                if let Some(latency) = latency(origin.time_ns, now_ns) {
                    r.observe(self.latency.at(extractor), latency);
                }
            }
            None => self.observe_without_origin(r),
        }
    }

    /// Counts numbers of events that were too large.
    pub(crate) fn observe_capped(&self, r: &mut Registry, numbers: u64) {
        r.add(self.numbers_capped, numbers);
    }

    fn observe_without_origin(&mut self, r: &mut Registry) {
        r.inc(self.without_origin);
        if !self.told_without_origin {
            self.told_without_origin = true;
            tracing::warn!(
                node = self.default_node,
                "events without origin arrive, as public extractors send them: losses among these cannot be seen"
            );
        }
    }

    /// Counts what a stage lost.
    pub(crate) fn observe_loss(&mut self, r: &mut Registry, loss: &Loss) {
        let other = STAGE.values.len() - 1;
        let stage = usize::try_from(loss.stage).map_or(other, |n| n.min(other));
        self.scratch.clear();
        self.scratch.push_str(bounded(&loss.cause));
        self.scratch.push(SEPARATOR);
        self.scratch.push_str(bounded(&loss.component));
        let row = r.row(self.losses, &self.scratch);
        r.add_cell(row, self.lost.at(stage), loss.count);
    }

    /// Counts the hits of probes in a process, as the eBPF extractor's books say.
    pub(crate) fn observe_books(&mut self, r: &mut Registry, books: &Books, origin: Option<&Origin>) {
        let (node, session) =
            origin.map_or((self.default_node.as_str(), 0), |o| (o.node.as_str(), o.session));
        for book in &books.tracepoints {
            let now = [book.hits, book.published, book.dropped, book.unread];
            let new = self.progress.since_last(node, session, books.pid, &book.tracepoint, now);
            self.scratch.clear();
            self.scratch.push_str(bounded(node));
            self.scratch.push(SEPARATOR);
            self.scratch.push_str(bounded(&book.tracepoint));
            let row = r.row(self.tracepoints, &self.scratch);
            for (column, amount) in self.hits.into_iter().zip(new) {
                r.add_cell(row, column.only(), amount);
            }
        }
    }

    /// Counts a message that could not be decoded; nothing for one that could.
    pub(crate) fn observe_decode_error(&self, r: &mut Registry, message: &MessageEvent) {
        if message.decode_error.is_none() {
            return;
        }
        let row = r.row(self.undecoded_messages, &message.meta.command);
        r.add_cell(row, self.decode_errors.only(), 1);
    }

    /// Takes over what the bus counted, and the events and bytes that wait.
    pub(crate) fn observe_bus(&self, r: &mut Registry, stats: &SubscriberStats, depth: (usize, usize)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        r.set_counter(self.received, load(&stats.received));
        r.set_counter(self.undecodable, load(&stats.undecodable));
        r.set_counter(self.repeated, load(&stats.repeated));
        r.set_counter(self.own_lost_transport, load(&stats.lost_transport));
        r.set_counter(self.own_lost_queue, load(&stats.lost_queue));
        r.set_counter(self.own_sessions_silent, load(&stats.sessions_silent));
        r.set(self.queue_events, i64::try_from(depth.0).unwrap_or(i64::MAX));
        r.set(self.queue_bytes, i64::try_from(depth.1).unwrap_or(i64::MAX));
    }
}

/// Time from `time_ns` until `now_ns`. Nothing for what is no latency: recorded or read again after
/// a long time, or dated in the future by more than clocks of machines differ.
fn latency(time_ns: u64, now_ns: u64) -> Option<u64> {
    let is_ahead = time_ns > now_ns.saturating_add(MAX_AHEAD_NS);
    Some(now_ns.saturating_sub(time_ns)).filter(|latency| !is_ahead && *latency <= MAX_LATENCY_NS)
}

fn extractor(origin: &Origin) -> usize {
    let other = EXTRACTOR.values.len() - 1;
    usize::try_from(origin.extractor).map_or(other, |n| n.min(other))
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::observer::{Source, loss::Stage};

    use super::*;

    #[test]
    fn label_values_are_the_names_of_the_schema() {
        for (i, name) in EXTRACTOR.values.iter().enumerate().take(EXTRACTOR.values.len() - 1) {
            let source = Source::try_from(i as i32).unwrap();
            assert_eq!(source.as_str_name().to_lowercase(), *name);
        }
        assert!(Source::try_from(EXTRACTOR.values.len() as i32 - 1).is_err());
        for (i, name) in STAGE.values.iter().enumerate().take(STAGE.values.len() - 1) {
            let stage = Stage::try_from(i as i32).unwrap();
            assert_eq!(stage.as_str_name().to_lowercase(), *name);
        }
        assert!(Stage::try_from(STAGE.values.len() as i32 - 1).is_err());
    }
}
