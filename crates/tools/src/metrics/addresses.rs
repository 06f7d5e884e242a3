//! Metrics of the addresses that peers tell of in addr and addrv2 messages.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use peer_observer_events::proto::bitcoin_primitives;
use peer_observer_events::proto::bitcoin_primitives::address::Address;
use peer_observer_exporter::registry::{Column, CounterVec, Edges, HistogramVec, Label, Registry, TableId};

use super::net_msg::DIRECTION;
use crate::onion::onion_name;

/// Networks of addresses, as the schema names them.
pub(crate) const NETWORK: Label =
    Label { name: "network", values: &["IPv4", "IPv6", "TorV2", "TorV3", "I2P", "CJDNS", "Unknown"] };

/// Where the time of an address lies.
pub(crate) const TIMESTAMP_OFFSET: Label = Label { name: "timestamp_offset", values: &["past", "future"] };
const PAST: usize = 0;
const FUTURE: usize = 1;

const ADDRESS_COUNT: Edges = Edges {
    upper: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600,
        700, 800, 900, 999, 1000,
    ],
    divisor: 1,
};
/// Powers of two up to half a year, s.
pub(crate) const OFFSET_SECONDS: Edges = Edges {
    upper: &[
        0,
        1,
        1 << 1,
        1 << 2,
        1 << 3,
        1 << 4,
        1 << 5,
        1 << 6,
        1 << 7,
        1 << 8,
        1 << 9,
        1 << 10,
        1 << 11,
        1 << 12,
        1 << 13,
        1 << 14,
        1 << 15,
        1 << 16,
        1 << 17,
        1 << 18,
        1 << 19,
        1 << 20,
        1 << 21,
        1 << 22,
        1 << 23,
        1 << 24,
    ],
    divisor: 1,
};
const SERVICE_BIT: Edges = Edges {
    upper: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52,
        53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63,
    ],
    divisor: 1,
};

/// The peer that a message went to or came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    /// Its address without the port.
    pub(crate) ip: &'a str,
    /// Which way the message went: a value of [`DIRECTION`].
    pub(crate) direction: usize,
}

/// The metrics that addr and addrv2 have in common.
#[derive(Debug, Clone, Copy)]
struct Relayed {
    addresses: HistogramVec,
    offset: HistogramVec,
    services_bits: HistogramVec,
    services_values: TableId,
    services: Column,
}

/// Counts addresses in messages.
#[derive(Debug)]
pub(crate) struct Addresses {
    addr: Relayed,
    addrv2: Relayed,
    self_announcements: CounterVec,
    subnet_announcements: CounterVec,
    scratch: String,
}

impl Addresses {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        Addresses {
            addr: Relayed::addr(r),
            addrv2: Relayed::addrv2(r),
            self_announcements: r.counter_vec(
                "peerobserver_p2p_address_selfannouncements",
                "Addresses in addr and addrv2 messages that are the address of the peer itself.",
                &[NETWORK, DIRECTION],
            ),
            subnet_announcements: r.counter_vec(
                "peerobserver_p2p_address_subnetannouncements",
                "Addresses in addr and addrv2 messages from the /24 (IPv4) or /64 (IPv6) of the peer, but not its own.",
                &[NETWORK, DIRECTION],
            ),
            scratch: String::new(),
        }
    }

    /// Counts the addresses of an addr message of that time, ms since the UNIX epoch.
    pub(crate) fn observe_addr(
        &mut self,
        r: &mut Registry,
        entries: &[bitcoin_primitives::Address],
        sender: &Sender<'_>,
        timestamp_ms: u64,
    ) {
        self.observe(r, self.addr, entries, sender, timestamp_ms);
    }

    /// Counts the addresses of an addrv2 message of that time, ms since the UNIX epoch.
    pub(crate) fn observe_addrv2(
        &mut self,
        r: &mut Registry,
        entries: &[bitcoin_primitives::Address],
        sender: &Sender<'_>,
        timestamp_ms: u64,
    ) {
        self.observe(r, self.addrv2, entries, sender, timestamp_ms);
    }

    fn observe(
        &mut self,
        r: &mut Registry,
        metrics: Relayed,
        entries: &[bitcoin_primitives::Address],
        sender: &Sender<'_>,
        timestamp_ms: u64,
    ) {
        let Sender { ip, direction } = *sender;
        let sender_subnet = ip.parse().ok().map(subnet);
        r.observe(metrics.addresses.at(direction), entries.len() as u64);
        let past = metrics.offset.at2(direction, PAST);
        let future = metrics.offset.at2(direction, FUTURE);
        r.touch(past);
        r.touch(future);
        let now = timestamp_ms / 1000;
        for entry in entries {
            let then = u64::from(entry.timestamp);
            if now >= then {
                r.observe(past, now - then);
            } else {
                r.observe(future, then - now);
            }
            let mut bits = entry.services;
            while bits != 0 {
                r.observe(metrics.services_bits.at(direction), u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
            self.scratch.clear();
            let _ = write!(self.scratch, "{}", entry.services);
            let row = r.row(metrics.services_values, &self.scratch);
            r.add_cell(row, metrics.services.at(direction), 1);
            if let Some(address) = &entry.address {
                self.observe_announcement(r, address, sender, sender_subnet);
            }
        }
    }

    fn observe_announcement(
        &self,
        r: &mut Registry,
        address: &Address,
        sender: &Sender<'_>,
        sender_subnet: Option<IpAddr>,
    ) {
        let (network, text) = network_index(address);
        // Core cannot have connected over a network that it does not know.
        let Some(text) = text else { return };
        if text == sender.ip || is_service(address, sender.ip) {
            r.inc(self.self_announcements.at2(network, sender.direction));
            return;
        }
        if !matches!(address, Address::Ipv4(_) | Address::Ipv6(_)) || sender_subnet.is_none() {
            return;
        }
        if text.parse().ok().map(subnet) == sender_subnet {
            r.inc(self.subnet_announcements.at2(network, sender.direction));
        }
    }
}

impl Relayed {
    fn addr(r: &mut Registry) -> Self {
        let services_values = r.table(&[]);
        Relayed {
            addresses: r.histogram_vec(
                "peerobserver_p2p_addr_addresses",
                "Addresses an addr message.",
                &[DIRECTION],
                ADDRESS_COUNT,
            ),
            offset: r.histogram_vec(
                "peerobserver_p2p_addr_timestamp_offset_seconds",
                "How far the time of an address in an addr message lies in the past or in the future.",
                &[DIRECTION, TIMESTAMP_OFFSET],
                OFFSET_SECONDS,
            ),
            services_bits: r.histogram_vec(
                "peerobserver_p2p_addr_services_bits",
                "Service bits of the addresses in addr messages, one observation a bit.",
                &[DIRECTION],
                SERVICE_BIT,
            ),
            services: r.column(
                services_values,
                "peerobserver_p2p_addr_services",
                "Addresses in addr messages, by their services as a number.",
                &["services"],
                &[DIRECTION],
            ),
            services_values,
        }
    }

    fn addrv2(r: &mut Registry) -> Self {
        let services_values = r.table(&[]);
        Relayed {
            services_bits: r.histogram_vec(
                "peerobserver_p2p_addrv2_services_bits",
                "Service bits of the addresses in addrv2 messages, one observation a bit.",
                &[DIRECTION],
                SERVICE_BIT,
            ),
            services: r.column(
                services_values,
                "peerobserver_p2p_addrv2_services",
                "Addresses in addrv2 messages, by their services as a number.",
                &["services"],
                &[DIRECTION],
            ),
            addresses: r.histogram_vec(
                "peerobserver_p2p_addrv2_addresses",
                "Addresses an addrv2 message.",
                &[DIRECTION],
                ADDRESS_COUNT,
            ),
            offset: r.histogram_vec(
                "peerobserver_p2p_addrv2_timestamp_offset_seconds",
                "How far the time of an address in an addrv2 message lies in the past or in the future.",
                &[DIRECTION, TIMESTAMP_OFFSET],
                OFFSET_SECONDS,
            ),
            services_values,
        }
    }
}

/// Characters of an onion service's name that are of its public key alone.
const ONION_KEY: usize = 51;

/// The address is that of the onion service with this name. Gossip has the key of the name alone.
fn is_service(address: &Address, name: &str) -> bool {
    let Address::Torv3(key) = address else { return false };
    // The checksum is worth its time for the right one only: a message can have 1,000 addresses.
    name.get(..ONION_KEY).is_some_and(|begin| key.starts_with(begin))
        && onion_name(key).is_some_and(|known| known == name)
}

/// The position in [`NETWORK`] of an address, and its text, if it has one.
pub(crate) fn network_index(address: &Address) -> (usize, Option<&str>) {
    match address {
        Address::Ipv4(text) => (0, Some(text)),
        Address::Ipv6(text) => (1, Some(text)),
        Address::Torv2(text) => (2, Some(text)),
        Address::Torv3(text) => (3, Some(text)),
        Address::I2p(text) => (4, Some(text)),
        Address::Cjdns(text) => (5, Some(text)),
        Address::Unknown(_) => (6, None),
    }
}

/// The address without its port: `192.0.2.1` of `192.0.2.1:8333`, `2001:db8::1` of `[2001:db8::1]:8333`.
pub(crate) fn ip_of(addr: &str) -> &str {
    let Some((ip, _port)) = addr.rsplit_once(':') else { return addr };
    ip.trim_start_matches('[').trim_end_matches(']')
}

/// First address of the /24 (IPv4) or /64 (IPv6).
fn subnet(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// The subnet as text; what is no IP address (Tor, I2P) stays as it is.
pub(crate) fn write_subnet(out: &mut String, ip: &str) {
    match ip.parse().map(subnet) {
        // Writing into a `String` cannot fail.
        Ok(subnet) => drop(write!(out, "{subnet}")),
        Err(_) => out.push_str(ip),
    }
}
