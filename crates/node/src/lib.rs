//! Everything that speaks to a Bitcoin node without knowing events.
//!
//! | module | what it is for |
//! |---|---|
//! | [`access`] | opens files as far as a node's user may read them |
//! | [`hit`] | what a tracepoint says when it is hit |
//! | [`recording`] | hits written to a file, and read back |
//! | [`capture_file`] | Bitcoin Core's `-capturemessages` files |
//! | [`debug_log`] | lines of debug.log, and following it |
//! | [`discover`] | what a process is, if it is a node |
//! | [`names`] | what nodes are called |
//! | [`p2p`] | the P2P protocol, v1 and v2 |
//! | [`process`] | a process, read through one descriptor of its folder in /proc |
//! | [`probes`] | which tracepoints a binary has |
//! | `regular` | opens files, and never a pipe |
//! | [`rpc`] | asks a node over JSON-RPC |
//! | [`settings`] | what a node was told, by its command line and bitcoin.conf |
//! | [`socks5`] | the way to a node through a SOCKS5 proxy |
//! | [`sockets`] | which process is at the other end of a connection |
//! | [`watch`] | follows the nodes of this machine |
//! | [`windows`] | where a running node can be looked into |
//! | filesystem.rs | file systems on which no file of a node is opened |

pub mod access;
pub mod capture_file;
pub mod debug_log;
pub mod discover;
mod filesystem;
pub mod hit;
pub mod names;
pub mod p2p;
pub mod probes;
pub mod process;
pub mod recording;
pub mod regular;
pub mod rpc;
pub mod settings;
pub mod sockets;
pub mod socks5;
pub mod watch;
pub mod windows;
