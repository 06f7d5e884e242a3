//! Against a real server.

use std::path::PathBuf;

use peer_observer_events::proto::observer::UtxoCache;
use peer_observer_testkit::nats::{Config, NatsServer, Transport};
use peer_observer_testkit::{need, require};

use super::*;
use crate::{Bus, Publisher, Subscriber};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() }
}

fn flush(publisher: &mut Publisher) {
    let event = peer_observer_events::PeerObserverEvent::Utxocache(UtxoCache::default());
    publisher.publish(&"alice".into(), 1, event);
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
