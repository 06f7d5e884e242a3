//! Metrics of answers of RPC methods: what a node says of itself.
//!
//! | file | what it is for |
//! |---|---|
//! | node.rs | methods whose answer is a handful of numbers: chain, network, mempool, memory, fees |
//! | peers.rs | getpeerinfo |
//! | orphans.rs | getorphantxs, and what changed since the answer before |
//! | addrman.rs | getrawaddrman, and what changed since the answer before |

mod addrman;
mod node;
mod orphans;
mod peers;

use peer_observer_events::proto::observer::{RpcExtra, rpc_extra};
use peer_observer_events::proto::rpc_extractor::Rpc as Answer;
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_exporter::registry::Registry;

use crate::known::Known;

/// Takes over what RPC methods answer.
#[derive(Debug)]
pub(crate) struct Rpc {
    peers: peers::Peers,
    node: node::Node,
    orphans: orphans::Orphans,
    addrman: addrman::AddrMan,
}

impl Rpc {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Rpc {
            peers: peers::Peers::new(r),
            node: node::Node::new(r),
            orphans: orphans::Orphans::new(r),
            addrman: addrman::AddrMan::new(r),
        }
    }

    /// Takes over an answer of that time, ms since the UNIX epoch.
    pub(crate) fn observe(&mut self, r: &mut Registry, known: &Known, answer: &Answer, timestamp_ms: u64) {
        match &answer.rpc_event {
            Some(RpcEvent::PeerInfos(peers)) => self.peers.observe(r, known, &peers.infos),
            Some(RpcEvent::OrphanTxs(orphans)) => self.orphans.observe(r, &orphans.orphans),
            Some(RpcEvent::Addrman(addrman)) => self.addrman.observe(r, addrman, timestamp_ms),
            Some(event) => self.node.observe(r, event),
            None => {}
        }
    }

    /// Takes over an answer that the public schema lacks, of that time, ms since the UNIX epoch.
    pub(crate) fn observe_extra(&mut self, r: &mut Registry, extra: &RpcExtra, timestamp_ms: u64) {
        match &extra.rpc_event {
            Some(rpc_extra::RpcEvent::AddrmanPart(part)) => self.addrman.observe_part(r, part, timestamp_ms),
            Some(rpc_extra::RpcEvent::ChainTips(tips)) => self.node.observe_tips(r, &tips.tips),
            Some(rpc_extra::RpcEvent::Banned(banned)) => self.node.observe_banned(r, &banned.subnets),
            None => {}
        }
    }
}

/// A count as a gauge has it.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(items: impl Iterator) -> i64 {
    whole(items.count() as u64)
}
