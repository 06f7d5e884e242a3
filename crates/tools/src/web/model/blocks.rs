//! How blocks reach the node: who tells of them first and how, what was missing, how long they took.

use std::collections::VecDeque;

/// Blocks that are kept.
const MAX_BLOCKS: usize = 144;
/// Blocks that only one peer told of and that the node did not connect: more of them are made up.
const MAX_ALONE: usize = 8;
/// Announcements of one block that are kept.
const MAX_SEEN: usize = 64;

/// How a peer told of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Headers,
    Inv,
    Compact,
    Block,
}

impl Via {
    /// The type of the message.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Via::Headers => "headers",
            Via::Inv => "inv",
            Via::Compact => "cmpctblock",
            Via::Block => "block",
        }
    }
}

/// A peer told of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) peer: u64,
    pub(crate) time_ns: u64,
    pub(crate) via: Via,
}

/// The node connected a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connected {
    pub(crate) time_ns: u64,
    pub(crate) height: i32,
    pub(crate) transactions: i64,
    pub(crate) inputs: i32,
    pub(crate) sigops: i64,
    pub(crate) duration_ns: u64,
}

/// What the log says of a compact block that became whole: transactions that came whole, that the node had, that it asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rebuilt {
    pub(crate) prefilled: u32,
    pub(crate) mempool: u32,
    pub(crate) extra: u32,
    pub(crate) requested: u32,
}

/// A block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) hash: [u8; 32],
    pub(crate) first_ns: u64,
    pub(crate) told: Vec<Told>,
    /// Short ids, and whole transactions, of the first compact block.
    pub(crate) compact: Option<(u32, u32)>,
    /// Transactions that the node asked for to complete it, of whom, when; and when they came.
    pub(crate) missing: Option<(u32, u64, u64)>,
    pub(crate) completed_ns: Option<u64>,
    /// When the whole block was asked for, of whom.
    pub(crate) asked: Option<(u64, u64)>,
    pub(crate) connected: Option<Connected>,
    pub(crate) rebuilt: Option<Rebuilt>,
    /// The node was started again since: what it tells now is not of this.
    is_past: bool,
}

impl Block {
    fn new(hash: [u8; 32], first_ns: u64) -> Self {
        Block {
            hash,
            first_ns,
            told: Vec::new(),
            compact: None,
            missing: None,
            completed_ns: None,
            asked: None,
            connected: None,
            rebuilt: None,
            is_past: false,
        }
    }

    /// One peer told of it, and that is all.
    fn is_a_rumour(&self) -> bool {
        self.told.len() == 1 && self.connected.is_none() && self.asked.is_none() && self.missing.is_none()
    }

    fn is_only_told_by(&self, peer: u64) -> bool {
        self.is_a_rumour() && self.told[0].peer == peer
    }
}

/// The last blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: VecDeque<Block>,
}

impl Blocks {
    /// A peer tells of a block. Returns whether it is the first to do so, and the node did not know it before.
    pub(crate) fn told(&mut self, hash: [u8; 32], peer: u64, via: Via, time_ns: u64) -> bool {
        let known = self.place(hash).is_some();
        if !known && self.blocks.iter().filter(|block| block.is_only_told_by(peer)).count() >= MAX_ALONE {
            return false;
        }
        let block = self.entry(hash, time_ns);
        let first = block.told.is_empty() && block.connected.is_none();
        let again = block.told.iter().any(|told| told.peer == peer && told.via == via);
        if !again && block.told.len() < MAX_SEEN {
            block.told.push(Told { peer, time_ns, via });
        }
        first
    }

    /// A compact block came, which was told of.
    pub(crate) fn compact(&mut self, hash: [u8; 32], short_ids: u32, whole: u32) {
        if let Some(block) = self.find(hash) {
            block.compact.get_or_insert((short_ids, whole));
        }
    }

    /// The node asks a peer for transactions of a compact block.
    pub(crate) fn misses(&mut self, hash: [u8; 32], transactions: u32, peer: u64, time_ns: u64) {
        self.entry(hash, time_ns).missing.get_or_insert((transactions, peer, time_ns));
    }

    /// They came.
    pub(crate) fn completed(&mut self, hash: [u8; 32], time_ns: u64) {
        if let Some(block) = self.find(hash) {
            block.completed_ns.get_or_insert(time_ns);
        }
    }

    /// The node asks a peer for the whole block.
    pub(crate) fn asked(&mut self, hash: [u8; 32], peer: u64, time_ns: u64) {
        self.entry(hash, time_ns).asked.get_or_insert((peer, time_ns));
    }

    /// The node connected it to its chain, which makes it the last one. When it did so before, it begins anew.
    pub(crate) fn connected(&mut self, hash: [u8; 32], connected: Connected) {
        let known = self.place(hash).filter(|place| self.blocks[*place].connected.is_none());
        let mut block = known
            .and_then(|place| self.blocks.remove(place))
            .unwrap_or_else(|| Block::new(hash, connected.time_ns));
        block.connected = Some(connected);
        self.push(block);
    }

    /// The node was started again: it tells anew of blocks that were under way.
    pub(crate) fn restarted(&mut self) {
        self.blocks.retain(|block| block.connected.is_some());
        self.blocks.iter_mut().for_each(|block| block.is_past = true);
    }

    /// The log says how a compact block was rebuilt.
    pub(crate) fn rebuilt(&mut self, hash: [u8; 32], rebuilt: Rebuilt, time_ns: u64) {
        self.entry(hash, time_ns).rebuilt = Some(rebuilt);
    }

    /// The last ones, the last first.
    pub(crate) fn last(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().rev()
    }

    fn place(&self, hash: [u8; 32]) -> Option<usize> {
        // Mostly it is among the last.
        self.blocks.iter().rposition(|block| block.hash == hash && !block.is_past)
    }

    fn find(&mut self, hash: [u8; 32]) -> Option<&mut Block> {
        self.place(hash).map(|place| &mut self.blocks[place])
    }

    fn entry(&mut self, hash: [u8; 32], time_ns: u64) -> &mut Block {
        let place = self.place(hash).unwrap_or_else(|| self.push(Block::new(hash, time_ns)));
        &mut self.blocks[place]
    }

    /// Puts one at the end, and returns its place.
    fn push(&mut self, block: Block) -> usize {
        if self.blocks.len() == MAX_BLOCKS {
            // What only one peer told of goes first.
            let alone = self.blocks.iter().position(Block::is_a_rumour);
            self.blocks.remove(alone.unwrap_or(0));
        }
        self.blocks.push_back(block);
        self.blocks.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_tell_of_a_block_is_known() {
        let mut blocks = Blocks::default();
        assert!(blocks.told([1; 32], 5, Via::Headers, 10));
        assert!(!blocks.told([1; 32], 6, Via::Compact, 11));
        assert!(!blocks.told([1; 32], 6, Via::Compact, 12));
        let block = blocks.last().next().unwrap();
        assert_eq!(block.told.iter().map(|told| told.peer).collect::<Vec<_>>(), [5, 6]);
    }

    fn connected(time_ns: u64) -> Connected {
        Connected { time_ns, height: 1, transactions: 1, inputs: 1, sigops: 1, duration_ns: 1 }
    }

    #[test]
    fn blocks_are_in_the_order_in_which_they_were_connected_and_one_that_is_connected_again_begins_anew() {
        let mut blocks = Blocks::default();
        for hash in [1, 2] {
            blocks.told([hash; 32], 5, Via::Headers, 10);
        }
        for (time_ns, hash) in [(20, 2), (21, 1), (22, 2)] {
            blocks.connected([hash; 32], connected(time_ns));
        }
        assert!(!blocks.told([2; 32], 6, Via::Inv, 23), "the node had it before");
        let seen: Vec<_> = blocks
            .last()
            .map(|block| (block.hash[0], block.first_ns, block.connected.unwrap().time_ns, block.told.len()))
            .collect();
        assert_eq!(seen, [(2, 22, 22, 1), (1, 10, 21, 1), (2, 10, 20, 1)]);
    }

    #[test]
    fn a_node_that_is_started_again_tells_anew_of_blocks() {
        let mut blocks = Blocks::default();
        for hash in [1, 2] {
            blocks.told([hash; 32], 5, Via::Headers, 10);
        }
        blocks.connected([1; 32], connected(20));
        blocks.restarted();
        assert_eq!(blocks.last().count(), 1);
        for hash in [1, 2] {
            assert!(blocks.told([hash; 32], 5, Via::Headers, 30));
        }
        assert_eq!(blocks.last().map(|block| block.first_ns).collect::<Vec<_>>(), [30, 30, 10]);
    }

    #[test]
    fn a_peer_that_makes_blocks_up_displaces_none() {
        let mut blocks = Blocks::default();
        let hash = |i: u64, kind: u8| {
            let mut hash = [kind; 32];
            hash[..8].copy_from_slice(&i.to_le_bytes());
            hash
        };
        for i in 0..MAX_BLOCKS as u64 {
            blocks.told(hash(i, 1), 5, Via::Headers, i);
            blocks.connected(hash(i, 1), connected(1));
        }
        for i in 0..10_000 {
            blocks.told(hash(i, 2), i % 9, Via::Inv, i);
        }
        let real = blocks.last().filter(|block| block.connected.is_some()).count();
        assert!(real >= MAX_BLOCKS - 1, "{real}");
        assert!(blocks.told(hash(0, 3), 99, Via::Headers, 1), "others are heard");
    }

    #[test]
    fn blocks_and_announcements_without_end_take_bounded_memory() {
        let mut blocks = Blocks::default();
        for i in 0..1_000_u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&i.to_le_bytes());
            for peer in 0..100 {
                blocks.told(hash, peer, Via::Inv, i);
            }
        }
        assert_eq!(blocks.last().count(), MAX_BLOCKS);
        assert!(blocks.last().all(|block| block.told.len() == MAX_SEEN));
    }
}
