//! Losses that no later event shows, and what is not believed, with a real server.

use std::collections::HashMap;
use std::net::SocketAddr;

use futures_util::StreamExt;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::event::Event;
use peer_observer_events::proto::observer::{Books, Loss, Origin, UtxoCache};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::{LONG, need, require};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::subscriber::Delivery;
use crate::{Bus, Publisher, Subscriber};

fn flush(publisher: &mut Publisher, node: &str) {
    publisher.publish(&node.into(), 1, PeerObserverEvent::Utxocache(UtxoCache::default()));
}

fn node(delivery: &Delivery) -> &str {
    delivery.event.origin.as_ref().map_or("", |origin| &origin.node)
}

fn loss(delivery: &Delivery) -> Option<&Loss> {
    match &delivery.event.peer_observer_event {
        Some(PeerObserverEvent::Loss(loss)) => Some(loss),
        _ => None,
    }
}

/// What arrives within a moment.
async fn arrived(subscriber: &mut Subscriber) -> Vec<Delivery> {
    let mut some = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(50), subscriber.recv_many(&mut some, 1000)).await;
    some
}

/// A way to a server that can be cut.
struct Proxy {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Proxy {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    if *cut.borrow() {
                        return;
                    }
                    let mut outer = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                    }
                });
            }
        });
        Proxy { address, is_cut }
    }
}

/// A subscriber, and the events of a node that it got.
struct Tool {
    name: &'static str,
    subscriber: Subscriber,
    got: HashMap<String, u64>,
    /// Sequence number of the first of each node: what came before it was published before the tool
    /// listened.
    first: HashMap<String, u64>,
}

impl Tool {
    fn start(bus: &Bus, name: &'static str, subjects: &[Subject]) -> Self {
        let subscriber = bus.subscriber(name, subjects, Limits::default());
        Tool { name, subscriber, got: HashMap::new(), first: HashMap::new() }
    }

    fn got(&self, node: &str) -> u64 {
        self.got.get(node).copied().unwrap_or(0)
    }

    async fn look(&mut self) {
        for delivery in arrived(&mut self.subscriber).await {
            let sequence = delivery.event.origin.as_ref().map_or(0, |origin| origin.sequence);
            self.first.entry(node(&delivery).to_owned()).or_insert(sequence);
            *self.got.entry(node(&delivery).to_owned()).or_default() += 1;
        }
    }

    /// Has it hear something of that node.
    async fn meet(&mut self, publisher: &mut Publisher, node: &str) {
        let (before, deadline) = (self.got(node), Instant::now() + LONG);
        while self.got(node) == before {
            assert!(Instant::now() < deadline, "{} hears nothing of {node}", self.name);
            flush(publisher, node);
            self.look().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_count_what_they_missed_of_an_ended_stream() {
    require!(need::nats_server());
    const MISSED: u64 = 1_000;
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.port()).await;
    let config = |address| NatsConfig { nats_address: Some(address), ..NatsConfig::default() };
    let far = Bus::nats(config(proxy.address.to_string())).unwrap();
    let near = Bus::nats(config(server.url())).unwrap();
    let mut observer = near.subscriber("observer", &[Subject::Loss], Limits::default());
    // One subject is subscribed to as it is, several by a wildcard.
    let mut tools = [
        Tool::start(&far, "one", &[Subject::UtxoCache]),
        Tool::start(&far, "several", &[Subject::UtxoCache, Subject::Rpc]),
    ];
    let mut ending = near.publisher(Source::Capture, "ending");
    let mut other = near.publisher(Source::Ebpf, "other");
    for tool in &mut tools {
        tool.meet(&mut ending, "ending").await;
    }
    proxy.is_cut.send_replace(true);
    for _ in 0..MISSED {
        flush(&mut ending, "ending");
    }
    near.drained().await;
    proxy.is_cut.send_replace(false);
    for tool in &mut tools {
        tool.meet(&mut other, "other").await;
    }
    let published = ending.stats().published.load(Ordering::Relaxed);
    drop(ending);
    let mut lost: HashMap<String, u64> = HashMap::new();
    let deadline = Instant::now() + LONG;
    for tool in &mut tools {
        let published = published + 1 - tool.first["ending"];
        loop {
            tool.look().await;
            for delivery in arrived(&mut observer).await.iter().filter(|d| node(d) == "ending") {
                let loss = loss(delivery).unwrap();
                assert_eq!(loss.cause, "gap");
                *lost.entry(loss.component.clone()).or_default() += loss.count;
            }
            let lost = lost.get(tool.name).copied().unwrap_or(0);
            assert!(tool.got("ending") + lost <= published, "{lost} were lost");
            if tool.got("ending") + lost == published {
                assert!(lost >= MISSED / 2, "{lost} were lost");
                break;
            }
            assert!(Instant::now() < deadline, "{} counts {lost}", tool.name);
        }
    }
    near.close(LONG).await;
    far.close(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_node_names_are_dropped_before_the_queue() {
    require!(need::nats_server());
    const LONG_NAMES: u64 = 150;
    let server = NatsServer::start().unwrap();
    let bus = Bus::nats(NatsConfig { nats_address: Some(server.url()), ..Default::default() }).unwrap();
    let mut tool = Tool::start(&bus, "test", &[Subject::UtxoCache, Subject::Books]);
    let mut publisher = bus.publisher(Source::Ebpf, "test");
    tool.meet(&mut publisher, "alice").await;
    let client = async_nats::connect(server.url()).await.unwrap();
    for i in 0..LONG_NAMES {
        let origin = Origin {
            node: format!("{i}{}", "n".repeat(4_000_000)),
            extractor: 1,
            session: 1,
            sequence: 1,
            ..Origin::default()
        };
        let content = PeerObserverEvent::Utxocache(UtxoCache::default());
        let event = Event { timestamp: 1, origin: Some(origin), peer_observer_event: Some(content) };
        client.publish(Subject::UtxoCache.as_str(), event.encode_to_vec().into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let stats = tool.subscriber.stats();
    let deadline = Instant::now() + LONG;
    while stats.undecodable.load(Ordering::Relaxed) < LONG_NAMES {
        // Nobody takes from the queue.
        assert!(tool.subscriber.depth()().1 < 4_000_000, "a long name waits in the queue");
        assert!(Instant::now() < deadline, "they are counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tool.meet(&mut publisher, "alice").await;
    assert_eq!(stats.undecodable.load(Ordering::Relaxed), LONG_NAMES);
    assert_eq!(tool.got.keys().collect::<Vec<_>>(), ["alice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_implausible_number_counts_as_one_loss() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let bus = Bus::nats(NatsConfig { nats_address: Some(server.url()), ..Default::default() }).unwrap();
    let mut tool = bus.subscriber("test", &[Subject::UtxoCache, Subject::Loss], Limits::default());
    let client = async_nats::connect(server.url()).await.unwrap();
    let stats = tool.stats();
    let deadline = Instant::now() + LONG;
    let mut losses = Vec::new();
    while losses.is_empty() {
        assert!(Instant::now() < deadline, "it is reported");
        for sequence in [1, u64::MAX] {
            let origin =
                Origin { node: "alice".into(), extractor: 1, session: 1, sequence, ..Origin::default() };
            let content = PeerObserverEvent::Utxocache(UtxoCache::default());
            let event = Event { timestamp: 1, origin: Some(origin), peer_observer_event: Some(content) };
            client.publish(Subject::UtxoCache.as_str(), event.encode_to_vec().into()).await.unwrap();
        }
        losses = arrived(&mut tool).await.iter().filter_map(loss).cloned().collect();
    }
    assert_eq!(losses[0].cause, "implausible");
    assert!(losses[0].count < 10_000 && stats.lost_transport.load(Ordering::Relaxed) < 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_leave_are_not_silent() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let config = || NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() };
    let bus = Bus::nats(config()).unwrap();
    let mailbox = Mailbox::new("test", Subject::ALL, Limits::default());
    let (_up, is_up) = watch::channel(None);
    let mut reader = subscribe::Reader::new(mailbox, Subject::ALL, None, is_up);
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("observer.>").await.unwrap();
    client.flush().await.unwrap();
    let mut publisher = bus.publisher(Source::Ebpf, "test");
    // One with streams, one with nothing but counters, whose position is the announcement's own
    // number.
    flush(&mut publisher, "alice");
    let counters = PeerObserverEvent::Books(Books { pid: 1, tracepoints: Vec::new() });
    publisher.publish(&"bob".into(), 1, counters);
    drop(publisher);
    let mut left = 0;
    while left < 2 {
        let message = tokio::time::timeout(LONG, messages.next()).await.expect("both leave").unwrap();
        let event = Event::decode(message.payload.clone()).unwrap();
        if let Some(PeerObserverEvent::StreamPositions(positions)) = event.peer_observer_event {
            left += u32::from(positions.leaving);
        }
        reader.take(vec![message]);
    }
    assert_eq!(reader.silent_after(1_000), 0);
}
