//! Who gets one of the few connections that a server has.
//!
//! A plain limit lets one client keep everybody else out by holding all of them. Here a client may
//! have all of them only as long as nobody else wants one: when they are taken, a newcomer gets a
//! connection of the source that holds more than the newcomer's source does. Two sources that both
//! want all end with half each, however often one of them connects again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Where a client comes from, as far as limits tell clients apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// A network of IPv6, by its first 64 bits: whoever has one address has all of them.
    V6(u64),
    /// A user of this machine, by uid: a process may connect from any loopback address.
    User(u32),
    /// This machine, where the user is unknown: the client has closed its socket already.
    Local,
}

impl Source {
    /// The source of an address of another machine.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => Source::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Which of its own connections a source gives up for a new one when all are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The one that was not used for the longest time. If all are busy, the new one is refused.
    LeastRecentlyUsed,
    /// The oldest that is not established; if all are, the new one is refused.
    Pending,
}

/// A bounded number of connections.
pub struct Slots {
    limit: usize,
    give_up: GiveUp,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    holders: BTreeMap<u64, Holder>,
    /// Numbers slots, and orders their uses.
    clock: u64,
}

struct Holder {
    source: Source,
    established: bool,
    busy: bool,
    used: u64,
    revoked: CancellationToken,
}

/// Connections of a source.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    pending: usize,
    all: usize,
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn counts(&self) -> BTreeMap<Source, Count> {
        let mut counts = BTreeMap::<_, Count>::new();
        for holder in self.holders.values() {
            let count = counts.entry(holder.source).or_default();
            count.all += 1;
            count.pending += usize::from(!holder.established);
        }
        counts
    }

    /// The slot that a newcomer gets.
    fn victim(&self, newcomer: Source, give_up: GiveUp) -> Option<u64> {
        let counts = self.counts();
        let own = counts.get(&newcomer).copied().unwrap_or_default();
        let greediest = |held: fn(&Count) -> usize| {
            // With a difference of one, two sources would take the same slot from each other for
            // ever.
            let more = counts.iter().filter(|(_, count)| held(count) >= held(&own) + 2);
            more.max_by_key(|(_, count)| held(count)).map(|(source, _)| *source)
        };
        // Connections that did nothing yet are worth less than those that are in use.
        let other = greediest(|count| count.pending).or_else(|| greediest(|count| count.all));
        match other {
            Some(source) => self.least_used(source),
            None => self.least_used(newcomer).filter(|id| self.gives_way(*id, give_up)),
        }
    }

    fn least_used(&self, source: Source) -> Option<u64> {
        let of_source = self.holders.iter().filter(|(_, holder)| holder.source == source);
        let least = of_source.min_by_key(|(_, holder)| (holder.busy, holder.established, holder.used));
        least.map(|(id, _)| *id)
    }

    /// Whether a slot is given up for one of its own source.
    fn gives_way(&self, id: u64, give_up: GiveUp) -> bool {
        self.holders.get(&id).is_some_and(|holder| match give_up {
            GiveUp::LeastRecentlyUsed => !holder.busy,
            GiveUp::Pending => !holder.established,
        })
    }

    fn revoke(&mut self, id: u64) {
        if let Some(holder) = self.holders.remove(&id) {
            holder.revoked.cancel();
        }
    }
}

impl Slots {
    /// As many as `limit`, all of them free.
    pub fn new(limit: usize, give_up: GiveUp) -> Arc<Self> {
        Arc::new(Slots { limit, give_up, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that hold a slot.
    pub fn taken(&self) -> usize {
        self.table().holders.len()
    }

    /// A slot for a connection from `source`. When all are taken, another connection may have to
    /// give up its slot, which it sees by [`Slot::revoked`]; `None` when none has to.
    pub fn admit(self: &Arc<Self>, source: Source) -> Option<Slot> {
        let mut table = self.table();
        if table.holders.len() >= self.limit {
            let victim = table.victim(source, self.give_up)?;
            table.revoke(victim);
        }
        let id = table.tick();
        let revoked = CancellationToken::new();
        let holder = Holder { source, established: false, busy: false, used: id, revoked: revoked.clone() };
        table.holders.insert(id, holder);
        Some(Slot { id, source, revoked, slots: self.clone() })
    }

    /// Revokes the slot that is used least by the source that holds most, because there are no file
    /// descriptors left. Established connections of a [`GiveUp::Pending`] server are spared.
    /// Returns whether there was one.
    pub fn shed(&self) -> bool {
        let mut table = self.table();
        let counts = table.counts();
        let greediest = counts.iter().max_by_key(|(_, count)| (count.pending, count.all));
        let Some(id) = greediest.and_then(|(source, _)| table.least_used(*source)) else { return false };
        let gives_way = table.gives_way(id, self.give_up);
        if gives_way {
            table.revoke(id);
        }
        gives_way
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("limit", &self.limit).field("taken", &self.taken()).finish()
    }
}

/// A connection's permission to exist, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    id: u64,
    source: Source,
    revoked: CancellationToken,
    slots: Arc<Slots>,
}

impl Slot {
    /// Where its connection comes from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Its connection is in use until what is returned is dropped: others give up theirs first.
    pub fn busy(&self) -> Busy<'_> {
        self.set_busy(true);
        Busy(self)
    }

    fn set_busy(&self, busy: bool) {
        let mut table = self.slots.table();
        let used = table.tick();
        if let Some(holder) = table.holders.get_mut(&self.id) {
            (holder.busy, holder.used) = (busy, used);
        }
    }

    /// Its client has done what clients are there for: from now on it is not [`GiveUp::Pending`].
    pub fn establish(&self) {
        if let Some(holder) = self.slots.table().holders.get_mut(&self.id) {
            holder.established = true;
        }
    }

    /// Waits until its connection has to be closed for another one.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}

/// A slot's connection is in use.
#[derive(Debug)]
pub struct Busy<'a>(&'a Slot);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.table().holders.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVE: Source = Source::User(1);
    const ALICE: Source = Source::User(2);
    const BOB: Source = Source::V6(3);

    fn admit(slots: &Arc<Slots>, source: Source, n: usize) -> Vec<Slot> {
        (0..n).map_while(|_| slots.admit(source)).collect()
    }

    fn held(slots: &Slots, source: Source) -> usize {
        slots.table().counts().get(&source).map_or(0, |count| count.all)
    }

    #[test]
    fn one_source_cannot_keep_another_out() {
        for give_up in [GiveUp::LeastRecentlyUsed, GiveUp::Pending] {
            for established in [false, true] {
                let slots = Slots::new(16, give_up);
                let mut eve = admit(&slots, EVE, 16);
                assert_eq!(held(&slots, EVE), 16, "nobody else wants them");
                eve.iter().filter(|_| established).for_each(Slot::establish);
                let alice = admit(&slots, ALICE, 8);
                alice.iter().for_each(Slot::establish);
                assert_eq!((held(&slots, EVE), held(&slots, ALICE)), (8, 8));
                // However often the other one tries.
                for _ in 0..100 {
                    eve.extend(slots.admit(EVE));
                    assert!(eve.iter().filter(|slot| !slot.revoked.is_cancelled()).count() <= 8);
                    assert!(alice.iter().all(|slot| !slot.revoked.is_cancelled()));
                }
                // Nor does a third source get less.
                let bob = admit(&slots, BOB, 4);
                assert_eq!(bob.len(), 4);
                assert!(held(&slots, ALICE) >= 5 && held(&slots, EVE) <= 7);
                assert_eq!(slots.taken(), 16);
            }
        }
    }

    #[test]
    fn silent_connections_give_way_to_a_larger_source() {
        let slots = Slots::new(16, GiveUp::Pending);
        let nodes = admit(&slots, ALICE, 10);
        nodes.iter().for_each(Slot::establish);
        let silent = admit(&slots, EVE, 6);
        for left in (1..6).rev() {
            slots.admit(ALICE).map(|slot| (slot.establish(), std::mem::forget(slot))).unwrap();
            assert_eq!(held(&slots, EVE), left);
        }
        assert!(silent[0].revoked.is_cancelled(), "the oldest first");
        assert!(nodes.iter().all(|slot| !slot.revoked.is_cancelled()));
    }

    #[test]
    fn newcomer_of_a_full_source_replaces_what_the_server_says() {
        let slots = Slots::new(2, GiveUp::LeastRecentlyUsed);
        let both = admit(&slots, ALICE, 2);
        both.iter().for_each(Slot::establish);
        drop(both[0].busy());
        let third = slots.admit(ALICE).unwrap();
        assert!(both[1].revoked.is_cancelled() && !both[0].revoked.is_cancelled());
        drop((both, third));
        assert_eq!(slots.taken(), 0);

        let slots = Slots::new(2, GiveUp::Pending);
        let both = admit(&slots, ALICE, 2);
        both[0].establish();
        let third = slots.admit(ALICE).unwrap();
        assert!(both[1].revoked.is_cancelled());
        third.establish();
        assert!(slots.admit(ALICE).is_none());
    }

    #[test]
    fn busy_connection_gives_way_to_other_sources_only() {
        let slots = Slots::new(2, GiveUp::LeastRecentlyUsed);
        let both = admit(&slots, ALICE, 2);
        let _busy = both[0].busy();
        let third = slots.admit(ALICE).unwrap();
        assert!(both[1].revoked.is_cancelled());
        let _also_busy = third.busy();
        assert!(slots.admit(ALICE).is_none());
        assert!(slots.admit(BOB).is_some());
        assert!(both[0].revoked.is_cancelled());
    }

    #[test]
    fn revoked_slot_is_not_given_back_twice() {
        let slots = Slots::new(1, GiveUp::LeastRecentlyUsed);
        let first = slots.admit(ALICE).unwrap();
        let second = slots.admit(ALICE).unwrap();
        drop(first);
        assert_eq!(slots.taken(), 1);
        drop(second);
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn shedding_spares_established_nodes() {
        let slots = Slots::new(4, GiveUp::Pending);
        let [node, silent] = [slots.admit(ALICE).unwrap(), slots.admit(EVE).unwrap()];
        node.establish();
        assert!(slots.shed());
        assert!(!slots.shed());
        assert!(silent.revoked.is_cancelled() && !node.revoked.is_cancelled());
    }

    #[test]
    fn ipv6_sources_are_networks() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
