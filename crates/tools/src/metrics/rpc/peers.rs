//! Metrics of getpeerinfo: the peers of a node at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use peer_observer_events::proto::rpc_extractor::PeerInfo;
use peer_observer_exporter::labels::joined;
use peer_observer_exporter::registry::{FloatGauge, Gauge, Registry, Snapshot};

use super::super::addresses::ip_of;
use super::{count, whole};
use crate::known::Known;
use crate::known::lists::{BITPROJECTS, GMAX, MONERO, TOR_EXIT, is_linking_lion, was_linking_lion};

/// Fee filter below which a peer wants transactions of less than 1 sat/vB, BTC/kvB.
const ONE_SAT_PER_VB: f64 = 0.000_01;
/// Offset of a peer's clock that is worth counting, s.
const TIME_OFFSET: i64 = 10;
/// Age of an unanswered ping that is worth counting, s.
const PING_WAIT: f64 = 5.0;

const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";

/// Sum, median, mean and extremes of a property of peers; left alone while no peer has it.
#[derive(Debug)]
struct InvToSend {
    sum: Gauge,
    max: Gauge,
    min: Gauge,
    median: FloatGauge,
    mean: FloatGauge,
}

#[derive(Debug)]
struct CpuLoad {
    sum: FloatGauge,
    max: FloatGauge,
    min: FloatGauge,
    median: FloatGauge,
    mean: FloatGauge,
}

/// Takes over answers.
#[derive(Debug)]
pub(super) struct Peers {
    gmax: Gauge,
    monero: Gauge,
    tor_exit: Gauge,
    linking_lion: Gauge,
    linking_lion_before: Gauge,
    bitprojects: Snapshot,
    lists: Snapshot,
    ratelimited_peers: Gauge,
    ratelimited: Gauge,
    processed: Gauge,
    ahead: Gauge,
    behind: Gauge,
    high_bandwidth_to: Gauge,
    high_bandwidth_from: Gauge,
    number: Gauge,
    addr_relay: Gauge,
    inflight_peers: Gauge,
    inflight_heights: Gauge,
    ping_wait: Gauge,
    transports: Snapshot,
    networks: Snapshot,
    connection_types: Snapshot,
    protocol_versions: Snapshot,
    asns: Snapshot,
    ping_median: FloatGauge,
    ping_mean: FloatGauge,
    minping_median: FloatGauge,
    minping_mean: FloatGauge,
    low_fee_relay: Gauge,
    diversity: FloatGauge,
    inv_to_send: InvToSend,
    cpu_load: CpuLoad,
    systems: Snapshot,
    system_diversity: Snapshot,
    distinct_systems: Snapshot,
    unmapped: Snapshot,
}

impl Peers {
    /// Registers the metrics.
    pub(super) fn new(r: &mut Registry) -> Self {
        Peers {
            gmax: r.gauge(
                "peerobserver_rpc_peer_info_list_peers_gmax_ban",
                "Peers on the gmax ban list of 2018 (--ip-list gmax=FILE).",
            ),
            monero: r.gauge(
                "peerobserver_rpc_peer_info_list_peers_monero_ban",
                "Peers on Monero's ban list (--ip-list monero=FILE).",
            ),
            tor_exit: r.gauge(
                "peerobserver_rpc_peer_info_list_peers_tor_exit",
                "Peers that are exits of the Tor network (--ip-list tor_exit=FILE).",
            ),
            linking_lion: r.gauge(
                "peerobserver_rpc_peer_info_list_peers_linkinglion",
                "Peers in networks of LinkingLion.",
            ),
            linking_lion_before: r.gauge(
                "peerobserver_rpc_peer_info_list_peers_linkinglion_pre2026",
                "Peers in networks that LinkingLion used before 2026.",
            ),
            bitprojects: r.snapshot(
                "peerobserver_rpc_peer_info_list_peers_bitprojects",
                "Peers that are nodes of bitprojects.io (--ip-list bitprojects=FILE), by direction.",
                &["direction"],
            ),
            lists: r.snapshot(
                "peerobserver_rpc_peer_info_list_peers",
                "Peers on a list (--ip-list NAME=FILE), by name of the list and direction.",
                &["list", "direction"],
            ),
            ratelimited_peers: r.gauge(
                "peerobserver_rpc_peer_info_addr_ratelimited_peers",
                "Peers of whose addresses the rate limit dropped some.",
            ),
            ratelimited: r.gauge(
                "peerobserver_rpc_peer_info_addr_ratelimited_total",
                "Addresses from the peers that the rate limit dropped.",
            ),
            processed: r.gauge(
                "peerobserver_rpc_peer_info_addr_processed_total",
                "Addresses from the peers that were processed.",
            ),
            ahead: r.gauge(
                "peerobserver_rpc_peer_info_timeoffset_plus10s",
                "Peers whose clock is more than 10 s ahead of the node's.",
            ),
            behind: r.gauge(
                "peerobserver_rpc_peer_info_timeoffset_minus10s",
                "Peers whose clock is more than 10 s behind the node's.",
            ),
            high_bandwidth_to: r.gauge(
                "peerobserver_rpc_peer_info_bip152_highbandwidth_to",
                "Peers that the node asked for compact blocks unasked (BIP 152 high-bandwidth).",
            ),
            high_bandwidth_from: r.gauge(
                "peerobserver_rpc_peer_info_bip152_highbandwidth_from",
                "Peers that asked the node for compact blocks unasked (BIP 152 high-bandwidth).",
            ),
            number: r.gauge("peerobserver_rpc_peer_info_num_peers", "Peers."),
            addr_relay: r.gauge(
                "peerobserver_rpc_peer_info_addr_relay_enabled_peers",
                "Peers that the node relays addresses with.",
            ),
            inflight_peers: r.gauge(
                "peerobserver_rpc_peer_info_inflight_block_peers",
                "Peers that the node is fetching blocks from.",
            ),
            inflight_heights: r.gauge(
                "peerobserver_rpc_peer_info_inflight_distinct_blocks_heights",
                "Heights at which the node is fetching blocks.",
            ),
            ping_wait: r.gauge(
                "peerobserver_rpc_peer_info_ping_wait_larger_5_seconds_block_peers",
                "Peers that have not answered a ping for more than 5 s.",
            ),
            transports: r.snapshot(
                "peerobserver_rpc_peer_info_transport_protocol_type_peers",
                "Peers by transport: v1, v2 (BIP 324) or detecting.",
                &["transport_protocol_type"],
            ),
            networks: r.snapshot(
                "peerobserver_rpc_peer_info_network_peers",
                "Peers by network.",
                &["network"],
            ),
            connection_types: r.snapshot(
                "peerobserver_rpc_peer_info_connection_type_peers",
                "Peers by type of the connection.",
                &["connection_type"],
            ),
            protocol_versions: r.snapshot(
                "peerobserver_rpc_peer_info_protocol_version_peers",
                "Peers by P2P protocol version.",
                &["protocol_version"],
            ),
            asns: r.snapshot(
                "peerobserver_rpc_peer_info_asn_peers",
                "Peers by AS as the node's own map (-asmap) has it.",
                &["ASN"],
            ),
            ping_median: r.float_gauge(
                "peerobserver_rpc_peer_info_ping_median",
                "Median of the peers' last ping times, ms; 0 when there are none.",
            ),
            ping_mean: r.float_gauge(
                "peerobserver_rpc_peer_info_ping_mean",
                "Mean of the peers' last ping times, ms; 0 when there are none.",
            ),
            minping_median: r.float_gauge(
                "peerobserver_rpc_peer_info_minping_median",
                "Median of the peers' shortest ping times, ms; 0 when there are none.",
            ),
            minping_mean: r.float_gauge(
                "peerobserver_rpc_peer_info_minping_mean",
                "Mean of the peers' shortest ping times, ms; 0 when there are none.",
            ),
            low_fee_relay: r.gauge(
                "peerobserver_rpc_peer_info_sub1satvb_relay",
                "Peers that want transactions below 1 sat/vB, and with whom transactions are exchanged.",
            ),
            diversity: r.float_gauge(
                "peerobserver_rpc_peer_info_connection_divserity_inbound_ipv4",
                "Distinct /16 of the inbound IPv4 peers, divided by the number of these.",
            ),
            inv_to_send: InvToSend {
                sum: r.gauge(
                    "peerobserver_rpc_peer_info_invtosend_sum",
                    "Transactions that wait to be announced to peers, all together.",
                ),
                max: r.gauge(
                    "peerobserver_rpc_peer_info_invtosend_max",
                    "Transactions that wait to be announced to the peer with most of them.",
                ),
                median: r.float_gauge(
                    "peerobserver_rpc_peer_info_invtosend_median",
                    "Median of the transactions that wait to be announced to a peer.",
                ),
                mean: r.float_gauge(
                    "peerobserver_rpc_peer_info_invtosend_mean",
                    "Mean of the transactions that wait to be announced to a peer.",
                ),
                min: r.gauge(
                    "peerobserver_rpc_peer_info_invtosend_min",
                    "Transactions that wait to be announced to the peer with fewest of them.",
                ),
            },
            cpu_load: CpuLoad {
                sum: r.float_gauge(
                    "peerobserver_rpc_peer_info_cpuload_sum",
                    "CPU time spent on peers, all together, per mille; patched nodes only.",
                ),
                max: r.float_gauge(
                    "peerobserver_rpc_peer_info_cpuload_max",
                    "CPU time spent on the peer with most of it, per mille; patched nodes only.",
                ),
                median: r.float_gauge(
                    "peerobserver_rpc_peer_info_cpuload_median",
                    "Median of the CPU time spent on a peer, per mille; patched nodes only.",
                ),
                mean: r.float_gauge(
                    "peerobserver_rpc_peer_info_cpuload_mean",
                    "Mean of the CPU time spent on a peer, per mille; patched nodes only.",
                ),
                min: r.float_gauge(
                    "peerobserver_rpc_peer_info_cpuload_min",
                    "CPU time spent on the peer with least of it, per mille; patched nodes only.",
                ),
            },
            systems: r.snapshot(
                "peerobserver_rpc_peer_info_as_peers",
                "Peers by AS as --asmap-file has it, and direction.",
                &["direction", "asn", "as_name"],
            ),
            system_diversity: r.snapshot(
                "peerobserver_rpc_peer_info_as_diversity",
                "Distinct AS of the peers, divided by the number of peers in an AS (--asmap-file).",
                &["direction"],
            ),
            distinct_systems: r.snapshot(
                "peerobserver_rpc_peer_info_as_distinct",
                "Distinct AS of the peers (--asmap-file).",
                &["direction"],
            ),
            unmapped: r.snapshot(
                "peerobserver_rpc_peer_info_as_unmapped_peers",
                "Peers in no AS that --asmap-file knows, as those over Tor and I2P.",
                &["direction"],
            ),
        }
    }

    /// Takes over an answer.
    pub(super) fn observe(&self, r: &mut Registry, known: &Known, peers: &[PeerInfo]) {
        self.observe_sums(r, peers);
        self.observe_kinds(r, peers);
        self.observe_lists(r, known, peers);
        self.observe_pings(r, peers);
        self.observe_loads(r, peers);
        if let Some(diversity) = diversity(peers) {
            r.set_float(self.diversity, diversity);
        }
        if known.systems.is_some() {
            self.observe_systems(r, known, peers);
        }
    }

    fn observe_sums(&self, r: &mut Registry, peers: &[PeerInfo]) {
        let number = |of: fn(&&PeerInfo) -> bool| count(peers.iter().filter(of));
        let sum = |of: fn(&PeerInfo) -> u64| whole(peers.iter().map(of).fold(0, u64::saturating_add));
        r.set(self.number, count(peers.iter()));
        r.set(self.ratelimited_peers, number(|peer| peer.addr_rate_limited > 0));
        r.set(self.ratelimited, sum(|peer| peer.addr_rate_limited));
        r.set(self.processed, sum(|peer| peer.addr_processed));
        r.set(self.ahead, number(|peer| peer.time_offset > TIME_OFFSET));
        r.set(self.behind, number(|peer| peer.time_offset < -TIME_OFFSET));
        r.set(self.high_bandwidth_to, number(|peer| peer.bip152_hb_to));
        r.set(self.high_bandwidth_from, number(|peer| peer.bip152_hb_from));
        r.set(self.addr_relay, number(|peer| peer.addr_relay_enabled));
        r.set(self.inflight_peers, number(|peer| !peer.inflight.is_empty()));
        let heights: BTreeSet<u64> = peers.iter().flat_map(|peer| peer.inflight.iter().copied()).collect();
        r.set(self.inflight_heights, count(heights.iter()));
        r.set(self.ping_wait, number(|peer| peer.ping_wait > PING_WAIT));
        r.set(self.low_fee_relay, number(|peer| exchanges_low_fees(peer)));
    }

    fn observe_kinds(&self, r: &mut Registry, peers: &[PeerInfo]) {
        let kinds: [(Snapshot, Key); 4] = [
            (self.transports, |peer| joined(&[&peer.transport_protocol_type])),
            (self.networks, |peer| joined(&[&peer.network])),
            (self.connection_types, |peer| joined(&[&peer.connection_type])),
            (self.protocol_versions, |peer| peer.version.to_string()),
        ];
        for (snapshot, key) in kinds {
            r.replace(snapshot, tally(peers.iter().map(key)));
        }
        let mapped = peers.iter().filter(|peer| peer.mapped_as != 0);
        r.replace(self.asns, tally(mapped.map(|peer| peer.mapped_as.to_string())));
    }

    fn observe_lists(&self, r: &mut Registry, known: &Known, peers: &[PeerInfo]) {
        let by_text = |is: fn(&str) -> bool| count(peers.iter().filter(|peer| is(ip_of(&peer.address))));
        r.set(self.linking_lion, by_text(is_linking_lion));
        r.set(self.linking_lion_before, by_text(was_linking_lion));
        let mut found: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for peer in peers {
            let Ok(ip) = ip_of(&peer.address).parse::<IpAddr>() else { continue };
            for list in known.lists.with(ip) {
                *found.entry((list, direction(peer))).or_default() += 1;
            }
        }
        let on = |list, direction| found.get(&(list, direction)).copied().unwrap_or(0);
        for (gauge, list) in [(self.gmax, GMAX), (self.monero, MONERO), (self.tor_exit, TOR_EXIT)] {
            r.set(gauge, i64::from(on(list, INBOUND)) + i64::from(on(list, OUTBOUND)));
        }
        let bitprojects =
            [INBOUND, OUTBOUND].map(|direction| (direction.into(), on(BITPROJECTS, direction).into()));
        r.replace(self.bitprojects, bitprojects);
        let all = found.iter().map(|((list, direction), n)| (joined(&[list, direction]), f64::from(*n)));
        r.replace(self.lists, all);
    }

    fn observe_pings(&self, r: &mut Registry, peers: &[PeerInfo]) {
        let of = |time: fn(&PeerInfo) -> f64| {
            let ms = peers.iter().map(|peer| time(peer) * 1000.0);
            Distribution::of(ms.filter(|ms| *ms != 0.0)).unwrap_or_default()
        };
        let ping = of(|peer| peer.ping_time);
        r.set_float(self.ping_median, ping.median);
        r.set_float(self.ping_mean, ping.mean);
        let minimum = of(|peer| peer.minimum_ping);
        r.set_float(self.minping_median, minimum.median);
        r.set_float(self.minping_mean, minimum.mean);
    }

    fn observe_loads(&self, r: &mut Registry, peers: &[PeerInfo]) {
        let relaying = || peers.iter().filter(|peer| peer.relay_transactions).map(|peer| peer.inv_to_send);
        if let Some(waiting) = Distribution::of(relaying().map(|n| n as f64)) {
            let gauges = &self.inv_to_send;
            r.set(gauges.sum, whole(relaying().fold(0, u64::saturating_add)));
            r.set(gauges.max, whole(relaying().max().unwrap_or(0)));
            r.set(gauges.min, whole(relaying().min().unwrap_or(0)));
            r.set_float(gauges.median, waiting.median);
            r.set_float(gauges.mean, waiting.mean);
        }
        let loads = peers.iter().map(|peer| peer.cpu_load).filter(|load| *load != 0.0);
        if let Some(load) = Distribution::of(loads) {
            let gauges = &self.cpu_load;
            r.set_float(gauges.sum, load.sum);
            r.set_float(gauges.max, load.max);
            r.set_float(gauges.min, load.min);
            r.set_float(gauges.median, load.median);
            r.set_float(gauges.mean, load.mean);
        }
    }

    fn observe_systems(&self, r: &mut Registry, known: &Known, peers: &[PeerInfo]) {
        let mut systems = Vec::new();
        let mut diversity = Vec::new();
        let mut distinct = Vec::new();
        let mut unmapped = Vec::new();
        for wanted in [INBOUND, OUTBOUND] {
            let of_direction = || peers.iter().filter(|peer| direction(peer) == wanted);
            let keys = of_direction().filter_map(|peer| known.system(ip_of(&peer.address)));
            let mapped = tally(keys.filter(|key| !is_unmapped(key)));
            let number: f64 = mapped.iter().map(|(_, n)| n).sum();
            unmapped.push((wanted.to_owned(), of_direction().count() as f64 - number));
            distinct.push((wanted.to_owned(), mapped.len() as f64));
            if number > 0.0 {
                diversity.push((wanted.to_owned(), mapped.len() as f64 / number));
            }
            // A key may hold the separator, so it is not joined again.
            let sep = peer_observer_exporter::labels::SEPARATOR;
            systems.extend(mapped.into_iter().map(|(key, n)| (format!("{wanted}{sep}{key}"), n)));
        }
        r.replace(self.systems, systems);
        r.replace(self.system_diversity, diversity);
        r.replace(self.distinct_systems, distinct);
        r.replace(self.unmapped, unmapped);
    }
}

/// What peers are counted by.
type Key = fn(&PeerInfo) -> String;

fn direction(peer: &PeerInfo) -> &'static str {
    if peer.inbound { INBOUND } else { OUTBOUND }
}

/// The key of an AS is that of the number 0.
fn is_unmapped(key: &str) -> bool {
    key.split(peer_observer_exporter::labels::SEPARATOR).next() == Some("0")
}

fn exchanges_low_fees(peer: &PeerInfo) -> bool {
    let exchanged = |bytes: &BTreeMap<String, u64>| bytes.get("tx").is_some_and(|n| *n > 0);
    peer.relay_transactions
        && peer.minfeefilter < ONE_SAT_PER_VB
        && (exchanged(&peer.bytes_sent_per_message) || exchanged(&peer.bytes_received_per_message))
}

/// Distinct /16 of the inbound IPv4 peers by number of these; nothing when there are none.
fn diversity(peers: &[PeerInfo]) -> Option<f64> {
    let inbound = peers.iter().filter(|peer| peer.inbound);
    let addresses: Vec<Ipv4Addr> = inbound.filter_map(|peer| ip_of(&peer.address).parse().ok()).collect();
    let nets: BTreeSet<[u8; 2]> = addresses.iter().map(|ip| [ip.octets()[0], ip.octets()[1]]).collect();
    (!addresses.is_empty()).then(|| nets.len() as f64 / addresses.len() as f64)
}

/// How often each key comes.
fn tally(keys: impl Iterator<Item = String>) -> Vec<(String, f64)> {
    let mut tally: BTreeMap<String, f64> = BTreeMap::new();
    for key in keys {
        *tally.entry(key).or_default() += 1.0;
    }
    tally.into_iter().collect()
}

#[derive(Debug, Default)]
struct Distribution {
    sum: f64,
    max: f64,
    min: f64,
    median: f64,
    mean: f64,
}

impl Distribution {
    /// Of these numbers, without those that are none (NaN); nothing when there are none.
    fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.filter(|n| !n.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let sum: f64 = sorted.iter().sum();
        Some(Distribution { sum, max, min, median, mean: sum / sorted.len() as f64 })
    }
}
