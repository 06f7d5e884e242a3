//! The live page, and what it is told: a recording, as if it happened just now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peer_observer_bus::{Bus, Limits, Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::convert;
use peer_observer_node::recording::{self, Records};
use peer_observer_testkit::data_dir;
use peer_observer_tools::web;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Recordings take less, bytes.
const MAX_RECORDING: usize = 64 << 20;
/// Name of the node.
pub const NODE: &str = "alice";

/// The page's server, on a bus of its own.
pub struct Stage {
    address: SocketAddr,
    publisher: Publisher,
    recording: Vec<u8>,
    stop: CancellationToken,
    server: JoinHandle<Result<(), web::Error>>,
    _bus: Bus,
}

impl Stage {
    /// Starts it, at that address if one is given.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(address: Option<SocketAddr>) -> Self {
        let bus = Bus::in_process();
        let config = web::Config::default();
        let subscriber = bus.subscriber("web", &web::subjects(&config), Limits::default());
        let address = address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let listener = TcpListener::bind(address).await.expect("an address to listen at");
        let address = listener.local_addr().expect("the address");
        let stop = CancellationToken::new();
        let server = tokio::spawn({
            let stop = stop.clone();
            async move { web::serve(listener, &config, subscriber, stop).await }
        });
        let path = data_dir().join("regtest-busy/tracepoints.bin.zst");
        let recording = recording::read_file(&path, MAX_RECORDING).expect("the recording");
        Stage { address, publisher: bus.publisher(Source::Ebpf, "ebpf"), recording, stop, server, _bus: bus }
    }

    /// Where a view is.
    pub fn url(&self, view: &str) -> String {
        format!("http://{}/#/{view}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells the first part of the recording, 0 to 1, as if its last event happened now.
    ///
    /// # Panics
    /// When the recording is broken.
    pub fn play(&mut self, part: f64) {
        let records: Vec<_> =
            Records::new(&self.recording).map(|record| record.expect("a whole record")).collect();
        let records = &records[..(records.len() as f64 * part) as usize];
        let Some(last) = records.last() else { return };
        let shift = now_ns().saturating_sub(last.time_ns);
        let node: Arc<str> = NODE.into();
        let mut batch = self.publisher.batch();
        for record in records {
            batch.publish(&node, record.time_ns + shift, convert::event(&record.hit));
        }
    }

    /// Tells an event that happens now.
    pub fn tell(&mut self, event: PeerObserverEvent) {
        self.tell_earlier(Duration::ZERO, event);
    }

    /// Tells an event that happened a while ago.
    pub fn tell_earlier(&mut self, ago: Duration, event: PeerObserverEvent) {
        let node: Arc<str> = NODE.into();
        self.publisher.publish(&node, now_ns().saturating_sub(ago.as_nanos() as u64), event);
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it failed.
    pub async fn end(self) {
        self.stop.cancel();
        self.server.await.expect("the server crashed").expect("the server failed");
    }
}
