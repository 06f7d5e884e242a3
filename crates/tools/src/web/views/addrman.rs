//! The address manager: its tables by network, group of networks and autonomous system.

use serde_json::json;

use super::{Answer, Context, NODE, Query, Refused, Show, Topic, us};

/// Groups of networks and systems that are listed.
const LISTED: usize = 40;

pub(super) const TOPIC: Topic = Topic {
    name: "addrman",
    about: "The address manager by network, group of networks and autonomous system, where RPC is read",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        ("networks", "Entries of the new and the tried table, by network (getaddrmaninfo)"),
        (
            "tables",
            "The same by group of networks, autonomous system and source (getrawaddrman); absent in limited mode",
        ),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let networks = node.told.addrman.as_ref().map(|info| {
        let networks = info.networks.iter().filter(|(name, _)| *name != "all_networks");
        networks
            .map(|(name, n)| json!({ "network": name, "new": n.new, "tried": n.tried }))
            .collect::<Vec<_>>()
    });
    let tables = node.told.addrman_tables.as_ref().filter(|_| context.show == Show::Everything);
    let pairs = |all: &[(String, [u64; 2])]| {
        let listed = all.iter().take(LISTED);
        listed
            .map(|(name, [new, tried])| json!({ "name": name, "new": new, "tried": tried }))
            .collect::<Vec<_>>()
    };
    let tables = tables.map(|tables| {
        json!({
            "time_us": us(tables.time_ns),
            "networks": tables.by_network.iter()
                .map(|(name, [new, tried])| json!({ "network": name, "new": new, "tried": tried }))
                .collect::<Vec<_>>(),
            "groups": pairs(&tables.groups),
            "group_count": tables.group_count,
            "systems": pairs(&tables.systems),
            "sources": tables.sources.iter().take(LISTED)
                .map(|(name, count)| json!({ "name": name, "count": count }))
                .collect::<Vec<_>>(),
            "parts": tables.parts,
        })
    });
    let now_ns = node.clock.now_ns(context.now.instant);
    Ok(json!({ "node": node.name, "now_us": us(now_ns), "networks": networks, "tables": tables })
        .to_string()
        .into())
}
