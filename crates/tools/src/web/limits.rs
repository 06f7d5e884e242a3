//! What a client of a websocket may do, and for how long.

use std::time::Duration;

use tokio::time::Instant;

/// Requests a second that a client may send, for long; and at once.
const PER_SECOND: f64 = 5.0;
const AT_ONCE: f64 = 50.0;
/// How often a client is asked whether it is still there.
pub(crate) const ASK: Duration = Duration::from_secs(20);
/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Time that a client has to take what it is sent.
pub(crate) const SEND: Duration = Duration::from_secs(30);

/// Requests of a client, and when it was heard of.
#[derive(Debug)]
pub(crate) struct Patience {
    budget: f64,
    filled: Instant,
    heard: Instant,
}

impl Patience {
    /// For a new client.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Patience { budget: AT_ONCE, filled: now, heard: now }
    }

    /// The client said something. Returns whether that is not too much.
    pub(crate) fn heard(&mut self) -> bool {
        let now = Instant::now();
        let since = now.duration_since(self.filled).as_secs_f64();
        self.budget = (self.budget + since * PER_SECOND).min(AT_ONCE) - 1.0;
        (self.filled, self.heard) = (now, now);
        self.budget >= 0.0
    }

    /// Whether the client has been silent for too long.
    pub(crate) fn is_over(&self) -> bool {
        self.heard.elapsed() > SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_requests_is_too_much_and_a_steady_client_is_not() {
        let mut patience = Patience::new();
        assert!((0..50).all(|_| patience.heard()));
        assert!(!patience.heard());
        let mut patience = Patience::new();
        for _ in 0..500 {
            tokio::time::advance(Duration::from_millis(250)).await;
            assert!(patience.heard());
        }
        assert!(!patience.is_over());
        tokio::time::advance(SILENCE + Duration::from_secs(1)).await;
        assert!(patience.is_over());
    }
}
