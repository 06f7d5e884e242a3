//! Metrics of getorphantxs: how many orphan transactions there are, and how fast they come and go.

use std::collections::HashMap;

use peer_observer_events::proto::rpc_extractor::OrphanTx;
use peer_observer_exporter::labels::bounded;
use peer_observer_exporter::registry::{Counter, FloatGauge, Gauge, Registry};

use super::{count, whole};

/// Orphans that are remembered until the next answer. Bitcoin Core keeps 3,000 announcements at most (src/txorphanage.h).
const MAX_ORPHANS: usize = 100_000;

/// Takes over orphans.
#[derive(Debug)]
pub(super) struct Orphans {
    number: Gauge,
    bytes: Gauge,
    vsize: Gauge,
    weight: Gauge,
    from_min: Gauge,
    from_max: Gauge,
    from_mean: FloatGauge,
    added: Counter,
    added_bytes: Counter,
    removed: Counter,
    removed_bytes: Counter,
    /// Orphans of the answer before, by wtxid, with their size in bytes.
    before: HashMap<Box<str>, u64>,
}

impl Orphans {
    /// Registers the metrics.
    pub(super) fn new(r: &mut Registry) -> Self {
        Orphans {
            number: r.gauge("peerobserver_rpc_getorphantxs_count", "Orphan transactions."),
            bytes: r.gauge("peerobserver_rpc_getorphantxs_bytes", "Size of the orphan transactions, bytes."),
            vsize: r
                .gauge("peerobserver_rpc_getorphantxs_vsize", "Virtual size of the orphan transactions, vB."),
            weight: r.gauge("peerobserver_rpc_getorphantxs_weight", "Weight of the orphan transactions, WU."),
            from_min: r.gauge(
                "peerobserver_rpc_getorphantxs_from_min",
                "Fewest peers that announced one orphan transaction; 0 when there is none.",
            ),
            from_max: r.gauge(
                "peerobserver_rpc_getorphantxs_from_max",
                "Most peers that announced one orphan transaction; 0 when there is none.",
            ),
            from_mean: r.float_gauge(
                "peerobserver_rpc_getorphantxs_from_mean",
                "Peers that announced an orphan transaction, on average; 0 when there is none.",
            ),
            added: r.counter(
                "peerobserver_rpc_getorphantxs_added_count",
                "Orphan transactions that are in an answer and were not in the one before.",
            ),
            added_bytes: r.counter(
                "peerobserver_rpc_getorphantxs_added_bytes",
                "Bytes of orphan transactions that are in an answer and were not in the one before.",
            ),
            removed: r.counter(
                "peerobserver_rpc_getorphantxs_removed_count",
                "Orphan transactions that were in an answer and are not in the next.",
            ),
            removed_bytes: r.counter(
                "peerobserver_rpc_getorphantxs_removed_bytes",
                "Bytes of orphan transactions that were in an answer and are not in the next.",
            ),
            before: HashMap::new(),
        }
    }

    /// Takes over an answer.
    pub(super) fn observe(&mut self, r: &mut Registry, orphans: &[OrphanTx]) {
        let sum = |of: fn(&OrphanTx) -> u64| whole(orphans.iter().map(of).fold(0, u64::saturating_add));
        r.set(self.number, count(orphans.iter()));
        r.set(self.bytes, sum(|orphan| orphan.bytes));
        r.set(self.vsize, sum(|orphan| orphan.vsize));
        r.set(self.weight, sum(|orphan| orphan.weight));
        let from = || orphans.iter().map(|orphan| orphan.from.len() as u64);
        r.set(self.from_min, whole(from().min().unwrap_or(0)));
        r.set(self.from_max, whole(from().max().unwrap_or(0)));
        r.set_float(self.from_mean, from().sum::<u64>() as f64 / orphans.len().max(1) as f64);

        let mut now: HashMap<Box<str>, u64> = HashMap::with_capacity(orphans.len().min(MAX_ORPHANS));
        for orphan in orphans.iter().take(MAX_ORPHANS) {
            now.insert(bounded(&orphan.wtxid).into(), orphan.bytes);
        }
        for (wtxid, bytes) in &now {
            if self.before.remove(wtxid).is_none() {
                r.inc(self.added);
                r.add(self.added_bytes, *bytes);
            }
        }
        for bytes in self.before.values() {
            r.inc(self.removed);
            r.add(self.removed_bytes, *bytes);
        }
        self.before = now;
    }
}
