//! The peers of a node: those that are connected, and the last ones that were.

use std::collections::{BTreeMap, VecDeque};

use peer_observer_events::conn_type::NAMES as CONN_TYPES;
use peer_observer_events::proto::bitcoin_primitives::ConnType;
use peer_observer_events::proto::rpc_extractor::PeerInfo;
use peer_observer_exporter::labels::bounded;

use super::message::{COMMANDS, Record};
use super::series::Series;

/// Peers that are followed at once. Bitcoin Core connects to 125 unless told otherwise (`-maxconnections`).
const MAX_OPEN: usize = 1024;
/// Peers that are remembered after they left.
const MAX_CLOSED: usize = 256;
/// Messages that are kept of a peer, besides the first ones.
pub(crate) const LAST_MESSAGES: usize = 120;
/// Messages that are kept of how a connection began.
const FIRST_MESSAGES: usize = 16;
/// Round trips that are kept.
const ROUND_TRIPS: usize = 60;
/// A sparkline's slots, and their length, ns.
pub(crate) const SPARK: (usize, u64) = (60, 5_000_000_000);
/// Connections that threads of a node may tell of in another order than their ids.
const OUT_OF_ORDER: u64 = 64;
/// Bitcoin Core lets a peer go that was silent for 20 minutes (TIMEOUT_INTERVAL, src/net.h): one that was silent for longer is gone, ns.
const SILENT_NS: u64 = 30 * 60 * 1_000_000_000;
/// A peer that getpeerinfo does not list and that was silent for so long is gone, ns.
const GONE_NS: u64 = 120 * 1_000_000_000;

/// Messages and bytes of one type in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// How the transactions and addresses of a peer went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Relay {
    /// Transactions that it announced, that it was told of.
    pub(crate) tx_announced: u64,
    pub(crate) tx_told: u64,
    /// Of those that it announced: the node had not heard of them before.
    pub(crate) tx_first: u64,
    /// Transactions that the node asked it for, that it asked for.
    pub(crate) tx_asked: u64,
    pub(crate) tx_asked_by: u64,
    /// Transactions that it sent, and of these unasked; that it was sent.
    pub(crate) tx_received: u64,
    pub(crate) tx_unasked: u64,
    pub(crate) tx_sent: u64,
    /// Entries of notfound messages.
    pub(crate) not_found: u64,
    /// Blocks that it was the first to tell of.
    pub(crate) blocks_first: u64,
    /// Addresses that it sent, that it was sent, and of its own.
    pub(crate) addresses_received: u64,
    pub(crate) addresses_sent: u64,
    pub(crate) self_announced: u64,
}

/// Pings both ways.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    /// Nonce and time of a ping of the node that is not answered yet.
    pub(crate) waiting: Option<(u64, u64)>,
    /// Round trips, ns: when they ended, and how long they took.
    pub(crate) round_trips: VecDeque<(u64, u64)>,
    pub(crate) min_ns: Option<u64>,
    /// Nonce and time of a ping of the peer that is not answered yet.
    pub(crate) to_answer: Option<(u64, u64)>,
    /// How long the node took to answer the last one, ns.
    pub(crate) answered_ns: Option<u64>,
}

impl Pings {
    /// The node sent a ping.
    pub(crate) fn sent(&mut self, nonce: u64, time_ns: u64) {
        self.waiting = Some((nonce, time_ns));
    }

    /// The peer answered.
    pub(crate) fn answered(&mut self, nonce: u64, time_ns: u64) {
        let Some((expected, sent_ns)) = self.waiting else { return };
        if nonce != expected {
            return;
        }
        self.waiting = None;
        let took = time_ns.saturating_sub(sent_ns);
        self.min_ns = Some(self.min_ns.map_or(took, |min| min.min(took)));
        if self.round_trips.len() == ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back((time_ns, took));
    }

    /// The peer sent a ping.
    pub(crate) fn came(&mut self, nonce: u64, time_ns: u64) {
        self.to_answer = Some((nonce, time_ns));
    }

    /// The node answered.
    pub(crate) fn answer_went(&mut self, nonce: u64, time_ns: u64) {
        if let Some((_, came_ns)) = self.to_answer.take_if(|(expected, _)| *expected == nonce) {
            self.answered_ns = Some(time_ns.saturating_sub(came_ns));
        }
    }
}

/// What a peer says of itself in its `version` message.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) services: u64,
    pub(crate) user_agent: Box<str>,
    pub(crate) start_height: i32,
    pub(crate) relay: bool,
}

/// What was agreed on after that.
#[derive(Debug, Clone, Default)]
pub(crate) struct Features {
    pub(crate) wtxidrelay: bool,
    pub(crate) sendaddrv2: bool,
    pub(crate) sendheaders: bool,
    /// The peer wants compact blocks unasked; the node wants them of it.
    pub(crate) high_bandwidth_from: bool,
    pub(crate) high_bandwidth_to: bool,
    /// Fee rate that the peer asks for, sat/kvB.
    pub(crate) fee_filter: Option<i64>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Evicted,
    /// The node began to count its peers anew.
    Restart,
    /// Nobody said; it is not there any more.
    Gone,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::Evicted => "evicted",
            End::Restart => "node restarted",
            End::Gone => "gone",
        }
    }
}

/// A peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) addr: Box<str>,
    /// Index in [`CONN_TYPES`].
    pub(crate) conn_type: usize,
    /// Index in `message::NETWORKS`, when a tracepoint said it.
    pub(crate) network: Option<usize>,
    /// When the connection began, ns since the UNIX epoch, when that was seen or told.
    pub(crate) opened_ns: Option<u64>,
    pub(crate) closed: Option<(u64, End)>,
    pub(crate) last_ns: u64,
    pub(crate) last_in_ns: u64,
    pub(crate) hello: Option<Hello>,
    pub(crate) features: Features,
    pub(crate) pings: Pings,
    pub(crate) relay: Relay,
    /// By direction (received, sent) and type.
    pub(crate) counts: Box<[[Count; COMMANDS.len()]; 2]>,
    pub(crate) malformed: u64,
    pub(crate) misbehaved: u64,
    pub(crate) misbehaviour: Option<Box<str>>,
    /// Messages received and sent.
    pub(crate) spark: Series<[u32; 2]>,
    pub(crate) first_messages: Vec<Record>,
    pub(crate) last_messages: VecDeque<Record>,
    pub(crate) info: Option<PeerInfo>,
}

/// Index of a direction.
pub(crate) fn direction(inbound: bool) -> usize {
    usize::from(!inbound)
}

impl Peer {
    fn new(id: u64, addr: &str, conn_type: i32, time_ns: u64) -> Self {
        Peer {
            id,
            addr: bounded(addr).into(),
            conn_type: ConnType::try_from(conn_type)
                .map_or(0, |kind| kind as usize)
                .min(CONN_TYPES.len() - 1),
            network: None,
            opened_ns: None,
            closed: None,
            last_ns: time_ns,
            last_in_ns: 0,
            hello: None,
            features: Features::default(),
            pings: Pings::default(),
            relay: Relay::default(),
            counts: Box::new([[Count::default(); COMMANDS.len()]; 2]),
            malformed: 0,
            misbehaved: 0,
            misbehaviour: None,
            spark: Series::new(SPARK.1, SPARK.0),
            first_messages: Vec::new(),
            last_messages: VecDeque::new(),
            info: None,
        }
    }

    /// Counts a message and keeps it.
    pub(crate) fn message(&mut self, record: &Record) {
        self.last_ns = self.last_ns.max(record.time_ns);
        if record.inbound {
            self.last_in_ns = self.last_in_ns.max(record.time_ns);
        }
        let direction = direction(record.inbound);
        let count = &mut self.counts[direction][usize::from(record.command)];
        count.messages += 1;
        count.bytes = count.bytes.saturating_add(record.size);
        self.spark.at(record.time_ns)[direction] += 1;
        self.malformed += u64::from(record.malformed);
        if self.first_messages.len() < FIRST_MESSAGES {
            self.first_messages.push(record.clone());
            return;
        }
        if self.last_messages.len() == LAST_MESSAGES {
            self.last_messages.pop_front();
        }
        self.last_messages.push_back(record.clone());
    }

    /// Messages and bytes of all types: received, sent.
    pub(crate) fn totals(&self) -> [Count; 2] {
        [0, 1].map(|direction| {
            self.counts[direction].iter().fold(Count::default(), |sum, count| Count {
                messages: sum.messages + count.messages,
                bytes: sum.bytes.saturating_add(count.bytes),
            })
        })
    }

    /// The node dialled it; nothing when that is not known.
    pub(crate) fn is_inbound(&self) -> bool {
        self.conn_type == ConnType::Inbound as usize
    }
}

/// The peers of a node.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    open: BTreeMap<u64, Peer>,
    closed: VecDeque<Peer>,
    /// Ids up to here were given to connections that were seen to begin.
    opened_up_to: Option<u64>,
    pub(crate) opened: u64,
    pub(crate) ended: u64,
    pub(crate) evicted: u64,
}

impl Peers {
    /// Those that are connected, by id.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Peer> {
        self.open.values()
    }

    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Those that left, the last first.
    pub(crate) fn closed(&self) -> impl Iterator<Item = &Peer> {
        self.closed.iter().rev()
    }

    /// The peer of that id: the one that is connected, or the last that was.
    pub(crate) fn get(&self, id: u64) -> Option<&Peer> {
        self.open.get(&id).or_else(|| self.closed().find(|peer| peer.id == id))
    }

    /// The peer that this came from or went to. One that is not known was connected before anybody looked.
    pub(crate) fn of(&mut self, id: u64, addr: &str, conn_type: i32, time_ns: u64) -> &mut Peer {
        let same = self.open.get(&id).is_none_or(|peer| *peer.addr == *bounded(addr) || addr.is_empty());
        if !same {
            self.close(id, time_ns, End::Restart);
        }
        if !self.open.contains_key(&id) && self.open.len() >= MAX_OPEN {
            let stalest = self.open.values().min_by_key(|peer| peer.last_ns).map(|peer| peer.id);
            self.close(stalest.unwrap_or(id), time_ns, End::Gone);
        }
        self.open.entry(id).or_insert_with(|| Peer::new(id, addr, conn_type, time_ns))
    }

    /// The peer of that id, if it is connected.
    pub(crate) fn open_mut(&mut self, id: u64) -> Option<&mut Peer> {
        self.open.get_mut(&id)
    }

    /// The peer of that id: the one that is connected, or the last that was.
    pub(crate) fn any_mut(&mut self, id: u64) -> Option<&mut Peer> {
        match self.open.get_mut(&id) {
            Some(peer) => Some(peer),
            None => self.closed.iter_mut().rev().find(|peer| peer.id == id),
        }
    }

    /// A connection began. Returns whether the node was started again: that is what an id that began before means.
    pub(crate) fn begin(&mut self, id: u64, addr: &str, conn_type: i32, network: u32, time_ns: u64) -> bool {
        let known = self.get(id).is_some_and(|peer| peer.opened_ns.is_some());
        let anew = |up_to| known && id <= up_to || id.saturating_add(OUT_OF_ORDER) < up_to;
        let restarted = self.opened_up_to.is_some_and(anew);
        if restarted {
            for id in self.open.keys().copied().collect::<Vec<_>>() {
                self.close(id, time_ns, End::Restart);
            }
            self.opened_up_to = None;
        }
        // Nobody may have told that they left.
        let silent = |peer: &&Peer| time_ns.saturating_sub(peer.last_ns) > SILENT_NS;
        for id in self.open.values().filter(silent).map(|peer| peer.id).collect::<Vec<_>>() {
            self.close(id, time_ns, End::Gone);
        }
        self.opened += 1;
        self.opened_up_to = Some(self.opened_up_to.map_or(id, |up_to| up_to.max(id)));
        let peer = self.of(id, addr, conn_type, time_ns);
        peer.opened_ns = Some(time_ns);
        peer.network = Some((network as usize).min(super::message::NETWORKS.len() - 1));
        restarted
    }

    /// A connection ended.
    pub(crate) fn close(&mut self, id: u64, time_ns: u64, end: End) {
        let Some(mut peer) = self.open.remove(&id) else {
            // An eviction is told before the connection closes, or after.
            if let Some(peer) = self.closed.iter_mut().rev().find(|peer| peer.id == id)
                && end == End::Evicted
            {
                peer.closed = peer.closed.map(|(time, _)| (time, End::Evicted));
            }
            return;
        };
        let evicted = peer.closed.is_some_and(|(_, end)| end == End::Evicted);
        peer.closed = Some((time_ns, if evicted { End::Evicted } else { end }));
        self.ended += 1;
        if self.closed.len() == MAX_CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(peer);
    }

    /// The node will close this connection to make room.
    pub(crate) fn evict(&mut self, id: u64, time_ns: u64) {
        self.evicted += 1;
        match self.open.get_mut(&id) {
            Some(peer) => peer.closed = Some((time_ns, End::Evicted)),
            None => self.close(id, time_ns, End::Evicted),
        }
    }

    /// Takes over what getpeerinfo says: it knows all peers.
    pub(crate) fn infos(&mut self, infos: &[PeerInfo], time_ns: u64) {
        for info in infos.iter().take(MAX_OPEN) {
            let conn_type = CONN_TYPES.iter().position(|name| *name == info.connection_type).unwrap_or(0);
            let peer = self.of(info.id.into(), &info.address, conn_type as i32, time_ns);
            if peer.opened_ns.is_none() && info.connection_time > 0 {
                peer.opened_ns = Some(info.connection_time.unsigned_abs().saturating_mul(1_000_000_000));
            }
            peer.info = Some(info.clone());
        }
        let listed: std::collections::HashSet<u64> = infos.iter().map(|info| info.id.into()).collect();
        let gone: Vec<u64> = self
            .open
            .values()
            .filter(|peer| !listed.contains(&peer.id) && time_ns.saturating_sub(peer.last_ns) > GONE_NS)
            .map(|peer| peer.id)
            .collect();
        for id in gone {
            self.close(id, time_ns, End::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_leaves_is_remembered_with_how_it_left() {
        let mut peers = Peers::default();
        peers.begin(1, "192.0.2.1:1", 1, 1, 10);
        peers.begin(2, "192.0.2.2:1", 1, 1, 10);
        peers.evict(1, 20);
        peers.close(1, 21, End::Closed);
        peers.close(2, 22, End::Closed);
        peers.close(3, 22, End::Closed);
        let ends: Vec<_> = peers.closed().map(|peer| (peer.id, peer.closed)).collect();
        assert_eq!(ends, [(2, Some((22, End::Closed))), (1, Some((21, End::Evicted)))]);
        assert_eq!((peers.len(), peers.opened, peers.ended, peers.evicted), (0, 2, 2, 1));
    }

    #[test]
    fn a_node_that_counts_anew_was_started_again() {
        let mut peers = Peers::default();
        for id in 0..3 {
            assert!(!peers.begin(id, "192.0.2.1:1", 1, 1, 10));
        }
        // Two threads of the node may tell of their connections in another order.
        assert!(!peers.begin(4, "192.0.2.1:1", 1, 1, 11));
        assert!(!peers.begin(3, "192.0.2.1:1", 1, 1, 11));
        assert_eq!(peers.len(), 5);
        assert!(peers.begin(0, "192.0.2.9:1", 1, 1, 12));
        assert_eq!(peers.len(), 1);
        assert!(peers.closed().all(|peer| peer.closed == Some((12, End::Restart))));
    }

    #[test]
    fn a_node_that_was_killed_long_after_its_first_peers_left_was_started_again() {
        let mut peers = Peers::default();
        for id in 0..2_000 {
            peers.begin(id, "192.0.2.1:1", 1, 1, 10);
            if id < 1_990 {
                peers.close(id, 11, End::Closed);
            }
        }
        peers.begin(0, "192.0.2.9:1", 1, 1, 12);
        assert_eq!(peers.open().map(|peer| peer.id).collect::<Vec<_>>(), [0]);
        assert_eq!(peers.closed().next().unwrap().closed, Some((12, End::Restart)));
    }

    #[test]
    fn who_was_silent_for_longer_than_a_node_bears_is_gone() {
        let mut peers = Peers::default();
        peers.begin(0, "192.0.2.1:1", 1, 1, 10);
        peers.begin(1, "192.0.2.2:1", 1, 1, 10);
        peers.of(1, "192.0.2.2:1", 1, 20).last_ns = SILENT_NS;
        peers.begin(2, "192.0.2.3:1", 1, 1, SILENT_NS + 11);
        assert_eq!(peers.open().map(|peer| peer.id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn peers_without_end_take_bounded_memory() {
        let mut peers = Peers::default();
        for id in 0..5_000 {
            peers.of(id, "192.0.2.1:1", 1, id);
        }
        assert_eq!((peers.len(), peers.closed().count()), (MAX_OPEN, MAX_CLOSED));
        assert!(peers.get(4_999).is_some() && peers.get(0).is_none());
    }

    #[test]
    fn a_pong_counts_only_with_the_nonce_of_its_ping() {
        let mut pings = Pings::default();
        pings.answered(7, 5);
        pings.sent(7, 10);
        pings.answered(8, 20);
        assert_eq!(pings.min_ns, None);
        pings.answered(7, 30);
        pings.answered(7, 40);
        assert_eq!((pings.min_ns, pings.round_trips.len(), pings.waiting), (Some(20), 1, None));
    }
}
