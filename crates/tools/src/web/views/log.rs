//! The node's debug.log, live.

use serde::Serialize;

use super::{AFTER, Answer, Context, LIMIT, NODE, Query, Refused, Show, Topic, json, us};
use crate::web::model::log::Line;

/// Lines in an answer, unless asked for fewer; and at most.
const DEFAULT_LIMIT: usize = 500;
const MAX_LIMIT: usize = 4_000;

pub(super) const TOPIC: Topic = Topic {
    name: "log",
    about: "Lines of the node's debug.log, the newest; not in limited mode",
    parameters: &[NODE, AFTER, LIMIT],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("next", "Number to ask for with `after`, to go on from here"),
        ("skipped", "Lines that are newer than `after` and were left out"),
        ("lines", "number, time_us, category, level, thread, text, the oldest first"),
    ],
    render,
};

#[derive(Serialize)]
struct Lines<'a> {
    node: &'a str,
    next: u64,
    skipped: u64,
    lines: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    number: u64,
    time_us: u64,
    category: &'a str,
    level: &'a str,
    thread: &'a str,
    text: &'a str,
}

impl<'a> From<&'a Line> for Shown<'a> {
    fn from(line: &'a Line) -> Self {
        Shown {
            number: line.number,
            time_us: us(line.time_ns),
            category: line.category,
            level: line.level,
            thread: &line.thread,
            text: &line.text,
        }
    }
}

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    if context.show == Show::NoAddresses {
        return Err(Refused::Limited);
    }
    let node = context.node(query)?;
    let after = query.after.unwrap_or(0).min(node.log.count());
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let mut lines: Vec<_> = node.log.after(after).rev().take(limit).map(Shown::from).collect();
    lines.reverse();
    let skipped = if query.after.is_some() { node.log.count() - after - lines.len() as u64 } else { 0 };
    let next = node.log.count();
    Ok(Answer { text: json(&Lines { node: &node.name, next, skipped, lines }), next: Some(next) })
}
