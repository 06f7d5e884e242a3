//! Large address managers, whole and in parts.

use super::*;

/// An answer of getrawaddrman with so many entries in its tables.
fn raw_addrman(new: u32, tried: u32) -> String {
    let table = |name: &str, buckets: u32, n: u32| -> Map<String, Value> {
        (0..n)
            .map(|i| {
                let entry = json!({ "address": format!("{name}{i:0>55}.onion"), "port": 8333, "services": 1033,
                    "time": 1795375992, "network": "onion", "source": "74.142.60.89", "source_network": "ipv4" });
                (format!("{}/{}", i % buckets, i / buckets), entry)
            })
            .collect()
    };
    json!({ "new": table("n", 1024, new), "tried": table("t", 256, tried) }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_manager_of_80_000_entries_arrives_complete() {
    let server = server();
    server.behave("getrawaddrman", Behaviour::Answer(raw_addrman(64_000, 16_000)));
    let methods = vec![(Method::GetRawAddrman, Duration::from_secs(600))];
    let mut running = start_with(config_for(&server), methods).await;
    let (mut entries, mut parts) = (0, 1);
    for i in 0.. {
        if i == parts {
            break;
        }
        let delivery = running.next(|_| true).await;
        let Some(PeerObserverEvent::RpcExtra(RpcExtra {
            rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)),
        })) = &delivery.event.peer_observer_event
        else {
            panic!("no part of an address manager");
        };
        assert_eq!(part.part, i);
        parts = part.parts;
        let buckets = part.addrman.new.values().chain(part.addrman.tried.values());
        entries += buckets.map(|b| b.entries.len()).sum::<usize>();
    }
    assert!(parts > 1);
    assert_eq!(entries, 80_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_manager_goes_out_in_parts_that_the_nats_server_takes() {
    require!(need::nats_server());
    // The server's own default, less than what is assumed here.
    let nats = nats::Config { max_payload: 1 << 20, ..nats::Config::default() };
    let nats = NatsServer::start_with(nats).unwrap();
    let bus = Bus::nats(NatsConfig { nats_address: Some(nats.url()), ..NatsConfig::default() }).unwrap();
    let server = server();
    // Some 3 MB.
    server.behave("getrawaddrman", Behaviour::Answer(raw_addrman(16_000, 4_000)));
    let methods = vec![(Method::GetRawAddrman, Duration::from_secs(1))];
    let mut running = start_on(bus, config_for(&server), methods).await;
    let mut snapshots: BTreeMap<u64, usize> = BTreeMap::new();
    // What is asked for before the connection is there may be too large, and before the subscription is, unheard.
    let complete = |delivery: &Delivery| {
        let Some(PeerObserverEvent::RpcExtra(RpcExtra {
            rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)),
        })) = &delivery.event.peer_observer_event
        else {
            panic!("no part of an address manager");
        };
        assert!(part.parts > 2);
        let buckets = part.addrman.new.values().chain(part.addrman.tried.values());
        let entries = snapshots.entry(part.snapshot).or_default();
        *entries += buckets.map(|b| b.entries.len()).sum::<usize>();
        *entries == 20_000
    };
    running.next(complete).await;
    running.stop().await;
}
