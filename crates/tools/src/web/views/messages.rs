//! Messages, one by one, the newest.

use serde::Serialize;

use super::{AFTER, Answer, Context, Direction, LIMIT, NODE, Query, Refused, Topic, json, us};
use crate::web::model::message::Record;

/// Messages in an answer, unless asked for fewer; and at most.
const DEFAULT_LIMIT: usize = 200;
const MAX_LIMIT: usize = 2_000;

pub(super) const TOPIC: Topic = Topic {
    name: "messages",
    about: "P2P messages, the newest; the stream goes on from where it was",
    parameters: &[
        NODE,
        ("id", "Only those of this peer"),
        ("command", "Only those of this type"),
        ("direction", "`in` or `out`: only those received, or sent"),
        AFTER,
        LIMIT,
    ],
    required: None,
    fields: &[
        ("node", "Name of the node"),
        ("next", "Number to ask for with `after`, to go on from here"),
        ("skipped", "Messages that were there, are newer than `after`, and were left out because of `limit`"),
        ("forgotten", "Messages that are newer than `after` and are not kept any more"),
        (
            "messages",
            "number, time_us, peer, in (the node received it), type, size (bytes), text, bad (could not be decoded), the oldest first",
        ),
    ],
    render,
};

#[derive(Serialize)]
struct Messages<'a> {
    node: &'a str,
    next: u64,
    skipped: u64,
    forgotten: u64,
    messages: Vec<Message<'a>>,
}

/// A message as the page gets it.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    number: u64,
    time_us: u64,
    peer: u64,
    r#in: bool,
    r#type: &'a str,
    size: u64,
    text: String,
    bad: bool,
}

impl<'a> From<&'a Record> for Message<'a> {
    fn from(record: &'a Record) -> Self {
        Message {
            number: record.number,
            time_us: us(record.time_ns),
            peer: record.peer,
            r#in: record.inbound,
            r#type: record.command(),
            size: record.size,
            text: record.detail.to_string(),
            bad: record.malformed,
        }
    }
}

fn render(context: &Context<'_>, query: &Query) -> Result<Answer, Refused> {
    let node = context.node(query)?;
    // A node that was started again, or another one of that name, begins anew.
    let after = query.after.unwrap_or(0).min(node.messages());
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let wanted = |record: &&Record| {
        query.id.is_none_or(|id| record.peer == id)
            && query.direction.is_none_or(|way| record.inbound == (way == Direction::In))
            && query.command.as_deref().is_none_or(|command| record.command() == command)
    };
    let all = node.messages_after(after);
    let first = node.messages_after(after).next().map_or(node.messages() + 1, |record| record.number);
    let mut found = 0;
    let mut messages = Vec::new();
    for record in all.rev().filter(wanted) {
        found += 1;
        if messages.len() < limit {
            messages.push(Message::from(record));
        }
    }
    messages.reverse();
    let next = node.messages();
    let skipped = found - messages.len() as u64;
    let forgotten = if query.after.is_some() { first.saturating_sub(after + 1) } else { 0 };
    Ok(Answer {
        text: json(&Messages { node: &node.name, next, skipped, forgotten, messages }),
        next: Some(next),
    })
}
