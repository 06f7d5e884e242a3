//! The eBPF extractor, in the process of the test.

use peer_observer_bus::Bus;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::ebpf::{self, Watched};
use peer_observer_testkit::standin::Binary;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::LONG;

/// Processes that can become known before the test asks.
const WATCHED: usize = 64;

/// A running extractor.
#[derive(Debug)]
pub struct Extractor {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ebpf::Error>>,
    watched: mpsc::Receiver<Watched>,
}

/// Settings that watch this binary and no other: more nodes may run on the machine.
pub fn only(binary: &Binary) -> ebpf::Config {
    ebpf::Config { bitcoind_path: vec![binary.path().to_path_buf()], ..ebpf::Config::default() }
}

impl Extractor {
    /// Starts it, publishing on `bus`.
    pub fn start(config: ebpf::Config, bus: &Bus) -> Self {
        let stop = CancellationToken::new();
        let (tell, watched) = mpsc::channel(WATCHED);
        let publisher = bus.publisher(Source::Ebpf, "ebpf");
        let run = ebpf::run_and_tell(config, publisher, stop.clone(), move |process| {
            let _ = tell.try_send(process.clone());
        });
        Extractor { stop, task: tokio::spawn(run), watched }
    }

    /// The next process whose hits are seen from now on.
    ///
    /// # Panics
    /// When there is none for long, or the extractor failed.
    pub async fn watched(&mut self) -> Watched {
        match tokio::time::timeout(LONG, self.watched.recv()).await {
            Ok(Some(watched)) => watched,
            Ok(None) => panic!("the extractor ended before it watched a node"),
            Err(_) => panic!("the extractor finds no node"),
        }
    }

    /// Ends it, when it has handed over everything.
    ///
    /// # Panics
    /// When it failed.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(LONG, self.task).await.expect("the extractor does not end");
        ended.expect("the extractor crashed").expect("the extractor failed");
    }
}
