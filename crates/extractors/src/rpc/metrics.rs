//! Metrics of the extractor itself. The first four have the public names (`rpcextractor_*`); the others say what was missed.

use std::time::Duration;

use peer_observer_exporter::registry::{CounterVec, Description, HistogramVec, Label, Registry};
use peer_observer_exporter::render;

use super::methods::Method;
use crate::CALL_DURATION;

const METHOD: Label = Label { name: "rpc_method", values: Method::NAMES };

/// Something that is counted for a method.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    /// A call without a result.
    FetchError,
    /// A result that is not understood.
    ModelError,
    /// An event that is too large for the bus.
    PublishError,
    /// Events made of an answer.
    Events,
    /// A round that did not take place because the one before took so long, or had to wait for a connection.
    MissedRound,
    /// Switched off, because the node does not have it.
    SwitchedOff,
    /// Orphans that went out without their raw transactions.
    Shortened,
    /// A field that is not known here.
    UnknownField,
}

/// Name and help of each count, in the order of [`Count`].
const COUNTS: [(&str, &str); 8] = [
    ("rpcextractor_rpc_fetch_errors_total", "RPC calls without a result."),
    ("rpcextractor_rpc_model_errors_total", "RPC results that were not understood."),
    ("rpcextractor_nats_publish_errors_total", "Events that are larger than --max-payload-bytes."),
    ("rpcextractor_events_total", "Events made of RPC results."),
    (
        "rpcextractor_missed_rounds_total",
        "Queries left out because the one before was still in progress, or waited for slow ones of other methods.",
    ),
    ("rpcextractor_switched_off_total", "How often the method was switched off: the node does not have it."),
    ("rpcextractor_shortened_events_total", "Events without raw transactions, because they were too large."),
    ("rpcextractor_unknown_fields_total", "Fields in RPC results that are not known."),
];

/// The metrics, of all methods.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    duration: HistogramVec,
    counts: Vec<CounterVec>,
}

impl Metrics {
    /// Metrics that show these methods from the start.
    pub(super) fn new(methods: impl Iterator<Item = Method>) -> Self {
        let mut registry = Registry::new(1);
        let duration = registry.histogram_vec(
            "rpcextractor_rpc_fetch_duration_seconds",
            "Time that RPC calls took which brought a result.",
            &[METHOD],
            CALL_DURATION,
        );
        let counts: Vec<_> =
            COUNTS.iter().map(|(name, help)| registry.counter_vec(name, help, &[METHOD])).collect();
        for method in methods {
            registry.touch(duration.at(method as usize));
            for count in &counts {
                registry.add(count.at(method as usize), 0);
            }
        }
        Metrics { registry, duration, counts }
    }

    /// What each of them is.
    pub(super) fn describe(&self) -> Vec<Description> {
        self.registry.describe().collect()
    }

    /// A call brought a result after this time.
    pub(super) fn fetched(&mut self, method: Method, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.registry.observe(self.duration.at(method as usize), ns);
    }

    /// Counts.
    pub(super) fn count(&mut self, what: Count, method: Method, amount: u64) {
        self.registry.add(self.counts[what as usize].at(method as usize), amount);
    }

    /// All of them, to be put on a page.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All of them, as Prometheus reads them.
    pub(super) fn render(&self) -> String {
        render::render(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_own_metric_and_starts_at_zero() {
        let mut metrics = Metrics::new([Method::Uptime].into_iter());
        let all = [
            (Count::FetchError, "rpc_fetch_errors"),
            (Count::ModelError, "rpc_model_errors"),
            (Count::PublishError, "nats_publish_errors"),
            (Count::Events, "events"),
            (Count::MissedRound, "missed_rounds"),
            (Count::SwitchedOff, "switched_off"),
            (Count::Shortened, "shortened_events"),
            (Count::UnknownField, "unknown_fields"),
        ];
        for (i, (what, name)) in all.into_iter().enumerate() {
            let line = |n| format!("\nrpcextractor_{name}_total{{rpc_method=\"uptime\"}} {n}\n");
            assert!(metrics.render().contains(&line(0)), "{}", metrics.render());
            metrics.count(what, Method::Uptime, i as u64 + 1);
            assert!(metrics.render().contains(&line(i + 1)), "{}", metrics.render());
        }
        assert!(!metrics.render().contains("getpeerinfo"));
    }

    #[test]
    fn durations_are_seconds_between_the_public_edges() {
        let mut metrics = Metrics::new(std::iter::empty());
        metrics.fetched(Method::GetPeerInfo, Duration::from_millis(7));
        let page = metrics.render();
        for (edge, n) in [("0.001", 0), ("0.005", 0), ("0.01", 1), ("2.5", 1), ("10", 1), ("+Inf", 1)] {
            let line = format!(
                "rpcextractor_rpc_fetch_duration_seconds_bucket{{rpc_method=\"getpeerinfo\",le=\"{edge}\"}} {n}\n"
            );
            assert!(page.contains(&line), "{line}{page}");
        }
    }
}
