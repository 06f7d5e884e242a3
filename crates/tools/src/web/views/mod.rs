//! What pages ask for, as JSON: over the stream, and over the REST API, with the same words.
//!
//! A view is a file here and a line in [`TOPICS`]: that gives it its address below `/api/v1/`, its place in the stream and in the
//! OpenAPI description.
//!
//! Times are us since the UNIX epoch, durations us: as numbers of ns they would not be exact in JavaScript. In limited mode,
//! addresses and what leads to them are left out.

mod addresses;
mod addrman;
mod blocks;
mod health;
mod log;
mod messages;
mod overview;
mod peer;
mod peers;
mod pings;
mod pipeline;
mod transactions;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::model::{Model, Node, Now};

/// Lengths of a history, s.
pub(crate) const RANGES: [u64; 2] = [300, 3600];

/// What a view is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Query {
    /// Name of the node; without it the first one.
    pub(crate) node: Option<String>,
    /// A peer's id.
    pub(crate) id: Option<u64>,
    /// Length of the history, s: one of [`RANGES`].
    pub(crate) range: Option<u64>,
    /// Only what is newer than this number.
    pub(crate) after: Option<u64>,
    /// At most so many, the newest.
    pub(crate) limit: Option<usize>,
    /// Message type.
    pub(crate) command: Option<String>,
    /// `in` or `out`.
    pub(crate) direction: Option<Direction>,
}

impl Query {
    /// The same, without what a topic does not take.
    pub(crate) fn only(&self, parameters: Parameters) -> Query {
        let takes = |key: &str| parameters.iter().any(|(name, _)| *name == key);
        Query {
            node: self.node.clone().filter(|_| takes("node")),
            id: self.id.filter(|_| takes("id")),
            range: self.range.filter(|_| takes("range")),
            after: self.after.filter(|_| takes("after")),
            limit: self.limit.filter(|_| takes("limit")),
            command: self.command.clone().filter(|_| takes("command")),
            direction: self.direction.filter(|_| takes("direction")),
        }
    }
}

/// Which way a message went, as the node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Whether addresses are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Everything,
    NoAddresses,
}

/// What the tool's own queue and clients do.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Own {
    pub(crate) received: u64,
    pub(crate) undecodable: u64,
    pub(crate) lost_transport: u64,
    pub(crate) lost_queue: u64,
    pub(crate) queue_events: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) clients: usize,
    /// Updates that were left out for clients that are slow.
    pub(crate) skipped_updates: u64,
    /// Events that were left out for slow clients of the public websocket.
    pub(crate) skipped_events: u64,
    pub(crate) uptime_s: u64,
}

/// What a view is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Model,
    pub(crate) now: Now,
    pub(crate) show: Show,
    pub(crate) own: Own,
}

impl<'a> Context<'a> {
    fn node(&self, query: &Query) -> Result<&'a Node, Refused> {
        self.model.node(query.node.as_deref()).ok_or(Refused::NoNode)
    }

    /// An address, if it may be shown.
    fn address<'b>(&self, addr: &'b str) -> Option<&'b str> {
        (self.show == Show::Everything && !addr.is_empty()).then_some(addr)
    }
}

/// Why there is nothing to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// No such node, or none at all yet.
    #[error("no such node has been seen; see /api/v1/nodes")]
    NoNode,
    /// No such peer.
    #[error("no such peer is known; see /api/v1/peers")]
    NoPeer,
    /// A peer has to be named.
    #[error("name the peer with id=")]
    NeedsPeer,
    /// Not for public display.
    #[error("not shown in limited mode, because it tells addresses")]
    Limited,
}

impl Refused {
    /// The status of HTTP to say it with.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Refused::NoNode | Refused::NoPeer => StatusCode::NOT_FOUND,
            Refused::NeedsPeer => StatusCode::BAD_REQUEST,
            Refused::Limited => StatusCode::FORBIDDEN,
        }
    }
}

/// What a topic can be asked with: keys of [`Query`], and what they mean.
pub(crate) type Parameters = &'static [(&'static str, &'static str)];

const NODE: (&str, &str) = ("node", "Name of the node; without it the first one");
const AFTER: (&str, &str) = ("after", "Only what has a higher number than this");
const LIMIT: (&str, &str) = ("limit", "At most so many, the newest ones");

/// Something that pages ask for.
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    /// One sentence.
    pub(crate) about: &'static str,
    pub(crate) parameters: Parameters,
    /// The one of them that it cannot do without.
    pub(crate) required: Option<&'static str>,
    /// What the answer has, and what it means.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) render: fn(&Context<'_>, &Query) -> Result<Answer, Refused>,
}

/// All topics.
pub(crate) const TOPICS: &[Topic] = &[
    health::TOPIC,
    overview::NODES,
    overview::TOPIC,
    peers::TOPIC,
    peer::TOPIC,
    messages::TOPIC,
    transactions::TOPIC,
    addresses::TOPIC,
    blocks::TOPIC,
    pings::TOPIC,
    addrman::TOPIC,
    log::TOPIC,
    pipeline::TOPIC,
    pipeline::LOSS,
];

/// The topic of that name.
pub(crate) fn topic(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// What a view is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// JSON.
    pub(crate) text: String,
    /// Where to go on with `after`, for views that are a list without end.
    pub(crate) next: Option<u64>,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Answer { text, next: None }
    }
}

fn json(value: &impl Serialize) -> String {
    // Cannot fail: keys are strings, and memory takes all that is written.
    serde_json::to_string(value).unwrap_or_default()
}

fn us(ns: u64) -> u64 {
    ns / 1_000
}
