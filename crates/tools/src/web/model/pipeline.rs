//! Where events are, where they were lost, and how long they took: what peer-observer knows of itself.

use std::collections::{BTreeMap, VecDeque};

use peer_observer_bus::Delivery;
use peer_observer_events::Subject;
use peer_observer_events::proto::observer::{Books, Loss, Source, loss::Stage};
use peer_observer_exporter::labels::bounded;
use peer_observer_exporter::registry::MAX_AMOUNT;

use super::series::Series;

/// Kinds of losses, tracepoints and the like that are told apart; more than the pipeline has.
const MAX_KINDS: usize = 256;
/// Losses that are kept one by one.
const MAX_LOSSES: usize = 100;
/// Latencies are counted by their logarithm to the base 2, in us: the last group is a minute and more.
const LATENCIES: usize = 27;
/// Name of this tool, where tools tell what they lost.
const COMPONENT: &str = "web";
/// Seconds that latencies are told of.
const WINDOW: usize = 60;

/// A loss that was told.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) time_ns: u64,
    pub(crate) stage: &'static str,
    pub(crate) cause: Box<str>,
    pub(crate) component: Box<str>,
    pub(crate) what: Option<Box<str>>,
    pub(crate) count: u64,
}

/// Hits of a tracepoint of a node, as the eBPF extractor's books have them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hits {
    pub(crate) hits: u64,
    pub(crate) published: u64,
    pub(crate) dropped: u64,
    pub(crate) unread: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    events: u32,
    latencies: [u32; LATENCIES],
}

/// What is known of the pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Events by node, extractor and subject.
    pub(crate) events: BTreeMap<(Box<str>, &'static str, Subject), u64>,
    /// Events lost by stage, cause and component.
    pub(crate) lost: BTreeMap<(&'static str, Box<str>, Box<str>), u64>,
    pub(crate) losses: VecDeque<Lost>,
    /// By node and process, and tracepoint.
    pub(crate) hits: BTreeMap<(Box<str>, u32, Box<str>), Hits>,
    seconds: Series<Second>,
    pub(crate) without_origin: u64,
    /// When something was lost last, by this machine's clock, ns since the UNIX epoch.
    pub(crate) last_loss_ns: Option<u64>,
}

/// Name of an extractor.
pub(crate) fn extractor(source: i32) -> &'static str {
    match Source::try_from(source) {
        Ok(Source::Ebpf) => "ebpf",
        Ok(Source::Rpc) => "rpc",
        Ok(Source::P2p) => "p2p",
        Ok(Source::Log) => "log",
        Ok(Source::Ipc) => "ipc",
        Ok(Source::Capture) => "capture",
        Ok(Source::Tool) => "tool",
        Ok(Source::Unspecified) | Err(_) => "unknown",
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Probe => "probe",
        Stage::RingBuffer => "ring buffer",
        Stage::Decode => "decode",
        Stage::Publish => "publish",
        Stage::Transport => "transport",
        Stage::Subscriber => "subscriber",
        Stage::Archive => "archive",
        Stage::Unknown => "unknown",
    }
}

/// The page misses what was lost: what other tools lose on the way to them, or in their queues, it may have.
fn concerns_page(stage: &str, component: &str) -> bool {
    let of_a_tool = [stage_name(Stage::Transport), stage_name(Stage::Subscriber), stage_name(Stage::Archive)];
    !of_a_tool.contains(&stage) || component == COMPONENT
}

impl Pipeline {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Pipeline {
            events: BTreeMap::new(),
            lost: BTreeMap::new(),
            losses: VecDeque::new(),
            hits: BTreeMap::new(),
            seconds: Series::new(1_000_000_000, WINDOW),
            without_origin: 0,
            last_loss_ns: None,
        }
    }

    /// Counts an event that arrived now, by this machine's clock.
    pub(crate) fn event(&mut self, node: &str, delivery: &Delivery, wall_ns: u64) {
        let second = self.seconds.at(wall_ns);
        second.events += 1;
        let source = match &delivery.event.origin {
            // A line of a log has the time that is written in it: whole seconds, or of long ago.
            Some(origin) if delivery.subject == Subject::LogExtractor => extractor(origin.extractor),
            Some(origin) => {
                let us = wall_ns.saturating_sub(origin.time_ns) / 1_000;
                let place = (u64::BITS - us.leading_zeros()) as usize;
                second.latencies[place.min(LATENCIES - 1)] += 1;
                extractor(origin.extractor)
            }
            None => {
                self.without_origin += 1;
                "public"
            }
        };
        let key = (node.into(), source, delivery.subject);
        if let Some(count) = self.events.get_mut(&key) {
            *count += 1;
        } else if self.events.len() < MAX_KINDS {
            self.events.insert(key, 1);
        }
    }

    /// Counts what was lost.
    pub(crate) fn loss(&mut self, loss: &Loss, wall_ns: u64) {
        let lost = Lost {
            time_ns: wall_ns,
            stage: stage_name(Stage::try_from(loss.stage).unwrap_or(Stage::Unknown)),
            cause: bounded(&loss.cause).into(),
            component: bounded(&loss.component).into(),
            what: loss.tracepoint.as_deref().or(loss.subject.as_deref()).map(|what| bounded(what).into()),
            count: loss.count.min(MAX_AMOUNT),
        };
        if concerns_page(lost.stage, &lost.component) {
            self.last_loss_ns = Some(wall_ns);
        }
        let key = (lost.stage, lost.cause.clone(), lost.component.clone());
        if self.lost.contains_key(&key) || self.lost.len() < MAX_KINDS {
            let count = self.lost.entry(key).or_default();
            *count = count.saturating_add(lost.count);
        }
        if self.losses.len() == MAX_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back(lost);
    }

    /// Takes over books.
    pub(crate) fn books(&mut self, node: &str, books: &Books) {
        for book in &books.tracepoints {
            let key = (node.into(), books.pid, bounded(&book.tracepoint).into());
            if self.hits.len() >= MAX_KINDS {
                // Processes of this node that are no more.
                self.hits.retain(|(of, pid, _), _| **of != *node || *pid == books.pid);
            }
            if self.hits.contains_key(&key) || self.hits.len() < MAX_KINDS {
                let Hits { hits, published, dropped, unread } = self.hits.entry(key).or_default();
                (*hits, *published) = (book.hits, book.published);
                (*dropped, *unread) = (book.dropped, book.unread);
            }
        }
    }

    /// Events lost on their way to this page.
    pub(crate) fn total_lost(&self) -> u64 {
        let here = self.lost.iter().filter(|((stage, _, component), _)| concerns_page(stage, component));
        here.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// Events in each of the last seconds.
    pub(crate) fn rates(&self, wall_ns: u64) -> Vec<u32> {
        self.seconds.last(wall_ns, WINDOW).map(|second| second.map_or(0, |s| s.events)).collect()
    }

    /// Time from what an event tells of until it came here, us, over the last minute: what half of all and what 99 of 100 were
    /// below, to a factor of 2. Nothing without events.
    pub(crate) fn latency_us(&self, wall_ns: u64) -> Option<(u64, u64)> {
        let mut sums = [0_u64; LATENCIES];
        for second in self.seconds.last(wall_ns, WINDOW).flatten() {
            for (sum, n) in sums.iter_mut().zip(second.latencies) {
                *sum += u64::from(n);
            }
        }
        let total: u64 = sums.iter().sum();
        let quantile = |part: u64| {
            let mut left = (total * part).div_ceil(100);
            sums.iter().position(|n| {
                left = left.saturating_sub(*n);
                left == 0
            })
        };
        (total > 0).then(|| (1 << quantile(50).unwrap_or(0), 1 << quantile(99).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peer_observer_events::Event;
    use peer_observer_events::proto::observer::Origin;

    use super::*;

    fn delivery(node: &str, time_ns: u64) -> Delivery {
        let origin =
            Origin { node: node.into(), extractor: 1, session: 1, sequence: 1, time_ns, ..Origin::default() };
        let event = Event { timestamp: 0, origin: Some(origin), peer_observer_event: None };
        Delivery { subject: Subject::NetMsg, event: Arc::new(event) }
    }

    #[test]
    fn latency_is_told_to_a_factor_of_two() {
        let mut pipeline = Pipeline::new();
        let now = 100_000_000_000;
        for _ in 0..98 {
            pipeline.event("a", &delivery("a", now - 900_000), now);
        }
        for _ in 0..2 {
            pipeline.event("a", &delivery("a", now - 90_000_000), now);
        }
        assert_eq!(pipeline.latency_us(now), Some((1 << 10, 1 << 17)));
        assert_eq!(pipeline.latency_us(now + 120_000_000_000), None);
        assert_eq!(pipeline.rates(now).last(), Some(&100));
    }

    #[test]
    fn what_another_tool_loses_is_told_but_does_not_concern_the_page() {
        let mut pipeline = Pipeline::new();
        let loss = |stage: Stage, component: &str| Loss {
            stage: stage as i32,
            component: component.into(),
            count: 1,
            ..Loss::default()
        };
        pipeline.loss(&loss(Stage::Subscriber, "metrics"), 1);
        pipeline.loss(&loss(Stage::Transport, "logger"), 1);
        assert_eq!((pipeline.total_lost(), pipeline.last_loss_ns, pipeline.lost.len()), (0, None, 2));
        pipeline.loss(&loss(Stage::Subscriber, "web"), 2);
        pipeline.loss(&loss(Stage::RingBuffer, "ebpf"), 3);
        assert_eq!((pipeline.total_lost(), pipeline.last_loss_ns), (2, Some(3)));
    }

    #[test]
    fn nodes_and_causes_without_end_take_bounded_memory() {
        let mut pipeline = Pipeline::new();
        for i in 0..2_000 {
            let name = format!("n{i}");
            pipeline.event(&name, &delivery(&name, 0), 1);
            let loss = Loss { cause: name.clone(), count: u64::MAX, ..Loss::default() };
            pipeline.loss(&loss, 1);
        }
        assert_eq!((pipeline.events.len(), pipeline.lost.len()), (MAX_KINDS, MAX_KINDS));
        assert_eq!(
            (pipeline.losses.len(), pipeline.total_lost()),
            (MAX_LOSSES, MAX_KINDS as u64 * MAX_AMOUNT)
        );
    }
}
