//! A metrics tool whose page is as long as others can make it.

use peer_observer_bus::Delivery;
use peer_observer_events::proto::bitcoin_primitives::Address;
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event as Conn;
use peer_observer_events::proto::ebpf_extractor::connection::{ConnectionEvent, MisbehavingConnection};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event as Mempool;
use peer_observer_events::proto::ebpf_extractor::mempool::{MempoolEvent, Rejected};
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{
    Addr, AddrV2, FeeFilter, MessageEvent, Metadata, Reject, Version,
};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{
    Addrman, AddrmanBucket, AddrmanEntry, PeerInfo, PeerInfos, Rpc,
};
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use peer_observer_tools::known;
use peer_observer_tools::metrics::{Config, Metrics};

/// More values of each kind than have series of their own.
const VALUES: u64 = 700;
/// Peers of the node.
const PEERS: u32 = 200;
/// Reasons of reject messages, those that nobody knows included.
const REJECT_REASONS: i32 = 9;
/// Types of connections in the schema.
const CONNECTION_TYPES: i32 = 8;

/// Metrics where every label whose values others choose has as many of them as it may, in all combinations, and a node with 200 peers.
///
/// # Errors
/// None with the settings that are used here.
pub fn full_metrics() -> Result<Metrics, known::Error> {
    let mut metrics = Metrics::new(&Config::default())?;
    for i in 0..VALUES {
        let ip = format!("10.0.{}.{}:8333", i >> 8, i & 255);
        for inbound in [true, false] {
            for conn_type in 0..CONNECTION_TYPES {
                let verack = Msg::Verack(true);
                metrics.observe(&message(&ip, inbound, conn_type, &format!("unknown{i}"), verack));
            }
            let addresses = vec![Address { services: i, ..Address::default() }];
            for msg in [
                Msg::Addr(Addr { addresses: addresses.clone() }),
                Msg::Addrv2(AddrV2 { addresses }),
                Msg::Emptyaddrv2(true),
                Msg::Feefilter(FeeFilter { fee: i as i64 }),
            ] {
                metrics.observe(&message(&ip, inbound, 1, "addr", msg));
            }
        }
        let text = format!("/some text of a peer:{i}/");
        for reason in 0..REJECT_REASONS {
            let reject = Reject { rejected_command: format!("unknown{i}"), reason, ..Reject::default() };
            metrics.observe(&message(&ip, true, 1, "reject", Msg::Reject(reject)));
        }
        let version = Version { user_agent: text.clone(), ..Version::default() };
        metrics.observe(&message(&ip, true, 1, "version", Msg::Version(version)));
        metrics.observe(&message(&ip, true, 1, "ping", Msg::Oldping(true)));
        let rejected = Mempool::Rejected(Rejected { reason: text.clone(), ..Rejected::default() });
        metrics.observe(&ebpf(EbpfEvent::Mempool(MempoolEvent { event: Some(rejected) })));
        let misbehaving = Conn::Misbehaving(MisbehavingConnection { id: i, message: text });
        metrics.observe(&ebpf(EbpfEvent::Connection(ConnectionEvent { event: Some(misbehaving) })));
    }
    let entry = |i: u64| AddrmanEntry { port: i as u32, services: i, ..AddrmanEntry::default() };
    let bucket = AddrmanBucket { entries: (0..VALUES).map(|i| (i as u32, entry(i))).collect() };
    let table: std::collections::BTreeMap<_, _> = [(0, bucket)].into();
    metrics.observe(&rpc(RpcEvent::Addrman(Addrman { new: table.clone(), tried: table })));
    let peer = |id| PeerInfo {
        id,
        address: format!("10.1.2.{id}:8333"),
        network: format!("network {id}"),
        mapped_as: id + 1,
        version: id,
        transport_protocol_type: format!("transport {id}"),
        connection_type: format!("type {id}"),
        ..PeerInfo::default()
    };
    metrics.observe(&rpc(RpcEvent::PeerInfos(PeerInfos { infos: (0..PEERS).map(peer).collect() })));
    Ok(metrics)
}

fn message(addr: &str, inbound: bool, conn_type: i32, command: &str, msg: Msg) -> Delivery {
    let meta =
        Metadata { peer_id: 1, addr: addr.into(), conn_type, command: command.into(), inbound, size: 1 };
    ebpf(EbpfEvent::Message(MessageEvent { meta, msg: Some(msg), ..MessageEvent::default() }))
}

fn ebpf(event: EbpfEvent) -> Delivery {
    delivery(Subject::NetMsg, PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) }))
}

fn rpc(event: RpcEvent) -> Delivery {
    delivery(Subject::Rpc, PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) }))
}

fn delivery(subject: Subject, event: PeerObserverEvent) -> Delivery {
    let event = Event { timestamp: 1_700_000_000_000, origin: None, peer_observer_event: Some(event) };
    Delivery { subject, event: event.into() }
}
