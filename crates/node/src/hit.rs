//! What a tracepoint of Bitcoin Core says when it is hit: its arguments, as they are, before anything is decoded.
//!
//! The kernel's records, recordings and capture files all become these, so that one conversion makes events of them. Text
//! is bytes here: a node can be given a host name that is not UTF-8. Argument order and meaning: Bitcoin Core doc/tracing.md.

/// A P2P message (`net:inbound_message`, `net:outbound_message`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The node received it.
    pub inbound: bool,
    /// Core's id of the peer.
    pub peer_id: i64,
    /// Address and port as Core prints them.
    pub addr: &'a [u8],
    /// Connection type as Core prints it: `outbound-full-relay`.
    pub conn_type: &'a [u8],
    /// Message type: `inv`.
    pub msg_type: &'a [u8],
    /// Length of the payload, bytes.
    pub size: u64,
    /// The payload; shorter than `size` when not all of it was captured.
    pub payload: &'a [u8],
}

/// What all connection tracepoints say of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Core's id of the peer.
    pub peer_id: i64,
    /// Address and port as Core prints them.
    pub addr: &'a [u8],
    /// Connection type as Core prints it.
    pub conn_type: &'a [u8],
    /// Core's enum Network: 0 unroutable, 1 IPv4, 2 IPv6, 3 Tor, 4 I2P, 5 CJDNS, 6 internal.
    pub network: u32,
}

/// A transaction or block hash in internal byte order.
pub type Hash = [u8; 32];

/// A hit of a tracepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit<'a> {
    /// `net:inbound_message` and `net:outbound_message`.
    Message(Message<'a>),
    /// `net:inbound_connection`.
    InboundConnection {
        /// The connection.
        conn: Connection<'a>,
        /// Inbound connections as the node counts them.
        existing: u64,
    },
    /// `net:outbound_connection`.
    OutboundConnection {
        /// The connection.
        conn: Connection<'a>,
        /// Outbound connections as the node counts them.
        existing: u64,
    },
    /// `net:closed_connection`.
    ClosedConnection {
        /// The connection.
        conn: Connection<'a>,
        /// When it was established, UNIX s.
        established: u64,
    },
    /// `net:evicted_inbound_connection`.
    EvictedInboundConnection {
        /// The connection.
        conn: Connection<'a>,
        /// When it was established, UNIX s.
        established: u64,
    },
    /// `net:misbehaving_connection`.
    MisbehavingConnection {
        /// Core's id of the peer.
        peer_id: i64,
        /// What it did.
        reason: &'a [u8],
    },
    /// `mempool:added`.
    MempoolAdded {
        /// Transaction id.
        txid: Hash,
        /// Virtual size, vB.
        vsize: i32,
        /// Fee, sat.
        fee: i64,
    },
    /// `mempool:removed`.
    MempoolRemoved {
        /// Transaction id.
        txid: Hash,
        /// Why: `block`, `expiry`, `sizelimit`, `reorg`, `conflict`, `replaced`.
        reason: &'a [u8],
        /// Virtual size, vB.
        vsize: i32,
        /// Fee, sat.
        fee: i64,
        /// When it entered, UNIX s.
        entry_time: u64,
    },
    /// `mempool:replaced`.
    MempoolReplaced {
        /// Id of the replaced transaction.
        replaced_txid: Hash,
        /// Its virtual size, vB.
        replaced_vsize: i32,
        /// Its fee, sat.
        replaced_fee: i64,
        /// When it entered, UNIX s.
        replaced_entry_time: u64,
        /// Id of the replacing transaction, or hash of the package.
        replacement_id: Hash,
        /// Virtual size of the replacement, vB.
        replacement_vsize: i32,
        /// Fee of the replacement, sat.
        replacement_fee: i64,
        /// The replacement is a transaction, not a package.
        by_transaction: bool,
    },
    /// `mempool:rejected`.
    MempoolRejected {
        /// Transaction id.
        txid: Hash,
        /// Reject reason.
        reason: &'a [u8],
    },
    /// `validation:block_connected`.
    BlockConnected {
        /// Block hash.
        hash: Hash,
        /// Its height.
        height: i32,
        /// Number of transactions.
        transactions: u64,
        /// Number of inputs.
        inputs: i32,
        /// Signature operations cost.
        sigops: u64,
        /// Time it took, ns (Core before 25: us; whoever reads the probe converts).
        duration: u64,
    },
    /// `utxocache:flush`.
    UtxoCacheFlush {
        /// Time it took, us.
        duration_us: i64,
        /// Core's FlushStateMode.
        mode: u32,
        /// Coins in the cache before.
        coins: u64,
        /// Bytes of memory before.
        bytes: u64,
        /// Done because files are about to be pruned.
        for_prune: bool,
    },
    /// `addrman:attempt_add` of patched nodes.
    AddrmanAttemptAdd {
        /// It got a place in the new table.
        inserted: bool,
        /// Bucket in the new table.
        bucket: i32,
        /// Position in the bucket.
        position: i32,
        /// Address and port.
        addr: &'a [u8],
        /// AS of the address, 0 if not known.
        addr_as: u32,
        /// Who told of it.
        source: &'a [u8],
        /// AS of the source, 0 if not known.
        source_as: u32,
    },
    /// `addrman:move_to_good` of patched nodes.
    AddrmanMoveToGood {
        /// Bucket in the tried table.
        bucket: i32,
        /// Position in the bucket.
        position: i32,
        /// Address and port.
        addr: &'a [u8],
        /// AS of the address, 0 if not known.
        addr_as: u32,
        /// Who told of it.
        source: &'a [u8],
        /// AS of the source, 0 if not known.
        source_as: u32,
    },
}

macro_rules! tracepoints {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $provider:literal $name:literal,)*) => {
        /// A tracepoint we know. The number is its kind in recordings.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Tracepoint {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Tracepoint {
            /// All of them, by kind.
            pub const ALL: &'static [Tracepoint] = &[$(Tracepoint::$variant,)*];

            /// The tracepoint of that kind in a recording.
            pub fn from_kind(kind: u8) -> Option<Self> {
                match kind { $($code => Some(Tracepoint::$variant),)* _ => None }
            }

            /// Provider of the probe: `net`.
            pub const fn provider(self) -> &'static str {
                match self { $(Tracepoint::$variant => $provider,)* }
            }

            /// Name of the probe: `inbound_message`.
            pub const fn name(self) -> &'static str {
                match self { $(Tracepoint::$variant => $name,)* }
            }

            /// `provider:name`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Tracepoint::$variant => concat!($provider, ":", $name),)* }
            }
        }
    };
}

tracepoints! {
    /// A message came in.
    InboundMessage = 1 "net" "inbound_message",
    /// A message goes out.
    OutboundMessage = 2 "net" "outbound_message",
    /// A peer connected to the node.
    InboundConnection = 3 "net" "inbound_connection",
    /// The node connected to a peer.
    OutboundConnection = 4 "net" "outbound_connection",
    /// A connection is gone.
    ClosedConnection = 5 "net" "closed_connection",
    /// The node disconnects a peer to make room.
    EvictedInboundConnection = 6 "net" "evicted_inbound_connection",
    /// A peer broke the rules.
    MisbehavingConnection = 7 "net" "misbehaving_connection",
    /// A transaction entered the mempool.
    MempoolAdded = 8 "mempool" "added",
    /// A transaction left the mempool.
    MempoolRemoved = 9 "mempool" "removed",
    /// A transaction was replaced.
    MempoolReplaced = 10 "mempool" "replaced",
    /// A transaction was not accepted.
    MempoolRejected = 11 "mempool" "rejected",
    /// A block became part of the chain.
    BlockConnected = 12 "validation" "block_connected",
    /// The UTXO set was written to disk.
    UtxoCacheFlush = 13 "utxocache" "flush",
    /// An address was offered to the new table.
    AddrmanAttemptAdd = 14 "addrman" "attempt_add",
    /// An address moved to the tried table.
    AddrmanMoveToGood = 15 "addrman" "move_to_good",
}

impl Hit<'_> {
    /// The tracepoint that was hit.
    pub fn tracepoint(&self) -> Tracepoint {
        match self {
            Hit::Message(m) if m.inbound => Tracepoint::InboundMessage,
            Hit::Message(_) => Tracepoint::OutboundMessage,
            Hit::InboundConnection { .. } => Tracepoint::InboundConnection,
            Hit::OutboundConnection { .. } => Tracepoint::OutboundConnection,
            Hit::ClosedConnection { .. } => Tracepoint::ClosedConnection,
            Hit::EvictedInboundConnection { .. } => Tracepoint::EvictedInboundConnection,
            Hit::MisbehavingConnection { .. } => Tracepoint::MisbehavingConnection,
            Hit::MempoolAdded { .. } => Tracepoint::MempoolAdded,
            Hit::MempoolRemoved { .. } => Tracepoint::MempoolRemoved,
            Hit::MempoolReplaced { .. } => Tracepoint::MempoolReplaced,
            Hit::MempoolRejected { .. } => Tracepoint::MempoolRejected,
            Hit::BlockConnected { .. } => Tracepoint::BlockConnected,
            Hit::UtxoCacheFlush { .. } => Tracepoint::UtxoCacheFlush,
            Hit::AddrmanAttemptAdd { .. } => Tracepoint::AddrmanAttemptAdd,
            Hit::AddrmanMoveToGood { .. } => Tracepoint::AddrmanMoveToGood,
        }
    }
}
