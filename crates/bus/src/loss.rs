//! Counting losses until they are told.
//!
//! Losses come in thousands at a time. A stage writes each into its book and tells the sum once a second, so that telling
//! of a flood is not a flood itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peer_observer_events::proto::observer::{Loss, loss::Stage};
use peer_observer_events::{PeerObserverEvent, Subject};

/// Different losses that a book keeps apart. More are merged into one entry a stage, so that nothing is uncounted.
const ENTRIES: usize = 256;

/// What was lost: entries that are alike in this are summed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct What {
    /// Where it was lost.
    pub stage: Stage,
    /// Why: a word from a small set, see `proto/observer.proto`.
    pub cause: &'static str,
    /// The node it was about.
    pub node: Arc<str>,
    /// Subject, once there was an event.
    pub subject: Option<Subject>,
    /// Tracepoint, before there was an event.
    pub tracepoint: Option<&'static str>,
    /// Session of the stream, once there was one.
    pub session: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Sum {
    count: u64,
    range: Option<(u64, u64)>,
    from_ns: u64,
    until_ns: u64,
}

/// A book of losses that are not yet told.
#[derive(Debug)]
pub struct LossBook {
    component: &'static str,
    entries: BTreeMap<What, Sum>,
}

impl LossBook {
    /// A book of `component`, which is named in what is told.
    pub fn new(component: &'static str) -> Self {
        LossBook { component, entries: BTreeMap::new() }
    }

    /// Writes down `count` losses at time `now_ns`; `range` are the first and last number lost, where there are numbers.
    pub fn add(&mut self, what: What, count: u64, range: Option<(u64, u64)>, now_ns: u64) {
        let what = if self.entries.len() < ENTRIES || self.entries.contains_key(&what) {
            what
        } else {
            What {
                cause: "many",
                node: "many".into(),
                subject: None,
                tracepoint: None,
                session: None,
                ..what
            }
        };
        let sum = self.entries.entry(what).or_insert(Sum {
            count: 0,
            range: None,
            from_ns: now_ns,
            until_ns: now_ns,
        });
        sum.count = sum.count.saturating_add(count);
        sum.until_ns = now_ns;
        if let Some((first, last)) = range {
            let (a, b) = sum.range.unwrap_or((first, last));
            sum.range = Some((a.min(first), b.max(last)));
        }
    }

    /// Nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many losses there are to tell.
    pub fn total(&self) -> u64 {
        self.entries.values().fold(0, |total, sum| total.saturating_add(sum.count))
    }

    /// Takes out all entries, as events with the node they are about.
    pub fn take(&mut self) -> Vec<(Arc<str>, PeerObserverEvent)> {
        std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(what, sum)| {
                let loss = Loss {
                    stage: what.stage as i32,
                    cause: what.cause.into(),
                    count: sum.count,
                    tracepoint: what.tracepoint.map(Into::into),
                    subject: what.subject.map(|s| s.as_str().into()),
                    first: sum.range.map(|r| r.0),
                    last: sum.range.map(|r| r.1),
                    component: self.component.into(),
                    from_ns: Some(sum.from_ns),
                    until_ns: Some(sum.until_ns),
                    session: what.session,
                };
                (what.node, PeerObserverEvent::Loss(loss))
            })
            .collect()
    }
}

/// Losses on their way into our log, which says at once that there are some, and then how many more there are, but not for each.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    last: Option<Instant>,
    events: u64,
    /// What [`Complaint::since`] was given last.
    total: u64,
}

impl Complaint {
    /// Between two lines.
    const PAUSE: Duration = Duration::from_secs(10);

    /// Adds losses, or none, and returns how many are to be logged now.
    pub(crate) fn due(&mut self, more: u64) -> Option<u64> {
        self.events = self.events.saturating_add(more);
        if self.events == 0 || self.last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.events))
    }

    /// Logs what a subscriber's queue refused, `total` events so far.
    pub(crate) fn of_full_queue(&mut self, component: &'static str, total: u64) {
        if let Some(events) = self.since(total) {
            tracing::warn!(
                component,
                events,
                "events come faster than this tool takes them, newer ones are lost"
            );
        }
    }

    /// Logs what came to a subscriber and is no event, `total` so far.
    pub(crate) fn of_undecodable(&mut self, component: &'static str, total: u64) {
        if let Some(events) = self.since(total) {
            tracing::warn!(component, events, "what arrived on the bus is no event of ours and is dropped");
        }
    }

    /// Like [`Complaint::due`], of a counter that only grows.
    fn since(&mut self, total: u64) -> Option<u64> {
        let more = total.saturating_sub(std::mem::replace(&mut self.total, total));
        self.due(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_complained_of_at_once_and_then_in_sums() {
        let mut complaint = Complaint::default();
        assert_eq!(complaint.due(0), None);
        assert_eq!(complaint.due(3), Some(3));
        assert_eq!((complaint.due(4), complaint.due(5)), (None, None));
        complaint.last = Instant::now().checked_sub(Complaint::PAUSE);
        assert_eq!(complaint.due(0), Some(9));
        assert_eq!(complaint.due(0), None);
    }

    fn what(node: &str) -> What {
        What {
            stage: Stage::Subscriber,
            cause: "full",
            node: node.into(),
            subject: Some(Subject::NetMsg),
            tracepoint: None,
            session: Some(7),
        }
    }

    fn total(events: &[(Arc<str>, PeerObserverEvent)]) -> u64 {
        let count = |e: &PeerObserverEvent| if let PeerObserverEvent::Loss(l) = e { l.count } else { 0 };
        events.iter().map(|(_, e)| count(e)).sum()
    }

    #[test]
    fn losses_that_are_alike_become_one_event_with_their_range() {
        let mut book = LossBook::new("metrics");
        book.add(what("a"), 1, Some((5, 5)), 100);
        book.add(what("a"), 3, Some((8, 10)), 200);
        let told = book.take();
        let [(_, PeerObserverEvent::Loss(loss))] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((loss.count, loss.first, loss.last), (4, Some(5), Some(10)));
        assert_eq!((loss.from_ns, loss.until_ns), (Some(100), Some(200)));
        assert!(book.is_empty());
    }

    #[test]
    fn a_full_book_merges_but_counts_all() {
        let mut book = LossBook::new("metrics");
        for i in 0..10_000 {
            book.add(what(&i.to_string()), 1, None, 0);
        }
        let told = book.take();
        assert!(told.len() <= ENTRIES + 1);
        assert_eq!(total(&told), 10_000);
    }
}
