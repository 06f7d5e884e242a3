//! What is exported, against a real Prometheus: it understands it, our dashboards and rules show something, and so would those of
//! the public peer-observer.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peer_observer_bus::{Bus, Limits, Publisher, now_ns};
use peer_observer_e2e::prometheus::Prometheus;
use peer_observer_e2e::{everything, flood};
use peer_observer_events::proto::observer::Source;
use peer_observer_exporter::render::Format;
#[cfg(feature = "ipc")]
use peer_observer_extractors::ipc;
use peer_observer_extractors::{capture, log, rpc};
use peer_observer_node::p2p::Network;
use peer_observer_testkit::fake_rpc::{self, FakeRpc};
#[cfg(feature = "ipc")]
use peer_observer_testkit::ipc_node::{Control, FakeNode, HasStarted, Kind};
use peer_observer_testkit::p2p_node::{Behaviour, ListeningNode};
use peer_observer_testkit::{data_dir, free_port, need, require, wait_until};
use peer_observer_tools::{connectivity, metrics};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Time in which every query has to have an answer: hundreds are asked again and again, with everything on one machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// How far back the history goes that Prometheus is given, and the distance of its samples, s.
const HISTORY: u64 = 26 * 3600;
const STEP: u64 = 300;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn alerts_fire_when_they_should_and_say_what_to_do() {
    let alerts = read("rules/alerts.yml");
    let document = read("docs/alerts.md");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        assert!(document.contains(&format!("\n## {name}\n")), "docs/alerts.md has nothing about {name}");
        assert!(alerts.contains(&format!("runbook: docs/alerts.md#{}\n", name.to_lowercase())), "{name}");
        let tests = read("rules/tests/alerts.yml");
        let cases: Vec<&str> =
            tests.split("alertname: ").filter(|case| case.starts_with(&format!("{name}\n"))).collect();
        assert!(cases.iter().any(|case| case.contains("exp_labels")), "no test lets {name} fire");
        assert!(cases.iter().any(|case| case.contains("exp_alerts: []")), "no test keeps {name} quiet");
    }
    require!(need::prometheus());
    test_rules(&repository().join("rules/tests/alerts.yml"));
}

/// Runs the tests in this file with promtool.
fn test_rules(tests: &Path) {
    let (_, promtool) = need::prometheus().unwrap();
    let output = Command::new(promtool).args(["test", "rules"]).arg(tests).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Series, a sample a minute, and what a panel shows at some minutes: the sum of the first of its queries that has an answer.
struct Shown {
    panel: &'static str,
    series: &'static [(&'static str, &'static str)],
    sums: &'static [(u32, f64)],
}

/// The metrics tool runs, and is scraped.
const RUNS: (&str, &str) = ("peerobserver_runtime_start_timestamp", "1x2000");
/// Nothing for an hour and a half, then something that is counted once.
const LATE: &str = "_x90 3x1900";

const SHOWN: &[Shown] = &[
    Shown {
        panel: "Is my node well?: Lost events in an hour",
        series: &[RUNS, ("peerobserver_pipeline_lost{cause=\"full\",stage=\"ring_buffer\"}", LATE)],
        sums: &[(80, 0.0), (100, 3.0), (200, 0.0)],
    },
    // What nothing is told of any more goes to `other` after a day.
    Shown {
        panel: "Is my node well?: Lost events in an hour",
        series: &[
            RUNS,
            ("peerobserver_pipeline_lost{cause=\"full\",stage=\"ring_buffer\"}", "_x90 3x1439 stale"),
            ("peerobserver_pipeline_lost{cause=\"other\",stage=\"ring_buffer\"}", "_x1530 3x400"),
        ],
        sums: &[(100, 3.0), (1540, 0.0)],
    },
    Shown {
        panel: "The pipeline itself: Lost",
        series: &[RUNS, ("peerobserver_pipeline_lost{cause=\"full\",stage=\"ring_buffer\"}", LATE)],
        sums: &[(95, 3.0), (110, 0.0)],
    },
    Shown {
        panel: "The pipeline itself: Messages that could not be decoded",
        series: &[RUNS, ("peerobserver_pipeline_decode_errors{message=\"tx\"}", LATE)],
        sums: &[(100, 3.0), (200, 0.0)],
    },
    Shown {
        panel: "The pipeline itself: RPC errors",
        series: &[("rpcextractor_rpc_fetch_errors_total{rpc_method=\"uptime\"}", LATE)],
        sums: &[(95, 3.0), (110, 0.0)],
    },
    Shown {
        panel: "Who connects?: Rules broken",
        series: &[RUNS, ("peerobserver_conn_misbehaving_reason{misbehavingmessage=\"x\"}", LATE)],
        sums: &[(100, 3.0), (200, 0.0)],
    },
    // Once more after the metrics tool was started again; not because Prometheus was away for a while.
    Shown {
        panel: "Who connects?: Rules broken",
        series: &[
            ("peerobserver_runtime_start_timestamp", "1x49 _x50 6000x100 _x100 6000x200"),
            ("peerobserver_conn_misbehaving_reason{misbehavingmessage=\"x\"}", "3x49 _x50 2x100 _x100 2x200"),
        ],
        sums: &[(100, 2.0), (130, 2.0), (310, 0.0), (340, 0.0)],
    },
    Shown {
        panel: "Who connects?: Who broke them",
        series: &[RUNS, ("peerobserver_conn_misbehaving{id=\"7\",misbehavingmessage=\"x\"}", LATE)],
        sums: &[(100, 3.0), (1000, 3.0), (1600, 0.0)],
    },
    Shown {
        panel: "Blocks and compact blocks: Blocks changed on their way",
        series: &[RUNS, ("peerobserver_log_mutated_blocks{status=\"x\"}", LATE)],
        sums: &[(100, 3.0), (200, 0.0)],
    },
    // Ten blocks a minute, of 5 ms each; first in the hour after a start.
    Shown {
        panel: "Blocks and compact blocks: Time to connect a block, last hour",
        series: &[
            ("peerobserver_validation_block_connected_latest_height", "0 900000x9 900010+10x200"),
            ("peerobserver_validation_block_connected_connection_time", "0 5000x9 55000+50000x200"),
        ],
        sums: &[(5, 5000.0), (100, 5000.0)],
    },
];

#[test]
fn dashboards_show_what_is_counted_for_the_first_time() {
    require!(need::prometheus());
    let queries = dashboard_queries();
    let mut tests = String::from("evaluation_interval: 1m\ntests:\n");
    for shown in SHOWN {
        let node = |series: &str| match series.split_once('{') {
            Some((name, labels)) => format!("{name}{{host=\"alice\",instance=\"a\",{labels}"),
            None => format!("{series}{{host=\"alice\",instance=\"a\"}}"),
        };
        writeln!(tests, "  - interval: 1m\n    input_series:").unwrap();
        for (series, values) in shown.series {
            writeln!(tests, "      - series: '{}'\n        values: '{values}'", node(series)).unwrap();
        }
        let of_panel: Vec<String> = queries
            .iter()
            .filter(|(panel, _)| panel == shown.panel)
            .map(|(_, query)| format!("sum({})", query))
            .collect();
        assert!(!of_panel.is_empty(), "there is no {}", shown.panel);
        writeln!(tests, "    promql_expr_test:").unwrap();
        for (minute, sum) in shown.sums {
            writeln!(tests, "      - expr: '{}'", of_panel.join(" or ")).unwrap();
            writeln!(tests, "        eval_time: {minute}m").unwrap();
            writeln!(tests, "        exp_samples: [{{labels: '{{}}', value: {sum}}}]").unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboards.yml");
    std::fs::write(&file, tests).unwrap();
    test_rules(&file);
}

#[test]
fn a_page_with_every_label_at_its_limit_is_shorter_than_5_mb() {
    let page = flood::full_metrics().unwrap().render(Format::Text);
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    let messages = page.lines().filter(|line| line.starts_with("peerobserver_p2p_message_count{")).count();
    assert!(messages > 8_000, "{messages} series of messages: that is not the limit");
}

/// Our exporters, fed with the recordings, and with events of every kind that these lack.
struct Exporters {
    metrics: String,
    /// The same metrics in OpenMetrics, by node.
    openmetrics: String,
    rpc: String,
    ipc: String,
    ipc_node: IpcNode,
    connectivity: String,
    stop: CancellationToken,
    log: PathBuf,
    publishers: BTreeMap<i32, Publisher>,
    gossip: Publisher,
    /// Where a node listens, and where nobody does.
    gossiped: [SocketAddr; 2],
    node: FakeRpc,
    _listening: ListeningNode,
}

impl Exporters {
    fn start(folder: &Path) -> Self {
        let address = || format!("127.0.0.1:{}", free_port().unwrap());
        let bus = Bus::in_process();
        let stop = CancellationToken::new();
        let (asmap, names, list, log) =
            (folder.join("asmap"), folder.join("names"), folder.join("list"), folder.join("debug.log"));
        // All addresses are in AS 1.
        std::fs::write(&asmap, [0; 3]).unwrap();
        std::fs::write(&names, "AS1 Example\n").unwrap();
        std::fs::write(&list, "198.51.100.0/24\n").unwrap();
        std::fs::write(&log, "").unwrap();
        let lists = ["gmax", "monero", "tor_exit", "bitprojects"];
        let metrics = metrics::Config {
            metrics_address: address(),
            ip_lists: lists
                .iter()
                .map(|name| format!("{name}={}", list.display()).parse().unwrap())
                .collect(),
            asmap_file: Some(asmap),
            as_names_file: Some(names),
            max_label_values: 50,
            ..metrics::Config::default()
        };
        let subscriber = bus.subscriber("metrics", &metrics::subjects(&metrics), Limits::default());
        let metrics_address = metrics.metrics_address.clone();
        let openmetrics = metrics::Config {
            metrics_address: address(),
            openmetrics: true,
            node_label: true,
            ..metrics.clone()
        };
        let openmetrics_address = openmetrics.metrics_address.clone();
        tokio::spawn(metrics::run(metrics, subscriber, stop.clone()));
        let subscriber = bus.subscriber("openmetrics", &metrics::subjects(&openmetrics), Limits::default());
        tokio::spawn(metrics::run(openmetrics, subscriber, stop.clone()));

        let node = FakeRpc::start("user:password").unwrap();
        node.play(&data_dir().join("rpc-samples")).unwrap();
        let rpc = rpc::Config {
            rpc_host: node.addr().to_string(),
            rpc_user: Some("user".into()),
            rpc_password: Some("password".into()),
            prometheus_address: address(),
            query_interval: 1,
            query_interval_less_frequent: 1,
            // These come from `everything`.
            disable_getrawaddrman: true,
            disable_getpeerinfo: true,
            ..rpc::Config::default()
        };
        let rpc_address = rpc.prometheus_address.clone();
        tokio::spawn(rpc::run(rpc, bus.publisher(Source::Rpc, "rpc"), stop.clone()));

        let lines = log::Config {
            log_file: Some(log.clone()),
            log_state: Some(folder.join("place")),
            ..log::Config::default()
        };
        tokio::spawn(log::run(lines, bus.publisher(Source::Log, "log"), stop.clone()));
        let recording = data_dir().join("regtest-tour/tracepoints.bin.zst");
        let recorded = capture::Config { recording: vec![recording], ..capture::Config::default() };
        tokio::spawn(capture::run(recorded, bus.publisher(Source::Capture, "capture"), stop.clone()));
        let ipc = address();
        let ipc_node = serve_ipc(&ipc, folder, &bus, &stop);
        // On a bus of its own: it shall not dial what was recorded.
        let gossip = Bus::in_process();
        let listening = ListeningNode::local(Behaviour::AnswersV1).unwrap();
        let nobody = ListeningNode::local(Behaviour::Hangs).unwrap().stop();
        let check = connectivity::Config {
            connect: true,
            allow_local: true,
            metrics_address: address(),
            p2p_network: Network::Regtest,
            tor_exit_list: Some(list),
            ..connectivity::Config::default()
        };
        let subscriber =
            gossip.subscriber("connectivity", &connectivity::subjects(&check), Limits::default());
        let connectivity = check.metrics_address.clone();
        tokio::spawn(connectivity::run(check, subscriber, stop.clone()));
        let sources = [Source::Ebpf, Source::Rpc, Source::P2p, Source::Ipc];
        let publishers = sources.map(|source| (source as i32, bus.publisher(source, "everything"))).into();
        Exporters {
            metrics: metrics_address,
            openmetrics: openmetrics_address,
            rpc: rpc_address,
            ipc,
            ipc_node,
            connectivity,
            stop,
            log,
            publishers,
            gossip: gossip.publisher(Source::Ebpf, "gossip"),
            gossiped: [listening.addr(), nobody],
            node,
            _listening: listening,
        }
    }

    fn publish(&mut self, round: u64) {
        let node: Arc<str> = "alice".into();
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (source, event) in everything::events(round, now_s) {
            self.publishers.get_mut(&(source as i32)).unwrap().publish(&node, now_ns(), event);
        }
        self.ipc_node.next_tip(round);
        self.node.behave("uptime", fake_rpc::Behaviour::Answer((60 + round).to_string()));
        self.gossip.publish(&node, now_ns(), everything::gossip(&self.gossiped));
        let mut log = std::fs::OpenOptions::new().append(true).open(&self.log).unwrap();
        log.write_all(everything::log_lines(round).as_bytes()).unwrap();
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A node that listens for IPC.
#[cfg(feature = "ipc")]
struct IpcNode {
    control: Arc<Control>,
    _node: FakeNode,
    _started: HasStarted,
}

#[cfg(feature = "ipc")]
impl IpcNode {
    fn next_tip(&self, round: u64) {
        self.control.set_tip(Some(round as u8));
    }
}

/// The IPC extractor, with a node.
#[cfg(feature = "ipc")]
fn serve_ipc(address: &str, folder: &Path, bus: &Bus, stop: &CancellationToken) -> IpcNode {
    let socket = folder.join("node.sock");
    let control = Control::new(Kind::Core31);
    let node =
        IpcNode { _node: FakeNode::start(&socket, control.clone()), control, _started: HasStarted::start() };
    let config = ipc::Config {
        ipc_socket_path: Some(socket),
        prometheus_address: address.into(),
        ..ipc::Config::default()
    };
    tokio::spawn(ipc::run(config, bus.publisher(Source::Ipc, "ipc"), stop.clone()));
    node
}

/// What stands for it, where there is none.
#[cfg(not(feature = "ipc"))]
struct IpcNode;

#[cfg(not(feature = "ipc"))]
impl IpcNode {
    fn next_tip(&self, _: u64) {}
}

/// Stands for the IPC extractor, which this build does not have: its metrics as docs/metrics.md names them, all at 1.
#[cfg(not(feature = "ipc"))]
fn serve_ipc(address: &str, _: &Path, _: &Bus, _: &CancellationToken) -> IpcNode {
    let mut page = String::new();
    for line in read("docs/metrics.md").lines().filter(|line| line.starts_with("| `ipcextractor_")) {
        let columns: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (name, label) = (columns[0].trim_matches('`'), columns[2]);
        let labels = |more: &str| {
            format!("{{{}{more}}}", if label.is_empty() { String::new() } else { format!("{label}=\"x\",") })
        };
        match columns[1] {
            "histogram" => {
                writeln!(
                    page,
                    "{name}_bucket{} 1\n{name}_sum{} 1\n{name}_count{} 1",
                    labels("le=\"+Inf\""),
                    labels(""),
                    labels("")
                )
                .unwrap();
            }
            _ => writeln!(page, "{name}{} 1", labels("")).unwrap(),
        }
    }
    assert_eq!(page.matches("ipcextractor_").count(), 9, "{page}");
    let listener = std::net::TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    IpcNode
}

/// Prometheus' configuration, our rules with intervals of a second, and a day of history for a value that varies.
fn configure(folder: &Path, promtool: &Path, exporters: &Exporters) -> PathBuf {
    for rules in ["recording.yml", "alerts.yml"] {
        let text = read(&format!("rules/{rules}"));
        let quick: Vec<&str> = text
            .lines()
            .map(|line| if line.starts_with("    interval: ") { "    interval: 1s" } else { line })
            .collect();
        std::fs::write(folder.join(rules), quick.join("\n")).unwrap();
    }
    let targets = [&exporters.metrics, &exporters.rpc, &exporters.ipc, &exporters.connectivity]
        .map(|address| format!("\"{address}\""))
        .join(", ");
    let config = folder.join("prometheus.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [recording.yml, alerts.yml]\n\
         scrape_configs:\n  - job_name: peer-observer\n    static_configs:\n      - targets: [{targets}]\n        labels: {{host: alice}}\n\
         \x20 - job_name: openmetrics\n    static_configs:\n      - targets: [\"{}\"]\n        labels: {{host: bob}}\n",
        exporters.openmetrics
    );
    std::fs::write(&config, text).unwrap();

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut history = String::from("# TYPE anomaly:adaptive:select gauge\n");
    for (i, time) in (now - HISTORY..now).step_by(STEP as usize).enumerate() {
        let value = [10, 100][i % 2];
        writeln!(
            history,
            "anomaly:adaptive:select{{host=\"alice\",anomaly_name=\"history\",anomaly_type=\"latency\"}} {value} {time}"
        )
        .unwrap();
    }
    history.push_str("# EOF\n");
    let file = folder.join("history.txt");
    std::fs::write(&file, history).unwrap();
    let mut backfill = Command::new(promtool);
    backfill.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(file).arg(folder.join("data"));
    let output = backfill.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    config
}

/// The queries of our dashboards, with all nodes chosen.
fn dashboard_queries() -> BTreeSet<(String, String)> {
    let mut queries = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title =
                format!("{}: {}", dashboard["title"].as_str().unwrap(), panel["title"].as_str().unwrap());
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} has no description");
            assert!(
                !panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(),
                "{title} has no unit"
            );
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$host", "alice").replace("$instance", ".*").replace("$node", ".*");
                queries.insert((title.clone(), query.replace("$__rate_interval", "1m")));
            }
        }
    }
    queries
}

/// The series of a name that are not those in OpenMetrics.
fn of_alice(name: &str) -> String {
    format!("{name}{{host=\"alice\"}}")
}

/// The names that rules record, and those of ours that their queries and those of alerts read.
fn rule_queries() -> BTreeSet<(String, String)> {
    let mut queries = BTreeSet::new();
    for file in ["rules/recording.yml", "rules/alerts.yml"] {
        for line in read(file).lines() {
            if let Some(name) = line.trim().strip_prefix("- record: ") {
                queries.insert((file.to_owned(), of_alice(name)));
            }
            if ["summary:", "description:", "runbook:", "labels:", "- name:"]
                .iter()
                .any(|key| line.trim().starts_with(key))
            {
                continue;
            }
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let ours = words.filter(|word| {
                ["peerobserver_", "peerobserver:", "anomaly:"].iter().any(|start| word.starts_with(start))
            });
            // What is left of a regular expression is no name.
            let names = ours.filter(|word| !["peerobserver_", "peerobserver_p2p_addr"].contains(word));
            queries.extend(names.map(|name| (file.to_owned(), of_alice(name))));
        }
    }
    queries
}

/// Rules that cannot be evaluated, and exporters that cannot be read.
fn unhealthy(prometheus: &Prometheus) -> Vec<String> {
    let rules = prometheus.get("/api/v1/rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let ill = rules.filter(|rule| rule["health"] != "ok");
    let mut all: Vec<String> = ill.map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect();
    let targets = prometheus.get("/api/v1/targets").unwrap();
    let targets = targets["data"]["activeTargets"].as_array().unwrap().iter();
    let ill = targets.filter(|target| target["health"] != "up");
    all.extend(ill.map(|target| format!("{}: {}", target["scrapeUrl"], target["lastError"])));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_dashboards_and_rules_is_answered_and_so_is_every_public_name() {
    require!(need::prometheus());
    let (program, promtool) = need::prometheus().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut exporters = Exporters::start(folder.path());
    let config = configure(folder.path(), &promtool, &exporters);
    let prometheus = Prometheus::start(&program, &config, &folder.path().join("data")).unwrap();

    let public = include_str!("../src/dashboard-metrics.txt").lines().filter(|line| !line.starts_with('#'));
    let mut open: BTreeSet<(String, String)> =
        public.map(|name| ("public".to_owned(), of_alice(name))).collect();
    open.extend(dashboard_queries());
    open.extend(rule_queries());
    for query in [
        "peerobserver_conn_inbound_total{host=\"bob\",node=\"alice\"}",
        "peerobserver_p2p_addr_addresses_bucket{host=\"bob\",node=\"alice\",le=\"1.0\"}",
        "peerobserver_rpc_peer_info_addr_ratelimited_total{host=\"bob\",node=\"alice\"}",
    ] {
        open.insert(("openmetrics".to_owned(), query.to_owned()));
    }
    assert!(open.len() > 400, "{} queries", open.len());
    let begin = Instant::now();
    let mut round = 0;
    while !open.is_empty() && begin.elapsed() < PATIENCE {
        round += 1;
        exporters.publish(round);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if round > 3 {
            open.retain(|(place, query)| {
                prometheus.series(query).unwrap_or_else(|e| panic!("{place}: {query}: {e}")) == 0
            });
        }
    }
    assert!(open.is_empty(), "nothing is shown for {open:#?}");

    // What takes longer than a second fails once, on a busy machine.
    let mut ill = Vec::new();
    let is_well = wait_until(PATIENCE, || {
        ill = unhealthy(&prometheus);
        ill.is_empty()
    });
    assert!(is_well, "{ill:#?}");
}
