//! From books that say how much there was so far to counters.
//!
//! The eBPF extractor's books begin anew with every process that it watches and with every start of its own, while a counter
//! of a node goes on. So what counts is by how much the book of one process grew since it came last.

use std::collections::HashMap;

use peer_observer_exporter::labels::bounded;

/// Books that are remembered: tracepoints times processes. The one that did not come for longest is forgotten for a new one.
const MAX_BOOKS: usize = 4096;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    node: Box<str>,
    session: u64,
    pid: u32,
    tracepoint: Box<str>,
}

#[derive(Debug)]
struct Last {
    numbers: [u64; 4],
    seen: u64,
}

/// What the books said last.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    books: HashMap<Key, Last>,
    clock: u64,
}

impl Progress {
    /// By how much the numbers of this book grew; everything when it comes for the first time. A number that went back, which a
    /// process id that was used again can make of it, begins anew.
    pub(crate) fn since_last(
        &mut self,
        node: &str,
        session: u64,
        pid: u32,
        tracepoint: &str,
        numbers: [u64; 4],
    ) -> [u64; 4] {
        self.clock += 1;
        let key = Key { node: bounded(node).into(), session, pid, tracepoint: bounded(tracepoint).into() };
        if let Some(last) = self.books.get_mut(&key) {
            last.seen = self.clock;
            let before = std::mem::replace(&mut last.numbers, numbers);
            let went_back = numbers.iter().zip(before).any(|(now, before)| *now < before);
            if went_back {
                return numbers;
            }
            return std::array::from_fn(|i| numbers[i] - before[i]);
        }
        if self.books.len() >= MAX_BOOKS {
            // Half at a time, so that a flood of books does not make each one cost a search.
            let mut seen: Vec<u64> = self.books.values().map(|last| last.seen).collect();
            let (_, median, _) = seen.select_nth_unstable(MAX_BOOKS / 2);
            let median = *median;
            self.books.retain(|_, last| last.seen > median);
        }
        self.books.insert(key, Last { numbers, seen: self.clock });
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_counts_by_what_it_grew() {
        let mut p = Progress::default();
        let mut see = |pid, numbers| p.since_last("alice", 1, pid, "net:inbound_message", numbers);
        assert_eq!(see(1, [5, 4, 1, 0]), [5, 4, 1, 0]);
        assert_eq!(see(1, [7, 6, 1, 0]), [2, 2, 0, 0]);
        assert_eq!(see(2, [1, 1, 0, 0]), [1, 1, 0, 0]);
        assert_eq!(see(1, [3, 3, 0, 0]), [3, 3, 0, 0]);
        assert_eq!(see(1, [3, 3, 0, 0]), [0, 0, 0, 0]);
    }

    #[test]
    fn books_that_come_regularly_are_remembered_in_a_flood() {
        let mut p = Progress::default();
        for pid in 1..20_000 {
            p.since_last("x", 1, pid, "t", [1; 4]);
            if pid % 100 == 0 {
                p.since_last("alice", 1, 0, "t", [u64::from(pid); 4]);
            }
        }
        assert!(p.books.len() <= MAX_BOOKS);
        assert_eq!(p.since_last("alice", 1, 0, "t", [19_901; 4]), [1; 4]);
    }
}
