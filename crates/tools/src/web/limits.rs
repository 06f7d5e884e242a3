//! What a client may do, and for how long.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use peer_observer_exporter::listener::Source;
use tokio::time::Instant;

/// Requests of a websocket client: a second for long, and at once.
const SOCKET: Rate = Rate { per_second: 5.0, at_once: 50.0 };
/// How often a client is asked whether it is still there.
pub(crate) const ASK: Duration = Duration::from_secs(20);
/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Time that a client has to take what it is sent.
pub(crate) const SEND: Duration = Duration::from_secs(30);

/// REST requests of a source, in costs: 500 a second for answers that others asked for as well, 50
/// for those that are rendered for it alone, which take some 7 % of a processor. A page asks for
/// one every few seconds.
const REST: Rate = Rate { per_second: 500.0, at_once: 2_000.0 };
/// Cost of a REST request.
pub(crate) const REQUEST: f64 = 1.0;
/// Cost of rendering its answer.
pub(crate) const RENDERING: f64 = 9.0;
/// Sources whose requests are counted apart.
const MAX_SOURCES: usize = 1_024;

#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    at_once: f64,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Bucket { tokens: rate.at_once, filled: Instant::now() }
    }

    fn refill(&mut self, rate: Rate) {
        let now = Instant::now();
        let since = now.duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate.per_second).min(rate.at_once);
        self.filled = now;
    }

    /// Takes what something costs.
    ///
    /// # Errors
    /// How long it takes until there is enough.
    fn take(&mut self, rate: Rate, cost: f64) -> Result<(), Duration> {
        self.refill(rate);
        if self.tokens < cost {
            return Err(Duration::from_secs_f64((cost - self.tokens) / rate.per_second));
        }
        self.tokens -= cost;
        Ok(())
    }
}

/// Requests of a client, and when it was heard of.
#[derive(Debug)]
pub(crate) struct Patience {
    bucket: Bucket,
    heard: Instant,
}

impl Patience {
    /// For a new client.
    pub(crate) fn new() -> Self {
        Patience { bucket: Bucket::full(SOCKET), heard: Instant::now() }
    }

    /// The client said something. Returns whether that is not too much.
    pub(crate) fn heard(&mut self) -> bool {
        self.heard = Instant::now();
        self.bucket.take(SOCKET, 1.0).is_ok()
    }

    /// Whether the client has been silent for too long.
    pub(crate) fn is_over(&self) -> bool {
        self.heard.elapsed() > SILENCE
    }
}

/// REST requests of all sources.
#[derive(Debug)]
pub(crate) struct RestLimiter(Mutex<Buckets>);

#[derive(Debug)]
struct Buckets {
    sources: HashMap<Source, Bucket>,
    /// Of sources that have no bucket of their own.
    others: Bucket,
}

impl Default for RestLimiter {
    fn default() -> Self {
        RestLimiter(Mutex::new(Buckets { sources: HashMap::new(), others: Bucket::full(REST) }))
    }
}

impl RestLimiter {
    /// Takes what a request of a source costs.
    ///
    /// # Errors
    /// After how long the source may ask again.
    pub(crate) fn take(&self, source: Source, cost: f64) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { sources, others } = &mut *buckets;
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            // A full bucket is the same as none.
            sources.retain(|_, bucket| {
                bucket.refill(REST);
                bucket.tokens < REST.at_once
            });
        }
        let bucket = match sources.len() < MAX_SOURCES || sources.contains_key(&source) {
            true => sources.entry(source).or_insert_with(|| Bucket::full(REST)),
            false => others,
        };
        bucket.take(REST, cost)
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

    #[tokio::test(start_paused = true)]
    async fn rest_limiter_slows_one_source_only() {
        let limiter = RestLimiter::default();
        let (eve, alice) = (Source::User(1), Source::User(2));
        let renderings = (0..1_000).take_while(|_| limiter.take(eve, REQUEST + RENDERING).is_ok()).count();
        assert_eq!(renderings, 200);
        assert_eq!(limiter.take(eve, REQUEST + RENDERING), Err(Duration::from_millis(20)));
        assert_eq!(limiter.take(alice, REQUEST + RENDERING), Ok(()));
        let mut answered = 0;
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            answered += usize::from(limiter.take(eve, REQUEST + RENDERING).is_ok());
        }
        assert!((49..=50).contains(&answered), "{answered} in a second");
    }

    #[tokio::test(start_paused = true)]
    async fn rest_limiter_keeps_few_sources() {
        let limiter = RestLimiter::default();
        for i in 0..10_000 {
            // Those that come too late share a bucket.
            let _ = limiter.take(Source::V6(i), REQUEST);
        }
        let kept = || limiter.0.lock().unwrap().sources.len();
        assert_eq!(kept(), MAX_SOURCES);
        assert!(limiter.take(Source::User(1), REQUEST).is_err(), "there is nothing left for others");
        assert!(limiter.take(Source::V6(0), REQUEST).is_ok());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(limiter.take(Source::User(1), REQUEST).is_ok());
        assert_eq!(kept(), 1);
    }
}
