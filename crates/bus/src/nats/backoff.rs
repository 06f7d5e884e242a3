//! Pauses between attempts to connect.
//!
//! The client forgets its failed attempts with every connection that succeeds. A server that
//! accepts and then fails would be called without a pause, so attempts are counted here, until a
//! connection has lasted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(30);

/// The longest pause. Publishers that are connected again wait for subscribers only a little longer
/// ([`super::SETTLE`]).
const LONGEST: Duration = Duration::from_secs(1);

/// Exponential backoff of one connection.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    attempts: u32,
    connected: Option<Instant>,
}

impl Backoff {
    /// Takes note of a connection that is up since `now`.
    pub(super) fn connected(&self, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).connected = Some(now);
    }

    /// How long to wait before the next attempt.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = state.connected.take();
        if connected.is_some_and(|at| now.saturating_duration_since(at) >= STABLE) {
            state.attempts = 0;
        }
        state.attempts = state.attempts.saturating_add(1);
        Duration::from_millis(50 << state.attempts.min(5)).min(LONGEST)
    }

    /// Attempts since a connection lasted.
    #[cfg(test)]
    pub(super) fn attempts(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_resets_only_after_a_lasting_connection() {
        let backoff = Backoff::default();
        let begin = Instant::now();
        let pauses = |n: usize| -> Vec<u128> { (0..n).map(|_| backoff.pause(begin).as_millis()).collect() };
        assert_eq!(pauses(3), [100, 200, 400]);
        backoff.connected(begin);
        assert_eq!(backoff.pause(begin + STABLE / 2).as_millis(), 800);
        assert_eq!(pauses(40)[39], 1_000);
        backoff.connected(begin);
        assert_eq!(backoff.pause(begin + STABLE).as_millis(), 100);
        assert_eq!(pauses(1), [200]);
    }
}
