//! What is counted, against counting by other means; and what hostile events can do to it.

mod lines;
mod names;
mod nodes;
mod reference;
mod rpc;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;

use peer_observer_events::proto::bitcoin_primitives::address::Address as Net;
use peer_observer_events::proto::bitcoin_primitives::{Address, InventoryItem, inventory_item::Item};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::connection::{
    ClosedConnection, Connection, ConnectionEvent, EvictedInboundConnection, InboundConnection,
    MisbehavingConnection, OutboundConnection, connection_event,
};
use peer_observer_events::proto::ebpf_extractor::mempool::{
    Added, MempoolEvent, Rejected, Removed, Replaced, mempool_event,
};
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{
    Addr, AddrV2, FeeFilter, Inv, MessageEvent, Metadata, Ping, Reject, Version,
};
use peer_observer_events::proto::ebpf_extractor::validation::{
    BlockConnected, ValidationEvent, validation_event,
};
use peer_observer_events::proto::observer::{Books, Loss, Origin, Source, TracepointBook, loss::Stage};
use peer_observer_events::{Event, PeerObserverEvent, Subject};

use peer_observer_exporter::registry::{MAX_AMOUNT, MAX_OBSERVED};

use super::*;
use crate::tour::tour;
use reference::Reference;

/// Samples of a page by name and labels as they stand there.
type Samples = BTreeMap<String, f64>;

fn samples(page: &str) -> Samples {
    let mut all = Samples::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let before = all.insert(series.to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "{series} is there twice");
    }
    all
}

/// The sum of all samples of a family.
fn sum(samples: &Samples, name: &str) -> f64 {
    let of_family = samples.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of_family.map(|(_, value)| value).sum()
}

fn metrics() -> Metrics {
    Metrics::new(&Config::default()).unwrap()
}

fn delivery(event: PeerObserverEvent, timestamp: u64) -> Delivery {
    let subject = Subject::of(&event).unwrap();
    Delivery { subject, event: Arc::new(Event { timestamp, origin: None, peer_observer_event: Some(event) }) }
}

fn ebpf(event: EbpfEvent, timestamp: u64) -> Delivery {
    delivery(PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) }), timestamp)
}

const NOW_S: u64 = 1_700_000_000;

fn message(addr: &str, inbound: bool, command: &str, msg: Msg) -> Delivery {
    let meta = Metadata {
        peer_id: 1,
        addr: addr.into(),
        conn_type: if inbound { 1 } else { 2 },
        command: command.into(),
        inbound,
        size: 100,
    };
    let event = MessageEvent { meta, decode_error: None, captured: None, msg: Some(msg) };
    ebpf(EbpfEvent::Message(event), NOW_S * 1000 + 999)
}

fn connection(event: connection_event::Event) -> Delivery {
    ebpf(EbpfEvent::Connection(ConnectionEvent { event: Some(event) }), NOW_S * 1000)
}

fn conn(addr: &str, network: u32) -> Connection {
    Connection { peer_id: 7, addr: addr.into(), conn_type: 1, network }
}

fn after(deliveries: &[Delivery]) -> Samples {
    let mut metrics = metrics();
    metrics.observe_batch(deliveries);
    samples(&metrics.render(Format::Text))
}

/// Asserts that these series, without `peerobserver_`, have these values; a negative value stands for no such series.
fn expect(samples: &Samples, expected: &[(&str, f64)]) {
    for (series, value) in expected {
        let found = samples.get(&format!("peerobserver_{series}")).copied().unwrap_or(-1.0);
        assert_eq!(found, *value, "{series}");
    }
}

#[test]
fn a_recorded_tour_counts_as_counted_by_hand() {
    let tour = tour();
    let counted = after(&tour);
    let mut reference = Reference::default();
    tour.iter().for_each(|delivery| reference.event(&delivery.event));

    assert!(reference.0.len() > 300, "the tour is full of everything");
    for (series, value) in &reference.0 {
        assert_eq!(counted.get(series), Some(value), "{series}");
    }
    // What is there besides: zeros, gauges, and what the reference does not know.
    let besides: BTreeMap<_, _> =
        counted.iter().filter(|(s, v)| !reference.0.contains_key(*s) && **v != 0.0).collect();
    let mut latest_block = None;
    for delivery in &tour {
        if let Some(PeerObserverEvent::EbpfExtractor(e)) = &delivery.event.peer_observer_event
            && let Some(EbpfEvent::Validation(v)) = &e.ebpf_event
        {
            latest_block = v.event.clone();
        }
    }
    let Some(validation_event::Event::BlockConnected(block)) = latest_block else {
        panic!("no block in the tour")
    };
    expect(
        &counted,
        &[
            ("validation_block_connected_latest_height", f64::from(block.height)),
            ("validation_block_connected_latest_transactions", block.transactions as f64),
            ("validation_block_connected_latest_inputs", f64::from(block.inputs)),
            ("validation_block_connected_latest_sigops", block.sigops as f64),
            ("validation_block_connected_latest_connection_time", (block.connection_time / 1000) as f64),
            ("pipeline_events_without_origin", 1646.0),
        ],
    );
    let known = ["runtime", "validation", "pipeline", "connections_open"];
    let known = |series: &str| {
        series.ends_with("_current") || known.iter().any(|k| series.starts_with(&format!("peerobserver_{k}")))
    };
    // Peers on this machine announce addresses of their own subnet.
    let announced = |series: &str| series.starts_with("peerobserver_p2p_address_");
    let unexplained: Vec<_> = besides.keys().filter(|s| !known(s) && !announced(s)).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

fn entry(timestamp: u64, services: u64, address: Option<Net>) -> Address {
    Address { timestamp: timestamp as u32, services, port: 8333, address }
}

#[test]
fn address_times_lie_in_the_past_or_in_the_future() {
    let addresses = vec![entry(NOW_S, 0, None), entry(NOW_S - 3, 0, None), entry(NOW_S + 5, 0, None)];
    let counted = after(&[
        message("192.0.2.1:1", true, "addr", Msg::Addr(Addr { addresses })),
        message("192.0.2.1:1", false, "addrv2", Msg::Addrv2(AddrV2 { addresses: vec![entry(0, 0, None)] })),
    ]);
    let past = "{direction=\"inbound\",timestamp_offset=\"past\"";
    let future = "{direction=\"inbound\",timestamp_offset=\"future\"";
    let name = "p2p_addr_timestamp_offset_seconds";
    expect(
        &counted,
        &[
            (&format!("{name}_bucket{past},le=\"0\"}}"), 1.0),
            (&format!("{name}_bucket{past},le=\"2\"}}"), 1.0),
            (&format!("{name}_bucket{past},le=\"4\"}}"), 2.0),
            (&format!("{name}_sum{past}}}"), 3.0),
            (&format!("{name}_bucket{future},le=\"4\"}}"), 0.0),
            (&format!("{name}_bucket{future},le=\"8\"}}"), 1.0),
            (&format!("{name}_sum{future}}}"), 5.0),
            (
                "p2p_addrv2_timestamp_offset_seconds_count{direction=\"outbound\",timestamp_offset=\"past\"}",
                1.0,
            ),
            (
                "p2p_addrv2_timestamp_offset_seconds_count{direction=\"outbound\",timestamp_offset=\"future\"}",
                0.0,
            ),
            (
                "p2p_addrv2_timestamp_offset_seconds_bucket{direction=\"outbound\",timestamp_offset=\"past\",le=\"16777216\"}",
                0.0,
            ),
            (
                "p2p_addrv2_timestamp_offset_seconds_sum{direction=\"outbound\",timestamp_offset=\"past\"}",
                NOW_S as f64,
            ),
        ],
    );
}

#[test]
fn every_service_bit_is_observed_once() {
    let addresses = vec![entry(NOW_S, 1 | 1 << 3 | 1 << 63, None), entry(NOW_S, 0, None)];
    let counted = after(&[message("192.0.2.1:1", true, "addr", Msg::Addr(Addr { addresses }))]);
    expect(
        &counted,
        &[
            ("p2p_addr_services_bits_count{direction=\"inbound\"}", 3.0),
            ("p2p_addr_services_bits_sum{direction=\"inbound\"}", 66.0),
            ("p2p_addr_services_bits_bucket{direction=\"inbound\",le=\"0\"}", 1.0),
            ("p2p_addr_services_bits_bucket{direction=\"inbound\",le=\"62\"}", 2.0),
            ("p2p_addr_services_bits_bucket{direction=\"inbound\",le=\"63\"}", 3.0),
            ("p2p_addr_services{services=\"9223372036854775817\",direction=\"inbound\"}", 1.0),
            ("p2p_addr_services{services=\"0\",direction=\"inbound\"}", 1.0),
        ],
    );
}

#[test]
fn announcements_of_oneself_and_of_ones_subnet_are_told_apart() {
    let onion = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    let cases: &[(&str, Net, Option<&str>)] = &[
        ("192.0.2.1:8333", Net::Ipv4("192.0.2.1".into()), Some("self IPv4")),
        ("192.0.2.1:8333", Net::Ipv4("192.0.2.77".into()), Some("subnet IPv4")),
        ("192.0.2.1:8333", Net::Ipv4("192.0.3.1".into()), None),
        ("[2001:db8::1]:8333", Net::Ipv6("2001:db8::1".into()), Some("self IPv6")),
        ("[2001:db8::1]:8333", Net::Ipv6("2001:db8::ffff:1:2:3".into()), Some("subnet IPv6")),
        ("[2001:db8::1]:8333", Net::Ipv6("2001:db8:0:1::1".into()), None),
        ("[fc12::1]:8333", Net::Cjdns("fc12::1".into()), Some("self CJDNS")),
        ("[fc12::1]:8333", Net::Cjdns("fc12::2".into()), None),
        (&format!("{onion}:8333"), Net::Torv3(onion.into()), Some("self TorV3")),
        (&format!("{onion}:8333"), Net::Ipv4("not an address".into()), None),
        ("", Net::Ipv4("".into()), Some("self IPv4")),
        ("no port", Net::I2p("no port".into()), Some("self I2P")),
    ];
    for (sender, announced, expected) in cases {
        let addresses = vec![entry(NOW_S, 0, Some(announced.clone()))];
        let counted = after(&[message(sender, true, "addrv2", Msg::Addrv2(AddrV2 { addresses }))]);
        let found: Vec<String> = counted
            .keys()
            .filter_map(|series| series.strip_prefix("peerobserver_p2p_address_"))
            .map(|rest| {
                rest.replace("announcements{network=\"", " ").replace("\",direction=\"inbound\"}", "")
            })
            .collect();
        assert_eq!(found, expected.iter().copied().collect::<Vec<_>>(), "{sender} announces {announced:?}");
    }
}

#[test]
fn an_onion_service_that_tells_of_itself_is_told_by_its_key() {
    // Of the Tor project's own; the key is what addrv2 has (BIP 155).
    let name = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    let key = crate::onion::from_base32(name.trim_end_matches(".onion"), 35).unwrap();
    let decoded = |key: &[u8]| {
        let payload = [&[1, 0, 0, 0, 0, 1, 4, 32][..], key, &8333_u16.to_be_bytes()].concat();
        let msg = peer_observer_events::decode::decode("addrv2", payload.into()).msg;
        assert!(
            matches!(&msg, Msg::Addrv2(addrv2)
                if matches!(&addrv2.addresses[0].address, Some(Net::Torv3(text)) if text.len() == 52 + ".onion".len())),
            "{msg:?}"
        );
        msg
    };
    let mut other = key[..32].to_vec();
    other[31] ^= 1;
    let counted = after(&[
        message(&format!("{name}:8333"), true, "addrv2", decoded(&key[..32])),
        message(&format!("{name}:8333"), true, "addrv2", decoded(&other)),
        message("abc.onion:8333", true, "addrv2", decoded(&key[..32])),
        message("192.0.2.1:8333", true, "addrv2", decoded(&key[..32])),
    ]);
    expect(&counted, &[("p2p_address_selfannouncements{network=\"TorV3\",direction=\"inbound\"}", 1.0)]);
}

#[test]
fn pings_are_counted_by_the_width_of_their_nonce_and_only_inbound() {
    let ping = |inbound, value| message("192.0.2.1:1", inbound, "ping", Msg::Ping(Ping { value }));
    let values = [0, 1, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
    let mut events: Vec<_> = values.iter().map(|value| ping(true, *value)).collect();
    events.push(ping(false, 1));
    let counted = after(&events);
    for (width, count) in [("0", 1.0), ("u8", 2.0), ("u16", 2.0), ("u32", 2.0), ("u64", 2.0)] {
        expect(&counted, &[(&format!("p2p_ping_inbound_value{{value=\"{width}\"}}"), count)]);
    }
}

#[test]
fn inv_types_are_counted_and_large_ones_only_outbound() {
    let wtx = |n: usize| vec![InventoryItem { item: Some(Item::Wtx(Default::default())) }; n];
    let inv = |inbound, items| message("192.0.2.1:1", inbound, "inv", Msg::Inv(Inv { items }));
    let mut mixed = wtx(35);
    mixed.push(InventoryItem { item: Some(Item::Transaction(Default::default())) });
    mixed.push(InventoryItem { item: None });
    let counted = after(&[
        inv(false, wtx(36)),
        inv(false, wtx(35)),
        inv(true, wtx(36)),
        inv(false, mixed),
        inv(false, Vec::new()),
    ]);
    expect(
        &counted,
        &[
            ("p2p_invs_outbound_large", 1.0),
            ("p2p_invs_homogeneous{direction=\"outbound\"}", 2.0),
            ("p2p_invs_heterogeneous{direction=\"outbound\"}", 2.0),
            ("p2p_inv_entries{direction=\"outbound\",inv_type=\"WTx\"}", 106.0),
            ("p2p_inv_entries{direction=\"outbound\",inv_type=\"Tx\"}", 1.0),
            ("p2p_inv_entries{direction=\"outbound\",inv_type=\"None\"}", 1.0),
            ("p2p_inv_entries{direction=\"outbound\",inv_type=\"Block\"}", -1.0),
            ("p2p_inv_entries_histogram_bucket{direction=\"outbound\",le=\"0\"}", 1.0),
        ],
    );
}

fn version(addr: &str, inbound: bool, user_agent: &str) -> Delivery {
    let version = Version { user_agent: user_agent.into(), ..Default::default() };
    message(addr, inbound, "version", Msg::Version(version))
}

#[test]
fn user_agents_of_linking_lion_are_one_and_those_we_send_none() {
    let counted = after(&[
        version("192.0.2.1:1", true, "/Satoshi:29.0.0/"),
        version("192.0.2.1:1", false, "/Satoshi:30.0.0/"),
        version("31.58.215.9:1", true, "/made up:1/"),
        version("[2602:f5c0:1::9]:1", true, "/made up:2/"),
        version("192.0.2.1:1", true, "/pynode:0.0.1/"),
        version("192.0.2.1:1", false, "/pynode:0.0.1/"),
    ]);
    expect(
        &counted,
        &[
            ("p2p_version_useragent{useragent=\"/Satoshi:29.0.0/\"}", 1.0),
            ("p2p_version_useragent{useragent=\"LinkingLion\"}", 2.0),
            ("p2p_message_count_linkinglion{message=\"version\",direction=\"inbound\"}", 2.0),
            ("p2p_message_bytes_linkinglion{message=\"version\",direction=\"inbound\"}", 200.0),
            ("conn_private_transaction_broadcast", 1.0),
        ],
    );
    assert_eq!(sum(&counted, "peerobserver_p2p_version_useragent"), 4.0);
}

#[test]
fn what_only_inbound_messages_tell_is_counted_for_these_only() {
    let reject = |inbound, reason| {
        let reject = Reject { rejected_command: "tx".into(), reason, ..Default::default() };
        message("192.0.2.1:1", inbound, "reject", Msg::Reject(reject))
    };
    let counted = after(&[
        reject(true, 4),
        reject(true, 99),
        reject(true, -1),
        reject(false, 4),
        message("[2001:db8:1:2:3::4]:1", true, "ping", Msg::Oldping(true)),
        message("abc.onion:1", true, "ping", Msg::Oldping(true)),
        message("192.0.2.1:1", false, "ping", Msg::Oldping(true)),
        message("192.0.2.1:1", false, "feefilter", Msg::Feefilter(FeeFilter { fee: -1 })),
    ]);
    expect(
        &counted,
        &[
            ("p2p_reject_message{rejectcommand=\"tx\",rejectreason=\"NonStandard\"}", 1.0),
            ("p2p_reject_message{rejectcommand=\"tx\",rejectreason=\"unknown\"}", 2.0),
            ("p2p_oldping_subnet{subnet=\"2001:db8:1:2::\"}", 1.0),
            ("p2p_oldping_subnet{subnet=\"abc.onion\"}", 1.0),
            ("p2p_oldping_subnet{subnet=\"192.0.2.0\"}", -1.0),
            ("p2p_feefilter_feerate{feerate=\"-1\",direction=\"outbound\"}", 1.0),
        ],
    );
}

#[test]
fn a_clock_that_was_set_back_makes_no_connection_older() {
    let closed = |time_established| {
        connection(connection_event::Event::Closed(ClosedConnection {
            conn: conn("192.0.2.1:1", 1),
            time_established,
        }))
    };
    let counted = after(&[closed(NOW_S - 60), closed(NOW_S + 60), closed(u64::MAX)]);
    expect(&counted, &[("conn_closed", 3.0), ("conn_closed_age", 60.0)]);
}

#[test]
fn connections_and_blocks_add_up_and_the_last_one_is_what_is_now() {
    let outbound = |existing_connections| {
        let opened = OutboundConnection { conn: conn("192.0.2.1:8333", 1), existing_connections };
        connection(connection_event::Event::Outbound(opened))
    };
    let evicted = EvictedInboundConnection { conn: conn("192.0.2.1:1", 1), time_established: NOW_S };
    let evicted = connection(connection_event::Event::InboundEvicted(evicted));
    let block = |height, connection_time_ns| {
        let block = BlockConnected { height, connection_time: connection_time_ns, ..Default::default() };
        let event = Some(validation_event::Event::BlockConnected(block));
        ebpf(EbpfEvent::Validation(ValidationEvent { event }), NOW_S * 1000)
    };
    let counted = after(&[
        outbound(9),
        outbound(8),
        evicted.clone(),
        evicted,
        block(900_001, 2_000_999),
        block(900_000, 3_000_000),
    ]);
    expect(
        &counted,
        &[
            ("conn_outbound", 2.0),
            ("conn_outbound_current", 8.0),
            ("conn_evicted_inbound", 2.0),
            ("validation_block_connected_connection_time", 5000.0),
            ("validation_block_connected_latest_connection_time", 3000.0),
            ("validation_block_connected_latest_height", 900_000.0),
        ],
    );
}

#[test]
fn the_tool_says_when_it_was_started() {
    let now = || (now_ns() / 1_000_000_000) as f64;
    let before = now();
    let started = after(&[])["peerobserver_runtime_start_timestamp"];
    assert!((before..=now()).contains(&started), "{started}");
}

#[test]
fn connections_count_on_the_lists_that_their_address_is_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "192.0.2.1\n2001:db8::1\n").unwrap();
    let config = Config {
        ip_lists: ["gmax", "tor_exit"]
            .map(|name| format!("{name}={}", file.path().display()).parse().unwrap())
            .into(),
        ..Config::default()
    };
    let mut metrics = Metrics::new(&config).unwrap();
    for addr in ["192.0.2.1:8333", "[2001:db8::1]:8333", "192.0.2.2:8333", "143.20.137.9:1", "x.onion:1"] {
        metrics.observe(&connection(connection_event::Event::Inbound(InboundConnection {
            conn: conn(addr, 9),
            existing_connections: 11,
        })));
    }
    let counted = samples(&metrics.render(Format::Text));
    expect(
        &counted,
        &[
            ("conn_inbound", 5.0),
            ("conn_inbound_current", 11.0),
            ("conn_inbound_network{network=\"other\"}", 5.0),
            ("conn_inbound_banlist_gmax", 2.0),
            ("conn_inbound_tor_exit", 2.0),
            ("conn_inbound_banlist_monero", 0.0),
            ("conn_inbound_list_linkinglion", 1.0),
        ],
    );
}

#[test]
fn a_million_user_agents_take_bounded_memory_and_are_all_counted() {
    let mut metrics = metrics();
    let mut batch = Vec::new();
    for i in 0..1_000_000 {
        batch.push(version("192.0.2.1:1", true, &format!("/flood:{i}/")));
        if i % 100 == 0 {
            batch.push(version("192.0.2.1:1", true, "/Satoshi:29.0.0/"));
            metrics.observe_batch(&batch);
            batch.clear();
        }
    }
    metrics.observe_batch(&batch);
    let page = metrics.render(Format::Text);
    assert!(page.len() < 200_000, "a page of {} bytes", page.len());
    let counted = samples(&page);
    let name = "peerobserver_p2p_version_useragent";
    let series = counted.keys().filter(|series| series.starts_with(name)).count();
    assert!(series <= 502, "{series} series");
    assert_eq!(sum(&counted, name), 1_010_000.0);
    let honest = counted[&format!("{name}{{useragent=\"/Satoshi:29.0.0/\"}}")];
    assert!(honest > 9_900.0, "the frequent one has its series: {honest}");
    let folded = counted[&format!("peerobserver_observer_label_values_folded{{metric=\"{name}\"}}")];
    assert_eq!(folded, counted[&format!("{name}{{useragent=\"other\"}}")]);
}

#[test]
fn known_messages_keep_their_series_in_a_flood_of_unknown_ones() {
    let config = Config { max_label_values: 10, ..Config::default() };
    let mut metrics = Metrics::new(&config).unwrap();
    for i in 0..1000 {
        for _ in 0..3 {
            let command = format!("x{i}");
            metrics.observe(&message("192.0.2.1:1", true, &command, Msg::Oldping(true)));
        }
    }
    metrics.observe(&message("192.0.2.1:1", true, "getcfcheckpt", Msg::Verack(true)));
    let counted = samples(&metrics.render(Format::Text));
    let labels = "connection_type=\"1\",direction=\"inbound\"";
    expect(&counted, &[(&format!("p2p_message_count{{message=\"getcfcheckpt\",{labels}}}"), 1.0)]);
    assert_eq!(sum(&counted, "peerobserver_p2p_message_count"), 3001.0);
    assert_eq!(sum(&counted, "peerobserver_p2p_message_bytes"), 300_100.0);
}

#[test]
fn extreme_events_are_counted_and_break_nothing() {
    let mut metrics = metrics();
    let origin = Origin {
        node: "n\n\"\\".repeat(500),
        extractor: -5,
        session: 0,
        sequence: 0,
        time_ns: u64::MAX,
        ..Origin::default()
    };
    let hash = Default::default;
    let mempool = |event| EbpfEvent::Mempool(MempoolEvent { event });
    let added =
        |vsize| mempool(Some(mempool_event::Event::Added(Added { txid: hash(), vsize, fee: i64::MIN })));
    let mut events = vec![
        added(i32::MIN),
        added(7),
        mempool(Some(mempool_event::Event::Replaced(Replaced { replaced_vsize: -1, ..Default::default() }))),
        mempool(Some(mempool_event::Event::Removed(Removed {
            reason: "\u{0}".into(),
            ..Default::default()
        }))),
        mempool(Some(mempool_event::Event::Rejected(Rejected { txid: hash(), reason: "é".repeat(9999) }))),
        mempool(None),
        EbpfEvent::Connection(ConnectionEvent { event: None }),
        EbpfEvent::Connection(ConnectionEvent {
            event: Some(connection_event::Event::Misbehaving(MisbehavingConnection {
                id: u64::MAX,
                message: "\u{1f}\n".repeat(9999),
            })),
        }),
        EbpfEvent::Validation(Default::default()),
    ];
    let meta = Metadata { conn_type: i32::MIN, size: u64::MAX, addr: ":::[]]".into(), ..Default::default() };
    for _ in 0..2 {
        let meta = meta.clone();
        let addresses = vec![entry(u64::MAX, u64::MAX, None)];
        let msg = Some(Msg::Addr(Addr { addresses }));
        events.push(EbpfEvent::Message(MessageEvent {
            meta,
            msg,
            decode_error: Some("x".into()),
            captured: None,
        }));
    }
    for timestamp in [0, u64::MAX] {
        for event in &events {
            let mut delivery = ebpf(event.clone(), timestamp);
            Arc::get_mut(&mut delivery.event).unwrap().origin = Some(origin.clone());
            metrics.observe(&delivery);
        }
    }
    let empty = Event { timestamp: 0, origin: None, peer_observer_event: None };
    metrics.observe(&Delivery { subject: Subject::Rpc, event: Arc::new(empty) });

    let counted = samples(&metrics.render(Format::Text));
    assert!(counted.keys().all(|series| series.len() < 1200));
    expect(
        &counted,
        &[
            ("mempool_added_vbytes", 14.0),
            ("mempool_replaced_vbytes", 0.0),
            (
                "p2p_message_bytes{message=\"\",connection_type=\"other\",direction=\"outbound\"}",
                4.0 * MAX_AMOUNT as f64,
            ),
            ("pipeline_decode_errors{message=\"\"}", 4.0),
        ],
    );
}

#[test]
fn losses_are_counted_by_where_and_why_and_whose() {
    let loss = |stage: i32, cause: &str, count| {
        let component = "archive".into();
        delivery(
            PeerObserverEvent::Loss(Loss {
                stage,
                cause: cause.into(),
                count,
                component,
                ..Default::default()
            }),
            0,
        )
    };
    let counted = after(&[
        loss(Stage::Subscriber as i32, "full", 5),
        loss(Stage::Subscriber as i32, "full", 6),
        loss(Stage::Transport as i32, "gap", 1),
        loss(77, "gap", 2),
    ]);
    expect(
        &counted,
        &[
            ("pipeline_lost{cause=\"full\",component=\"archive\",stage=\"subscriber\"}", 11.0),
            ("pipeline_lost{cause=\"gap\",component=\"archive\",stage=\"transport\"}", 1.0),
            ("pipeline_lost{cause=\"gap\",component=\"archive\",stage=\"other\"}", 2.0),
            ("pipeline_events{node=\"node\",extractor=\"unspecified\",subject=\"observer.loss\"}", 4.0),
        ],
    );
}

#[test]
fn latency_is_from_the_probe_to_here() {
    let mut metrics = metrics();
    let mut delivery = version("192.0.2.1:1", true, "x");
    let origin = Origin {
        node: "alice".into(),
        extractor: Source::Ebpf as i32,
        session: 1,
        sequence: 1,
        time_ns: 1_000_000_000,
        ..Origin::default()
    };
    Arc::get_mut(&mut delivery.event).unwrap().origin = Some(origin);
    metrics.observe_at(&delivery, 1_000_300_000);
    metrics.observe_at(&delivery, 999_000_000);
    let counted = samples(&metrics.render(Format::Text));
    expect(
        &counted,
        &[
            ("pipeline_latency_seconds_bucket{extractor=\"ebpf\",le=\"0.0001\"}", 1.0),
            ("pipeline_latency_seconds_bucket{extractor=\"ebpf\",le=\"0.0005\"}", 2.0),
            ("pipeline_latency_seconds_sum{extractor=\"ebpf\"}", 0.0003),
            ("pipeline_events{node=\"alice\",extractor=\"ebpf\",subject=\"netmsg\"}", 2.0),
            ("pipeline_events_without_origin", 0.0),
        ],
    );
}

#[test]
fn books_of_processes_and_sessions_add_up() {
    let mut metrics = metrics();
    let mut books = |session, pid, hits, published| {
        let tracepoint = "net:inbound_message".into();
        let book = TracepointBook { tracepoint, hits, dropped: hits - published, unread: 1, published };
        let mut delivery = delivery(PeerObserverEvent::Books(Books { pid, tracepoints: vec![book] }), 0);
        let origin = Origin {
            node: "alice".into(),
            extractor: 1,
            session,
            sequence: 1,
            time_ns: 1,
            ..Origin::default()
        };
        Arc::get_mut(&mut delivery.event).unwrap().origin = Some(origin);
        metrics.observe(&delivery);
    };
    books(1, 10, 100, 90);
    books(1, 10, 150, 140);
    books(1, 10, 150, 140);
    // The node was restarted, then the extractor.
    books(1, 11, 5, 5);
    books(2, 11, 7, 6);
    let counted = samples(&metrics.render(Format::Text));
    let labels = "{node=\"alice\",tracepoint=\"net:inbound_message\"}";
    expect(
        &counted,
        &[
            (&format!("pipeline_hits{labels}"), 162.0),
            (&format!("pipeline_hits_published{labels}"), 151.0),
            (&format!("pipeline_hits_dropped{labels}"), 11.0),
            (&format!("pipeline_hits_unread{labels}"), 3.0),
        ],
    );
}

#[test]
fn hostile_books_take_bounded_memory_and_count_as_they_say() {
    let mut metrics = metrics();
    for pid in 0..20_000 {
        let tracepoint = "x".repeat(10_000);
        let book = TracepointBook { tracepoint, hits: 1, dropped: u64::MAX, unread: 0, published: 0 };
        metrics.observe(&delivery(PeerObserverEvent::Books(Books { pid, tracepoints: vec![book] }), 0));
    }
    let counted = samples(&metrics.render(Format::Text));
    assert_eq!(sum(&counted, "peerobserver_pipeline_hits"), 20_000.0);
    assert_eq!(sum(&counted, "peerobserver_pipeline_hits_dropped"), 20_000.0 * MAX_AMOUNT as f64);
    assert_eq!(counted["peerobserver_pipeline_numbers_capped"], 20_000.0);
}

/// What one hostile event of each kind with numbers does: no counter stays at its limit, and the
/// next event still counts.
#[test]
fn no_event_saturates_a_counter() {
    let mut ping = message("192.0.2.1:1", true, "ping", Msg::Ping(Ping { value: 1 }));
    let event = Arc::get_mut(&mut ping.event).unwrap();
    if let Some(PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })) =
        &mut event.peer_observer_event
    {
        message.meta.size = u64::MAX;
    }
    let closed = ClosedConnection { conn: conn("192.0.2.1:1", 1), time_established: 0 };
    let mut closed = connection(connection_event::Event::Closed(closed));
    Arc::get_mut(&mut closed.event).unwrap().timestamp = u64::MAX;
    let block = BlockConnected { connection_time: u64::MAX, ..BlockConnected::default() };
    let block = ValidationEvent { event: Some(validation_event::Event::BlockConnected(block)) };
    let added = Added { vsize: i32::MAX, ..Added::default() };
    let added = MempoolEvent { event: Some(mempool_event::Event::Added(added)) };
    let mut addr = message(
        "192.0.2.1:1",
        true,
        "addr",
        Msg::Addr(Addr { addresses: vec![Address { timestamp: 0, ..Address::default() }] }),
    );
    Arc::get_mut(&mut addr.event).unwrap().timestamp = u64::MAX;
    let loss =
        Loss { stage: Stage::Publish as i32, cause: "full".into(), count: u64::MAX, ..Loss::default() };
    let book = TracepointBook { tracepoint: "t".into(), hits: u64::MAX, ..TracepointBook::default() };
    let hostile = [
        ping,
        closed,
        ebpf(EbpfEvent::Validation(block), 0),
        ebpf(EbpfEvent::Mempool(added), 0),
        addr,
        delivery(PeerObserverEvent::Loss(loss), 0),
        delivery(PeerObserverEvent::Books(Books { pid: 1, tracepoints: vec![book] }), 0),
    ];
    let mut metrics = metrics();
    metrics.observe_batch(&hostile);
    let page = metrics.render(Format::Text);
    let counted = samples(&page);
    for (series, value) in &counted {
        let name = series.split('{').next().unwrap_or_default();
        let is_gauge = page.contains(&format!("# TYPE {name} gauge\n"));
        assert!(*value <= MAX_OBSERVED as f64 || is_gauge, "{series} is {value}");
    }
    assert!(counted["peerobserver_pipeline_numbers_capped"] >= 5.0, "{counted:?}");
}

#[test]
fn latency_leaves_out_old_and_future_events() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut metrics = metrics();
    let now_ns = 10 * HOUR_NS;
    for time_ns in [0, now_ns - HOUR_NS - 1, now_ns - HOUR_NS, now_ns + 1, now_ns + HOUR_NS, u64::MAX] {
        let mut delivery = version("192.0.2.1:1", true, "x");
        let origin = Origin { node: "alice".into(), extractor: 1, time_ns, ..Origin::default() };
        Arc::get_mut(&mut delivery.event).unwrap().origin = Some(origin);
        metrics.observe_at(&delivery, now_ns);
    }
    let counted = samples(&metrics.render(Format::Text));
    expect(
        &counted,
        &[
            ("pipeline_latency_seconds_count{extractor=\"ebpf\"}", 2.0),
            ("pipeline_latency_seconds_sum{extractor=\"ebpf\"}", 3600.0),
        ],
    );
}

#[test]
fn settings_without_flags_are_those_without_a_file() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }
    let from_flags = <Cli as clap::Parser>::parse_from(["metrics"]).config;
    assert_eq!(from_flags, Config::default());
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    let flags = ["metrics", "-m", "[::1]:1", "--ip-list", "gmax=/a", "--ip-list", "monero=/b"];
    let config = <Cli as clap::Parser>::parse_from(flags).config;
    assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    assert!(serde_json::from_str::<Config>("{\"port\": 1}").is_err());
}
