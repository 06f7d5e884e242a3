//! Everything that speaks to a Bitcoin node without knowing events.
//!
//! | module | what it is for |
//! |---|---|
//! | [`hit`] | what a tracepoint says when it is hit |
//! | [`recording`] | hits written to a file, and read back |
//! | [`capture_file`] | Bitcoin Core's `-capturemessages` files |
//! | [`debug_log`] | lines of debug.log, and following it |
//! | [`discover`] | which nodes run on this machine |
//! | [`p2p`] | the P2P protocol, v1 and v2, as spoken with a node that dials us |
//! | [`probes`] | which tracepoints a binary has |
//! | [`rpc`] | asks a node over JSON-RPC |

pub mod capture_file;
pub mod debug_log;
pub mod discover;
pub mod hit;
pub mod p2p;
pub mod probes;
pub mod recording;
pub mod rpc;
