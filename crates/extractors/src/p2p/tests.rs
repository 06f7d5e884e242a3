//! The extractor against scripted nodes that dial it, and against real ones.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use peer_observer_bus::{Bus, Delivery, Limits, Subscriber};
use peer_observer_events::proto::observer::block_announced::Via;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::proto::observer::p2p_extra::P2pEvent as ExtraEvent;
use peer_observer_events::proto::observer::peer_info::Transport as ToldTransport;
use peer_observer_events::proto::observer::{BlockAnnounced, PeerInfo, Source};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_node::p2p;
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::p2p_peer::{NodePeer, Transport};
use peer_observer_testkit::{need, peer, require};
use serde_json::json;
use tokio::runtime::Runtime;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn regtest() -> Config {
    Config { p2p_network: Network(p2p::Network::Regtest), ..Config::default() }
}

/// A running extractor, and what it publishes.
struct Extractor {
    runtime: Runtime,
    addrs: Vec<SocketAddr>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), Error>>,
    subscriber: Subscriber,
    received: std::collections::VecDeque<Delivery>,
}

impl Extractor {
    /// Listens on as many ports as there are names.
    fn start(config: Config, names: &[Option<&str>]) -> Self {
        Self::start_asking(config, names, Arc::new(|_, _| None))
    }

    /// The same, and `who` knows nodes that have no name in the settings.
    fn start_asking(config: Config, names: &[Option<&str>], who: WhoDials) -> Self {
        let runtime = Runtime::new().unwrap();
        let _inside = runtime.enter();
        let mut listeners = Vec::new();
        for name in names {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let addr = listener.local_addr().unwrap();
            listeners.push((listener, Listen { name: name.map(Into::into), addr }));
        }
        let addrs = listeners.iter().map(|(_, listen)| listen.addr).collect();
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
        let publisher = bus.publisher(Source::P2p, "p2p");
        let stop = CancellationToken::new();
        let ended = runtime.spawn(serve(listeners, config, who, publisher, stop.clone()));
        Extractor { addrs, stop, ended, subscriber, received: Default::default(), runtime }
    }

    fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// The next event of a node, with its name.
    fn next(&mut self) -> (String, PeerObserverEvent) {
        while self.received.is_empty() {
            let mut batch = Vec::new();
            self.runtime.block_on(async {
                let receive = self.subscriber.recv_many(&mut batch, 1_000);
                tokio::time::timeout(LONG, receive).await.expect("an event");
            });
            self.received.extend(batch);
        }
        let delivery = self.received.pop_front().unwrap();
        let event = &delivery.event;
        (event.origin.as_ref().unwrap().node.clone(), event.peer_observer_event.clone().unwrap())
    }

    /// The next event that `wanted` makes something of.
    fn wait_for<T>(&mut self, wanted: impl Fn(&PeerObserverEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().1) {
                return found;
            }
        }
    }

    fn stop(self) {
        let Extractor { runtime, stop, ended, .. } = self;
        stop.cancel();
        let stopped = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), ended).await });
        stopped.expect("it stops within 2 s").unwrap().unwrap();
    }
}

fn public(event: &PeerObserverEvent) -> Option<P2pEvent> {
    match event {
        PeerObserverEvent::P2pExtractor(event) => event.p2p_event.clone(),
        _ => None,
    }
}

fn ping_duration(event: &PeerObserverEvent) -> Option<Duration> {
    match public(event)? {
        P2pEvent::PingDuration(ping) => Some(Duration::from_nanos(ping.duration)),
        _ => None,
    }
}

fn feefilter(event: &PeerObserverEvent) -> Option<i64> {
    match public(event)? {
        P2pEvent::FeefilterAnnouncement(fee) => Some(fee),
        _ => None,
    }
}

fn peer_info(event: &PeerObserverEvent) -> Option<PeerInfo> {
    match event {
        PeerObserverEvent::P2pExtra(extra) => match extra.p2p_event.clone()? {
            ExtraEvent::PeerInfo(info) => Some(info),
            ExtraEvent::BlockAnnounced(_) => None,
        },
        _ => None,
    }
}

fn block(event: &PeerObserverEvent) -> Option<BlockAnnounced> {
    match event {
        PeerObserverEvent::P2pExtra(extra) => match extra.p2p_event.clone()? {
            ExtraEvent::BlockAnnounced(block) => Some(block),
            ExtraEvent::PeerInfo(_) => None,
        },
        _ => None,
    }
}

/// The header of the genesis block of mainnet, and its hash in internal order.
fn genesis() -> (Vec<u8>, Vec<u8>) {
    let merkle_root = unhex("3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a");
    let header = [&[1, 0, 0, 0][..], &[0; 32], &merkle_root, &unhex("29ab5f49ffff001d1dac2b7c")].concat();
    (header, unhex("6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"))
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// An inventory of that many entries of a type.
fn inventory(inv_type: u32, entries: u16) -> Vec<u8> {
    let mut payload = vec![0xfd];
    payload.extend_from_slice(&entries.to_le_bytes());
    if entries < 0xfd {
        payload = vec![entries as u8];
    }
    for entry in 0..entries {
        payload.extend_from_slice(&inv_type.to_le_bytes());
        payload.extend_from_slice(&[entry as u8; 32]);
    }
    payload
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
fn ping_times_are_the_truth() {
    let measure = |transport| {
        let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[None]);
        let mut node = NodePeer::connect(extractor.addr(), transport, LONG).unwrap();
        let mut errors: Vec<Duration> = [1, 100, 2, 50, 5, 20, 10, 3, 30]
            .map(|delay| {
                let truth = node.answer_ping_after(Duration::from_millis(delay), LONG).unwrap();
                let told = extractor.wait_for(ping_duration);
                assert!(told >= truth, "{told:?} is less than the {truth:?} that it took");
                told - truth
            })
            .to_vec();
        errors.sort();
        // On a busy machine the scheduler wakes either side late now and then, which is no error of the measurement.
        assert!(errors[errors.len() / 2] < Duration::from_millis(1), "{transport:?}: {errors:?}");
        eprintln!("{transport:?}: ping times are off by {errors:?}");
        extractor.stop();
    };
    thread::scope(|scope| {
        for transport in [Transport::V1, Transport::V2] {
            scope.spawn(move || measure(transport));
        }
    });
}

#[test]
fn old_and_foreign_pongs_measure_nothing() {
    let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[None]);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    let first = node.wait_for("ping", LONG).unwrap().payload;
    let mut frames = Vec::new();
    for payload in [&[0; 8][..], b"", &first, &first, b"short"] {
        frames.extend(node.frame("pong", payload));
    }
    frames.extend(node.frame("feefilter", &[1, 0, 0, 0, 0, 0, 0, 0]));
    node.send_bytes(&frames).unwrap();
    let mut measured = 0;
    loop {
        let (_, event) = extractor.next();
        measured += usize::from(ping_duration(&event).is_some());
        if feefilter(&event).is_some() {
            break;
        }
    }
    assert_eq!(measured, 1);
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

/// What a peer does, and why it is closed for it.
struct Fault {
    name: &'static str,
    does: fn(SocketAddr),
    reason: &'static str,
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
        reason: "its message begins with [0a, 03, cf, 40], those of regtest with [fa, bf, b5, da]",
    },
    Fault {
        name: "another network over v2, or no network at all",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            let _ = node.send_bytes(&[7; 5_000]);
            assert!(node.wait_closed(LONG));
        },
        reason: "its encrypted transport cannot be followed",
    },
    Fault {
        name: "the magic changes",
        does: |addr| {
            let mut node = shaken(addr);
            node.send_bytes(&peer::frame([0; 4], "ping", &[0; 8])).unwrap();
            assert!(node.wait_closed(LONG));
        },
        reason: "its message begins with [00, 00, 00, 00]",
    },
    Fault {
        name: "half open",
        does: |addr| assert!(NodePeer::dial(addr, Transport::V1).unwrap().wait_closed(LONG)),
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "half a key",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            node.send_bytes(&[7; 40]).unwrap();
            assert!(node.wait_closed(LONG));
        },
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "drips its version",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V1).unwrap();
            let version = node.frame("version", &version());
            drip(&mut node, &version);
        },
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "never sends its verack",
        does: |addr| says(addr, &[("version", &version())]),
        reason: "it did not shake hands within 1s",
    },
    Fault {
        name: "drips a message",
        does: |addr| {
            let mut node = shaken(addr);
            let long = node.frame("hello", &[0; 10_000]);
            drip(&mut node, &long);
        },
        reason: "no whole message came within 1s",
    },
    Fault {
        name: "says nothing any more",
        does: |addr| assert!(shaken(addr).wait_closed(LONG)),
        reason: "no whole message came within 1s",
    },
    Fault {
        name: "does not read",
        does: |addr| {
            let mut node = shaken(addr);
            let ping = node.frame("ping", &[0; 8]).repeat(1_000);
            while node.send_bytes(&ping).is_ok() {}
        },
        reason: "it did not read what we sent within 1s",
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
        reason: "its encrypted transport cannot be followed",
    },
    Fault {
        name: "a message before its version, over v2",
        does: |addr| {
            let mut node = NodePeer::dial(addr, Transport::V2).unwrap();
            node.send("ping", &[0; 8]).unwrap();
            assert!(node.wait_closed(LONG));
        },
        reason: "it sent ping before its version",
    },
    Fault {
        name: "two versions",
        does: |addr| says(addr, &[("version", &version()), ("version", &version())]),
        reason: "it sent version twice",
    },
    Fault {
        name: "a message before its verack",
        does: |addr| says(addr, &[("version", &version()), ("inv", &[0])]),
        reason: "it sent inv before its verack",
    },
    Fault {
        name: "a version that cannot be read",
        does: |addr| says(addr, &[("version", &70_016u32.to_le_bytes())]),
        reason: "its version message cannot be read: version: payload ends at byte 4",
    },
    Fault {
        name: "too many entries",
        does: |addr| {
            let mut node = shaken(addr);
            node.send("inv", &inventory(1, 50_001)).unwrap();
            assert!(node.wait_closed(LONG));
        },
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
        reason: "its addr has 1001 entries, more than 1000",
    },
    Fault { name: "goes away", does: |addr| drop(shaken(addr)), reason: "" },
];

/// Lets a fault happen to an extractor with short time limits, and gives the reason why the connection was closed.
fn reason_for(fault: &Fault) -> String {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let does = fault.does;
        let script = tokio::task::spawn_blocking(move || does(addr));
        let (stream, peer) = listener.accept().await.unwrap();
        let shared = Shared {
            config: short(),
            who: Arc::new(|_, _| None),
            stop: CancellationToken::new(),
            places: Arc::new(Semaphore::new(1)),
            sink: Mutex::new(Sink {
                publisher: Bus::in_process().publisher(Source::P2p, "p2p"),
                book: LossBook::new("p2p"),
            }),
            nodes: Mutex::default(),
        };
        let closed = tokio::time::timeout(
            LONG,
            connection::serve(stream, peer, p2p::Network::Regtest, &"node".into(), &shared),
        )
        .await;
        let closed = closed.unwrap_or_else(|_| panic!("{}: it was not closed", fault.name)).to_string();
        script.await.unwrap_or_else(|error| panic!("{}: {error}, closed with: {closed}", fault.name));
        assert!(shared.nodes().is_empty());
        closed
    })
}

fn short() -> Config {
    Config { p2p_handshake_timeout: 1, p2p_idle_timeout: 1, disable_ping: true, ..regtest() }
}

#[test]
fn every_fault_ends_its_connection_with_a_reason() {
    for fault in FAULTS {
        let reason = reason_for(fault);
        assert!(reason.starts_with(fault.reason), "{}: {reason}", fault.name);
    }
}

#[test]
fn faults_of_others_do_not_touch_a_node() {
    let config = Config { p2p_idle_timeout: 60, p2p_max_connections: 64, ..short() };
    let mut extractor = Extractor::start(config, &[Some("good"), Some("bad")]);
    let (good, bad) = (extractor.addrs[0], extractor.addrs[1]);
    let mut node = NodePeer::connect(good, Transport::V2, LONG).unwrap();
    // Those that take longest wait for the time limits.
    let timeless = ["drips a message", "says nothing any more", "does not read"];
    let others: Vec<_> = FAULTS
        .iter()
        .filter(|fault| !timeless.contains(&fault.name))
        .map(|fault| thread::spawn(move || (fault.does)(bad)))
        .collect();
    for round in 0..20 {
        node.send("feefilter", &i64::to_le_bytes(round)).unwrap();
        node.ping(round as u64, LONG).unwrap();
        assert_eq!(extractor.wait_for(feefilter), round);
    }
    for other in others {
        other.join().unwrap();
    }
    node.send("feefilter", &i64::to_le_bytes(77)).unwrap();
    assert_eq!(extractor.wait_for(feefilter), 77);
    extractor.stop();
}

#[test]
fn strangers_and_crowds_are_closed_at_once() {
    let strangers = Config { p2p_allow: vec!["127.0.0.2".parse().unwrap()], ..regtest() };
    let extractor = Extractor::start(strangers, &[None]);
    assert!(NodePeer::dial(extractor.addr(), Transport::V1).unwrap().wait_closed(LONG));
    extractor.stop();

    let mut extractor = Extractor::start(Config { p2p_max_connections: 2, ..regtest() }, &[None]);
    let connect = |extractor: &Extractor| NodePeer::connect(extractor.addr(), Transport::V1, LONG);
    let (mut first, second) = (connect(&extractor).unwrap(), connect(&extractor).unwrap());
    assert!(NodePeer::dial(extractor.addr(), Transport::V1).unwrap().wait_closed(LONG));
    first.ping(1, LONG).unwrap();
    drop(second);
    assert!(peer_observer_testkit::wait_until(LONG, || connect(&extractor).is_ok()), "a place is free again");
    first.ping(2, LONG).unwrap();
    extractor.wait_for(peer_info);
    extractor.stop();
}

#[tokio::test]
async fn what_cannot_work_is_told_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let config = Config { p2p_address: vec![Listen { name: None, addr }], ..regtest() };
    let bus = Bus::in_process();
    let started = |config| run(config, bus.publisher(Source::P2p, "p2p"), CancellationToken::new());
    assert!(!check(&config)[0].ok);
    assert!(matches!(started(config.clone()).await, Err(Error::Listen { .. })));
    drop(taken);
    assert!(check(&config)[0].ok);
    assert!(check(&config)[0].what.contains("addnode=127.0.0.1:"));

    let config = Config { p2p_address: vec![], ..config };
    assert!(!check(&config)[0].ok);
    assert!(matches!(started(config).await, Err(Error::NoAddress)));
}

#[test]
fn a_real_node_is_measured_and_its_blocks_are_seen_over_both_transports() {
    require!(need::bitcoind());
    for (flag, transport) in [("-v2transport=0", ToldTransport::V1), ("-v2transport=1", ToldTransport::V2)] {
        let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[Some("real")]);
        let addnode = format!("-addnode={}", extractor.addr());
        let node = RealNode::start(&[&addnode, flag]).unwrap();
        let info = extractor.wait_for(peer_info);
        assert_eq!(info.transport(), transport);
        assert!(info.user_agent.starts_with("/Satoshi:"), "{info:?}");
        let ping = extractor.wait_for(ping_duration);
        assert!(ping < Duration::from_secs(10), "{ping:?}");

        // The first block ends the initial download, in which nodes announce nothing.
        let mut via = Vec::new();
        for _ in 0..4 {
            let mined = node.rpc("generatetodescriptor", json!([1, "raw(51)"])).unwrap();
            let mut hash = unhex(mined[0].as_str().unwrap());
            hash.reverse();
            via.push(extractor.wait_for(|event| block(event).filter(|block| block.hash == hash)).via());
            // Work through what it was asked after an inv before the next block.
            extractor.wait_for(ping_duration);
        }
        assert_eq!(via.last(), Some(&Via::Cmpctblock), "{via:?}");
        eprintln!("{flag}: ping {ping:?}, blocks announced via {via:?}");

        let peers = node.rpc("getpeerinfo", json!([])).unwrap();
        assert_eq!(peers[0]["bip152_hb_from"], true, "{peers}");
        assert!(peers[0]["subver"].as_str().unwrap().starts_with("/peer-observer:"), "{peers}");
        extractor.stop();
    }
}

#[test]
fn it_can_listen_on_any_address() {
    let config = Config {
        p2p_address: vec![Listen { name: None, addr: (Ipv4Addr::LOCALHOST, 0).into() }],
        ..regtest()
    };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let publisher = Bus::in_process().publisher(Source::P2p, "p2p");
        stop.cancel();
        run(config, publisher, stop).await.unwrap();
    });
}
