//! Blocks: from the first header to the chain, peer by peer.

use serde_json::json;

use super::{Answer, Context, NODE, Query, Refused, Topic, us};
use crate::web::model::blocks::Block;
use crate::web::model::message::hex;

/// Blocks that are listed.
const LISTED: usize = 50;

pub(super) const TOPIC: Topic = Topic {
    name: "blocks",
    about: "The last blocks: who told of them when and how, what was missing, how long they took",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        (
            "blocks",
            "The newest first. `told`: peer, message type, us after the first; `compact`, `missing`, `asked`, `rebuilt` and `connected` where that was seen",
        ),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let blocks: Vec<_> = node.blocks.last().take(LISTED).map(block).collect();
    Ok(json!({ "node": node.name, "now_us": us(now_ns), "blocks": blocks }).to_string().into())
}

fn block(block: &Block) -> serde_json::Value {
    let after = |time_ns: u64| us(time_ns.saturating_sub(block.first_ns));
    let told: Vec<_> = block
        .told
        .iter()
        .map(|told| json!({ "peer": told.peer, "via": told.via.name(), "after_us": after(told.time_ns) }))
        .collect();
    json!({
        "hash": hex(&block.hash),
        "first_us": us(block.first_ns),
        "told": told,
        "compact": block.compact.map(|(short, whole)| json!({ "short_ids": short, "whole": whole })),
        "missing": block.missing.map(|(transactions, peer, at)| json!({
            "transactions": transactions, "peer": peer, "after_us": after(at),
        })),
        "completed_after_us": block.completed_ns.map(after),
        "asked": block.asked.map(|(peer, at)| json!({ "peer": peer, "after_us": after(at) })),
        "rebuilt": block.rebuilt.map(|rebuilt| json!({
            "prefilled": rebuilt.prefilled, "mempool": rebuilt.mempool,
            "extra": rebuilt.extra, "requested": rebuilt.requested,
        })),
        "connected": block.connected.map(|connected| json!({
            "after_us": after(connected.time_ns), "height": connected.height,
            "transactions": connected.transactions, "inputs": connected.inputs, "sigops": connected.sigops,
            "duration_us": us(connected.duration_ns),
        })),
    })
}
