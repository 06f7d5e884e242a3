//! What nodes relay becomes events, whoever and however many they are.

use peer_observer_events::proto::observer::loss::Stage;

use super::*;

/// The header of the genesis block of mainnet, and its hash in internal order.
fn genesis() -> (Vec<u8>, Vec<u8>) {
    let merkle_root = unhex("3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a");
    let header = [&[1, 0, 0, 0][..], &[0; 32], &merkle_root, &unhex("29ab5f49ffff001d1dac2b7c")].concat();
    (header, unhex("6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"))
}

#[test]
fn what_a_node_relays_becomes_events_over_both_transports() {
    let (header, hash) = genesis();
    let addr =
        [&[1, 1, 2, 3, 4][..], &[9, 0, 0, 0, 0, 0, 0, 0], &[0; 10], &[0xff, 0xff, 10, 0, 0, 1, 0x20, 0x8d]]
            .concat();
    let addrv2 = [1, 1, 2, 3, 4, 9, 1, 4, 10, 0, 0, 2, 0x20, 0x8d];
    let compact = [&header[..], &[0; 8], &[0, 0]].concat();
    for (transport, told) in [(Transport::V1, ToldTransport::V1), (Transport::V2, ToldTransport::V2)] {
        let mut extractor = Extractor::start(regtest(), &[None]);
        let mut node = NodePeer::connect(extractor.addr(), transport, LONG).unwrap();
        let info = extractor.wait_for(peer_info);
        assert_eq!((info.version, info.services, info.transport), (70016, 9, told.into()));
        assert_eq!(info.user_agent, "/testkit:0.1.0/");

        node.send("addr", &addr).unwrap();
        node.send("addrv2", &addrv2).unwrap();
        node.send("feefilter", &1_000i64.to_le_bytes()).unwrap();
        node.send("inv", &inventory(5, 2)).unwrap();
        node.send("headers", &[&[1][..], &header, &[0]].concat()).unwrap();
        node.send("cmpctblock", &compact).unwrap();
        node.send("inv", &inventory(2, 1)).unwrap();
        let mut told = Vec::new();
        while told.len() < 8 {
            let (name, event) = extractor.next();
            assert_eq!(name, "node");
            if ping_duration(&event).is_none() {
                told.push(event);
            }
        }
        let text: Vec<String> = told
            .iter()
            .map(|event| {
                let event = peer_observer_events::Event {
                    timestamp: 0,
                    origin: None,
                    peer_observer_event: Some(event.clone()),
                };
                event.to_string()
            })
            .collect();
        let display = |hash: &[u8]| hash.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
        let parts = [
            "10.0.0.1".to_owned(),
            "10.0.0.2".to_owned(),
            "1000".to_owned(),
            "WTx(".to_owned(),
            format!("BlockAnnounced(hash={}, via=HEADERS)", display(&hash)),
            format!("BlockAnnounced(hash={}, via=CMPCTBLOCK)", display(&hash)),
            format!("BlockAnnounced(hash={}, via=INV)", display(&[0; 32])),
            "Block(".to_owned(),
        ];
        for (text, part) in text.iter().zip(&parts) {
            assert!(text.contains(part.as_str()), "{part} in {text}");
        }
        // After an inv it wants to be taken for a peer that knows the block.
        let getheaders = node.wait_for("getheaders", LONG).unwrap();
        assert_eq!(getheaders.payload[4..37], [&[1][..], &[0; 32]].concat());
        extractor.stop();
    }
}

#[test]
fn it_answers_as_a_peer_does() {
    let mut extractor = Extractor::start(regtest(), &[None]);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    node.wait_for("sendheaders", LONG).unwrap();
    assert_eq!(node.wait_for("sendcmpct", LONG).unwrap().payload, [1, 2, 0, 0, 0, 0, 0, 0, 0]);
    node.ping(77, LONG).unwrap();

    // It has no headers, but asks for what follows those that the node knows, and takes the answer for no news.
    let (header, hash) = genesis();
    let getheaders = [&70016u32.to_le_bytes()[..], &[2], &hash, &[3; 32], &[0; 32]].concat();
    node.send("getheaders", &getheaders).unwrap();
    assert_eq!(node.wait_for("headers", LONG).unwrap().payload, [0]);
    let asked = node.wait_for("getheaders", LONG).unwrap().payload;
    assert_eq!(asked, [&70016u32.to_le_bytes()[..], &[1], &hash, &[0; 32]].concat());
    let headers = [&[1][..], &header, &[0]].concat();
    node.send("headers", &headers).unwrap();
    node.send("feefilter", &[0; 8]).unwrap();
    node.send("headers", &headers).unwrap();
    let news = extractor.wait_for(|event| feefilter(event).map(|_| None).or_else(|| block(event).map(Some)));
    assert_eq!(news, None);
    assert_eq!(extractor.wait_for(block).hash, hash);
    extractor.stop();
}

#[test]
fn what_is_not_wanted_is_not_told() {
    let config = Config {
        disable_ping: true,
        disable_addrv2: true,
        disable_invs: true,
        disable_feefilter: true,
        ..regtest()
    };
    let mut extractor = Extractor::start(config, &[None]);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    extractor.wait_for(peer_info);
    node.send("addrv2", b"").unwrap();
    node.send("feefilter", &[0; 8]).unwrap();
    node.send("inv", &inventory(1, 3)).unwrap();
    node.send("inv", &inventory(2, 1)).unwrap();
    assert!(block(&extractor.next().1).is_some_and(|block| block.via() == Via::Inv));
    extractor.stop();
}

#[test]
fn messages_that_cannot_be_read_are_told_as_lost() {
    let mut extractor = Extractor::start(regtest(), &[None]);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    node.send("inv", &[5, 1, 2, 3]).unwrap();
    node.send("headers", &[0xff]).unwrap();
    let mut lost = 0;
    while lost < 2 {
        lost += extractor.wait_for(|event| match event {
            PeerObserverEvent::Loss(loss) => {
                assert_eq!((loss.stage(), loss.cause.as_str()), (Stage::Decode, "malformed"));
                Some(loss.count)
            }
            _ => None,
        });
    }
    // And the connection goes on.
    node.ping(1, LONG).unwrap();
    extractor.stop();
}

#[test]
fn a_node_that_is_known_has_its_name_and_network_unless_the_settings_name_it() {
    let who = |peer: SocketAddr, own: SocketAddr| {
        assert_ne!(peer, own);
        Some(Dialler { node: "known".into(), network: p2p::Network::Regtest })
    };
    // The settings have another network.
    let config = Config::default();
    let mut extractor = Extractor::start_asking(config, &[None, Some("alice")], Arc::new(who));
    for (addr, expected) in extractor.addrs.clone().into_iter().zip(["known", "alice"]) {
        for transport in [Transport::V1, Transport::V2] {
            let mut peer = NodePeer::connect(addr, transport, LONG).unwrap();
            peer.send("feefilter", &1_000_u64.to_le_bytes()).unwrap();
            let mut names = Vec::new();
            while names.len() < 2 {
                names.push(extractor.next().0);
            }
            assert_eq!(names, [expected, expected], "{transport:?}");
        }
    }
    extractor.stop();
}

#[test]
fn several_nodes_are_told_apart_by_the_port_they_dial() {
    let mut extractor = Extractor::start(regtest(), &[Some("alice"), Some("bob")]);
    let mut nodes: Vec<NodePeer> = extractor
        .addrs
        .iter()
        .zip([Transport::V2, Transport::V1])
        .map(|(addr, transport)| NodePeer::connect(*addr, transport, LONG).unwrap())
        .collect();
    for round in 0..5i64 {
        for (fee, node) in nodes.iter_mut().enumerate() {
            node.send("feefilter", &(10 * round + fee as i64).to_le_bytes()).unwrap();
        }
    }
    let mut told = std::collections::BTreeMap::<String, Vec<i64>>::new();
    while told.values().map(Vec::len).sum::<usize>() < 10 {
        let (name, event) = extractor.next();
        told.entry(name).or_default().extend(feefilter(&event));
    }
    assert_eq!(told["alice"], [0, 10, 20, 30, 40]);
    assert_eq!(told["bob"], [1, 11, 21, 31, 41]);
    extractor.stop();
}

#[test]
fn a_million_messages_of_any_size_are_all_understood() {
    const MESSAGES: u32 = 1_000_000;
    const EVERY: u32 = 1_000;
    for transport in [Transport::V1, Transport::V2] {
        let mut extractor = Extractor::start(regtest(), &[None]);
        let mut node = NodePeer::connect(extractor.addr(), transport, LONG).unwrap();
        let sender = thread::spawn(move || {
            let payload = vec![0xf9; 100_000];
            // Any order will do, as long as it is the same each time.
            let mut random = 0x9e37_79b9_7f4a_7c15u64;
            for number in 1..=MESSAGES {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let size = match random % 5_000 {
                    0 => (random >> 32) as usize % payload.len(),
                    _ => (random >> 32) as usize % 100,
                };
                let msg_type = ["nothing", "tx", "ping", "a", "twelve-bytes"][random as usize % 5];
                node.send(msg_type, &payload[..size]).unwrap();
                if number % EVERY == 0 {
                    node.send("feefilter", &i64::from(number).to_le_bytes()).unwrap();
                    node.ping(number.into(), LONG).unwrap();
                }
            }
        });
        for number in (EVERY..=MESSAGES).step_by(EVERY as usize) {
            assert_eq!(extractor.wait_for(feefilter), i64::from(number), "{transport:?}");
        }
        sender.join().unwrap();
        extractor.stop();
    }
}
