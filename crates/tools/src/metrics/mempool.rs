//! Metrics of mempool events.

use peer_observer_events::proto::ebpf_extractor::mempool::MempoolEvent;
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event;
use peer_observer_exporter::registry::{Column, Counter, Registry, TableId};

/// Why Bitcoin Core removes a transaction: `RemovalReasonToString` in src/kernel/mempool_removal_reason.cpp.
const REMOVAL_REASONS: [&str; 6] = ["expiry", "sizelimit", "reorg", "block", "conflict", "replaced"];

/// Counts mempool events.
#[derive(Debug)]
pub(crate) struct Mempool {
    added: Counter,
    added_vbytes: Counter,
    replaced: Counter,
    replaced_vbytes: Counter,
    rejections: TableId,
    rejected: Column,
    removals: TableId,
    removed: Column,
}

impl Mempool {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        let added = r.counter("peerobserver_mempool_added", "Transactions that entered the mempool.");
        let added_vbytes = r.counter(
            "peerobserver_mempool_added_vbytes",
            "Virtual bytes of the transactions that entered the mempool.",
        );
        let replaced =
            r.counter("peerobserver_mempool_replaced", "Transactions that were replaced in the mempool.");
        let replaced_vbytes = r.counter(
            "peerobserver_mempool_replaced_vbytes",
            "Virtual bytes of the transactions that were replaced in the mempool.",
        );
        let rejections = r.table(&[]);
        let rejected = r.column(
            rejections,
            "peerobserver_mempool_rejected",
            "Transactions that were not accepted to the mempool, by reason.",
            &["reason"],
            &[],
        );
        let removals = r.table(&REMOVAL_REASONS);
        let removed = r.column(
            removals,
            "peerobserver_mempool_removed",
            "Transactions that left the mempool, by reason.",
            &["reason"],
            &[],
        );
        Mempool { added, added_vbytes, replaced, replaced_vbytes, rejections, rejected, removals, removed }
    }

    /// Counts an event. A negative size, which no transaction has, adds nothing.
    pub(crate) fn observe(&self, r: &mut Registry, event: &MempoolEvent) {
        match &event.event {
            Some(Event::Added(added)) => {
                r.inc(self.added);
                r.add(self.added_vbytes, u64::try_from(added.vsize).unwrap_or(0));
            }
            Some(Event::Replaced(replaced)) => {
                r.inc(self.replaced);
                r.add(self.replaced_vbytes, u64::try_from(replaced.replaced_vsize).unwrap_or(0));
            }
            Some(Event::Rejected(rejected)) => {
                let row = r.row(self.rejections, &rejected.reason);
                r.add_cell(row, self.rejected.only(), 1);
            }
            Some(Event::Removed(removed)) => {
                let row = r.row(self.removals, &removed.reason);
                r.add_cell(row, self.removed.only(), 1);
            }
            None => {}
        }
    }
}
