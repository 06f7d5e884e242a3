//! The way of transactions through the node: who announced them first, whom the node asked, who sent them, what became of them.

use std::collections::{HashMap, VecDeque};

/// Transactions that are followed. On a busy node these are those of the last minutes.
const MAX_FOLLOWED: usize = 20_000;
/// Entries of one inv or getdata that are followed; all are counted. Bitcoin Core announces up to 1,000 at once
/// (INVENTORY_BROADCAST_MAX, src/net_processing.cpp).
pub(crate) const MAX_ENTRIES: usize = 1_000;

/// A transaction that was announced or sent.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// As it was announced: id with witness, or without.
    pub(crate) hash: [u8; 32],
    pub(crate) first_ns: u64,
    /// Who told of it first; nothing when the node did.
    pub(crate) first_peer: Option<u64>,
    /// Peers that announced it, that were told of it, that asked for it.
    pub(crate) announced_by: u32,
    pub(crate) told_to: u32,
    pub(crate) asked_by: u32,
    /// The peer that was asked last, and when.
    pub(crate) asked: Option<(u64, u64)>,
    /// The peer that sent it, and when.
    pub(crate) received: Option<(u64, u64)>,
    /// Taken into the mempool: when, virtual size (vB), fee (sat).
    pub(crate) added: Option<(u64, i32, i64)>,
    /// Refused, and not taken since. An orphan is refused, too, until its parents come.
    pub(crate) rejected: bool,
    /// No more in the mempool: mined, replaced, or removed otherwise.
    pub(crate) gone: bool,
}

/// The last transactions.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    by_hash: HashMap<[u8; 32], Transaction>,
    /// From the id without witness to the one it was announced by.
    alias: HashMap<[u8; 32], [u8; 32]>,
    /// In the order they came, with the alias of each.
    order: VecDeque<([u8; 32], Option<[u8; 32]>)>,
}

impl Transactions {
    /// A peer announces a transaction. Returns whether nobody had before.
    pub(crate) fn announced(&mut self, hash: [u8; 32], peer: u64, time_ns: u64) -> bool {
        let transaction = self.entry(hash, time_ns, Some(peer));
        transaction.announced_by += 1;
        transaction.announced_by == 1 && transaction.first_peer == Some(peer)
    }

    /// The node announces one.
    pub(crate) fn told(&mut self, hash: [u8; 32], time_ns: u64) {
        self.entry(hash, time_ns, None).told_to += 1;
    }

    /// The node asks a peer for one.
    pub(crate) fn asked(&mut self, hash: [u8; 32], peer: u64, time_ns: u64) {
        self.entry(hash, time_ns, None).asked = Some((peer, time_ns));
    }

    /// A peer asks the node for one.
    pub(crate) fn asked_by(&mut self, hash: [u8; 32], time_ns: u64) {
        self.entry(hash, time_ns, None).asked_by += 1;
    }

    /// A peer sends one. Returns whether the node had asked it to.
    pub(crate) fn received(&mut self, wtxid: [u8; 32], txid: [u8; 32], peer: u64, time_ns: u64) -> bool {
        let hash =
            if self.by_hash.contains_key(&txid) && !self.by_hash.contains_key(&wtxid) { txid } else { wtxid };
        let transaction = self.entry(hash, time_ns, Some(peer));
        let asked = transaction.asked.is_some_and(|(asked, _)| asked == peer);
        transaction.received.get_or_insert((peer, time_ns));
        self.name(txid, hash);
        asked
    }

    /// The mempool took one.
    pub(crate) fn added(&mut self, txid: [u8; 32], vsize: i32, fee: i64, time_ns: u64) {
        let transaction = self.by_txid(txid, time_ns);
        transaction.added = Some((time_ns, vsize, fee));
        (transaction.rejected, transaction.gone) = (false, false);
    }

    /// One left the mempool.
    pub(crate) fn gone(&mut self, txid: [u8; 32]) {
        let hash = self.alias.get(&txid).copied().unwrap_or(txid);
        if let Some(transaction) = self.by_hash.get_mut(&hash) {
            transaction.gone = true;
        }
    }

    /// The mempool refused one.
    pub(crate) fn rejected(&mut self, txid: [u8; 32], time_ns: u64) {
        let transaction = self.by_txid(txid, time_ns);
        transaction.rejected = transaction.added.is_none();
    }

    /// The last ones, the last first.
    pub(crate) fn last(&self) -> impl Iterator<Item = &Transaction> {
        self.order.iter().rev().filter_map(|(hash, _)| self.by_hash.get(hash))
    }

    fn by_txid(&mut self, txid: [u8; 32], time_ns: u64) -> &mut Transaction {
        let hash = self.alias.get(&txid).copied().unwrap_or(txid);
        self.entry(hash, time_ns, None)
    }

    fn name(&mut self, txid: [u8; 32], hash: [u8; 32]) {
        if txid == hash || self.alias.contains_key(&txid) {
            return;
        }
        // Most are named soon after they came.
        let Some(place) = self.order.iter_mut().rev().take(1024).find(|(h, _)| *h == hash) else { return };
        if place.1.is_none() {
            place.1 = Some(txid);
            self.alias.insert(txid, hash);
        }
    }

    fn entry(&mut self, hash: [u8; 32], time_ns: u64, first_peer: Option<u64>) -> &mut Transaction {
        if !self.by_hash.contains_key(&hash) {
            if self.order.len() == MAX_FOLLOWED
                && let Some((oldest, alias)) = self.order.pop_front()
            {
                self.by_hash.remove(&oldest);
                alias.and_then(|alias| self.alias.remove(&alias));
            }
            self.order.push_back((hash, None));
        }
        self.by_hash.entry(hash).or_insert_with(|| Transaction {
            hash,
            first_ns: time_ns,
            first_peer,
            announced_by: 0,
            told_to: 0,
            asked_by: 0,
            asked: None,
            received: None,
            added: None,
            rejected: false,
            gone: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_a_transaction_is_followed_over_both_of_its_ids() {
        let mut all = Transactions::default();
        let (wtxid, txid) = ([1; 32], [2; 32]);
        assert!(all.announced(wtxid, 7, 10));
        assert!(!all.announced(wtxid, 8, 11));
        all.asked(wtxid, 7, 12);
        assert!(all.received(wtxid, txid, 7, 13));
        all.added(txid, 141, 282, 14);
        all.told(wtxid, 15);
        all.asked_by(wtxid, 16);
        assert_eq!(all.last().count(), 1);
        let seen = all.last().next().unwrap();
        assert_eq!((seen.first_peer, seen.announced_by, seen.told_to, seen.asked_by), (Some(7), 2, 1, 1));
        assert_eq!((seen.received, seen.added), (Some((7, 13)), Some((14, 141, 282))));
    }

    #[test]
    fn an_orphan_is_refused_until_it_is_taken_and_what_is_mined_is_gone() {
        let mut all = Transactions::default();
        let (wtxid, txid) = ([1; 32], [2; 32]);
        all.announced(wtxid, 7, 10);
        all.received(wtxid, txid, 7, 11);
        let state = |all: &Transactions| {
            let seen = all.last().next().unwrap();
            (seen.rejected, seen.added.is_some(), seen.gone)
        };
        all.rejected(txid, 12);
        assert_eq!(state(&all), (true, false, false));
        all.added(txid, 141, 282, 13);
        all.rejected(txid, 14);
        assert_eq!(state(&all), (false, true, false), "again, it is refused as known");
        all.gone(txid);
        all.gone([9; 32]);
        assert_eq!((state(&all), all.last().count()), ((false, true, true), 1));
    }

    #[test]
    fn what_nobody_asked_for_is_told_apart() {
        let mut all = Transactions::default();
        assert!(!all.received([1; 32], [1; 32], 7, 10));
        all.announced([2; 32], 7, 10);
        all.asked([2; 32], 8, 11);
        assert!(!all.received([2; 32], [2; 32], 7, 12), "the other one was asked");
    }

    #[test]
    fn announcements_without_end_take_bounded_memory() {
        let mut all = Transactions::default();
        for i in 0..3 * MAX_FOLLOWED as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&i.to_le_bytes());
            let mut txid = hash;
            txid[31] = 1;
            all.announced(hash, i, i);
            all.received(hash, txid, i, i);
        }
        let sizes = (all.by_hash.len(), all.order.len(), all.alias.len());
        assert_eq!(sizes, (MAX_FOLLOWED, MAX_FOLLOWED, MAX_FOLLOWED));
    }
}
