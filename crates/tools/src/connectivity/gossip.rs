//! From events to addresses that a peer told of.

use std::sync::Arc;

use peer_observer_bus::Delivery;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::Address;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;

use crate::known::Known;
use crate::known::lists::TOR_EXIT;
use crate::metrics::addresses::{ip_of, network_index};

/// Addresses in one message from which on it is no gossip: Bitcoin Core answers getaddr with up to that many (net_processing.cpp,
/// `MAX_ADDR_TO_SEND`), and relays fewer.
const GETADDR: usize = 1000;

/// Messages that addresses come in, as metrics name them.
pub(super) const ADDR_VERSIONS: &[&str] = &["addr", "addrv2"];

/// The peer that told of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Name of the node that was told; empty for events that do not say.
    pub(super) node: String,
    /// Address of the peer without the port.
    pub(super) ip: String,
    /// The node's number for the peer.
    pub(super) id: u64,
    /// The peer came through a Tor exit, as far as the list says.
    pub(super) tor_exit: bool,
}

/// An address, and who told of it when.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// The address as it came.
    pub(super) address: Address,
    /// In which message: a position in [`ADDR_VERSIONS`].
    pub(super) addr_version: usize,
    pub(super) source: Arc<Source>,
    /// When the node received it, s since the UNIX epoch.
    pub(super) time: u64,
}

impl Heard {
    /// Its position in the label `network`.
    pub(super) fn network(&self) -> usize {
        self.address.address.as_ref().map_or(UNKNOWN_NETWORK, |address| network_index(address).0)
    }
}

/// Position of an address without one in the label `network`.
const UNKNOWN_NETWORK: usize = 6;

/// The addresses of an event, and whether they are gossip.
#[derive(Debug)]
pub(super) enum Gossip {
    /// It has none that a peer sent.
    None,
    /// A peer told the node.
    Heard(Vec<Heard>),
    /// A peer answered getaddr with these.
    Getaddr(Vec<Heard>),
}

/// The addresses of an event.
pub(super) fn heard(delivery: &Delivery, known: &Known) -> Gossip {
    let event = &*delivery.event;
    let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &event.peer_observer_event else {
        return Gossip::None;
    };
    let Some(EbpfEvent::Message(message)) = &ebpf.ebpf_event else { return Gossip::None };
    if !message.meta.inbound {
        return Gossip::None;
    }
    let (addr_version, addresses) = match &message.msg {
        Some(Msg::Addr(addr)) => (0, &addr.addresses),
        Some(Msg::Addrv2(addrv2)) => (1, &addrv2.addresses),
        _ => return Gossip::None,
    };
    let ip = ip_of(&message.meta.addr);
    let is_exit = |ip| known.lists.with(ip).any(|list| list == TOR_EXIT);
    let source = Arc::new(Source {
        node: event.origin.as_ref().map_or_else(String::new, |origin| origin.node.clone()),
        ip: ip.to_owned(),
        id: message.meta.peer_id,
        tor_exit: ip.parse().is_ok_and(is_exit),
    });
    let time = event.timestamp / 1000;
    let heard = addresses.iter().take(GETADDR).map(|address| Heard {
        address: address.clone(),
        addr_version,
        source: source.clone(),
        time,
    });
    match addresses.len() {
        0..GETADDR => Gossip::Heard(heard.collect()),
        _ => Gossip::Getaddr(heard.collect()),
    }
}
