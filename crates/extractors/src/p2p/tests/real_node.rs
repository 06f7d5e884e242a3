//! Against a real node.

use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::{need, require};
use serde_json::json;

use super::*;

#[test]
fn a_real_node_is_measured_and_its_blocks_are_seen_over_both_transports() {
    require!(need::bitcoind());
    for (flag, transport) in [("-v2transport=0", ToldTransport::V1), ("-v2transport=1", ToldTransport::V2)] {
        let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[Some("real")]);
        let addnode = format!("-addnode={}", extractor.addr());
        let node = RealNode::start(&[&addnode, flag]).unwrap();
        let info = extractor.wait_for(peer_info);
        assert_eq!(info.transport(), transport);
        assert!(info.user_agent.starts_with("/Satoshi:"), "{info:?}");
        let ping = extractor.wait_for(ping_duration);

        // The first block ends the initial download, in which nodes announce nothing.
        let mut via = Vec::new();
        for _ in 0..4 {
            let mined = node.rpc("generatetodescriptor", json!([1, "raw(51)"])).unwrap();
            let mut hash = unhex(mined[0].as_str().unwrap());
            hash.reverse();
            via.push(extractor.wait_for(|event| block(event).filter(|block| block.hash == hash)).via());
            // Work through what it was asked after an inv before the next block.
            extractor.wait_for(ping_duration);
        }
        assert_eq!(via.last(), Some(&Via::Cmpctblock), "{via:?}");
        eprintln!("{flag}: ping {ping:?}, blocks announced via {via:?}");

        let peers = node.rpc("getpeerinfo", json!([])).unwrap();
        assert_eq!(peers[0]["bip152_hb_from"], true, "{peers}");
        assert!(peers[0]["subver"].as_str().unwrap().starts_with("/peer-observer:"), "{peers}");
        extractor.stop();
    }
}
