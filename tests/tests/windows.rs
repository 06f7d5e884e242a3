//! `run` and `doctor` with every window into a node: tracepoints, RPC, debug.log, a P2P connection; and one name for all of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[cfg(feature = "ipc")]
use peer_observer_bus::{Bus, NatsConfig};
use peer_observer_e2e::node::{COOKIE, Node};
use peer_observer_e2e::plain::Listener;
use peer_observer_e2e::strict::Schema;
use peer_observer_e2e::{LONG, page, program, until};
#[cfg(feature = "ipc")]
use peer_observer_events::Subject;
use peer_observer_events::proto::observer::Source;
#[cfg(feature = "ipc")]
use peer_observer_extractors::ipc;
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::fake_rpc::FakeRpc;
#[cfg(feature = "ipc")]
use peer_observer_testkit::ipc_node::{Control, FakeNode, HasStarted, Kind};
use peer_observer_testkit::log_writer::recorded_log;
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::p2p_peer::{NodePeer, Transport};
use peer_observer_testkit::process::Process;
use peer_observer_testkit::standin::Config;
use peer_observer_testkit::{data_dir, free_port, need, require, wait_until};
use serde_json::json;
#[cfg(feature = "ipc")]
use tokio_util::sync::CancellationToken;

const LINE: &[u8] = b"2026-01-01T00:00:01Z UpdateTip: new best=ab height=1\n";

/// Starts `run` for one node, with more flags.
fn run(node: &Node, flags: &[&str]) -> Process {
    let own = node.flags();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    program::start(&[&own, flags].concat())
}

/// The flags of [`RealNode`] that make it one node of a test.
fn flags_of(node: &RealNode) -> Vec<String> {
    let program = node.program().display().to_string();
    let names = format!("{}=alice", node.datadir().display());
    [
        "run",
        "-b",
        &program,
        "-w",
        "127.0.0.1:0",
        "--set",
        "rpc.prometheus_address=127.0.0.1:0",
        "--node",
        &names,
    ]
    .map(Into::into)
    .into()
}

/// Waits for lines of JSON of node `alice` from all of these extractors. `meanwhile` is done whenever
/// there is nothing new.
fn wait_for_extractors(program: &mut Process, extractors: &[&str], mut meanwhile: impl FnMut()) {
    let mut missing: BTreeSet<&str> = extractors.iter().copied().collect();
    let deadline = Instant::now() + LONG;
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "nothing of {missing:?}");
        let Ok(line) = program.wait_for_line(|line| line.starts_with('{'), Duration::from_millis(100)) else {
            // Only now: it must not do more than can be read.
            meanwhile();
            continue;
        };
        assert!(line.contains("\"node\":\"alice\""), "all is of one node: {line}");
        missing.retain(|extractor| !line.contains(&format!("\"extractor\":\"{extractor}\"")));
    }
}

#[test]
fn run_looks_into_a_node_through_every_window_under_one_name() {
    require!(need::root());
    let mut node = Node::start(&Config::pings(3), "");
    let p2p: SocketAddr = ([127, 0, 0, 1], free_port().unwrap()).into();
    let name = format!("{}=alice", node.standin.datadir().display());
    let p2p_address = format!("alice={p2p}");
    let flags = ["--json", "--node", &name, "--p2p", "--p2p-address", &p2p_address];
    let mut program = run(&node, &[&flags[..], &["--set", "p2p.p2p_network=regtest"]].concat());
    let mut metrics = None;
    let mut windows = String::new();
    let mut is_watched = false;
    while metrics.is_none() || windows.is_empty() || !is_watched {
        let line = program.wait_for_line(|_| true, LONG).unwrap();
        if line.contains("serving the metrics of rpc extractors") {
            metrics = line.split_once("address=").and_then(|(_, address)| address.trim().parse().ok());
        }
        if line.contains("looking into") {
            windows.clone_from(&line);
        }
        is_watched |= line.contains("watching");
    }
    let log = node.log.path().display().to_string();
    for part in ["node=alice", &node.standin.pid().to_string(), &node.rpc.addr().to_string(), &log, "dials"] {
        assert!(windows.contains(part), "{part}: {windows}");
    }
    node.standin.go().unwrap();
    let mut peer = NodePeer::connect(p2p, Transport::V2, LONG).unwrap();
    peer.send("feefilter", &1_000_u64.to_le_bytes()).unwrap();
    let log = &mut node.log;
    wait_for_extractors(&mut program, &["ebpf", "rpc", "log", "p2p"], || log.write(LINE).unwrap());
    let page = page::fetch(metrics.unwrap()).unwrap();
    let uptime = page.keys().find(|series| series.starts_with("rpcextractor_events_total"));
    assert!(uptime.is_some_and(|series| series.contains("node=\"alice\"")), "{page:?}");
    assert!(program::terminate(program));
}

#[test]
#[cfg(feature = "ipc")]
fn run_tells_the_tips_of_a_node_that_listens_for_ipc() {
    require!(need::root(), need::bitcoin_node());
    let node = RealNode::start_with_ipc(&[]).unwrap();
    let flags = flags_of(&node);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--json", "--no-metrics"]).collect();
    let mut program = program::start(&flags);
    wait_for_extractors(&mut program, &["ipc"], || {});
    node.rpc("generatetodescriptor", json!([1, "raw(51)"])).unwrap();
    let is_tip = |line: &str| line.contains("\"BlockTip\":{\"height\":1,");
    program.wait_for_line(is_tip, LONG).unwrap();
    assert!(program::terminate(program));
}

#[test]
fn what_is_switched_off_is_not_looked_into() {
    require!(need::root());
    let node = Node::start(&Config::pings(1), "");
    let mut program = run(&node, &["--no-rpc", "--quiet"]);
    let line = program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    assert!(line.contains("rpc=\"not asked for\"") && line.contains("p2p=\"not asked for\""), "{line}");
    assert!(program::terminate(program));
    // A doctor of another test may have tried its login, which is all that it asks.
    assert_eq!(node.rpc.calls("getpeerinfo"), 0);
}

#[test]
fn a_window_that_is_closed_is_one_line_with_what_opens_it_and_the_rest_goes_on() {
    require!(need::root());
    let mut node = Node::start(&Config::pings(1), "");
    node.configure("server=0\n");
    let mut program = run(&node, &["--json"]);
    let line = program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    assert!(line.contains("the RPC server is off; in bitcoin.conf: server=1"), "{line}");
    let log = &mut node.log;
    let is_of_log = |line: &str| line.contains("\"extractor\":\"log\"");
    let seen = wait_until(LONG, || {
        log.write(LINE).unwrap();
        program.wait_for_line(is_of_log, Duration::from_millis(100)).is_ok()
    });
    assert!(seen, "the log is read");
    assert!(program::terminate(program));
}

#[test]
fn a_cookie_that_comes_later_is_waited_for() {
    require!(need::root());
    let node = Node::start(&Config::pings(1), "");
    std::fs::remove_file(node.cookie()).unwrap();
    let mut program = run(&node, &["--quiet"]);
    let line = program.wait_for_line(|line| line.contains("cannot read the RPC login"), LONG).unwrap();
    assert!(line.contains(".cookie") && line.contains("server=1"), "{line}");
    std::fs::write(node.cookie(), COOKIE).unwrap();
    // Were it said again, it would come before.
    let line = program
        .wait_for_line(|line| line.contains("cannot read") || line.contains("answers RPC calls again"), LONG)
        .unwrap();
    assert!(line.contains("answers RPC calls again"), "{line}");
    let said = program.wait_for_line(|line| line.contains("the node says what it is"), LONG).unwrap();
    assert!(said.contains("Satoshi"), "its version is shown: {said}");
    assert!(program::terminate(program));
}

#[test]
fn a_node_that_is_started_again_is_followed_to_another_port_and_asked_once_at_a_time() {
    require!(need::root());
    // Doctors of other tests look at all nodes, too, and ask for the uptime.
    const METHOD: &str = "getnettotals";
    let mut node = Node::start(&Config::pings(1), "");
    let mut program = run(&node, &["--quiet", "--set", "rpc.query_interval=1"]);
    assert!(wait_until(LONG, || node.rpc.calls(METHOD) > 0));
    node.standin.kill().unwrap();
    // The same port: nothing is started anew.
    node.standin.restart().unwrap();
    let pid = node.standin.pid().to_string();
    program.wait_for_line(|line| line.contains("looking into") && line.contains(&pid), LONG).unwrap();
    let before = node.rpc.calls(METHOD);
    assert!(wait_until(LONG, || node.rpc.calls(METHOD) >= before + 2));
    assert_eq!(node.rpc.most_in_flight(METHOD), 1);

    node.standin.kill().unwrap();
    let other = FakeRpc::start(COOKIE).unwrap();
    other.play(&data_dir().join("rpc-samples")).unwrap();
    node.configure(&format!("rpcport={}\n", other.addr().port()));
    node.standin.restart().unwrap();
    assert!(wait_until(LONG, || other.calls(METHOD) > 0), "the new port is asked");
    let before = node.rpc.calls(METHOD);
    assert!(wait_until(LONG, || other.calls(METHOD) > 3));
    assert_eq!(node.rpc.calls(METHOD), before, "the old port is not asked any more");
    assert!(program::terminate(program));
}

#[test]
fn the_doctor_says_of_every_window_of_a_node_how_to_open_it() {
    require!(need::root());
    let node = Node::start(&Config::pings(1), "debug=validation\n");
    let doctor = || {
        let output = program::output(&["doctor"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let heading = format!("node {} ", node.standin.pid());
        let (_, own) = text.split_once(&heading).unwrap_or_else(|| panic!("the node is not named: {text}"));
        // Until the next heading.
        let lines = own.lines().skip(1).take_while(|line| line.starts_with(' '));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let own = doctor();
    for part in
        ["ok      tracepoints: ", "ok      rpc: the node at 127.0.0.1:", "ok      log: ", "missing p2p: "]
    {
        assert!(own.contains(part), "{part}: {own}");
    }
    for part in ["under [regtest]: addnode=127.0.0.1:9333", "debug=cmpctblock"] {
        assert!(own.contains(part), "{part}: {own}");
    }
    let categories: Vec<_> = own.lines().map(str::trim).filter(|line| line.starts_with("debug=")).collect();
    assert_eq!(
        categories,
        ["debug=cmpctblock", "debug=txpackages", "debug=mempoolrej"],
        "a line each, and what it has is none"
    );

    node.configure("server=0\nnodebuglogfile=1\naddnode=127.0.0.1:9333\n");
    let own = doctor();
    for part in
        ["missing rpc: the RPC server is off", "in bitcoin.conf: server=1", "missing log: ", "ok      p2p: "]
    {
        assert!(own.contains(part), "{part}: {own}");
    }
    node.configure("rpcport=1\n");
    let own = doctor();
    assert!(own.contains("missing rpc: cannot connect") && own.contains("server=1"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_every_extractor_publishes_on_public_subjects_is_the_public_schema() {
    require!(need::root(), need::nats_server());
    let schema = Schema::public();
    let server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    let mut node = Node::start(&Config::pings(3), "");
    let p2p: SocketAddr = ([127, 0, 0, 1], free_port().unwrap()).into();
    let url = server.url();
    let address = p2p.to_string();
    let flags =
        ["--quiet", "-a", &url, "--p2p", "--p2p-address", &address, "--set", "p2p.p2p_network=regtest"];
    let mut program = run(&node, &[&flags[..], &["--set", "p2p.ping_interval=1"]].concat());
    program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    node.standin.go().unwrap();

    let of = |source: Source| {
        let messages = listener.messages();
        let of_source = messages.iter().filter(|message| {
            let (_, event) = message.event();
            !message.subject.contains('.') && event.origin.is_some_and(|origin| origin.extractor() == source)
        });
        of_source.count()
    };
    // The log is read from its end once it was seen.
    until("the log is read", || {
        node.log.write(LINE).unwrap();
        of(Source::Log) > 0
    })
    .await;
    let log = recorded_log("regtest-tour/debug-threadnames.log.zst").unwrap();
    let lines = log.iter().filter(|byte| **byte == b'\n').count();
    node.log.write(&log).unwrap();

    let played = tokio::task::spawn_blocking(move || {
        for transport in [Transport::V1, Transport::V2] {
            let mut peer = NodePeer::connect(p2p, transport, LONG).unwrap();
            peer.send("feefilter", &1_000_u64.to_le_bytes()).unwrap();
            for entry in 1_u32..8 {
                let inv = [&[1][..], &entry.to_le_bytes(), &[7; 32]].concat();
                peer.send("inv", &inv).unwrap();
            }
            // Time, services, IPv4, port; then a network that nobody knows.
            let addr = [&[1, 1, 0, 0, 0, 1, 1, 4, 127, 0, 0, 1, 0x20, 0x8d][..]].concat();
            peer.send("addrv2", &addr).unwrap();
            let unknown = [&[1, 1, 0, 0, 0, 1, 99, 2, 1, 2, 0x20, 0x8d][..]].concat();
            peer.send("addrv2", &unknown).unwrap();
            peer.answer_ping_after(Duration::ZERO, LONG).unwrap();
            peer.ping(1, LONG).unwrap();
        }
    });
    played.await.unwrap();
    until("all of it is there", || {
        of(Source::Log) > lines && of(Source::P2p) >= 2 * 11 && of(Source::Rpc) >= 17 && of(Source::Ebpf) >= 3
    })
    .await;
    assert!(program::terminate(program));
    let mut subjects = BTreeSet::new();
    for message in listener.messages().iter().filter(|message| !message.subject.contains('.')) {
        assert_eq!(schema.check_event(&message.payload), Ok(()), "{:?}", message.event());
        subjects.insert(message.subject.clone());
    }
    assert_eq!(subjects.into_iter().collect::<Vec<_>>(), ["log-extractor", "netmsg", "p2p-extractor", "rpc"]);
}

#[cfg(feature = "ipc")]
#[tokio::test(flavor = "multi_thread")]
async fn tips_are_published_as_the_public_schema_has_them() {
    require!(need::nats_server());
    let schema = Schema::public();
    let server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let control = Control::new(Kind::Core31);
    let (_node, _started) = (FakeNode::start(&socket, control.clone()), HasStarted::start());
    let config = NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() };
    let publisher = Bus::nats(config).unwrap().publisher(Source::Ipc, "ipc");
    let config = ipc::Config {
        ipc_socket_path: Some(socket),
        prometheus_address: "127.0.0.1:0".into(),
        ..ipc::Config::default()
    };
    let stop = CancellationToken::new();
    let extractor = tokio::spawn(ipc::run(config, publisher, stop.clone()));
    until("a tip is told", || listener.messages().len() == 1).await;
    control.set_tip(Some(2));
    until("the next one is told", || listener.messages().len() == 2).await;
    stop.cancel();
    extractor.await.unwrap().unwrap();
    for message in listener.messages().iter() {
        assert_eq!(message.subject, Subject::Ipc.as_str());
        assert_eq!(schema.check_event(&message.payload), Ok(()), "{:?}", message.event());
    }
}

#[test]
fn a_real_node_is_looked_into_through_every_window_and_named_by_its_own_connection() {
    require!(need::root(), need::bitcoind());
    let p2p = format!("127.0.0.1:{}", free_port().unwrap());
    // Other networks than that of the node are in the settings: who dials is known by its process.
    let mut node = RealNode::start(&[&format!("-addnode={p2p}"), "-debug=validation"]).unwrap();
    let own = flags_of(&node);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let flags = ["--json", "--no-metrics", "--p2p", "--p2p-address", &p2p, "--set", "p2p.ping_interval=1"];
    // A node that finds nobody to dial tries again after a minute only.
    node.stop().unwrap();
    let mut program = program::start(&[&own[..], &flags].concat());
    program.wait_for_line(|line| line.contains("nodes can dial us"), LONG).unwrap();
    node.restart().unwrap();
    let line = program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    assert!(line.contains(&node.rpc_addr().to_string()) && line.contains("regtest/debug.log"), "{line}");
    let mine = |node: &RealNode| drop(node.rpc("generatetodescriptor", json!([1, "raw(51)"])));
    wait_for_extractors(&mut program, &["ebpf", "rpc", "log", "p2p"], || mine(&node));

    node.restart().unwrap();
    program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    wait_for_extractors(&mut program, &["ebpf", "rpc", "log", "p2p"], || mine(&node));
    assert!(program::terminate(program));
}
