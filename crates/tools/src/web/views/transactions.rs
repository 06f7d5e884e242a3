//! Transaction relay: who announced first, who asks, who never sends.

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use serde_json::json;

use super::{Answer, Context, NODE, Query, Refused, Topic, us};
use crate::web::model::message::hex;

/// Transactions that are listed.
const LISTED: usize = 100;
/// Transactions that sums are over: the last ones.
const SUMMED: usize = 5_000;

pub(super) const TOPIC: Topic = Topic {
    name: "transactions",
    about: "Transaction relay by peer, and the last transactions with their way through the node",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        (
            "sums",
            "Of the last transactions: announced, accepted, rejected, and how long the node took to get and accept them, us",
        ),
        ("peers", "By peer: announced, told, first, asked, asked_by, received, unasked, sent, not_found"),
        ("transactions", "The last ones, the newest first"),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let peers: Vec<_> = node
        .peers
        .open()
        .map(|peer| {
            json!({
                "id": peer.id,
                "type": CONN_TYPES[peer.conn_type],
                "announced": peer.relay.tx_announced, "told": peer.relay.tx_told,
                "first": peer.relay.tx_first,
                "asked": peer.relay.tx_asked, "asked_by": peer.relay.tx_asked_by,
                "received": peer.relay.tx_received, "unasked": peer.relay.tx_unasked,
                "sent": peer.relay.tx_sent, "not_found": peer.relay.not_found,
            })
        })
        .collect();
    let (mut followed, mut accepted, mut rejected) = (0, 0, 0);
    let mut to_accept = Vec::new();
    for transaction in node.transactions.last().take(SUMMED) {
        followed += 1;
        rejected += u32::from(transaction.rejected);
        accepted += u32::from(transaction.added.is_some());
        to_accept.extend(transaction.to_accept_ns().map(us));
    }
    to_accept.sort_unstable();
    let last: Vec<_> = node
        .transactions
        .last()
        .take(LISTED)
        .map(|transaction| {
            json!({
                "hash": hex(&transaction.hash),
                "first_us": us(transaction.first_ns),
                "first_peer": transaction.first_peer,
                "announced_by": transaction.announced_by,
                "told_to": transaction.told_to,
                "asked_by": transaction.asked_by,
                "asked": transaction.asked.last().map(|(peer, at)| json!({ "peer": peer, "time_us": us(*at) })),
                "received": transaction.received.map(|(peer, at)| json!({ "peer": peer, "time_us": us(at) })),
                "added": transaction.added.map(|(at, vsize, fee)| json!({
                    "time_us": us(at), "vsize": vsize, "fee": fee,
                })),
                "to_accept_us": transaction.to_accept_ns().map(us),
                "rejected": transaction.rejected, "gone": transaction.gone_ns.is_some(),
            })
        })
        .collect();
    Ok(json!({
        "node": node.name,
        "now_us": us(now_ns),
        "sums": {
            "followed": followed, "accepted": accepted, "rejected": rejected,
            "median_to_accept_us": to_accept.get(to_accept.len() / 2),
        },
        "peers": peers,
        "transactions": last,
    })
    .to_string()
    .into())
}
