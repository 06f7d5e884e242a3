//! Metrics of inv messages.

use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::ebpf_extractor::message::Inv;
use peer_observer_exporter::registry::{Counter, CounterVec, Edges, HistogramVec, Label, Registry};

use super::net_msg::{DIRECTION, OUTBOUND};

/// Types of entries in inv messages.
pub(crate) const INV_TYPE: Label = Label {
    name: "inv_type",
    values: &["Tx", "Block", "WTx", "WitnessTx", "WitnessBlock", "CompactBlock", "Unknown", "Error", "None"],
};
const TX: usize = 0;
const WTX: usize = 2;

/// Entries of one type in an inv above which it is large: Bitcoin Core trickles 35 in an interval
/// (INVENTORY_BROADCAST_TARGET, src/net_processing.cpp).
const LARGE_INV: u64 = 35;

const INV_COUNT: Edges = Edges {
    upper: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600,
        700, 800, 900, 999, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000, 20_000, 25_000,
        30_000, 35_000, 40_000, 45_000, 50_000,
    ],
    divisor: 1,
};

/// Counts inv messages.
#[derive(Debug)]
pub(crate) struct Invs {
    entries: CounterVec,
    size: HistogramVec,
    homogeneous: CounterVec,
    heterogeneous: CounterVec,
    outbound_large: Counter,
}

impl Invs {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Invs {
            entries: r.counter_vec(
                "peerobserver_p2p_inv_entries",
                "Entries of inv messages, by type.",
                &[DIRECTION, INV_TYPE],
            ),
            size: r.histogram_vec(
                "peerobserver_p2p_inv_entries_histogram",
                "Entries an inv message.",
                &[DIRECTION],
                INV_COUNT,
            ),
            homogeneous: r.counter_vec(
                "peerobserver_p2p_invs_homogeneous",
                "Inv messages whose entries are all of one type.",
                &[DIRECTION],
            ),
            heterogeneous: r.counter_vec(
                "peerobserver_p2p_invs_heterogeneous",
                "Inv messages with entries of several types, or none.",
                &[DIRECTION],
            ),
            outbound_large: r.counter(
                "peerobserver_p2p_invs_outbound_large",
                "Inv messages sent with more than 35 Tx or more than 35 WTx entries.",
            ),
        }
    }

    /// Counts an inv that went in this direction.
    pub(crate) fn observe(&self, r: &mut Registry, inv: &Inv, direction: usize) {
        let mut entries = [0_u64; INV_TYPE.values.len()];
        for item in &inv.items {
            entries[inv_type(item.item.as_ref())] += 1;
        }
        for (inv_type, count) in entries.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            r.add(self.entries.at2(direction, inv_type), count);
        }
        r.observe(self.size.at(direction), inv.items.len() as u64);
        let types = entries.iter().filter(|count| **count > 0).count();
        let kind = if types == 1 { self.homogeneous } else { self.heterogeneous };
        r.inc(kind.at(direction));
        if direction == OUTBOUND && (entries[TX] > LARGE_INV || entries[WTX] > LARGE_INV) {
            r.inc(self.outbound_large);
        }
    }
}

/// The position of a type in [`INV_TYPE`].
pub(crate) fn inv_type(item: Option<&Item>) -> usize {
    match item {
        Some(Item::Transaction(_)) => TX,
        Some(Item::Block(_)) => 1,
        Some(Item::Wtx(_)) => WTX,
        Some(Item::WitnessTransaction(_)) => 3,
        Some(Item::WitnessBlock(_)) => 4,
        Some(Item::CompactBlock(_)) => 5,
        Some(Item::Unknown(_)) => 6,
        Some(Item::Error(_)) => 7,
        None => 8,
    }
}
