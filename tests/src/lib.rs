//! What the end-to-end tests share: tests/ beside this folder has a file of them for each part of what is promised.
//!
//! They need the eBPF extractor's rights and a NATS server; one that cannot run here says why and passes.
//!
//! | module | what it is for |
//! |---|---|
//! | [`account`] | what became of hits: delivered or counted as lost |
//! | [`browser`] | a real browser |
//! | [`colours`] | how far apart colours are, for whom |
//! | [`everything`] | events of every kind that a metric counts, where the recordings have none |
//! | [`extractor`] | the eBPF extractor, in the process of the test |
//! | [`flood`] | a metrics tool whose page is as long as others can make it |
//! | [`page`] | the page of the metrics tool |
//! | [`plain`] | a NATS client that knows nothing of peer-observer |
//! | [`program`] | the program, as users run it |
//! | [`prometheus`] | a real Prometheus, and what it answers |
//! | [`recorded`] | what the recordings hold, and what the public extractor made of the same hits |
//! | [`node`] | a stand-in with all windows: RPC, debug.log |
//! | [`stage`] | the live page, and what it is told |
//! | [`strict`] | the public schema, and nothing else than the public schema |
//! | [`told`] | what the live page is told, and what it has to show then |
//! | [`victim`] | `run` beside an honest node, while somebody attacks it |

pub mod account;
pub mod browser;
pub mod colours;
pub mod everything;
pub mod extractor;
pub mod flood;
pub mod node;
pub mod page;
pub mod plain;
pub mod program;
pub mod prometheus;
pub mod recorded;
pub mod stage;
pub mod strict;
pub mod told;
pub mod victim;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

pub use peer_observer_testkit::{LONG, STOP};

/// Waits its turn: tests that load both processors would disturb each other, also from process to process. The turn ends when
/// what is returned is dropped.
pub fn turn() -> File {
    let path = target().join("peer-observer-e2e.lock");
    let file = File::create(&path).unwrap_or_else(|e| panic!("cannot create {}: {e}", path.display()));
    file.lock().unwrap_or_else(|e| panic!("cannot lock {}: {e}", path.display()));
    file
}

/// Where Cargo builds: tests lie in TARGET/PROFILE/deps.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    test.ancestors().nth(3).expect("the target directory").to_path_buf()
}

/// Waits until `condition` holds, without holding up the runtime.
///
/// # Panics
/// When it does not within [`LONG`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited {LONG:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
