//! Events of every kind that a metric counts and that the recordings have none of. They are the same in each round but for what has to
//! change from one to the next.

use std::net::SocketAddr;

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::address::Address as Net;
use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::bitcoin_primitives::{Address, ConnType, InventoryItem};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event as Conn;
use peer_observer_events::proto::ebpf_extractor::connection::{
    ClosedConnection, Connection, ConnectionEvent, EvictedInboundConnection, InboundConnection,
    MisbehavingConnection, OutboundConnection,
};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event as Mempool;
use peer_observer_events::proto::ebpf_extractor::mempool::{
    Added, MempoolEvent, Rejected, Removed, Replaced,
};
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{
    Addr, AddrV2, FeeFilter, Inv, MessageEvent, Metadata, Ping, Reject, Version,
};
use peer_observer_events::proto::ebpf_extractor::validation::validation_event::Event as Validation;
use peer_observer_events::proto::ebpf_extractor::validation::{BlockConnected, ValidationEvent};
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::ipc_extractor::{BlockTip, Ipc};
use peer_observer_events::proto::observer::{Books, Loss, Source, TracepointBook};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::proto::p2p_extractor::{
    AddressAnnouncement, InventoryAnnouncement, P2p, PingDuration,
};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    Addrman, AddrmanBucket, AddrmanEntry, EstimateSmartFee, FeeEstimateMode, PeerInfo, PeerInfos, Rpc,
};

/// A user agent that stands for Bitcoin Core's private broadcast.
const PRIVATE_BROADCAST: &str = "/pynode:0.0.1/";
/// An address of LinkingLion's.
const LINKING_LION: &str = "31.58.215.7:8333";

/// Who is said to publish what, in which round, at that time (s since the UNIX epoch).
pub fn events(round: u64, now_s: u64) -> Vec<(Source, PeerObserverEvent)> {
    let ebpf = connections(now_s)
        .into_iter()
        .map(|event| EbpfEvent::Connection(ConnectionEvent { event: Some(event) }));
    let ebpf = ebpf.chain(messages(now_s).into_iter().map(EbpfEvent::Message));
    let ebpf = ebpf
        .chain(mempool().into_iter().map(|event| EbpfEvent::Mempool(MempoolEvent { event: Some(event) })));
    let ebpf = ebpf.chain([block(round)]);
    let ebpf =
        ebpf.map(|event| (Source::Ebpf, PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) })));
    let p2p = relayed()
        .into_iter()
        .map(|event| (Source::P2p, PeerObserverEvent::P2pExtractor(P2p { p2p_event: Some(event) })));
    let rpc = answers(round, now_s)
        .into_iter()
        .map(|event| (Source::Rpc, PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) })));
    let tip = BlockTip { height: 200, hash: vec![0; 32].into() };
    let ipc = PeerObserverEvent::IpcExtractor(Ipc { ipc_event: Some(IpcEvent::BlockTip(tip)) });
    ebpf.chain(p2p).chain(rpc).chain([(Source::Ipc, ipc)]).chain(pipeline(round)).collect()
}

/// A peer, who comes through a Tor exit, tells of these addresses, and of one of an unknown network.
pub fn gossip(addresses: &[SocketAddr]) -> PeerObserverEvent {
    let address = |port, address| Address { timestamp: 1, services: 1, port, address };
    let known =
        addresses.iter().map(|addr| address(addr.port().into(), Some(Net::Ipv4(addr.ip().to_string()))));
    let addresses = known.chain([address(8333, None)]).collect();
    let meta = Metadata {
        peer_id: 1001,
        addr: "198.51.100.1:8333".into(),
        conn_type: ConnType::Inbound as i32,
        command: "addrv2".into(),
        inbound: true,
        size: 40,
    };
    let msg = Some(Msg::Addrv2(AddrV2 { addresses }));
    let message = MessageEvent { meta, msg, decode_error: None, captured: None };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })
}

fn connections(now_s: u64) -> Vec<Conn> {
    let conn = |peer_id, addr: &str, conn_type: ConnType| Connection {
        peer_id,
        addr: addr.into(),
        conn_type: conn_type as i32,
        network: 1,
    };
    let inbound = |id| conn(id, "198.51.100.1:8333", ConnType::Inbound);
    vec![
        Conn::Inbound(InboundConnection { conn: inbound(1001), existing_connections: 7 }),
        Conn::Inbound(InboundConnection {
            conn: conn(1002, LINKING_LION, ConnType::Inbound),
            existing_connections: 8,
        }),
        Conn::Outbound(OutboundConnection {
            conn: conn(1003, "198.51.100.2:8333", ConnType::OutboundFullRelay),
            existing_connections: 3,
        }),
        Conn::InboundEvicted(EvictedInboundConnection { conn: inbound(1001), time_established: now_s - 60 }),
        Conn::Closed(ClosedConnection { conn: inbound(1001), time_established: now_s - 60 }),
        Conn::Misbehaving(MisbehavingConnection { id: 1002, message: "tx data invalid".into() }),
    ]
}

fn messages(now_s: u64) -> Vec<MessageEvent> {
    let message = |inbound: bool, command: &str, msg| {
        let meta = Metadata {
            peer_id: 1002,
            addr: LINKING_LION.into(),
            conn_type: ConnType::Inbound as i32,
            command: command.into(),
            inbound,
            size: 61,
        };
        MessageEvent { meta, msg: Some(msg), ..MessageEvent::default() }
    };
    let entry = |ip: &str| Address {
        timestamp: now_s as u32 - 600,
        services: 1033,
        port: 8333,
        address: Some(Net::Ipv4(ip.into())),
    };
    let addresses = || {
        vec![
            entry("31.58.215.7"),
            entry("31.58.215.8"),
            Address { timestamp: u32::MAX, ..entry("192.0.2.1") },
        ]
    };
    let inventory = |n, item: Item| vec![InventoryItem { item: Some(item) }; n];
    let mut mixed = inventory(1, Item::Wtx(vec![0; 32].into()));
    mixed.extend(inventory(1, Item::Block(vec![0; 32].into())));
    let version =
        |user_agent: &str| Msg::Version(Version { user_agent: user_agent.into(), ..Version::default() });
    let mut odd = message(true, "tx", Msg::Unknown(Default::default()));
    odd.decode_error = Some("cut off".into());
    // More than have series of their own.
    let feefilters = (0..100).map(|fee| message(true, "feefilter", Msg::Feefilter(FeeFilter { fee })));
    let mut messages = vec![
        message(true, "version", version("/made up/")),
        message(true, "version", version(PRIVATE_BROADCAST)),
        message(true, "addr", Msg::Addr(Addr { addresses: addresses() })),
        message(true, "addrv2", Msg::Addrv2(AddrV2 { addresses: addresses() })),
        message(false, "addrv2", Msg::Addrv2(AddrV2 { addresses: addresses() })),
        message(true, "addrv2", Msg::Emptyaddrv2(true)),
        message(true, "ping", Msg::Ping(Ping { value: 300 })),
        message(true, "ping", Msg::Oldping(true)),
        message(false, "ping", Msg::Ping(Ping { value: 300 })),
        message(true, "inv", Msg::Inv(Inv { items: mixed })),
        message(false, "inv", Msg::Inv(Inv { items: inventory(40, Item::Wtx(vec![0; 32].into())) })),
        message(true, "reject", Msg::Reject(Reject { rejected_command: "tx".into(), ..Reject::default() })),
        odd,
    ];
    messages.extend(feefilters);
    messages
}

fn mempool() -> Vec<Mempool> {
    vec![
        Mempool::Added(Added { vsize: 141, ..Added::default() }),
        Mempool::Replaced(Replaced { replaced_vsize: 141, ..Replaced::default() }),
        Mempool::Removed(Removed { reason: "block".into(), ..Removed::default() }),
        Mempool::Rejected(Rejected {
            reason: "bad-txns-inputs-missingorspent".into(),
            ..Rejected::default()
        }),
    ]
}

fn block(round: u64) -> EbpfEvent {
    let block = BlockConnected {
        height: 200 + round as i32,
        transactions: 5,
        inputs: 9,
        sigops: 20,
        connection_time: 3_000_000,
        ..BlockConnected::default()
    };
    EbpfEvent::Validation(ValidationEvent { event: Some(Validation::BlockConnected(block)) })
}

fn relayed() -> Vec<P2pEvent> {
    let address =
        Address { timestamp: 0, services: 1, port: 1, address: Some(Net::Ipv6("2001:db8::1".into())) };
    let inventory = vec![InventoryItem { item: Some(Item::Wtx(vec![0; 32].into())) }; 3];
    vec![
        P2pEvent::PingDuration(PingDuration { duration: 4_000_000 }),
        P2pEvent::AddressAnnouncement(AddressAnnouncement { addresses: vec![address] }),
        P2pEvent::InventoryAnnouncement(InventoryAnnouncement { inventory }),
        P2pEvent::FeefilterAnnouncement(1000),
    ]
}

fn answers(round: u64, now_s: u64) -> Vec<RpcEvent> {
    let peer = |id, address: &str, inbound| PeerInfo {
        id,
        address: address.into(),
        network: "ipv4".into(),
        mapped_as: 64_496,
        inbound,
        connection_type: if inbound { "inbound" } else { "outbound-full-relay" }.into(),
        transport_protocol_type: "v2".into(),
        version: 70_016,
        relay_transactions: true,
        inv_to_send: 12,
        cpu_load: 3.5,
        ping_time: 0.02,
        minimum_ping: 0.01,
        ..PeerInfo::default()
    };
    let infos = vec![
        peer(1, "198.51.100.1:8333", true),
        peer(2, LINKING_LION, true),
        peer(3, "198.51.100.2:1", false),
    ];
    let entry = |position: u64| AddrmanEntry {
        address: format!("192.0.2.{}", position * round % 200),
        port: 8333,
        network: "ipv4".into(),
        services: 1033 + round,
        time: (now_s - 3600) as i64,
        source: "198.51.100.1".into(),
        source_network: "ipv4".into(),
        ..AddrmanEntry::default()
    };
    let table = || {
        let entries = (0..3 + round % 2).map(|position| (position as u32, entry(position))).collect();
        [(1, AddrmanBucket { entries })].into()
    };
    let estimate = EstimateSmartFee {
        fee_rate: Some(2.5),
        blocks: 12,
        requested_blocks: 12,
        mode: FeeEstimateMode::Economical as i32,
        errors: Vec::new(),
    };
    vec![
        RpcEvent::PeerInfos(PeerInfos { infos }),
        RpcEvent::Addrman(Addrman { new: table(), tried: table() }),
        RpcEvent::EstimateSmartFee(estimate),
    ]
}

fn pipeline(round: u64) -> Vec<(Source, PeerObserverEvent)> {
    let book = TracepointBook {
        tracepoint: "net:inbound_message".into(),
        hits: 100 * round,
        dropped: round,
        unread: round,
        published: 99 * round,
    };
    let loss = Loss { stage: 2, cause: "full".into(), count: 1, component: "ebpf".into(), ..Loss::default() };
    vec![
        (Source::Ebpf, PeerObserverEvent::Books(Books { pid: 1, tracepoints: vec![book] })),
        (Source::Ebpf, PeerObserverEvent::Loss(loss)),
    ]
}

/// Lines of debug.log that the recordings have none of.
pub fn log_lines(round: u64) -> String {
    let hash = format!("{round:064x}");
    let mut text = String::new();
    for line in [
        format!("00.000000Z Saw new cmpctblock header hash={hash} height=200 peer=3"),
        format!(
            "00.030000Z [cmpctblock] Successfully reconstructed block {hash} with 1 txn prefilled, 30 txn from mempool (incl at least 5 from extra pool) and 2 txn (700 bytes) requested"
        ),
        format!("01.000000Z Saw new header hash={:064x} height=200 peer=3", round + 1000),
        format!(
            "01.030000Z [cmpctblock] Successfully reconstructed block {:064x} with 1 txn prefilled, 30 txn from mempool (incl at least 5 from extra pool) and 0 txn (0 bytes) requested",
            round + 1000
        ),
        format!(
            "02.000000Z [validation] BlockChecked: block hash={hash} state=bad-txns-duplicate, duplicate transaction"
        ),
        format!("02.000000Z [validation] Enqueuing BlockConnected: block hash={hash} block height=437"),
    ] {
        text.push_str("2026-11-22T20:44:");
        text.push_str(&line);
        text.push('\n');
    }
    text
}
