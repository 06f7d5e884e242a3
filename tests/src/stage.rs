//! The live page, and what it is told: a recording, as if it happened just now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peer_observer_bus::{Bus, Limits, Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::{convert, log, rpc};
use peer_observer_node::recording::{self, Records};
use peer_observer_testkit::fake_rpc::{Behaviour, FakeRpc};
use peer_observer_testkit::log_writer::recorded_log;
use peer_observer_testkit::{data_dir, free_port};
use peer_observer_tools::web;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

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
    bus: Bus,
    folder: TempDir,
    /// Ends the extractors, also when a test fails.
    _end: DropGuard,
    /// Answers as the recorded node did.
    node: Option<FakeRpc>,
}

/// Settings of the server: files of the user's, too.
fn config(folder: &TempDir) -> web::Config {
    let list = folder.path().join("list");
    // Networks of peers of the recording.
    std::fs::write(&list, "28.146.0.0/16\n37.25.125.8\n60.111.0.0/16\n").expect("a list");
    let list = format!("watched={}", list.display()).parse().expect("a list");
    web::Config { ip_lists: vec![list], ..web::Config::default() }
}

impl Stage {
    /// Starts it, at that address if one is given.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start(address: Option<SocketAddr>) -> Self {
        Self::start_with(address, |_| ()).await
    }

    /// Starts it with other settings.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start_with(address: Option<SocketAddr>, change: impl FnOnce(&mut web::Config)) -> Self {
        let bus = Bus::in_process();
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(&folder);
        change(&mut config);
        let subscriber = bus.subscriber("web", &web::subjects(&config), Limits::default());
        // Where one can be started again.
        let own = || SocketAddr::from(([127, 0, 0, 1], free_port().expect("a free port")));
        let address = address.unwrap_or_else(own);
        let listener = TcpListener::bind(address).await.expect("an address to listen at");
        let stop = CancellationToken::new();
        let server = tokio::spawn({
            let stop = stop.clone();
            async move { web::serve(listener, &config, subscriber, stop).await }
        });
        let path = data_dir().join("regtest-busy/tracepoints.bin.zst");
        let recording = recording::read_file(&path, MAX_RECORDING).expect("the recording");
        let publisher = bus.publisher(Source::Ebpf, "ebpf");
        let end = stop.clone().drop_guard();
        Stage { address, publisher, recording, stop, server, bus, folder, _end: end, node: None }
    }

    /// Lets the extractors for these read the recorded node's debug.log, and ask for its address manager.
    ///
    /// # Panics
    /// When what was recorded cannot be read.
    pub fn open_windows(&mut self) {
        // A file would be followed from its end only.
        let pipe = self.folder.path().join("debug.log");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success(), "{made}");
        let log = recorded_log("regtest-busy/debug.log.zst").expect("the log");
        // Waits for the reader.
        std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, log)
        });
        let log = log::Config { bitcoind_pipe: Some(pipe), log_node: NODE.into(), ..log::Config::default() };
        tokio::spawn(log::run(log, self.bus.publisher(Source::Log, "log"), self.stop.clone()));

        let node = FakeRpc::start("user:password").expect("a node to ask");
        node.play(&data_dir().join("rpc-samples")).expect("its answers");
        let addresses = data_dir().join("regtest-busy/getrawaddrman.json");
        let answer = std::fs::read_to_string(addresses).expect("its addresses");
        node.behave("getrawaddrman", Behaviour::Answer(answer));
        let rpc = rpc::Config {
            rpc_host: node.addr().to_string(),
            rpc_user: Some("user".into()),
            rpc_password: Some("password".into()),
            rpc_node: NODE.into(),
            prometheus_address: "127.0.0.1:0".into(),
            // Their peers, chain and sums of addresses are those of another run.
            disable_getpeerinfo: true,
            disable_getaddrmaninfo: true,
            disable_getblockchaininfo: true,
            ..rpc::Config::default()
        };
        tokio::spawn(rpc::run(rpc, self.bus.publisher(Source::Rpc, "rpc"), self.stop.clone()));
        self.node = Some(node);
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
        self.play_until(part, Duration::ZERO);
    }

    /// Tells the first part of the recording, 0 to 1, as if its last event happened so long ago.
    ///
    /// # Panics
    /// When the recording is broken.
    pub fn play_until(&mut self, part: f64, ago: Duration) {
        let records: Vec<_> =
            Records::new(&self.recording).map(|record| record.expect("a whole record")).collect();
        let records = &records[..(records.len() as f64 * part) as usize];
        let Some(last) = records.last() else { return };
        let shift = now_ns().saturating_sub(last.time_ns + ago.as_nanos() as u64);
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

    /// Tells an event that claims to happen at this time, ns since the UNIX epoch.
    pub fn tell_at(&mut self, time_ns: u64, event: PeerObserverEvent) {
        self.publisher.publish(&NODE.into(), time_ns, event);
    }

    /// Tells an event that happens now at another node.
    pub fn tell_as(&mut self, node: &str, event: PeerObserverEvent) {
        self.publisher.publish(&node.into(), now_ns(), event);
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
