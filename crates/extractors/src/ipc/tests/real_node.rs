//! Against a real `bitcoin-node`.

use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::{need, require};
use serde_json::json;

use super::*;

fn internal_order(hash: &serde_json::Value) -> Vec<u8> {
    let hex = hash.as_str().unwrap();
    (0..32).rev().map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_tells_its_tips_at_once_and_survives_us() {
    require!(need::bitcoin_node());
    let mut node = RealNode::start_with_ipc(&["-debug=ipc"]).unwrap();
    let socket = node.ipc_socket();
    let mut running = start(&socket, NEVER, Duration::from_secs(5)).await;
    assert_eq!(running.next().await.0, 0);
    for height in 1..=20 {
        let mined = node.rpc("generatetodescriptor", json!([1, "raw(51)"])).unwrap();
        assert_eq!(running.next().await, (height, internal_order(&mined[0])));
    }

    // It was asked once for each of them, and keeps the call that it has got now.
    let waited = running.metric("ipc_fetch_duration_seconds_count{ipc_method=\"waitTipChanged\"}").await;
    assert_eq!(waited, 20);

    // A node that was restarted is connected to while it starts: it must neither die of it nor be missed.
    for _ in 0..3 {
        let ended = node.stop().unwrap();
        assert!(ended.success(), "{ended}: {:#?}", node.process().take_lines());
        node.restart().unwrap();
        assert_eq!(running.next().await.0, 20);
    }
    node.kill().unwrap();
    node.restart().unwrap();
    assert_eq!(running.next().await.0, 20);

    // To leave it in the middle of a call does it no harm.
    running.stop().await;
    for _ in 0..5 {
        let mut running = start(&socket, NEVER, Duration::from_secs(5)).await;
        assert_eq!(running.next().await.0, 20);
        wait_for!(running.metric("ipc_fetch_duration_seconds_count{ipc_method=\"getTip\"}").await >= 1);
        running.stop().await;
    }
    assert_eq!(node.rpc("getblockcount", json!([])).unwrap(), 20);
    let ended = node.stop().unwrap();
    assert!(ended.success(), "{ended}: {:#?}", node.process().take_lines());
}
