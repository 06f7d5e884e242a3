//! Gossip of addresses: how many of which networks and groups of networks, and who announces himself.

use std::collections::VecDeque;
use std::collections::{BTreeMap, HashMap};

use peer_observer_events::proto::bitcoin_primitives::Address;
use peer_observer_events::proto::rpc_extractor::{Addrman, AddrmanEntry};
use peer_observer_exporter::labels::{Table, bounded};

use super::message::{NETWORKS, address_text, host_of, netgroup, network_of};
use crate::known::Known;

/// Groups of networks that are counted apart.
const MAX_GROUPS: usize = 500;
/// Announcements that are kept.
const MAX_ANNOUNCEMENTS: usize = 100;
/// Bitcoin Core forwards the addresses of messages with at most so many (src/net_processing.cpp `ProcessAddrs`): news, not answers.
const NEWS: usize = 10;
/// Upper edges of the ages that addresses are counted by, s; the last group is older.
pub(crate) const AGES: [(&str, u64); 6] = [
    ("10 min", 600),
    ("1 h", 3_600),
    ("3 h", 3 * 3_600),
    ("1 d", 86_400),
    ("10 d", 10 * 86_400),
    ("older", u64::MAX),
];
/// Groups of networks, and systems, that are told of an address manager.
const TOP: usize = 100;

/// A peer announced itself, or somebody.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) time_ns: u64,
    pub(crate) peer: u64,
    pub(crate) network: usize,
    pub(crate) addr: Box<str>,
    /// It is the peer's own address.
    pub(crate) own: bool,
    pub(crate) services: u64,
}

/// The gossip of a node.
#[derive(Debug)]
pub(crate) struct Gossip {
    /// Addresses by network: received, sent.
    pub(crate) by_network: [[u64; NETWORKS.len()]; 2],
    /// Received ones by age, as their senders say.
    pub(crate) by_age: [u64; AGES.len()],
    /// Received ones by group of networks.
    groups: Table,
    pub(crate) announcements: VecDeque<Announcement>,
}

impl Default for Gossip {
    fn default() -> Self {
        let mut groups = Table::new(MAX_GROUPS);
        groups.widen(1);
        Gossip {
            by_network: Default::default(),
            by_age: Default::default(),
            groups,
            announcements: VecDeque::new(),
        }
    }
}

impl Gossip {
    /// The node sent addresses.
    pub(crate) fn sent(&mut self, addresses: &[Address]) {
        for address in addresses {
            self.by_network[1][network_of(address)] += 1;
        }
    }

    /// A peer sent addresses. Returns how many of them are its own.
    pub(crate) fn received(&mut self, addresses: &[Address], peer: u64, from: &str, time_ns: u64) -> u64 {
        let mut own = 0;
        for address in addresses {
            let network = network_of(address);
            self.by_network[0][network] += 1;
            let age = (time_ns / 1_000_000_000).saturating_sub(address.timestamp.into());
            let place = AGES.iter().position(|(_, edge)| age < *edge).unwrap_or(AGES.len() - 1);
            self.by_age[place] += 1;
            let Some(text) = address_text(address) else { continue };
            let row = self.groups.row(&netgroup(text));
            self.groups.add(row, 0, 1);
            let is_own = text == host_of(from);
            own += u64::from(is_own);
            if addresses.len() <= NEWS {
                self.keep(Announcement {
                    time_ns,
                    peer,
                    network,
                    addr: format!("{}:{}", bounded(text), address.port).into(),
                    own: is_own,
                    services: address.services,
                });
            }
        }
        own
    }

    /// The most frequent groups of networks among received addresses.
    pub(crate) fn top_groups(&self, count: usize) -> Vec<(String, u64)> {
        top(self.groups.rows().filter_map(|(key, cells)| Some((key.to_owned(), cells[0]?))), count)
    }

    fn keep(&mut self, announcement: Announcement) {
        if self.announcements.len() == MAX_ANNOUNCEMENTS {
            self.announcements.pop_front();
        }
        self.announcements.push_back(announcement);
    }
}

fn top(counts: impl Iterator<Item = (String, u64)>, count: usize) -> Vec<(String, u64)> {
    let mut all: Vec<_> = counts.collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(count);
    all
}

/// An address manager, summed up: it has tens of thousands of entries.
#[derive(Debug, Default, Clone)]
pub(crate) struct AddrmanSummary {
    pub(crate) time_ns: u64,
    /// Entries by table (new, tried) and network.
    pub(crate) by_network: BTreeMap<String, [u64; 2]>,
    /// The largest groups of networks, and autonomous systems: name, new, tried.
    pub(crate) groups: Vec<(String, [u64; 2])>,
    pub(crate) systems: Vec<(String, [u64; 2])>,
    /// The groups of networks that most entries came from.
    pub(crate) sources: Vec<(String, u64)>,
    /// How many groups of networks there are.
    pub(crate) group_count: usize,
    /// Parts of this answer that are in here, of how many.
    pub(crate) parts: (u32, u32),
}

/// Sums up an address manager that may come in parts.
#[derive(Debug, Default)]
pub(crate) struct AddrmanSums {
    snapshot: Option<u64>,
    by_network: BTreeMap<String, [u64; 2]>,
    groups: HashMap<String, [u64; 2]>,
    systems: HashMap<String, [u64; 2]>,
    sources: HashMap<String, u64>,
    seen: u32,
}

impl AddrmanSums {
    /// Takes a part, and gives the sums so far.
    pub(crate) fn add(
        &mut self,
        part: &Addrman,
        known: &Known,
        snapshot: Option<u64>,
        parts: u32,
        time_ns: u64,
    ) -> AddrmanSummary {
        if snapshot.is_none() || self.snapshot != snapshot {
            *self = AddrmanSums { snapshot, ..AddrmanSums::default() };
        }
        self.seen += 1;
        for (table, buckets) in [&part.new, &part.tried].into_iter().enumerate() {
            for entry in buckets.values().flat_map(|bucket| bucket.entries.values()) {
                self.entry(table, entry, known);
            }
        }
        let pairs = |counts: &HashMap<String, [u64; 2]>| {
            let mut all: Vec<_> = counts.iter().map(|(name, n)| (name.clone(), *n)).collect();
            all.sort_by(|a, b| (b.1[0] + b.1[1]).cmp(&(a.1[0] + a.1[1])).then_with(|| a.0.cmp(&b.0)));
            all.truncate(TOP);
            all
        };
        AddrmanSummary {
            time_ns,
            by_network: self.by_network.clone(),
            groups: pairs(&self.groups),
            group_count: self.groups.len(),
            systems: pairs(&self.systems),
            sources: top(self.sources.iter().map(|(name, n)| (name.clone(), *n)), TOP),
            parts: (self.seen.min(parts), parts),
        }
    }

    fn entry(&mut self, table: usize, entry: &AddrmanEntry, known: &Known) {
        // An address manager has at most 1024 * 64 + 256 * 64 entries (Bitcoin Core src/addrman_impl.h); what is no address manager may
        // have more names than that.
        const MAX_NAMES: usize = 100_000;
        if self.groups.len() + self.sources.len() + self.systems.len() + self.by_network.len() > MAX_NAMES {
            return;
        }
        self.by_network.entry(bounded(&entry.network).into()).or_default()[table] += 1;
        self.groups.entry(netgroup(bounded(&entry.address))).or_default()[table] += 1;
        *self.sources.entry(netgroup(bounded(&entry.source))).or_default() += 1;
        let told = entry.mapped_as.filter(|system| *system > 0);
        if let Some(system) = told.or_else(|| known.system_of(&entry.address)) {
            self.systems.entry(known.system_label(system)).or_default()[table] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::bitcoin_primitives::address;

    use super::*;

    fn ipv4(text: &str, timestamp: u32) -> Address {
        let address = Some(address::Address::Ipv4(text.into()));
        Address { timestamp, services: 9, port: 8333, address }
    }

    #[test]
    fn a_peer_that_announces_itself_is_told_from_one_that_gossips() {
        let mut gossip = Gossip::default();
        let now = 1_000_000 * 1_000_000_000;
        let addresses = [ipv4("192.0.2.1", 999_900), ipv4("198.51.100.1", 1)];
        assert_eq!(gossip.received(&addresses, 3, "192.0.2.1:49152", now), 1);
        assert_eq!(gossip.by_network[0][1], 2);
        assert_eq!((gossip.by_age[0], gossip.by_age[5]), (1, 1));
        let own: Vec<_> = gossip.announcements.iter().map(|a| a.own).collect();
        assert_eq!(own, [true, false]);
        assert_eq!(gossip.top_groups(1), [("192.0.0.0/16".to_owned(), 1)]);
    }

    #[test]
    fn groups_without_end_take_bounded_memory() {
        let mut gossip = Gossip::default();
        for i in 0..60_000_u32 {
            let [a, b, ..] = (i << 16).to_be_bytes();
            gossip.received(&[ipv4(&format!("{a}.{b}.0.1"), 0)], 1, "", 0);
        }
        assert!(gossip.top_groups(usize::MAX).len() <= MAX_GROUPS + 1);
        assert_eq!(gossip.announcements.len(), MAX_ANNOUNCEMENTS);
    }
}
