//! The text form of events: what users of the public tool parse, and that nobody can break a line.

use std::collections::BTreeMap;

use peer_observer_events::proto::bitcoin_primitives::{
    Address, BlockHeader, InventoryItem, Transaction, UnknownAddress, UnknownItem, address, inventory_item,
};
use peer_observer_events::proto::ebpf_extractor::connection::{self, connection_event};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{self, MessageEvent, Metadata};
use peer_observer_events::proto::ebpf_extractor::{Ebpf, mempool, validation};
use peer_observer_events::proto::log_extractor::{self, Log, LogDebugCategory, LogLevel};
use peer_observer_events::proto::observer::log::{LogDetail, NodeStarted, log_detail};
use peer_observer_events::proto::observer::{self, Incident, Loss, incident, loss};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::{ipc_extractor, p2p_extractor, rpc_extractor};
use peer_observer_events::{Event, PeerObserverEvent};

mod samples;

/// Bytes 0 to 31, and the same in display order.
const HASH: [u8; 32] = {
    let mut hash = [0; 32];
    let mut i = 0;
    while i < 32 {
        hash[i] = i as u8;
        i += 1;
    }
    hash
};
const SHOWN: &str = "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

fn hash() -> bytes::Bytes {
    bytes::Bytes::from_static(&HASH)
}

fn text(event: PeerObserverEvent) -> String {
    Event { timestamp: 1, peer_observer_event: Some(event), origin: None }.to_string()
}

fn ebpf(event: EbpfEvent) -> String {
    text(PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) }))
}

fn metadata(inbound: bool) -> Metadata {
    Metadata { peer_id: 11937171, conn_type: 1, inbound, size: 5, ..Metadata::default() }
}

fn message(msg: Msg) -> String {
    let meta = metadata(true);
    ebpf(EbpfEvent::Message(MessageEvent { meta, msg: Some(msg), ..MessageEvent::default() }))
}

fn connection(event: connection_event::Event) -> String {
    ebpf(EbpfEvent::Connection(connection::ConnectionEvent { event: Some(event) }))
}

fn mempool(event: mempool::mempool_event::Event) -> String {
    ebpf(EbpfEvent::Mempool(mempool::MempoolEvent { event: Some(event) }))
}

fn rpc(event: RpcEvent) -> String {
    text(PeerObserverEvent::RpcExtractor(rpc_extractor::Rpc { rpc_event: Some(event) }))
}

fn conn() -> connection::Connection {
    connection::Connection { peer_id: 7, addr: "[::1]:8333".into(), conn_type: 1, network: 2 }
}

fn address(address: address::Address) -> Address {
    Address { timestamp: 9, address: Some(address), services: 3081, port: 8333 }
}

#[test]
fn what_was_sent_points_out_and_what_was_received_points_in() {
    for (inbound, line) in [
        (false, "--> to id=11937171 (conn_type=1): verack"),
        (true, "<-- from id=11937171 (conn_type=1): verack"),
    ] {
        let message =
            MessageEvent { meta: metadata(inbound), msg: Some(Msg::Verack(true)), ..MessageEvent::default() };
        assert_eq!(ebpf(EbpfEvent::Message(message)), line);
    }
}

#[test]
fn messages_read_as_in_the_public_tool() {
    let inventory = |item| InventoryItem { item: Some(item) };
    let header = || BlockHeader {
        version: 4,
        prev_blockhash: hash(),
        merkle_root: hash(),
        time: 1,
        bits: 2,
        nonce: 3,
        hash: hash(),
    };
    let transaction = || Transaction { txid: hash(), wtxid: hash(), raw: Some(hash()) };
    let shown_header = format!(
        "BlockHeader(hash={SHOWN}, version=4, prev_blockhash={SHOWN}, merkle_root={SHOWN}, time=1, bits=2, nonce=3)"
    );
    let shown_transaction = format!("Transaction(txid={SHOWN}, wtxid={SHOWN})");
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    use inventory_item::Item;
    let cases: Vec<(Msg, String)> = vec![
        (Msg::Ping(message::Ping { value: u64::MAX }), "Ping(18446744073709551615)".into()),
        (Msg::Pong(message::Pong { value: 1 }), "Pong(1)".into()),
        (Msg::Oldping(true), "old_ping".into()),
        (Msg::Emptyaddrv2(true), "empty_addrv2".into()),
        (Msg::Sendheaders(true), "sendHeaders".into()),
        (Msg::Feefilter(message::FeeFilter { fee: 1000 }), "FeeFilter(1000)".into()),
        (
            Msg::Inv(message::Inv {
                items: vec![inventory(Item::Wtx(hash())), inventory(Item::Transaction(hash()))],
            }),
            format!("Inv([WTx({SHOWN}), Tx({SHOWN})])"),
        ),
        (
            Msg::Getdata(message::GetData {
                items: vec![
                    inventory(Item::WitnessTransaction(hash())),
                    inventory(Item::WitnessBlock(hash())),
                    inventory(Item::Unknown(UnknownItem { inv_type: 9, hash: hash() })),
                    inventory(Item::Error(true)),
                ],
            }),
            format!(
                "GetData([WitnessTx({SHOWN}), WitnessBlock({SHOWN}), Unknown(type=9, hash={hex}), Error])"
            ),
        ),
        (Msg::Notfound(message::NotFound::default()), "NotFound([])".into()),
        (
            Msg::Addrv2(message::AddrV2 {
                addresses: vec![
                    address(address::Address::Ipv4("1.2.3.4".into())),
                    address(address::Address::I2p("x.b32.i2p".into())),
                    address(address::Address::Unknown(UnknownAddress {
                        id: 9,
                        address: bytes::Bytes::from_static(&[10, 11]),
                    })),
                ],
            }),
            "AddrV2([Address(timestamp=9, address=IPv4(1.2.3.4), port=8333, services=3081), \
             Address(timestamp=9, address=I2p(x.b32.i2p), port=8333, services=3081), \
             Address(timestamp=9, address=Unknown(id=9, bytes=0a0b), port=8333, services=3081)])"
                .into(),
        ),
        (
            Msg::Getheaders(message::GetHeaders {
                version: 70016,
                locator_hashes: vec![hash(), hash()],
                stop_hash: hash(),
            }),
            format!("GetHeaders(version=70016, locator_hashes=[{SHOWN}, {SHOWN}], stop_hash={SHOWN})"),
        ),
        (
            Msg::Version(message::Version {
                version: 70016,
                services: 3081,
                timestamp: -5,
                receiver: address(address::Address::Ipv4("1.2.3.4".into())),
                sender: Address { address: None, ..address(address::Address::Ipv4(String::new())) },
                nonce: 8,
                user_agent: "/bitcoinj:0.14.5/".into(),
                start_height: -1,
                relay: true,
            }),
            "Version(version=70016, services=3081, timestamp=-5, receiver=Address(timestamp=9, \
             address=IPv4(1.2.3.4), port=8333, services=3081), sender=Address(timestamp=9, address=None, \
             port=8333, services=3081), nonce=8, user_agent=/bitcoinj:0.14.5/, start_height=-1, relay=true)"
                .into(),
        ),
        (Msg::Headers(message::Headers { headers: vec![header()] }), format!("Headers([{shown_header}])")),
        (Msg::Tx(message::Tx { tx: transaction() }), format!("Tx({shown_transaction})")),
        (
            Msg::Block(message::Block { header: header(), transactions: vec![transaction(), transaction()] }),
            format!("Block(header={shown_header}, transactions={shown_transaction}, {shown_transaction})"),
        ),
        (
            Msg::Compactblock(message::CompactBlock {
                header: header(),
                nonce: 6,
                short_ids: vec![bytes::Bytes::from_static(&[1, 2, 3, 4, 5, 0xff])],
                transactions: vec![],
            }),
            format!(
                "CmpctBlock(header={shown_header}, nonce=6, short_ids=[0102030405ff], prefilled_transactions=[])"
            ),
        ),
        (
            Msg::Sendcompact(message::SendCompact { send_compact: false, version: 2 }),
            "SendCompact(send_compact=false, version=2)".into(),
        ),
        (
            Msg::Getblocktxn(message::GetBlockTxn { block_hash: hash(), tx_indexes: vec![1, 3] }),
            format!("GetBlockTxn(hash={SHOWN}, tx_indexes=1, 3)"),
        ),
        (
            Msg::Reject(message::Reject {
                rejected_command: "tx".into(),
                reason: 5,
                reason_details: "dust".into(),
                hash: hash(),
            }),
            format!("Reject(command=tx, reason=5, details=dust, hash={SHOWN})"),
        ),
        (
            Msg::Cfheaders(message::CfHeaders {
                filter_type: 0,
                stop_hash: hash(),
                previous_filter_header: hash(),
                filter_hashes: vec![hash()],
            }),
            format!(
                "CFHeaders(filter_type=0, stop_hash={SHOWN}, prev_filter_header={SHOWN}, filter_hashes=[{SHOWN}])"
            ),
        ),
        (
            Msg::Merkleblock(message::MerkleBlock {
                header: header(),
                num_transactions: 1,
                bits: vec![true, false],
                hashes: vec![hash()],
            }),
            format!(
                "MerkleBlock(header={shown_header}, num_transactions=1, bits=[true,false], hashes=[{SHOWN}])"
            ),
        ),
        (
            Msg::Unknown(message::Unknown { command: "hello".into(), payload: hash() }),
            format!("Unknown(command=hello, payload={hex})"),
        ),
    ];
    for (msg, expected) in cases {
        assert_eq!(message(msg), format!("<-- from id=11937171 (conn_type=1): {expected}"));
    }
}

#[test]
fn what_was_not_decoded_or_not_captured_is_said_at_the_end() {
    let unknown = message::Unknown { command: "inv".into(), payload: bytes::Bytes::from_static(&[1]) };
    let event = MessageEvent {
        meta: metadata(true),
        decode_error: Some("ends in item 1\nof 2".into()),
        captured: Some(1),
        msg: Some(Msg::Unknown(unknown)),
    };
    assert_eq!(
        ebpf(EbpfEvent::Message(event)),
        "<-- from id=11937171 (conn_type=1): Unknown(command=inv, payload=01) \
         [decode error: ends in item 1\\nof 2] [captured 1 of 5 bytes]"
    );
}

#[test]
fn other_events_begin_with_a_word() {
    use connection_event::Event as Conn;
    use mempool::mempool_event::Event as Mempool;
    let shown_conn = "Connection(id=7, addr=[::1]:8333, conn_type=1, network=2)";
    let cases: Vec<(String, String)> = vec![
        (
            connection(Conn::InboundEvicted(connection::EvictedInboundConnection {
                conn: conn(),
                time_established: 1750942328,
            })),
            format!("# CONN EvictedInboundConnection(conn={shown_conn}, time_established=1750942328)"),
        ),
        (
            connection(Conn::Inbound(connection::InboundConnection { conn: conn(), existing_connections: 115 })),
            format!("# CONN InboundConnection(conn={shown_conn}, existing_connections=115)"),
        ),
        (
            connection(Conn::Misbehaving(connection::MisbehavingConnection {
                id: 7,
                message: "mutated block".into(),
            })),
            "# CONN MisbehavingConnection(id=7, message=mutated block)".into(),
        ),
        (
            mempool(Mempool::Added(mempool::Added { txid: hash(), vsize: 141, fee: 1410 })),
            format!("# MEMPOOL Added({SHOWN}, fee=1410, vsize=141)"),
        ),
        (
            mempool(Mempool::Replaced(mempool::Replaced {
                replaced_txid: hash(),
                replaced_vsize: 1,
                replaced_fee: 2,
                replaced_entry_time: 3,
                replacement_id: hash(),
                replacement_vsize: 4,
                replacement_fee: 5,
                replaced_by_transaction: false,
            })),
            format!(
                "# MEMPOOL Replaced(old=(txid={SHOWN}, vsize=1, fee=2, entry_time=3) \
                 new=(package_hash={SHOWN}, vsize=4, fee=5))"
            ),
        ),
        (
            ebpf(EbpfEvent::Validation(validation::ValidationEvent {
                event: Some(validation::validation_event::Event::BlockConnected(validation::BlockConnected {
                    hash: hash(),
                    height: 1,
                    transactions: 2,
                    inputs: 3,
                    sigops: 4,
                    connection_time: 5,
                })),
            })),
            format!(
                "# VALIDATION BlockConnected(hash={SHOWN}, height=1, transactions=2, inputs=3, sigops=4, time=5ns)"
            ),
        ),
        (rpc(RpcEvent::Uptime(77)), "# RPC Uptime(77s)".into()),
        (
            rpc(RpcEvent::MempoolInfo(rpc_extractor::MempoolInfo {
                size: 82,
                bytes: 11562,
                usage: 102544,
                ..Default::default()
            })),
            "# RPC MempoolInfo(size=82txn, bytes=11562vB, usage=102544b)".into(),
        ),
        (
            rpc(RpcEvent::AddrmanInfo(rpc_extractor::AddrManInfo {
                networks: [("ipv4", 27), ("onion", 3), ("all_networks", 30)]
                    .map(|(name, total)| (name.to_owned(), rpc_extractor::AddrManInfoNetwork { new: 0, tried: 0, total }))
                    .into(),
            })),
            "# RPC AddrManInfo(total=30)".into(),
        ),
        (
            rpc(RpcEvent::EstimateSmartFee(rpc_extractor::EstimateSmartFee {
                fee_rate: None,
                blocks: 2,
                requested_blocks: 1,
                mode: 2,
                errors: vec!["Insufficient data".into()],
            })),
            "# RPC EstimateSmartFee(blocks=2, requested_blocks=1, mode=CONSERVATIVE, errors=[Insufficient data])"
                .into(),
        ),
        (
            text(PeerObserverEvent::P2pExtractor(p2p_extractor::P2p {
                p2p_event: Some(p2p_extractor::p2p::P2pEvent::PingDuration(p2p_extractor::PingDuration {
                    duration: 12,
                })),
            })),
            "# P2P PingDuration(12ns)".into(),
        ),
        (
            text(PeerObserverEvent::IpcExtractor(ipc_extractor::Ipc {
                ipc_event: Some(ipc_extractor::ipc::IpcEvent::BlockTip(ipc_extractor::BlockTip {
                    height: 5,
                    hash: hash(),
                })),
            })),
            format!("# IPC BlockTip(height=5, hash={SHOWN})"),
        ),
        (
            text(PeerObserverEvent::LogExtractor(Log {
                log_timestamp: 1758937921000000,
                category: LogDebugCategory::Validation.into(),
                log_level: LogLevel::Debug.into(),
                log_event: Some(log_extractor::log::LogEvent::BlockConnectedLog(log_extractor::BlockConnectedLog {
                    block_hash: "00ab".into(),
                    block_height: 437,
                })),
                ..Log::default()
            })),
            "# LOG 1758937921000000 [validation] BlockConnected(hash=00ab, height=437)".into(),
        ),
        (
            text(PeerObserverEvent::LogExtractor(Log {
                log_level: LogLevel::Warning.into(),
                log_event: Some(log_extractor::log::LogEvent::UnknownLogMessage(log_extractor::UnknownLogMessage {
                    raw_message: "Bitcoin Core version v30.0.0".into(),
                })),
                detail: Some(LogDetail {
                    kind: Some(log_detail::Kind::NodeStarted(NodeStarted { version: "v30.0.0".into() })),
                }),
                ..Log::default()
            })),
            "# LOG 0 [unknown:warning] UnknownLogMessage(Bitcoin Core version v30.0.0) NodeStarted(version=v30.0.0)"
                .into(),
        ),
        (
            text(PeerObserverEvent::Loss(Loss {
                stage: loss::Stage::RingBuffer.into(),
                cause: "full".into(),
                count: 12,
                tracepoint: Some("net:inbound_message".into()),
                component: "ebpf".into(),
                ..Loss::default()
            })),
            "# LOSS Loss(component=ebpf, stage=RING_BUFFER, cause=full, count=12, tracepoint=net:inbound_message)"
                .into(),
        ),
        (
            text(PeerObserverEvent::Incident(Incident {
                detector: "addr-flood".into(),
                id: "1".into(),
                state: incident::State::Opened.into(),
                severity: 9,
                summary: "many".into(),
                ..Incident::default()
            })),
            "# INCIDENT Incident(detector=addr-flood, id=1, state=OPENED, severity=9, evidence=[], summary=many)"
                .into(),
        ),
        (
            text(PeerObserverEvent::Utxocache(observer::UtxoCache {
                event: Some(observer::utxo_cache::Event::Flush(observer::UtxoCacheFlush {
                    duration_us: 1,
                    mode: 3,
                    coins: 4,
                    bytes: 5,
                    for_prune: false,
                })),
            })),
            "# UTXOCACHE Flush(duration=1us, mode=3, coins=4, bytes=5B, for_prune=false)".into(),
        ),
        (
            text(PeerObserverEvent::RpcExtra(observer::RpcExtra {
                rpc_event: Some(observer::rpc_extra::RpcEvent::Banned(observer::Banned { subnets: vec![] })),
            })),
            "# RPC Banned([])".into(),
        ),
        (
            text(PeerObserverEvent::P2pExtra(observer::P2pExtra {
                p2p_event: Some(observer::p2p_extra::P2pEvent::BlockAnnounced(observer::BlockAnnounced {
                    hash: bytes::Bytes::from_static(&[0, 1, 0xfe]),
                    via: observer::block_announced::Via::Cmpctblock.into(),
                })),
            })),
            "# P2P BlockAnnounced(hash=fe0100, via=CMPCTBLOCK)".into(),
        ),
        (
            text(PeerObserverEvent::P2pExtra(observer::P2pExtra {
                p2p_event: Some(observer::p2p_extra::P2pEvent::PeerInfo(observer::PeerInfo {
                    version: 70016,
                    services: 9,
                    user_agent: "/Satoshi:30.0.0/".into(),
                    start_height: 5,
                    transport: observer::peer_info::Transport::V2.into(),
                })),
            })),
            "# P2P PeerInfo(version=70016, services=9, user_agent=/Satoshi:30.0.0/, start_height=5, transport=V2)"
                .into(),
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(line, expected);
    }
}

#[test]
fn every_event_of_the_schema_is_one_line_whatever_strings_it_carries() {
    let events = samples::every_kind();
    let mut words: BTreeMap<String, u32> = BTreeMap::new();
    for event in &events {
        let line = event.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains(['\u{202e}', '\u{2028}']), "{line:?}");
        assert!(!line.contains("None"), "an empty oneof, so the sample is wrong: {line}");
        let word = line.split(['(', ' ']).nth(if line.starts_with('#') { 1 } else { 0 });
        *words.entry(word.unwrap_or_default().to_owned()).or_default() += 1;
    }
    let kinds: Vec<&str> = words.keys().map(String::as_str).collect();
    let expected =
        "<-- ADDRMAN BOOKS CONN INCIDENT IPC LOG LOSS MEMPOOL P2P RPC STREAMS UTXOCACHE VALIDATION";
    assert_eq!(kinds.join(" "), expected);
    // Address has a oneof too, so that version messages come once for each network.
    const MESSAGES: u32 = 39;
    const NETWORKS: u32 = 7;
    assert_eq!(words["<--"], MESSAGES - 1 + NETWORKS);
}

#[test]
fn events_that_are_empty_inside_print_too() {
    assert_eq!(Event::default().to_string(), "# EVENT None");
    let empty = Ebpf { ebpf_event: None };
    assert_eq!(text(PeerObserverEvent::EbpfExtractor(empty)), "# EBPF None");
    let line = message(Msg::Inv(message::Inv { items: vec![InventoryItem { item: None }] }));
    assert_eq!(line, "<-- from id=11937171 (conn_type=1): Inv([None])");
}

#[test]
fn every_recorded_event_prints_with_the_word_of_its_subject() {
    let events = samples::recorded();
    assert_eq!(events.len(), 1646);
    for (subject, event) in events {
        let line = event.to_string();
        let expected: &[&str] = match subject.as_str() {
            "netmsg" => &["<-- from id=", "--> to id="],
            "netconn" => &["# CONN "],
            "mempool" => &["# MEMPOOL "],
            "validation" => &["# VALIDATION BlockConnected("],
            other => panic!("subject {other} is not in the recording's description"),
        };
        assert!(expected.iter().any(|start| line.starts_with(start)), "{subject}: {line}");
    }
}
