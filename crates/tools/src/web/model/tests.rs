//! What the model makes of what a node tells.

use std::sync::Arc;

use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::bitcoin_primitives::{InventoryItem, Transaction};
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event as MempoolKind;
use peer_observer_events::proto::ebpf_extractor::mempool::{Added, MempoolEvent};
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{GetData, Inv, MessageEvent, Metadata, Ping, Tx};
use peer_observer_events::proto::ebpf_extractor::{Ebpf, ebpf::EbpfEvent};
use peer_observer_events::proto::observer::Origin;
use peer_observer_events::proto::rpc_extractor::{Rpc, rpc::RpcEvent};
use peer_observer_events::{Event, Subject};

use super::*;

fn delivery(node: &str, subject: Subject, event: PeerObserverEvent) -> Delivery {
    let origin =
        Origin { node: node.into(), extractor: 1, session: 1, sequence: 1, time_ns: 1, ..Origin::default() };
    let event = Event { timestamp: 0, origin: Some(origin), peer_observer_event: Some(event) };
    Delivery { subject, event: Arc::new(event) }
}

const SECOND_NS: u64 = 1_000_000_000;
/// The two ids of a transaction.
const WTXID: [u8; 32] = [1; 32];
const TXID: [u8; 32] = [2; 32];

/// What a node tells, one second after the other.
struct Story {
    node: Node,
    time_ns: u64,
}

impl Story {
    fn new() -> Self {
        let time_ns = 1_700_000_000 * SECOND_NS;
        Story { node: Node::new("alice", time_ns, Instant::now()), time_ns }
    }

    fn tell(&mut self, event: EbpfEvent) {
        self.time_ns += SECOND_NS;
        let event = PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) });
        self.node.observe(&event, &Known::default(), self.time_ns, Now::get());
    }

    fn message(&mut self, peer_id: u64, inbound: bool, msg: Msg) {
        let addr = format!("192.0.2.{peer_id}:8333");
        let meta = Metadata { peer_id, inbound, addr, ..Metadata::default() };
        self.tell(EbpfEvent::Message(MessageEvent {
            meta,
            decode_error: None,
            captured: None,
            msg: Some(msg),
        }));
    }

    fn inv(&mut self, peer: u64, inbound: bool, item: Item) {
        self.message(peer, inbound, Msg::Inv(Inv { items: vec![InventoryItem { item: Some(item) }] }));
    }

    fn getdata(&mut self, peer: u64, inbound: bool, item: Item) {
        self.message(
            peer,
            inbound,
            Msg::Getdata(GetData { items: vec![InventoryItem { item: Some(item) }] }),
        );
    }

    fn tx(&mut self, peer: u64, inbound: bool) {
        let tx = Transaction { txid: TXID.to_vec().into(), wtxid: WTXID.to_vec().into(), raw: None };
        self.message(peer, inbound, Msg::Tx(Tx { tx }));
    }

    fn added(&mut self) {
        let added = Added { txid: TXID.to_vec().into(), vsize: 141, fee: 282 };
        self.tell(EbpfEvent::Mempool(MempoolEvent { event: Some(MempoolKind::Added(added)) }));
    }

    /// Of a peer: transactions that it was the first to announce, and that it sent unasked.
    fn relay(&self, peer: u64) -> (u64, u64) {
        let relay = &self.node.peers.get(peer).unwrap().relay;
        (relay.tx_first, relay.tx_unasked)
    }

    fn followed(&self) -> Vec<&transactions::Transaction> {
        self.node.transactions.last().collect()
    }
}

fn wtx() -> Item {
    Item::Wtx(WTXID.to_vec().into())
}

fn by_txid() -> Item {
    Item::Transaction(TXID.to_vec().into())
}

fn ping(node: &str) -> Delivery {
    let meta = Metadata { addr: "192.0.2.1:1".into(), command: "ping".into(), ..Metadata::default() };
    let msg = Some(Msg::Ping(Ping { value: 1 }));
    let event = MessageEvent { meta, decode_error: None, captured: None, msg };
    let event = Ebpf { ebpf_event: Some(EbpfEvent::Message(event)) };
    delivery(node, Subject::NetMsg, PeerObserverEvent::EbpfExtractor(event))
}

#[test]
fn the_node_that_is_shown_stays_the_one() {
    let mut model = Model::new("node", Known::default());
    assert!(model.node(None).is_none());
    let uptime = Rpc { rpc_event: Some(RpcEvent::Uptime(1)) };
    let uptime = delivery("carol", Subject::Rpc, PeerObserverEvent::RpcExtractor(uptime));
    let mut shown = Vec::new();
    for delivery in [uptime, ping("bob"), ping("alice"), ping("carol")] {
        model.observe(&[delivery], Now::get());
        shown.push(model.node(None).unwrap().name.to_string());
    }
    assert_eq!(shown, ["carol", "bob", "bob", "bob"]);
    assert_eq!(&*model.node(Some("alice")).unwrap().name, "alice");
}

#[test]
fn a_transaction_that_is_announced_again_under_its_other_id_has_one_first_peer() {
    let mut story = Story::new();
    story.inv(7, true, wtx());
    story.getdata(7, false, wtx());
    story.tx(7, true);
    story.added();
    story.inv(8, true, by_txid());
    assert_eq!((story.relay(7), story.relay(8)), ((1, 0), (0, 0)));
    assert_eq!(story.followed()[0].announced_by, 2);
    assert_eq!(story.followed().len(), 1);
}

#[test]
fn who_is_asked_for_a_transaction_by_its_other_id_sends_it_asked_and_was_not_first() {
    let mut story = Story::new();
    story.inv(7, true, wtx());
    story.getdata(7, false, wtx());
    // It stalls.
    story.inv(8, true, by_txid());
    story.getdata(8, false, Item::WitnessTransaction(TXID.to_vec().into()));
    assert_eq!(story.relay(8), (1, 0));
    story.tx(8, true);
    story.added();
    assert_eq!((story.relay(7), story.relay(8)), ((1, 0), (0, 0)));
    assert_eq!(story.followed().len(), 1);
    // Too late, but it was asked.
    story.tx(7, true);
    assert_eq!(story.relay(7), (1, 0));
}

#[test]
fn a_transaction_of_the_node_itself_is_followed_once_and_comes_from_nobody() {
    let mut story = Story::new();
    story.added();
    story.inv(7, false, wtx());
    assert_eq!(story.followed().len(), 2, "nobody can know yet");
    // The peer has it from elsewhere, too.
    story.inv(8, true, wtx());
    story.getdata(7, true, wtx());
    story.tx(7, false);
    story.inv(8, true, by_txid());
    let followed = story.followed();
    assert_eq!(followed.len(), 1);
    assert_eq!((followed[0].first_peer, followed[0].to_accept_ns()), (None, None));
    assert_eq!((followed[0].told_to, followed[0].asked_by, followed[0].announced_by), (1, 1, 2));
    assert!(followed[0].added.is_some());
    assert_eq!((story.relay(7), story.relay(8)), ((0, 0), (0, 0)));
}

#[test]
fn what_the_node_sends_of_what_was_forgotten_is_not_followed_anew() {
    let mut story = Story::new();
    story.tx(7, false);
    assert!(story.followed().is_empty());
}
