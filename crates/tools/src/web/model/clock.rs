//! What time it is for a node: that of its events, going on while there are none.
//!
//! A live node's time is this machine's. A recording's is when it was recorded, so that rates and ages are right there, too.

use std::time::{Duration, Instant};

use super::Now;

/// A time that differs more than this from what is expected is not believed at once, ns.
const LEAP_NS: u64 = 600 * 1_000_000_000;
/// So many in a row are.
const BELIEVE: u32 = 8;
/// A node whose events are no older than this is live.
const LIVE_NS: u64 = 15 * 1_000_000_000;
/// A node that was silent for longer says nothing about now: its time stands still.
const STALE: Duration = Duration::from_secs(3600);

/// What became of the time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It goes on from here.
    Follows(u64),
    /// The clock leapt: what was counted before belongs to another time.
    Leapt(u64),
}

/// The clock of a node.
#[derive(Debug)]
pub(crate) struct Clock {
    latest_ns: u64,
    arrived: Instant,
    strange: u32,
}

impl Clock {
    /// A clock that starts with this event time.
    pub(crate) fn new(time_ns: u64, arrived: Instant) -> Self {
        Clock { latest_ns: time_ns, arrived, strange: 0 }
    }

    /// Takes the time of an event that arrived just now.
    pub(crate) fn see(&mut self, time_ns: u64, arrived: Instant) -> Seen {
        self.arrived = arrived;
        if time_ns.abs_diff(self.latest_ns) <= LEAP_NS {
            self.strange = 0;
            self.latest_ns = self.latest_ns.max(time_ns);
            return Seen::Follows(time_ns);
        }
        self.strange += 1;
        if self.strange < BELIEVE {
            return Seen::Follows(self.latest_ns);
        }
        self.strange = 0;
        self.latest_ns = time_ns;
        Seen::Leapt(time_ns)
    }

    /// Takes the time of a line of a log that was read just now. Logs may be read from their beginning, so only what is new says what
    /// time it is.
    pub(crate) fn hear(&mut self, time_ns: u64, now: Now) {
        if now.wall_ns.abs_diff(time_ns) <= LIVE_NS && time_ns > self.latest_ns {
            (self.latest_ns, self.arrived, self.strange) = (time_ns, now.instant, 0);
        }
    }

    /// Now, for this node, ns since the UNIX epoch.
    pub(crate) fn now_ns(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.arrived).min(STALE);
        self.latest_ns.saturating_add(since.as_nanos() as u64)
    }

    /// Time of the last event, ns since the UNIX epoch.
    pub(crate) fn latest_ns(&self) -> u64 {
        self.latest_ns
    }

    /// Whether what the node does is told as it happens: neither played back nor long silent.
    pub(crate) fn is_live(&self, wall_ns: u64) -> bool {
        wall_ns.abs_diff(self.latest_ns) <= LIVE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    #[test]
    fn time_goes_on_while_nothing_happens_and_never_back() {
        let begin = Instant::now();
        let mut clock = Clock::new(HOUR, begin);
        assert_eq!(clock.see(HOUR - 5, begin), Seen::Follows(HOUR - 5));
        assert_eq!(clock.now_ns(begin + Duration::from_secs(2)), HOUR + 2_000_000_000);
        assert!(clock.is_live(HOUR + 1) && !clock.is_live(2 * HOUR));
    }

    #[test]
    fn a_log_keeps_a_node_live_with_what_is_new_in_it() {
        let now = Now { wall_ns: 9 * HOUR, instant: Instant::now() };
        let mut clock = Clock::new(HOUR, now.instant);
        clock.hear(2 * HOUR, now);
        assert_eq!((clock.latest_ns(), clock.is_live(now.wall_ns)), (HOUR, false));
        clock.hear(9 * HOUR - 1, now);
        assert_eq!((clock.latest_ns(), clock.is_live(now.wall_ns)), (9 * HOUR - 1, true));
    }

    #[test]
    fn one_strange_time_changes_nothing_and_many_are_another_time() {
        let begin = Instant::now();
        let mut clock = Clock::new(HOUR, begin);
        assert_eq!(clock.see(u64::MAX, begin), Seen::Follows(HOUR));
        assert_eq!(clock.see(HOUR + 1, begin), Seen::Follows(HOUR + 1));
        let leaps: Vec<_> = (0..BELIEVE).map(|_| clock.see(9 * HOUR, begin)).collect();
        assert_eq!(leaps.iter().filter(|seen| **seen == Seen::Leapt(9 * HOUR)).count(), 1);
        assert_eq!(clock.latest_ns(), 9 * HOUR);
    }
}
