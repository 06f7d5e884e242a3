//! What the task that counts and the tasks of clients share.
//!
//! A view is rendered at most once in a tick for everyone who asks for the same: two hundred clients cost little more than one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peer_observer_bus::{Delivery, SubscriberStats};
use peer_observer_exporter::listener::{GiveUp, Slot, Slots, Source};

use super::feed::Feed;
use super::limits::RestLimiter;
use super::model::{Model, Now};
use super::socket::Utf8Bytes;
use super::views::{Context, Own, Query, Refused, Show, Topic};
use crate::known::Known;

/// The finest step in which clients hear of changes.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// Rendered views that are kept before those of earlier ticks are thrown away.
const MAX_KEPT: usize = 128;

type Depth = Box<dyn Fn() -> (usize, usize) + Send + Sync>;

/// A rendered view.
struct Kept {
    tick: u64,
    answer: Result<Shared, Refused>,
}

/// A rendered view that many can have.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) text: Utf8Bytes,
    /// Where to go on.
    pub(crate) next: Option<u64>,
}

/// What is shared.
pub(crate) struct Hub {
    model: Mutex<Model>,
    kept: Mutex<HashMap<(&'static str, Query), Kept>>,
    pub(crate) feed: Feed,
    pub(crate) show: Show,
    started: Instant,
    stats: Arc<SubscriberStats>,
    depth: Depth,
    slots: Arc<Slots>,
    pub(crate) rest: RestLimiter,
    pub(crate) skipped_updates: AtomicU64,
    pub(crate) skipped_events: AtomicU64,
    renders: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there stays usable even if a thread should have failed with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a topic does not take makes no other question of it.
fn key(topic: &'static Topic, query: &Query) -> (&'static str, Query) {
    (topic.name, query.only(topic.parameters))
}

impl Hub {
    /// Nothing is known yet. `depth` tells how many events and bytes wait for this tool.
    pub(crate) fn new(
        model: Model,
        show: Show,
        max_clients: usize,
        stats: Arc<SubscriberStats>,
        depth: impl Fn() -> (usize, usize) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Hub {
            model: Mutex::new(model),
            kept: Mutex::default(),
            feed: Feed::default(),
            show,
            started: Instant::now(),
            stats,
            depth: Box::new(depth),
            slots: Slots::new(max_clients, GiveUp::Pending),
            rest: RestLimiter::default(),
            skipped_updates: AtomicU64::new(0),
            skipped_events: AtomicU64::new(0),
            renders: AtomicUsize::new(0),
        })
    }

    /// Takes events that arrived now.
    pub(crate) fn observe(&self, deliveries: &[Delivery]) {
        locked(&self.model).observe(deliveries, Now::get());
        self.feed.observe(deliveries);
    }

    /// From now on this is known of addresses.
    pub(crate) fn renew(&self, known: Known) {
        locked(&self.model).known = known;
    }

    /// A place for a websocket client; nothing when all are taken by sources that have no more of
    /// them.
    pub(crate) fn place(&self, source: Source) -> Option<Slot> {
        let slot = self.slots.admit(source)?;
        slot.establish();
        Some(slot)
    }

    /// The number of the tick that it is now.
    pub(crate) fn tick(&self) -> u64 {
        (self.started.elapsed().as_millis() / TICK.as_millis()) as u64
    }

    /// When the next tick begins.
    pub(crate) fn next_tick(&self) -> Instant {
        self.started + Duration::from_nanos((self.tick() + 1) * TICK.as_nanos() as u64)
    }

    /// A view, as JSON.
    ///
    /// # Errors
    /// When there is no such thing, or it may not be shown.
    pub(crate) fn render(&self, topic: &'static Topic, query: &Query) -> Result<Shared, Refused> {
        let key = key(topic, query);
        if let Some(answer) = self.kept(&key) {
            return answer;
        }
        let model = locked(&self.model);
        // Those who waited for the same find it now.
        if let Some(answer) = self.kept(&key) {
            return answer;
        }
        let tick = self.tick();
        let context = Context { model: &model, now: Now::get(), show: self.show, own: self.own() };
        let answer = (topic.render)(&context, &key.1)
            .map(|answer| Shared { text: answer.text.into(), next: answer.next });
        self.renders.fetch_add(1, Ordering::Relaxed);
        let mut kept = locked(&self.kept);
        drop(model);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, old| old.tick == tick);
        }
        if kept.len() < MAX_KEPT {
            kept.insert(key, Kept { tick, answer: answer.clone() });
        }
        answer
    }

    /// A view that somebody asked for in this tick already: it costs nothing to ask for it again.
    pub(crate) fn rendered(&self, topic: &'static Topic, query: &Query) -> Option<Result<Shared, Refused>> {
        self.kept(&key(topic, query))
    }

    fn kept(&self, key: &(&'static str, Query)) -> Option<Result<Shared, Refused>> {
        let tick = self.tick();
        locked(&self.kept).get(key).filter(|found| found.tick == tick).map(|found| found.answer.clone())
    }

    fn own(&self) -> Own {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (queue_events, queue_bytes) = (self.depth)();
        Own {
            received: load(&self.stats.received),
            undecodable: load(&self.stats.undecodable),
            lost_transport: load(&self.stats.lost_transport),
            lost_queue: load(&self.stats.lost_queue),
            queue_events,
            queue_bytes,
            clients: self.slots.taken(),
            skipped_updates: load(&self.skipped_updates),
            skipped_events: load(&self.skipped_events),
            uptime_s: self.started.elapsed().as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::views::topic;

    fn hub() -> Arc<Hub> {
        Hub::new(Model::new("node", Known::default()), Show::Everything, 4, Arc::default(), || (0, 0))
    }

    #[test]
    fn what_many_ask_for_at_once_is_rendered_once() {
        let hub = hub();
        let health = topic("health").unwrap();
        let begin = hub.tick();
        for _ in 0..1_000 {
            hub.render(health, &Query::default()).unwrap();
        }
        let ticks = hub.tick() - begin + 1;
        assert!(hub.renders.load(Ordering::Relaxed) as u64 <= ticks);
    }

    #[test]
    fn what_a_topic_does_not_take_makes_no_other_question_of_it() {
        let hub = hub();
        let health = topic("health").unwrap();
        let begin = hub.tick();
        for i in 0..1_000 {
            let query = Query { after: Some(i), command: Some(i.to_string()), ..Query::default() };
            hub.render(health, &query).unwrap();
        }
        let ticks = hub.tick() - begin + 1;
        assert!(hub.renders.load(Ordering::Relaxed) as u64 <= ticks);
    }

    #[test]
    fn questions_without_end_take_bounded_memory() {
        let hub = hub();
        let messages = topic("messages").unwrap();
        for i in 0..10_000 {
            let query = Query { after: Some(i), ..Query::default() };
            assert!(hub.render(messages, &query).is_err(), "there is no node");
        }
        assert!(locked(&hub.kept).len() <= MAX_KEPT);
    }

    #[test]
    fn places_are_limited_and_come_back() {
        let hub = hub();
        let (eve, alice) = (Source::User(1), Source::User(2));
        let mut places: Vec<_> = (0..4).map_while(|_| hub.place(eve)).collect();
        assert_eq!(places.len(), 4);
        assert!(hub.place(eve).is_none());
        // Half of them are for another source.
        places.extend((0..4).map_while(|_| hub.place(alice)));
        assert_eq!((places.len(), hub.own().clients), (6, 4));
        drop(places);
        assert!(hub.place(eve).is_some());
    }
}
