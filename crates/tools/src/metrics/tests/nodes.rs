//! Several nodes, what goes stale, and what 24 hours of hostile events can do to memory.

use super::*;

fn of(node: &str, mut delivery: Delivery) -> Delivery {
    let origin =
        Origin { node: node.into(), extractor: 1, session: 1, sequence: 1, time_ns: 1, ..Origin::default() };
    Arc::get_mut(&mut delivery.event).unwrap().origin = Some(origin);
    delivery
}

fn opened() -> Delivery {
    connection(connection_event::Event::Inbound(InboundConnection {
        conn: conn("192.0.2.1:1", 1),
        existing_connections: 3,
    }))
}

#[test]
fn nodes_are_told_apart_on_request_only() {
    let events = [of("alice", opened()), of("bob", opened()), of("bob", opened()), opened()];
    expect(&after(&events), &[("conn_inbound", 4.0)]);

    let config = Config { node_label: true, ..Config::default() };
    let mut metrics = Metrics::new(&config).unwrap();
    metrics.observe_batch(&events);
    let page = metrics.render(Format::Text);
    assert_eq!(page.matches("# TYPE peerobserver_conn_inbound counter").count(), 1);
    expect(
        &samples(&page),
        &[
            ("conn_inbound{node=\"alice\"}", 1.0),
            ("conn_inbound{node=\"bob\"}", 2.0),
            ("conn_inbound{node=\"node\"}", 1.0),
            ("conn_inbound_network{node=\"bob\",network=\"1\"}", 2.0),
            ("conn_inbound", -1.0),
        ],
    );
}

#[test]
fn a_flood_of_nodes_shares_what_is_left() {
    let config = Config { node_label: true, max_label_values: 10, ..Config::default() };
    let mut metrics = Metrics::new(&config).unwrap();
    for i in 0..1000 {
        metrics.observe(&of(&format!("node {i}"), opened()));
    }
    let counted = samples(&metrics.render(Format::Text));
    assert_eq!(sum(&counted, "peerobserver_conn_inbound"), 1000.0);
    expect(
        &counted,
        &[
            ("conn_inbound{node=\"other\"}", 744.0),
            ("conn_inbound{node=\"node 0\"}", 1.0),
            ("observer_label_values_folded{metric=\"node\"}", 744.0),
        ],
    );
    assert!(metrics.nodes.told_of_others);
    metrics.observe(&of("node 7", opened()));
    expect(
        &samples(&metrics.render(Format::Text)),
        &[("conn_inbound{node=\"node 7\"}", 2.0), ("observer_label_values_folded{metric=\"node\"}", 744.0)],
    );
}

/// What an alert sums up over all series of a family: a series that was not there before counts as a whole, and one that went back began
/// anew.
fn new_since(before: &Samples, now: &Samples, name: &str) -> f64 {
    let of_family = now.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of_family
        .map(|(series, value)| {
            let before = before.get(series).copied().unwrap_or(0.0);
            if before > *value { *value } else { value - before }
        })
        .sum()
}

#[test]
fn series_that_end_make_no_news() {
    let misbehaves = |i| {
        let event = MisbehavingConnection { id: i, message: format!("broke rule {i}") };
        connection(connection_event::Event::Misbehaving(event))
    };
    let lost = |cause: &str, count| {
        let loss = Loss { stage: Stage::Publish as i32, count, cause: cause.into(), ..Loss::default() };
        delivery(PeerObserverEvent::Loss(loss), 0)
    };
    let (reason, losses) = ("peerobserver_conn_misbehaving_reason", "peerobserver_pipeline_lost");
    let mut metrics = Metrics::new(&Config { max_label_values: 20, ..Config::default() }).unwrap();
    let mut scrape = |events: &[Delivery], hours| {
        metrics.observe_batch(events);
        (0..hours).for_each(|_| metrics.expire(24));
        samples(&metrics.render(Format::Text))
    };
    let mut yesterday: Vec<_> = (0..12).map(misbehaves).collect();
    yesterday.push(lost("full", 5000));
    let yesterday = scrape(&yesterday, 0);
    assert_eq!((sum(&yesterday, reason), sum(&yesterday, losses)), (12.0, 5000.0));

    let quiet = scrape(&[], 25);
    assert_eq!((new_since(&yesterday, &quiet, reason), new_since(&yesterday, &quiet, losses)), (0.0, 0.0));
    assert_eq!(sum(&quiet, reason), 0.0, "the series are gone");
    assert_eq!(sum(&quiet, losses), 5000.0, "what was lost stays told");

    let again = scrape(&[misbehaves(3), lost("full", 1), lost("gap", 2)], 0);
    assert_eq!((new_since(&quiet, &again, reason), new_since(&quiet, &again, losses)), (1.0, 3.0));

    // More rules than series: those that were broken once make room for those that are broken twice.
    let many = scrape(&(100..200).chain(150..200).map(misbehaves).collect::<Vec<_>>(), 0);
    assert_eq!(new_since(&again, &many, reason), 150.0);
    let other = |samples: &Samples| samples[&format!("{reason}{{misbehavingmessage=\"other\"}}")];
    let quiet = scrape(&[], 25);
    assert_eq!((new_since(&many, &quiet, reason), other(&quiet)), (0.0, other(&many)));
}

#[test]
fn what_is_not_seen_any_more_is_exported_no_more() {
    let config = Config { node_label: true, ..Config::default() };
    let mut metrics = Metrics::new(&config).unwrap();
    metrics.observe(&of("alice", version("192.0.2.1:1", true, "/old/")));
    metrics.observe(&of("gone", opened()));
    metrics.observe(&of("alice", rpc::peers(vec![rpc::peer("192.0.2.1:1", true)])));
    metrics.render(Format::Text);
    for _ in 0..3 {
        metrics.expire(2);
        metrics.observe(&of("alice", version("192.0.2.1:1", true, "/new/")));
    }
    expect(
        &samples(&metrics.render(Format::Text)),
        &[
            ("p2p_version_useragent{node=\"alice\",useragent=\"/old/\"}", -1.0),
            ("p2p_version_useragent{node=\"alice\",useragent=\"/new/\"}", 3.0),
            ("p2p_version_useragent{node=\"alice\",useragent=\"other\"}", -1.0),
            (
                "p2p_message_count{node=\"alice\",message=\"version\",connection_type=\"1\",direction=\"inbound\"}",
                4.0,
            ),
            ("rpc_peer_info_connection_type_peers{node=\"alice\",connection_type=\"inbound\"}", -1.0),
            ("conn_inbound{node=\"gone\"}", -1.0),
        ],
    );
}

#[test]
fn peers_are_counted_by_their_system_where_there_is_a_map() {
    let files = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
    // RETURN 1 for whatever address: bits 0, 0, and 15 times 0.
    std::fs::write(files[0].path(), [0; 3]).unwrap();
    std::fs::write(files[1].path(), "AS1 Example\n").unwrap();
    let config = Config {
        asmap_file: Some(files[0].path().into()),
        as_names_file: Some(files[1].path().into()),
        ..Config::default()
    };
    assert!(check(&config).iter().any(|finding| finding.ok && finding.what.contains("map of AS")));
    let mut metrics = Metrics::new(&config).unwrap();
    let closed = ClosedConnection { conn: conn("192.0.2.1:1", 1), time_established: 0 };
    let outbound = OutboundConnection { conn: conn("x.onion:1", 3), existing_connections: 1 };
    metrics.observe_batch(&[
        rpc::peers(vec![
            rpc::peer("192.0.2.1:1", true),
            rpc::peer("[2001:db8::1]:1", true),
            rpc::peer("x.onion:1", true),
            rpc::peer("192.0.2.1:1", false),
        ]),
        opened(),
        connection(connection_event::Event::Outbound(outbound)),
        connection(connection_event::Event::Closed(closed)),
    ]);
    let example = "asn=\"1\",as_name=\"Example\"}";
    for (series, value) in [
        (format!("rpc_peer_info_as_peers{{direction=\"inbound\",{example}"), 2.0),
        (format!("rpc_peer_info_as_peers{{direction=\"outbound\",{example}"), 1.0),
        ("rpc_peer_info_as_diversity{direction=\"inbound\"}".to_owned(), 0.5),
        ("rpc_peer_info_as_distinct{direction=\"inbound\"}".to_owned(), 1.0),
        ("rpc_peer_info_as_unmapped_peers{direction=\"inbound\"}".to_owned(), 1.0),
        ("rpc_peer_info_as_unmapped_peers{direction=\"outbound\"}".to_owned(), 0.0),
        (format!("conn_inbound_as{{{example}"), 1.0),
        (format!("conn_closed_as{{{example}"), 1.0),
        ("conn_outbound_as{asn=\"0\",as_name=\"\"}".to_owned(), 1.0),
    ] {
        expect(&samples(&metrics.render(Format::Text)), &[(&series, value)]);
    }
}

/// Memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_day_of_label_values_that_never_come_twice_takes_less_than_100_mb() {
    // A hundred each second: what a sketch has not forgotten after 100,000 of a kind, it will not forget after millions.
    const EACH: u64 = 100_000;
    let mut metrics = Metrics::new(&Config { max_label_values: 2000, ..Config::default() }).unwrap();
    let before = resident();
    for i in 0..EACH {
        let long = format!("{i}{}", "x".repeat(300));
        let from = format!("10.{}.{}.{}:1", i >> 16 & 255, i >> 8 & 255, i & 255);
        let addresses = vec![entry(i, i, Some(Net::Ipv4(long.clone())))];
        let reject = Reject { rejected_command: long.clone(), reason: 1, ..Default::default() };
        let rejected =
            mempool_event::Event::Rejected(Rejected { reason: long.clone(), ..Default::default() });
        let misbehaving = MisbehavingConnection { id: i, message: long.clone() };
        let mut peers: Vec<_> = vec![rpc::peer(&from, true); 3];
        for (k, peer) in peers.iter_mut().enumerate() {
            peer.version = (i * 3 + k as u64) as u32;
            peer.network.clone_from(&long);
            peer.mapped_as = peer.version;
        }
        metrics.observe_batch(&[
            version(&from, true, &long),
            message(&from, true, &long, Msg::Reject(reject)),
            message(&from, true, "addr", Msg::Addr(Addr { addresses: addresses.clone() })),
            message(&from, true, "addrv2", Msg::Addrv2(AddrV2 { addresses })),
            message(&from, true, "addrv2", Msg::Emptyaddrv2(true)),
            message(&from, true, "ping", Msg::Oldping(true)),
            message(&from, true, "feefilter", Msg::Feefilter(FeeFilter { fee: i as i64 })),
            ebpf(EbpfEvent::Mempool(MempoolEvent { event: Some(rejected) }), i),
            connection(connection_event::Event::Misbehaving(misbehaving)),
            rpc::peers(peers),
        ]);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MB", grown >> 20);
    let counted = samples(&metrics.render(Format::Text));
    assert_eq!(sum(&counted, "peerobserver_conn_misbehaving_reason"), EACH as f64);
    assert!(sum(&counted, "peerobserver_observer_label_values_folded") > 9.0 * (EACH - 2001) as f64);
}
