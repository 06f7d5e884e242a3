//! Log lines that others can provoke: at most one every ten seconds, with the number of those that
//! were left out.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts occurrences between two log lines.
#[derive(Debug, Default)]
pub struct Throttle {
    logged: Option<Instant>,
    waiting: u64,
}

impl Throttle {
    /// Counts an occurrence. Returns how many there were since the last line, when it is time for
    /// another one.
    pub fn due(&mut self) -> Option<u64> {
        self.waiting += 1;
        if self.logged.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn throttle_logs_once_per_interval_with_a_count() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.due(), Some(1));
        for _ in 0..99 {
            tokio::time::advance(INTERVAL / 100).await;
            assert_eq!(throttle.due(), None);
        }
        tokio::time::advance(INTERVAL / 100).await;
        assert_eq!(throttle.due(), Some(100));
        assert_eq!(throttle.due(), None);
    }
}
