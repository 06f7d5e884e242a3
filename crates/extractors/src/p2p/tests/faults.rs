//! Peers that break the rules, do not keep up, or are too many: closed with a reason, and no harm to others.

use std::sync::atomic::{AtomicU64, Ordering};

use peer_observer_testkit::{need, other_user, peer, require, wait_until};

use super::*;

/// What a peer does, and why it is closed for it.
struct Fault {
    name: &'static str,
    does: fn(SocketAddr),
    closed_by: Limit,
    reason: &'static str,
}

/// The time limit by which a fault is closed. The others are so long that nobody reaches them, however slow the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    Handshake,
    Idle,
    Writing,
}

impl Limit {
    fn config(self) -> Config {
        let long = 10 * LONG.as_secs();
        let none =
            Config { p2p_handshake_timeout: long, p2p_idle_timeout: long, disable_ping: true, ..regtest() };
        match self {
            Limit::None => none,
            Limit::Handshake => Config { p2p_handshake_timeout: 1, ..none },
            Limit::Idle => Config { p2p_idle_timeout: 1, ..none },
            // It is the limit for shaking hands, too, which must be done before.
            Limit::Writing => Config { p2p_handshake_timeout: 10, ..none },
        }
    }
}

fn shaken(addr: SocketAddr) -> NodePeer {
    NodePeer::connect(addr, Transport::V1, LONG).unwrap()
}

/// Sends bytes so slowly that they are never a message, until it is closed.
fn drip(node: &mut NodePeer, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if node.send_bytes(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn says(addr: SocketAddr, messages: &[(&str, &[u8])]) {
    let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
    for (msg_type, payload) in messages {
        // It may be closed before the last one.
        let _ = node.send(msg_type, payload);
    }
    assert!(node.wait_closed(LONG));
}

fn version() -> Vec<u8> {
    p2p::handshake::answers(70_016, 0, 0, "/x/").swap_remove(0).1
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "another network over v1",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            node.send_bytes(&peer::frame(p2p::Network::Signet.magic(), "version", &version())).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its message begins with [0a, 03, cf, 40], those of regtest with [fa, bf, b5, da]",
    },
    Fault {
        name: "another network over v2, or no network at all",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            let _ = node.send_bytes(&[7; 5_000]);
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its encrypted transport cannot be followed",
    },
    Fault {
        name: "the magic changes",
        does: |addr| {
            let mut node = shaken(addr);
            node.send_bytes(&peer::frame([0; 4], "ping", &[0; 8])).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its message begins with [00, 00, 00, 00]",
    },
    Fault {
        name: "half open",
        does: |addr| assert!(NodePeer::dial(addr, Transport::V1).unwrap().wait_closed(LONG)),
        closed_by: Limit::Handshake,
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "half a key",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            node.send_bytes(&[7; 40]).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::Handshake,
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "drips its version",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            let version = node.frame("version", &version());
            drip(&mut node, &version);
        },
        closed_by: Limit::Handshake,
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "never sends its verack",
        does: |addr| says(addr, &[("version", &version())]),
        closed_by: Limit::Handshake,
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "drips a message",
        does: |addr| {
            let mut node = shaken(addr);
            let long = node.frame("hello", &[0; 10_000]);
            drip(&mut node, &long);
        },
        closed_by: Limit::Idle,
        reason: "no whole message came within 1s",
    },
    Fault {
        name: "says nothing any more",
        does: |addr| assert!(shaken(addr).wait_closed(LONG)),
        closed_by: Limit::Idle,
        reason: "no whole message came within 1s",
    },
    Fault {
        name: "does not read",
        does: |addr| {
            let mut node = shaken(addr);
            let ping = node.frame("ping", &[0; 8]).repeat(1_000);
            while node.send_bytes(&ping).is_ok() {}
        },
        closed_by: Limit::Writing,
        reason: "it did not read what we sent within 10s",
    },
    Fault {
        name: "too large",
        does: |addr| {
            let mut node = shaken(addr);
            let mut frame = node.frame("tx", b"");
            frame[16..20].copy_from_slice(&4_000_001u32.to_le_bytes());
            node.send_bytes(&frame).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its message of 4000001 bytes is larger than the 4000000 bytes that are allowed",
    },
    Fault {
        name: "a wrong checksum",
        does: |addr| {
            let mut node = shaken(addr);
            let mut frame = node.frame("ping", &[0; 8]);
            frame[24] ^= 1;
            node.send_bytes(&frame).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "the checksum of its ping of 8 bytes is wrong",
    },
    Fault {
        name: "a changed packet",
        does: |addr| {
            let mut node = NodePeer::connect(addr, Transport::V2, LONG).unwrap();
            let mut frame = node.frame("ping", &[0; 8]);
            frame[10] ^= 1;
            node.send_bytes(&frame).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its encrypted transport cannot be followed",
    },
    Fault {
        name: "a message before its version, over v2",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V2).unwrap();
            node.send("ping", &[0; 8]).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "it sent ping before its version",
    },
    Fault {
        name: "two versions",
        does: |addr| says(addr, &[("version", &version()), ("version", &version())]),
        closed_by: Limit::None,
        reason: "it sent version twice",
    },
    Fault {
        name: "a message before its verack",
        does: |addr| says(addr, &[("version", &version()), ("inv", &[0])]),
        closed_by: Limit::None,
        reason: "it sent inv before its verack",
    },
    Fault {
        name: "a version that cannot be read",
        does: |addr| says(addr, &[("version", &70_016u32.to_le_bytes())]),
        closed_by: Limit::None,
        reason: "its version message cannot be read: version: payload ends at byte 4",
    },
    Fault {
        name: "too many entries",
        does: |addr| {
            let mut node = shaken(addr);
            node.send("inv", &inventory(1, 50_001)).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its inv has 50001 entries, more than 50000",
    },
    Fault {
        name: "too many addresses",
        does: |addr| {
            let mut node = shaken(addr);
            let entries = [0, 0, 0, 0, 0, 1, 4, 1, 2, 3, 4, 0, 0].repeat(1_001);
            node.send("addrv2", &[&[0xfd, 0xe9, 0x03][..], &entries].concat()).unwrap();
            assert!(node.wait_closed(LONG));
        },
        closed_by: Limit::None,
        reason: "its addr has 1001 entries, more than 1000",
    },
    Fault {
        name: "says nothing",
        does: |addr| assert!(NodePeer::dial(addr, Transport::V1).unwrap().wait_closed(LONG)),
        closed_by: Limit::None,
        reason: "it said nothing within 10s",
    },
    Fault { name: "goes away", does: |addr| drop(shaken(addr)), closed_by: Limit::None, reason: "" },
];

/// Lets a fault happen to an extractor with its limits, and gives the reason why the connection was closed.
fn reason_for(fault: &Fault) -> String {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let does = fault.does;
        let script = tokio::task::spawn_blocking(move || does(addr));
        let (stream, peer) = listener.accept().await.unwrap();
        let shared = Shared {
            config: fault.closed_by.config(),
            who: lookups(Arc::new(|_, _| None)),
            stop: CancellationToken::new(),
            sink: Mutex::new(Sink {
                publisher: Bus::in_process().publisher(Source::P2p, "p2p"),
                book: LossBook::new("p2p"),
            }),
            nodes: Mutex::default(),
        };
        let slot = Slots::new(1, GiveUp::Pending).admit(listener::Source::Local).unwrap();
        let node = "node".into();
        let serve = connection::serve(stream, peer, p2p::Network::Regtest, &node, &slot, &shared);
        let closed = tokio::time::timeout(LONG, serve).await;
        let closed = closed.unwrap_or_else(|_| panic!("{}: it was not closed", fault.name)).to_string();
        script.await.unwrap_or_else(|error| panic!("{}: {error}, closed with: {closed}", fault.name));
        assert!(shared.nodes().is_empty());
        closed
    })
}

#[test]
fn every_fault_ends_its_connection_with_a_reason() {
    // All at once: some wait for a time limit.
    thread::scope(|scope| {
        for fault in FAULTS {
            scope.spawn(|| {
                let reason = reason_for(fault);
                assert!(reason.starts_with(fault.reason), "{}: {reason}", fault.name);
            });
        }
    });
}

#[test]
fn faults_of_others_do_not_touch_a_node() {
    let config = Config { p2p_max_connections: 64, ..Limit::None.config() };
    let mut extractor = Extractor::start(config, &[Some("good"), Some("bad")]);
    let (good, bad) = (extractor.addrs[0], extractor.addrs[1]);
    let mut node = NodePeer::connect(good, Transport::V2, LONG).unwrap();
    let mut others: Vec<_> =
        FAULTS.iter().map(|fault| (fault, thread::spawn(move || (fault.does)(bad)))).collect();
    for round in 0..20 {
        node.send("feefilter", &i64::to_le_bytes(round)).unwrap();
        node.ping(round as u64, LONG).unwrap();
        assert_eq!(extractor.wait_for(feefilter), round);
    }
    // The rest stays until the end of all.
    others.retain(|(fault, _)| fault.closed_by == Limit::None);
    for (_, other) in others {
        other.join().unwrap();
    }
    node.send("feefilter", &i64::to_le_bytes(77)).unwrap();
    assert_eq!(extractor.wait_for(feefilter), 77);
    extractor.stop();
}

#[test]
fn a_node_that_does_not_read_does_not_keep_it_from_stopping() {
    let extractor = Extractor::start(Limit::None.config(), &[None]);
    let mut node = shaken(extractor.addr());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let script = thread::spawn(move || {
        let ping = node.frame("ping", &[0; 8]).repeat(1_000);
        while node.send_bytes(&ping).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut before = 0;
    let stands_still = wait_until(LONG, || {
        thread::sleep(Duration::from_millis(500));
        let now = sent.load(Ordering::Relaxed);
        now > 0 && std::mem::replace(&mut before, now) == now
    });
    assert!(stands_still, "nobody waits for it to read");
    extractor.stop();
    script.join().unwrap();
}

#[test]
fn strangers_and_crowds_are_closed_at_once() {
    let strangers = Config { p2p_allow: vec!["127.0.0.2".parse().unwrap()], ..regtest() };
    let extractor = Extractor::start(strangers, &[None]);
    assert!(NodePeer::dial(extractor.addr(), Transport::V1).unwrap().wait_closed(LONG));
    extractor.stop();

    let mut extractor = Extractor::start(Config { p2p_max_connections: 2, ..regtest() }, &[None]);
    let connect = |extractor: &Extractor| NodePeer::connect(extractor.addr(), Transport::V1, LONG);
    let (mut first, mut second) = (connect(&extractor).unwrap(), connect(&extractor).unwrap());
    // It has shaken hands, too, and is not closed for the third.
    second.ping(1, LONG).unwrap();
    assert!(NodePeer::dial(extractor.addr(), Transport::V1).unwrap().wait_closed(LONG));
    first.ping(1, LONG).unwrap();
    second.ping(2, LONG).unwrap();
    drop(second);
    assert!(wait_until(LONG, || connect(&extractor).is_ok()), "a place is free again");
    first.ping(2, LONG).unwrap();
    extractor.wait_for(peer_info);
    extractor.stop();
}

#[test]
fn silent_connections_give_way_to_nodes() {
    let extractor = Extractor::start(Config { p2p_max_connections: 4, ..Limit::None.config() }, &[None]);
    let mut silent: Vec<_> =
        (0..4).map(|_| NodePeer::dial(extractor.addr(), Transport::V1).unwrap()).collect();
    let mut nodes = Vec::new();
    let mut connect = || {
        let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).ok()?;
        node.ping(1, LONG).ok()?;
        nodes.push(node);
        Some(())
    };
    for _ in 0..4 {
        // A silent one that was accepted late may take the place of a node that still shakes hands.
        assert!(wait_until(LONG, || connect().is_some()));
    }
    assert!(silent.iter_mut().all(|silent| silent.wait_closed(LONG)));
    nodes.iter_mut().for_each(|node| node.ping(2, LONG).unwrap());
    extractor.stop();
}

#[test]
fn another_user_cannot_keep_nodes_out() {
    require!(need::root());
    let mut extractor = Extractor::start(Limit::None.config(), &[None]);
    let _attacker = other_user::hold_connections(extractor.addr(), 32, "").unwrap();
    let mut nodes = Vec::new();
    for _ in 0..8 {
        let mut node = NodePeer::connect(extractor.addr(), Transport::V2, LONG).unwrap();
        node.ping(1, LONG).unwrap();
        nodes.push(node);
    }
    for (round, node) in nodes.iter_mut().enumerate() {
        node.ping(2, LONG).unwrap();
        node.send("feefilter", &i64::to_le_bytes(round as i64)).unwrap();
        assert_eq!(extractor.wait_for(feefilter), round as i64);
    }
    extractor.stop();
}

#[test]
fn lookup_without_end_keeps_no_node_out() {
    let never = Arc::new(|_, _| {
        loop {
            thread::park();
        }
    });
    let config = Config { p2p_node: "unknown".into(), ..Limit::None.config() };
    let mut extractor = Extractor::start_asking(config, &[None], never);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    node.ping(1, LONG).unwrap();
    assert_eq!(extractor.next().0, "unknown");
    extractor.stop();
}
