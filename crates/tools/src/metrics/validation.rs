//! Metrics of block connections.

use peer_observer_events::proto::ebpf_extractor::validation::ValidationEvent;
use peer_observer_events::proto::ebpf_extractor::validation::validation_event::Event;
use peer_observer_exporter::registry::{Counter, Gauge, Registry};

/// Counts connected blocks.
#[derive(Debug)]
pub(crate) struct Validation {
    height: Gauge,
    latest_time: Gauge,
    time: Counter,
    sigops: Gauge,
    inputs: Gauge,
    transactions: Gauge,
}

impl Validation {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Validation {
            height: r.gauge(
                "peerobserver_validation_block_connected_latest_height",
                "Height of the block that was connected last.",
            ),
            latest_time: r.gauge(
                "peerobserver_validation_block_connected_latest_connection_time",
                "Time it took to connect the last block, microseconds.",
            ),
            time: r.counter(
                "peerobserver_validation_block_connected_connection_time",
                "Time it took to connect blocks, microseconds.",
            ),
            sigops: r.gauge(
                "peerobserver_validation_block_connected_latest_sigops",
                "Signature operations of the block that was connected last.",
            ),
            inputs: r.gauge(
                "peerobserver_validation_block_connected_latest_inputs",
                "Inputs of the block that was connected last.",
            ),
            transactions: r.gauge(
                "peerobserver_validation_block_connected_latest_transactions",
                "Transactions of the block that was connected last.",
            ),
        }
    }

    /// Counts an event.
    pub(crate) fn observe(&self, r: &mut Registry, event: &ValidationEvent) {
        let Some(Event::BlockConnected(block)) = &event.event else { return };
        let microseconds = block.connection_time / 1000;
        r.set(self.height, block.height.into());
        r.set(self.latest_time, i64::try_from(microseconds).unwrap_or(i64::MAX));
        r.add(self.time, microseconds);
        r.set(self.sigops, block.sigops);
        r.set(self.inputs, block.inputs.into());
        r.set(self.transactions, block.transactions);
    }
}
