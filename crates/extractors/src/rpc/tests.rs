//! The extractor against recorded answers, a server that misbehaves, and a real node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use peer_observer_bus::{Bus, Delivery, Limits as QueueLimits, NatsConfig, Subscriber};
use peer_observer_events::proto::observer::{RpcExtra, Source, rpc_extra};
use peer_observer_events::{PeerObserverEvent, Subject, json};
use peer_observer_node::access::{Access, User};
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::fake_rpc::{Behaviour, EVERYTHING, FakeRpc};
use peer_observer_testkit::nats::{self, NatsServer};
use peer_observer_testkit::{LONG as PATIENCE, STOP, data_dir, need, require};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

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
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
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

/// Field names of the schema that are not those of the node.
const RENAMED: &[(&str, &str)] = &[
    ("addr", "address"),
    ("addrbind", "address_bind"),
    ("addrlocal", "address_local"),
    ("relaytxes", "relay_transactions"),
    ("lastsend", "last_send"),
    ("lastrecv", "last_received"),
    ("bytessent", "bytes_sent"),
    ("bytesrecv", "bytes_received"),
    ("conntime", "connection_time"),
    ("timeoffset", "time_offset"),
    ("pingtime", "ping_time"),
    ("minping", "minimum_ping"),
    ("pingwait", "ping_wait"),
    ("subver", "subversion"),
    ("startingheight", "starting_height"),
    ("bytessent_per_msg", "bytes_sent_per_message"),
    ("bytesrecv_per_msg", "bytes_received_per_message"),
    ("maxmempool", "max_mempool"),
    ("totalbytesrecv", "total_bytes_received"),
    ("totalbytessent", "total_bytes_sent"),
    ("timemillis", "time_millis"),
    ("uploadtarget", "upload_target"),
    ("txcount", "tx_count"),
    ("txrate", "tx_rate"),
    ("protocolversion", "protocol_version"),
    ("localservices", "local_services"),
    ("localservicesnames", "local_services_names"),
    ("localrelay", "local_relay"),
    ("networkactive", "network_active"),
    ("localaddresses", "local_addresses"),
    ("relayfee", "relay_fee"),
    ("incrementalfee", "incremental_fee"),
    ("pruneheight", "prune_height"),
    ("feerate", "fee_rate"),
    ("branchlen", "branch_length"),
];

/// Fields of the node that the schema has no place for.
const WITHOUT_PLACE: &[&str] = &[
    "servicesnames",
    "last_inv_sequence",
    "presynced_headers",
    "session_id",
    "permitbaremultisig",
    "maxdatacarriersize",
    "limitclustercount",
    "limitclustersize",
    "bits",
    "target",
    "automatic_pruning",
    "ban_duration",
    "time_remaining",
];

/// BTC/kvB in the node's answer, sat/vB in the event.
const FEE_RATES: &[&str] =
    &["mempoolminfee", "minrelaytxfee", "incrementalrelayfee", "relayfee", "incrementalfee", "feerate"];

/// What the event has to hold for this answer. Objects keep only what the answer has; what else the event holds is checked to be
/// empty by [`assert_same`].
fn expected(method: &str, answer: &Value) -> Value {
    match (method, answer) {
        ("getpeerinfo", list) => json!({ "infos": renamed(list) }),
        ("getmemoryinfo", info) => renamed(&info["locked"]),
        ("getaddrmaninfo", info) => json!({ "networks": info }),
        ("getchaintips", list) => json!({ "tips": renamed(list) }),
        ("listbanned", list) => json!({ "subnets": renamed(list) }),
        ("getrawaddrman", tables) => {
            let table = |table: &Value| {
                let mut buckets: BTreeMap<&str, Value> = BTreeMap::new();
                for (place, entry) in table.as_object().unwrap() {
                    let (bucket, position) = place.split_once('/').unwrap();
                    let bucket = buckets.entry(bucket).or_insert_with(|| json!({ "entries": {} }));
                    bucket["entries"][position] = entry.clone();
                }
                json!(buckets)
            };
            json!({ "new": table(&tables["new"]), "tried": table(&tables["tried"]) })
        }
        ("getorphantxs", list) => {
            let bytes = |hex: &Value| -> Vec<u8> {
                let hex = hex.as_str().unwrap();
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
            };
            let reversed = |hex: &Value| bytes(hex).into_iter().rev().collect::<Vec<_>>();
            let orphans: Vec<Value> = list
                .as_array()
                .unwrap()
                .iter()
                .map(|orphan| {
                    let mut fields = orphan.as_object().unwrap().clone();
                    let raw = bytes(&fields.remove("hex").unwrap());
                    let (txid, wtxid) = (reversed(&orphan["txid"]), reversed(&orphan["wtxid"]));
                    fields.insert("transaction".into(), json!({ "txid": txid, "wtxid": wtxid, "raw": raw }));
                    Value::Object(fields)
                })
                .collect();
            json!({ "orphans": orphans })
        }
        ("uptime", seconds) => seconds.clone(),
        (_, fields) => renamed(fields),
    }
}

fn renamed(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(renamed).collect(),
        Value::Object(fields) => {
            let mut all = Map::new();
            for (name, value) in fields {
                // Of a block it is a text, and has no place; of uploads it is a number.
                let is_upload_target = name == "target" && value.is_number();
                if WITHOUT_PLACE.contains(&name.as_str()) && !is_upload_target {
                    continue;
                }
                let value = if FEE_RATES.contains(&name.as_str()) {
                    json!((value.as_f64().unwrap() * 1e8).round() / 1e3)
                } else if name.ends_with("_per_msg") {
                    // Its keys are types of messages.
                    value.clone()
                } else {
                    renamed(value)
                };
                let name =
                    RENAMED.iter().find(|(rpc, _)| rpc == name).map_or(name.as_str(), |(_, ours)| ours);
                all.insert(name.to_owned(), value);
            }
            Value::Object(all)
        }
        other => other.clone(),
    }
}

/// Fails unless `event` holds everything in `expected`, and nothing else but defaults.
fn assert_same(at: &str, event: &Value, expected: &Value) {
    match (event, expected) {
        (Value::Object(event), Value::Object(expected)) => {
            for name in expected.keys() {
                assert!(event.contains_key(name), "{at}.{name} is missing");
            }
            for (name, value) in event {
                match expected.get(name) {
                    Some(expected) => assert_same(&format!("{at}.{name}"), value, expected),
                    None => {
                        let defaults = [
                            json!(null),
                            json!(0),
                            json!(0.0),
                            json!(false),
                            json!(""),
                            json!([]),
                            json!({}),
                        ];
                        assert!(defaults.contains(value), "{at}.{name} is {value}, and not in the answer");
                    }
                }
            }
        }
        (Value::Array(event), Value::Array(expected)) => {
            assert_eq!(event.len(), expected.len(), "{at}");
            for (i, (event, expected)) in event.iter().zip(expected).enumerate() {
                assert_same(&format!("{at}[{i}]"), event, expected);
            }
        }
        (Value::Number(event), Value::Number(expected)) => {
            assert_eq!(event.as_f64(), expected.as_f64(), "{at}");
        }
        _ => assert_eq!(event, expected, "{at}"),
    }
}

/// The recorded answers: folder, method, parameters as in the file's name, and JSON.
fn samples() -> Vec<(PathBuf, String, Vec<String>, Value)> {
    let mut all = Vec::new();
    for folder in ["rpc-samples", "regtest-tour/rpc"] {
        for entry in std::fs::read_dir(data_dir().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut words = name.split('-').map(str::to_owned);
            let method = words.next().unwrap();
            let json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            all.push((path, method, words.collect(), json));
        }
    }
    all
}

#[tokio::test]
async fn every_recorded_answer_becomes_its_event_with_every_field_right() {
    let server = FakeRpc::start("u:p").unwrap();
    let client = {
        let config = config_for(&server);
        Client::new(config.rpc_host.clone(), config.login().unwrap().unwrap(), config.limits())
    };
    let mut seen = BTreeMap::<&str, u32>::new();
    for (path, name, params, json) in samples() {
        // The folders hold answers of methods that are not asked for, too.
        let Some(method) = Method::parse(&name) else { continue };
        server.behave(EVERYTHING, Behaviour::Answer(json.to_string()));
        let calls = method.calls();
        let call = match &params[..] {
            [target, mode] => {
                let wanted = json!([target.parse::<u32>().unwrap(), mode]);
                *calls.iter().find(|call| call.params() == wanted).expect("a call that is made")
            }
            _ => calls[0],
        };
        let answer = client.connection().await.call(&name, &call.params()).await.unwrap();
        let (event, unknown) = call.event(&answer).unwrap();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
        let mut expected = expected(&name, &json);
        if method == Method::EstimateSmartFee {
            let asked = call.params();
            expected["requested_blocks"] = asked[0].clone();
            expected["mode"] = if asked[1] == "economical" { 1 } else { 2 }.into();
        }
        assert_same(&path.display().to_string(), &content(&event).1, &expected);
        *seen.entry(method.name()).or_default() += 1;
    }
    let missing: Vec<_> = Method::ALL.iter().filter(|m| !seen.contains_key(m.name())).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
    assert_eq!(seen["estimatesmartfee"], 7);
}

#[tokio::test]
async fn fields_that_no_recorded_answer_has_arrive_too() {
    let cases = [
        (
            "getpeerinfo",
            json!([{ "mapped_as": 13335, "pingwait": 1.5, "cpu_load": 0.25, "inflight": [7, 8],
                     "permissions": ["noban"], "addrlocal": "1.2.3.4:8333", "starting_height": 5 }]),
            json!({ "infos": [{ "mapped_as": 13335, "ping_wait": 1.5, "cpu_load": 0.25, "inflight": [7, 8],
                                "permissions": ["noban"], "address_local": "1.2.3.4:8333" }] }),
        ),
        (
            "getrawaddrman",
            json!({ "tried": { "3/4": { "address": "a", "mapped_as": 1, "source_mapped_as": 2 } } }),
            json!({ "new": {}, "tried": { "3": { "entries": {
                "4": { "address": "a", "mapped_as": 1, "source_mapped_as": 2 } } } } }),
        ),
        (
            "getnetworkinfo",
            json!({ "localaddresses": [{ "address": "1.2.3.4", "port": 8333, "score": 4 }], "warnings": "w" }),
            json!({ "networks": [], "warnings": ["w"],
                    "local_addresses": [{ "address": "1.2.3.4", "port": 8333, "score": 4 }] }),
        ),
        ("estimatesmartfee", json!({ "errors": ["Insufficient data"], "blocks": 2 }), {
            json!({ "errors": ["Insufficient data"], "blocks": 2, "requested_blocks": 1, "mode": 1 })
        }),
        ("getchaintxstats", json!({ "time": 5 }), json!({ "time": 5 })),
    ];
    let server = FakeRpc::start("u:p").unwrap();
    let config = config_for(&server);
    let client = Client::new(config.rpc_host.clone(), config.login().unwrap().unwrap(), config.limits());
    for (name, answer, expected) in cases {
        server.behave(name, Behaviour::Answer(answer.to_string()));
        let call = Method::parse(name).unwrap().calls()[0];
        let answer = client.connection().await.call(name, &call.params()).await.unwrap();
        assert_same(name, &content(&call.event(&answer).unwrap().0).1, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_asked_for_and_published_under_the_node_s_name() {
    let server = server();
    let mut running = start(config_for(&server)).await;
    let mut missing: Vec<&str> = vec![
        "PeerInfos",
        "MempoolInfo",
        "Uptime",
        "NetTotals",
        "MemoryInfo",
        "AddrmanInfo",
        "ChainTxStats",
        "NetworkInfo",
        "BlockchainInfo",
        "OrphanTxs",
        "Addrman",
        "EstimateSmartFee",
        "ChainTips",
        "Banned",
    ];
    while !missing.is_empty() {
        let delivery = running.next(|_| true).await;
        let origin = delivery.event.origin.as_ref().unwrap();
        assert_eq!((origin.node.as_str(), origin.extractor), ("alice", Source::Rpc as i32));
        let (name, _) = content(delivery.event.peer_observer_event.as_ref().unwrap());
        let ours = ["ChainTips", "Banned"].contains(&name.as_str());
        assert_eq!(delivery.subject, if ours { Subject::RpcExtra } else { Subject::Rpc }, "{name}");
        missing.retain(|m| *m != name);
    }
    for method in Method::NAMES {
        assert!(running.metric("events_total", method).await >= 1.0, "{method}");
        assert!(running.metric("rpc_fetch_duration_seconds_count", method).await >= 1.0, "{method}");
        assert_eq!(running.metric("rpc_fetch_errors_total", method).await, 0.0, "{method}");
        assert_eq!(running.metric("unknown_fields_total", method).await, 0.0, "{method}");
        assert_eq!(server.most_in_flight(method), 1, "{method}");
    }
    assert!(server.most_connections() <= 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_method_delays_no_other_and_is_not_asked_for_twice_at_a_time() {
    let server = server();
    server.behave("getpeerinfo", Behaviour::Slow(Duration::from_secs(3600)));
    let mut running = start(config_for(&server)).await;
    for _ in 0..3 {
        running.next(is_uptime).await;
    }
    assert_eq!(server.calls("getpeerinfo"), 1);
    server.heal();
    running.next(|d| content(d.event.peer_observer_event.as_ref().unwrap()).0 == "PeerInfos").await;
    running.wait_for("missed_rounds_total", "getpeerinfo", 1.0).await;
    assert_eq!(server.most_in_flight("getpeerinfo"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_hang_leave_a_connection_to_the_others() {
    const EVERY: Duration = Duration::from_secs(1);
    let hung = [Method::GetPeerInfo, Method::GetRawAddrman, Method::GetChainTips];
    let server = server();
    for method in hung {
        server.behave(method.name(), Behaviour::Slow(Duration::from_secs(3600)));
    }
    let mut methods = vec![(Method::Uptime, EVERY)];
    methods.extend(hung.map(|method| (method, OFTEN)));
    let config = Config { rpc_timeout: 4, ..config_for(&server) };
    let running = start_with(config, methods).await;
    // Before, it is not known that they are slow.
    for method in hung {
        running.wait_for("rpc_fetch_errors_total", method.name(), 1.0).await;
    }
    let events = running.metric("events_total", "uptime").await;
    running.wait_for("events_total", "uptime", events + 2.0).await;
    let missed = running.metric("missed_rounds_total", "uptime").await;
    running.wait_for("events_total", "uptime", events + 10.0).await;
    // Behind the others, each of these would take as long as four rounds. A busy machine may miss one.
    let missed = running.metric("missed_rounds_total", "uptime").await - missed;
    assert!(missed < 10.0, "{missed} rounds missed for 10 that were not");
    // One that is quick again is treated as such.
    server.heal();
    for method in hung {
        running.wait_for("events_total", method.name(), 3.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_is_counted_and_survived() {
    let server = server();
    let config = Config { rpc_timeout: 1, rpc_max_answer_bytes: 100_000, ..config_for(&server) };
    let mut running = start_with(config, vec![(Method::Uptime, OFTEN)]).await;
    running.next(is_uptime).await;
    let faults = [
        (Behaviour::Slow(Duration::from_secs(3600)), "rpc_fetch_errors_total"),
        (Behaviour::Partial, "rpc_fetch_errors_total"),
        (Behaviour::Oversized(100_000), "rpc_fetch_errors_total"),
        (Behaviour::Garbage, "rpc_fetch_errors_total"),
        (Behaviour::Noise, "rpc_fetch_errors_total"),
        (Behaviour::Close, "rpc_fetch_errors_total"),
        (Behaviour::Status(503), "rpc_fetch_errors_total"),
        (Behaviour::Refuse(-28, "Verifying blocks…"), "rpc_fetch_errors_total"),
        (Behaviour::Answer("\"not a number\"".into()), "rpc_model_errors_total"),
    ];
    for (fault, metric) in faults {
        let before = running.metric(metric, "uptime").await;
        server.behave("uptime", fault.clone());
        running.wait_for(metric, "uptime", before + 1.0).await;
        server.heal();
        let events = running.metric("events_total", "uptime").await;
        running.wait_for("events_total", "uptime", events + 1.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_the_node_does_not_have_is_off_until_the_node_is_another() {
    let first = server();
    let addr = first.addr();
    first.behave("getorphantxs", Behaviour::Refuse(-32601, "Method not found"));
    first.behave("uptime", Behaviour::Answer("5000".into()));
    let mut running = start(config_for(&first)).await;
    running.wait_for("switched_off_total", "getorphantxs", 1.0).await;
    for _ in 0..3 {
        running.next(is_uptime).await;
    }
    assert_eq!(first.calls("getorphantxs"), 1);

    // The same process as far as can be seen, but that it runs for less long than before.
    first.behave("uptime", Behaviour::Answer("1".into()));
    running.wait_for("switched_off_total", "getorphantxs", 2.0).await;
    assert_eq!(first.calls("getorphantxs"), 2);

    drop(first);
    running.wait_for("rpc_fetch_errors_total", "uptime", 1.0).await;
    let second = FakeRpc::start_at(addr, "u:p").unwrap();
    second.play(&data_dir().join("rpc-samples")).unwrap();
    running.next(|d| content(d.event.peer_observer_event.as_ref().unwrap()).0 == "OrphanTxs").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_or_again_with_another_cookie_needs_no_help() {
    let dir = tempfile::tempdir().unwrap();
    let cookie = dir.path().join(".cookie");
    let first = server();
    let addr = first.addr();
    drop(first);
    let config =
        Config { rpc_host: addr.to_string(), rpc_cookie_file: Some(cookie.clone()), ..Config::default() };
    let mut running = start_with(config, vec![(Method::Uptime, OFTEN)]).await;
    running.wait_for("rpc_fetch_errors_total", "uptime", 1.0).await;
    for login in ["__cookie__:one", "__cookie__:two"] {
        std::fs::write(&cookie, login).unwrap();
        let node = FakeRpc::start_at(addr, login).unwrap();
        node.behave("uptime", Behaviour::Answer("3".into()));
        running.next(is_uptime).await;
        let errors = running.metric("rpc_fetch_errors_total", "uptime").await;
        drop(node);
        running.wait_for("rpc_fetch_errors_total", "uptime", errors + 1.0).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_not_known_are_counted() {
    let server = server();
    server.behave("getnettotals", Behaviour::Answer(r#"{"totalbytesrecv":1,"brand_new":2}"#.into()));
    let running = start_with(config_for(&server), vec![(Method::GetNetTotals, OFTEN)]).await;
    running.wait_for("unknown_fields_total", "getnettotals", 2.0).await;
    assert_eq!(running.metric("rpc_model_errors_total", "getnettotals").await, 0.0);
    running.stop().await;
}

/// An answer of getrawaddrman with so many entries in its tables.
fn raw_addrman(new: u32, tried: u32) -> String {
    let table = |name: &str, buckets: u32, n: u32| -> Map<String, Value> {
        (0..n)
            .map(|i| {
                let entry = json!({ "address": format!("{name}{i:0>55}.onion"), "port": 8333, "services": 1033,
                    "time": 1795375992, "network": "onion", "source": "74.142.60.89", "source_network": "ipv4" });
                (format!("{}/{}", i % buckets, i / buckets), entry)
            })
            .collect()
    };
    json!({ "new": table("n", 1024, new), "tried": table("t", 256, tried) }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_manager_of_80_000_entries_arrives_complete() {
    let server = server();
    server.behave("getrawaddrman", Behaviour::Answer(raw_addrman(64_000, 16_000)));
    let methods = vec![(Method::GetRawAddrman, Duration::from_secs(600))];
    let mut running = start_with(config_for(&server), methods).await;
    let (mut entries, mut parts) = (0, 1);
    for i in 0.. {
        if i == parts {
            break;
        }
        let delivery = running.next(|_| true).await;
        let Some(PeerObserverEvent::RpcExtra(RpcExtra {
            rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)),
        })) = &delivery.event.peer_observer_event
        else {
            panic!("no part of an address manager");
        };
        assert_eq!(part.part, i);
        parts = part.parts;
        let buckets = part.addrman.new.values().chain(part.addrman.tried.values());
        entries += buckets.map(|b| b.entries.len()).sum::<usize>();
    }
    assert!(parts > 1);
    assert_eq!(entries, 80_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_manager_goes_out_in_parts_that_the_nats_server_takes() {
    require!(need::nats_server());
    // The server's own default, less than what is assumed here.
    let nats = nats::Config { max_payload: 1 << 20, ..nats::Config::default() };
    let nats = NatsServer::start_with(nats).unwrap();
    let bus = Bus::nats(NatsConfig { nats_address: Some(nats.url()), ..NatsConfig::default() }).unwrap();
    let server = server();
    // Some 3 MB.
    server.behave("getrawaddrman", Behaviour::Answer(raw_addrman(16_000, 4_000)));
    let methods = vec![(Method::GetRawAddrman, Duration::from_secs(1))];
    let mut running = start_on(bus, config_for(&server), methods).await;
    let mut snapshots: BTreeMap<u64, usize> = BTreeMap::new();
    // What is asked for before the connection is there may be too large, and before the subscription is, unheard.
    let complete = |delivery: &Delivery| {
        let Some(PeerObserverEvent::RpcExtra(RpcExtra {
            rpc_event: Some(rpc_extra::RpcEvent::AddrmanPart(part)),
        })) = &delivery.event.peer_observer_event
        else {
            panic!("no part of an address manager");
        };
        assert!(part.parts > 2);
        let buckets = part.addrman.new.values().chain(part.addrman.tried.values());
        let entries = snapshots.entry(part.snapshot).or_default();
        *entries += buckets.map(|b| b.entries.len()).sum::<usize>();
        *entries == 20_000
    };
    running.next(complete).await;
    running.stop().await;
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
async fn nodes_that_were_found_share_a_page_and_a_login_of_the_settings_goes_before_theirs() {
    let bus = Bus::in_process();
    let mut events = bus.subscriber("test", &[Subject::Rpc], QueueLimits::default());
    let page = Page::default();
    let stop = CancellationToken::new();
    let (first, second) = (server(), server());
    let own = Login::Password { user: "u".into(), password: "p".into() };
    let wrong = Login::Password { user: "u".into(), password: "wrong".into() };
    let with_login = config_for(&second);
    let without = Config { rpc_user: None, rpc_password: None, ..with_login.clone() };
    let cases = [("alice", &first, own, without), ("bob", &second, wrong, with_login)];
    let mut tasks = Vec::new();
    for (node, server, login, config) in cases {
        let config = Config { rpc_node: node.into(), ..config };
        let found = RpcWindow { host: server.addr().to_string(), login: Some(login), access: of_user(0) };
        let (page, publisher, stop) = (page.clone(), bus.publisher(Source::Rpc, "rpc"), stop.clone());
        tasks.push(tokio::spawn(async move { run_found(&page, config, found, publisher, stop).await }));
    }
    let mut missing = BTreeSet::from(["alice".to_owned(), "bob".to_owned()]);
    let mut batch = Vec::new();
    while !missing.is_empty() {
        let received = tokio::time::timeout(PATIENCE, events.recv_many(&mut batch, 100)).await;
        assert!(received.is_ok(), "nothing of {missing:?}");
        for delivery in batch.drain(..).filter(is_uptime) {
            missing.remove(&delivery.event.origin.as_ref().unwrap().node);
        }
    }
    let rendered = page.render();
    for node in ["alice", "bob"] {
        let sample = format!("\nrpcextractor_events_total{{node=\"{node}\",rpc_method=\"uptime\"}} 1\n");
        assert!(rendered.contains(&sample), "{sample}{rendered}");
    }
    assert_eq!(rendered.matches("# TYPE rpcextractor_events_total counter\n").count(), 1);
    stop.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(page.render(), "");
}

/// What a user of this machine may read.
fn of_user(uid: u32) -> Access {
    Access::new(User { uid, gids: vec![uid] }, "/".into())
}

/// A login that is refused is counted by the server, so it sees all that it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_the_settings_is_sent_only_to_nodes_whose_user_may_know_it() {
    type Set = fn(Config, PathBuf) -> Config;
    const STRANGER: u32 = 54_321;
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("private");
    let open = folder.path().join("open");
    set_mode(folder.path(), 0o755);
    for (file, mode) in [(&private, 0o600), (&open, 0o644)] {
        std::fs::write(file, "u:p").unwrap();
        set_mode(file, mode);
    }
    let server = server();
    let settings = |set: Set, file: &PathBuf| {
        let none = Config { rpc_user: None, rpc_password: None, ..config_for(&server) };
        set(none, file.clone())
    };
    let cookie = |config, file| Config { rpc_cookie_file: Some(file), ..config };
    let password_file =
        |config, file| Config { rpc_user: Some("u".into()), rpc_password_file: Some(file), ..config };
    let password =
        |config, _| Config { rpc_user: Some("u".into()), rpc_password: Some("p".into()), ..config };
    let own = User::of_process(std::process::id()).unwrap().uid;
    let elsewhere = Access::new(User { uid: 0, gids: vec![0] }, folder.path().join("container"));
    let cases: [(Set, _, _, bool); 9] = [
        (cookie, &private, of_user(STRANGER), false),
        (cookie, &open, of_user(STRANGER), true),
        (cookie, &private, of_user(own), true),
        (cookie, &private, elsewhere.clone(), false),
        (password_file, &private, of_user(STRANGER), false),
        (password, &private, of_user(STRANGER), false),
        (password, &private, elsewhere, false),
        (password, &private, of_user(own), true),
        (password, &private, of_user(0), true),
    ];
    for (i, (set, file, access, is_sent)) in cases.into_iter().enumerate() {
        let config = settings(set, file);
        let host = server.addr().to_string();
        // The login that was found is another one, so that the server says which of them was sent.
        let found = Login::Password { user: "found".into(), password: "found".into() };
        let found = RpcWindow { host, login: Some(found), access };
        let at = |server: &FakeRpc| RpcWindow { host: server.addr().to_string(), ..found.clone() };
        for login in ["u:p", "found:found"] {
            server.set_login(login);
            let (asked, refused) = (server.calls("uptime"), server.refused_logins());
            let finding = check_found(&config, &found);
            let answers = is_sent == (login == "u:p");
            assert_eq!(finding.ok, answers, "case {i}: {finding:?}");
            let seen = (server.calls("uptime") - asked, server.refused_logins() - refused);
            assert_eq!(seen, if answers { (1, 0) } else { (0, 1) }, "case {i}");
            // Where a node answers without it, that it is not used is said, and what to do.
            assert_eq!(answers && !is_sent, finding.ok && finding.fix.is_some(), "case {i}: {finding:?}");
        }
        let another = FakeRpc::start(if is_sent { "u:p" } else { "found:found" }).unwrap();
        another.play(&data_dir().join("rpc-samples")).unwrap();
        let answered = run_until_answered(config.clone(), at(&another)).await;
        assert_eq!((answered, another.refused_logins()), (Ok(()), 0), "case {i}");
        if is_sent {
            continue;
        }
        // With no other login, nothing is sent.
        let another = FakeRpc::start("u:p").unwrap();
        let without = RpcWindow { login: None, ..at(&another) };
        let finding = check_found(&config, &without);
        assert!(!finding.ok && finding.fix.is_some(), "case {i}: {finding:?}");
        assert_eq!((another.calls("uptime"), another.refused_logins()), (0, 0), "case {i}");
    }
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs the extractor until the node has answered.
async fn run_until_answered(config: Config, found: RpcWindow) -> Result<(), String> {
    let bus = Bus::in_process();
    let mut events = bus.subscriber("test", &[Subject::Rpc], QueueLimits::default());
    let (page, stop) = (Page::default(), CancellationToken::new());
    let run = run_found(&page, config, found, bus.publisher(Source::Rpc, "rpc"), stop.clone());
    let heard = async {
        let heard = tokio::time::timeout(PATIENCE, events.recv_many(&mut Vec::new(), 1)).await;
        stop.cancel();
        heard.map(|_| ()).map_err(|_| "it is not answered".to_owned())
    };
    let (run, heard) = tokio::join!(run, heard);
    run.map_err(|error| error.to_string()).and(heard)
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
