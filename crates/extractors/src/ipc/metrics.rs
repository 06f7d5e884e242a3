//! Metrics of the extractor itself. The first three have the public names.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peer_observer_exporter::registry::{Counter, CounterVec, Gauge, HistogramVec, Label, Registry};
use peer_observer_exporter::render;

use super::client::Error;
use crate::CALL_DURATION;

/// Default of timeouts from Core 31 on (src/ipc/capnp/mining.capnp, `maxDouble`).
pub(super) const MAX_DOUBLE: f64 = f64::MAX;

/// What is done with a node, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Connecting to the socket; no call.
    Connect,
    /// `Init.construct`
    Construct,
    /// `ThreadMap.makeThread`
    MakeThread,
    /// `Init.makeMining`
    MakeMining,
    /// `Mining.getTransactionsByTxID`, of none: whether the node knows it
    GetTransactionsByTxid,
    /// `Mining.getTip`
    GetTip,
    /// `Mining.waitTipChanged`
    WaitTipChanged,
}

impl Method {
    /// All of them, in the order of their names.
    pub(super) const ALL: &[Method] = &[
        Method::Connect,
        Method::Construct,
        Method::MakeThread,
        Method::MakeMining,
        Method::GetTransactionsByTxid,
        Method::GetTip,
        Method::WaitTipChanged,
    ];
    const NAMES: &[&str] = &[
        "connect",
        "construct",
        "makeThread",
        "makeMining",
        "getTransactionsByTxID",
        "getTip",
        "waitTipChanged",
    ];

    /// Its name in the schema.
    pub(super) fn name(self) -> &'static str {
        Method::NAMES[self as usize]
    }
}

/// Which schema a node has: that of which release of Bitcoin Core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    /// `Init.makeMining` is method 2, and the timeout of `Mining.waitTipChanged` has no default.
    Core30,
    /// `Init.makeMining` is method 3, and the timeout of `Mining.waitTipChanged` is for ever when it is left out.
    Core31,
    /// `Mining` has `getTransactionsByTxID`, too. Later ones are seen as this one as long as they keep what is used here.
    Core32,
}

impl Schema {
    const NAMES: &[&str] = &["30", "31", "32"];

    /// The major version of Bitcoin Core.
    pub(super) fn version(self) -> &'static str {
        Schema::NAMES[self as usize]
    }

    /// What to put into `timeout` of `waitTipChanged`, of the types of Core 32, so that the node reads this time.
    ///
    /// It reads milliseconds (Bitcoin Core src/interfaces/mining.h, `MillisecondsDouble`). On the wire a field is XORed with its default
    /// (capnproto.org/encoding.html, "Default Values"), so the default that Core 30 lacks has to be in there once more.
    pub(super) fn timeout(self, time: Duration) -> f64 {
        let ms = time.as_secs_f64() * 1e3;
        match self {
            Schema::Core30 => f64::from_bits(ms.to_bits() ^ MAX_DOUBLE.to_bits()),
            Schema::Core31 | Schema::Core32 => ms,
        }
    }
}

/// The metrics. Counting locks for an addition.
#[derive(Debug)]
pub(super) struct Metrics(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    duration: HistogramVec,
    errors: CounterVec,
    events: CounterVec,
    connections: CounterVec,
    crashes: Counter,
    connected: Gauge,
}

impl Metrics {
    /// All of them, at zero.
    pub(super) fn new() -> Self {
        const METHOD: Label = Label { name: "ipc_method", values: Method::NAMES };
        const SCHEMA: Label = Label { name: "schema", values: Schema::NAMES };
        let mut registry = Registry::new(1);
        let duration = registry.histogram_vec(
            "ipcextractor_ipc_fetch_duration_seconds",
            "Time that IPC calls took which brought a result; of waitTipChanged it is how long the tip stayed, or was waited for.",
            &[METHOD],
            CALL_DURATION,
        );
        let errors = registry.counter_vec(
            "ipcextractor_ipc_fetch_errors_total",
            "IPC calls without a result, and connections that failed.",
            &[METHOD],
        );
        let refused = registry.counter_vec(
            "ipcextractor_nats_publish_errors_total",
            "Always 0: publishing does not fail here, and what a server refuses is told as a loss.",
            &[METHOD],
        );
        let events =
            registry.counter_vec("ipcextractor_events_total", "Events made of IPC results.", &[METHOD]);
        let connections = registry.counter_vec(
            "ipcextractor_connections_total",
            "Connections to a node, by the release of Bitcoin Core whose schema it has.",
            &[SCHEMA],
        );
        let crashes = registry.counter(
            "ipcextractor_crashes_total",
            "Connections whose bytes the Cap'n Proto library failed on.",
        );
        let connected = registry.gauge("ipcextractor_connected", "1 while a node's tips are watched.");
        for method in Method::ALL.iter().map(|method| *method as usize) {
            registry.touch(duration.at(method));
            for counter in [errors, refused, events] {
                registry.add(counter.at(method), 0);
            }
        }
        Metrics(Mutex::new(Inner { registry, duration, errors, events, connections, crashes, connected }))
    }

    /// A call brought a result after this time.
    pub(super) fn fetched(&self, method: Method, took: Duration) {
        let inner = &mut *self.inner();
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        inner.registry.observe(inner.duration.at(method as usize), ns);
    }

    /// A connection ended with this.
    pub(super) fn failed(&self, error: &Error) {
        let inner = &mut *self.inner();
        let counter = match error.method() {
            Some(method) => inner.errors.at(method as usize),
            None => inner.crashes,
        };
        inner.registry.add(counter, 1);
    }

    /// An event was made of a result.
    pub(super) fn published(&self, method: Method) {
        let inner = &mut *self.inner();
        inner.registry.add(inner.events.at(method as usize), 1);
    }

    /// A node of this schema is watched from now on.
    pub(super) fn connected(&self, schema: Schema) {
        let inner = &mut *self.inner();
        inner.registry.add(inner.connections.at(schema as usize), 1);
        inner.registry.set(inner.connected, 1);
    }

    /// No node is watched from now on.
    pub(super) fn disconnected(&self) {
        let inner = &mut *self.inner();
        inner.registry.set(inner.connected, 0);
    }

    /// All of them, as Prometheus reads them.
    pub(super) fn render(&self) -> String {
        render::render(&self.inner().registry)
    }

    /// Numbers stay usable even if a thread should have failed with them.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_counted_under_the_public_names_and_starts_at_zero() {
        let metrics = Metrics::new();
        for method in Method::ALL {
            let name = method.name();
            for family in ["ipc_fetch_errors", "nats_publish_errors", "events"] {
                let line = format!("\nipcextractor_{family}_total{{ipc_method=\"{name}\"}} 0\n");
                assert!(metrics.render().contains(&line), "{line}{}", metrics.render());
            }
        }
        metrics.failed(&Error::Starting);
        metrics.failed(&Error::Crashed);
        metrics.published(Method::GetTip);
        metrics.connected(Schema::Core31);
        metrics.fetched(Method::WaitTipChanged, Duration::from_millis(7));
        let page = metrics.render();
        for line in [
            "ipc_fetch_errors_total{ipc_method=\"connect\"} 1",
            "events_total{ipc_method=\"getTip\"} 1",
            "connections_total{schema=\"31\"} 1",
            "connected 1",
            "crashes_total 1",
            "ipc_fetch_duration_seconds_bucket{ipc_method=\"waitTipChanged\",le=\"0.005\"} 0",
            "ipc_fetch_duration_seconds_bucket{ipc_method=\"waitTipChanged\",le=\"0.01\"} 1",
        ] {
            assert!(page.contains(&format!("\nipcextractor_{line}\n")), "{line}\n{page}");
        }
        metrics.disconnected();
        assert!(metrics.render().contains("\nipcextractor_connected 0\n"));
    }
}
