//! Numbering streams.
//!
//! A stream is one (node, extractor, session, subject). Its publisher numbers what it publishes
//! from 1, without holes and in order; so whoever subscribes later or misses something can tell
//! which events it did not see, and how many. How long ago a stream began is sent with its events:
//! that tells whoever has listened for longer that it missed a beginning. [`crate::gaps`] is the
//! subscriber's side.

use std::sync::Arc;
use std::time::Instant;

use crate::Subject;
use crate::proto::observer::{StreamPosition, StreamPositions};

/// Gives the next number of each stream of one session.
#[derive(Debug, Default)]
pub struct Sequencer {
    // Nodes are few: a list is faster than a map here.
    streams: Vec<(Arc<str>, [Sent; Subject::ALL.len()])>,
    /// A stream began since [`Sequencer::positions`] was called last.
    has_new: bool,
}

/// What was sent of a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    count: u64,
    began: Option<Instant>,
}

impl Sent {
    /// Whole seconds since the first event was sent, which is now if it was not.
    fn age_s(&mut self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(*self.began.get_or_insert(now));
        u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Where [`StreamPositions`] are announced.
const ANNOUNCED_ON: Subject = Subject::Books;

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
        let next = (sent.count, sent.age_s(now));
        self.has_new |= next.0 == 1 && subject != ANNOUNCED_ON;
        next
    }

    /// Whether a stream began since [`Sequencer::positions`] was called last.
    pub fn has_new_streams(&self) -> bool {
        self.has_new
    }

    /// How far the streams of each node are at `now`, to announce on [`Subject::Books`]. That
    /// subject itself is left out: the number of the announcement says how far it is.
    pub fn positions(&mut self, now: Instant, leaving: bool) -> Vec<(Arc<str>, StreamPositions)> {
        self.has_new = false;
        let published = self.streams.iter_mut().filter(|(_, sent)| sent.iter().any(|sent| sent.count > 0));
        published
            .map(|(node, sent)| {
                let announced = Subject::ALL
                    .iter()
                    .zip(sent)
                    .filter(|(subject, sent)| **subject != ANNOUNCED_ON && sent.count > 0);
                let streams = announced
                    .map(|(subject, sent)| StreamPosition {
                        subject: subject.as_str().into(),
                        last_sequence: sent.count,
                        stream_age_s: sent.age_s(now),
                    })
                    .collect();
                (node.clone(), StreamPositions { streams, leaving })
            })
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_as_old_as_its_first_event_that_was_sent() {
        let node: Arc<str> = "a".into();
        let mut s = Sequencer::default();
        let begin = Instant::now();
        let at = |ms| begin + std::time::Duration::from_millis(ms);
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
    fn positions_name_every_stream_but_their_own() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let begin = Instant::now();
        let mut s = Sequencer::default();
        assert!(!s.has_new_streams());
        s.next_at(&a, Subject::NetMsg, begin);
        s.next_at(&a, Subject::NetMsg, begin);
        s.next_at(&a, Subject::NetConn, begin);
        s.next_at(&a, Subject::Books, begin);
        s.next_at(&b, Subject::Rpc, begin);
        s.undo(&b, Subject::Rpc);
        assert!(s.has_new_streams());
        let positions = s.positions(begin + std::time::Duration::from_millis(3_900), false);
        let [(node, positions)] = positions.as_slice() else { panic!("{positions:?}") };
        let streams: Vec<_> =
            positions.streams.iter().map(|p| (p.subject.as_str(), p.last_sequence, p.stream_age_s)).collect();
        assert_eq!((&**node, streams), ("a", vec![("netmsg", 2, 3), ("netconn", 1, 3)]));
        assert!(!s.has_new_streams());
        s.next_at(&a, Subject::Books, begin);
        s.next_at(&a, Subject::NetMsg, begin);
        assert!(!s.has_new_streams(), "neither began");
    }
}
