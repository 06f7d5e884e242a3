//! Connections that are open now: they go up when one is opened and down when it is closed.
//!
//! The public `peerobserver_conn_*_current` say what the node counted when the last connection was opened and never go down. These
//! here follow the tracepoints, and getpeerinfo puts right what was missed: connections from before the start of peer-observer,
//! events that were lost, nodes that were killed. Before the node has said which it has, or was seen to start, nothing is known of those
//! from before us, so nothing is shown: a sum without them would be taken for all.

use std::collections::HashMap;

use peer_observer_events::conn_type::{self, UNKNOWN};
use peer_observer_events::proto::ebpf_extractor::connection::Connection;
use peer_observer_events::proto::rpc_extractor::PeerInfo;
use peer_observer_exporter::labels::joined;
use peer_observer_exporter::registry::{Registry, Snapshot};

/// Connections that are remembered of a node. Bitcoin Core has 125 unless told otherwise.
const MAX_CONNECTIONS: usize = 16_384;
/// Peer id of a node's first connection (Bitcoin Core src/net.h, `nLastNodeId`).
const FIRST_PEER: u64 = 0;
/// Peer ids count up from a node's start, but threads may tell of them out of order, by so much at most. A lower one is of a node that was
/// started again.
const OUT_OF_ORDER: u64 = 8;
/// Connections that were closed and are remembered for [`TOLERANCE_MS`].
const MAX_CLOSED: usize = 256;
/// How far the time of getpeerinfo and those of tracepoints may be apart, ms: the answer takes time, and comes by another way.
const TOLERANCE_MS: u64 = 5_000;

#[derive(Debug)]
struct Open {
    kind: Kind,
    /// When it was opened, as far as is known, ms since the UNIX epoch.
    since_ms: u64,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// The peer.
    Inbound,
    /// The node.
    Outbound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Kind {
    direction: Direction,
    network: &'static str,
    connection_type: &'static str,
}

/// Follows the connections of a node.
#[derive(Debug)]
pub(crate) struct Live {
    connections: Snapshot,
    /// All connections are known: the node told of them, or was seen to start.
    is_complete: bool,
    open: HashMap<u64, Open>,
    /// How many of each kind are open.
    numbers: HashMap<Kind, u32>,
    /// The highest peer id that was opened.
    highest: u64,
    /// Peer ids of the last connections that were closed, and when, ms: getpeerinfo may still list them.
    closed: HashMap<u64, u64>,
}

impl Live {
    /// Registers the metric.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Live {
            connections: r.snapshot(
                "peerobserver_connections_open",
                "Connections that are open now, by direction, network and type as getpeerinfo names them; nothing before the first getpeerinfo or start of the node.",
                &["direction", "network", "connection_type"],
            ),
            is_complete: false,
            open: HashMap::new(),
            numbers: HashMap::new(),
            highest: 0,
            closed: HashMap::new(),
        }
    }

    /// A connection was opened.
    pub(crate) fn opened(&mut self, r: &mut Registry, conn: &Connection, direction: Direction, now_ms: u64) {
        let kind = Kind {
            direction,
            network: network_of(conn.network),
            connection_type: conn_type::name(conn.conn_type),
        };
        if conn.peer_id == FIRST_PEER {
            self.is_complete = true;
        }
        if conn.peer_id.saturating_add(OUT_OF_ORDER) < self.highest {
            // Lower ids of many connections are of several nodes that are counted together.
            self.is_complete |= conn.peer_id <= OUT_OF_ORDER;
            self.open.clear();
            self.closed.clear();
            self.numbers.values_mut().for_each(|number| *number = 0);
            self.highest = conn.peer_id;
        }
        self.highest = self.highest.max(conn.peer_id);
        self.closed.remove(&conn.peer_id);
        self.forget(conn.peer_id);
        if self.open.len() < MAX_CONNECTIONS {
            self.open.insert(conn.peer_id, Open { kind, since_ms: now_ms });
            *self.numbers.entry(kind).or_default() += 1;
        }
        self.show(r);
    }

    /// A connection was closed.
    pub(crate) fn closed(&mut self, r: &mut Registry, peer_id: u64, now_ms: u64) {
        self.forget(peer_id);
        if self.closed.len() >= MAX_CLOSED {
            self.closed.retain(|_, at| now_ms.abs_diff(*at) <= TOLERANCE_MS);
        }
        if self.closed.len() < MAX_CLOSED {
            self.closed.insert(peer_id, now_ms);
        }
        self.show(r);
    }

    /// The node says which connections it has. What tracepoints told just before or after may be newer.
    pub(crate) fn resynchronise(&mut self, r: &mut Registry, peers: &[PeerInfo], now_ms: u64) {
        let recently = |at: u64| now_ms.abs_diff(at) <= TOLERANCE_MS;
        self.closed.retain(|_, at| recently(*at));
        let mut open = HashMap::with_capacity(peers.len().min(MAX_CONNECTIONS));
        for peer in
            peers.iter().filter(|peer| !self.closed.contains_key(&peer.id.into())).take(MAX_CONNECTIONS)
        {
            let kind = Kind {
                direction: if peer.inbound { Direction::Inbound } else { Direction::Outbound },
                network: one_of(&NETWORKS, &peer.network),
                connection_type: one_of(&conn_type::NAMES, &peer.connection_type),
            };
            let since_ms = u64::try_from(peer.connection_time).unwrap_or(0).saturating_mul(1000);
            open.insert(peer.id.into(), Open { kind, since_ms });
        }
        for (id, connection) in self.open.drain() {
            if recently(connection.since_ms) && open.len() < MAX_CONNECTIONS {
                open.entry(id).or_insert(connection);
            }
        }
        self.open = open;
        self.is_complete = true;
        // Those of which there is none any more stay, as 0: an alert can see that.
        self.numbers.values_mut().for_each(|number| *number = 0);
        for connection in self.open.values() {
            *self.numbers.entry(connection.kind).or_default() += 1;
        }
        self.show(r);
    }

    fn forget(&mut self, peer_id: u64) {
        let Some(old) = self.open.remove(&peer_id) else { return };
        if let Some(number) = self.numbers.get_mut(&old.kind) {
            *number = number.saturating_sub(1);
        }
    }

    fn show(&self, r: &mut Registry) {
        if !self.is_complete {
            return;
        }
        let series = self.numbers.iter().map(|(kind, number)| {
            let direction = match kind.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            };
            (joined(&[direction, kind.network, kind.connection_type]), f64::from(*number))
        });
        r.replace(self.connections, series);
    }
}

/// Names of networks in getpeerinfo, by their number in Bitcoin Core's enum Network (src/netaddress.h).
const NETWORKS: [&str; 6] = ["not_publicly_routable", "ipv4", "ipv6", "onion", "i2p", "cjdns"];

fn network_of(number: u32) -> &'static str {
    usize::try_from(number).ok().and_then(|n| NETWORKS.get(n)).copied().unwrap_or(UNKNOWN)
}

fn one_of(names: &[&'static str], name: &str) -> &'static str {
    names.iter().find(|known| **known == name).copied().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::bitcoin_primitives::ConnType;
    use peer_observer_exporter::render::render;

    use super::*;

    const T: u64 = 1_700_000_000_000;

    fn conn(peer_id: u64, conn_type: ConnType, network: u32) -> Connection {
        Connection { peer_id, addr: String::new(), conn_type: conn_type as i32, network }
    }

    fn peer(id: u32, connection_type: &str, connected_ms: u64) -> PeerInfo {
        PeerInfo {
            id,
            inbound: connection_type == "inbound",
            network: "ipv4".into(),
            connection_type: connection_type.into(),
            connection_time: (connected_ms / 1000) as i64,
            ..PeerInfo::default()
        }
    }

    fn shown(r: &Registry) -> Vec<String> {
        let page = render(r);
        let lines = page.lines().filter_map(|line| line.strip_prefix("peerobserver_connections_open"));
        lines
            .map(|line| {
                line.replace("direction=", "").replace("network=", "").replace("connection_type=", "")
            })
            .collect()
    }

    #[test]
    fn a_connection_counts_from_its_opening_to_its_close() {
        let mut r = Registry::new(100);
        let mut live = Live::new(&mut r);
        live.opened(&mut r, &conn(0, ConnType::Inbound, 1), Direction::Inbound, T);
        live.opened(&mut r, &conn(1, ConnType::Inbound, 1), Direction::Inbound, T);
        live.opened(&mut r, &conn(2, ConnType::BlockRelayOnly, 3), Direction::Outbound, T);
        live.opened(&mut r, &conn(3, ConnType::PrivateBroadcast, 77), Direction::Outbound, T);
        assert_eq!(
            shown(&r),
            [
                "{\"inbound\",\"ipv4\",\"inbound\"} 2",
                "{\"outbound\",\"onion\",\"block-relay-only\"} 1",
                "{\"outbound\",\"unknown\",\"private-broadcast\"} 1"
            ]
        );
        for id in [0, 2, 3, 99] {
            live.closed(&mut r, id, T);
        }
        assert_eq!(shown(&r)[0], "{\"inbound\",\"ipv4\",\"inbound\"} 1");
        assert!(shown(&r)[1..].iter().all(|line| line.ends_with(" 0")), "{:?}", shown(&r));
    }

    #[test]
    fn connections_end_with_a_node_that_is_started_again() {
        let mut r = Registry::new(100);
        let mut live = Live::new(&mut r);
        live.resynchronise(&mut r, &[], T);
        for id in [20, 22, 21] {
            live.opened(&mut r, &conn(id, ConnType::Inbound, 1), Direction::Inbound, T);
        }
        assert_eq!(shown(&r), ["{\"inbound\",\"ipv4\",\"inbound\"} 3"]);
        live.opened(&mut r, &conn(0, ConnType::Inbound, 1), Direction::Inbound, T);
        assert_eq!(shown(&r), ["{\"inbound\",\"ipv4\",\"inbound\"} 1"]);
    }

    #[test]
    fn getpeerinfo_puts_right_what_was_missed() {
        let mut r = Registry::new(100);
        let mut live = Live::new(&mut r);
        live.opened(&mut r, &conn(5, ConnType::Inbound, 1), Direction::Inbound, T - 60_000);
        live.resynchronise(&mut r, &[peer(7, "manual", T - 90_000)], T);
        assert_eq!(
            shown(&r),
            ["{\"inbound\",\"ipv4\",\"inbound\"} 0", "{\"outbound\",\"ipv4\",\"manual\"} 1"],
            "the end of 5 and the begin of 7 were missed"
        );
    }

    #[test]
    fn nothing_is_shown_before_all_connections_are_known() {
        let feeler = |id| conn(id, ConnType::Feeler, 1);
        let with_a_feeler = |r: &mut Registry| {
            let mut live = Live::new(r);
            live.opened(r, &feeler(500), Direction::Outbound, T);
            live.closed(r, 500, T);
            assert!(shown(r).is_empty(), "those from before are not known: {:?}", shown(r));
            live
        };
        let mut r = Registry::new(100);
        with_a_feeler(&mut r).resynchronise(&mut r, &[peer(7, "manual", T - 90_000)], T);
        assert!(shown(&r).contains(&"{\"outbound\",\"ipv4\",\"manual\"} 1".into()), "{:?}", shown(&r));

        let mut r = Registry::new(100);
        with_a_feeler(&mut r).opened(&mut r, &feeler(3), Direction::Outbound, T);
        assert_eq!(
            shown(&r),
            ["{\"outbound\",\"ipv4\",\"feeler\"} 1"],
            "ids that begin again are of a start"
        );

        let mut r = Registry::new(100);
        Live::new(&mut r).opened(&mut r, &feeler(0), Direction::Outbound, T);
        assert_eq!(shown(&r), ["{\"outbound\",\"ipv4\",\"feeler\"} 1"], "the first connection of a node");
    }

    #[test]
    fn what_happened_while_getpeerinfo_was_on_its_way_stays() {
        let mut r = Registry::new(100);
        let mut live = Live::new(&mut r);
        live.opened(&mut r, &conn(1, ConnType::Inbound, 1), Direction::Inbound, T - 60_000);
        live.opened(&mut r, &conn(2, ConnType::Inbound, 2), Direction::Inbound, T - 10);
        live.closed(&mut r, 1, T - 10);
        live.resynchronise(&mut r, &[peer(1, "inbound", T - 60_000)], T);
        assert_eq!(
            shown(&r),
            ["{\"inbound\",\"ipv4\",\"inbound\"} 0", "{\"inbound\",\"ipv6\",\"inbound\"} 1"]
        );
    }
}
