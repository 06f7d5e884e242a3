//! Metrics of getrawaddrman: what is in the address manager, and what changed since the answer before.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;

use peer_observer_events::proto::observer::AddrmanPart;
use peer_observer_events::proto::rpc_extractor::{Addrman, AddrmanBucket, AddrmanEntry};
use peer_observer_exporter::labels::{OTHER, joined};
use peer_observer_exporter::registry::{CounterVec, Label, Registry, Snapshot};

/// The tables of the address manager.
const TABLE: Label = Label { name: "table", values: &["new", "tried"] };
const TABLES: usize = TABLE.values.len();

/// Entries of a table that are looked at. Bitcoin Core's larger table has 1,024 buckets of 64 (src/addrman_impl.h).
const MAX_ENTRIES: usize = 1 << 17;
/// Parts of an answer that are waited for.
const MAX_PARTS: u32 = 64;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Upper edges of ages, s.
const AGES: [i64; 9] = [HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 60 * DAY, 90 * DAY];
/// Shares of the entries that are younger than the age that is exported.
const QUANTILES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];
/// Age from which the node would give an address up, s: ADDRMAN_HORIZON (Bitcoin Core src/addrman.h).
const TERRIBLE_AGE: i64 = 30 * DAY;
/// How far in the future a time may lie before the node would give the address up, s (`AddrInfo::IsTerrible`, src/addrman.cpp).
const TERRIBLE_FUTURE: i64 = 600;

const NETWORKS: [&str; 5] = ["ipv4", "ipv6", "onion", "i2p", "cjdns"];

/// What is remembered of an entry until the next answer.
#[derive(Debug)]
struct Slot {
    /// Hash of the address, with a key of this process.
    address: u64,
    services: u64,
    time: i64,
}

/// A table by bucket and position.
type Table = HashMap<(u32, u32), Slot>;

/// An answer that comes in parts.
#[derive(Debug)]
struct Parts {
    snapshot: u64,
    missing: HashSet<u32>,
    addrman: Addrman,
    entries: usize,
}

/// Takes over answers.
#[derive(Debug)]
pub(super) struct AddrMan {
    ports: Snapshot,
    service_bits: Snapshot,
    services: Snapshot,
    distinct_asns: Snapshot,
    distinct_sources: Snapshot,
    distinct_source_asns: Snapshot,
    age: Snapshot,
    age_bucket: Snapshot,
    entries: Snapshot,
    terrible: Snapshot,
    future: Snapshot,
    distinct_entries: Snapshot,
    distinct_addresses: Snapshot,
    added: CounterVec,
    replaced: CounterVec,
    changed_services: CounterVec,
    changed_times: CounterVec,
    before: Option<[Table; TABLES]>,
    hasher: RandomState,
    parts: Option<Parts>,
}

impl AddrMan {
    /// Registers the metrics.
    pub(super) fn new(r: &mut Registry) -> Self {
        AddrMan {
            ports: r.snapshot(
                "peerobserver_rpc_getrawaddrman_ports",
                "Entries of the address manager, by table and port.",
                &["table", "port"],
            ),
            service_bits: r.snapshot(
                "peerobserver_rpc_getrawaddrman_service_bits",
                "Entries of the address manager that have a service bit, by table and number of the bit, from 1.",
                &["table", "service_bit"],
            ),
            services: r.snapshot(
                "peerobserver_rpc_getrawaddrman_services",
                "Entries of the address manager, by table and services as a number.",
                &["table", "service"],
            ),
            distinct_asns: r.snapshot(
                "peerobserver_rpc_getrawaddrman_distinct_asns",
                "Distinct AS of the addresses, by table; those without count as one.",
                &["table"],
            ),
            distinct_sources: r.snapshot(
                "peerobserver_rpc_getrawaddrman_distinct_sources",
                "Distinct sources that told of the addresses, by table.",
                &["table"],
            ),
            distinct_source_asns: r.snapshot(
                "peerobserver_rpc_getrawaddrman_distinct_source_asn",
                "Distinct AS of the sources that told of the addresses, by table; those without count as one.",
                &["table"],
            ),
            age: r.snapshot(
                "peerobserver_rpc_getrawaddrman_entry_age_seconds",
                "Age that a share of the entries is younger than, seconds, by table and share.",
                &["table", "quantile"],
            ),
            age_bucket: r.snapshot(
                "peerobserver_rpc_getrawaddrman_entry_age_seconds_bucket",
                "Entries that are not older than `le` seconds, by table.",
                &["table", "le"],
            ),
            entries: r.snapshot(
                "peerobserver_rpc_getrawaddrman_entries",
                "Entries of the address manager, by table and network.",
                &["table", "network"],
            ),
            terrible: r.snapshot(
                "peerobserver_rpc_getrawaddrman_terrible_entries",
                "Entries that were not seen for 30 days, or are dated more than 10 minutes in the future, by table and network.",
                &["table", "network"],
            ),
            future: r.snapshot(
                "peerobserver_rpc_getrawaddrman_future_entries",
                "Entries dated more than `min_offset_seconds` in the future, by table and network.",
                &["table", "network", "min_offset_seconds"],
            ),
            distinct_entries: r.snapshot(
                "peerobserver_rpc_getrawaddrman_distinct_entries",
                "Distinct addresses with their ports, by table and network.",
                &["table", "network"],
            ),
            distinct_addresses: r.snapshot(
                "peerobserver_rpc_getrawaddrman_distinct_addresses",
                "Distinct addresses without their ports, by table and network.",
                &["table", "network"],
            ),
            added: r.counter_vec(
                "peerobserver_rpc_getrawaddrman_added_entry",
                "Places that were empty in the answer before and are not any more, by table.",
                &[TABLE],
            ),
            replaced: r.counter_vec(
                "peerobserver_rpc_getrawaddrman_replaced_entry",
                "Places that had another address in the answer before, by table.",
                &[TABLE],
            ),
            changed_services: r.counter_vec(
                "peerobserver_rpc_getrawaddrman_changed_services",
                "Places whose address is the same as in the answer before, with other services, by table.",
                &[TABLE],
            ),
            changed_times: r.counter_vec(
                "peerobserver_rpc_getrawaddrman_changed_timestamps",
                "Places whose address is the same as in the answer before, with another time, by table.",
                &[TABLE],
            ),
            before: None,
            hasher: RandomState::new(),
            parts: None,
        }
    }

    /// Takes over a part of an answer; all of it when it is the last that was missing.
    pub(super) fn observe_part(&mut self, r: &mut Registry, part: &AddrmanPart, timestamp_ms: u64) {
        if part.parts == 0 || part.parts > MAX_PARTS || part.part >= part.parts {
            return;
        }
        let mut parts =
            self.parts.take().filter(|parts| parts.snapshot == part.snapshot).unwrap_or_else(|| Parts {
                snapshot: part.snapshot,
                missing: (0..part.parts).collect(),
                addrman: Addrman::default(),
                entries: 0,
            });
        if parts.missing.remove(&part.part) {
            parts.take_in(&part.addrman);
        }
        if parts.missing.is_empty() {
            self.observe(r, &parts.addrman, timestamp_ms);
        } else {
            self.parts = Some(parts);
        }
    }

    /// Takes over an answer of that time, ms since the UNIX epoch.
    pub(super) fn observe(&mut self, r: &mut Registry, addrman: &Addrman, timestamp_ms: u64) {
        let now = i64::try_from(timestamp_ms / 1000).unwrap_or(i64::MAX);
        let tables = [&addrman.new, &addrman.tried];
        let mut figures = Figures::default();
        for (table, buckets) in TABLE.values.iter().zip(tables) {
            figures.table(table, &entries(buckets).map(|(_, entry)| entry).collect::<Vec<_>>(), now);
        }
        for (snapshot, values) in [
            (self.ports, figures.ports),
            (self.service_bits, figures.service_bits),
            (self.services, figures.services),
            (self.distinct_asns, figures.distinct_asns),
            (self.distinct_sources, figures.distinct_sources),
            (self.distinct_source_asns, figures.distinct_source_asns),
            (self.age, figures.age),
            (self.age_bucket, figures.age_bucket),
            (self.entries, figures.entries),
            (self.terrible, figures.terrible),
            (self.future, figures.future),
            (self.distinct_entries, figures.distinct_entries),
            (self.distinct_addresses, figures.distinct_addresses),
        ] {
            r.replace(snapshot, values);
        }
        let slots = tables.map(|buckets| -> Table {
            entries(buckets).map(|(place, entry)| (place, self.slot(entry))).collect()
        });
        if let Some(before) = self.before.take() {
            for (table, (before, now)) in before.iter().zip(&slots).enumerate() {
                self.compare(r, table, before, now);
            }
        }
        self.before = Some(slots);
    }

    fn slot(&self, entry: &AddrmanEntry) -> Slot {
        Slot { address: self.hasher.hash_one(&entry.address), services: entry.services, time: entry.time }
    }

    fn compare(&self, r: &mut Registry, table: usize, before: &Table, now: &Table) {
        // Shown from the second answer on, also while nothing changes.
        let counters = [self.added, self.replaced, self.changed_services, self.changed_times];
        counters.iter().for_each(|counter| r.add(counter.at(table), 0));
        for (place, slot) in now {
            match before.get(place) {
                None => r.inc(self.added.at(table)),
                Some(old) if old.address != slot.address => r.inc(self.replaced.at(table)),
                Some(old) => {
                    r.add(self.changed_services.at(table), u64::from(old.services != slot.services));
                    r.add(self.changed_times.at(table), u64::from(old.time != slot.time));
                }
            }
        }
    }
}

impl Parts {
    fn take_in(&mut self, part: &Addrman) {
        for (table, buckets) in [(&mut self.addrman.new, &part.new), (&mut self.addrman.tried, &part.tried)] {
            for ((bucket, position), entry) in entries(buckets) {
                self.entries += 1;
                if self.entries > TABLES * MAX_ENTRIES {
                    return;
                }
                table.entry(bucket).or_default().entries.insert(position, entry.clone());
            }
        }
    }
}

/// The entries of a table with their bucket and position; not more than a table can have.
fn entries(buckets: &BTreeMap<u32, AddrmanBucket>) -> impl Iterator<Item = ((u32, u32), &AddrmanEntry)> {
    buckets
        .iter()
        .flat_map(|(bucket, entries)| {
            entries.entries.iter().map(|(position, entry)| ((*bucket, *position), entry))
        })
        .take(MAX_ENTRIES)
}

type Values = Vec<(String, f64)>;

/// What the snapshots are set to.
#[derive(Debug, Default)]
struct Figures {
    ports: Values,
    service_bits: Values,
    services: Values,
    distinct_asns: Values,
    distinct_sources: Values,
    distinct_source_asns: Values,
    age: Values,
    age_bucket: Values,
    entries: Values,
    terrible: Values,
    future: Values,
    distinct_entries: Values,
    distinct_addresses: Values,
}

impl Figures {
    fn table(&mut self, table: &str, entries: &[&AddrmanEntry], now: i64) {
        let mut ports: BTreeMap<u32, f64> = BTreeMap::new();
        let mut services: BTreeMap<u64, f64> = BTreeMap::new();
        let mut bits = [0_u32; 64];
        for entry in entries {
            *ports.entry(entry.port).or_default() += 1.0;
            *services.entry(entry.services).or_default() += 1.0;
            for (bit, number) in bits.iter_mut().enumerate() {
                *number += u32::from(entry.services >> bit & 1 == 1);
            }
        }
        let key = |value: &dyn ToString| joined(&[table, &value.to_string()]);
        self.ports.extend(ports.into_iter().map(|(port, n)| (key(&port), n)));
        self.services.extend(services.into_iter().map(|(services, n)| (key(&services), n)));
        let set = bits.into_iter().enumerate().filter(|(_, n)| *n > 0);
        self.service_bits.extend(set.map(|(bit, n)| (key(&(bit + 1)), n.into())));

        let distinct = |values: HashSet<Option<u32>>| (table.to_owned(), values.len() as f64);
        self.distinct_asns.push(distinct(entries.iter().map(|entry| entry.mapped_as).collect()));
        self.distinct_source_asns
            .push(distinct(entries.iter().map(|entry| entry.source_mapped_as).collect()));
        let sources: HashSet<&str> = entries.iter().map(|entry| entry.source.as_str()).collect();
        self.distinct_sources.push((table.to_owned(), sources.len() as f64));
        self.ages(table, entries, now);
        self.networks(table, entries, now);
    }

    fn ages(&mut self, table: &str, entries: &[&AddrmanEntry], now: i64) {
        // What is dated in the future is as young as can be.
        let mut ages: Vec<i64> = entries.iter().map(|entry| now.saturating_sub(entry.time).max(0)).collect();
        ages.sort_unstable();
        for edge in AGES {
            let younger = ages.partition_point(|age| *age <= edge);
            self.age_bucket.push((joined(&[table, &edge.to_string()]), younger as f64));
        }
        self.age_bucket.push((joined(&[table, "+Inf"]), ages.len() as f64));
        if ages.is_empty() {
            return;
        }
        for quantile in QUANTILES {
            // The nearest rank: an age that an entry really has.
            let rank = (quantile * ages.len() as f64).ceil() as usize;
            let age = ages[rank.clamp(1, ages.len()) - 1];
            self.age.push((joined(&[table, &quantile.to_string()]), age as f64));
        }
    }

    fn networks(&mut self, table: &str, entries: &[&AddrmanEntry], now: i64) {
        let mut by_network: BTreeMap<&str, Vec<&AddrmanEntry>> = BTreeMap::new();
        for entry in entries {
            let network = NETWORKS.iter().find(|known| **known == entry.network).copied().unwrap_or(OTHER);
            by_network.entry(network).or_default().push(entry);
        }
        for (network, entries) in by_network {
            let key = || joined(&[table, network]);
            let ahead = |seconds: i64| {
                entries.iter().filter(move |entry| entry.time.saturating_sub(now) > seconds).count() as f64
            };
            let old =
                entries.iter().filter(|entry| now.saturating_sub(entry.time) > TERRIBLE_AGE).count() as f64;
            self.entries.push((key(), entries.len() as f64));
            self.terrible.push((key(), old + ahead(TERRIBLE_FUTURE)));
            for offset in [0, TERRIBLE_FUTURE] {
                self.future.push((joined(&[table, network, &offset.to_string()]), ahead(offset)));
            }
            let addresses: HashSet<&str> = entries.iter().map(|entry| entry.address.as_str()).collect();
            self.distinct_addresses.push((key(), addresses.len() as f64));
            let with_port: HashSet<(&str, u32)> =
                entries.iter().map(|entry| (entry.address.as_str(), entry.port)).collect();
            self.distinct_entries.push((key(), with_port.len() as f64));
        }
    }
}
