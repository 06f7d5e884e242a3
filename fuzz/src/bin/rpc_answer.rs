//! What a node answers to RPC calls: the body of HTTP, and the results of all methods.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::rpc::answer;
use peer_observer_node::rpc::types::{self, Answered};

fn read<T: Answered>(json: &str) {
    match types::read_json::<T>(json) {
        Ok(read) => assert!(read.unknown.len() <= 32),
        Err(error) => assert!(error.to_string().contains(T::METHOD)),
    }
}

fn read_all(json: &str) {
    read::<types::PeerInfos>(json);
    read::<types::MempoolInfo>(json);
    read::<types::Uptime>(json);
    read::<types::NetTotals>(json);
    read::<types::MemoryInfo>(json);
    read::<types::AddrManInfo>(json);
    read::<types::ChainTxStats>(json);
    read::<types::NetworkInfo>(json);
    read::<types::BlockchainInfo>(json);
    read::<types::OrphanTxs>(json);
    read::<types::RawAddrman>(json);
    read::<types::SmartFee>(json);
    read::<types::ChainTips>(json);
    read::<types::Banned>(json);
}

fuzz_target!(|input: &[u8]| {
    for status in [200, 401, 403, 404, 500, 503] {
        match answer::read("host:1", "method", 1, status, input) {
            Ok(answer) => {
                assert_eq!(status, 200);
                read_all(answer.json());
            }
            Err(error) => assert!(error.to_string().len() < 2000),
        }
    }
    if let Ok(json) = std::str::from_utf8(input) {
        read_all(json);
    }
});
