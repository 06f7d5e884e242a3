//! Numbering streams, and finding what is missing in one.
//!
//! A stream is one (node, extractor, session, subject). Its publisher numbers what it publishes from 1, without holes and in
//! order; so whoever subscribes later or misses something can tell which events it did not see, and how many. How long ago a stream
//! began is sent with its events: that tells whoever has listened for longer that it missed a beginning.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Subject;
use crate::peek::Origin;

/// Gives the next number of each stream of one session.
#[derive(Debug, Default)]
pub struct Sequencer {
    // Nodes are few: a list is faster than a map here.
    streams: Vec<(Arc<str>, [Sent; Subject::ALL.len()])>,
}

/// What was sent of a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    count: u64,
    began: Option<Instant>,
}

impl Sequencer {
    /// The number of the next event of `node` on `subject`. Draw one only for what really gets published.
    pub fn next(&mut self, node: &Arc<str>, subject: Subject) -> u64 {
        let sent = self.stream(node, subject);
        sent.count += 1;
        sent.count
    }

    /// The same, and for how many whole seconds events of that stream have been sent at `now`.
    pub fn next_at(&mut self, node: &Arc<str>, subject: Subject, now: Instant) -> (u64, u32) {
        let sent = self.stream(node, subject);
        sent.count += 1;
        let age = now.saturating_duration_since(*sent.began.get_or_insert(now));
        (sent.count, u32::try_from(age.as_secs()).unwrap_or(u32::MAX))
    }

    fn stream(&mut self, node: &Arc<str>, subject: Subject) -> &mut Sent {
        let index = match self.streams.iter().position(|(name, _)| Arc::ptr_eq(name, node) || name == node) {
            Some(index) => index,
            None => {
                self.streams.push((node.clone(), [Sent::default(); Subject::ALL.len()]));
                self.streams.len() - 1
            }
        };
        &mut self.streams[index].1[subject as usize]
    }

    /// Takes back the number drawn last in that stream: the event was not published after all.
    pub fn undo(&mut self, node: &Arc<str>, subject: Subject) {
        if let Some((_, streams)) = self.streams.iter_mut().find(|(name, _)| name == node) {
            let sent = &mut streams[subject as usize];
            sent.count -= 1;
            if sent.count == 0 {
                sent.began = None;
            }
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
    /// It came after a hole, or the beginning of its stream was missed.
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
    /// When a stream was forgotten last, since the begin of listening.
    forgot: Duration,
}

/// A stream that began so shortly after us, or before, may have been on its way when we began to listen.
const ON_THE_WAY: Duration = Duration::from_secs(5);

impl GapTracker {
    /// Remembers at most `limit` streams: subjects times nodes times extractors, and the sessions before a restart.
    pub fn new(limit: usize) -> Self {
        Self { streams: HashMap::new(), count: 0, limit: limit.max(1), clock: 0, forgot: Duration::ZERO }
    }

    /// Takes note of an event, after `listening` to all streams for so long. The first event seen of a stream opens it wherever it
    /// stands: what came before a subscription began is not lost. But what came before of a stream that began later is.
    pub fn see(&mut self, subject: Subject, origin: &Origin<'_>, listening: Duration) -> Seen {
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
            self.forgot = listening;
            self.forget_quietest();
        }
        self.count += 1;
        self.streams.entry(key).or_default().insert(
            origin.node.into(),
            Stream { next: origin.sequence.saturating_add(1), last_use: self.clock },
        );
        // One that was there when one was forgotten may be that one.
        let known_for = listening.saturating_sub(self.forgot);
        let began_later = origin
            .stream_age_s
            .is_some_and(|age| Duration::from_secs(u64::from(age) + 1) + ON_THE_WAY < known_for);
        if !began_later || origin.sequence < 2 {
            return Seen::InOrder;
        }
        Seen::After(Gap {
            node: origin.node.into(),
            session: origin.session,
            subject,
            first: 1,
            last: origin.sequence - 1,
        })
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
        Origin { node, extractor: 1, session, sequence, stream_age_s: None }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn the_beginning_of_a_stream_is_missed_only_by_who_listened_before_it() {
        let aged = |sequence, age| Origin { stream_age_s: age, ..origin("a", 1, sequence) };
        let missed = |origin: Origin<'_>| match GapTracker::new(10).see(Subject::NetMsg, &origin, LONG) {
            Seen::After(gap) => Some((gap.first, gap.last)),
            _ => None,
        };
        assert_eq!(missed(aged(100, Some(3_000))), Some((1, 99)));
        assert_eq!(missed(aged(1, Some(0))), None);
        for age in [Some(3_599), Some(3_594), Some(u32::MAX), None] {
            assert_eq!(missed(aged(100, age)), None, "{age:?}");
        }
        // A stream that was forgotten is none that begins.
        let mut t = GapTracker::new(1);
        assert_eq!(t.see(Subject::NetMsg, &aged(1, Some(0)), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetConn, &aged(1, Some(0)), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &aged(2, Some(0)), LONG), Seen::InOrder);
        // Of one that began after that, it is known again.
        let later = Origin { session: 2, ..aged(3, Some(60)) };
        t.limit = 10;
        assert!(matches!(t.see(Subject::NetMsg, &later, 2 * LONG), Seen::After(gap) if gap.count() == 2));
    }

    #[test]
    fn a_stream_is_as_old_as_its_first_event_that_was_sent() {
        let node: Arc<str> = "a".into();
        let mut s = Sequencer::default();
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(s.next_at(&node, Subject::NetMsg, at(0)), (1, 0));
        s.undo(&node, Subject::NetMsg);
        assert_eq!(s.next_at(&node, Subject::NetMsg, at(5_000)), (1, 0));
        assert_eq!(s.next_at(&node, Subject::NetMsg, at(6_999)), (2, 1));
        assert_eq!(s.next_at(&node, Subject::NetConn, at(7_000)), (1, 0));
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
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 5), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 6), LONG), Seen::InOrder);
        let Seen::After(gap) = t.see(Subject::NetMsg, &origin("a", 1, 10), LONG) else { panic!("no gap") };
        assert_eq!((gap.first, gap.last, gap.count()), (7, 9, 3));
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 11), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 8), LONG), Seen::Repeated);
    }

    #[test]
    fn streams_do_not_mix() {
        let mut t = GapTracker::new(10);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 1), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("b", 1, 7), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 2, 1), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetConn, &origin("a", 1, 3), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 2), LONG), Seen::InOrder);
    }

    #[test]
    fn hostile_streams_take_bounded_memory() {
        let mut t = GapTracker::new(3);
        for session in 0..100 {
            t.see(Subject::NetMsg, &origin("a", session, u64::MAX), LONG);
        }
        assert_eq!(t.count, 3);
        assert_eq!(t.streams.values().map(HashMap::len).sum::<usize>(), 3);
    }
}
