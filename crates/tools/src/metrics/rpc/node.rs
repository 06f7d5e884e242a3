//! Metrics of RPC methods whose answer is a handful of numbers.

use std::collections::BTreeMap;

use peer_observer_events::proto::observer::{BannedSubnet, ChainTip};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    AddrManInfo, BlockchainInfo, ChainTxStats, EstimateSmartFee, FeeEstimateMode, MemoryInfo, MempoolInfo,
    NetTotals, NetworkInfo,
};
use peer_observer_exporter::labels::joined;
use peer_observer_exporter::registry::{FloatGauge, Gauge, Registry, Snapshot};

use super::whole;

/// Registers gauges as the fields of a struct, so that each has its name, its help and its field in one place.
macro_rules! gauges {
    ($(#[$doc:meta])* $Name:ident { $($field:ident: $Kind:ident $register:ident $metric:literal $help:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $Name {
            $($field: $Kind,)*
        }

        impl $Name {
            fn new(r: &mut Registry) -> Self {
                $Name { $($field: r.$register(concat!("peerobserver_rpc_", $metric), $help),)* }
            }
        }
    };
}

gauges! {
    /// getmempoolinfo
    Mempool {
        loaded: Gauge gauge "mempoolinfo_mempool_loaded" "The mempool that the last run saved has been loaded (1) or not (0).",
        transactions: Gauge gauge "mempoolinfo_transaction_count" "Transactions in the mempool.",
        fees: FloatGauge float_gauge "mempoolinfo_transaction_fees" "Fees of the transactions in the mempool, BTC.",
        vbytes: Gauge gauge "mempoolinfo_transaction_vbyte" "Virtual bytes of the transactions in the mempool.",
        usage: Gauge gauge "mempoolinfo_memory_usage" "Memory that the mempool takes, bytes.",
        max: Gauge gauge "mempoolinfo_memory_max" "Memory that the mempool may take, bytes.",
        min_feerate: FloatGauge float_gauge "mempoolinfo_min_mempool_feerate" "Lowest fee rate that the mempool accepts, sat/vB.",
        min_relay_feerate: FloatGauge float_gauge "mempoolinfo_min_relay_tx_feerate" "Lowest fee rate that is relayed, sat/vB.",
        incremental_feerate: FloatGauge float_gauge "mempoolinfo_incremental_relay_feerate" "Step of the fee rate for replacements and for limiting the mempool, sat/vB.",
    }
}

gauges! {
    /// uptime, getnettotals, getmemoryinfo
    Process {
        uptime: Gauge gauge "uptime" "Time since the node started, seconds.",
        received: Gauge gauge "nettotals_total_bytes_received" "Bytes that the node received since it started.",
        sent: Gauge gauge "nettotals_total_bytes_sent" "Bytes that the node sent since it started.",
        locked_used: Gauge gauge "memoryinfo_locked_used" "Memory for keys that is in use, bytes.",
        locked_free: Gauge gauge "memoryinfo_locked_free" "Memory for keys that is free, bytes.",
        locked_total: Gauge gauge "memoryinfo_locked_total" "Memory for keys, bytes.",
        locked: Gauge gauge "memoryinfo_locked_locked" "Memory for keys that cannot be swapped out, bytes.",
        chunks_used: Gauge gauge "memoryinfo_locked_chunks_used" "Pieces of the memory for keys that are in use.",
        chunks_free: Gauge gauge "memoryinfo_locked_chunks_free" "Pieces of the memory for keys that are free.",
    }
}

gauges! {
    /// getchaintxstats
    TxStats {
        transactions: Gauge gauge "chaintxstats_tx_count" "Transactions in the chain up to the end of the window.",
        final_height: Gauge gauge "chaintxstats_window_final_block_height" "Height at the end of the window, blocks.",
        blocks: Gauge gauge "chaintxstats_window_block_count" "Length of the window, blocks.",
        window_transactions: Gauge gauge "chaintxstats_window_tx_count" "Transactions in the window.",
        interval: Gauge gauge "chaintxstats_window_interval" "Length of the window, seconds.",
        rate: FloatGauge float_gauge "chaintxstats_tx_rate" "Transactions per second in the window.",
    }
}

gauges! {
    /// getnetworkinfo
    Network {
        version: Gauge gauge "networkinfo_version" "Version of the node as a number.",
        protocol_version: Gauge gauge "networkinfo_protocol_version" "P2P protocol version of the node.",
        time_offset: Gauge gauge "networkinfo_time_offset" "What the clock of the node is off from its peers', seconds.",
        connections: Gauge gauge "networkinfo_connections" "Connections of the node.",
        inbound: Gauge gauge "networkinfo_connections_in" "Inbound connections of the node.",
        outbound: Gauge gauge "networkinfo_connections_out" "Outbound connections of the node.",
        active: Gauge gauge "networkinfo_network_active" "P2P networking is on (1) or off (0).",
        relay_fee: FloatGauge float_gauge "networkinfo_relay_fee" "Lowest fee rate that is relayed, sat/vB.",
        incremental_fee: FloatGauge float_gauge "networkinfo_incremental_fee" "Step of the fee rate for replacements and for limiting the mempool, sat/vB.",
        warnings: Gauge gauge "networkinfo_warnings" "Warnings of the node in getnetworkinfo.",
        local_addresses: Gauge gauge "networkinfo_local_addresses_count" "Addresses that the node thinks it can be reached at.",
    }
}

gauges! {
    /// getblockchaininfo
    Chain {
        blocks: Gauge gauge "blockchaininfo_blocks" "Height of the chain that is validated, blocks.",
        headers: Gauge gauge "blockchaininfo_headers" "Height of the headers that are validated, blocks.",
        difficulty: FloatGauge float_gauge "blockchaininfo_difficulty" "Difficulty at the tip.",
        progress: FloatGauge float_gauge "blockchaininfo_verification_progress" "Share of the chain that is verified, as the node guesses, 0 to 1.",
        initial_download: Gauge gauge "blockchaininfo_initial_block_download" "The node is in initial block download (1) or not (0).",
        size: Gauge gauge "blockchaininfo_size_on_disk" "Block and undo files, bytes.",
        pruned: Gauge gauge "blockchaininfo_pruned" "Block files are pruned (1) or not (0).",
        prune_height: Gauge gauge "blockchaininfo_prune_height" "Lowest height that is kept, blocks; 0 when nothing is pruned.",
        prune_target: Gauge gauge "blockchaininfo_prune_target_size" "Size that block files are pruned to, bytes; 0 when nothing is pruned.",
        warnings: Gauge gauge "blockchaininfo_warnings" "Warnings of the node in getblockchaininfo.",
    }
}

/// Takes over these answers.
#[derive(Debug)]
pub(super) struct Node {
    mempool: Mempool,
    process: Process,
    tx_stats: TxStats,
    network: Network,
    networks: Snapshot,
    chain: Chain,
    addrman: Snapshot,
    fees: Snapshot,
    tips: Snapshot,
    longest_fork: Gauge,
    banned: Gauge,
}

impl Node {
    /// Registers the metrics.
    pub(super) fn new(r: &mut Registry) -> Self {
        Node {
            mempool: Mempool::new(r),
            process: Process::new(r),
            tx_stats: TxStats::new(r),
            network: Network::new(r),
            networks: r.snapshot(
                "peerobserver_rpc_networkinfo_networks",
                "What is set for a network: it is limited (with -onlynet) or reachable, 1 or 0.",
                &["network", "property"],
            ),
            chain: Chain::new(r),
            addrman: r.snapshot(
                "peerobserver_rpc_addrmaninfo",
                "Addresses in the address manager, by network and table.",
                &["network", "table"],
            ),
            fees: r.snapshot(
                "peerobserver_rpc_estimatesmartfee_feerate",
                "Fee rate that the node estimates, sat/vB, by target in blocks and mode.",
                &["target_block", "mode"],
            ),
            tips: r.snapshot(
                "peerobserver_rpc_chaintips",
                "Tips of branches that the node knows, by what is known of them.",
                &["status"],
            ),
            longest_fork: r.gauge(
                "peerobserver_rpc_chaintips_longest_fork",
                "Length of the longest branch beside the main chain whose blocks are valid as far as known, blocks.",
            ),
            banned: r.gauge("peerobserver_rpc_banned", "Addresses and subnets that the operator banned."),
        }
    }

    /// Takes over an answer.
    pub(super) fn observe(&self, r: &mut Registry, event: &RpcEvent) {
        match event {
            RpcEvent::MempoolInfo(info) => self.observe_mempool(r, info),
            RpcEvent::Uptime(seconds) => r.set(self.process.uptime, (*seconds).into()),
            RpcEvent::NetTotals(totals) => self.observe_totals(r, totals),
            RpcEvent::MemoryInfo(info) => self.observe_memory(r, info),
            RpcEvent::AddrmanInfo(info) => self.observe_addrman(r, info),
            RpcEvent::ChainTxStats(stats) => self.observe_tx_stats(r, stats),
            RpcEvent::NetworkInfo(info) => self.observe_network(r, info),
            RpcEvent::BlockchainInfo(info) => self.observe_chain(r, info),
            RpcEvent::EstimateSmartFee(fee) => self.observe_fee(r, fee),
            // These have files of their own.
            RpcEvent::PeerInfos(_) | RpcEvent::OrphanTxs(_) | RpcEvent::Addrman(_) => {}
        }
    }

    fn observe_mempool(&self, r: &mut Registry, info: &MempoolInfo) {
        let m = &self.mempool;
        r.set(m.loaded, info.loaded.into());
        r.set(m.transactions, info.size);
        r.set_float(m.fees, info.total_fee);
        r.set(m.vbytes, info.bytes);
        r.set(m.usage, info.usage);
        r.set(m.max, info.max_mempool);
        r.set_float(m.min_feerate, info.mempoolminfee);
        r.set_float(m.min_relay_feerate, info.minrelaytxfee);
        r.set_float(m.incremental_feerate, info.incrementalrelayfee);
    }

    fn observe_totals(&self, r: &mut Registry, totals: &NetTotals) {
        r.set(self.process.received, whole(totals.total_bytes_received));
        r.set(self.process.sent, whole(totals.total_bytes_sent));
    }

    fn observe_memory(&self, r: &mut Registry, info: &MemoryInfo) {
        let p = &self.process;
        r.set(p.locked_used, whole(info.used));
        r.set(p.locked_free, whole(info.free));
        r.set(p.locked_total, whole(info.total));
        r.set(p.locked, whole(info.locked));
        r.set(p.chunks_used, whole(info.chunks_used));
        r.set(p.chunks_free, whole(info.chunks_free));
    }

    fn observe_addrman(&self, r: &mut Registry, info: &AddrManInfo) {
        let tables = info.networks.iter().flat_map(|(network, sizes)| {
            [("new", sizes.new), ("tried", sizes.tried), ("total", sizes.total)]
                .map(|(table, size)| (joined(&[network, table]), size as f64))
        });
        r.replace(self.addrman, tables);
    }

    fn observe_tx_stats(&self, r: &mut Registry, stats: &ChainTxStats) {
        let t = &self.tx_stats;
        r.set(t.transactions, stats.tx_count.into());
        r.set(t.final_height, stats.window_final_block_height.into());
        r.set(t.blocks, stats.window_block_count.into());
        r.set(t.window_transactions, stats.window_tx_count.unwrap_or(0).into());
        r.set(t.interval, stats.window_interval.unwrap_or(0).into());
        r.set_float(t.rate, stats.tx_rate.unwrap_or(0.0));
    }

    fn observe_network(&self, r: &mut Registry, info: &NetworkInfo) {
        let n = &self.network;
        r.set(n.version, info.version.into());
        r.set(n.protocol_version, info.protocol_version.into());
        r.set(n.time_offset, info.time_offset.into());
        r.set(n.connections, info.connections.into());
        r.set(n.inbound, info.connections_in.into());
        r.set(n.outbound, info.connections_out.into());
        r.set(n.active, info.network_active.into());
        r.set_float(n.relay_fee, info.relay_fee);
        r.set_float(n.incremental_fee, info.incremental_fee);
        r.set(n.warnings, whole(info.warnings.len() as u64));
        r.set(n.local_addresses, whole(info.local_addresses.len() as u64));
        let properties = info.networks.iter().flat_map(|network| {
            [("limited", network.limited), ("reachable", network.reachable)]
                .map(|(property, is)| (joined(&[&network.name, property]), f64::from(u8::from(is))))
        });
        r.replace(self.networks, properties);
    }

    fn observe_chain(&self, r: &mut Registry, info: &BlockchainInfo) {
        let c = &self.chain;
        r.set(c.blocks, info.blocks.into());
        r.set(c.headers, info.headers.into());
        r.set_float(c.difficulty, info.difficulty);
        r.set_float(c.progress, info.verificationprogress);
        r.set(c.initial_download, info.initialblockdownload.into());
        r.set(c.size, whole(info.size_on_disk));
        r.set(c.pruned, info.pruned.into());
        r.set(c.prune_height, info.prune_height.into());
        r.set(c.prune_target, whole(info.prune_target_size));
        r.set(c.warnings, whole(info.warnings.len() as u64));
    }

    /// An estimate that failed takes the one before away: an old fee rate would look like a new one.
    fn observe_fee(&self, r: &mut Registry, fee: &EstimateSmartFee) {
        let mode = FeeEstimateMode::try_from(fee.mode).unwrap_or_default();
        let key = joined(&[&fee.requested_blocks.to_string(), mode.as_str_name()]);
        match fee.fee_rate {
            Some(rate) => r.set_in(self.fees, &key, rate),
            None => r.remove_in(self.fees, &key),
        }
    }

    /// Takes over the branches that the node knows.
    pub(super) fn observe_tips(&self, r: &mut Registry, tips: &[ChainTip]) {
        let mut by_status: BTreeMap<&str, f64> = BTreeMap::new();
        for tip in tips {
            *by_status.entry(&tip.status).or_default() += 1.0;
        }
        r.replace(self.tips, by_status.into_iter().map(|(status, n)| (joined(&[status]), n)));
        let forks = tips.iter().filter(|tip| matches!(tip.status.as_str(), "valid-fork" | "valid-headers"));
        r.set(self.longest_fork, forks.map(|tip| tip.branch_length.into()).max().unwrap_or(0));
    }

    /// Takes over what the operator banned.
    pub(super) fn observe_banned(&self, r: &mut Registry, subnets: &[BannedSubnet]) {
        r.set(self.banned, whole(subnets.len() as u64));
    }
}
