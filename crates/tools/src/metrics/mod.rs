//! Counts events and serves the counts to Prometheus.
//!
//! Names, labels and meaning are those that dashboards of the public peer-observer query; README.md says what is different.
//! One task counts, in batches; whoever scrapes gets the state between two batches.
//!
//! | file | what it is for |
//! |---|---|
//! | lists.rs | lists of addresses that dashboards count by |
//! | net_msg.rs, net_conn.rs, mempool.rs, validation.rs | metrics of eBPF events, a file a subject |
//! | addresses.rs | metrics of the addresses in addr and addrv2 messages |
//! | books.rs | from the eBPF extractor's books to counters |
//! | pipeline.rs | metrics of peer-observer itself: latency, losses, queues |

mod addresses;
mod books;
mod lists;
mod mempool;
mod net_conn;
mod net_msg;
mod pipeline;
#[cfg(test)]
mod tests;
mod validation;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peer_observer_bus::{Delivery, Finding, Subscriber, SubscriberStats, now_ns};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_exporter::{registry, render, server};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use lists::{Error as ListError, ListFile, ListName};

/// Events that are counted before a scrape can get in between.
const BATCH: usize = 1024;
/// How often the files of address lists are looked at.
const LOOK_AT_LISTS: Duration = Duration::from_secs(60);

/// Settings of the metrics tool.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to serve the metrics at.
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8282")]
    pub metrics_address: String,
    /// File with one address a line for a list that metrics count by: gmax, monero, tor_exit, bitprojects. Can be repeated.
    #[arg(long = "ip-list", value_name = "NAME=FILE")]
    pub ip_lists: Vec<ListFile>,
    /// Series that a metric can have for a label whose values peers choose; the rest is counted as `other`.
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    pub max_label_values: usize,
    /// Name for the node of events that do not say which it is, as those of public extractors.
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub node: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            metrics_address: "127.0.0.1:8282".into(),
            ip_lists: Vec::new(),
            max_label_values: 500,
            node: "node".into(),
        }
    }
}

/// Why the metrics tool cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error(
        "cannot serve metrics at {address}: {source}; if another program has that port, choose one with --metrics-address"
    )]
    Listen {
        /// The address that was configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// An address list cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
}

/// The subjects that the tool wants.
pub fn subjects(_config: &Config) -> Vec<Subject> {
    Subject::ALL.to_vec()
}

/// What the tool needs, and whether it is there.
pub fn check(config: &Config) -> Vec<Finding> {
    let address = &config.metrics_address;
    let listen = match std::net::TcpListener::bind(address) {
        Ok(_) => Finding::good(format!("metrics can be served at {address}")),
        Err(error) => Finding::bad(
            format!("metrics cannot be served at {address}: {error}"),
            "stop what uses that port, or choose another with --metrics-address",
        ),
    };
    let lists = config.ip_lists.iter().map(|file| match lists::Lists::read(std::slice::from_ref(file)) {
        Ok(_) => Finding::good(format!("address list {file} can be read")),
        Err(error) => Finding::bad(error.to_string(), "correct the file, or leave out its --ip-list"),
    });
    std::iter::once(listen).chain(lists).collect()
}

/// Counts events and serves the counts until `stop`, or until the bus ends.
///
/// # Errors
/// When the address cannot be listened on or a list cannot be read.
pub async fn run(config: Config, subscriber: Subscriber, stop: CancellationToken) -> Result<(), Error> {
    let address = &config.metrics_address;
    let failed = |source| Error::Listen { address: address.clone(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    run_at(listener, &config, subscriber, stop).await
}

async fn run_at(
    listener: TcpListener,
    config: &Config,
    mut subscriber: Subscriber,
    stop: CancellationToken,
) -> Result<(), Error> {
    let watch = lists::Watch::new(&config.ip_lists);
    let metrics = Arc::new(Mutex::new(Metrics::new(config)?));
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving metrics");
    }
    let page = {
        let (metrics, stats, depth) = (metrics.clone(), subscriber.stats(), subscriber.depth());
        move || {
            let mut metrics = locked(&metrics);
            metrics.observe_bus(&stats, depth());
            metrics.render()
        }
    };
    // The server ends with the events, too.
    let server_stop = stop.child_token();
    let server = tokio::spawn(server::serve(listener, page, server_stop.clone()));
    tokio::spawn(renew_lists(watch, metrics.clone(), LOOK_AT_LISTS, server_stop.clone()));
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

/// Reads address lists again when their files change. One that cannot be read leaves all lists as they were.
async fn renew_lists(
    mut watch: lists::Watch,
    metrics: Arc<Mutex<Metrics>>,
    every: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let look = tokio::task::spawn_blocking(move || (watch.read_if_changed(), watch));
        let Ok((lists, same_watch)) = look.await else { return };
        watch = same_watch;
        match lists {
            Ok(None) => {}
            Ok(Some(lists)) => {
                locked(&metrics).lists = lists;
                tracing::info!("address lists read again");
            }
            Err(error) => tracing::warn!(%error, "address lists stay as they were"),
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
    registry: registry::Registry,
    lists: lists::Lists,
    net_msg: net_msg::NetMsg,
    net_conn: net_conn::NetConn,
    mempool: mempool::Mempool,
    validation: validation::Validation,
    pipeline: pipeline::Pipeline,
}

impl Metrics {
    /// Metrics with nothing counted yet.
    ///
    /// # Errors
    /// When an address list cannot be read.
    pub fn new(config: &Config) -> Result<Self, ListError> {
        let lists = lists::Lists::read(&config.ip_lists)?;
        let mut registry = registry::Registry::new(config.max_label_values);
        let start = registry.gauge(
            "peerobserver_runtime_start_timestamp",
            "When the metrics tool was started, seconds since the UNIX epoch.",
        );
        registry.set(start, i64::try_from(now_ns() / 1_000_000_000).unwrap_or(i64::MAX));
        Ok(Metrics {
            net_msg: net_msg::NetMsg::new(&mut registry),
            net_conn: net_conn::NetConn::new(&mut registry),
            mempool: mempool::Mempool::new(&mut registry),
            validation: validation::Validation::new(&mut registry),
            pipeline: pipeline::Pipeline::new(&mut registry, &config.node),
            lists,
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

    /// The metrics as text, in Prometheus' text exposition format 0.0.4.
    pub fn render(&self) -> String {
        render::render(&self.registry)
    }

    fn observe_at(&mut self, delivery: &Delivery, now_ns: u64) {
        let r = &mut self.registry;
        self.pipeline.observe(r, delivery, now_ns);
        let timestamp_ms = delivery.event.timestamp;
        match &delivery.event.peer_observer_event {
            Some(PeerObserverEvent::EbpfExtractor(ebpf)) => match &ebpf.ebpf_event {
                Some(EbpfEvent::Message(message)) => {
                    self.net_msg.observe(r, message, timestamp_ms);
                    self.pipeline.observe_decode_error(r, message);
                }
                Some(EbpfEvent::Connection(connection)) => {
                    self.net_conn.observe(r, &self.lists, connection, timestamp_ms);
                }
                Some(EbpfEvent::Mempool(mempool)) => self.mempool.observe(r, mempool),
                Some(EbpfEvent::Validation(validation)) => self.validation.observe(r, validation),
                Some(EbpfEvent::Addrman(_)) | None => {}
            },
            Some(PeerObserverEvent::Books(books)) => {
                self.pipeline.observe_books(r, books, delivery.event.origin.as_ref());
            }
            Some(PeerObserverEvent::Loss(loss)) => self.pipeline.observe_loss(r, loss),
            _ => {}
        }
    }
}
