//! Extractors of peer-observer: from a node's interfaces to events.
//!
//! A folder each, with `Config`, `check` (what `doctor` says) and `run`, and nothing else that others need.
//!
//! | module | what it reads |
//! |---|---|
//! | [`ebpf`] | tracepoints of running nodes, through eBPF |
//! | [`capture`] | files that were recorded |
//! | [`rpc`] | answers of a node's RPC interface |
//! | [`p2p`] | what nodes say to us as a peer |
//! | [`ipc`] | the tip of a node's chain, over IPC; with the Cargo feature `ipc` |
//! | [`log`] | debug.log, line by line |
//! | [`convert`] | makes events of hits, for all that have hits |

pub mod capture;
pub mod convert;
#[allow(unsafe_code, reason = "talks to the kernel")]
pub mod ebpf;
pub mod ipc;
pub mod log;
pub mod p2p;
pub mod rpc;

use peer_observer_events::peek::MAX_NODE_NAME;
use peer_observer_exporter::registry::Edges;
use peer_observer_node::names::MAX_NAME;

// `node` knows no events, and events with longer names are refused.
const _: () = assert!(MAX_NAME == MAX_NODE_NAME);

/// How long calls to a node take, from 1 ms to 10 s, ns: the edges of the public extractors.
pub(crate) const CALL_DURATION: Edges = Edges {
    upper: &[
        1_000_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ],
    divisor: 1_000_000_000,
};
