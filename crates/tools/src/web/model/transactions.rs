//! The way of transactions through the node: who announced them first, whom the node asked, who sent them, what became of them.

use std::collections::{BTreeMap, HashMap};

/// Transactions that are followed. On a busy node these are those of the last minutes.
const MAX_FOLLOWED: usize = 20_000;
/// Entries of one inv or getdata that are followed; all are counted. Bitcoin Core announces up to 1,000 at once
/// (INVENTORY_BROADCAST_MAX, src/net_processing.cpp).
pub(crate) const MAX_ENTRIES: usize = 1_000;
/// Peers asked for one transaction that are kept. Bitcoin Core asks one after the other, a minute apart (GETDATA_TX_INTERVAL,
/// src/node/txdownloadman.h).
const MAX_ASKED: usize = 8;
/// Peers that do not have a block yet go on announcing what is in it, ns. What is told of later is told of anew.
const LATE_NS: u64 = 60 * 1_000_000_000;

/// A transaction that was announced or sent.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// As it was heard of first: id with witness, or without.
    pub(crate) hash: [u8; 32],
    /// The other of the two, once that is known.
    other: Option<[u8; 32]>,
    pub(crate) first_ns: u64,
    /// Who told of it first; nothing when the node did.
    pub(crate) first_peer: Option<u64>,
    /// That peer was told to be the first to announce it.
    is_credited: bool,
    /// Peers that announced it, that were told of it, that asked for it.
    pub(crate) announced_by: u32,
    pub(crate) told_to: u32,
    pub(crate) asked_by: u32,
    /// The peers that were asked last, and when, the last one last.
    pub(crate) asked: Vec<(u64, u64)>,
    /// The peer that sent it, and when.
    pub(crate) received: Option<(u64, u64)>,
    /// Taken into the mempool: when, virtual size (vB), fee (sat).
    pub(crate) added: Option<(u64, i32, i64)>,
    /// Refused, and not taken since. An orphan is refused, too, until its parents come.
    pub(crate) rejected: bool,
    /// When it left the mempool: mined, replaced, or removed otherwise.
    pub(crate) gone_ns: Option<u64>,
}

impl Transaction {
    fn new(hash: [u8; 32], time_ns: u64, first_peer: Option<u64>) -> Self {
        Transaction {
            hash,
            other: None,
            first_ns: time_ns,
            first_peer,
            is_credited: false,
            announced_by: 0,
            told_to: 0,
            asked_by: 0,
            asked: Vec::new(),
            received: None,
            added: None,
            rejected: false,
            gone_ns: None,
        }
    }

    /// Gone for so long that what is told of it now is told of another time that it comes.
    fn is_past(&self, time_ns: u64) -> bool {
        self.gone_ns.is_some_and(|gone_ns| time_ns.saturating_sub(gone_ns) > LATE_NS)
    }

    /// How long it took from when it was heard of until the mempool took it, ns. The node's own are not heard of from anybody.
    pub(crate) fn to_accept_ns(&self) -> Option<u64> {
        self.first_peer?;
        self.added.map(|(added_ns, ..)| added_ns.saturating_sub(self.first_ns))
    }

    fn ids(&self) -> impl Iterator<Item = [u8; 32]> {
        std::iter::once(self.hash).chain(self.other)
    }

    /// Whether it has no id but these.
    fn is_only(&self, ids: [[u8; 32]; 2]) -> bool {
        self.ids().all(|id| ids.contains(&id))
    }

    fn was_asked(&mut self, peer: u64, time_ns: u64) {
        self.asked.retain(|(asked, _)| *asked != peer);
        if self.asked.len() == MAX_ASKED {
            self.asked.remove(0);
        }
        self.asked.push((peer, time_ns));
    }

    /// Takes over what was heard of the same one under its other id, later. Returns the peer that was not the first, after all.
    fn merge(&mut self, later: Transaction) -> Option<u64> {
        self.announced_by += later.announced_by;
        self.told_to += later.told_to;
        self.asked_by += later.asked_by;
        let mut asked = std::mem::take(&mut self.asked);
        asked.extend(later.asked);
        asked.sort_by_key(|(_, time_ns)| *time_ns);
        asked.into_iter().for_each(|(peer, time_ns)| self.was_asked(peer, time_ns));
        self.received = self.received.into_iter().chain(later.received).min_by_key(|(_, time_ns)| *time_ns);
        self.added = self.added.into_iter().chain(later.added).min_by_key(|(time_ns, ..)| *time_ns);
        self.rejected = (self.rejected || later.rejected) && self.added.is_none();
        self.gone_ns = self.gone_ns.or(later.gone_ns);
        later.first_peer.filter(|_| later.is_credited)
    }
}

/// What is learnt when a transaction comes whole, with both of its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole {
    /// The node had asked the peer that sends it.
    pub(crate) is_asked: bool,
    /// A peer that was told to be the first to announce it: it was announced before, under its other id.
    pub(crate) not_first: Option<u64>,
}

/// The last transactions.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// By number, in the order in which they were heard of first.
    followed: BTreeMap<u64, Transaction>,
    /// The numbers of both ids.
    by_id: HashMap<[u8; 32], u64>,
    next: u64,
}

impl Transactions {
    /// A peer announces a transaction. Returns whether nobody had before.
    pub(crate) fn announced(&mut self, hash: [u8; 32], peer: u64, time_ns: u64) -> bool {
        let transaction = self.entry(hash, time_ns, Some(peer));
        transaction.announced_by += 1;
        let first = transaction.announced_by == 1 && transaction.first_peer == Some(peer);
        transaction.is_credited |= first;
        first
    }

    /// The node announces one.
    pub(crate) fn told(&mut self, hash: [u8; 32], time_ns: u64) {
        self.entry(hash, time_ns, None).told_to += 1;
    }

    /// The node asks a peer for one.
    pub(crate) fn asked(&mut self, hash: [u8; 32], peer: u64, time_ns: u64) {
        self.entry(hash, time_ns, None).was_asked(peer, time_ns);
    }

    /// A peer asks the node for one.
    pub(crate) fn asked_by(&mut self, hash: [u8; 32], time_ns: u64) {
        self.entry(hash, time_ns, None).asked_by += 1;
    }

    /// A peer sends one.
    pub(crate) fn received(&mut self, wtxid: [u8; 32], txid: [u8; 32], peer: u64, time_ns: u64) -> Whole {
        let (transaction, not_first) = self.whole(wtxid, txid, time_ns, Some(peer));
        transaction.received.get_or_insert((peer, time_ns));
        Whole { is_asked: transaction.asked.iter().any(|(asked, _)| *asked == peer), not_first }
    }

    /// The node sends one: of its own, both ids are known from then on. Returns a peer that was told to be the first to announce it
    /// although it was known before, under its other id.
    pub(crate) fn sent(&mut self, wtxid: [u8; 32], txid: [u8; 32], time_ns: u64) -> Option<u64> {
        let is_followed = [wtxid, txid].iter().any(|id| self.current(*id, time_ns).is_some());
        is_followed.then(|| self.whole(wtxid, txid, time_ns, None).1).flatten()
    }

    /// The mempool took one. One that was gone, as after a reorganization, begins anew.
    pub(crate) fn added(&mut self, txid: [u8; 32], vsize: i32, fee: i64, time_ns: u64) {
        let is_gone = self.find(txid).is_some_and(|transaction| transaction.gone_ns.is_some());
        let transaction = match is_gone {
            true => self.begin_again(txid, time_ns, None),
            false => self.entry(txid, time_ns, None),
        };
        transaction.added.get_or_insert((time_ns, vsize, fee));
        transaction.rejected = false;
    }

    /// One left the mempool.
    pub(crate) fn gone(&mut self, txid: [u8; 32], time_ns: u64) {
        if let Some(transaction) = self.find(txid) {
            transaction.gone_ns.get_or_insert(time_ns);
        }
    }

    /// The node was started again: it knows nothing of what was under way, and tells anew of what its mempool had.
    pub(crate) fn restarted(&mut self) {
        self.followed.retain(|_, transaction| transaction.rejected || transaction.gone_ns.is_some());
        self.by_id.clear();
    }

    /// The mempool refused one.
    pub(crate) fn rejected(&mut self, txid: [u8; 32], time_ns: u64) {
        let transaction = self.entry(txid, time_ns, None);
        transaction.rejected = transaction.added.is_none();
    }

    /// The last ones, the last first.
    pub(crate) fn last(&self) -> impl Iterator<Item = &Transaction> {
        self.followed.values().rev()
    }

    fn find(&mut self, hash: [u8; 32]) -> Option<&mut Transaction> {
        self.followed.get_mut(self.by_id.get(&hash)?)
    }

    /// The number of the one of that id that this is told of.
    fn current(&self, hash: [u8; 32], time_ns: u64) -> Option<u64> {
        let number = *self.by_id.get(&hash)?;
        self.followed.get(&number).filter(|transaction| !transaction.is_past(time_ns)).map(|_| number)
    }

    /// The transaction that both ids are of, and the peer that was not the first to announce it, after all.
    fn whole(
        &mut self,
        wtxid: [u8; 32],
        txid: [u8; 32],
        time_ns: u64,
        first_peer: Option<u64>,
    ) -> (&mut Transaction, Option<u64>) {
        let ids = [wtxid, txid];
        // With another witness, it is another transaction with the same id.
        let known = ids.map(|id| {
            let number = self.current(id, time_ns)?;
            self.followed.get(&number)?.is_only(ids).then_some(number)
        });
        let mut not_first = None;
        let number = match known {
            [Some(one), Some(other)] if one != other => {
                let (number, later) = self.in_order(one, other);
                let later = self.followed.remove(&later);
                let kept = self.followed.get_mut(&number).zip(later);
                not_first = kept.and_then(|(kept, later)| kept.merge(later));
                number
            }
            [Some(number), _] | [None, Some(number)] => number,
            [None, None] => self.make_room(),
        };
        self.by_id.extend(ids.map(|id| (id, number)));
        let transaction =
            self.followed.entry(number).or_insert_with(|| Transaction::new(wtxid, time_ns, first_peer));
        transaction.other = ids.into_iter().find(|id| *id != transaction.hash);
        (transaction, not_first)
    }

    /// Of two, the one that was heard of first, and the other.
    fn in_order(&self, one: u64, other: u64) -> (u64, u64) {
        let age = |number: &u64| (self.followed.get(number).map(|seen| seen.first_ns), *number);
        if age(&one) <= age(&other) { (one, other) } else { (other, one) }
    }

    fn entry(&mut self, hash: [u8; 32], time_ns: u64, first_peer: Option<u64>) -> &mut Transaction {
        match self.current(hash, time_ns) {
            Some(number) => {
                self.followed.entry(number).or_insert_with(|| Transaction::new(hash, time_ns, first_peer))
            }
            None => self.begin_again(hash, time_ns, first_peer),
        }
    }

    /// Follows one from now on. What was told of it before stays as it is, but its ids are those of the new one.
    fn begin_again(&mut self, hash: [u8; 32], time_ns: u64, first_peer: Option<u64>) -> &mut Transaction {
        let before = self.by_id.get(&hash).and_then(|number| Some((number, self.followed.get(number)?)));
        let other = before.and_then(|(number, seen)| {
            let other = seen.ids().find(|id| *id != hash)?;
            Some(other).filter(|other| self.by_id.get(other) == Some(number))
        });
        let number = self.make_room();
        self.by_id.extend(std::iter::once(hash).chain(other).map(|id| (id, number)));
        let transaction =
            self.followed.entry(number).or_insert_with(|| Transaction::new(hash, time_ns, first_peer));
        transaction.other = other;
        transaction
    }

    /// The number of the next one, for which there is room then.
    fn make_room(&mut self) -> u64 {
        if self.followed.len() >= MAX_FOLLOWED {
            self.forget_oldest();
        }
        self.next += 1;
        self.next
    }

    fn forget_oldest(&mut self) {
        let Some((number, oldest)) = self.followed.pop_first() else { return };
        for id in oldest.ids() {
            // It may be the id of a later one by now.
            if self.by_id.get(&id) == Some(&number) {
                self.by_id.remove(&id);
            }
        }
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
        assert_eq!(all.received(wtxid, txid, 7, 13), Whole { is_asked: true, not_first: None });
        all.added(txid, 141, 282, 14);
        all.told(wtxid, 15);
        all.asked_by(wtxid, 16);
        // From now on, under any of the two.
        assert!(!all.announced(txid, 9, 17));
        all.told(txid, 18);
        all.asked_by(txid, 19);
        all.asked(txid, 9, 20);
        assert_eq!(all.last().count(), 1);
        let seen = all.last().next().unwrap();
        assert_eq!((seen.first_peer, seen.announced_by, seen.told_to, seen.asked_by), (Some(7), 3, 2, 2));
        assert_eq!((seen.received, seen.added), (Some((7, 13)), Some((14, 141, 282))));
        assert_eq!(seen.asked, [(7, 12), (9, 20)]);
    }

    #[test]
    fn what_was_heard_of_under_each_id_is_one_when_it_comes_and_the_first_peer_was_first() {
        let (wtxid, txid) = ([1; 32], [2; 32]);
        for ids in [[wtxid, txid], [txid, wtxid]] {
            let mut all = Transactions::default();
            assert!(all.announced(ids[0], 7, 10));
            all.asked(ids[0], 7, 11);
            // It stalls.
            assert!(all.announced(ids[1], 8, 40));
            all.announced(ids[1], 9, 41);
            all.asked(ids[1], 8, 42);
            all.told(ids[1], 43);
            assert_eq!(all.last().count(), 2, "nobody can know yet");
            assert_eq!(all.received(wtxid, txid, 8, 44), Whole { is_asked: true, not_first: Some(8) });
            all.added(txid, 141, 282, 45);
            assert_eq!(all.last().count(), 1);
            let seen = all.last().next().unwrap();
            assert_eq!((seen.hash, seen.first_ns, seen.first_peer), (ids[0], 10, Some(7)));
            assert_eq!((seen.announced_by, seen.told_to, &*seen.asked), (3, 1, &[(7, 11), (8, 42)][..]));
            assert_eq!((seen.received, seen.added), (Some((8, 44)), Some((45, 141, 282))));
            assert!(all.received(wtxid, txid, 7, 46).is_asked, "the one that stalled was asked, too");
        }
    }

    #[test]
    fn another_witness_is_another_transaction_and_the_mempool_tells_of_the_last_that_came() {
        let mut all = Transactions::default();
        let txid = [9; 32];
        for witness in [1, 2] {
            all.announced([witness; 32], witness.into(), 10);
            all.received([witness; 32], txid, witness.into(), 11);
            all.rejected(txid, 12);
        }
        all.added(txid, 141, 282, 13);
        let seen: Vec<_> =
            all.last().map(|seen| (seen.hash[0], seen.rejected, seen.added.is_some())).collect();
        assert_eq!(seen, [(2, false, true), (1, true, false)]);
    }

    #[test]
    fn peers_asked_without_end_take_bounded_memory() {
        let mut all = Transactions::default();
        for peer in 0..1_000 {
            all.asked([1; 32], peer, peer);
            all.asked([2; 32], peer, peer);
        }
        all.received([1; 32], [2; 32], 1, 1_000);
        let asked = &all.last().next().unwrap().asked;
        assert_eq!((asked.len(), asked.last()), (MAX_ASKED, Some(&(999, 999))));
    }

    #[test]
    fn an_orphan_is_refused_until_it_is_taken_and_what_is_mined_is_gone() {
        let mut all = Transactions::default();
        let (wtxid, txid) = ([1; 32], [2; 32]);
        all.announced(wtxid, 7, 10);
        all.received(wtxid, txid, 7, 11);
        let state = |all: &Transactions| {
            let seen = all.last().next().unwrap();
            (seen.rejected, seen.added.is_some(), seen.gone_ns.is_some())
        };
        all.rejected(txid, 12);
        assert_eq!(state(&all), (true, false, false));
        all.added(txid, 141, 282, 13);
        all.rejected(txid, 14);
        assert_eq!(state(&all), (false, true, false), "again, it is refused as known");
        all.gone(txid, 15);
        all.gone([9; 32], 15);
        assert_eq!((state(&all), all.last().count()), ((false, true, true), 1));
    }

    #[test]
    fn what_comes_again_begins_anew_and_what_is_late_does_not() {
        let (wtxid, txid) = ([1; 32], [2; 32]);
        let come = |all: &mut Transactions, peer: u64, time_ns: u64| {
            assert!(all.announced(wtxid, peer, time_ns));
            all.asked(wtxid, peer, time_ns + 1);
            assert!(all.received(wtxid, txid, peer, time_ns + 2).is_asked);
            all.added(txid, 141, 282, time_ns + 3);
        };
        let mut all = Transactions::default();
        come(&mut all, 7, 10);
        all.added(txid, 141, 282, 20);
        assert_eq!(all.last().next().unwrap().to_accept_ns(), Some(3), "the first counts");
        all.gone(txid, 30);
        assert!(!all.announced(wtxid, 8, 30 + LATE_NS));
        assert_eq!(all.last().count(), 1);
        come(&mut all, 8, 31 + LATE_NS);
        // A block that it was in is no more: nobody announces it.
        all.gone(txid, 32 + LATE_NS);
        all.added(txid, 141, 282, 33 + LATE_NS);
        all.told(wtxid, 34 + LATE_NS);
        assert_eq!(all.sent(wtxid, txid, 35 + LATE_NS), None);
        let seen: Vec<_> = all
            .last()
            .map(|seen| (seen.first_peer, seen.announced_by, seen.to_accept_ns(), seen.gone_ns.is_some()))
            .collect();
        let expected = [(None, 0, None, false), (Some(8), 1, Some(3), true), (Some(7), 2, Some(3), true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_node_that_is_started_again_tells_anew_of_what_was_under_way() {
        let mut all = Transactions::default();
        for id in 1..=4 {
            all.announced([id; 32], 7, 10);
        }
        all.added([1; 32], 141, 282, 11);
        all.gone([1; 32], 12);
        all.added([2; 32], 141, 282, 11);
        all.rejected([3; 32], 12);
        all.restarted();
        assert_eq!(all.last().map(|seen| seen.hash[0]).collect::<Vec<_>>(), [3, 1]);
        for id in 1..=4 {
            assert!(all.announced([id; 32], 7, 20));
        }
        assert_eq!(all.last().map(|seen| seen.hash[0]).collect::<Vec<_>>(), [4, 3, 2, 1, 3, 1]);
    }

    #[test]
    fn what_nobody_asked_for_is_told_apart() {
        let mut all = Transactions::default();
        assert!(!all.received([1; 32], [1; 32], 7, 10).is_asked);
        all.announced([2; 32], 7, 10);
        all.asked([2; 32], 8, 11);
        assert!(!all.received([2; 32], [2; 32], 7, 12).is_asked, "the other one was asked");
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
            // Of some, both were heard of apart, and some are of the same id with another witness.
            if i % 3 == 0 {
                all.announced(txid, i, i);
            }
            if i % 5 == 0 {
                txid = [7; 32];
            }
            all.received(hash, txid, i, i);
            // And some come again.
            if i % 7 == 0 {
                all.gone(txid, i);
                all.added(txid, 141, 282, i);
                all.announced(hash, i, i + 2 * LATE_NS);
            }
        }
        assert_eq!(all.followed.len(), MAX_FOLLOWED);
        assert!(all.by_id.len() <= 2 * MAX_FOLLOWED, "{}", all.by_id.len());
        assert!(all.by_id.values().all(|number| all.followed.contains_key(number)));
    }
}
