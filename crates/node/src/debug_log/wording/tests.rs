//! Every wording becomes its kind, and what only looks like one does not.

use super::*;

const HASH: &str = "00000000000000000001b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";
const H: &str = HASH;

fn shown(category: &str, message: &str) -> String {
    match kind(Some(category), message) {
        Some(kind) => format!("{kind:?}").replace(HASH, "H"),
        None => "None".into(),
    }
}

#[test]
fn every_wording_becomes_its_kind() {
    let cases: &[(&str, String, &str)] = &[
        (
            "validation",
            format!("BlockConnected: block hash={H} block height=437"),
            r#"BlockConnected { hash: "H", height: 437 }"#,
        ),
        (
            "validation",
            format!("Enqueuing BlockConnected: block hash={H} block height=437"),
            r#"BlockConnected { hash: "H", height: 437 }"#,
        ),
        (
            "validation",
            format!("BlockChecked: block hash={H} state=Valid"),
            r#"BlockChecked { hash: "H", state: "Valid", debug: "" }"#,
        ),
        (
            "validation",
            format!("BlockChecked: block hash={H} state=bad-txns-duplicate, duplicate transaction, really"),
            r#"BlockChecked { hash: "H", state: "bad-txns-duplicate", debug: "duplicate transaction, really" }"#,
        ),
        (
            "validation",
            format!("Saw new header hash={H} height=7 peer=3, peeraddr=1.2.3.4:5"),
            r#"SawNewHeader { hash: "H", height: 7, peer: 3, compact: false }"#,
        ),
        (
            "validation",
            format!("Saw new cmpctblock header hash={H} height=7 peer=0"),
            r#"SawNewHeader { hash: "H", height: 7, peer: 0, compact: true }"#,
        ),
        (
            "cmpctblock",
            format!(
                "Successfully reconstructed block {H} with 1 txn prefilled, 3000 txn from mempool (incl at least 5 \
                 from extra pool) and 2 txn (700 bytes) requested"
            ),
            r#"Reconstructed { hash: "H", prefilled: 1, mempool: 3000, extra: 5, requested: 2, requested_bytes: 700 }"#,
        ),
        (
            "cmpctblock",
            format!(
                "Successfully reconstructed block {H} with 1 txn prefilled, 3000 txn from mempool (incl at least 5 \
                 from extra pool) and 2 txn requested"
            ),
            r#"Reconstructed { hash: "H", prefilled: 1, mempool: 3000, extra: 5, requested: 2, requested_bytes: 0 }"#,
        ),
        (
            "all",
            format!(
                "UpdateTip: new best={H} height=800000 version=0xe0000000 log2_work=94.399543 tx=868965226 \
                 date='2023-07-24T03:17:09Z' progress=1.000000 cache=55.3MiB(416205txo) warning='Unknown new rules'"
            ),
            r#"UpdateTip { hash: "H", height: 800000, version: -536870912, log2_work: 94.399543, tx_count: 868965226, time: 1690168629, progress: 1.0, cache_mib: 55.3, cache_coins: 416205, warning: Some("Unknown new rules") }"#,
        ),
        (
            "net",
            format!("Timeout downloading block {H}, disconnecting peer=9 peeraddr=[::1]:8333"),
            r#"DownloadTimeout { what: Block("H"), peer: Some(9), disconnecting: true }"#,
        ),
        (
            "net",
            format!("Timeout downloading block {H} from peer=9, disconnecting"),
            r#"DownloadTimeout { what: Block("H"), peer: Some(9), disconnecting: true }"#,
        ),
        (
            "net",
            "Timeout downloading headers, disconnecting peer=9".into(),
            r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: true }"#,
        ),
        (
            "net",
            "Timeout downloading headers from noban peer, not disconnecting peer=9".into(),
            r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: false }"#,
        ),
        (
            "net",
            "Timeout downloading headers from noban peer=9, not disconnecting".into(),
            r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: false }"#,
        ),
        (
            "net",
            "Stall started peer=12".into(),
            r#"DownloadStalling { peer: Some(12), disconnecting: false }"#,
        ),
        (
            "net",
            "Peer is stalling block download, disconnecting peer=12".into(),
            r#"DownloadStalling { peer: Some(12), disconnecting: true }"#,
        ),
        (
            "net",
            "Peer=12, peeraddr=1.2.3.4:5 is stalling block download, disconnecting".into(),
            r#"DownloadStalling { peer: Some(12), disconnecting: true }"#,
        ),
        (
            "net",
            "socket closed, disconnecting peer=4 peeraddr=1.2.3.4:8333".into(),
            r#"Disconnect { peer: 4, addr: Some("1.2.3.4:8333"), reason: "socket closed" }"#,
        ),
        (
            "net",
            "socket recv error, disconnecting peer=4 peeraddr=[2001:db8::1]:8333: Connection reset by peer (104)".into(),
            r#"Disconnect { peer: 4, addr: Some("[2001:db8::1]:8333"), reason: "socket recv error: Connection reset by peer (104)" }"#,
        ),
        (
            "net",
            "ping timeout: 1200.000000s, disconnecting peer=4".into(),
            r#"Disconnect { peer: 4, addr: None, reason: "ping timeout: 1200.000000s" }"#,
        ),
        (
            "net",
            "disconnecting extra outbound peer=4 (last block announcement received at time 17)".into(),
            r#"Disconnect { peer: 4, addr: None, reason: "extra outbound (last block announcement received at time 17)" }"#,
        ),
        (
            "net",
            "peer=4 using obsolete version 31799; disconnecting".into(),
            r#"Disconnect { peer: 4, addr: None, reason: "using obsolete version 31799" }"#,
        ),
        (
            "net",
            "version handshake timeout peer=4".into(),
            r#"Disconnect { peer: 4, addr: None, reason: "version handshake timeout" }"#,
        ),
        ("net", "disconnecting peer=4".into(), r#"Disconnect { peer: 4, addr: None, reason: "" }"#),
        (
            "net",
            "Misbehaving: peer=7: inv message size = 50001".into(),
            r#"Misbehaving { peer: 7, reason: "inv message size = 50001", score: None }"#,
        ),
        ("net", "Misbehaving: peer=7".into(), r#"Misbehaving { peer: 7, reason: "", score: None }"#),
        (
            "net",
            "Misbehaving: peer=7 (0 -> 20): non-continuous headers sequence".into(),
            r#"Misbehaving { peer: 7, reason: "non-continuous headers sequence", score: Some((0, 20)) }"#,
        ),
        (
            "net",
            "Misbehaving: peer=7 (80 -> 100) DISCOURAGE THRESHOLD EXCEEDED: x".into(),
            r#"Misbehaving { peer: 7, reason: "x", score: Some((80, 100)) }"#,
        ),
        (
            "net",
            "Disconnecting and discouraging peer 7!".into(),
            r#"Discouraged { peer: 7, outcome: Discouraged }"#,
        ),
        (
            "net",
            "Warning: disconnecting but not discouraging local peer 7!".into(),
            r#"Discouraged { peer: 7, outcome: Disconnected }"#,
        ),
        (
            "net",
            "Warning: disconnecting but not discouraging inbound onion peer 7!".into(),
            r#"Discouraged { peer: 7, outcome: Disconnected }"#,
        ),
        (
            "all",
            "Warning: not punishing noban peer 7!".into(),
            r#"Discouraged { peer: 7, outcome: Spared }"#,
        ),
        (
            "all",
            "Warning: not punishing manually connected peer 7!".into(),
            r#"Discouraged { peer: 7, outcome: Spared }"#,
        ),
        (
            "net",
            "selected inbound connection for eviction, disconnecting peer=8 peeraddr=1.2.3.4:5".into(),
            r#"Eviction { peer: 8, addr: Some("1.2.3.4:5") }"#,
        ),
        (
            "net",
            "selected inbound connection for eviction peer=8; disconnecting".into(),
            r#"Eviction { peer: 8, addr: None }"#,
        ),
        (
            "net",
            "Initial headers sync started with peer=3: height=0, max_commitments=5, min_work=00".into(),
            r#"Presync { state: Started, peer: Some(3), height: Some(0), reason: None }"#,
        ),
        (
            "net",
            "Initial headers sync aborted with peer=3: incomplete headers message at height=2000 (presync phase)".into(),
            r#"Presync { state: Aborted, peer: Some(3), height: Some(2000), reason: Some("incomplete headers message") }"#,
        ),
        (
            "net",
            "Initial headers sync transition with peer=3: reached sufficient work at height=9, redownloading from height=0".into(),
            r#"Presync { state: Redownloading, peer: Some(3), height: Some(9), reason: None }"#,
        ),
        (
            "net",
            "Ignoring low-work chain (height=15) from peer=3".into(),
            r#"Presync { state: Aborted, peer: Some(3), height: Some(15), reason: Some("low-work chain") }"#,
        ),
        (
            "all",
            "Pre-synchronizing blockheaders, height: 42000 (~5.11%)".into(),
            r#"Presync { state: Progress, peer: None, height: Some(42000), reason: None }"#,
        ),
        (
            "txpackages",
            format!("removed orphan tx {H} (wtxid={H}) (3 announcements)"),
            r#"OrphansRemoved { count: 1, announcements: Some(3), cause: "unknown", peer: None, wtxid: Some("H") }"#,
        ),
        (
            "txpackages",
            format!("removed orphan tx {H} (wtxid={H}) after 3s"),
            r#"OrphansRemoved { count: 1, announcements: None, cause: "unknown", peer: None, wtxid: Some("H") }"#,
        ),
        (
            "txpackages",
            "orphanage overflow, removed 4 tx (6 announcements)".into(),
            r#"OrphansRemoved { count: 4, announcements: Some(6), cause: "overflow", peer: None, wtxid: None }"#,
        ),
        (
            "mempool",
            "mapOrphan overflow, removed 4 tx".into(),
            r#"OrphansRemoved { count: 4, announcements: None, cause: "overflow", peer: None, wtxid: None }"#,
        ),
        (
            "txpackages",
            "Erased 2 orphan transaction(s) included or conflicted by block".into(),
            r#"OrphansRemoved { count: 2, announcements: None, cause: "block", peer: None, wtxid: None }"#,
        ),
        (
            "txpackages",
            "Erased 2 orphan transaction(s) from peer=6".into(),
            r#"OrphansRemoved { count: 2, announcements: None, cause: "peer", peer: Some(6), wtxid: None }"#,
        ),
        (
            "txpackages",
            "Erased 2 orphan tx due to expiration".into(),
            r#"OrphansRemoved { count: 2, announcements: None, cause: "expired", peer: None, wtxid: None }"#,
        ),
        (
            "all",
            "connected to self at 1.2.3.4:8333, disconnecting".into(),
            r#"ConnectedToSelf { addr: "1.2.3.4:8333" }"#,
        ),
        (
            "all",
            "Excessive logging detected from ./net.cpp:12 (void f(A (*)(int))): >1048576 bytes logged during the last \
             time window of 3600s. Suppressing logging to disk"
                .into(),
            r#"LogRateLimit { location: "net.cpp:12", function: "void f(A (*)(int))", suppressing: true, dropped_bytes: None, window: 3600 }"#,
        ),
        (
            "all",
            "Restarting logging from net.cpp:12 (void f()): 77 bytes were dropped during the last 3600s.".into(),
            r#"LogRateLimit { location: "net.cpp:12", function: "void f()", suppressing: false, dropped_bytes: Some(77), window: 3600 }"#,
        ),
        (
            "all",
            "Bitcoin Core version v30.0.0 (release build)".into(),
            r#"NodeStarted { version: "v30.0.0 (release build)" }"#,
        ),
        ("all", "Shutdown in progress...".into(), "NodeStopped { done: false }"),
        ("all", "Shutdown: In progress...".into(), "NodeStopped { done: false }"),
        ("all", "Shutdown done".into(), "NodeStopped { done: true }"),
        ("all", "Shutdown: done".into(), "NodeStopped { done: true }"),
    ];
    for (category, message, expected) in cases {
        assert_eq!(shown(category, message), *expected, "{message}");
    }
}

#[test]
fn what_only_looks_like_a_kind_is_none() {
    let cases: &[String] = &[
        String::new(),
        "x".into(),
        "BlockConnected: block hash=".into(),
        format!("BlockConnected: block hash={H} block height="),
        format!("BlockConnected: block hash={H} block height=4294967296"),
        format!("BlockConnected: block hash={H}0 block height=1"),
        format!("BlockConnected: block hash={} block height=1", H.to_uppercase()),
        format!("BlockDisconnected: block hash={H} block height=1"),
        format!("[background validation] UpdateTip: new best={H}"),
        format!("Saw new header hash={H} height=7"),
        "Misbehaving: peer=-1".into(),
        "Initial headers sync complete with peer=3: releasing all at height=7 (redownload phase)".into(),
        // A peer chooses its user agent.
        "receive version message: /disconnecting/: version 70016, blocks=0, us=1.2.3.4:5, txrelay=1, peer=5"
            .into(),
        "receive version message: /a, disconnecting/: version 70016, peer=5".into(),
        "Unknown command \"disconnectin\" from peer=5".into(),
        "Not downloading blocks from peer=5, which doesn't have the snapshot block in its best chain.".into(),
        "Bitcoin is not for version v1".into(),
        "Timeout downloading block \u{fffd}".into(),
        "Shutdown requested. Exiting.".into(),
        "Resetting socket for peer=5".into(),
    ];
    for message in cases {
        assert_eq!(shown("net", message), "None", "{message}");
    }
    assert_eq!(shown("bench", "x, disconnecting peer=4"), "None");
}
