//! Counts events and serves the counts to Prometheus.
//!
//! Names, labels and meaning are those that dashboards of the public peer-observer query; README.md says what is different.
//! One task counts, in batches; whoever scrapes gets the state between two batches.
//!
//! | file | what it is for |
//! |---|---|
//! | node.rs | all that is counted of a node: the files below |
//! | net_msg.rs, net_conn.rs, mempool.rs, validation.rs | metrics of eBPF events, a file a subject |
//! | invs.rs | metrics of inv messages |
//! | addresses.rs | metrics of the addresses in addr and addrv2 messages |
//! | live.rs | connections that are open now |
//! | rpc/ | metrics of answers of RPC methods |
//! | log.rs | metrics of lines of debug.log |
//! | p2p.rs | metrics of our own P2P connection to a node, and of its IPC interface |
//! | books.rs | from the eBPF extractor's books to counters |
//! | pipeline.rs | metrics of peer-observer itself: latency, losses, queues |

pub(crate) mod addresses;
mod books;
mod invs;
mod live;
mod log;
mod mempool;
mod net_conn;
mod net_msg;
mod node;
mod p2p;
mod pipeline;
mod rpc;
#[cfg(test)]
mod tests;
mod validation;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peer_observer_bus::{Delivery, Finding, Subscriber, SubscriberStats, now_ns};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_exporter::labels::{OTHER, bounded};
use peer_observer_exporter::render::{Format, Part};
use peer_observer_exporter::server::{self, BindError};
use peer_observer_exporter::{registry, render};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::known::{self, Files, Known, ListFile, Watch};

/// How a user sets the address for metrics.
const METRICS_FLAG: &str = "--metrics-address";
/// How a user allows a name for the page.
const HOST_FLAG: &str = "--metrics-host";
/// Events that are counted before a scrape can get in between.
const BATCH: usize = 1024;
/// How often it is looked for what is stale.
const TICK: Duration = Duration::from_secs(3600);
/// Nodes that have metrics of their own with `--node-label`; more are counted together as `other`.
const MAX_NODES: usize = 256;
/// Stands for all metrics of nodes where it is counted how often a label value was `other`.
const FOLDED_NODES: &str = "node";

/// Settings of the metrics tool.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to serve the metrics at.
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8282")]
    pub metrics_address: String,
    /// Name that Prometheus may scrape by, besides addresses, localhost and the name of this
    /// machine; may be repeated
    #[arg(long, value_name = "NAME")]
    pub metrics_host: Vec<String>,
    /// File with an address or subnet a line for a list that metrics count by; read again when it changes. The lists gmax, monero,
    /// tor_exit and bitprojects have metrics of their own. Can be repeated.
    #[arg(long = "ip-list", value_name = "NAME=FILE")]
    pub ip_lists: Vec<ListFile>,
    /// Map of autonomous systems, as Bitcoin Core's -asmap takes it, for metrics by AS
    #[arg(long, value_name = "FILE")]
    pub asmap_file: Option<PathBuf>,
    /// File with the names of autonomous systems, a number and a name a line
    #[arg(long, value_name = "FILE", requires = "asmap_file")]
    pub as_names_file: Option<PathBuf>,
    /// Series that a metric can have for a label whose values peers choose; the rest is counted as `other`.
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    pub max_label_values: usize,
    /// Name for the node of events that do not say which it is, as those of public extractors.
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub node: String,
    /// Count each node on its own, with a label `node`; dashboards of the public peer-observer do not know that label
    #[arg(long)]
    pub node_label: bool,
    /// Answer in OpenMetrics to those who ask for it; the names of counters end in `_total` there
    #[arg(long)]
    pub openmetrics: bool,
    /// Hours after which series that nothing was counted in are no longer exported
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub stale_after: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            metrics_address: "127.0.0.1:8282".into(),
            metrics_host: Vec::new(),
            ip_lists: Vec::new(),
            asmap_file: None,
            as_names_file: None,
            max_label_values: 500,
            node: "node".into(),
            node_label: false,
            openmetrics: false,
            stale_after: 24,
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        server::check_address(&self.metrics_address, METRICS_FLAG)?;
        Known::read(&self.files())?;
        Ok(())
    }

    /// The files that tell of addresses.
    fn files(&self) -> Files {
        Files {
            lists: self.ip_lists.clone(),
            systems: self.asmap_file.clone(),
            names: self.as_names_file.clone(),
        }
    }
}

/// Why the metrics tool cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// A file of the user's cannot be used.
    #[error(transparent)]
    File(#[from] known::Error),
}

/// The subjects that the tool wants.
pub fn subjects(_config: &Config) -> Vec<Subject> {
    Subject::ALL.to_vec()
}

/// What the tool needs, and whether it is there.
pub fn check(config: &Config) -> Vec<Finding> {
    let listen = Finding::listens("metrics", "be served at", &config.metrics_address, METRICS_FLAG);
    std::iter::once(listen).chain(config.files().check()).collect()
}

/// Counts events and serves the counts until `stop`, or until the bus ends.
///
/// # Errors
/// When the address cannot be listened on or a file cannot be read.
pub async fn run(config: Config, subscriber: Subscriber, stop: CancellationToken) -> Result<(), Error> {
    let listener = server::bind(&config.metrics_address, METRICS_FLAG).await?;
    run_at(listener, &config, subscriber, stop).await
}

async fn run_at(
    listener: TcpListener,
    config: &Config,
    mut subscriber: Subscriber,
    stop: CancellationToken,
) -> Result<(), Error> {
    let watch = Watch::new(config.files());
    let metrics = Arc::new(Mutex::new(Metrics::new(config)?));
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving metrics");
    }
    let site = Site {
        metrics: metrics.clone(),
        stats: subscriber.stats(),
        depth: Box::new(subscriber.depth()),
        openmetrics: config.openmetrics,
    };
    // The server ends with the events, too.
    let server_stop = stop.child_token();
    let names = server::Names { allowed: config.metrics_host.clone(), flag: HOST_FLAG };
    let server = tokio::spawn(server::serve(listener, names, site, server_stop.clone()));
    let counting = metrics.clone();
    let take = move |known| locked(&counting).known = known;
    tokio::spawn(watch.follow(known::LOOK, server_stop.clone(), take));
    tokio::spawn(expire(metrics.clone(), config.stale_after, server_stop.clone()));
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => break,
            received = subscriber.recv_many(&mut batch, BATCH) => received,
        };
        if received == 0 {
            break;
        }
        locked(&metrics).observe_batch(&batch);
        batch.clear();
    }
    server_stop.cancel();
    if let Err(error) = server.await {
        tracing::error!(%error, "metrics server failed");
    }
    Ok(())
}

/// What the server serves.
struct Site {
    metrics: Arc<Mutex<Metrics>>,
    stats: Arc<SubscriberStats>,
    depth: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
    openmetrics: bool,
}

impl server::Site for Site {
    fn page(&self, format: Format) -> String {
        let mut metrics = locked(&self.metrics);
        metrics.observe_bus(&self.stats, (self.depth)());
        metrics.render(format)
    }

    fn openmetrics(&self) -> bool {
        self.openmetrics
    }

    fn ready(&self) -> Result<(), String> {
        if self.stats.received.load(Ordering::Relaxed) == 0 {
            return Err("no event came yet: is an extractor running, and on the same bus?".into());
        }
        Ok(())
    }
}

/// Lets go what is stale, until `stop`.
async fn expire(metrics: Arc<Mutex<Metrics>>, hours: u32, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => locked(&metrics).expire(hours),
        }
    }
}

/// The metrics are numbers and stay usable even if a thread should have failed with them.
fn locked(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All metrics; counts events without knowing where they come from.
#[derive(Debug)]
pub struct Metrics {
    /// What is not of a node.
    registry: registry::Registry,
    pipeline: pipeline::Pipeline,
    known: Known,
    nodes: Nodes,
}

/// What is counted of nodes.
#[derive(Debug)]
struct Nodes {
    all: Vec<node::Node>,
    /// Positions by name, with `--node-label`.
    index: Option<HashMap<Box<str>, usize>>,
    /// The node of the last event: the next one is often of the same.
    last: usize,
    max_label_values: usize,
    /// Name for the node of events that do not say which it is.
    default_name: String,
    told_of_others: bool,
}

impl Nodes {
    fn new(config: &Config) -> Self {
        let together =
            if config.node_label { None } else { Some(node::Node::new("", config.max_label_values)) };
        Nodes {
            all: together.into_iter().collect(),
            index: config.node_label.then(HashMap::new),
            last: 0,
            max_label_values: config.max_label_values,
            default_name: config.node.clone(),
            told_of_others: false,
        }
    }

    /// The node that an event is of. One that has no metrics of its own is counted in `shared`.
    fn of(&mut self, shared: &mut registry::Registry, delivery: &Delivery) -> &mut node::Node {
        let Some(index) = &mut self.index else { return &mut self.all[0] };
        let name = delivery.event.origin.as_ref().map_or(self.default_name.as_str(), |origin| &origin.node);
        let mut name = bounded(name);
        if self.all.get(self.last).is_none_or(|last| *last.name != *name) {
            if index.len() >= MAX_NODES && !index.contains_key(name) {
                shared.count_folded(FOLDED_NODES);
                if !self.told_of_others {
                    self.told_of_others = true;
                    tracing::warn!(
                        node = name,
                        "more than {MAX_NODES} nodes: further ones are counted together, as {OTHER}"
                    );
                }
                name = OTHER;
            }
            self.last = *index.entry(name.into()).or_insert_with(|| {
                self.all.push(node::Node::new(name, self.max_label_values));
                self.all.len() - 1
            });
        }
        &mut self.all[self.last]
    }

    fn expire(&mut self, idle: u32) {
        for node in &mut self.all {
            node.idle = node.idle.saturating_add(1);
            node.registry.expire(idle);
        }
        if let Some(index) = &mut self.index {
            self.all.retain(|node| node.idle <= idle);
            *index = self.all.iter().enumerate().map(|(i, node)| (node.name.clone(), i)).collect();
            self.last = 0;
        }
    }
}

impl Metrics {
    /// Metrics with nothing counted yet.
    ///
    /// # Errors
    /// When a file of the user's cannot be read.
    pub fn new(config: &Config) -> Result<Self, known::Error> {
        let known = Known::read(&config.files())?;
        let mut registry = registry::Registry::new(config.max_label_values);
        let start = registry.gauge(
            "peerobserver_runtime_start_timestamp",
            "When the metrics tool was started, seconds since the UNIX epoch.",
        );
        registry.set(start, i64::try_from(now_ns() / 1_000_000_000).unwrap_or(i64::MAX));
        Ok(Metrics {
            pipeline: pipeline::Pipeline::new(&mut registry, &config.node),
            nodes: Nodes::new(config),
            known,
            registry,
        })
    }

    /// Counts an event that arrives now.
    pub fn observe(&mut self, delivery: &Delivery) {
        self.observe_at(delivery, now_ns());
    }

    /// Counts events that arrive now.
    pub fn observe_batch(&mut self, deliveries: &[Delivery]) {
        let now_ns = now_ns();
        for delivery in deliveries {
            self.observe_at(delivery, now_ns);
        }
    }

    /// Takes over what the bus counted for this tool, and how many events and bytes wait for it.
    pub fn observe_bus(&mut self, stats: &SubscriberStats, depth: (usize, usize)) {
        self.pipeline.observe_bus(&mut self.registry, stats, depth);
    }

    /// Ends a tick, and what was not seen for `idle` of them: series whose label values nothing was counted for, gauges by label that
    /// were not measured, and with `--node-label` nodes.
    pub fn expire(&mut self, idle: u32) {
        // Before nodes end.
        self.count_capped();
        self.registry.expire(idle);
        self.nodes.expire(idle);
    }

    fn count_capped(&mut self) {
        let of_nodes = self.nodes.all.iter_mut().map(|node| node.registry.take_capped());
        let capped = of_nodes.fold(self.registry.take_capped(), u64::saturating_add);
        self.pipeline.observe_capped(&mut self.registry, capped);
    }

    /// The metrics as text, for somebody who reads it: what is on no page yet counts as `other` when its series ends.
    pub fn render(&mut self, format: Format) -> String {
        self.count_capped();
        let shared = [Part { node: None, registry: &self.registry }];
        let named = self.nodes.index.is_some();
        let nodes: Vec<Part<'_>> = self
            .nodes
            .all
            .iter()
            .map(|node| Part { node: named.then_some(&*node.name), registry: &node.registry })
            .collect();
        let page = render::render_groups(&[&shared, &nodes], format);
        self.registry.mark_exported();
        self.nodes.all.iter_mut().for_each(|node| node.registry.mark_exported());
        page
    }

    /// What every metric is, those of nodes first.
    pub fn describe(&self) -> Vec<registry::Description> {
        let nodes = self.nodes.all.iter().take(1).flat_map(|node| node.registry.describe());
        nodes.chain(self.registry.describe()).chain([render::describe_folded()]).collect()
    }

    fn observe_at(&mut self, delivery: &Delivery, now_ns: u64) {
        let r = &mut self.registry;
        self.pipeline.observe(r, delivery, now_ns);
        match &delivery.event.peer_observer_event {
            Some(PeerObserverEvent::EbpfExtractor(ebpf)) => {
                if let Some(EbpfEvent::Message(message)) = &ebpf.ebpf_event {
                    self.pipeline.observe_decode_error(r, message);
                }
            }
            Some(PeerObserverEvent::Books(books)) => {
                return self.pipeline.observe_books(r, books, delivery.event.origin.as_ref());
            }
            Some(PeerObserverEvent::Loss(loss)) => return self.pipeline.observe_loss(r, loss),
            // These are of a tool, of a publisher, or of no node.
            Some(PeerObserverEvent::Incident(_) | PeerObserverEvent::StreamPositions(_)) | None => return,
            _ => {}
        }
        self.nodes.of(r, delivery).observe(&self.known, delivery);
    }
}
