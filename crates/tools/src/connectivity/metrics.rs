//! Metrics of the connectivity check. Those that begin with `connectivitycheck_addr_` and have public names mean what they mean there.

use peer_observer_exporter::registry::{
    Column, Counter, CounterVec, Description, Edges, Gauge, HistogramVec, Label, Registry, TableId, position,
};
use peer_observer_exporter::render;

use super::gossip::{ADDR_VERSIONS, Heard};
use super::probe::{Failure, Outcome, Transport};
use super::row::Origin;
use super::target::Skip;
use crate::metrics::addresses::{NETWORK, OFFSET_SECONDS, TIMESTAMP_OFFSET};

const ADDR_VERSION: Label = Label { name: "addr_version", values: ADDR_VERSIONS };
const SUCCESSFUL: Label = Label { name: "successful", values: &["no", "yes"] };
const REASON: Label = Label { name: "reason", values: Skip::NAMES };
const FAILURE: Label = Label { name: "reason", values: Failure::NAMES };
const TRANSPORT: Label = Label { name: "transport", values: Transport::NAMES };

/// Labels of the histogram, in the order in which its children are numbered.
const OFFSET_LABELS: [Label; 4] = [NETWORK, ADDR_VERSION, TIMESTAMP_OFFSET, SUCCESSFUL];

/// From 1 ms to a minute, ns.
const DURATION: Edges = Edges {
    upper: &[
        1_000_000,
        5_000_000,
        10_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
        60_000_000_000,
    ],
    divisor: 1_000_000_000,
};

/// Minutes after which series of a source that told of nothing are no longer exported: a day.
pub(super) const STALE_MINUTES: u32 = 24 * 60;

/// How much of the gossip was real until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) tried: u64,
    pub(super) answered: u64,
    pub(super) skipped: u64,
}

/// The metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    pub(super) sum: Sum,
    tried: CounterVec,
    cached: CounterVec,
    tried_tor_exit: CounterVec,
    successful_tor_exit: CounterVec,
    sources: TableId,
    successful: Column,
    unsuccessful: Column,
    offset: HistogramVec,
    skipped: CounterVec,
    failed: CounterVec,
    answered: CounterVec,
    duration: HistogramVec,
    connections: Counter,
    open: Gauge,
    waiting: Gauge,
    lost: Counter,
}

impl Metrics {
    /// Metrics with nothing counted yet.
    pub(super) fn new(max_label_values: usize) -> Self {
        let mut r = Registry::new(max_label_values);
        let sources = r.table(&[]);
        let labels = [NETWORK, ADDR_VERSION];
        let mut metrics = Metrics {
            tried: r.counter_vec(
                "connectivitycheck_addr_tried",
                "Addresses with a result, also one that is remembered.",
                &labels,
            ),
            cached: r.counter_vec(
                "connectivitycheck_addr_cached",
                "Addresses whose result is one that is remembered.",
                &labels,
            ),
            successful: r.column(
                sources,
                "connectivitycheck_addr_successful_connection",
                "Addresses at which a node answered, by who told of them.",
                &["source_ip"],
                &labels,
            ),
            unsuccessful: r.column(
                sources,
                "connectivitycheck_addr_unsuccessful_connection",
                "Addresses at which no node answered, by who told of them.",
                &["source_ip"],
                &labels,
            ),
            offset: r.histogram_vec(
                "connectivitycheck_addr_addr_timestamp_offset_seconds",
                "How far the time of an address lies in the past or in the future.",
                &OFFSET_LABELS,
                OFFSET_SECONDS,
            ),
            tried_tor_exit: r.counter_vec(
                "connectivitycheck_addr_tried_tor_exit",
                "Addresses with a result that somebody told of through a Tor exit.",
                &labels,
            ),
            successful_tor_exit: r.counter_vec(
                "connectivitycheck_addr_successful_connection_tor_exit",
                "Addresses at which a node answered and that somebody told of through a Tor exit.",
                &labels,
            ),
            skipped: r.counter_vec(
                "connectivitycheck_addr_skipped",
                "Addresses that were not tried.",
                &[NETWORK, REASON],
            ),
            failed: r.counter_vec(
                "connectivitycheck_tries_failed",
                "Tries at whose end no node had answered.",
                &[NETWORK, FAILURE],
            ),
            answered: r.counter_vec(
                "connectivitycheck_tries_answered",
                "Tries that a node answered.",
                &[NETWORK, TRANSPORT],
            ),
            duration: r.histogram_vec(
                "connectivitycheck_try_duration_seconds",
                "Time from the beginning of a try to its result.",
                &[NETWORK],
                DURATION,
            ),
            connections: r.counter(
                "connectivitycheck_connections",
                "Connections that were opened, or that were tried to be.",
            ),
            open: r.gauge("connectivitycheck_connections_open", "Tries in progress."),
            waiting: r.gauge("connectivitycheck_addr_waiting", "Addresses that wait to be tried, or are."),
            lost: r.counter(
                "connectivitycheck_events_lost",
                "Events that did not reach this tool: lost on the bus, or its queue was full.",
            ),
            sources,
            registry: r,
            sum: Sum::default(),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Shows reasons before there is a case: Prometheus does not see the step from no series to 1. Public names begin with their first use.
    fn begin_at_zero(&mut self) {
        let kinds =
            [(self.skipped, Skip::NAMES), (self.failed, Failure::NAMES), (self.answered, Transport::NAMES)];
        for (counters, names) in kinds {
            for network in 0..NETWORK.values.len() {
                (0..names.len()).for_each(|name| self.registry.add(counters.at2(network, name), 0));
            }
        }
    }

    /// An address has a result.
    pub(super) fn result(&mut self, heard: &Heard, outcome: &Outcome, origin: Origin) {
        let r = &mut self.registry;
        let (network, version) = (heard.network(), heard.addr_version);
        let success = outcome.result.is_ok();
        self.sum.tried += 1;
        self.sum.answered += u64::from(success);
        r.inc(self.tried.at2(network, version));
        if origin == Origin::Cached {
            r.inc(self.cached.at2(network, version));
        }
        let column = if success { self.successful } else { self.unsuccessful };
        let row = r.row(self.sources, &heard.source.ip);
        r.add_cell(row, column.at2(network, version), 1);
        let then = u64::from(heard.address.timestamp);
        let (past_or_future, offset) = match heard.time.checked_sub(then) {
            Some(past) => (0, past),
            None => (1, then - heard.time),
        };
        let child = position(&OFFSET_LABELS, &[network, version, past_or_future, usize::from(success)]);
        r.observe(self.offset.at(child), offset);
        if heard.source.tor_exit {
            r.inc(self.tried_tor_exit.at2(network, version));
            if success {
                r.inc(self.successful_tor_exit.at2(network, version));
            }
        }
    }

    /// A try has ended.
    pub(super) fn ended(&mut self, network: usize, outcome: &Outcome) {
        let r = &mut self.registry;
        r.inc(self.connections);
        let ns = u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX);
        r.observe(self.duration.at(network), ns);
        r.inc(match &outcome.result {
            Ok(answer) => self.answered.at2(network, answer.transport as usize),
            Err(failure) => self.failed.at2(network, *failure as usize),
        });
    }

    /// A connection over v2 was closed, and the try goes on over v1 when it may.
    pub(super) fn hung_up(&mut self) {
        self.registry.inc(self.connections);
    }

    /// An address is not tried.
    pub(super) fn skipped(&mut self, heard: &Heard, why: Skip) {
        self.sum.skipped += 1;
        self.registry.inc(self.skipped.at2(heard.network(), why as usize));
    }

    /// What there is to do, and what did not even come here.
    pub(super) fn state(&mut self, waiting: usize, open: usize, lost: u64) {
        self.registry.set(self.waiting, i64::try_from(waiting).unwrap_or(i64::MAX));
        self.registry.set(self.open, i64::try_from(open).unwrap_or(i64::MAX));
        self.registry.set_counter(self.lost, lost);
    }

    /// A minute is over: lets go what is stale.
    pub(super) fn minute(&mut self) {
        self.registry.expire(STALE_MINUTES);
    }

    /// What they are.
    pub(super) fn describe(&self) -> Vec<Description> {
        self.registry.describe().collect()
    }

    /// All of them, as Prometheus reads them.
    pub(super) fn render(&mut self) -> String {
        let page = render::render(&self.registry);
        self.registry.mark_exported();
        page
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{answered, heard};
    use super::*;

    #[test]
    fn results_are_counted_under_the_public_names() {
        let mut metrics = Metrics::new(500);
        let mut future = heard("1.2.3.4");
        future.time = u64::from(future.address.timestamp) - 3;
        let refused = Outcome::failed(Failure::Refused);
        metrics.result(&heard("1.2.3.4"), &answered(""), Origin::Fresh);
        metrics.result(&heard("1.2.3.4"), &answered(""), Origin::Cached);
        metrics.result(&future, &refused, Origin::Fresh);
        metrics.skipped(&heard("1.2.3.4"), Skip::Netgroup);
        metrics.ended(0, &answered(""));
        metrics.ended(0, &refused);
        metrics.state(3, 2, 1);
        let page = metrics.render();
        let labels = r#"network="IPv4",addr_version="addrv2""#;
        let offset = "connectivitycheck_addr_addr_timestamp_offset_seconds";
        for line in [
            format!("connectivitycheck_addr_tried{{{labels}}} 3"),
            format!("connectivitycheck_addr_cached{{{labels}}} 1"),
            format!("connectivitycheck_addr_successful_connection{{source_ip=\"11.22.33.44\",{labels}}} 2"),
            format!("connectivitycheck_addr_unsuccessful_connection{{source_ip=\"11.22.33.44\",{labels}}} 1"),
            format!("connectivitycheck_addr_tried_tor_exit{{{labels}}} 3"),
            format!("connectivitycheck_addr_successful_connection_tor_exit{{{labels}}} 2"),
            format!("{offset}_count{{{labels},timestamp_offset=\"past\",successful=\"yes\"}} 2"),
            format!("{offset}_bucket{{{labels},timestamp_offset=\"past\",successful=\"yes\",le=\"64\"}} 0"),
            format!("{offset}_bucket{{{labels},timestamp_offset=\"past\",successful=\"yes\",le=\"128\"}} 2"),
            format!("{offset}_bucket{{{labels},timestamp_offset=\"future\",successful=\"no\",le=\"2\"}} 0"),
            format!("{offset}_bucket{{{labels},timestamp_offset=\"future\",successful=\"no\",le=\"4\"}} 1"),
            format!("{offset}_sum{{{labels},timestamp_offset=\"future\",successful=\"no\"}} 3"),
            "connectivitycheck_addr_skipped{network=\"IPv4\",reason=\"netgroup\"} 1".into(),
            "connectivitycheck_tries_answered{network=\"IPv4\",transport=\"v2\"} 1".into(),
            "connectivitycheck_tries_failed{network=\"IPv4\",reason=\"refused\"} 1".into(),
            "connectivitycheck_try_duration_seconds_count{network=\"IPv4\"} 2".into(),
            "connectivitycheck_connections 2".into(),
            "connectivitycheck_connections_open 2".into(),
            "connectivitycheck_addr_waiting 3".into(),
            "connectivitycheck_events_lost 1".into(),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert_eq!(page.matches(&format!("{offset}_bucket{{")).count(), 2 * 27, "26 edges and one more");
        assert_eq!(metrics.sum, Sum { tried: 3, answered: 2, skipped: 1 });
    }

    #[test]
    fn reasons_begin_at_zero_and_public_names_with_their_first_use() {
        let mut metrics = Metrics::new(500);
        let page = metrics.render();
        for line in [
            "connectivitycheck_addr_skipped{network=\"Unknown\",reason=\"getaddr\"} 0",
            "connectivitycheck_tries_failed{network=\"I2P\",reason=\"proxy\"} 0",
            "connectivitycheck_tries_answered{network=\"IPv4\",transport=\"v2\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        for name in ["connectivitycheck_addr_tried{", "connectivitycheck_addr_successful_connection{"] {
            assert!(!page.contains(name), "{name}");
        }
    }

    #[test]
    fn sources_without_end_take_bounded_memory_and_are_all_counted() {
        let mut metrics = Metrics::new(10);
        for n in 0..10_000 {
            let mut heard = heard("1.2.3.4");
            std::sync::Arc::make_mut(&mut heard.source).ip = format!("source {n}");
            metrics.result(&heard, &answered(""), Origin::Fresh);
        }
        let page = metrics.render();
        let series =
            page.lines().filter(|line| line.starts_with("connectivitycheck_addr_successful_connection{"));
        let counts: Vec<u64> = series.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
        assert!(counts.len() <= 11);
        assert_eq!(counts.iter().sum::<u64>(), 10_000);
    }
}
