//! Makes events fit the bus: a NATS server takes none larger than its `max_payload`.
//!
//! Most fit always. A full address manager has 80,000 entries and more: readers take the event as one snapshot, so it goes out whole
//! while it can, and else in parts. Orphans can be of any size up to that of a block each: what is too much goes out without
//! the raw transactions, whose ids and sizes are in the event anyway.

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::{AddrmanPart, RpcExtra, rpc_extra};
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{Addrman, AddrmanEntry};
use prost::Message;

/// For what surrounds an event on the wire: origin with the node's name, subject, headers. Bytes.
const MARGIN: usize = 4096;
/// Keys and lengths around an entry or a bucket are shorter: two tags and a key, two lengths of at most 5 bytes each.
const AROUND: usize = 24;

/// What is to be published.
#[derive(Debug, PartialEq)]
pub(super) struct Fitted {
    pub(super) events: Vec<PeerObserverEvent>,
    /// What had to be done to it.
    pub(super) how: How,
}

/// What had to be done to make an event fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Whole,
    InParts,
    WithoutRawTransactions,
    /// Nothing could be done: the server will refuse it.
    TooLarge,
}

/// Makes an event fit messages of `max_payload` bytes. All parts of an event are given the number `snapshot`.
pub(super) fn fit(event: PeerObserverEvent, max_payload: usize, snapshot: u64) -> Fitted {
    let budget = max_payload.saturating_sub(MARGIN);
    if event.encoded_len() <= budget {
        return Fitted { events: vec![event], how: How::Whole };
    }
    let PeerObserverEvent::RpcExtractor(mut rpc) = event else {
        return Fitted { events: vec![event], how: How::TooLarge };
    };
    match rpc.rpc_event.take() {
        Some(RpcEvent::Addrman(addrman)) => {
            let parts = split(addrman, budget, snapshot);
            let fits = parts.iter().all(|part| part.encoded_len() <= max_payload);
            let part = |part| RpcExtra { rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)) };
            Fitted {
                events: parts.into_iter().map(|p| PeerObserverEvent::RpcExtra(part(p))).collect(),
                how: if fits { How::InParts } else { How::TooLarge },
            }
        }
        Some(RpcEvent::OrphanTxs(mut orphans)) => {
            for orphan in &mut orphans.orphans {
                orphan.transaction.raw = None;
            }
            rpc.rpc_event = Some(RpcEvent::OrphanTxs(orphans));
            let event = PeerObserverEvent::RpcExtractor(rpc);
            let fits = event.encoded_len() <= budget;
            let how = if fits { How::WithoutRawTransactions } else { How::TooLarge };
            Fitted { events: vec![event], how }
        }
        other => {
            rpc.rpc_event = other;
            Fitted { events: vec![PeerObserverEvent::RpcExtractor(rpc)], how: How::TooLarge }
        }
    }
}

fn split(addrman: Addrman, budget: usize, snapshot: u64) -> Vec<AddrmanPart> {
    let mut parts = Parts { budget, parts: Vec::new(), current: Addrman::default(), bytes: 0, last: None };
    for (table, buckets) in [(Table::New, addrman.new), (Table::Tried, addrman.tried)] {
        for (bucket, entries) in buckets {
            for (position, entry) in entries.entries {
                parts.add(table, bucket, position, entry);
            }
        }
    }
    parts.finish(snapshot)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    New,
    Tried,
}

struct Parts {
    budget: usize,
    parts: Vec<Addrman>,
    current: Addrman,
    /// Of `current`, at most.
    bytes: usize,
    /// Where the last entry of `current` is.
    last: Option<(Table, u32)>,
}

impl Parts {
    fn add(&mut self, table: Table, bucket: u32, position: u32, entry: AddrmanEntry) {
        let cost = entry.encoded_len() + AROUND;
        if self.last.is_some() && self.bytes + cost + AROUND > self.budget {
            self.parts.push(std::mem::take(&mut self.current));
            (self.bytes, self.last) = (0, None);
        }
        if self.last != Some((table, bucket)) {
            self.bytes += AROUND;
        }
        self.bytes += cost;
        self.last = Some((table, bucket));
        let buckets = match table {
            Table::New => &mut self.current.new,
            Table::Tried => &mut self.current.tried,
        };
        buckets.entry(bucket).or_default().entries.insert(position, entry);
    }

    fn finish(mut self, snapshot: u64) -> Vec<AddrmanPart> {
        self.parts.push(self.current);
        let parts = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let part = |(part, addrman)| AddrmanPart { snapshot, part, parts, addrman };
        (0..parts).zip(self.parts).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use peer_observer_events::proto::bitcoin_primitives::Transaction;
    use peer_observer_events::proto::observer::Origin;
    use peer_observer_events::proto::rpc_extractor::{AddrmanBucket, OrphanTx, OrphanTxs, PeerInfos, Rpc};
    use peer_observer_events::{Event, Subject};

    use super::*;

    const MAX: usize = 5_242_880;

    /// `new` + `tried` entries at the places of a real address manager: 1,024 and 256 buckets of 64.
    fn addrman(new: u32, tried: u32) -> Addrman {
        let table = |n: u32, buckets: u32| {
            let mut table: BTreeMap<u32, AddrmanBucket> = BTreeMap::new();
            for i in 0..n {
                let entry = AddrmanEntry {
                    address: format!("{:0>56}.onion", i),
                    port: 8333,
                    network: "onion".into(),
                    services: u64::MAX >> (i % 64),
                    time: 1_700_000_000 + i64::from(i),
                    source: format!("2001:db8::{i:x}"),
                    source_network: "ipv6".into(),
                    mapped_as: Some(i),
                    source_mapped_as: None,
                };
                table.entry(i % buckets).or_default().entries.insert(i / buckets, entry);
            }
            table
        };
        Addrman { new: table(new, 1024), tried: table(tried, 256) }
    }

    fn event(addrman: Addrman) -> PeerObserverEvent {
        PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::Addrman(addrman)) })
    }

    /// Bytes on the wire, with a long name of the node.
    fn on_the_wire(event: &PeerObserverEvent) -> usize {
        let origin = Origin { node: "n".repeat(1000), ..Origin::default() };
        let all =
            Event { timestamp: u64::MAX, origin: Some(origin), peer_observer_event: Some(event.clone()) };
        all.encoded_len()
    }

    fn joined(events: Vec<PeerObserverEvent>) -> Addrman {
        let (mut whole, n) = (Addrman::default(), events.len());
        for (i, event) in events.into_iter().enumerate() {
            assert_eq!(Subject::of(&event), Some(Subject::RpcExtra));
            let PeerObserverEvent::RpcExtra(RpcExtra {
                rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)),
            }) = event
            else {
                panic!("no part");
            };
            assert_eq!((part.snapshot, part.part as usize, part.parts as usize), (7, i, n));
            let tables = [(&mut whole.new, part.addrman.new), (&mut whole.tried, part.addrman.tried)];
            for (table, buckets) in tables {
                for (bucket, entries) in buckets {
                    let bucket = table.entry(bucket).or_default();
                    for (position, entry) in entries.entries {
                        assert_eq!(bucket.entries.insert(position, entry), None, "an entry is in two parts");
                    }
                }
            }
        }
        whole
    }

    #[test]
    fn an_address_manager_goes_out_whole_while_it_fits() {
        let event = event(addrman(20_000, 5_000));
        let fitted = fit(event.clone(), MAX, 7);
        assert_eq!(fitted, Fitted { events: vec![event], how: How::Whole });
        assert!(on_the_wire(&fitted.events[0]) <= MAX);
    }

    #[test]
    fn a_full_address_manager_goes_out_in_parts_that_fit_and_are_together_the_whole() {
        let whole = addrman(65_000, 16_000);
        for max in [MAX, 1 << 20, 64 * 1024] {
            let fitted = fit(event(whole.clone()), max, 7);
            assert_eq!(fitted.how, How::InParts);
            assert!(fitted.events.iter().all(|e| on_the_wire(e) <= max), "{max}");
            // Parts are filled.
            let total: usize = fitted.events.iter().map(on_the_wire).sum();
            assert!(fitted.events.len() <= total / (max * 3 / 4) + 1, "{max}: {}", fitted.events.len());
            assert!(joined(fitted.events) == whole, "{max}");
        }
    }

    #[test]
    fn orphans_that_do_not_fit_go_out_without_their_raw_transactions() {
        let orphan = OrphanTx {
            txid: "id".into(),
            transaction: Transaction { raw: Some(vec![0; 100_000].into()), ..Transaction::default() },
            ..OrphanTx::default()
        };
        let orphans = |n| {
            let orphans = OrphanTxs { orphans: vec![orphan.clone(); n] };
            PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::OrphanTxs(orphans)) })
        };
        assert_eq!(fit(orphans(50), MAX, 7), Fitted { events: vec![orphans(50)], how: How::Whole });
        let fitted = fit(orphans(60), MAX, 7);
        assert_eq!(fitted.how, How::WithoutRawTransactions);
        let PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::OrphanTxs(left)) }) =
            &fitted.events[0]
        else {
            panic!("{:?}", fitted.how);
        };
        assert_eq!(left.orphans.len(), 60);
        assert!(left.orphans.iter().all(|o| o.txid == "id" && o.transaction.raw.is_none()));
    }

    #[test]
    fn what_cannot_be_made_smaller_is_said_to_be_too_large() {
        let peers = PeerInfos { infos: vec![Default::default(); 100_000] };
        let event = PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(RpcEvent::PeerInfos(peers)) });
        let fitted = fit(event.clone(), 1 << 20, 7);
        assert_eq!(fitted.how, How::TooLarge);
        assert!(fitted.events == [event]);
    }
}
