//! Numbering streams, and finding what is missing in one.
//!
//! A stream is one (node, extractor, session, subject). Its publisher numbers what it publishes from 1, without holes and in
//! order; so whoever subscribes later or misses something can tell which events it did not see, and how many.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Subject;
use crate::peek::Origin;

/// Gives the next number of each stream of one session.
#[derive(Debug, Default)]
pub struct Sequencer {
    // Nodes are few: a list is faster than a map here.
    streams: Vec<(Arc<str>, [u64; Subject::ALL.len()])>,
}

impl Sequencer {
    /// The number of the next event of `node` on `subject`. Draw one only for what really gets published.
    pub fn next(&mut self, node: &Arc<str>, subject: Subject) -> u64 {
        let index = match self.streams.iter().position(|(name, _)| Arc::ptr_eq(name, node) || name == node) {
            Some(index) => index,
            None => {
                self.streams.push((node.clone(), [0; Subject::ALL.len()]));
                self.streams.len() - 1
            }
        };
        let number = &mut self.streams[index].1[subject as usize];
        *number += 1;
        *number
    }

    /// Takes back the number drawn last in that stream: the event was not published after all.
    pub fn undo(&mut self, node: &Arc<str>, subject: Subject) {
        if let Some((_, numbers)) = self.streams.iter_mut().find(|(name, _)| name == node) {
            numbers[subject as usize] -= 1;
        }
    }
}

/// Events missing in a stream: `first..=last`, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Node of the stream.
    pub node: Arc<str>,
    /// Session of the stream.
    pub session: u64,
    /// Subject of the stream.
    pub subject: Subject,
    /// Sequence number of the first missing event.
    pub first: u64,
    /// Sequence number of the last missing event.
    pub last: u64,
}

impl Gap {
    /// Number of events missing.
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What [`GapTracker::see`] says of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The next of its stream, or the first one seen of it.
    InOrder,
    /// It came after a hole.
    After(Gap),
    /// Its number, or a later one, was seen before.
    Repeated,
}

#[derive(Debug)]
struct Stream {
    next: u64,
    last_use: u64,
}

/// Finds holes in streams, in bounded memory: the stream that was quiet for longest is forgotten when there are too many.
#[derive(Debug)]
pub struct GapTracker {
    streams: HashMap<(u64, Subject, u8), HashMap<Arc<str>, Stream>>,
    count: usize,
    limit: usize,
    clock: u64,
}

impl GapTracker {
    /// Remembers at most `limit` streams: subjects times nodes times extractors, and the sessions before a restart.
    pub fn new(limit: usize) -> Self {
        Self { streams: HashMap::new(), count: 0, limit: limit.max(1), clock: 0 }
    }

    /// Takes note of an event. The first event of a stream opens it wherever it stands: what came before a subscription
    /// began is not lost.
    pub fn see(&mut self, subject: Subject, origin: &Origin<'_>) -> Seen {
        self.clock += 1;
        let key = (origin.session, subject, origin.extractor as u8);
        if let Some(stream) = self.streams.get_mut(&key).and_then(|nodes| nodes.get_mut(origin.node)) {
            stream.last_use = self.clock;
            let expected = stream.next;
            if origin.sequence < expected {
                return Seen::Repeated;
            }
            stream.next = origin.sequence.saturating_add(1);
            if origin.sequence == expected {
                return Seen::InOrder;
            }
            return Seen::After(Gap {
                node: origin.node.into(),
                session: origin.session,
                subject,
                first: expected,
                last: origin.sequence - 1,
            });
        }
        if self.count >= self.limit {
            self.forget_quietest();
        }
        self.count += 1;
        self.streams.entry(key).or_default().insert(
            origin.node.into(),
            Stream { next: origin.sequence.saturating_add(1), last_use: self.clock },
        );
        Seen::InOrder
    }

    fn forget_quietest(&mut self) {
        let quietest = self
            .streams
            .iter()
            .flat_map(|(key, nodes)| nodes.iter().map(|(node, s)| (s.last_use, *key, node.clone())))
            .min_by_key(|(last_use, ..)| *last_use);
        if let Some((_, key, node)) = quietest
            && let Some(nodes) = self.streams.get_mut(&key)
        {
            nodes.remove(&node);
            if nodes.is_empty() {
                self.streams.remove(&key);
            }
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: &str, session: u64, sequence: u64) -> Origin<'_> {
        Origin { node, extractor: 1, session, sequence }
    }

    #[test]
    fn numbers_count_per_node_and_subject_from_one() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut s = Sequencer::default();
        assert_eq!(s.next(&a, Subject::NetMsg), 1);
        assert_eq!(s.next(&a, Subject::NetMsg), 2);
        assert_eq!(s.next(&b, Subject::NetMsg), 1);
        assert_eq!(s.next(&a, Subject::NetConn), 1);
        assert_eq!(s.next(&a, Subject::NetMsg), 3);
    }

    #[test]
    fn a_hole_is_reported_once_with_its_bounds() {
        let mut t = GapTracker::new(10);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 5)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 6)), Seen::InOrder);
        let Seen::After(gap) = t.see(Subject::NetMsg, &origin("a", 1, 10)) else { panic!("no gap") };
        assert_eq!((gap.first, gap.last, gap.count()), (7, 9, 3));
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 11)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 8)), Seen::Repeated);
    }

    #[test]
    fn streams_do_not_mix() {
        let mut t = GapTracker::new(10);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 1)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("b", 1, 7)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 2, 1)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetConn, &origin("a", 1, 3)), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 2)), Seen::InOrder);
    }

    #[test]
    fn hostile_streams_take_bounded_memory() {
        let mut t = GapTracker::new(3);
        for session in 0..100 {
            t.see(Subject::NetMsg, &origin("a", session, u64::MAX));
        }
        assert_eq!(t.count, 3);
        assert_eq!(t.streams.values().map(HashMap::len).sum::<usize>(), 3);
    }
}
