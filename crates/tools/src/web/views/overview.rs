//! A node at a glance.

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, Context, NODE, Query, Refused, Topic, us};
use crate::web::model::Node;
use crate::web::model::message::{COMMANDS, NETWORKS, OTHER, hex};
use crate::web::model::node::Slot;
use crate::web::model::peers::Peer;
use crate::web::model::series::Series;

/// Message types that have a line of their own in the history.
const TOP_COMMANDS: usize = 7;
/// Rates are over so many seconds.
const RATE_S: usize = 10;
const NOTES: usize = 30;
const BLOCKS: usize = 6;

pub(super) const NODES: Topic = Topic {
    name: "nodes",
    about: "The nodes that were seen",
    parameters: &[],
    required: None,
    fields: &[(
        "nodes",
        "For each: name, live, now_us (its time), last_us (its last event), messages, peers, rate (messages/s)",
    )],
    render: nodes,
};

pub(super) const TOPIC: Topic = Topic {
    name: "overview",
    about: "A node at a glance: rates, history, peers, blocks, mempool, losses",
    parameters: &[NODE, ("range", "Length of the history, s: 300 (steps of 1 s) or 3600 (steps of 10 s)")],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        ("live", "What is told happens now; otherwise it is played back, or nothing comes any more"),
        ("nodes", "All nodes, as in /nodes"),
        ("rates", "Messages and bytes a second, received and sent, over the last 10 s"),
        (
            "history",
            "start_us, step_us; messages per step by type, received and sent; bytes, mempool and connections per step",
        ),
        ("peers", "Number of peers by network and connection type"),
        ("connections", "Connections begun, ended and evicted so far"),
        ("tip", "Height of the last block, and when it was connected"),
        ("blocks", "The last blocks"),
        ("mempool", "As getmempoolinfo says, where RPC is read"),
        ("software", "User agent of the node, where RPC is read"),
        ("lost", "Events lost so far on their way to this page"),
        ("notes", "The last things worth a line"),
    ],
    render,
};

fn nodes(context: &Context<'_>, _query: &Query) -> Result<Answer, Refused> {
    Ok(json!({ "nodes": all_nodes(context) }).to_string().into())
}

fn all_nodes(context: &Context<'_>) -> Vec<Value> {
    let node = |node: &Node| {
        let now_ns = node.clock.now_ns(context.now.instant);
        let [received, sent, ..] = rates(node, now_ns);
        json!({
            "name": node.name,
            "live": node.clock.is_live(context.now.wall_ns),
            "now_us": us(now_ns),
            "last_us": us(node.clock.latest_ns()),
            "messages": node.messages(),
            "peers": node.peers.len(),
            "rate": received + sent,
        })
    };
    context.model.nodes().map(node).collect()
}

/// Messages received and sent, bytes received and sent, a second.
fn rates(node: &Node, now_ns: u64) -> [f64; 4] {
    let mut sums = [0_u64; 4];
    // The slot of now is not full yet.
    let before = now_ns.saturating_sub(node.fine.step_ns());
    for slot in node.fine.last(before, RATE_S).flatten() {
        for way in 0..2 {
            sums[way] += slot.messages[way].iter().map(|n| u64::from(*n)).sum::<u64>();
            sums[2 + way] = sums[2 + way].saturating_add(slot.bytes[way]);
        }
    }
    sums.map(|sum| sum as f64 / RATE_S as f64)
}

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let [messages_in, messages_out, bytes_in, bytes_out] = rates(node, now_ns);
    let series = if query.range.is_some_and(|range| range > 300) { &node.coarse } else { &node.fine };
    let mut peers: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for peer in node.peers.open() {
        *peers.entry((network(peer), CONN_TYPES[peer.conn_type])).or_default() += 1;
    }
    let peers: Vec<_> = peers
        .into_iter()
        .map(|((network, kind), count)| json!({ "network": network, "type": kind, "count": count }))
        .collect();
    let blocks: Vec<_> = node
        .blocks
        .last()
        .filter_map(|block| {
            let connected = block.connected?;
            Some(json!({
                "height": connected.height,
                "hash": hex(&block.hash),
                "time_us": us(connected.time_ns),
                "transactions": connected.transactions,
                "duration_us": us(connected.duration_ns),
                "first_peer": block.told.first().map(|told| told.peer),
            }))
        })
        .take(BLOCKS)
        .collect();
    let notes: Vec<_> = node
        .notes()
        .take(NOTES)
        .map(|note| {
            json!({
                "number": note.number,
                "time_us": us(note.time_ns),
                "kind": note.kind,
                "peer": note.peer,
                "text": note.text,
            })
        })
        .collect();
    Ok(json!({
        "node": node.name,
        "now_us": us(now_ns),
        "live": node.clock.is_live(context.now.wall_ns),
        "nodes": all_nodes(context),
        "rates": {
            "messages_in": messages_in, "messages_out": messages_out,
            "bytes_in": bytes_in, "bytes_out": bytes_out,
        },
        "history": history(series, now_ns),
        "peers": peers,
        "connections": {
            "begun": node.peers.opened, "ended": node.peers.ended, "evicted": node.peers.evicted,
        },
        "tip": node.tip.map(|(height, time_ns)| json!({ "height": height, "time_us": time_ns.map(us) })),
        "blocks": blocks,
        "mempool": node.told.mempool.as_ref().map(|info| json!({
            "transactions": info.size, "vbytes": info.bytes, "usage": info.usage, "max": info.max_mempool,
            "total_fee_btc": info.total_fee, "min_fee": info.mempoolminfee,
        })),
        "software": node.told.network.as_ref().map(|info| &info.subversion),
        "lost": context.model.pipeline.total_lost(),
        "notes": notes,
    })
    .to_string()
    .into())
}

fn history(series: &Series<Slot>, now_ns: u64) -> Value {
    let count = series.capacity();
    let slots = series.last(now_ns, count);
    let mut totals = [0_u64; COMMANDS.len()];
    for slot in slots.clone().flatten() {
        for way in &slot.messages {
            totals.iter_mut().zip(way).for_each(|(total, n)| *total += u64::from(*n));
        }
    }
    let mut order: Vec<usize> = (0..OTHER).filter(|i| totals[*i] > 0).collect();
    order.sort_by_key(|i| std::cmp::Reverse(totals[*i]));
    order.truncate(TOP_COMMANDS);
    let by_type = |way: usize| -> Vec<Vec<u32>> {
        let own = order.iter().map(|i| {
            slots.clone().map(|slot| slot.map_or(0, |slot| slot.messages[way][*i])).collect::<Vec<_>>()
        });
        let rest = slots.clone().map(|slot| {
            let Some(slot) = slot else { return 0 };
            let all: u32 = slot.messages[way].iter().sum();
            all - order.iter().map(|i| slot.messages[way][*i]).sum::<u32>()
        });
        own.chain([rest.collect()]).collect()
    };
    let bytes = |way: usize| slots.clone().map(|slot| slot.map_or(0, |s| s.bytes[way])).collect::<Vec<_>>();
    let mempool =
        |kind: usize| slots.clone().map(|slot| slot.map_or(0, |s| s.mempool[kind])).collect::<Vec<_>>();
    let connections =
        |kind: usize| slots.clone().map(|slot| slot.map_or(0, |s| s.connections[kind])).collect::<Vec<_>>();
    json!({
        "start_us": us(series.start_ns(now_ns, count)),
        "step_us": us(series.step_ns()),
        "types": order.iter().map(|i| COMMANDS[*i]).chain(["other"]).collect::<Vec<_>>(),
        "in": by_type(0),
        "out": by_type(1),
        "bytes_in": bytes(0),
        "bytes_out": bytes(1),
        "mempool": { "added": mempool(0), "removed": mempool(1), "replaced": mempool(2), "rejected": mempool(3) },
        "connections": {
            "begun": connections(0), "ended": connections(1),
            "evicted": connections(2), "misbehaving": connections(3),
        },
    })
}

/// The network of a peer: as a tracepoint or RPC says, or as its address looks.
pub(super) fn network(peer: &Peer) -> &'static str {
    if let Some(network) = peer.network {
        return NETWORKS[network];
    }
    let told = peer.info.as_ref().and_then(|info| NETWORKS.iter().find(|name| **name == info.network));
    if let Some(network) = told {
        return network;
    }
    match crate::web::model::message::host_of(&peer.addr) {
        host if host.ends_with(".onion") => "onion",
        host if host.ends_with(".b32.i2p") => "i2p",
        host => match host.parse() {
            Ok(std::net::IpAddr::V4(ip)) if ip.is_loopback() || ip.is_private() => "unroutable",
            Ok(std::net::IpAddr::V4(_)) => "ipv4",
            Ok(std::net::IpAddr::V6(ip)) if ip.is_loopback() => "unroutable",
            Ok(std::net::IpAddr::V6(ip)) if ip.segments()[0] >> 8 == 0xfc => "cjdns",
            Ok(std::net::IpAddr::V6(_)) => "ipv6",
            Err(_) => "unknown",
        },
    }
}
