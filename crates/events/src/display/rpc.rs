//! Answers of RPC methods. Large ones in short: what a line can show of 125 peers or 80,000 addresses is how many.

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Fields, List, Name};
use crate::proto::rpc_extractor::rpc::RpcEvent;
use crate::proto::rpc_extractor::{
    AddrManInfo, Addrman, BlockchainInfo, ChainTxStats, EstimateSmartFee, FeeEstimateMode, MemoryInfo,
    MempoolInfo, NetTotals, NetworkInfo, OrphanTx, OrphanTxs, PeerInfo, PeerInfos, Rpc,
};

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rpc_event {
            Some(RpcEvent::PeerInfos(event)) => event.fmt(f),
            Some(RpcEvent::MempoolInfo(event)) => event.fmt(f),
            Some(RpcEvent::Uptime(seconds)) => write!(f, "Uptime({seconds}s)"),
            Some(RpcEvent::NetTotals(event)) => event.fmt(f),
            Some(RpcEvent::MemoryInfo(event)) => event.fmt(f),
            Some(RpcEvent::AddrmanInfo(event)) => event.fmt(f),
            Some(RpcEvent::ChainTxStats(event)) => event.fmt(f),
            Some(RpcEvent::NetworkInfo(event)) => event.fmt(f),
            Some(RpcEvent::BlockchainInfo(event)) => event.fmt(f),
            Some(RpcEvent::OrphanTxs(event)) => event.fmt(f),
            Some(RpcEvent::Addrman(event)) => event.fmt(f),
            Some(RpcEvent::EstimateSmartFee(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for PeerInfos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerInfos([{}])", List(&self.infos))
    }
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerInfo(id={})", self.id)
    }
}

impl fmt::Display for MempoolInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MempoolInfo(size={}txn, bytes={}vB, usage={}b)", self.size, self.bytes, self.usage)
    }
}

impl fmt::Display for NetTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetTotals(recv={}B, sent={}B)", self.total_bytes_received, self.total_bytes_sent)
    }
}

impl fmt::Display for MemoryInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryInfo(used={}B, total={}B, locked={}B)", self.used, self.total, self.locked)
    }
}

impl fmt::Display for AddrManInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The node counts all of them under a name of its own, where it does: adding that up would count twice.
        let total = match self.networks.get("all_networks") {
            Some(all) => all.total,
            None => self.networks.values().fold(0, |sum, network| network.total.saturating_add(sum)),
        };
        write!(f, "AddrManInfo(total={total})")
    }
}

impl fmt::Display for ChainTxStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "ChainTxStats")
            .field("time", self.time)
            .field("tx_count", self.tx_count)
            .field("window_final_block_hash", Escaped(&self.window_final_block_hash))
            .field("window_final_block_height", self.window_final_block_height)
            .field("window_block_count", self.window_block_count)
            .some("window_tx_count", self.window_tx_count)
            .some("window_interval", self.window_interval.map(|seconds| Unit(seconds, "s")))
            .some("tx_rate", self.tx_rate.map(|rate| Unit(rate, "/s")))
            .end()
    }
}

impl fmt::Display for NetworkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "NetworkInfo")
            .field("version", self.version)
            .field("subversion", Escaped(&self.subversion))
            .field("protocol_version", self.protocol_version)
            .field("local_services", Escaped(&self.local_services))
            .field("network_active", self.network_active)
            .field("connections_in", self.connections_in)
            .field("connections_out", self.connections_out)
            .field("relay_fee", Unit(self.relay_fee, "sat/vB"))
            .field("warnings", Texts(&self.warnings))
            .end()
    }
}

impl fmt::Display for BlockchainInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "BlockchainInfo")
            .field("chain", Escaped(&self.chain))
            .field("blocks", self.blocks)
            .field("headers", self.headers)
            .field("bestblockhash", Escaped(&self.bestblockhash))
            .field("verificationprogress", self.verificationprogress)
            .field("initialblockdownload", self.initialblockdownload)
            .field("size_on_disk", Unit(self.size_on_disk, "B"))
            .field("pruned", self.pruned)
            .field("warnings", Texts(&self.warnings))
            .end()
    }
}

impl fmt::Display for OrphanTxs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrphanTxs([{}])", List(&self.orphans))
    }
}

impl fmt::Display for OrphanTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OrphanTx(txid={}, wtxid={}, vsize={}, from=[{}])",
            Escaped(&self.txid),
            Escaped(&self.wtxid),
            self.vsize,
            List(&self.from)
        )
    }
}

impl fmt::Display for Addrman {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |table: &std::collections::BTreeMap<u32, crate::proto::rpc_extractor::AddrmanBucket>| {
            table.values().map(|bucket| bucket.entries.len()).sum::<usize>()
        };
        write!(f, "Addrman(new={}, tried={})", count(&self.new), count(&self.tried))
    }
}

impl fmt::Display for EstimateSmartFee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = FeeEstimateMode::try_from(self.mode).ok().map(|mode| mode.as_str_name());
        Fields::new(f, "EstimateSmartFee")
            .some("fee_rate", self.fee_rate.map(|rate| Unit(rate, "sat/vB")))
            .field("blocks", self.blocks)
            .field("requested_blocks", self.requested_blocks)
            .field("mode", Name(mode, self.mode))
            .field("errors", Texts(&self.errors))
            .end()
    }
}

/// A number with its unit behind it.
struct Unit<T>(T, &'static str);

impl<T: fmt::Display> fmt::Display for Unit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

/// Sentences of the node.
struct Texts<'a>(&'a [String]);

impl fmt::Display for Texts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", List(self.0.iter().map(|text| Escaped(text))))
    }
}
