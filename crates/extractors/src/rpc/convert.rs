//! From answers of the node to the schema.
//!
//! Units stay as the node has them, but for the fee rates of getmempoolinfo, getnetworkinfo and estimatesmartfee: these are sat/vB on the
//! wire, as the public extractor sends them. The fee filters of peers stay BTC/kvB there, and so here.

use bytes::Bytes;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::Transaction;
use peer_observer_events::proto::observer::{self, RpcExtra, rpc_extra};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    AddrManInfo, AddrManInfoNetwork, Addrman, AddrmanBucket, AddrmanEntry, BlockchainInfo, ChainTxStats,
    EstimateSmartFee, FeeEstimateMode, MemoryInfo, MempoolInfo, NetTotals, NetworkInfo,
    NetworkInfoLocalAddress, NetworkInfoNetwork, OrphanTx, OrphanTxs, PeerInfo, PeerInfos, Rpc, UploadTarget,
};
use peer_observer_node::rpc::types;

use std::collections::BTreeMap;

/// Why an answer does not become an event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JSON is not that of the method.
    #[error(transparent)]
    Form(#[from] types::FormError),
    /// A text that has to be hex is not.
    #[error("the {what} of an orphan is not hex of the right length")]
    Hex {
        /// Which text.
        what: &'static str,
    },
    /// A place in the address manager.
    #[error("{key:?} in getrawaddrman is no BUCKET/POSITION")]
    Place {
        /// The beginning of the text.
        key: String,
    },
}

fn rpc(event: RpcEvent) -> PeerObserverEvent {
    PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) })
}

fn extra(event: rpc_extra::RpcEvent) -> PeerObserverEvent {
    PeerObserverEvent::RpcExtra(RpcExtra { rpc_event: Some(event) })
}

/// From BTC/kvB to sat/vB. The node knows fee rates in whole sat/kvB (Bitcoin Core policy/feerate.h).
fn sat_per_vb(btc_per_kvb: f64) -> f64 {
    (btc_per_kvb * 1e8).round() / 1e3
}

pub(super) fn peer_infos(answer: types::PeerInfos) -> PeerObserverEvent {
    rpc(RpcEvent::PeerInfos(PeerInfos { infos: answer.0.into_iter().map(peer_info).collect() }))
}

fn peer_info(peer: types::PeerInfo) -> PeerInfo {
    PeerInfo {
        id: peer.id,
        address: peer.addr,
        address_bind: peer.addrbind,
        address_local: peer.addrlocal,
        network: peer.network,
        mapped_as: peer.mapped_as,
        services: peer.services,
        relay_transactions: peer.relaytxes,
        last_send: peer.lastsend,
        last_received: peer.lastrecv,
        last_transaction: peer.last_transaction,
        last_block: peer.last_block,
        bytes_sent: peer.bytessent,
        bytes_received: peer.bytesrecv,
        connection_time: peer.conntime,
        time_offset: peer.timeoffset,
        ping_time: peer.pingtime,
        minimum_ping: peer.minping,
        ping_wait: peer.pingwait,
        version: peer.version,
        subversion: peer.subver,
        inbound: peer.inbound,
        bip152_hb_to: peer.bip152_hb_to,
        bip152_hb_from: peer.bip152_hb_from,
        starting_height: peer.startingheight,
        synced_headers: peer.synced_headers,
        synced_blocks: peer.synced_blocks,
        inflight: peer.inflight,
        addr_relay_enabled: peer.addr_relay_enabled,
        addr_processed: peer.addr_processed,
        addr_rate_limited: peer.addr_rate_limited,
        permissions: peer.permissions,
        minfeefilter: peer.minfeefilter,
        bytes_sent_per_message: peer.bytessent_per_msg,
        bytes_received_per_message: peer.bytesrecv_per_msg,
        connection_type: peer.connection_type,
        transport_protocol_type: peer.transport_protocol_type,
        inv_to_send: peer.inv_to_send,
        cpu_load: peer.cpu_load,
    }
}

pub(super) fn mempool_info(info: &types::MempoolInfo) -> PeerObserverEvent {
    rpc(RpcEvent::MempoolInfo(MempoolInfo {
        loaded: info.loaded,
        size: info.size,
        bytes: info.bytes,
        usage: info.usage,
        total_fee: info.total_fee,
        max_mempool: info.maxmempool,
        mempoolminfee: sat_per_vb(info.mempoolminfee),
        minrelaytxfee: sat_per_vb(info.minrelaytxfee),
        incrementalrelayfee: sat_per_vb(info.incrementalrelayfee),
        unbroadcastcount: info.unbroadcastcount,
        fullrbf: info.fullrbf,
    }))
}

pub(super) fn uptime(uptime: types::Uptime) -> PeerObserverEvent {
    rpc(RpcEvent::Uptime(uptime.0))
}

pub(super) fn net_totals(totals: &types::NetTotals) -> PeerObserverEvent {
    let target = &totals.uploadtarget;
    rpc(RpcEvent::NetTotals(NetTotals {
        total_bytes_received: totals.totalbytesrecv,
        total_bytes_sent: totals.totalbytessent,
        time_millis: totals.timemillis,
        upload_target: UploadTarget {
            timeframe: target.timeframe,
            target: target.target,
            target_reached: target.target_reached,
            serve_historical_blocks: target.serve_historical_blocks,
            bytes_left_in_cycle: target.bytes_left_in_cycle,
            time_left_in_cycle: target.time_left_in_cycle,
        },
    }))
}

pub(super) fn memory_info(info: &types::MemoryInfo) -> PeerObserverEvent {
    let locked = &info.locked;
    rpc(RpcEvent::MemoryInfo(MemoryInfo {
        used: locked.used,
        free: locked.free,
        total: locked.total,
        locked: locked.locked,
        chunks_used: locked.chunks_used,
        chunks_free: locked.chunks_free,
    }))
}

pub(super) fn addrman_info(info: types::AddrManInfo) -> PeerObserverEvent {
    let network =
        |n: types::AddrManInfoNetwork| AddrManInfoNetwork { new: n.new, tried: n.tried, total: n.total };
    let networks = info.0.into_iter().map(|(name, n)| (name, network(n))).collect();
    rpc(RpcEvent::AddrmanInfo(AddrManInfo { networks }))
}

pub(super) fn chain_tx_stats(stats: types::ChainTxStats) -> PeerObserverEvent {
    rpc(RpcEvent::ChainTxStats(ChainTxStats {
        time: stats.time,
        tx_count: stats.txcount,
        window_final_block_hash: stats.window_final_block_hash,
        window_final_block_height: stats.window_final_block_height,
        window_block_count: stats.window_block_count,
        window_tx_count: stats.window_tx_count,
        window_interval: stats.window_interval,
        tx_rate: stats.txrate,
    }))
}

pub(super) fn network_info(info: types::NetworkInfo) -> PeerObserverEvent {
    let network = |n: types::NetworkInfoNetwork| NetworkInfoNetwork {
        name: n.name,
        limited: n.limited,
        reachable: n.reachable,
        proxy: n.proxy,
        proxy_randomize_credentials: n.proxy_randomize_credentials,
    };
    let local =
        |a: types::LocalAddress| NetworkInfoLocalAddress { address: a.address, port: a.port, score: a.score };
    rpc(RpcEvent::NetworkInfo(NetworkInfo {
        version: info.version,
        subversion: info.subversion,
        protocol_version: info.protocolversion,
        local_services: info.localservices,
        local_services_names: info.localservicesnames,
        local_relay: info.localrelay,
        time_offset: info.timeoffset,
        connections: info.connections,
        connections_in: info.connections_in,
        connections_out: info.connections_out,
        network_active: info.networkactive,
        networks: info.networks.into_iter().map(network).collect(),
        relay_fee: sat_per_vb(info.relayfee),
        incremental_fee: sat_per_vb(info.incrementalfee),
        local_addresses: info.localaddresses.into_iter().map(local).collect(),
        warnings: info.warnings,
    }))
}

pub(super) fn blockchain_info(info: types::BlockchainInfo) -> PeerObserverEvent {
    rpc(RpcEvent::BlockchainInfo(BlockchainInfo {
        chain: info.chain,
        blocks: info.blocks,
        headers: info.headers,
        bestblockhash: info.bestblockhash,
        difficulty: info.difficulty,
        time: info.time,
        mediantime: info.mediantime,
        verificationprogress: info.verificationprogress,
        initialblockdownload: info.initialblockdownload,
        chainwork: info.chainwork,
        size_on_disk: info.size_on_disk,
        pruned: info.pruned,
        prune_height: info.pruneheight,
        prune_target_size: info.prune_target_size,
        warnings: info.warnings,
    }))
}

pub(super) fn orphan_txs(answer: types::OrphanTxs) -> Result<PeerObserverEvent, Error> {
    let orphans = answer.0.into_iter().map(orphan_tx).collect::<Result<_, _>>()?;
    Ok(rpc(RpcEvent::OrphanTxs(OrphanTxs { orphans })))
}

fn orphan_tx(orphan: types::OrphanTx) -> Result<OrphanTx, Error> {
    let transaction = Transaction {
        txid: internal_order(&orphan.txid).ok_or(Error::Hex { what: "txid" })?,
        wtxid: internal_order(&orphan.wtxid).ok_or(Error::Hex { what: "wtxid" })?,
        raw: Some(hex(&orphan.hex).ok_or(Error::Hex { what: "raw transaction" })?.into()),
    };
    Ok(OrphanTx {
        txid: orphan.txid,
        wtxid: orphan.wtxid,
        bytes: orphan.bytes,
        vsize: orphan.vsize,
        weight: orphan.weight,
        from: orphan.from,
        transaction,
    })
}

/// A hash in display order, as bytes in the order in which they travel.
fn internal_order(text: &str) -> Option<Bytes> {
    let mut bytes = hex(text).filter(|bytes| bytes.len() == 32)?;
    bytes.reverse();
    Some(bytes.into())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The event of what getrawaddrman answered, for answers that were recorded.
///
/// # Errors
/// When it is no such answer.
pub fn recorded_addrman(json: &str) -> Result<PeerObserverEvent, Error> {
    addrman(types::read_json(json)?.value)
}

pub(super) fn addrman(answer: types::RawAddrman) -> Result<PeerObserverEvent, Error> {
    Ok(rpc(RpcEvent::Addrman(Addrman { new: table(answer.new)?, tried: table(answer.tried)? })))
}

fn table(entries: BTreeMap<String, types::RawAddrmanEntry>) -> Result<BTreeMap<u32, AddrmanBucket>, Error> {
    let mut buckets: BTreeMap<u32, AddrmanBucket> = BTreeMap::new();
    for (key, entry) in entries {
        let place = key.split_once('/').and_then(|(b, p)| Some((b.parse().ok()?, p.parse().ok()?)));
        let Some((bucket, position)) = place else {
            return Err(Error::Place { key: key.chars().take(20).collect() });
        };
        let entry = AddrmanEntry {
            address: entry.address,
            port: entry.port,
            network: entry.network,
            services: entry.services,
            time: entry.time,
            source: entry.source,
            source_network: entry.source_network,
            mapped_as: entry.mapped_as,
            source_mapped_as: entry.source_mapped_as,
        };
        buckets.entry(bucket).or_default().entries.insert(position, entry);
    }
    Ok(buckets)
}

pub(super) fn smart_fee(fee: types::SmartFee, target: u32, mode: FeeEstimateMode) -> PeerObserverEvent {
    rpc(RpcEvent::EstimateSmartFee(EstimateSmartFee {
        fee_rate: fee.feerate.map(sat_per_vb),
        blocks: fee.blocks,
        requested_blocks: target,
        mode: mode as i32,
        errors: fee.errors,
    }))
}

pub(super) fn chain_tips(answer: types::ChainTips) -> PeerObserverEvent {
    let tip = |tip: types::ChainTip| observer::ChainTip {
        height: tip.height,
        hash: tip.hash,
        branch_length: tip.branchlen,
        status: tip.status,
    };
    let tips = answer.0.into_iter().map(tip).collect();
    extra(rpc_extra::RpcEvent::ChainTips(observer::ChainTips { tips }))
}

pub(super) fn banned(answer: types::Banned) -> PeerObserverEvent {
    let subnet = |ban: types::BannedSubnet| observer::BannedSubnet {
        address: ban.address,
        ban_created: ban.ban_created,
        banned_until: ban.banned_until,
    };
    let subnets = answer.0.into_iter().map(subnet).collect();
    extra(rpc_extra::RpcEvent::Banned(observer::Banned { subnets }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_in_pairs_or_not_at_all() {
        assert_eq!(hex("00fFa5"), Some(vec![0, 255, 0xa5]));
        assert_eq!(hex(""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", "é", "00 1"] {
            assert_eq!(hex(bad), None, "{bad}");
        }
        assert_eq!(internal_order(&format!("01{}", "00".repeat(31))).unwrap().last(), Some(&1));
        assert_eq!(internal_order("01"), None);
    }

    #[test]
    fn a_fee_rate_is_exact_in_whole_satoshis_a_kilobyte() {
        for (btc_per_kvb, expected) in [(0.00001, 1.0), (0.000001, 0.1), (1e-8, 0.001), (0.00012345, 12.345)]
        {
            assert_eq!(sat_per_vb(btc_per_kvb), expected);
        }
    }

    #[test]
    fn an_answer_that_would_lose_something_is_an_error() {
        let orphans = |txid: &str, hex: &str| {
            let (txid, hex) = (txid.to_owned(), hex.to_owned());
            types::OrphanTxs(vec![types::OrphanTx { wtxid: txid.clone(), txid, hex, ..Default::default() }])
        };
        let id = "00".repeat(32);
        assert!(orphan_txs(orphans(&id, "00")).is_ok());
        assert!(matches!(orphan_txs(orphans("00", "00")), Err(Error::Hex { what: "txid" })));
        assert!(matches!(orphan_txs(orphans(&id, "0")), Err(Error::Hex { .. })));
        for key in ["5", "5/", "/5", "a/5", "-1/5", "5/5/5", "4294967296/1"] {
            let new = BTreeMap::from([(key.to_owned(), types::RawAddrmanEntry::default())]);
            let answer = types::RawAddrman { new, ..Default::default() };
            assert!(matches!(addrman(answer), Err(Error::Place { .. })), "{key}");
        }
    }
}
