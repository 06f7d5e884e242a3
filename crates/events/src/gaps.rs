//! Finding what is missing in streams, and publishers that fall silent.
//!
//! A gap shows as a sequence number that is higher than expected: of the next event, or, where
//! there is no next event, of the positions that the publisher announces. A publisher that neither
//! announces nor says that it leaves may have published what nobody can know of: it is reported,
//! once.
//!
//! Nothing here reads a clock, and memory is bounded whatever arrives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Subject;
use crate::peek::Origin;

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
    /// Number of events missing, at most [`MAX_GAP`].
    pub fn count(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// The largest believable gap: a million events a second for twelve days.
pub const MAX_GAP: u64 = 1 << 40;

/// What [`GapTracker::see`] says of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The next of its stream, or the first one seen of it.
    InOrder,
    /// It came after a gap, or the beginning of its stream was missed.
    After(Gap),
    /// Its number, or a later one, was seen before.
    Repeated,
    /// Its number is further than [`MAX_GAP`] from the expected one. The stream restarts there.
    Implausible,
}

/// A publisher that announced nothing for [`SILENT_AFTER`], and did not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// Its node; `many` when it has several.
    pub node: Arc<str>,
    /// Its session. Nothing for those that were forgotten because there were too many.
    pub session: Option<u64>,
    /// Number of sessions: 1, or how many were forgotten.
    pub sessions: u64,
}

/// Ticks of [`GapTracker::tick`] until a publisher is silent: three announcements, one each ten
/// seconds, and some.
pub const SILENT_AFTER: u64 = 35;

/// Stands for the name where there are several nodes.
const MANY: &str = "many";

#[derive(Debug)]
struct Stream {
    next: u64,
    last_use: u64,
}

#[derive(Debug)]
struct Session {
    node: Arc<str>,
    /// Tick at which it was heard last.
    heard: u64,
    last_use: u64,
    is_reported: bool,
}

/// Finds gaps in streams and silent publishers, in bounded memory: the quarter that was quiet for
/// longest is forgotten when there are too many.
#[derive(Debug)]
pub struct GapTracker {
    streams: HashMap<(u64, Subject, u8), HashMap<Arc<str>, Stream>>,
    count: usize,
    limit: usize,
    /// Counts uses, for the order in which streams and sessions are forgotten.
    clock: u64,
    /// When streams were forgotten last, since the begin of listening.
    forgot: Duration,
    sessions: HashMap<(u64, u8), Session>,
    ticks: u64,
    /// Tick since which whatever is announced should have arrived.
    resumed: u64,
    forgotten_sessions: u64,
}

/// A stream that began so shortly after us, or before, may have been on its way when we began to
/// listen.
const ON_THE_WAY: Duration = Duration::from_secs(5);

impl GapTracker {
    /// Remembers at most `limit` streams (subjects times nodes times extractors, and the sessions
    /// before a restart), and as many sessions.
    pub fn new(limit: usize) -> Self {
        Self {
            streams: HashMap::new(),
            count: 0,
            limit: limit.max(1),
            clock: 0,
            forgot: Duration::ZERO,
            sessions: HashMap::new(),
            ticks: 0,
            resumed: 0,
            forgotten_sessions: 0,
        }
    }

    /// Takes note of an event, after `listening` to all streams for so long. The first event seen
    /// of a stream opens it wherever it stands: what came before a subscription began is not lost.
    /// But what came before of a stream that began later is.
    pub fn see(&mut self, subject: Subject, origin: &Origin<'_>, listening: Duration) -> Seen {
        self.advance(subject, origin, origin.sequence, origin.sequence.saturating_add(1), listening)
    }

    /// Takes note of the last sequence number of a stream, as its publisher announced it. `origin`
    /// is the announcement's, with the age of that stream. What is missing up to there is a gap; a
    /// position that was reached before is in order.
    pub fn see_position(
        &mut self,
        subject: Subject,
        origin: &Origin<'_>,
        last_sequence: u64,
        listening: Duration,
    ) -> Seen {
        let next = last_sequence.saturating_add(1);
        match self.advance(subject, origin, next, next, listening) {
            Seen::Repeated => Seen::InOrder,
            seen => seen,
        }
    }

    /// Everything below `before` should have been seen; `next` is the number to expect from now on.
    fn advance(
        &mut self,
        subject: Subject,
        origin: &Origin<'_>,
        before: u64,
        next: u64,
        listening: Duration,
    ) -> Seen {
        self.clock += 1;
        let key = (origin.session, subject, origin.extractor as u8);
        let gap = |first| {
            Seen::After(Gap {
                node: origin.node.into(),
                session: origin.session,
                subject,
                first,
                last: before - 1,
            })
        };
        if let Some(stream) = self.streams.get_mut(&key).and_then(|nodes| nodes.get_mut(origin.node)) {
            stream.last_use = self.clock;
            let expected = stream.next;
            if before.abs_diff(expected) > MAX_GAP {
                stream.next = next;
                return Seen::Implausible;
            }
            if before < expected {
                return Seen::Repeated;
            }
            stream.next = next;
            return if before == expected { Seen::InOrder } else { gap(expected) };
        }
        if self.count >= self.limit {
            self.forgot = listening;
            self.forget_streams();
        }
        self.count += 1;
        let stream = Stream { next, last_use: self.clock };
        self.streams.entry(key).or_default().insert(origin.node.into(), stream);
        if origin.stream_age_s.is_some() {
            self.session(origin);
        }
        // One that was there when some were forgotten may be one of these.
        let known_for = listening.saturating_sub(self.forgot);
        let began_later = origin
            .stream_age_s
            .is_some_and(|age| Duration::from_secs(u64::from(age) + 1) + ON_THE_WAY < known_for);
        match before {
            0 | 1 => Seen::InOrder,
            _ if !began_later => Seen::InOrder,
            _ if before - 1 > MAX_GAP => Seen::Implausible,
            _ => gap(1),
        }
    }

    /// Takes note that a publisher announced positions, and so is alive.
    pub fn hear(&mut self, origin: &Origin<'_>) {
        let ticks = self.ticks;
        let session = self.session(origin);
        session.heard = ticks;
        session.is_reported = false;
    }

    /// Takes note that a publisher said that it leaves, after the positions of its streams were
    /// seen.
    pub fn leave(&mut self, origin: &Origin<'_>) {
        self.sessions.remove(&(origin.session, origin.extractor as u8));
    }

    /// Says that we are connected again: announcements before may have been missed.
    pub fn resume(&mut self) {
        self.resumed = self.ticks;
    }

    /// One second passed in which announcements could arrive. Returns the publishers that have
    /// become silent, each once.
    pub fn tick(&mut self) -> Vec<Silent> {
        self.ticks += 1;
        let mut silent = Vec::new();
        for ((session, _), state) in &mut self.sessions {
            if !state.is_reported && self.ticks - state.heard.max(self.resumed) >= SILENT_AFTER {
                state.is_reported = true;
                silent.push(Silent { node: state.node.clone(), session: Some(*session), sessions: 1 });
            }
        }
        let sessions = std::mem::take(&mut self.forgotten_sessions);
        if sessions > 0 {
            silent.push(Silent { node: MANY.into(), session: None, sessions });
        }
        silent
    }

    /// The session of an origin; one that is new counts as heard now.
    fn session(&mut self, origin: &Origin<'_>) -> &mut Session {
        self.clock += 1;
        let key = (origin.session, origin.extractor as u8);
        if self.sessions.len() >= self.limit && !self.sessions.contains_key(&key) {
            self.forget_sessions();
        }
        let session = self.sessions.entry(key).or_insert_with(|| Session {
            node: origin.node.into(),
            heard: self.ticks,
            last_use: 0,
            is_reported: false,
        });
        session.last_use = self.clock;
        if *session.node != *origin.node && *session.node != *MANY {
            session.node = MANY.into();
        }
        session
    }

    // A quarter at a time, so that a flood of new ones does not make each cost a search.

    fn forget_streams(&mut self) {
        let mut uses: Vec<u64> =
            self.streams.values().flat_map(HashMap::values).map(|s| s.last_use).collect();
        let limit = oldest_quarter(&mut uses);
        self.streams.retain(|_, nodes| {
            nodes.retain(|_, stream| stream.last_use > limit);
            !nodes.is_empty()
        });
        self.count = self.streams.values().map(HashMap::len).sum();
    }

    fn forget_sessions(&mut self) {
        let mut uses: Vec<u64> = self.sessions.values().map(|session| session.last_use).collect();
        let limit = oldest_quarter(&mut uses);
        let forgotten = &mut self.forgotten_sessions;
        self.sessions.retain(|_, session| {
            let is_kept = session.last_use > limit;
            // Nobody waits for its announcements any more.
            *forgotten += u64::from(!is_kept && !session.is_reported);
            is_kept
        });
    }
}

/// The last use of the least recently used quarter, at least one. Uses are distinct, and there are
/// some.
fn oldest_quarter(uses: &mut [u64]) -> u64 {
    let last = (uses.len() / 4).max(1) - 1;
    *uses.select_nth_unstable(last).1
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
        assert!(t.sessions.is_empty(), "whoever does not say how old a stream is announces nothing");
    }

    fn aged(session: u64, sequence: u64) -> Origin<'static> {
        Origin { stream_age_s: Some(1), ..origin("a", session, sequence) }
    }

    #[test]
    fn unique_streams_cost_no_scan_each() {
        const STREAMS: u64 = 100_000;
        let mut t = GapTracker::new(16_384);
        let mut scans = 0;
        for session in 0..STREAMS {
            let before = t.count;
            t.see(Subject::NetMsg, &aged(session, 1), LONG);
            scans += u64::from(t.count <= before);
            assert!(t.count <= 16_384 && t.sessions.len() <= 16_384);
        }
        assert!(scans <= STREAMS / 4_096, "{scans} scans");
        assert_eq!(t.streams.values().map(HashMap::len).sum::<usize>(), t.count);
        // Those that were used last are remembered.
        assert_eq!(t.see(Subject::NetMsg, &aged(STREAMS - 1, 2), LONG), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &aged(STREAMS - 10_000, 1), LONG), Seen::Repeated);
    }

    #[test]
    fn implausible_jumps_restart_the_stream() {
        let mut t = GapTracker::new(10);
        let mut see = |sequence| t.see(Subject::NetMsg, &origin("a", 1, sequence), LONG);
        assert_eq!(see(1), Seen::InOrder);
        for far in [u64::MAX, MAX_GAP + 3] {
            assert_eq!(see(far), Seen::Implausible, "{far}");
            // The honest publisher goes on, and its losses are seen.
            assert_eq!(see(2), Seen::Implausible);
            assert!(matches!(see(5), Seen::After(gap) if gap.count() == 2));
            assert_eq!(see(1), Seen::Repeated);
            assert_eq!(see(1), Seen::Repeated);
            assert_eq!(see(u64::MAX), Seen::Implausible);
            assert_eq!(see(u64::MAX), Seen::InOrder);
            assert_eq!(see(1), Seen::Implausible);
        }
        let Seen::After(gap) = see(MAX_GAP + 2) else { panic!("no gap") };
        assert_eq!(gap.count(), MAX_GAP);
        let mut t = GapTracker::new(10);
        assert_eq!(t.see(Subject::NetMsg, &aged(1, u64::MAX), LONG), Seen::Implausible);
        assert_eq!(t.see_position(Subject::NetConn, &aged(1, 1), u64::MAX, LONG), Seen::Implausible);
    }

    #[test]
    fn announced_positions_count_the_missing_end_once() {
        let mut t = GapTracker::new(10);
        let announce = |t: &mut GapTracker, subject, last| t.see_position(subject, &aged(1, 7), last, LONG);
        t.see(Subject::NetMsg, &origin("a", 1, 3), LONG);
        let Seen::After(gap) = announce(&mut t, Subject::NetMsg, 10) else { panic!("no gap") };
        assert_eq!((gap.first, gap.last, gap.subject), (4, 10, Subject::NetMsg));
        assert_eq!(announce(&mut t, Subject::NetMsg, 10), Seen::InOrder);
        assert_eq!(announce(&mut t, Subject::NetMsg, 9), Seen::InOrder);
        assert_eq!(t.see(Subject::NetMsg, &origin("a", 1, 11), LONG), Seen::InOrder);
        // Nothing was seen of this one.
        assert!(matches!(announce(&mut t, Subject::NetConn, 5), Seen::After(gap) if gap.count() == 5));
        assert_eq!(announce(&mut t, Subject::NetConn, 5), Seen::InOrder);
        // It began before we listened.
        let old = Origin { stream_age_s: Some(3_600), ..aged(1, 7) };
        assert_eq!(t.see_position(Subject::Rpc, &old, 5, LONG), Seen::InOrder);
        assert!(matches!(t.see_position(Subject::Rpc, &old, 7, LONG), Seen::After(gap) if gap.count() == 2));
    }

    #[test]
    fn silent_publishers_are_reported_once() {
        let mut t = GapTracker::new(100);
        let ticks = |t: &mut GapTracker, n: u64| -> Vec<Option<u64>> {
            (0..n).flat_map(|_| t.tick()).map(|silent| silent.session).collect()
        };
        t.see(Subject::NetMsg, &aged(1, 1), LONG);
        t.hear(&aged(2, 1));
        t.hear(&aged(3, 1));
        t.see(Subject::NetMsg, &origin("a", 4, 1), LONG);
        t.leave(&aged(3, 2));
        assert_eq!(ticks(&mut t, SILENT_AFTER - 1), []);
        t.hear(&aged(1, 2));
        assert_eq!(ticks(&mut t, 1), [Some(2)]);
        assert_eq!(ticks(&mut t, SILENT_AFTER - 2), []);
        // While we were away, announcements were missed.
        t.resume();
        assert_eq!(ticks(&mut t, SILENT_AFTER - 1), []);
        assert_eq!(ticks(&mut t, 1), [Some(1)]);
        assert_eq!(ticks(&mut t, 1_000), []);
        t.hear(&aged(2, 3));
        assert_eq!(ticks(&mut t, SILENT_AFTER), [Some(2)]);
    }

    #[test]
    fn forgotten_sessions_are_reported_as_silent() {
        let mut t = GapTracker::new(10);
        for session in 0..1_000 {
            t.hear(&aged(session, 1));
        }
        assert!(t.sessions.len() <= 10);
        let kept = t.sessions.len() as u64;
        let [silent] = &t.tick()[..] else { panic!("one sum") };
        assert_eq!((silent.session, silent.sessions), (None, 1_000 - kept));
        assert_eq!((0..SILENT_AFTER).map(|_| t.tick().len() as u64).sum::<u64>(), kept);
    }
}
