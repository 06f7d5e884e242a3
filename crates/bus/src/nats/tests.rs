//! Against a real server.

use std::path::PathBuf;
use std::time::Instant;

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::Transaction;
use peer_observer_events::proto::observer::UtxoCache;
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{OrphanTx, OrphanTxs, Rpc};
use peer_observer_testkit::nats::{Config, NatsServer, Transport};
use peer_observer_testkit::{LONG, need, require};
use prost::Message;

use super::*;
use crate::publisher::Stamper;
use crate::{Bus, Publisher, Subscriber};

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() }
}

fn flush(publisher: &mut Publisher) {
    let event = PeerObserverEvent::Utxocache(UtxoCache::default());
    publisher.publish(&"alice".into(), 1, event);
}

/// An event with a transaction of so many bytes.
fn large(bytes: usize) -> PeerObserverEvent {
    let transaction = Transaction { raw: Some(vec![0; bytes].into()), ..Transaction::default() };
    let orphans = OrphanTxs { orphans: vec![OrphanTx { transaction, ..OrphanTx::default() }] };
    PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::OrphanTxs(orphans)) })
}

/// Publishes until something of it arrives: a subscription is not there at once.
async fn meet(publisher: &mut Publisher, subscriber: &mut Subscriber) -> bool {
    let mut heard = Vec::new();
    let knock = async {
        loop {
            flush(publisher);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let meet = async {
        tokio::select! {
            n = subscriber.recv_many(&mut heard, 1) => n > 0,
            () = knock => false,
        }
    };
    tokio::time::timeout(LONG, meet).await.unwrap_or(false)
}

#[tokio::test]
async fn a_credentials_file_is_a_login_with_and_without_tls() {
    require!(need::nats_server(), need::openssl());
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/nats/testdata");
    let lines = std::fs::read_to_string(data.join("operator.conf")).unwrap();
    for transport in [Transport::Plain, Transport::Tls] {
        let server =
            NatsServer::start_with(Config { transport, lines: lines.clone(), ..Config::default() }).unwrap();
        let mut config =
            NatsConfig { nats_credentials_file: Some(data.join("user.creds")), ..config(&server) };
        if transport == Transport::Tls {
            config.nats_tls = true;
            config.nats_tls_ca = Some(server.ca_file());
        }
        let bus = Bus::nats(config).unwrap();
        let mut subscriber = bus.subscriber("test", &[Subject::UtxoCache], Limits::default());
        let mut publisher = bus.publisher(Source::Ebpf, "test");
        assert!(meet(&mut publisher, &mut subscriber).await, "{transport:?}");
        bus.close(LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_a_frozen_server_does_not_take_stay_in_the_spool_and_the_rest_is_counted() {
    require!(need::nats_server());
    /// What can be on its way to the server: in buffers of sockets, with the client, in the writer's hand, in the spool.
    const ON_THE_WAY: u64 = 20;
    /// What fits into the spool.
    const SPOOLED: u64 = 4;
    const TOO_MANY: u64 = 60;
    let mut server = NatsServer::start().unwrap();
    let bus = Bus::nats(NatsConfig { nats_spool_bytes: Some(16 << 20), ..config(&server) }).unwrap();
    let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let mut publisher = bus.publisher(Source::Rpc, "test");
    assert!(meet(&mut publisher, &mut subscriber).await);
    server.freeze().unwrap();
    let (node, block) = (Arc::from("alice"), large(4_000_000));
    let mut taken = 0;
    while taken <= ON_THE_WAY {
        let fits = publisher.publish_when_it_fits(&node, 1, block.clone());
        if tokio::time::timeout(Duration::from_secs(1), fits).await.is_err() {
            break;
        }
        taken += 1;
    }
    assert!(taken <= ON_THE_WAY, "{taken} blocks wait somewhere");
    // Should the writer only have been slow, there is no room for so many either.
    for _ in 0..TOO_MANY {
        publisher.publish(&node, 1, block.clone());
    }
    server.thaw().unwrap();
    let (mut arrived, mut lost) = (0, 0);
    while arrived + lost < taken + TOO_MANY {
        let mut some = Vec::new();
        tokio::time::timeout(LONG, subscriber.recv_many(&mut some, 10)).await.expect("delivered or counted");
        for delivery in some {
            match &delivery.event.peer_observer_event {
                Some(PeerObserverEvent::RpcExtractor(_)) => arrived += 1,
                Some(PeerObserverEvent::Loss(loss)) => {
                    assert_eq!((loss.cause.as_str(), loss.component.as_str()), ("full", "test"));
                    lost += loss.count;
                }
                _ => {}
            }
        }
    }
    assert_eq!(arrived + lost, taken + TOO_MANY);
    assert!((SPOOLED..=ON_THE_WAY).contains(&arrived), "{arrived} blocks were kept");
    assert_eq!(bus.close(LONG).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_dropped_sends_what_it_has_and_leaves_nothing_behind() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let bus = Bus::nats(config(&server)).unwrap();
    let Bus::Nats(nats) = &bus else { panic!("it was made for a server") };
    let mut subscriber = bus.subscriber("test", &[Subject::Rpc], Limits::default());
    let mut events = Vec::new();
    let deadline = tokio::time::Instant::now() + LONG;
    // The first is dropped before it is connected, and again and again until the subscription is there.
    while events.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nothing arrives");
        bus.publisher(Source::Rpc, "test").publish(&"alice".into(), 1, large(10));
        let _ = tokio::time::timeout(Duration::from_millis(100), subscriber.recv_many(&mut events, 1)).await;
    }
    let mut dropped = bus.publisher(Source::Rpc, "test");
    for _ in 0..1000 {
        dropped.publish(&"alice".into(), 2, large(10));
    }
    drop(dropped);
    while events.iter().filter(|d| d.event.origin.as_ref().is_some_and(|o| o.time_ns == 2)).count() < 1000 {
        let n = tokio::time::timeout(LONG, subscriber.recv_many(&mut events, 1000)).await;
        assert!(n.expect("all are sent") > 0);
    }
    let ended = || nats.writers.lock().unwrap().iter().all(|(_, writer)| writer.is_finished());
    let deadline = tokio::time::Instant::now() + LONG;
    while !ended() {
        assert!(tokio::time::Instant::now() < deadline, "a writer goes on without its publisher");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _kept = bus.publisher(Source::Rpc, "test");
    drop(bus.subscriber("test", &[Subject::Rpc], Limits::default()));
    let _also_kept = bus.subscriber("test", &[Subject::Rpc], Limits::default());
    assert_eq!(nats.writers.lock().unwrap().len(), 1);
    assert_eq!(nats.readers.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_knows_what_its_server_takes_once_it_is_connected() {
    require!(need::nats_server());
    let mut server = NatsServer::start_with(Config { max_payload: 300_000, ..Config::default() }).unwrap();
    server.stop().unwrap();
    let bus = Bus::nats(config(&server)).unwrap();
    let publisher = bus.publisher(Source::Rpc, "test");
    assert_eq!(
        (publisher.max_payload(), Bus::in_process().publisher(Source::Rpc, "t").max_payload()),
        (None, None)
    );
    server.restart().unwrap();
    let deadline = tokio::time::Instant::now() + LONG;
    while publisher.max_payload() != Some(300_000) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", publisher.max_payload());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_server_finds_those_who_waited_for_it_too() {
    require!(need::nats_server());
    let mut server = NatsServer::start().unwrap();
    let bus = Bus::nats(config(&server)).unwrap();
    let mut subscriber = bus.subscriber("test", &[Subject::UtxoCache], Limits::default());
    let mut publisher = bus.publisher(Source::Ebpf, "test");
    assert!(meet(&mut publisher, &mut subscriber).await);
    let Bus::Nats(nats) = &bus else { panic!("it was made for a server") };
    let unsent = || nats.writers.lock().unwrap()[0].0.unsent();
    for round in 100..104 {
        server.kill().unwrap();
        // Until it notices, it sends into the void.
        let deadline = tokio::time::Instant::now() + LONG;
        while unsent() < 2 {
            assert!(tokio::time::Instant::now() < deadline, "it goes on sending");
            flush(&mut publisher);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..100 {
            publisher.publish(&"alice".into(), round, PeerObserverEvent::Utxocache(UtxoCache::default()));
        }
        server.restart().unwrap();
        let mut arrived = 0;
        while arrived < 100 {
            let mut events = Vec::new();
            let n = tokio::time::timeout(LONG, subscriber.recv_many(&mut events, 1_000)).await;
            assert!(n.is_ok_and(|n| n > 0), "of 100 only {arrived} arrived");
            arrived += events.iter().filter(|d| d.event.origin.as_ref().unwrap().time_ns == round).count();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_missed_beginning_of_a_stream_that_is_younger_than_the_subscription_is_counted() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let bus = Bus::nats(config(&server)).unwrap();
    let subjects = [Subject::UtxoCache, Subject::Loss];
    let mut subscriber = bus.subscriber("test", &subjects, Limits::default());
    let mut publisher = bus.publisher(Source::Ebpf, "test");
    assert!(meet(&mut publisher, &mut subscriber).await);
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut lost = 0;
    // That is known once it has listened for some seconds.
    let deadline = Instant::now() + LONG;
    // Each has its stream, and those that are remembered are bounded.
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while lost == 0 {
        assert!(Instant::now() < deadline, "nothing is said of what was missed");
        pace.tick().await;
        let mut stamper = Stamper::new(Source::Rpc);
        stamper.now = Some(Instant::now());
        let event = || PeerObserverEvent::Utxocache(UtxoCache::default());
        let mut stamped = || stamper.event(&"bob".into(), 1, event(), Subject::UtxoCache);
        for _ in 0..41 {
            stamped();
        }
        client.publish(Subject::UtxoCache.as_str(), stamped().encode_to_vec().into()).await.unwrap();
        let mut events = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(1), subscriber.recv_many(&mut events, 100)).await;
        for delivery in events {
            if let Some(PeerObserverEvent::Loss(loss)) = &delivery.event.peer_observer_event {
                assert_eq!((loss.cause.as_str(), loss.first, loss.last), ("gap", Some(1), Some(41)));
                lost += loss.count;
            }
        }
    }
    assert_eq!(lost % 41, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_not_sent_is_told_at_the_end_refused_or_not() {
    require!(need::nats_server());
    let mut server = NatsServer::start().unwrap();
    server.kill().unwrap();
    let bus = Bus::nats(NatsConfig { nats_spool_bytes: Some(64 << 10), ..config(&server) }).unwrap();
    let mut publisher = bus.publisher(Source::Ebpf, "test");
    for _ in 0..20_000 {
        flush(&mut publisher);
    }
    assert_eq!(bus.close(Duration::from_millis(100)).await, 20_000);
}
