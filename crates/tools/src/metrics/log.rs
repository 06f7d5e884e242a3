//! Metrics of lines of debug.log.

use std::collections::HashMap;

use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::log_extractor::{
    BlockCheckedLog, CompactBlockReconstructedLog, Log, SawNewHeaderLog,
};
use peer_observer_exporter::labels::{OTHER, bounded, joined};
use peer_observer_exporter::registry::{Counter, CounterVec, Label, Registry, Snapshot};

/// LogDebugCategory of proto/log_extractor.proto, in lower case.
const CATEGORY: Label = Label {
    name: "category",
    values: &[
        "unknown",
        "addrman",
        "bench",
        "blockstorage",
        "cmpctblock",
        "coindb",
        "estimatefee",
        "http",
        "i2p",
        "ipc",
        "leveldb",
        "libevent",
        "mempool",
        "mempoolrej",
        "net",
        "proxy",
        "prune",
        "qt",
        "rand",
        "reindex",
        "rpc",
        "scan",
        "selectcoins",
        "tor",
        "txpackages",
        "txreconciliation",
        "validation",
        "walletdb",
        "zmq",
        OTHER,
    ],
};

/// LogLevel of proto/log_extractor.proto, in lower case.
const LEVEL: Label = Label { name: "level", values: &["info", "warning", "error", "debug", "trace", OTHER] };

/// Results of a check that say that a block was changed on its way: the block itself may be valid. Bitcoin Core src/validation.cpp,
/// BLOCK_MUTATED.
const MUTATED: Label = Label {
    name: "status",
    values: &[
        "bad-txnmrklroot",
        "bad-txns-duplicate",
        "bad-witness-nonce-size",
        "bad-witness-merkle-match",
        "unexpected-witness",
    ],
};

/// Transactions of the compact block had to be asked for.
const REQUESTED: Label = Label { name: "tx_requested", values: &["false", "true"] };
/// How the compact block came: unasked (high), asked for after its header (low), or nothing is known of its header.
const BANDWIDTH: Label = Label { name: "bandwidth", values: &["high", "low", "unknown"] };
const HIGH: usize = 0;
const LOW: usize = 1;
const UNKNOWN: usize = 2;

/// Time for which the header of a block is remembered, us.
const HEADER_LIFETIME_US: u64 = 300_000_000;
/// Headers that are remembered.
const MAX_HEADERS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Header {
    time_us: u64,
    compact: bool,
}

/// Counts lines.
#[derive(Debug)]
pub(crate) struct LogLines {
    events: CounterVec,
    bytes: CounterVec,
    block_connected: Counter,
    block_checked: Counter,
    mutated: CounterVec,
    reconstructed: CounterVec,
    reconstruction_time: Snapshot,
    requested_bytes: Counter,
    requested: Counter,
    extra_pool: Counter,
    /// By hash of the block.
    headers: HashMap<Box<str>, Header>,
}

impl LogLines {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        LogLines {
            events: r.counter_vec(
                "peerobserver_log_events",
                "Lines of debug.log, by debug category and level.",
                &[CATEGORY, LEVEL],
            ),
            bytes: r.counter_vec(
                "peerobserver_log_bytes",
                "Bytes of lines of debug.log, by debug category and level.",
                &[CATEGORY, LEVEL],
            ),
            block_connected: r
                .counter("peerobserver_log_block_connected_events", "Lines that say that a block was connected."),
            block_checked: r
                .counter("peerobserver_log_block_checked_events", "Lines that say that a block was checked."),
            mutated: r.counter_vec(
                "peerobserver_log_mutated_blocks",
                "Blocks that were changed on their way, by what the check of them said.",
                &[MUTATED],
            ),
            reconstructed: r.counter_vec(
                "peerobserver_log_compact_block_reconstruction_count",
                "Compact blocks that were completed, by whether transactions had to be asked for, and mode (BIP 152).",
                &[REQUESTED, BANDWIDTH],
            ),
            reconstruction_time: r.snapshot(
                "peerobserver_log_compact_block_reconstruction_time",
                "Time from the header of the last compact block to its completion, microseconds.",
                &[REQUESTED.name, BANDWIDTH.name],
            ),
            requested_bytes: r.counter(
                "peerobserver_log_compact_block_reconstruction_requested_bytes",
                "Bytes of the transactions that had to be asked for to complete compact blocks.",
            ),
            requested: r.counter(
                "peerobserver_log_compact_block_reconstruction_txs_requested",
                "Transactions that had to be asked for to complete compact blocks.",
            ),
            extra_pool: r.counter(
                "peerobserver_log_compact_block_reconstruction_txs_extra_pool",
                "Transactions of compact blocks that were found in the extra pool.",
            ),
            headers: HashMap::new(),
        }
    }

    /// Counts a line.
    pub(crate) fn observe(&mut self, r: &mut Registry, line: &Log) {
        let category = index(CATEGORY, line.category);
        let level = index(LEVEL, line.log_level);
        r.inc(self.events.at2(category, level));
        r.add(self.bytes.at2(category, level), line.log_line_bytes);
        match &line.log_event {
            Some(LogEvent::BlockConnectedLog(_)) => r.inc(self.block_connected),
            Some(LogEvent::BlockCheckedLog(checked)) => self.observe_checked(r, checked),
            Some(LogEvent::SawNewHeaderLog(header)) => self.observe_header(header, line.log_timestamp),
            Some(LogEvent::CompactBlockReconstructedLog(block)) => {
                self.observe_reconstructed(r, block, line.log_timestamp);
            }
            Some(LogEvent::UnknownLogMessage(_)) | None => {}
        }
    }

    fn observe_checked(&self, r: &mut Registry, checked: &BlockCheckedLog) {
        r.inc(self.block_checked);
        // Before the first of a kind: Prometheus does not see the step from no series to 1.
        (0..MUTATED.values.len()).for_each(|status| r.add(self.mutated.at(status), 0));
        if let Some(status) = MUTATED.values.iter().position(|status| *status == checked.state) {
            r.inc(self.mutated.at(status));
        }
    }

    fn observe_header(&mut self, header: &SawNewHeaderLog, time_us: u64) {
        self.headers.retain(|_, known| time_us.abs_diff(known.time_us) <= HEADER_LIFETIME_US);
        if self.headers.len() < MAX_HEADERS {
            let known = Header { time_us, compact: header.is_cmpctblock };
            // The first one counts: a header may come several times.
            self.headers.entry(bounded(&header.block_hash).into()).or_insert(known);
        }
    }

    fn observe_reconstructed(
        &mut self,
        r: &mut Registry,
        block: &CompactBlockReconstructedLog,
        time_us: u64,
    ) {
        let header = self.headers.remove(bounded(&block.block_hash));
        let header = header.filter(|known| time_us.abs_diff(known.time_us) <= HEADER_LIFETIME_US);
        let bandwidth = match header {
            Some(Header { compact: true, .. }) => HIGH,
            Some(Header { compact: false, .. }) => LOW,
            None => UNKNOWN,
        };
        let requested = usize::from(block.requested_txn_count > 0);
        r.inc(self.reconstructed.at2(requested, bandwidth));
        r.add(self.requested, block.requested_txn_count.into());
        r.add(self.requested_bytes, block.requested_txn_bytes.into());
        r.add(self.extra_pool, block.extra_pool_txn_count.into());
        // A line without a time, or a clock that was set back, measures nothing.
        let took =
            header.filter(|known| known.time_us > 0).and_then(|known| time_us.checked_sub(known.time_us));
        if let Some(took) = took {
            let key = joined(&[REQUESTED.values[requested], BANDWIDTH.values[bandwidth]]);
            r.set_in(self.reconstruction_time, &key, took as f64);
        }
    }
}

fn index(label: Label, number: i32) -> usize {
    let other = label.values.len() - 1;
    usize::try_from(number).map_or(other, |n| n.min(other))
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::log_extractor::{LogDebugCategory, LogLevel};

    use super::*;

    #[test]
    fn label_values_are_the_names_of_the_schema() {
        for (i, name) in CATEGORY.values.iter().enumerate().take(CATEGORY.values.len() - 1) {
            assert_eq!(LogDebugCategory::try_from(i as i32).unwrap().as_str_name().to_lowercase(), *name);
        }
        assert!(LogDebugCategory::try_from(CATEGORY.values.len() as i32 - 1).is_err());
        for (i, name) in LEVEL.values.iter().enumerate().take(LEVEL.values.len() - 1) {
            assert_eq!(LogLevel::try_from(i as i32).unwrap().as_str_name().to_lowercase(), *name);
        }
        assert!(LogLevel::try_from(LEVEL.values.len() as i32 - 1).is_err());
    }
}
