//! Address relay: who sends how many addresses of which networks, and who announces himself.

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use serde_json::json;

use super::{Answer, Context, NODE, Query, Refused, Show, Topic, us};
use crate::web::model::addresses::AGES;
use crate::web::model::message::{NETWORKS, command_index};

/// Groups of networks that are listed.
const GROUPS: usize = 25;

pub(super) const TOPIC: Topic = Topic {
    name: "addresses",
    about: "Gossip of addresses by peer, network, group of networks and age; the last announcements",
    parameters: &[NODE],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("now_us", "The node's time, us since the UNIX epoch"),
        ("networks", "Addresses received and sent, by network"),
        ("ages", "Addresses received, by how long ago they were seen, as their senders say"),
        ("groups", "The groups of networks that most received addresses are of; absent in limited mode"),
        ("peers", "By peer: addresses and messages received and sent, how often it announced itself"),
        ("announcements", "The last addresses that came as news, the newest first; absent in limited mode"),
    ],
    render,
};

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    let now_ns = node.clock.now_ns(context.now.instant);
    let (addr, addrv2, getaddr) = (command_index("addr"), command_index("addrv2"), command_index("getaddr"));
    let peers: Vec<_> = node
        .peers
        .open()
        .map(|peer| {
            let messages = |way: usize| peer.counts[way][addr].messages + peer.counts[way][addrv2].messages;
            let limited = peer.info.as_ref().map(|info| info.addr_rate_limited);
            json!({
                "id": peer.id,
                "type": CONN_TYPES[peer.conn_type],
                "received": peer.relay.addresses_received, "sent": peer.relay.addresses_sent,
                "messages_in": messages(0), "messages_out": messages(1),
                "getaddr_in": peer.counts[0][getaddr].messages, "getaddr_out": peer.counts[1][getaddr].messages,
                "self_announced": peer.relay.self_announced,
                "rate_limited": limited,
            })
        })
        .collect();
    let networks: Vec<_> = NETWORKS
        .iter()
        .enumerate()
        .map(|(i, name)| (name, node.gossip.by_network[0][i], node.gossip.by_network[1][i]))
        .filter(|(_, received, sent)| received + sent > 0)
        .map(|(name, received, sent)| json!({ "network": name, "received": received, "sent": sent }))
        .collect();
    let ages: Vec<_> = AGES
        .iter()
        .zip(node.gossip.by_age)
        .map(|((age, _), count)| json!({ "age": age, "count": count }))
        .collect();
    let mut answer = json!({
        "node": node.name,
        "now_us": us(now_ns),
        "networks": networks,
        "ages": ages,
        "peers": peers,
    });
    if context.show == Show::Everything {
        let groups = node.gossip.top_groups(GROUPS).into_iter();
        answer["groups"] = groups.map(|(group, count)| json!({ "group": group, "count": count })).collect();
        let announcements = node.gossip.announcements.iter().rev();
        answer["announcements"] = announcements
            .map(|a| {
                json!({
                    "time_us": us(a.time_ns), "peer": a.peer, "network": NETWORKS[a.network],
                    "addr": a.addr, "own": a.own, "services": a.services,
                })
            })
            .collect();
    }
    Ok(answer.to_string().into())
}
