//! What is counted of a node. With `--node-label` there is one of these for each node, else one for all.

use peer_observer_bus::Delivery;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_exporter::registry::Registry;

use super::log::LogLines;
use super::mempool::Mempool;
use super::net_conn::NetConn;
use super::net_msg::NetMsg;
use super::p2p::Relayed;
use super::rpc::Rpc;
use super::validation::Validation;
use crate::known::Known;

/// The metrics of a node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Value of the label `node`; empty for all nodes.
    pub(crate) name: Box<str>,
    pub(crate) registry: Registry,
    /// Ticks since its last event.
    pub(crate) idle: u32,
    net_msg: NetMsg,
    net_conn: NetConn,
    mempool: Mempool,
    validation: Validation,
    rpc: Rpc,
    relayed: Relayed,
    log: LogLines,
}

impl Node {
    /// Metrics with nothing counted yet.
    pub(crate) fn new(name: &str, max_label_values: usize) -> Self {
        let mut registry = Registry::new(max_label_values);
        Node {
            name: name.into(),
            net_msg: NetMsg::new(&mut registry),
            net_conn: NetConn::new(&mut registry),
            mempool: Mempool::new(&mut registry),
            validation: Validation::new(&mut registry),
            rpc: Rpc::new(&mut registry),
            relayed: Relayed::new(&mut registry),
            log: LogLines::new(&mut registry),
            idle: 0,
            registry,
        }
    }

    /// Counts an event.
    pub(crate) fn observe(&mut self, known: &Known, delivery: &Delivery) {
        self.idle = 0;
        let r = &mut self.registry;
        let timestamp_ms = delivery.event.timestamp;
        match &delivery.event.peer_observer_event {
            Some(PeerObserverEvent::EbpfExtractor(ebpf)) => match &ebpf.ebpf_event {
                Some(EbpfEvent::Message(message)) => self.net_msg.observe(r, message, timestamp_ms),
                Some(EbpfEvent::Connection(connection)) => {
                    self.net_conn.observe(r, known, connection, timestamp_ms);
                }
                Some(EbpfEvent::Mempool(mempool)) => self.mempool.observe(r, mempool),
                Some(EbpfEvent::Validation(validation)) => self.validation.observe(r, validation),
                Some(EbpfEvent::Addrman(_)) | None => {}
            },
            Some(PeerObserverEvent::RpcExtractor(answer)) => {
                self.rpc.observe(r, known, answer, timestamp_ms);
                if let Some(RpcEvent::PeerInfos(peers)) = &answer.rpc_event {
                    self.net_conn.resynchronise(r, &peers.infos, timestamp_ms);
                }
            }
            Some(PeerObserverEvent::RpcExtra(extra)) => self.rpc.observe_extra(r, extra, timestamp_ms),
            Some(PeerObserverEvent::P2pExtractor(event)) => self.relayed.observe(r, event),
            Some(PeerObserverEvent::LogExtractor(line)) => self.log.observe(r, line),
            Some(PeerObserverEvent::IpcExtractor(event)) => self.relayed.observe_ipc(r, event),
            _ => {}
        }
    }
}
