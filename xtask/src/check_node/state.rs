//! Mempool, blocks and connections: as the node says, and as our events add up to.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use peer_observer_events::conn_type;
use peer_observer_events::proto::ebpf_extractor::connection::{Connection, connection_event};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event;
use peer_observer_events::proto::ebpf_extractor::validation::validation_event;
use peer_observer_events::proto::observer::utxo_cache;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_testkit::bitcoind::RealNode;
use serde_json::{Value, json};

/// The smallest part of a coin.
const SAT_PER_BTC: f64 = 1e8;

fn ebpf(event: &Event) -> Option<&EbpfEvent> {
    match event.peer_observer_event.as_ref()? {
        PeerObserverEvent::EbpfExtractor(ebpf) => ebpf.ebpf_event.as_ref(),
        _ => None,
    }
}

/// A hash as RPC writes it: the reverse, in hex.
fn display_order(hash: &[u8]) -> String {
    hash.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// Entries that differ, one line each.
fn differences<T: PartialEq + std::fmt::Debug>(
    theirs: &BTreeMap<String, T>,
    ours: &BTreeMap<String, T>,
) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    keys.into_iter()
        .filter(|key| theirs.get(*key) != ours.get(*key))
        .map(|key| format!("{key}: node {:?}, events {:?}", theirs.get(key), ours.get(key)))
        .collect()
}

/// Compares the mempool, which was empty when `events` began: transaction ids, vsizes, fees.
pub(super) fn mempool(node: &RealNode, events: &[Arc<Event>]) -> Result<(String, Vec<String>)> {
    let mut ours = BTreeMap::new();
    let (mut added, mut removed, mut replaced) = (0, 0, 0);
    for event in events {
        let Some(EbpfEvent::Mempool(mempool)) = ebpf(event) else { continue };
        match &mempool.event {
            Some(mempool_event::Event::Added(tx)) => {
                added += 1;
                ours.insert(display_order(&tx.txid), (i64::from(tx.vsize), tx.fee));
            }
            Some(mempool_event::Event::Removed(tx)) => {
                removed += 1;
                ours.remove(&display_order(&tx.txid));
            }
            Some(mempool_event::Event::Replaced(_)) => replaced += 1,
            _ => {}
        }
    }
    let pool = node.rpc("getrawmempool", json!([true]))?;
    let mut theirs = BTreeMap::new();
    for (txid, entry) in pool.as_object().context("getrawmempool: no object")? {
        let vsize = entry["vsize"].as_i64().context("getrawmempool: no vsize")?;
        let fee = entry["fees"]["base"].as_f64().context("getrawmempool: no fee")?;
        theirs.insert(txid.clone(), (vsize, (fee * SAT_PER_BTC).round() as i64));
    }
    let seen = format!(
        "{} transactions in the mempool after {added} added, {removed} removed, {replaced} replaced",
        theirs.len()
    );
    Ok((seen, differences(&theirs, &ours)))
}

/// Reasons of the rejections seen, by transaction id.
pub(super) fn rejections(events: &[Arc<Event>]) -> BTreeMap<String, String> {
    let rejections = events.iter().filter_map(|event| match ebpf(event)? {
        EbpfEvent::Mempool(mempool) => match mempool.event.as_ref()? {
            mempool_event::Event::Rejected(tx) => Some((display_order(&tx.txid), tx.reason.clone())),
            _ => None,
        },
        _ => None,
    });
    rejections.collect()
}

/// Compares the blocks from height 1 to the tip: each connected once, in order; hash, transactions, inputs.
pub(super) fn blocks(node: &RealNode, events: &[Arc<Event>]) -> Result<(String, Vec<String>)> {
    let mut ours = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut last = 0;
    for event in events {
        let Some(EbpfEvent::Validation(validation)) = ebpf(event) else { continue };
        let Some(validation_event::Event::BlockConnected(block)) = &validation.event else { continue };
        if block.height != last + 1 {
            wrong.push(format!("height {} comes after {last}", block.height));
        }
        last = block.height;
        let counts = (block.transactions, i64::from(block.inputs));
        ours.insert(format!("{:06} {}", block.height, display_order(&block.hash)), counts);
    }
    let tip = node.rpc("getblockcount", json!([]))?.as_u64().context("getblockcount: no number")?;
    let mut theirs = BTreeMap::new();
    for height in 1..=tip {
        let stats = node.rpc("getblockstats", json!([height, ["blockhash", "txs", "ins"]]))?;
        let hash = stats["blockhash"].as_str().context("getblockstats: no hash")?;
        // The node's probe counts the input of the coinbase, getblockstats does not.
        let counts =
            (stats["txs"].as_i64().unwrap_or_default(), stats["ins"].as_i64().unwrap_or_default() + 1);
        theirs.insert(format!("{height:06} {hash}"), counts);
    }
    wrong.extend(differences(&theirs, &ours));
    Ok((format!("{tip} blocks"), wrong))
}

/// Compares the open connections: id, address, type. None was open when `events` began.
pub(super) fn connections(peerinfo: &Value, events: &[Arc<Event>]) -> Result<(String, Vec<String>)> {
    let mut ours = BTreeMap::new();
    let (mut opened, mut closed) = (0, 0);
    let describe = |conn: &Connection| (conn.addr.clone(), conn_type::name(conn.conn_type).to_owned());
    for event in events {
        let Some(EbpfEvent::Connection(connection)) = ebpf(event) else { continue };
        match &connection.event {
            Some(connection_event::Event::Inbound(inbound)) => {
                opened += 1;
                ours.insert(inbound.conn.peer_id.to_string(), describe(&inbound.conn));
            }
            Some(connection_event::Event::Outbound(outbound)) => {
                opened += 1;
                ours.insert(outbound.conn.peer_id.to_string(), describe(&outbound.conn));
            }
            Some(connection_event::Event::Closed(gone)) => {
                closed += 1;
                ours.remove(&gone.conn.peer_id.to_string());
            }
            _ => {}
        }
    }
    let mut theirs = BTreeMap::new();
    for peer in peerinfo.as_array().context("getpeerinfo: no list")? {
        let text = |key: &str| peer[key].as_str().unwrap_or_default().to_owned();
        theirs.insert(peer["id"].to_string(), (text("addr"), text("connection_type")));
    }
    let seen = format!("{} open after {opened} opened, {closed} closed", theirs.len());
    Ok((seen, differences(&theirs, &ours)))
}

/// Reasons for which peers misbehaved, by peer id.
pub(super) fn misbehaving(events: &[Arc<Event>]) -> BTreeMap<u64, String> {
    let misbehaving = events.iter().filter_map(|event| match ebpf(event)? {
        EbpfEvent::Connection(connection) => match connection.event.as_ref()? {
            connection_event::Event::Misbehaving(peer) => Some((peer.id, peer.message.clone())),
            _ => None,
        },
        _ => None,
    });
    misbehaving.collect()
}

/// Flushes of the UTXO set, of which there must be some.
pub(super) fn flushes(events: &[Arc<Event>]) -> (String, Vec<String>) {
    let flushes = events.iter().filter_map(|event| match event.peer_observer_event.as_ref()? {
        PeerObserverEvent::Utxocache(utxocache) => {
            let utxo_cache::Event::Flush(flush) = utxocache.event.as_ref()?;
            Some(format!("mode {}, {} coins", flush.mode, flush.coins))
        }
        _ => None,
    });
    let flushes: Vec<String> = flushes.collect();
    let differences = if flushes.is_empty() { vec!["no flush was seen".into()] } else { Vec::new() };
    (flushes.join("; "), differences)
}

/// Compares evictions, of which there must be some, with who is left.
pub(super) fn evictions(peerinfo: &Value, events: &[Arc<Event>]) -> (String, Vec<String>) {
    let evicted: Vec<u64> = events
        .iter()
        .filter_map(|event| match ebpf(event)? {
            EbpfEvent::Connection(connection) => match connection.event.as_ref()? {
                connection_event::Event::InboundEvicted(evicted) => Some(evicted.conn.peer_id),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let peers: Vec<u64> =
        peerinfo.as_array().into_iter().flatten().filter_map(|peer| peer["id"].as_u64()).collect();
    let mut differences: Vec<String> = evicted
        .iter()
        .filter(|id| peers.contains(id))
        .map(|id| format!("peer {id} is still there"))
        .collect();
    if evicted.is_empty() {
        differences.push("no eviction was seen".into());
    }
    (format!("{} evicted, {} left", evicted.len(), peers.len()), differences)
}

/// Decode errors of a peer's messages, by type.
pub(super) fn malformed(events: &[Arc<Event>], peer_id: u64) -> BTreeMap<String, String> {
    let malformed = events.iter().filter_map(|event| match ebpf(event)? {
        EbpfEvent::Message(message) if message.meta.inbound && message.meta.peer_id == peer_id => {
            Some((message.meta.command.clone(), message.decode_error.clone()?))
        }
        _ => None,
    });
    malformed.collect()
}

/// The largest message: its type, payload in bytes, and bytes that were not captured.
pub(super) fn largest_message(events: &[Arc<Event>]) -> Option<(String, u64, u64)> {
    let messages = events.iter().filter_map(|event| match ebpf(event)? {
        EbpfEvent::Message(message) => {
            let size = message.meta.size;
            let missing = message.captured.map_or(0, |captured| size - captured.min(size));
            Some((message.meta.command.clone(), size, missing))
        }
        _ => None,
    });
    messages.max_by_key(|(_, size, _)| *size)
}
