//! The JSON forms of events: what pages of the public websocket tool read, and our own line.

use peer_observer_events::json::{to_json, to_json_line, write_json};
use peer_observer_events::proto::bitcoin_primitives::{
    Address, InventoryItem, Transaction, address, inventory_item,
};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{self, MessageEvent, Metadata};
use peer_observer_events::proto::ebpf_extractor::{Ebpf, addrman, connection, mempool, validation};
use peer_observer_events::proto::log_extractor::{self, Log, LogDebugCategory};
use peer_observer_events::proto::observer::{Loss, Origin, Source};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::{ipc_extractor, p2p_extractor, rpc_extractor};
use peer_observer_events::{Event, PeerObserverEvent};
use serde_json::Value;

mod samples;

fn event(event: PeerObserverEvent) -> Event {
    Event { timestamp: 1_700_000_000_123, peer_observer_event: Some(event), origin: None }
}

fn ebpf(ebpf: EbpfEvent) -> Event {
    event(PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(ebpf) }))
}

fn message(msg: Msg) -> Event {
    let meta =
        Metadata { peer_id: 1, addr: "a".into(), conn_type: 2, command: "c".into(), inbound: true, size: 3 };
    ebpf(EbpfEvent::Message(MessageEvent { meta, msg: Some(msg), ..MessageEvent::default() }))
}

fn connection(connection: connection::connection_event::Event) -> Event {
    ebpf(EbpfEvent::Connection(connection::ConnectionEvent { event: Some(connection) }))
}

fn rpc(rpc: RpcEvent) -> Event {
    event(PeerObserverEvent::RpcExtractor(rpc_extractor::Rpc { rpc_event: Some(rpc) }))
}

const META: &str = r#"{"peer_id":1,"addr":"a","conn_type":2,"command":"c","inbound":true,"size":3}"#;

#[test]
fn messages_have_the_public_form() {
    let txid = || bytes::Bytes::from_static(&[1, 255]);
    let ipv4 = address::Address::Ipv4("1.2.3.4".into());
    for (msg, expected) in [
        (Msg::Ping(message::Ping { value: u64::MAX }), r#"{"Ping":{"value":18446744073709551615}}"#),
        (Msg::Verack(true), r#"{"Verack":true}"#),
        (
            Msg::Inv(message::Inv {
                items: vec![InventoryItem { item: Some(inventory_item::Item::Wtx(txid())) }],
            }),
            r#"{"Inv":{"items":[{"item":{"Wtx":[1,255]}}]}}"#,
        ),
        (
            Msg::Addrv2(message::AddrV2 {
                addresses: vec![Address { timestamp: 4, services: 5, port: 6, address: Some(ipv4) }],
            }),
            r#"{"Addrv2":{"addresses":[{"timestamp":4,"services":5,"port":6,"address":{"Ipv4":"1.2.3.4"}}]}}"#,
        ),
        (
            Msg::Tx(message::Tx { tx: Transaction { txid: txid(), wtxid: txid(), raw: None } }),
            r#"{"Tx":{"tx":{"txid":[1,255],"wtxid":[1,255],"raw":null}}}"#,
        ),
        (
            Msg::Getcfcheckpt(message::GetCfCheckpt { filter_type: 0, stop_hash: txid() }),
            r#"{"Getcfcheckpt":{"filter_type":0,"stop_hash":[1,255]}}"#,
        ),
    ] {
        let expected = format!(
            r#"{{"EbpfExtractor":{{"ebpf_event":{{"Message":{{"meta":{META},"msg":{expected}}}}}}}}}"#
        );
        assert_eq!(to_json(&message(msg)), Some(expected));
    }
}

#[test]
fn other_events_have_the_public_form() {
    use connection::connection_event::Event as Conn;
    let conn = || connection::Connection { peer_id: 1, addr: "a".into(), conn_type: 2, network: 3 };
    let shown = r#"{"peer_id":1,"addr":"a","conn_type":2,"network":3}"#;
    let hash = || bytes::Bytes::from_static(&[9]);
    let closed = connection::ClosedConnection { conn: conn(), time_established: 8 };
    let evicted = connection::EvictedInboundConnection { conn: conn(), time_established: 8 };
    let inbound = connection::InboundConnection { conn: conn(), existing_connections: 7 };
    let outbound = connection::OutboundConnection { conn: conn(), existing_connections: 7 };
    let misbehaving = connection::MisbehavingConnection { id: 1, message: "m\"\n".into() };
    let cases: Vec<(Event, String)> = vec![
        (
            connection(Conn::Closed(closed)),
            format!(r#"{{"EbpfExtractor":{{"ebpf_event":{{"Connection":{{"event":{{"Closed":{{"conn":{shown},"time_established":8}}}}}}}}}}}}"#),
        ),
        (
            connection(Conn::InboundEvicted(evicted)),
            format!(r#"{{"EbpfExtractor":{{"ebpf_event":{{"Connection":{{"event":{{"InboundEvicted":{{"conn":{shown},"time_established":8}}}}}}}}}}}}"#),
        ),
        (
            connection(Conn::Inbound(inbound)),
            format!(r#"{{"EbpfExtractor":{{"ebpf_event":{{"Connection":{{"event":{{"Inbound":{{"conn":{shown},"existing_connections":7}}}}}}}}}}}}"#),
        ),
        (
            connection(Conn::Outbound(outbound)),
            format!(r#"{{"EbpfExtractor":{{"ebpf_event":{{"Connection":{{"event":{{"Outbound":{{"conn":{shown},"existing_connections":7}}}}}}}}}}}}"#),
        ),
        (
            connection(Conn::Misbehaving(misbehaving)),
            r#"{"EbpfExtractor":{"ebpf_event":{"Connection":{"event":{"Misbehaving":{"id":1,"message":"m\"\n"}}}}}}"#.into(),
        ),
        (
            ebpf(EbpfEvent::Mempool(mempool::MempoolEvent {
                event: Some(mempool::mempool_event::Event::Added(mempool::Added { txid: hash(), vsize: 2, fee: -3 })),
            })),
            r#"{"EbpfExtractor":{"ebpf_event":{"Mempool":{"event":{"Added":{"txid":[9],"vsize":2,"fee":-3}}}}}}"#.into(),
        ),
        (
            ebpf(EbpfEvent::Validation(validation::ValidationEvent {
                event: Some(validation::validation_event::Event::BlockConnected(validation::BlockConnected {
                    hash: hash(),
                    ..Default::default()
                })),
            })),
            r#"{"EbpfExtractor":{"ebpf_event":{"Validation":{"event":{"BlockConnected":{"hash":[9],"height":0,"transactions":0,"inputs":0,"sigops":0,"connection_time":0}}}}}}"#.into(),
        ),
        (
            ebpf(EbpfEvent::Addrman(addrman::AddrmanEvent {
                event: Some(addrman::addrman_event::Event::Tried(addrman::InsertTried::default())),
            })),
            r#"{"EbpfExtractor":{"ebpf_event":{"Addrman":{"event":{"Tried":{"bucket":0,"bucket_pos":0,"addr":"","addr_as":0,"source":"","source_as":0}}}}}}"#.into(),
        ),
        (
            rpc(RpcEvent::PeerInfos(rpc_extractor::PeerInfos { infos: vec![] })),
            r#"{"RpcExtractor":{"rpc_event":{"PeerInfos":{"infos":[]}}}}"#.into(),
        ),
        (rpc(RpcEvent::Uptime(77)), r#"{"RpcExtractor":{"rpc_event":{"Uptime":77}}}"#.into()),
        (
            rpc(RpcEvent::Addrman(rpc_extractor::Addrman {
                new: [(16, rpc_extractor::AddrmanBucket::default())].into(),
                tried: [].into(),
            })),
            r#"{"RpcExtractor":{"rpc_event":{"Addrman":{"new":{"16":{"entries":{}}},"tried":{}}}}}"#.into(),
        ),
        (
            rpc(RpcEvent::EstimateSmartFee(rpc_extractor::EstimateSmartFee { fee_rate: Some(1.5), mode: 1, ..Default::default() })),
            r#"{"RpcExtractor":{"rpc_event":{"EstimateSmartFee":{"fee_rate":1.5,"blocks":0,"requested_blocks":0,"mode":1,"errors":[]}}}}"#.into(),
        ),
        (
            event(PeerObserverEvent::P2pExtractor(p2p_extractor::P2p {
                p2p_event: Some(p2p_extractor::p2p::P2pEvent::PingDuration(p2p_extractor::PingDuration { duration: 12 })),
            })),
            r#"{"P2pExtractor":{"p2p_event":{"PingDuration":{"duration":12}}}}"#.into(),
        ),
        (
            event(PeerObserverEvent::IpcExtractor(ipc_extractor::Ipc {
                ipc_event: Some(ipc_extractor::ipc::IpcEvent::BlockTip(ipc_extractor::BlockTip { height: 5, hash: hash() })),
            })),
            r#"{"IpcExtractor":{"ipc_event":{"BlockTip":{"height":5,"hash":[9]}}}}"#.into(),
        ),
        (
            event(PeerObserverEvent::LogExtractor(Log {
                log_timestamp: 1,
                category: LogDebugCategory::Net.into(),
                threadname: "msghand".into(),
                log_level: 3,
                log_line_bytes: 40,
                log_event: Some(log_extractor::log::LogEvent::UnknownLogMessage(log_extractor::UnknownLogMessage {
                    raw_message: "x".into(),
                })),
                detail: None,
            })),
            r#"{"LogExtractor":{"log_timestamp":1,"category":14,"threadname":"msghand","log_level":3,"log_line_bytes":40,"log_event":{"UnknownLogMessage":{"raw_message":"x"}}}}"#.into(),
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(to_json(&event), Some(expected));
    }
}

#[test]
fn members_have_the_public_names() {
    let mut seen = std::collections::BTreeSet::new();
    for event in samples::every_kind() {
        let value: Value = serde_json::from_str(&to_json(&event).expect("an event")).expect("JSON");
        let (extractor, inner) = only_member(&value);
        // The kind is the only member of the only member, except in log events, which have more beside it.
        let kind = match extractor {
            "LogExtractor" => only_member(&inner["log_event"]).0,
            "Loss" | "Incident" | "Books" | "StreamPositions" => "",
            _ => only_member(only_member(inner).1).0,
        };
        seen.insert(format!("{extractor} {kind}"));
    }
    let expected: std::collections::BTreeSet<String> = [
        ("EbpfExtractor", "Message Connection Addrman Mempool Validation"),
        (
            "RpcExtractor",
            "PeerInfos MempoolInfo Uptime NetTotals MemoryInfo AddrmanInfo ChainTxStats NetworkInfo BlockchainInfo \
             OrphanTxs Addrman EstimateSmartFee",
        ),
        ("P2pExtractor", "PingDuration AddressAnnouncement InventoryAnnouncement FeefilterAnnouncement"),
        (
            "LogExtractor",
            "UnknownLogMessage BlockConnectedLog BlockCheckedLog SawNewHeaderLog CompactBlockReconstructedLog",
        ),
        ("IpcExtractor", "BlockTip"),
        ("Loss", ""),
        ("Incident", ""),
        ("Books", ""),
        ("StreamPositions", ""),
        ("Utxocache", "Flush"),
        ("RpcExtra", "ChainTips Banned AddrmanPart"),
        ("P2pExtra", "BlockAnnounced PeerInfo"),
    ]
    .iter()
    .flat_map(|(extractor, kinds)| kinds.split(' ').map(move |kind| format!("{extractor} {kind}")))
    .collect();
    assert_eq!(seen, expected);
}

fn only_member(value: &Value) -> (&str, &Value) {
    let object = value.as_object().expect("an object");
    assert_eq!(object.len(), 1, "{value}");
    let (name, value) = object.iter().next().expect("a member");
    (name, value)
}

#[test]
fn what_the_public_form_lacks_is_there_only_when_it_is_set() {
    let mut event = message(Msg::Verack(true));
    if let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &mut event.peer_observer_event
        && let Some(EbpfEvent::Message(message)) = &mut ebpf.ebpf_event
    {
        message.decode_error = Some("too long".into());
        message.captured = Some(2);
    }
    let expected = format!(
        r#"{{"EbpfExtractor":{{"ebpf_event":{{"Message":{{"meta":{META},"decode_error":"too long","captured":2,"msg":{{"Verack":true}}}}}}}}}}"#
    );
    assert_eq!(to_json(&event), Some(expected));
}

#[test]
fn an_empty_event_has_no_public_form() {
    assert_eq!(to_json(&Event::default()), None);
    let mut out = Vec::new();
    write_json(&Event::default(), &mut out).expect("memory");
    assert!(out.is_empty());
}

#[test]
fn recorded_events_are_written_as_they_are_printed_and_stay_on_one_line() {
    for (subject, event) in samples::recorded() {
        let json = to_json(&event).expect("an event");
        let mut written = Vec::new();
        write_json(&event, &mut written).expect("memory");
        assert_eq!(written, json.as_bytes());

        let line = to_json_line(&event);
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["subject"], subject);
        assert_eq!(value["time_ns"], event.timestamp * 1_000_000);
        assert!(line.ends_with(&format!(r#""event":{json}}}"#)));
    }
}

#[test]
fn a_line_says_where_the_event_comes_from() {
    let mut event = event(PeerObserverEvent::Loss(Loss { count: 1, ..Loss::default() }));
    event.origin = Some(Origin {
        node: "alice".into(),
        extractor: Source::Ebpf.into(),
        session: u64::MAX,
        sequence: 5,
        time_ns: 1_700_000_000_123_456_789,
        ..Origin::default()
    });
    let start = r#"{"time_ns":1700000000123456789,"node":"alice","extractor":"ebpf","session":18446744073709551615,"sequence":5,"subject":"observer.loss","event":{"Loss":{"#;
    let line = to_json_line(&event);
    assert!(line.starts_with(start), "{line}");

    assert_eq!(
        to_json_line(&Event { timestamp: u64::MAX, ..Event::default() }),
        r#"{"time_ns":18446744073709551615,"node":null,"extractor":null,"session":null,"sequence":null,"subject":null,"event":null}"#
    );
}
