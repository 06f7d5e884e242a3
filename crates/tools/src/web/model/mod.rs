//! What the page knows: computed from events, by one task, in bounded memory whatever they say.
//!
//! | file | what it is for |
//! |---|---|
//! | clock.rs | what time it is for a node |
//! | series.rs | counts over time |
//! | message.rs | a message as a line |
//! | peers.rs | peers, those of now and the last ones |
//! | transactions.rs, blocks.rs, addresses.rs | how these travel |
//! | log.rs | lines of debug.log |
//! | node.rs | a node: takes events and tells all of the above |
//! | pipeline.rs | what peer-observer knows of itself |

pub(crate) mod addresses;
pub(crate) mod blocks;
pub(crate) mod clock;
pub(crate) mod log;
pub(crate) mod message;
pub(crate) mod node;
pub(crate) mod peers;
pub(crate) mod pipeline;
pub(crate) mod series;
#[cfg(test)]
mod tests;
pub(crate) mod transactions;

use std::collections::BTreeMap;
use std::time::Instant;

use peer_observer_bus::Delivery;
use peer_observer_events::PeerObserverEvent;
use peer_observer_exporter::labels::bounded;

pub(crate) use node::Node;
use pipeline::Pipeline;

use crate::known::Known;

/// Nodes that are shown; others are counted in the pipeline only.
const MAX_NODES: usize = 32;

/// This machine's time, twice: for people, and for what has to go on when the clock is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// ns since the UNIX epoch.
    pub(crate) wall_ns: u64,
    pub(crate) instant: Instant,
}

impl Now {
    /// Now.
    pub(crate) fn get() -> Self {
        Now { wall_ns: peer_observer_bus::now_ns(), instant: Instant::now() }
    }
}

/// Everything that views are made of.
#[derive(Debug)]
pub(crate) struct Model {
    nodes: BTreeMap<Box<str>, Node>,
    /// Name for the node of events that do not say which it is.
    default_node: Box<str>,
    /// The node to show when none is named: the first that was seen, and from then on the first that told of messages.
    shown: Option<(Box<str>, bool)>,
    /// What the user's files tell of addresses.
    pub(crate) known: Known,
    pub(crate) pipeline: Pipeline,
    pub(crate) events: u64,
    /// Events of nodes that are too many.
    pub(crate) other_nodes: u64,
}

impl Model {
    /// Nothing is known yet.
    pub(crate) fn new(default_node: &str, known: Known) -> Self {
        Model {
            nodes: BTreeMap::new(),
            default_node: bounded(default_node).into(),
            shown: None,
            known,
            pipeline: Pipeline::new(),
            events: 0,
            other_nodes: 0,
        }
    }

    /// Takes events that arrived now.
    pub(crate) fn observe(&mut self, deliveries: &[Delivery], now: Now) {
        for delivery in deliveries {
            self.observe_one(delivery, now);
        }
    }

    /// The node of that name, or the one to show when none is named.
    pub(crate) fn node(&self, name: Option<&str>) -> Option<&Node> {
        self.nodes.get(name.or_else(|| self.shown.as_ref().map(|(shown, _)| &**shown))?)
    }

    /// All nodes, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    fn observe_one(&mut self, delivery: &Delivery, now: Now) {
        let Some(event) = &delivery.event.peer_observer_event else { return };
        self.events += 1;
        let (name, time_ns) = match &delivery.event.origin {
            Some(origin) => (bounded(&origin.node), origin.time_ns),
            None => (&*self.default_node, delivery.event.timestamp.saturating_mul(1_000_000)),
        };
        self.pipeline.event(name, delivery, now.wall_ns);
        match event {
            PeerObserverEvent::Loss(loss) => return self.pipeline.loss(loss, now.wall_ns),
            PeerObserverEvent::Books(books) => return self.pipeline.books(name, books),
            // Detectors have a view of their own when they are there.
            PeerObserverEvent::Incident(_) | PeerObserverEvent::StreamPositions(_) => return,
            _ => {}
        }
        if !self.nodes.contains_key(name) {
            if self.nodes.len() >= MAX_NODES {
                self.other_nodes += 1;
                return;
            }
            self.nodes.insert(name.into(), Node::new(name, time_ns, now.instant));
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.observe(event, &self.known, time_ns, now);
            let talks = node.messages() > 0;
            if self.shown.as_ref().is_none_or(|(_, talked)| talks && !talked) {
                self.shown = Some((name.into(), talks));
            }
        }
    }
}
