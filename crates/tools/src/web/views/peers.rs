//! The peers of a node, a row each.

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use serde::Serialize;

use super::overview::network;
use super::{Answer, Context, NODE, Query, Refused, Show, Topic, json, us};
use crate::web::model::message::{host_of, netgroup};
use crate::web::model::peers::{Peer, SPARK};

pub(super) const TOPIC: Topic = Topic {
    name: "peers",
    about: "The peers of a node, a row each, and those that left last",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        ("rpc", "Whether getpeerinfo was answered: more is known then"),
        ("spark_step_us", "Length of a step of the sparklines"),
        (
            "peers",
            "Connected peers; `spark` has messages per step, the newest last; `height` is that of getpeerinfo, `start_height` that of the handshake",
        ),
        ("left", "Peers that left, the last first, and how"),
    ],
    render,
};

/// Peers that left and are listed.
const LEFT: usize = 50;

#[derive(Serialize)]
struct Rows<'a> {
    node: &'a str,
    now_us: u64,
    rpc: bool,
    spark_step_us: u64,
    peers: Vec<Row<'a>>,
    left: Vec<Row<'a>>,
}

/// A peer in a row.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    id: u64,
    addr: Option<&'a str>,
    network: &'static str,
    netgroup: Option<String>,
    #[serde(rename = "as")]
    system: Option<String>,
    /// Lists that the address is on.
    lists: Vec<&'a str>,
    #[serde(rename = "type")]
    kind: &'static str,
    inbound: bool,
    opened_us: Option<u64>,
    closed_us: Option<u64>,
    end: Option<&'static str>,
    last_us: u64,
    last_in_us: Option<u64>,
    user_agent: Option<&'a str>,
    version: Option<u32>,
    services: Option<u64>,
    /// The last block that node and peer have in common, as getpeerinfo says.
    height: Option<i64>,
    /// The peer's last block when the connection began, as its `version` says.
    start_height: Option<i64>,
    transport: Option<&'a str>,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    ping_us: Option<u64>,
    min_ping_us: Option<u64>,
    ping_wait_us: Option<u64>,
    high_bandwidth_to: bool,
    high_bandwidth_from: bool,
    tx_first: u64,
    tx_announced: u64,
    malformed: u64,
    misbehaved: u64,
    backlog: Option<u64>,
    spark: Vec<u32>,
}

/// The row of a peer.
pub(super) fn row<'a>(context: &Context<'a>, peer: &'a Peer, now_ns: u64) -> Row<'a> {
    let info = peer.info.as_ref();
    let [received, sent] = peer.totals();
    let host = host_of(&peer.addr);
    let shown = context.show == Show::Everything;
    let known = &context.model.known;
    let told = info.map(|info| info.mapped_as).filter(|system| *system > 0);
    let system = told.or_else(|| known.system_of(host)).filter(|_| shown);
    let seconds = |s: f64| (s > 0.0).then_some((s * 1e6) as u64);
    let hello = peer.hello.as_ref();
    Row {
        id: peer.id,
        addr: context.address(&peer.addr),
        network: network(peer),
        netgroup: shown.then(|| netgroup(&peer.addr)),
        system: system.map(|number| known.system_label(number)),
        lists: if shown { known.lists_with(host).collect() } else { Vec::new() },
        kind: CONN_TYPES[peer.conn_type],
        inbound: peer.is_inbound(),
        opened_us: peer.opened_ns.map(us),
        closed_us: peer.closed.map(|(time, _)| us(time)),
        end: peer.closed.map(|(_, end)| end.name()),
        last_us: us(peer.last_ns),
        last_in_us: (peer.last_in_ns > 0).then(|| us(peer.last_in_ns)),
        user_agent: hello.map(|hello| &*hello.user_agent).or(info.map(|info| info.subversion.as_str())),
        version: hello.map(|hello| hello.version).or(info.map(|info| info.version)),
        services: hello
            .map(|hello| hello.services)
            .or(info.and_then(|info| u64::from_str_radix(&info.services, 16).ok())),
        height: info.map(|info| info.synced_blocks).filter(|height| *height >= 0),
        start_height: hello
            .map(|hello| hello.start_height.into())
            .or(info.map(|info| info.starting_height))
            .filter(|height| *height >= 0),
        transport: info.map(|info| info.transport_protocol_type.as_str()),
        messages_in: received.messages,
        messages_out: sent.messages,
        bytes_in: received.bytes,
        bytes_out: sent.bytes,
        ping_us: peer
            .pings
            .round_trips
            .back()
            .map(|(_, took)| us(*took))
            .or(info.and_then(|info| seconds(info.ping_time))),
        min_ping_us: peer.pings.min_ns.map(us).or(info.and_then(|info| seconds(info.minimum_ping))),
        ping_wait_us: peer.pings.waiting.map(|(_, sent_ns)| us(now_ns.saturating_sub(sent_ns))),
        high_bandwidth_to: peer.features.high_bandwidth_to || info.is_some_and(|info| info.bip152_hb_to),
        high_bandwidth_from: peer.features.high_bandwidth_from
            || info.is_some_and(|info| info.bip152_hb_from),
        tx_first: peer.relay.tx_first,
        tx_announced: peer.relay.tx_announced,
        malformed: peer.malformed,
        misbehaved: peer.misbehaved,
        backlog: info.map(|info| info.inv_to_send),
        spark: peer.spark.last(now_ns, SPARK.0).map(|slot| slot.map_or(0, |[i, o]| i + o)).collect(),
    }
}

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    Ok(json(&Rows {
        node: &node.name,
        now_us: us(now_ns),
        rpc: node.told.peers_ns.is_some(),
        spark_step_us: us(SPARK.1),
        peers: node.peers.open().map(|peer| row(context, peer, now_ns)).collect(),
        left: node.peers.closed().take(LEFT).map(|peer| row(context, peer, now_ns)).collect(),
    })
    .into())
}
