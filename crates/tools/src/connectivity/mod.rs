//! Tries whether nodes answer at the addresses that peers gossip, and says how much of the gossip is real.
//!
//! This is the one part of peer-observer that opens connections to the network, so it does nothing until it is told to with `--connect`,
//! and peers, who choose the addresses, must not be able to use it: see plan.rs and target.rs. One task decides and counts; a task for
//! each try; a thread writes files.
//!
//! | file | what it is for |
//! |---|---|
//! | config.rs | flags and keys of the configuration file |
//! | gossip.rs | from events to addresses |
//! | target.rs | which of them may be dialed, and how |
//! | plan.rs | when: rates, limits, what is remembered |
//! | probe.rs | one try: connects, shakes hands, hangs up |
//! | row.rs, output.rs | results in files: CSV, Parquet |
//! | metrics.rs | results in numbers |

mod config;
mod gossip;
mod metrics;
mod output;
mod plan;
mod probe;
mod row;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peer_observer_bus::{Delivery, Finding, Subscriber, SubscriberStats, now_ns};
use peer_observer_events::Subject;
use peer_observer_exporter::registry::Description;
use peer_observer_exporter::server::{self, BindError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::known::lists::TOR_EXIT;
use crate::known::{self, Files, Known, ListFile, Watch};
use gossip::{Gossip, Heard};
use metrics::Metrics;
use output::Output;
use plan::{Next, Offered, Plan};
use probe::{Failure, Outcome, Transport};
use row::{Origin, Row};
use target::{Skip, Target};

pub use config::{Config, NoProxy, Overlay, Proxy};
pub use output::Error as OutputError;

/// How a user sets the address for metrics.
const METRICS_FLAG: &str = "--metrics-address";
/// How a user allows a name for the metrics.
const HOST_FLAG: &str = "--metrics-host";
/// Events that are looked at before anything else is.
const BATCH: usize = 256;
/// How often it is said how much of the gossip was real, and looked for what is stale or has changed.
const MINUTE: Duration = Duration::from_secs(60);
/// Time that the thread which writes files has to take the last results.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// Time that the proxy has to answer the doctor.
const REACH: Duration = Duration::from_secs(2);

/// Why the connectivity check cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not told to open connections.
    #[error(
        "it opens connections to the network, so it has to be allowed to with --connect. It would {intention}"
    )]
    NotAllowed {
        /// What it would do.
        intention: String,
    },
    /// A number that makes no sense.
    #[error("{flag} {value}: give a number from {from} to {to}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: u64,
        /// Smallest.
        from: u64,
        /// Largest.
        to: u64,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The list of Tor's exits cannot be used.
    #[error(transparent)]
    Exits(#[from] known::Error),
    /// Results cannot be written.
    #[error(transparent)]
    Output(#[from] output::Error),
}

/// The subjects that the tool wants.
pub fn subjects(_config: &Config) -> Vec<Subject> {
    vec![Subject::NetMsg]
}

/// What the tool needs, and whether it is there.
pub fn check(config: &Config) -> Vec<Finding> {
    if let Err(error) = config.validate_values() {
        return vec![Finding::bad(error.to_string(), "correct the settings of the connectivity check")];
    }
    if !config.connect {
        return vec![Finding::good("the connectivity check is off: it dials nobody without --connect")];
    }
    let mut findings =
        vec![Finding::good(format!("the connectivity check is allowed to {}", config.intention()))];
    findings.push(Finding::listens("metrics", "be served at", &config.metrics_address, METRICS_FLAG));
    let folders = [("--csv-dir", &config.csv_dir), ("--parquet-dir", &config.parquet_dir)];
    for (flag, dir) in folders.into_iter().filter_map(|(flag, dir)| Some((flag, dir.as_deref()?))) {
        findings.push(match dir.is_dir() {
            true => Finding::good(format!("results go to {}", dir.display())),
            false => {
                Finding::bad(format!("{} is no folder", dir.display()), format!("make it, or correct {flag}"))
            }
        });
    }
    if !config.allow_local && !target::has_ipv6() {
        findings.push(Finding::bad(
            "this machine has no way into IPv6: those addresses are not tried",
            "give it one, or do without them",
        ));
    }
    for proxy in &config.socks5_proxy {
        findings.push(match reach(&proxy.address) {
            Ok(()) => Finding::good(format!("somebody listens at the proxy {}", proxy.address)),
            Err(error) => Finding::bad(
                format!("the proxy {} cannot be reached: {error}", proxy.address),
                "start it, or correct --socks5-proxy",
            ),
        });
    }
    if let Some(file) = &config.tor_exit_list {
        findings.push(match Known::read(&exits(Some(file))) {
            Ok(_) => Finding::good(format!("the list of Tor's exits {} can be read", file.display())),
            Err(error) => Finding::bad(error.to_string(), "correct the file, or leave out --tor-exit-list"),
        });
    }
    findings
}

/// Connects to a proxy, and hangs up.
fn reach(address: &str) -> io::Result<()> {
    let addr = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    TcpStream::connect_timeout(&addr, REACH).map(drop)
}

/// The metrics of the tool, for docs/metrics.md.
pub fn describe_metrics() -> Vec<Description> {
    Metrics::new(1).describe()
}

/// Tries addresses until `stop`, or until the bus ends.
///
/// # Errors
/// When it is not allowed to, settings cannot work, or results cannot be written.
pub async fn run(config: Config, subscriber: Subscriber, stop: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    if !config.connect {
        return Err(Error::NotAllowed { intention: config.intention() });
    }
    let listener = server::bind(&config.metrics_address, METRICS_FLAG).await?;
    run_at(listener, config, subscriber, stop).await
}

async fn run_at(
    listener: TcpListener,
    config: Config,
    subscriber: Subscriber,
    stop: CancellationToken,
) -> Result<(), Error> {
    tracing::warn!("dialing addresses of the network: going to {}", config.intention());
    let names = server::Names { allowed: config.metrics_host.clone(), flag: HOST_FLAG };
    let check = Check::new(config, subscriber.stats())?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving metrics");
    }
    let page = check.metrics.clone();
    // The server ends with the events, too.
    let server_stop = stop.child_token();
    let render = move || locked(&page).render();
    let server = tokio::spawn(server::serve(listener, names, render, server_stop.clone()));
    let finished = check.run(subscriber, &stop).await;
    server_stop.cancel();
    if let Err(error) = server.await {
        tracing::error!(%error, "metrics server failed");
    }
    finished
}

/// The file of exits.
fn exits(file: Option<&Path>) -> Files {
    let list = file.map(|path| ListFile { name: TOR_EXIT.into(), path: path.into() });
    Files { lists: list.into_iter().collect(), ..Files::default() }
}

/// What came of a connection.
struct Tried {
    target: Target,
    transport: Transport,
    /// Position in the label `network`.
    network: usize,
    outcome: Outcome,
}

/// What is known and under way.
struct Check {
    config: Arc<Config>,
    has_ipv6: bool,
    plan: Plan,
    known: Known,
    tries: JoinSet<Tried>,
    metrics: Arc<Mutex<Metrics>>,
    output: Output,
    /// Rows that are not handed over yet.
    rows: Vec<Row>,
    stats: Arc<SubscriberStats>,
}

impl Check {
    /// Opens the files, and dials nobody yet.
    fn new(config: Config, stats: Arc<SubscriberStats>) -> Result<Self, Error> {
        let has_ipv6 = config.allow_local || target::has_ipv6();
        if !has_ipv6 {
            tracing::warn!("this machine has no way into IPv6: those addresses are not tried");
        }
        Ok(Check {
            plan: Plan::new(&config),
            known: Known::read(&exits(config.tor_exit_list.as_deref()))?,
            output: Output::start(&config, now_s())?,
            metrics: Arc::new(Mutex::new(Metrics::new(config.max_label_values))),
            tries: JoinSet::new(),
            rows: Vec::new(),
            stats,
            has_ipv6,
            config: Arc::new(config),
        })
    }

    /// Tries addresses until `stop`, until the bus ends, or until results cannot be written.
    async fn run(mut self, mut subscriber: Subscriber, stop: &CancellationToken) -> Result<(), Error> {
        let mut watch = Watch::new(exits(self.config.tor_exit_list.as_deref()));
        let mut minutes = interval(MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        minutes.tick().await;
        let mut batch: Vec<Delivery> = Vec::with_capacity(BATCH);
        loop {
            let next = self.begin_tries();
            if !self.rows.is_empty() {
                let is_written = tokio::select! {
                    () = stop.cancelled() => break,
                    is_written = self.output.write(&mut self.rows) => is_written,
                };
                if !is_written {
                    break;
                }
            }
            let wake = next.unwrap_or_else(|| Instant::now() + MINUTE);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.output.failed() => break,
                received = subscriber.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    for delivery in batch.drain(..) {
                        self.observe(&delivery);
                    }
                }
                Some(ended) = self.tries.join_next() => self.end_try(ended),
                () = sleep_until(wake.into()), if next.is_some() => {}
                _ = minutes.tick() => self.minute(&mut watch),
            }
        }
        self.tell();
        self.tries.abort_all();
        self.write_rest().await;
        Ok(self.output.finish().await?)
    }

    /// What is done once in a minute.
    fn minute(&mut self, watch: &mut Watch) {
        self.tell();
        self.output.tick();
        locked(&self.metrics).minute();
        match watch.read_if_changed() {
            Ok(None) => {}
            Ok(Some(known)) => self.known = known,
            Err(error) => tracing::warn!(%error, "the list of exits stays as it was"),
        }
    }

    /// Hands over the rows that are left at the end: they are counted, so they are to be in the files.
    async fn write_rest(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let rows = self.rows.len();
        if timeout(LAST_WRITE, self.output.write(&mut self.rows)).await.is_err() {
            tracing::error!(rows, "the disk does not follow: the last results are in no file");
        }
    }

    /// Takes the addresses of an event.
    fn observe(&mut self, delivery: &Delivery) {
        match gossip::heard(delivery, &self.known) {
            Gossip::None => {}
            Gossip::Getaddr(addresses) => {
                let mut metrics = locked(&self.metrics);
                addresses.iter().for_each(|heard| metrics.skipped(heard, Skip::Getaddr));
            }
            Gossip::Heard(addresses) => {
                let now = Instant::now();
                addresses.iter().for_each(|heard| self.offer(heard, now));
                self.count_state();
            }
        }
    }

    fn offer(&mut self, heard: &Heard, now: Instant) {
        let offered = match Target::new(&heard.address, &self.config) {
            Ok(target) if target.is_ipv6() && !self.has_ipv6 => Offered::Skipped(Skip::Network),
            Ok(target) => self.plan.offer(target, heard, now),
            Err(why) => Offered::Skipped(why),
        };
        match offered {
            Offered::Waits => {}
            Offered::Cached(outcome) => self.result(heard, &outcome, Origin::Cached),
            Offered::Skipped(why) => locked(&self.metrics).skipped(heard, why),
        }
    }

    /// Begins what may begin now. Returns when there may be more.
    fn begin_tries(&mut self) -> Option<Instant> {
        loop {
            match self.plan.next(Instant::now()) {
                Next::Dial { target, transport, before, network } => {
                    let config = self.config.clone();
                    self.tries.spawn(async move {
                        let mut outcome = probe::probe(&target, transport, &config).await;
                        outcome.took += before;
                        Tried { target, transport, network, outcome }
                    });
                }
                Next::Skipped(addresses, why) => {
                    let mut metrics = locked(&self.metrics);
                    addresses.iter().for_each(|heard| metrics.skipped(heard, why));
                }
                Next::At(next) => return Some(next),
                Next::Nothing => return None,
            }
            self.count_state();
        }
    }

    /// Takes the result of a connection.
    fn end_try(&mut self, ended: Result<Tried, tokio::task::JoinError>) {
        let Tried { target, transport, network, outcome } = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Its place stays taken, which is seen in connectivitycheck_connections_open.
                tracing::error!(%error, "a try crashed, please report this");
                return;
            }
        };
        if transport == Transport::V2 && outcome.result == Err(Failure::Closed) {
            locked(&self.metrics).hung_up();
            self.plan.hung_up(target, outcome.took);
            self.count_state();
            return;
        }
        let outcome = Arc::new(outcome);
        locked(&self.metrics).ended(network, &outcome);
        tracing::debug!(
            %target,
            failure = outcome.result.as_ref().err().map(|failure| failure.as_str()),
            took = ?outcome.took,
            "tried"
        );
        let mut origin = Origin::Fresh;
        for heard in self.plan.finish(target, outcome.clone(), Instant::now()) {
            self.result(&heard, &outcome, origin);
            origin = Origin::Cached;
        }
        self.count_state();
    }

    fn result(&mut self, heard: &Heard, outcome: &Outcome, origin: Origin) {
        locked(&self.metrics).result(heard, outcome, origin);
        if self.output.is_wanted() {
            self.rows.push(Row::new(heard, outcome, origin, now_s()));
        }
    }

    fn count_state(&mut self) {
        let lost =
            self.stats.lost_queue.load(Ordering::Relaxed) + self.stats.lost_transport.load(Ordering::Relaxed);
        locked(&self.metrics).state(self.plan.waiting(), self.plan.dialing(), lost);
    }

    /// Says how much of the gossip was real until now.
    fn tell(&self) {
        let sum = locked(&self.metrics).sum;
        tracing::info!(
            addresses = sum.tried,
            with_a_node = sum.answered,
            not_tried = sum.skipped,
            waiting = self.plan.waiting(),
            "gossip checked"
        );
    }
}

/// s since the UNIX epoch.
fn now_s() -> u64 {
    now_ns() / 1_000_000_000
}

/// The metrics are numbers and stay usable even if a thread should have failed with them.
fn locked(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}
