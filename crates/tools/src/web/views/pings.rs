//! Round trips, and what waits.

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use serde_json::json;

use super::{Answer, Context, NODE, Query, Refused, Topic, us};
use crate::web::model::message::command_index;

pub(super) const TOPIC: Topic = Topic {
    name: "pings",
    about: "Round trips by peer, answers that are awaited, and what waits to be sent",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        (
            "peers",
            "By peer: the last round trips (us), the shortest, how long an answer is awaited, how long the node took to answer the peer's ping, backlog (transactions to announce, where RPC is read), inflight (blocks)",
        ),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let (ping, pong) = (command_index("ping"), command_index("pong"));
    let peers: Vec<_> = node
        .peers
        .open()
        .map(|peer| {
            let info = peer.info.as_ref();
            let trips: Vec<_> =
                peer.pings.round_trips.iter().map(|(at, took)| [us(*at), us(*took)]).collect();
            json!({
                "id": peer.id,
                "type": CONN_TYPES[peer.conn_type],
                "trips": trips,
                "min_us": peer.pings.min_ns.map(us),
                "wait_us": peer.pings.waiting.map(|(_, sent_ns)| us(now_ns.saturating_sub(sent_ns))),
                "answered_us": peer.pings.answered_ns.map(us),
                "pings_in": peer.counts[0][ping].messages, "pongs_out": peer.counts[1][pong].messages,
                "pings_out": peer.counts[1][ping].messages, "pongs_in": peer.counts[0][pong].messages,
                "backlog": info.map(|info| info.inv_to_send),
                "inflight": info.map(|info| info.inflight.len()),
            })
        })
        .collect();
    Ok(json!({ "node": node.name, "now_us": us(now_ns), "peers": peers }).to_string().into())
}
