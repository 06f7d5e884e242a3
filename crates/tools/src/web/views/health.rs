//! Whether all is well, for monitors and for the page's status line.

use serde_json::json;

use super::{Answer, Context, Query, Refused, Topic};

/// A loss is news for so long, ns.
const RECENT_LOSS_NS: u64 = 60 * 1_000_000_000;

pub(super) const TOPIC: Topic = Topic {
    name: "health",
    about: "Whether events come, and whether some are lost",
    parameters: &[],
    required: None,
    fields: &[
        (
            "status",
            "`ok`, `quiet` (no live node), `lossy` (something was lost in the last minute) or `empty` (no node yet)",
        ),
        ("version", "Version of peer-observer"),
        ("limited", "Addresses are not shown"),
        ("nodes", "Nodes seen, and how many of them are live"),
        ("events", "Events received"),
        ("lost", "Events lost on their way to this page"),
        ("without_origin", "Events of public extractors: losses among them cannot be seen"),
        ("own", "The queue and the clients of this tool"),
    ],
    render,
};

fn render(context: &Context<'_>, _query: &Query) -> Result<Answer, Refused> {
    let model = context.model;
    let wall = context.now.wall_ns;
    let seen = model.nodes().count();
    let live = model.nodes().filter(|node| node.clock.is_live(wall)).count();
    let lossy = model.pipeline.last_loss_ns.is_some_and(|at| wall.saturating_sub(at) < RECENT_LOSS_NS);
    let status = match (seen, live) {
        (0, _) => "empty",
        _ if lossy => "lossy",
        (_, 0) => "quiet",
        _ => "ok",
    };
    Ok(json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "limited": context.show == super::Show::NoAddresses,
        "nodes": { "seen": seen, "live": live, "not_followed_events": model.other_nodes },
        "events": model.events,
        "lost": model.pipeline.total_lost(),
        "without_origin": model.pipeline.without_origin,
        "own": context.own,
    })
    .to_string()
    .into())
}
