//! The connectivity check from outside: in a network of its own, where whatever is dialed stays.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use peer_observer_e2e::page::{self, Samples};
use peer_observer_e2e::plain::connect;
use peer_observer_e2e::{LONG, everything, program, recorded};
use peer_observer_events::Event;
use peer_observer_testkit::namespace::{in_new_network, ip};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::p2p_node::{Behaviour, ListeningNode};
use peer_observer_testkit::process::Process;
use peer_observer_testkit::{free_port, need, require};
use prost::Message;

/// Nodes at addresses that the tour's peers gossip; nobody is at the others.
const NODES: [(&str, Behaviour); 7] = [
    ("123.123.0.1:8333", Behaviour::AnswersV1),
    ("123.123.1.2:8333", Behaviour::Hangs),
    ("123.123.2.3:8333", Behaviour::WrongNetwork),
    ("123.123.3.4:8333", Behaviour::Garbage),
    ("123.123.4.5:8333", Behaviour::Drips),
    ("123.123.5.6:8333", Behaviour::ClosesAtOnce),
    ("[2a01:4f8::1]:8333", Behaviour::AnswersV1),
];

/// The sum of the series of a metric whose labels have all of these.
fn sum(page: &Samples, name: &str, labels: &[&str]) -> f64 {
    let name = format!("connectivitycheck_{name}");
    let series = page.iter().filter(|(series, _)| series.split('{').next() == Some(&name));
    series
        .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
        .map(|(_, value)| value)
        .sum()
}

/// An address that nobody may dial: it shows that the tool listens.
fn knock() -> Vec<u8> {
    let event = everything::gossip(&[SocketAddr::from(([127, 0, 0, 1], 8333))]);
    Event { timestamp: 0, origin: None, peer_observer_event: Some(event) }.encode_to_vec()
}

async fn check_the_tour(dir: &Path) {
    let nodes =
        NODES.map(|(addr, behaviour)| ListeningNode::start(addr.parse().unwrap(), behaviour).unwrap());
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    let [csv, parquet] = ["csv", "parquet"].map(|name| dir.join(name).display().to_string());
    for dir in [&csv, &parquet] {
        std::fs::create_dir(dir).unwrap();
    }
    let url = server.url();
    let mut tool = program::start(&[
        "connectivity",
        "--connect",
        "-a",
        &url,
        "-m",
        "127.0.0.1:0",
        "--p2p-network",
        "regtest",
        "--rate",
        "100",
        // Those that answer are done much sooner, also on a busy machine; those that do not are waited for so long.
        "--handshake-timeout",
        "15",
        "--csv-dir",
        &csv,
        "--parquet-dir",
        &parquet,
    ]);
    let address: SocketAddr = program::page_address(&mut tool);
    let deadline = std::time::Instant::now() + LONG;
    while sum(&page::fetch(address).unwrap(), "addr_skipped", &["reason=\"unroutable\""]) == 0.0 {
        assert!(std::time::Instant::now() < deadline, "it hears nothing");
        client.publish("netmsg", knock().into()).await.unwrap();
        client.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for message in recorded::public().into_iter().filter(|message| message.subject == "netmsg") {
        client.publish(message.subject, message.payload).await.unwrap();
    }
    client.flush().await.unwrap();
    let page = program::wait_for_page(address, |page| sum(page, "addr_tried", &[]) == 21.0);

    let failed = |reason: &str| sum(&page, "tries_failed", &[&format!("reason=\"{reason}\"")]);
    let expected = [
        ("refused", 8.0),
        ("unreachable", 6.0),
        ("handshake_timeout", 2.0),
        ("wrong_network", 1.0),
        ("protocol", 1.0),
        ("closed", 1.0),
        ("local", 0.0),
    ];
    for (reason, tries) in expected {
        assert_eq!(failed(reason), tries, "{reason}: {page:#?}");
    }
    for network in ["IPv4", "IPv6"] {
        let labels = [&*format!("network=\"{network}\""), "addr_version=\"addr"];
        assert_eq!(sum(&page, "addr_successful_connection", &labels), 1.0, "{network}");
    }
    let skipped = |reason: &str| sum(&page, "addr_skipped", &[&format!("reason=\"{reason}\"")]);
    // Each knock has one of an unknown network, too.
    assert_eq!(skipped("network") - skipped("unroutable"), 4.0);
    assert_eq!((skipped("getaddr"), skipped("netgroup")), (2000.0, 0.0));
    assert_eq!(sum(&page, "connections", &[]), 21.0);
    assert_eq!(sum(&page, "events_lost", &[]), 0.0);
    for node in nodes {
        assert_eq!(node.seen().connections, 1, "{}", node.addr());
    }
    assert!(program::terminate(tool));

    let file = |dir: &str| std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let rows = std::fs::read_to_string(file(&csv)).unwrap();
    assert_eq!(rows.lines().count(), 1 + 21, "{rows}");
    assert_eq!(rows.lines().filter(|row| row.contains(",/testkit:0.1.0/,")).count(), 2, "{rows}");
    let table = std::fs::read(file(&parquet)).unwrap();
    assert!(table.starts_with(b"PAR1") && table.ends_with(b"PAR1"));
}

#[test]
fn recorded_gossip_is_checked_in_a_network_of_its_own() {
    require!(need::root(), need::ip(), need::nats_server());
    // What builds it may need the network.
    program::path();
    let checked = in_new_network(|| {
        ip("-6 addr add 2a01:4f8::1/128 dev lo nodad").unwrap();
        // Among those that nobody is at, a network that is not there.
        ip("route add unreachable 9.9.0.0/16 table local").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_the_tour(dir.path()));
    });
    checked.unwrap();
}

#[test]
fn full_disk_ends_it_with_an_error() {
    require!(need::root(), need::nats_server());
    let server = NatsServer::start().unwrap();
    let disk = tempfile::tempdir().unwrap();
    let (url, dir) = (server.url(), disk.path().display().to_string());
    let mut args = vec!["connectivity", "--connect", "--allow-local", "-a", &url, "-m", "127.0.0.1:0"];
    args.extend(["--rate", "1000", "--netgroup-rate", "1000", "--csv-dir", &dir]);
    // One page, which has room for the head of the file and a few rows. The mount is in a namespace of
    // its own, so nothing of it is left.
    let script = format!("mount -t tmpfs -o size=4k tmpfs '{dir}' && exec \"$0\" \"$@\"");
    let (command, state) = program::command(&args);
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &script]).arg(program::path()).args(&args);
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut tool = Process::spawn(shell).unwrap().keep(state);

    let gone = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let event = Event { timestamp: 0, origin: None, peer_observer_event: Some(everything::gossip(&[gone])) };
    let event = bytes::Bytes::from(event.encode_to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&url).await;
        let deadline = std::time::Instant::now() + LONG;
        while tool.is_running() {
            assert!(std::time::Instant::now() < deadline, "it goes on");
            client.publish("netmsg", event.clone()).await.unwrap();
            client.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let status = tool.wait(LONG).unwrap();
    let lines = tool.last_lines();
    assert_eq!(status.code(), Some(1), "{lines}");
    assert!(lines.contains("cannot write results to") && lines.contains("No space left"), "{lines}");
}

#[test]
fn without_being_allowed_it_says_what_it_would_do_and_ends() {
    let output = program::output(&["connectivity", "-a", "127.0.0.1:1", "--rate", "7"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["--connect", "mainnet", "IPv4, IPv6", "7 connections a second", "/peer-observer:"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
