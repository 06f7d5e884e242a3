//! One peer: what it said and was told.

use serde_json::json;

use super::messages::Message;
use super::{Answer, Context, NODE, Query, Refused, Show, Topic, us};
use crate::web::model::message::{COMMANDS, host_of};
use crate::web::model::peers::{LAST_MESSAGES, Peer};

/// Other connections of the same address that are listed.
const OTHERS: usize = 20;

pub(super) const TOPIC: Topic = Topic {
    name: "peer",
    about: "One peer: what it said and was told, first and last, ratios, pings, earlier connections",
    parameters: &[NODE, ("id", "Bitcoin Core's id of the peer")],
    required: Some("id"),
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        ("row", "The peer as in /peers"),
        ("features", "What was agreed on after the handshake"),
        ("relay", "How transactions, blocks and addresses went"),
        ("types", "Messages and bytes by type, received and sent"),
        ("pings", "Round trips: when they ended, how long they took, us"),
        ("misbehaviour", "What it did, in Bitcoin Core's words"),
        ("first", "How the connection began, as far as it was seen"),
        ("last", "The last messages, the oldest first"),
        ("others", "Other connections of the same address"),
        ("info", "As getpeerinfo says, where RPC is read"),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let id = query.id.ok_or(Refused::NeedsPeer)?;
    let node = context.node(query)?;
    let peer = node.peers.get(id).ok_or(Refused::NoPeer)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let types: Vec<_> = (0..COMMANDS.len())
        .filter(|i| peer.counts.iter().any(|way| way[*i].messages > 0))
        .map(|i| {
            let [received, sent] = [peer.counts[0][i], peer.counts[1][i]];
            json!({
                "type": COMMANDS[i],
                "in": received.messages, "out": sent.messages,
                "bytes_in": received.bytes, "bytes_out": sent.bytes,
            })
        })
        .collect();
    let pings: Vec<_> = peer.pings.round_trips.iter().map(|(at, took)| [us(*at), us(*took)]).collect();
    let others: Vec<_> = match context.show {
        Show::Everything => {
            let same = |other: &&Peer| other.id != peer.id && host_of(&other.addr) == host_of(&peer.addr);
            let all = node.peers.open().chain(node.peers.closed()).filter(same).take(OTHERS);
            all.map(|other| super::peers::row(context, other, now_ns)).collect()
        }
        Show::NoAddresses => Vec::new(),
    };
    let info = peer.info.as_ref().filter(|_| context.show == Show::Everything);
    let messages = |records: &mut dyn Iterator<Item = &crate::web::model::message::Record>| {
        serde_json::to_value(records.map(Message::from).collect::<Vec<_>>()).unwrap_or_default()
    };
    // Until messages are forgotten, the first ones are among the last.
    let mut last =
        peer.first_messages.iter().chain(&peer.last_messages).skip(match peer.last_messages.len() {
            n if n < LAST_MESSAGES => 0,
            _ => peer.first_messages.len(),
        });
    Ok(json!({
        "node": node.name,
        "now_us": us(now_ns),
        "row": super::peers::row(context, peer, now_ns),
        "features": {
            "relay": peer.hello.as_ref().map(|hello| hello.relay),
            "wtxidrelay": peer.features.wtxidrelay,
            "sendaddrv2": peer.features.sendaddrv2,
            "sendheaders": peer.features.sendheaders,
            "fee_filter": peer.features.fee_filter,
        },
        "relay": {
            "tx_announced": peer.relay.tx_announced, "tx_told": peer.relay.tx_told,
            "tx_first": peer.relay.tx_first,
            "tx_asked": peer.relay.tx_asked, "tx_asked_by": peer.relay.tx_asked_by,
            "tx_received": peer.relay.tx_received, "tx_unasked": peer.relay.tx_unasked,
            "tx_sent": peer.relay.tx_sent,
            "not_found": peer.relay.not_found,
            "blocks_first": peer.relay.blocks_first,
            "addresses_received": peer.relay.addresses_received,
            "addresses_sent": peer.relay.addresses_sent,
            "self_announced": peer.relay.self_announced,
        },
        "types": types,
        "pings": pings,
        "misbehaviour": peer.misbehaviour,
        "first": messages(&mut peer.first_messages.iter()),
        "last": messages(&mut last),
        "others": others,
        "info": info,
    })
    .to_string()
    .into())
}
