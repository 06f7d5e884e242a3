//! Metrics of what a node says to our own P2P connection, and over its IPC interface.

use peer_observer_events::proto::bitcoin_primitives::address::Address;
use peer_observer_events::proto::ipc_extractor::Ipc;
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::p2p_extractor::P2p;
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_exporter::registry::{Counter, CounterVec, Gauge, Registry};

use super::addresses::{NETWORK, network_index};
use super::invs::{INV_TYPE, inv_type};

/// Entries of an addrv2 message that Bitcoin Core relays further, if they are new (src/net_processing.cpp): answers to getaddr have more.
const RELAYED: usize = 10;
const UNKNOWN_NETWORK: usize = NETWORK.values.len() - 1;

/// Counts what the node relays to us.
#[derive(Debug)]
pub(crate) struct Relayed {
    ping: Gauge,
    addresses: CounterVec,
    address_messages: Counter,
    small_address_messages: Counter,
    address_size: Gauge,
    inv_items: CounterVec,
    inv_messages: Counter,
    inv_size: Gauge,
    feefilters: Counter,
    feefilter: Gauge,
    tip_height: Gauge,
}

impl Relayed {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Relayed {
            ping: r.gauge(
                "peerobserver_p2pextractor_ping_duration_nanoseconds",
                "Time that the node took to answer our last ping: how far it is behind with messages.",
            ),
            addresses: r.counter_vec(
                "peerobserver_p2pextractor_addrv2relay_addresses",
                "Addresses that the node relayed to us, by network.",
                &[NETWORK],
            ),
            address_messages: r.counter(
                "peerobserver_p2pextractor_addrv2relay_messages",
                "Addrv2 messages that the node sent us.",
            ),
            small_address_messages: r.counter(
                "peerobserver_p2pextractor_addrv2relay_messages_10_or_less_entries",
                "Addrv2 messages with 10 addresses or less that the node sent us: those that are relayed further.",
            ),
            address_size: r.gauge(
                "peerobserver_p2pextractor_addrv2relay_size",
                "Addresses in the last addrv2 message that the node sent us.",
            ),
            inv_items: r.counter_vec(
                "peerobserver_p2pextractor_invs_items",
                "Entries of inv messages that the node sent us, by type.",
                &[INV_TYPE],
            ),
            inv_messages: r.counter(
                "peerobserver_p2pextractor_invs_messages",
                "Inv messages that the node sent us.",
            ),
            inv_size: r.gauge(
                "peerobserver_p2pextractor_invs_size",
                "Entries of the last inv message that the node sent us.",
            ),
            feefilters: r.counter(
                "peerobserver_p2pextractor_feefilter_messages",
                "Feefilter messages that the node sent us.",
            ),
            feefilter: r.gauge(
                "peerobserver_p2pextractor_feefilter_last",
                "Fee rate of the last feefilter message that the node sent us, sat/kvB.",
            ),
            tip_height: r.gauge(
                "peerobserver_ipc_block_tip_height",
                "Height of the tip of the node's chain, as its IPC interface says, blocks.",
            ),
        }
    }

    /// Counts an event of our own P2P connection.
    pub(crate) fn observe(&self, r: &mut Registry, event: &P2p) {
        match &event.p2p_event {
            Some(P2pEvent::PingDuration(ping)) => r.set(self.ping, saturated(ping.duration)),
            Some(P2pEvent::AddressAnnouncement(announcement)) => {
                let addresses = &announcement.addresses;
                for entry in addresses {
                    let network = entry.address.as_ref().map_or(UNKNOWN_NETWORK, network_of);
                    r.inc(self.addresses.at(network));
                }
                r.inc(self.address_messages);
                if addresses.len() <= RELAYED {
                    r.inc(self.small_address_messages);
                }
                r.set(self.address_size, saturated(addresses.len() as u64));
            }
            Some(P2pEvent::InventoryAnnouncement(announcement)) => {
                for entry in &announcement.inventory {
                    r.inc(self.inv_items.at(inv_type(entry.item.as_ref())));
                }
                r.inc(self.inv_messages);
                r.set(self.inv_size, saturated(announcement.inventory.len() as u64));
            }
            Some(P2pEvent::FeefilterAnnouncement(feerate)) => {
                r.inc(self.feefilters);
                r.set(self.feefilter, *feerate);
            }
            None => {}
        }
    }

    /// Takes over an event of the IPC interface.
    pub(crate) fn observe_ipc(&self, r: &mut Registry, event: &Ipc) {
        if let Some(IpcEvent::BlockTip(tip)) = &event.ipc_event {
            r.set(self.tip_height, tip.height.into());
        }
    }
}

fn network_of(address: &Address) -> usize {
    network_index(address).0
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
