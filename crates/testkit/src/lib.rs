//! What tests of peer-observer run against.
//!
//! | module | what it is for |
//! |---|---|
//! | [`standin`] | a stand-in node: a process with Bitcoin Core's probes that fires exactly what it is told |
//! | [`bitcoind`] | a real node on regtest, where one is installed |
//! | [`fake_rpc`] | an RPC server that plays recorded answers, and misbehaves when told to |
//! | [`peer`] | a scripted P2P peer that dials a node |
//! | [`p2p_peer`] | a scripted node that dials the P2P extractor, over v1 or v2 |
//! | [`p2p_node`] | scripted nodes that listen for whoever dials them, and a SOCKS5 proxy |
//! | `ipc_node` | a node that listens for IPC (feature `ipc`) |
//! | [`namespace`] | a network of its own, in which any address is there |
//! | [`log_writer`] | writes debug.log: recorded ones, with rotation |
//! | [`nats`] | a NATS server that can be stopped, killed and frozen |
//! | [`other_user`] | another user who takes all the connections that a server gives, or exchanges files |
//! | [`process`] | any program, its output line by line |
//! | `port` | TCP ports that stay a test's own |
//! | [`need`] | what a test needs of the machine, and why it is skipped |
//!
//! Everything here blocks, ends its processes when dropped, and never sleeps for luck: it waits for a condition, or fails
//! with what it has seen until then.

#![allow(
    clippy::missing_errors_doc,
    reason = "an error ends the test, and says itself what was awaited in vain"
)]

pub mod bitcoind;
pub mod fake_rpc;
#[cfg(feature = "ipc")]
pub mod ipc_node;
pub mod log_writer;
pub mod namespace;
pub mod nats;
pub mod need;
pub mod other_user;
pub mod p2p_node;
pub mod p2p_peer;
pub mod peer;
mod port;
pub mod process;
pub mod standin;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peer_observer_node::recording;

pub use crate::port::free_port;

/// Longer than anything takes, also on a slow machine that does a lot else: what is waited for so long will not come. The kernel alone
/// takes a second to check the programs of the eBPF extractor, and twenty when eight others want its processors.
pub const LONG: Duration = Duration::from_secs(180);

/// In this time everything ends that was told to. The promise is two seconds, for a machine that has time for it; that of tests may
/// have none. Who waits for a time limit before it ends takes longer.
pub const STOP: Duration = Duration::from_secs(15);

/// The largest recording in `data/` has 5 MB.
const MAX_RECORDING: usize = 64 << 20;

/// The folder `data/` of the repository, with recordings of real nodes.
pub fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data")
}

/// The tracepoint hits of a recorded node, uncompressed: `regtest-tour` or `regtest-busy`.
pub fn recorded_hits(name: &str) -> Result<Vec<u8>, recording::Error> {
    recording::read_file(&data_dir().join(name).join("tracepoints.bin.zst"), MAX_RECORDING)
}

/// Waits until `condition` holds; says whether it did within `timeout`.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_condition_or_the_time() {
        let mut calls = 0;
        assert!(wait_until(Duration::from_secs(10), || {
            calls += 1;
            calls == 3
        }));
        assert_eq!(calls, 3);
        assert!(!wait_until(Duration::from_millis(10), || false));
    }
}
