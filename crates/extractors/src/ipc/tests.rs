//! The extractor against a node that does what a test wants, and against a real one.

mod hostile;
mod real_node;

use std::path::Path;
use std::time::Duration;

use peer_observer_bus::{Bus, Limits, Subscriber};
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_node::access::Access;
use peer_observer_node::process::User;
use peer_observer_testkit::ipc_node::{Control, FakeNode, HasStarted, Kind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::metrics::Method;
use super::watch::{Pauses, Settings};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// Never, as far as a test is concerned.
const NEVER: Duration = Duration::from_secs(3600);
const QUICK: Duration = Duration::from_millis(1);

/// An extractor that runs against a socket, and what it publishes.
struct Running {
    events: Subscriber,
    metrics: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    _bus: Bus,
    _started: HasStarted,
}

async fn start(socket: &Path, every: Duration, limit: Duration) -> Running {
    start_as(None, socket, every, limit).await
}

/// Starts one that wants the node to run as this user.
async fn start_as(uid: Option<u32>, socket: &Path, every: Duration, limit: Duration) -> Running {
    let bus = Bus::in_process();
    let events = bus.subscriber("test", &[Subject::Ipc], Limits::default());
    let publisher = bus.publisher(Source::Ipc, "ipc");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    // So short that a real node is met in every moment of its start and its end.
    let pauses = Pauses { first: QUICK, away: QUICK, odd: QUICK };
    let access = uid.map(|uid| Access::new(User::new(uid, vec![uid]), "/".into()));
    let settings = Settings { socket: socket.into(), name: "alice".into(), every, limit, pauses, access };
    let names = peer_observer_exporter::server::Names { allowed: Vec::new(), flag: "--prometheus-host" };
    let task = tokio::spawn(watch::run(listener, names, settings, publisher, stop.clone()));
    Running { events, metrics, stop, task, _bus: bus, _started: HasStarted::start() }
}

impl Running {
    /// The next tip: its height, and its hash in internal byte order.
    async fn next(&mut self) -> (i32, Vec<u8>) {
        let mut one = Vec::new();
        let received = tokio::time::timeout(PATIENCE, self.events.recv_many(&mut one, 1)).await;
        assert_eq!(received.expect("an event"), 1, "the bus has ended");
        let event = &one[0].event;
        assert_eq!(event.origin.as_ref().unwrap().node, "alice");
        match event.peer_observer_event.as_ref().unwrap() {
            PeerObserverEvent::IpcExtractor(ipc) => match ipc.ipc_event.as_ref().unwrap() {
                IpcEvent::BlockTip(tip) => (tip.height, tip.hash.to_vec()),
            },
            other => panic!("{other:?}"),
        }
    }

    /// The next tip that is another one than that with this height.
    async fn next_after(&mut self, height: i32) -> i32 {
        loop {
            let (next, _) = self.next().await;
            if next != height {
                return next;
            }
        }
    }

    async fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("ipcextractor_{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn errors(&self, method: &str) -> u64 {
        self.metric(&format!("ipc_fetch_errors_total{{ipc_method=\"{method}\"}}")).await
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.task).await;
        ended.expect("it ends in time").unwrap().unwrap();
    }
}

/// Waits until something asynchronous holds.
macro_rules! wait_for {
    ($condition:expr) => {
        let wait = async {
            while !$condition {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {}", stringify!($condition));
    };
}
use wait_for;

fn place() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("node.sock");
    (folder, socket)
}

#[tokio::test]
async fn a_tip_is_told_when_it_changes_without_being_asked_for() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Core31);
    let _node = FakeNode::start(&socket, control.clone());
    let mut running = start(&socket, NEVER, NEVER).await;
    assert_eq!(running.next().await, (1, vec![1; 32]));
    for tip in [2, 3, 1] {
        control.set_tip(Some(tip));
        assert_eq!(running.next().await, (tip.into(), vec![tip; 32]));
    }
    assert_eq!((control.calls("connect"), control.calls("getTip")), (1, 1));
    assert_eq!(running.metric("events_total{ipc_method=\"getTip\"}").await, 1);
    assert_eq!(running.metric("events_total{ipc_method=\"waitTipChanged\"}").await, 3);
    assert_eq!(running.metric("connected").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_tip_that_stays_is_told_again_at_intervals_also_by_a_node_that_cannot_wait() {
    for kind in [Kind::Core31, Kind::CannotWait] {
        let (_folder, socket) = place();
        let control = Control::new(kind);
        let _node = FakeNode::start(&socket, control.clone());
        let mut running = start(&socket, Duration::from_millis(100), NEVER).await;
        for _ in 0..3 {
            assert_eq!(running.next().await, (1, vec![1; 32]));
        }
        control.set_tip(Some(2));
        assert_eq!(running.next_after(1).await, 2);
        assert_eq!(control.calls("connect"), 1);
        let asked = control.calls("getTip");
        assert!(if kind == Kind::CannotWait { asked >= 3 } else { asked == 1 }, "{kind:?}: {asked}");
        running.stop().await;
    }
}

#[tokio::test]
async fn the_schemas_of_all_releases_are_told_apart() {
    for (kind, schema) in [(Kind::Core30, "30"), (Kind::Core31, "31"), (Kind::Core32, "32")] {
        let (_folder, socket) = place();
        let control = Control::new(kind);
        let _node = FakeNode::start(&socket, control.clone());
        let mut running = start(&socket, NEVER, NEVER).await;
        assert_eq!(running.next().await.0, 1);
        wait_for!(control.calls("waitTipChanged") == 1);
        control.set_tip(Some(2));
        assert_eq!(running.next().await.0, 2);
        assert_eq!(running.metric(&format!("connections_total{{schema=\"{schema}\"}}")).await, 1);
        for method in Method::ALL {
            assert_eq!(running.errors(method.name()).await, 0, "{schema} {}", method.name());
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_was_restarted_or_appears_later_is_watched() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Core31);
    let mut running = start(&socket, NEVER, NEVER).await;
    wait_for!(running.errors("connect").await >= 1);
    for tip in [1, 2] {
        control.set_tip(Some(tip));
        let node = FakeNode::start(&socket, control.clone());
        assert_eq!(running.next().await.0, i32::from(tip));
        drop(node);
        wait_for!(running.metric("connected").await == 0);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_socket_of_another_user_is_told_nothing() {
    use std::os::unix::fs::MetadataExt;
    let (folder, socket) = place();
    let own = std::fs::metadata(folder.path()).unwrap().uid();
    let control = Control::new(Kind::Core31);
    let _node = FakeNode::start(&socket, control.clone());
    let stranger = start_as(Some(own + 1), &socket, NEVER, NEVER).await;
    wait_for!(stranger.errors("connect").await >= 2);
    stranger.stop().await;
    assert_eq!(control.calls("construct"), 0);
    let mut running = start_as(Some(own), &socket, NEVER, NEVER).await;
    assert_eq!(running.next().await.0, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_node_without_a_tip_is_asked_again() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Core31);
    control.set_tip(None);
    let _node = FakeNode::start(&socket, control.clone());
    let mut running = start(&socket, Duration::from_millis(20), NEVER).await;
    wait_for!(control.calls("getTip") >= 3);
    control.set_tip(Some(7));
    assert_eq!(running.next().await.0, 7);
    assert_eq!(control.calls("connect"), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_hangs_is_left_and_tried_again() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Silent);
    let _node = FakeNode::start(&socket, control.clone());
    let mut running = start(&socket, NEVER, Duration::from_millis(50)).await;
    wait_for!(running.errors("construct").await >= 2);
    assert!(control.calls("connect") >= 2);
    control.become_kind(Kind::Core31);
    assert_eq!(running.next().await.0, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_busy_node_keeps_its_one_call_for_as_long_as_it_lives() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Busy);
    let _node = FakeNode::start(&socket, control.clone());
    let mut running = start(&socket, NEVER, Duration::from_millis(20)).await;
    assert_eq!(running.next().await.0, 1);
    wait_for!(control.calls("getName") >= 5);
    assert_eq!((control.calls("connect"), control.calls("waitTipChanged")), (1, 1));
    control.set_tip(Some(2));
    control.free();
    assert_eq!(running.next().await.0, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_is_stopping_is_left_alone_until_another_one_listens() {
    let (_folder, socket) = place();
    let control = Control::new(Kind::Stopping);
    let node = FakeNode::start(&socket, control.clone());
    let mut running = start(&socket, NEVER, NEVER).await;
    // Each of these takes longer than the pause between two connections.
    for _ in 0..50 {
        wait_for!(running.errors("waitTipChanged").await >= 1);
    }
    assert_eq!((control.calls("connect"), control.calls("waitTipChanged")), (1, 1));
    drop(node);
    control.become_kind(Kind::Core31);
    let _node = FakeNode::start(&socket, control);
    assert_eq!(running.next().await.0, 1);
    running.stop().await;
}

#[tokio::test]
async fn what_a_node_does_not_know_or_tells_wrong_is_an_error_of_that_call() {
    for (kind, method) in [(Kind::CannotMine, "makeMining"), (Kind::BadHash, "getTip")] {
        let (_folder, socket) = place();
        let control = Control::new(kind);
        let _node = FakeNode::start(&socket, control.clone());
        let mut running = start(&socket, NEVER, NEVER).await;
        wait_for!(running.errors(method).await >= 2);
        control.become_kind(Kind::Core31);
        assert_eq!(running.next().await.0, 1);
        running.stop().await;
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_errors() {
    let bus = Bus::in_process();
    let run = |config| run(config, bus.publisher(Source::Ipc, "ipc"), CancellationToken::new());
    assert!(matches!(run(Config::default()).await, Err(Error::NoSocket)));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        ipc_socket_path: Some("/nonexistent/node.sock".into()),
        prometheus_address: taken.local_addr().unwrap().to_string(),
        ..Config::default()
    };
    assert!(matches!(run(config).await, Err(Error::Listen { .. })));
}

#[test]
fn doctor_is_told_what_is_wrong_and_what_to_do() {
    assert!(check(&Config::default()).is_empty());
    let (_folder, socket) = place();
    let config = Config {
        ipc_socket_path: Some(socket.clone()),
        prometheus_address: "127.0.0.1:0".into(),
        ..Config::default()
    };
    let finding = &check(&config)[0];
    assert!(finding.fix.as_ref().unwrap().contains("ipcbind=unix"), "{finding:?}");
    let _node = FakeNode::start(&socket, Control::new(Kind::Core31));
    assert!(check(&config).iter().all(|finding| finding.ok), "{:?}", check(&config));
    let bad = check(&Config { ipc_timeout: 0, ..config });
    assert!(bad.len() == 1 && !bad[0].ok, "{bad:?}");
}
