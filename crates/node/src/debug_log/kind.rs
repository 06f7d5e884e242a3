//! What messages mean, for those that mean something to us.

use std::borrow::Cow;

/// What a message means. Peers are Bitcoin Core's ids, hashes are hex in display order.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    /// A block was connected to the chain, or that is waiting to be told.
    BlockConnected {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
    },
    /// A block was checked.
    BlockChecked {
        /// Block hash.
        hash: &'a str,
        /// `Valid`, or why it is not.
        state: &'a str,
        /// What follows the first comma; may be empty.
        debug: &'a str,
    },
    /// A header that is new to the node.
    SawNewHeader {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
        /// The peer.
        peer: u32,
        /// It came in a compact block.
        compact: bool,
    },
    /// A compact block became a block.
    Reconstructed {
        /// Block hash.
        hash: &'a str,
        /// Transactions that came with it.
        prefilled: u32,
        /// Transactions that the node had.
        mempool: u32,
        /// Of these, at least so many from the extra pool.
        extra: u32,
        /// Transactions that were asked for.
        requested: u32,
        /// Size of those, bytes; 0 when the node does not say.
        requested_bytes: u32,
    },
    /// The chain has a new tip.
    UpdateTip {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
        /// Block version.
        version: i32,
        /// Logarithm to base 2 of the chain's work, hashes.
        log2_work: f64,
        /// Transactions in the chain.
        tx_count: u64,
        /// Time of the block, UNIX s.
        time: u64,
        /// Share of the chain that is verified, 0 to 1.
        progress: f64,
        /// Memory of the coins cache, MiB.
        cache_mib: f64,
        /// Coins in the cache.
        cache_coins: u64,
        /// Warning at the end of the line.
        warning: Option<&'a str>,
    },
    /// Something did not come in time.
    DownloadTimeout {
        /// What.
        what: DownloadOf<'a>,
        /// The peer.
        peer: Option<u64>,
        /// The connection is closed.
        disconnecting: bool,
    },
    /// A peer holds up the download of blocks.
    DownloadStalling {
        /// The peer.
        peer: Option<u64>,
        /// The connection is closed; otherwise its time begins to run out.
        disconnecting: bool,
    },
    /// The node closes a connection.
    Disconnect {
        /// The peer.
        peer: u64,
        /// Its address and port.
        addr: Option<&'a str>,
        /// Why; may be empty.
        reason: Cow<'a, str>,
    },
    /// A peer misbehaved.
    Misbehaving {
        /// The peer.
        peer: u64,
        /// How; may be empty.
        reason: &'a str,
        /// Score before and after, in Core before 28.
        score: Option<(u32, u32)>,
    },
    /// What follows from misbehaving.
    Discouraged {
        /// The peer.
        peer: u64,
        /// What follows.
        outcome: Outcome,
    },
    /// An inbound peer gives way to another.
    Eviction {
        /// The peer that is closed.
        peer: u64,
        /// Its address and port.
        addr: Option<&'a str>,
    },
    /// Headers that are not stored yet: their chain may have too little work.
    Presync {
        /// How far it is.
        state: Presync,
        /// The peer.
        peer: Option<u64>,
        /// Height reached, blocks.
        height: Option<u64>,
        /// Why it was given up.
        reason: Option<&'a str>,
    },
    /// Orphan transactions were dropped.
    OrphansRemoved {
        /// Number of transactions.
        count: u64,
        /// Number of announcements.
        announcements: Option<u64>,
        /// `overflow`, `expired`, `block`, `peer` or `unknown`.
        cause: &'static str,
        /// The peer that left.
        peer: Option<u64>,
        /// Witness transaction id, when it is one transaction.
        wtxid: Option<&'a str>,
    },
    /// The node dialled itself.
    ConnectedToSelf {
        /// Address and port.
        addr: &'a str,
    },
    /// The node leaves out lines of one place in its source, or no longer does.
    LogRateLimit {
        /// `net.cpp:123`
        location: &'a str,
        /// Function there.
        function: &'a str,
        /// Lines are left out from now on.
        suppressing: bool,
        /// What was left out, bytes, once that is over.
        dropped_bytes: Option<u64>,
        /// Length of the window, s.
        window: u64,
    },
    /// The node starts.
    NodeStarted {
        /// `v30.0.0 (release build)`
        version: &'a str,
    },
    /// The node ends.
    NodeStopped {
        /// It has ended; otherwise it begins to.
        done: bool,
    },
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadOf<'a> {
    /// A block with this hash.
    Block(&'a str),
    /// Headers.
    Headers,
}

/// What follows from misbehaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Disconnected, and the address is discouraged.
    Discouraged,
    /// Disconnected only.
    Disconnected,
    /// Nothing.
    Spared,
}

/// How far the synchronisation of headers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presync {
    /// It begins.
    Started,
    /// It goes on.
    Progress,
    /// There is enough work: headers are fetched again, and stored.
    Redownloading,
    /// It is given up.
    Aborted,
}
