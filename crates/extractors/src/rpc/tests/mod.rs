//! The extractor against recorded answers, a server that misbehaves, and a real node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use peer_observer_bus::{Bus, Delivery, Limits as QueueLimits, NatsConfig, Subscriber};
use peer_observer_events::proto::observer::{RpcExtra, Source, rpc_extra};
use peer_observer_events::{PeerObserverEvent, Subject, json};
use peer_observer_node::access::Access;
use peer_observer_node::process::User;
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::fake_rpc::{Behaviour, EVERYTHING, FakeRpc};
use peer_observer_testkit::nats::{self, NatsServer};
use peer_observer_testkit::{LONG as PATIENCE, STOP, data_dir, need, require};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

mod addrman;
mod answers;
mod calls;
mod found;

use super::methods::Method;
use super::*;

const OFTEN: Duration = Duration::from_millis(50);

/// An extractor that runs against a server, and what it publishes.
struct Running {
    events: Subscriber,
    metrics: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    _bus: Bus,
}

fn config_for(server: &FakeRpc) -> Config {
    Config {
        rpc_host: server.addr().to_string(),
        rpc_user: Some("u".into()),
        rpc_password: Some("p".into()),
        rpc_node: "alice".into(),
        ..Config::default()
    }
}

fn server() -> FakeRpc {
    let server = FakeRpc::start("u:p").unwrap();
    server.play(&data_dir().join("rpc-samples")).unwrap();
    server
}

/// Starts an extractor that asks for everything that is not disabled, much more often than settings allow.
async fn start(config: Config) -> Running {
    let methods = config.methods().into_iter().map(|(method, _)| (method, OFTEN)).collect();
    start_with(config, methods).await
}

async fn start_with(config: Config, methods: Vec<(Method, Duration)>) -> Running {
    start_on(Bus::in_process(), config, methods).await
}

async fn start_on(bus: Bus, config: Config, methods: Vec<(Method, Duration)>) -> Running {
    let events = bus.subscriber("test", &[Subject::Rpc, Subject::RpcExtra], QueueLimits::default());
    let publisher = bus.publisher(Source::Rpc, "rpc");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let login = config.login().unwrap().unwrap();
    let task = {
        let stop = stop.clone();
        tokio::spawn(async move { run_at(listener, &config, methods, login, publisher, stop).await })
    };
    Running { events, metrics, stop, task, _bus: bus }
}

impl Running {
    /// The next event that is wanted; fails when none comes.
    async fn next(&mut self, mut wanted: impl FnMut(&Delivery) -> bool) -> Delivery {
        let search = async {
            loop {
                let mut one = Vec::new();
                assert!(self.events.recv_many(&mut one, 1).await > 0, "the bus has ended");
                if wanted(&one[0]) {
                    return one.remove(0);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("an event")
    }

    async fn metric(&self, name: &str, method: &str) -> f64 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let start = format!("rpcextractor_{name}{{rpc_method=\"{method}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}in {page}")).parse().unwrap()
    }

    /// Waits until a metric is at least so large.
    async fn wait_for(&self, name: &str, method: &str, least: f64) {
        let wait = async {
            while self.metric(name, method).await < least {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{name} of {method} stays below {least}");
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP, self.task).await;
        ended.expect("it ends in time").unwrap().unwrap();
    }
}

fn is_uptime(delivery: &Delivery) -> bool {
    json::to_json(&delivery.event).is_some_and(|json| json.contains("Uptime"))
}

/// What an event holds: the name in its innermost oneof, and the JSON form of that.
fn content(event: &PeerObserverEvent) -> (String, Value) {
    let json = serde_json::to_value(event).unwrap();
    let inner = json.as_object().unwrap().values().next().unwrap();
    let (name, value) = inner["rpc_event"].as_object().unwrap().iter().next().unwrap();
    (name.clone(), value.clone())
}

#[tokio::test]
async fn settings_that_cannot_work_are_errors() {
    let bus = Bus::in_process();
    let run = |config| run(config, bus.publisher(Source::Rpc, "rpc"), CancellationToken::new());
    assert!(matches!(run(Config::default()).await, Err(Error::NoLogin)));
    // Whoever runs `run` has no such flags, but keys.
    let timeout = rpc::Error::Timeout { method: "m".into(), limit: PATIENCE };
    let too_large = rpc::Error::TooLarge { method: "m".into(), limit: 1 };
    for error in [Error::NoLogin.to_string(), timeout.to_string(), too_large.to_string()] {
        assert!(error.contains("--rpc-") && error.contains("--set rpc.rpc_"), "{error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        prometheus_address: taken.local_addr().unwrap().to_string(),
        rpc_cookie_file: Some("/c".into()),
        ..Config::default()
    };
    assert!(matches!(run(config).await, Err(Error::Listen { .. })));
    let config = Config { rpc_host: "x".into(), ..Config::default() };
    assert!(matches!(run(config).await, Err(Error::Host(_))));
}

#[tokio::test]
async fn doctor_is_told_what_is_wrong_and_what_to_do() {
    assert!(check(&Config::default()).is_empty());
    let server = server();
    let config = Config { prometheus_address: "127.0.0.1:0".into(), ..config_for(&server) };
    assert!(check(&config).iter().all(|finding| finding.ok), "{:?}", check(&config));
    let cases = [
        (Behaviour::Status(401), "rpcauth"),
        (Behaviour::Status(403), "rpcallowip"),
        (Behaviour::Refuse(-28, "Loading"), "wait"),
        (Behaviour::Garbage, "debug.log"),
    ];
    for (behaviour, expected) in cases {
        server.behave(EVERYTHING, behaviour);
        let finding = &check(&config)[0];
        assert!(!finding.ok && finding.fix.as_ref().unwrap().contains(expected), "{finding:?}");
    }
    drop(server);
    let finding = &check(&config)[0];
    assert!(finding.fix.as_ref().unwrap().contains("server=1"), "{finding:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_answers_every_method_and_its_restart_is_survived() {
    require!(need::bitcoind());
    let mut node = RealNode::start(&["-debug=rpc"]).unwrap();
    node.rpc("generatetodescriptor", json!([3, "raw(51)"])).unwrap();
    node.rpc("setban", json!(["203.0.113.0/24", "add", 3600])).unwrap();
    let config = Config {
        rpc_host: node.rpc_addr().to_string(),
        rpc_cookie_file: Some(node.cookie_file()),
        ..Config::default()
    };
    let mut running = start(config).await;
    for method in Method::NAMES {
        running.wait_for("events_total", method, 1.0).await;
        assert_eq!(running.metric("rpc_model_errors_total", method).await, 0.0, "{method}");
        assert_eq!(running.metric("rpc_fetch_errors_total", method).await, 0.0, "{method}");
        assert_eq!(running.metric("unknown_fields_total", method).await, 0.0, "{method}");
    }
    let delivery =
        running.next(|d| content(d.event.peer_observer_event.as_ref().unwrap()).0 == "BlockchainInfo").await;
    let (_, info) = content(delivery.event.peer_observer_event.as_ref().unwrap());
    assert_eq!((&info["chain"], &info["blocks"]), (&json!("regtest"), &json!(3)));

    let address = node.rpc_addr();
    node.restart().unwrap();
    assert_eq!(node.rpc_addr(), address);
    let events = running.metric("events_total", "getpeerinfo").await;
    running.wait_for("events_total", "getpeerinfo", events + 2.0).await;
    running.stop().await;
}
