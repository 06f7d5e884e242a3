//! Lines of debug.log, our own P2P connection, the IPC interface.

use peer_observer_events::proto::ipc_extractor::{BlockTip, Ipc, ipc::IpcEvent};
use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::log_extractor::{
    BlockCheckedLog, BlockConnectedLog, CompactBlockReconstructedLog, Log, LogDebugCategory, LogLevel,
    SawNewHeaderLog,
};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::proto::p2p_extractor::{
    AddressAnnouncement, InventoryAnnouncement, P2p, PingDuration,
};

use super::*;

const T: u64 = NOW_S * 1_000_000;

fn line(time_us: u64, category: LogDebugCategory, level: LogLevel, event: LogEvent) -> Delivery {
    let log = Log {
        log_timestamp: time_us,
        category: category as i32,
        log_level: level as i32,
        log_line_bytes: 100,
        log_event: Some(event),
        ..Log::default()
    };
    delivery(PeerObserverEvent::LogExtractor(log), time_us / 1000)
}

fn checked(state: &str) -> Delivery {
    let event = BlockCheckedLog { state: state.into(), ..BlockCheckedLog::default() };
    line(T, LogDebugCategory::Validation, LogLevel::Debug, LogEvent::BlockCheckedLog(event))
}

fn header(time_us: u64, hash: &str, is_cmpctblock: bool) -> Delivery {
    let event = SawNewHeaderLog { block_hash: hash.into(), is_cmpctblock, ..SawNewHeaderLog::default() };
    line(time_us, LogDebugCategory::Unknown, LogLevel::Info, LogEvent::SawNewHeaderLog(event))
}

fn reconstructed(time_us: u64, hash: &str, requested: u32) -> Delivery {
    let event = CompactBlockReconstructedLog {
        block_hash: hash.into(),
        requested_txn_count: requested,
        requested_txn_bytes: 1000 * requested,
        extra_pool_txn_count: 1,
        ..CompactBlockReconstructedLog::default()
    };
    line(
        time_us,
        LogDebugCategory::Cmpctblock,
        LogLevel::Debug,
        LogEvent::CompactBlockReconstructedLog(event),
    )
}

#[test]
fn lines_are_counted_by_category_and_level() {
    let connected = LogEvent::BlockConnectedLog(BlockConnectedLog::default());
    let mut events: Vec<_> =
        ["Valid", "bad-txnmrklroot", "bad-txns-duplicate", "bad-witness-nonce-size"].map(checked).into();
    events.extend(
        ["bad-witness-merkle-match", "unexpected-witness", "bad-cb-amount", "bad-txnmrklroot"].map(checked),
    );
    events.push(line(T, LogDebugCategory::Validation, LogLevel::Warning, connected));
    let counted = after(&events);
    expect(
        &counted,
        &[
            ("log_events{category=\"validation\",level=\"debug\"}", 8.0),
            ("log_events{category=\"validation\",level=\"warning\"}", 1.0),
            ("log_bytes{category=\"validation\",level=\"debug\"}", 800.0),
            ("log_block_connected_events", 1.0),
            ("log_block_checked_events", 8.0),
            ("log_mutated_blocks{status=\"bad-txnmrklroot\"}", 2.0),
            ("log_mutated_blocks{status=\"bad-txns-duplicate\"}", 1.0),
            ("log_mutated_blocks{status=\"bad-witness-nonce-size\"}", 1.0),
            ("log_mutated_blocks{status=\"bad-witness-merkle-match\"}", 1.0),
            ("log_mutated_blocks{status=\"unexpected-witness\"}", 1.0),
        ],
    );
    assert_eq!(sum(&counted, "peerobserver_log_mutated_blocks"), 6.0);
}

#[test]
fn kinds_of_mutated_blocks_are_zero_once_blocks_are_checked() {
    let unexpected = "log_mutated_blocks{status=\"unexpected-witness\"}";
    expect(&after(&[]), &[(unexpected, -1.0)]);
    let counted = after(&[checked("Valid")]);
    expect(&counted, &[(unexpected, 0.0), ("log_mutated_blocks{status=\"bad-txnmrklroot\"}", 0.0)]);
}

#[test]
fn a_compact_block_is_told_by_how_its_header_came() {
    let counted = after(&[
        header(T, "high", true),
        header(T + 5, "high", false),
        header(T, "low", false),
        header(T, "late", true),
        reconstructed(T + 30_000, "high", 0),
        reconstructed(T + 70_000, "low", 2),
        reconstructed(T + 80_000, "nobody", 3),
        reconstructed(T + 301_000_000, "late", 0),
        // Its header is used up.
        reconstructed(T + 90_000, "high", 0),
    ]);
    let of = |metric: &str, requested: &str, bandwidth: &str| {
        format!(
            "log_compact_block_reconstruction_{metric}{{tx_requested=\"{requested}\",bandwidth=\"{bandwidth}\"}}"
        )
    };
    expect(
        &counted,
        &[
            (&of("count", "false", "high"), 1.0),
            (&of("count", "true", "low"), 1.0),
            (&of("count", "true", "unknown"), 1.0),
            (&of("count", "false", "unknown"), 2.0),
            (&of("time", "false", "high"), 30_000.0),
            (&of("time", "true", "low"), 70_000.0),
            (&of("time", "true", "unknown"), -1.0),
            ("log_compact_block_reconstruction_txs_requested", 5.0),
            ("log_compact_block_reconstruction_requested_bytes", 5000.0),
            ("log_compact_block_reconstruction_txs_extra_pool", 5.0),
        ],
    );
    assert_eq!(sum(&counted, "peerobserver_log_compact_block_reconstruction_count"), 5.0);
    assert_eq!(sum(&counted, "peerobserver_log_compact_block_reconstruction_time"), 100_000.0);
}

#[test]
fn a_clock_that_was_set_back_or_is_missing_measures_no_reconstruction() {
    let counted = after(&[
        header(T, "a", true),
        reconstructed(T - 1, "a", 0),
        header(0, "b", true),
        reconstructed(7, "b", 0),
    ]);
    assert_eq!(sum(&counted, "peerobserver_log_compact_block_reconstruction_count"), 2.0);
    assert!(!counted.keys().any(|series| series.contains("reconstruction_time")));
}

#[test]
fn a_flood_of_headers_is_forgotten() {
    let mut metrics = metrics();
    for i in 0..100_000 {
        metrics.observe(&header(T, &i.to_string(), true));
    }
    metrics.observe(&header(T + 301_000_000, "x", true));
    metrics.observe(&reconstructed(T + 301_000_001, "x", 0));
    let series =
        "peerobserver_log_compact_block_reconstruction_time{tx_requested=\"false\",bandwidth=\"high\"}";
    assert_eq!(samples(&metrics.render(Format::Text))[series], 1.0);
}

fn p2p(event: P2pEvent) -> Delivery {
    delivery(PeerObserverEvent::P2pExtractor(P2p { p2p_event: Some(event) }), NOW_S * 1000)
}

#[test]
fn what_the_node_relays_to_us_is_counted() {
    let addresses = |n: usize, address: Option<Net>| {
        p2p(P2pEvent::AddressAnnouncement(AddressAnnouncement { addresses: vec![entry(0, 0, address); n] }))
    };
    let inventory = |items: Vec<Item>| {
        let inventory = items.into_iter().map(|item| InventoryItem { item: Some(item) }).collect();
        p2p(P2pEvent::InventoryAnnouncement(InventoryAnnouncement { inventory }))
    };
    let ip = Net::Ipv4("192.0.2.1".into());
    let tip = IpcEvent::BlockTip(BlockTip { height: 900_000, hash: Vec::new().into() });
    let counted = after(&[
        p2p(P2pEvent::PingDuration(PingDuration { duration: 9 })),
        p2p(P2pEvent::PingDuration(PingDuration { duration: 1234 })),
        addresses(10, Some(ip.clone())),
        addresses(11, Some(ip)),
        addresses(1, Some(Net::Torv3("x".into()))),
        addresses(2, None),
        inventory(vec![Item::Block(Default::default())]),
        inventory(vec![Item::Wtx(Default::default()); 3]),
        p2p(P2pEvent::FeefilterAnnouncement(100)),
        p2p(P2pEvent::FeefilterAnnouncement(200)),
        delivery(PeerObserverEvent::IpcExtractor(Ipc { ipc_event: Some(tip) }), 0),
    ]);
    expect(
        &counted,
        &[
            ("p2pextractor_ping_duration_nanoseconds", 1234.0),
            ("p2pextractor_addrv2relay_addresses{network=\"IPv4\"}", 21.0),
            ("p2pextractor_addrv2relay_addresses{network=\"TorV3\"}", 1.0),
            ("p2pextractor_addrv2relay_addresses{network=\"Unknown\"}", 2.0),
            ("p2pextractor_addrv2relay_messages", 4.0),
            ("p2pextractor_addrv2relay_messages_10_or_less_entries", 3.0),
            ("p2pextractor_addrv2relay_size", 2.0),
            ("p2pextractor_invs_items{inv_type=\"WTx\"}", 3.0),
            ("p2pextractor_invs_items{inv_type=\"Block\"}", 1.0),
            ("p2pextractor_invs_messages", 2.0),
            ("p2pextractor_invs_size", 3.0),
            ("p2pextractor_feefilter_messages", 2.0),
            ("p2pextractor_feefilter_last", 200.0),
            ("ipc_block_tip_height", 900_000.0),
        ],
    );
}
