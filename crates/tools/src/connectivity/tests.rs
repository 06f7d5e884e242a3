//! The tool against nodes that listen on loopback: good ones, and all the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use peer_observer_bus::{Bus, Limits};
use peer_observer_events::proto::bitcoin_primitives::Address;
use peer_observer_events::proto::bitcoin_primitives::address::Address as Host;
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{Addr, AddrV2, MessageEvent, Metadata};
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_node::p2p::Network;
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::p2p_node::{Behaviour, ListeningNode, SocksProxy};
use peer_observer_testkit::{LONG, STOP, need, require, wait_until};
use tokio::task::JoinHandle;

use super::probe::{USER_AGENT, probe};
use super::*;
use crate::scrape::scrape;
use crate::tour::tour;

/// Services with NODE_P2P_V2 (BIP 324).
const V2: u64 = 1 << 11 | 1;

/// Settings for nodes on loopback.
fn local() -> Config {
    Config {
        connect: true,
        metrics_address: "127.0.0.1:0".into(),
        p2p_network: Network::Regtest,
        rate: 1000,
        netgroup_rate: 1000,
        // Longer than anybody takes who answers, on any machine.
        connect_timeout: 60,
        handshake_timeout: 60,
        allow_local: true,
        ..Config::default()
    }
}

/// Settings for nodes that do not answer.
fn impatient() -> Config {
    Config { handshake_timeout: 1, ..local() }
}

fn address(addr: SocketAddr, services: u64) -> Address {
    let host = match addr {
        SocketAddr::V4(addr) => Host::Ipv4(addr.ip().to_string()),
        SocketAddr::V6(addr) => Host::Ipv6(addr.ip().to_string()),
    };
    Address { timestamp: 0, services, port: addr.port().into(), address: Some(host) }
}

/// A message with addresses.
fn message(inbound: bool, from: &str, msg: Msg) -> PeerObserverEvent {
    let meta = Metadata {
        peer_id: 7,
        addr: from.into(),
        conn_type: 1,
        command: "addrv2".into(),
        inbound,
        size: 100,
    };
    let message = MessageEvent { meta, msg: Some(msg), decode_error: None, captured: None };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })
}

fn told(from: &str, addresses: Vec<Address>) -> PeerObserverEvent {
    message(true, from, Msg::Addrv2(AddrV2 { addresses }))
}

/// The tool, running.
struct Running {
    bus: Bus,
    page: SocketAddr,
    stop: CancellationToken,
    tool: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("connectivity", &subjects(&config), Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let page = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tool = tokio::spawn(run_at(listener, config, subscriber, stop.clone()));
        Running { bus, page, stop, tool }
    }

    fn publish(&self, events: impl IntoIterator<Item = PeerObserverEvent>) {
        let node: Arc<str> = "alice".into();
        let mut publisher = self.bus.publisher(Source::Ebpf, "ebpf");
        for event in events {
            publisher.publish(&node, 1_000_000_000, event);
        }
    }

    async fn page(&self) -> String {
        scrape(self.page).await
    }

    /// The sum of the series of a metric whose labels have all of these.
    async fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        sum(&self.page().await, name, labels)
    }

    async fn until(&self, name: &str, labels: &[&str], expected: u64) {
        let deadline = Instant::now() + LONG;
        while self.sum(name, labels).await != expected {
            assert!(Instant::now() < deadline, "{name} {labels:?} is not {expected}: {}", self.page().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(STOP, self.tool).await.unwrap().unwrap().unwrap();
    }
}

fn sum(page: &str, name: &str, labels: &[&str]) -> u64 {
    page.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(&format!("connectivitycheck_{name}")))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_is_told_apart() {
    let cases = [
        (Behaviour::AnswersV1, Transport::V1, Ok(Transport::V1)),
        (Behaviour::AnswersV2, Transport::V2, Ok(Transport::V2)),
        (Behaviour::AnswersV1, Transport::V2, Err(Failure::Closed)),
        (Behaviour::VersionOnly, Transport::V1, Ok(Transport::V1)),
        (Behaviour::WrongNetwork, Transport::V1, Err(Failure::WrongNetwork)),
        (Behaviour::Garbage, Transport::V1, Err(Failure::Protocol)),
        (Behaviour::Garbage, Transport::V2, Err(Failure::HandshakeTimeout)),
        (Behaviour::Hangs, Transport::V1, Err(Failure::HandshakeTimeout)),
        (Behaviour::Hangs, Transport::V2, Err(Failure::HandshakeTimeout)),
        (Behaviour::Drips, Transport::V1, Err(Failure::HandshakeTimeout)),
        (Behaviour::ClosesAtOnce, Transport::V1, Err(Failure::Closed)),
        (Behaviour::ClosesAtOnce, Transport::V2, Err(Failure::Closed)),
        (Behaviour::Floods, Transport::V1, Err(Failure::Protocol)),
        (Behaviour::Floods, Transport::V2, Err(Failure::Protocol)),
    ];
    for (behaviour, over, expected) in cases {
        let config = match (behaviour, expected) {
            // Its verack is waited for until then.
            (Behaviour::VersionOnly, _) => Config { handshake_timeout: 15, ..local() },
            (_, Err(Failure::HandshakeTimeout)) => impatient(),
            _ => local(),
        };
        let node = ListeningNode::local(behaviour).unwrap();
        let outcome = probe(&Target::Direct(node.addr()), over, &config).await;
        let transport = outcome.result.as_ref().map(|answer| answer.transport).map_err(|failure| *failure);
        assert_eq!(transport, expected, "{behaviour:?} {over:?}");
        // It may have been given up before the node came to it.
        assert!(wait_until(LONG, || node.seen().connections > 0), "{behaviour:?}");
        let seen = node.seen();
        assert_eq!(seen.connections, 1, "{behaviour:?}");
        assert!(seen.user_agents.iter().all(|agent| agent == USER_AGENT), "{seen:?}");
        if let Ok(answer) = outcome.result {
            assert_eq!(answer.version.user_agent, "/testkit:0.1.0/");
            assert_eq!(seen.user_agents.len(), 1, "{behaviour:?}");
        }
    }
    let gone = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
    let outcome = probe(&Target::Direct(gone), Transport::V1, &local()).await;
    assert_eq!(outcome.result, Err(Failure::Refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_who_it_is_and_hangs_up_when_both_know_each_other() {
    let agent = USER_AGENT.strip_prefix("/peer-observer:").unwrap();
    assert_eq!(agent, format!("{}/", env!("CARGO_PKG_VERSION")));
    for (behaviour, over) in [(Behaviour::AnswersV1, Transport::V1), (Behaviour::AnswersV2, Transport::V2)] {
        let node = ListeningNode::local(behaviour).unwrap();
        probe(&Target::Direct(node.addr()), over, &local()).await.result.unwrap();
        let deadline = Instant::now() + LONG;
        while node.seen().polite == 0 {
            assert!(Instant::now() < deadline, "{behaviour:?}: {:?}", node.seen());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_answers_over_both_transports() {
    require!(need::bitcoind());
    let node = RealNode::start(&[]).unwrap();
    for transport in [Transport::V1, Transport::V2] {
        let outcome = probe(&Target::Direct(node.p2p_addr()), transport, &local()).await;
        let answer = outcome.result.unwrap();
        assert_eq!(answer.transport, transport);
        assert!(answer.version.user_agent.starts_with("/Satoshi:"), "{answer:?}");
        assert_eq!(answer.version.services & 1, 1, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn onion_services_and_i2p_are_tried_through_the_proxy_alone() {
    let node = ListeningNode::local(Behaviour::AnswersV1).unwrap();
    let i2p = format!("{}a.b32.i2p", "b".repeat(51));
    let proxy = SocksProxy::start(BTreeMap::from([(format!("{i2p}:0"), node.addr())])).unwrap();
    let config = Config { socks5_proxy: vec![proxy.addr().to_string().parse().unwrap()], ..local() };
    let tool = Running::start(config).await;
    let entry = |host, port| Address { timestamp: 0, services: 1, port, address: Some(host) };
    let onion = format!("{}.onion", "a".repeat(52));
    tool.publish([told(
        "1.2.3.4:1",
        vec![entry(Host::I2p(i2p.clone()), 0), entry(Host::Torv3(onion), 8333)],
    )]);
    tool.until("addr_tried", &[], 2).await;
    assert_eq!(tool.sum("addr_successful_connection", &["network=\"I2P\""]).await, 1);
    assert_eq!(tool.sum("tries_failed", &["network=\"TorV3\"", "reason=\"unreachable\""]).await, 1);
    let mut names = proxy.names();
    names.sort();
    // The name has the checksum and the version that the gossip lacks.
    assert_eq!(names[0].len(), 56 + ".onion:8333".len());
    assert!(names[0].starts_with(&"a".repeat(51)) && names[0].ends_with(".onion:8333"), "{names:?}");
    assert_eq!(names[1..], [format!("{i2p}:0")]);
    tool.end().await;

    let no_proxy = Config { socks5_proxy: vec!["127.0.0.1:1".parse().unwrap()], ..local() };
    let outcome = probe(&Target::I2p(i2p, 0), Transport::V1, &no_proxy).await;
    assert_eq!(outcome.result, Err(Failure::Proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_answers_all_who_tell_of_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let exits = dir.path().join("exits");
    std::fs::write(&exits, "1.2.3.4\n").unwrap();
    let csv = dir.path().join("csv");
    std::fs::create_dir(&csv).unwrap();
    let node = ListeningNode::local(Behaviour::AnswersV1).unwrap();
    let gone = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
    let config = Config { csv_dir: Some(csv.clone()), tor_exit_list: Some(exits), ..local() };
    let tool = Running::start(config).await;
    let both = || vec![address(node.addr(), 1), address(gone, 1)];
    tool.publish([told("1.2.3.4:1", both()), told("[2a01::1]:1", both())]);
    tool.until("addr_tried", &[], 4).await;
    tool.publish([
        told("1.2.3.4:1", both()),
        message(true, "5.6.7.8:1", Msg::Addr(Addr { addresses: both() })),
    ]);
    tool.until("addr_tried", &[], 8).await;

    assert_eq!(node.seen().connections, 1);
    assert_eq!(tool.sum("connections", &[]).await, 2);
    assert_eq!(tool.sum("addr_cached", &["addr_version=\"addrv2\""]).await, 4);
    assert_eq!(tool.sum("addr_cached", &["addr_version=\"addr\""]).await, 2);
    assert_eq!(tool.sum("addr_successful_connection", &["source_ip=\"1.2.3.4\""]).await, 2);
    assert_eq!(tool.sum("addr_unsuccessful_connection", &["source_ip=\"2a01::1\""]).await, 1);
    assert_eq!(tool.sum("addr_tried_tor_exit", &[]).await, 4);
    assert_eq!(tool.sum("addr_successful_connection_tor_exit", &[]).await, 2);
    assert_eq!(tool.sum("addr_waiting", &[]).await, 0);
    tool.end().await;

    let file = std::fs::read_dir(&csv).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), 1 + 8, "{text}");
    let answered = format!(
        "IPv4(127.0.0.1),{},1,0,IPv4,addrv2,1.2.3.4,7,true,true,false,true,/testkit:0.1.0/,",
        node.addr().port()
    );
    assert_eq!(text.matches(&answered).count(), 1, "{text}");
}

#[tokio::test]
async fn results_that_are_counted_when_it_is_stopped_are_in_the_file() {
    let gone = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
    let mut most = 0;
    // What it does last before it sees the stop is left to chance.
    for _ in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { csv_dir: Some(dir.path().into()), ..local() };
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("connectivity", &subjects(&config), Limits::default());
        let stop = CancellationToken::new();
        let check = Check::new(config, subscriber.stats()).unwrap();
        let metrics = check.metrics.clone();
        let tool = tokio::spawn({
            let stop = stop.clone();
            async move { check.run(subscriber, &stop).await }
        });
        let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
        let mut tell = || publisher.publish(&"alice".into(), 1, told("1.2.3.4:1", vec![address(gone, 1)]));
        tell();
        let deadline = Instant::now() + LONG;
        while locked(&metrics).sum.tried == 0 {
            assert!(Instant::now() < deadline, "nothing is tried");
            tokio::task::yield_now().await;
        }
        // The result is known now, so each of these is one more at once.
        (0..4 * BATCH).for_each(|_| tell());
        stop.cancel();
        tool.await.unwrap().unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let rows = std::fs::read_to_string(file).unwrap().lines().count() - 1;
        assert_eq!(rows as u64, locked(&metrics).sum.tried);
        most = most.max(rows);
    }
    assert!(most > BATCH, "it was never stopped with rows pending: {most}");
}

#[tokio::test]
async fn full_disk_ends_it_without_another_result() {
    let gone = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
    let bus = Bus::in_process();
    let subscriber = bus.subscriber("connectivity", &subjects(&local()), Limits::default());
    let mut check = Check::new(local(), subscriber.stats()).unwrap();
    check.output = output::to_full_disk();
    let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
    publisher.publish(&"alice".into(), 1, told("1.2.3.4:1", vec![address(gone, 1)]));
    let ended = timeout(LONG, check.run(subscriber, &CancellationToken::new())).await;
    let error = ended.expect("it ends").unwrap_err().to_string();
    assert!(error.contains("cannot write results to /dev/full: No space left on device"), "{error}");
}

#[tokio::test]
async fn series_of_sources_that_are_silent_for_a_day_end() {
    let gone = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
    let tool = Running::start(local()).await;
    let tell = |from| tool.publish([told(from, vec![address(gone, 1)])]);
    let told =
        |page: &str, from| sum(page, "addr_unsuccessful_connection", &[&format!("source_ip=\"{from}\"")]);
    tell("1.2.3.4:1");
    tool.until("addr_tried", &[], 1).await;
    tokio::time::pause();
    tokio::time::sleep(MINUTE * (metrics::STALE_MINUTES - 1)).await;
    tokio::time::resume();
    tell("5.6.7.8:1");
    tool.until("addr_tried", &[], 2).await;
    let page = tool.page().await;
    assert_eq!((told(&page, "1.2.3.4"), told(&page, "5.6.7.8")), (1, 1));
    tokio::time::pause();
    tokio::time::sleep(MINUTE * 3).await;
    tokio::time::resume();
    let page = tool.page().await;
    assert_eq!((told(&page, "1.2.3.4"), told(&page, "5.6.7.8"), told(&page, "other")), (0, 1, 0));
    assert_eq!(sum(&page, "addr_tried", &[]), 2);
    tool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_on_v2_costs_two_connections_of_the_rate() {
    let v1 = ListeningNode::local(Behaviour::AnswersV1).unwrap();
    let neither = ListeningNode::local(Behaviour::ClosesAtOnce).unwrap();
    let tool = Running::start(local()).await;
    tool.publish([told("1.2.3.4:1", vec![address(v1.addr(), V2), address(neither.addr(), V2)])]);
    tool.until("addr_tried", &[], 2).await;
    assert_eq!(tool.sum("tries_answered", &["transport=\"v1\""]).await, 1);
    assert_eq!(tool.sum("tries_failed", &["reason=\"closed\""]).await, 1);
    assert_eq!(tool.sum("connections", &[]).await, 4);
    assert_eq!((v1.seen().connections, neither.seen().connections), (2, 2));
    tool.end().await;

    // With one connection to the netgroup in a minute there is none left for v1.
    let neither = ListeningNode::local(Behaviour::ClosesAtOnce).unwrap();
    let tool = Running::start(Config { netgroup_rate: 1, ..local() }).await;
    tool.publish([told("1.2.3.4:1", vec![address(neither.addr(), V2)])]);
    tool.until("addr_skipped", &["reason=\"netgroup\""], 1).await;
    assert_eq!((tool.sum("connections", &[]).await, neither.seen().connections), (1, 1));
    tool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_open_than_allowed() {
    let node = ListeningNode::start("0.0.0.0:0".parse().unwrap(), Behaviour::Hangs).unwrap();
    let tool = Running::start(Config { concurrency: 3, ..impatient() }).await;
    let addresses = (1..=9).map(|n| address(([127, n, 0, 1], node.addr().port()).into(), 1));
    tool.publish([told("1.2.3.4:1", addresses.collect())]);
    let deadline = Instant::now() + LONG;
    loop {
        let opened = node.seen().connections;
        let page = tool.page().await;
        // Asked later, so it can only be more.
        let ended = sum(&page, "tries_failed", &["reason=\"handshake_timeout\""]);
        assert!(opened <= ended + 3, "{opened} opened, {ended} ended");
        assert!(sum(&page, "connections_open", &[]) <= 3);
        if ended == 9 {
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
    }
    assert!(wait_until(LONG, || node.seen().connections == 9), "{:?}", node.seen());
    tool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tried_is_counted_with_the_reason() {
    let tool = Running::start(Config { allow_local: false, ..local() }).await;
    let entry = |text: &str, port| {
        let addr: SocketAddr = format!("{text}:{port}").parse().unwrap();
        address(addr, 1)
    };
    let many = (0..1000).map(|_| entry("127.0.0.1", 1)).collect();
    let unknown = Address { timestamp: 0, services: 0, port: 1, address: None };
    tool.publish([
        told("1.2.3.4:1", many),
        // What the node itself tells is no gossip.
        message(false, "1.2.3.4:1", Msg::Addrv2(AddrV2 { addresses: vec![entry("127.0.0.1", 8333)] })),
        told(
            "1.2.3.4:1",
            vec![entry("127.0.0.1", 8333), entry("10.0.0.1", 8333), entry("8.8.8.8", 22), unknown],
        ),
    ]);
    tool.until("addr_skipped", &["network=\"Unknown\"", "reason=\"network\""], 1).await;
    for (reason, count) in [("getaddr", 1000), ("unroutable", 2), ("port", 1)] {
        assert_eq!(tool.sum("addr_skipped", &[&format!("reason=\"{reason}\"")]).await, count, "{reason}");
    }
    assert_eq!(tool.sum("connections", &[]).await, 0);
    tool.end().await;
}

#[tokio::test]
async fn nobody_is_dialed_without_being_allowed() {
    let bus = Bus::in_process();
    let config = Config { connect: false, ..local() };
    let subscriber = bus.subscriber("connectivity", &subjects(&config), Limits::default());
    let error = run(config, subscriber, CancellationToken::new()).await.unwrap_err().to_string();
    for part in ["--connect", "regtest", "1000 connections a second", USER_AGENT] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!Config::default().connect);
    let findings = check(&Config::default());
    assert!(findings.len() == 1 && findings[0].ok && findings[0].what.contains("is off"), "{findings:?}");
}

#[test]
fn the_doctor_finds_what_is_missing() {
    let config = Config {
        csv_dir: Some("/nonexistent".into()),
        socks5_proxy: vec!["127.0.0.1:1".parse().unwrap()],
        tor_exit_list: Some("/nonexistent/exits".into()),
        ..local()
    };
    let missing: Vec<_> = check(&config).into_iter().filter(|finding| !finding.ok).collect();
    for flag in ["--csv-dir", "--socks5-proxy", "--tor-exit-list"] {
        assert!(
            missing.iter().any(|finding| finding.fix.as_ref().unwrap().contains(flag)),
            "{flag}: {missing:?}"
        );
    }
    assert_eq!(missing.len(), 3);
    assert!(!check(&Config { rate: 0, ..config })[0].ok);
}

#[test]
fn the_gossip_of_the_tour_is_found() {
    let known = Known::default();
    let (mut heard, mut answers) = (Vec::new(), 0);
    for delivery in tour() {
        match gossip::heard(&delivery, &known) {
            Gossip::None => {}
            Gossip::Heard(addresses) => heard.extend(addresses),
            Gossip::Getaddr(_) => answers += 1,
        }
    }
    assert_eq!(answers, 2);
    let of = |network: usize| heard.iter().filter(|heard| heard.network() == network).count();
    let counts: Vec<usize> = (0..7).map(of).collect();
    assert_eq!(counts, COUNTS, "{counts:?}");
    assert!(heard.iter().all(|heard| heard.time > 1_700_000_000 && !heard.source.ip.contains(':')));
}

/// Inbound addresses of the tour by network: IPv4, IPv6, Tor v2, Tor v3, I2P, CJDNS, unknown.
const COUNTS: [usize; 7] = [16, 5, 0, 1, 1, 1, 1];

#[test]
fn an_event_without_a_message_is_no_gossip() {
    let known = Known::default();
    let empty = Event { timestamp: 0, origin: None, peer_observer_event: None };
    let delivery = Delivery { subject: Subject::NetMsg, event: Arc::new(empty) };
    assert!(matches!(gossip::heard(&delivery, &known), Gossip::None));
}
