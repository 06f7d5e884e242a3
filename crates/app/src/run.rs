//! Starting, watching over and ending the parts.
//!
//! The order of the end matters: extractors first, which hand over what they have; then the bus, which delivers it; then the tools,
//! which see the end of the bus when they have seen everything. All of it in two seconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use peer_observer_bus::Bus;
use peer_observer_extractors::ebpf::Nodes;
use peer_observer_extractors::{ebpf, p2p, rpc};
use peer_observer_node::names::{Names, NodeName};
use peer_observer_node::watch::NodeWatcher;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::components::{ExtractorKind, Sections, ToolKind};
use crate::windows::{self, Follower};

/// For extractors to end, and for what they left to be delivered.
const DELIVER: Duration = Duration::from_millis(1200);
/// For tools to finish, after that.
const FINISH: Duration = Duration::from_millis(600);

/// Settings of `run`. Everything else is set in the configuration file, or with --set.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Print no events
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Print events as JSON
    #[arg(long)]
    json: bool,
    /// Serve no metrics
    #[arg(long)]
    no_metrics: bool,
    /// Address and port to serve the metrics at [default: 127.0.0.1:8282]
    #[arg(short = 'm', long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<String>,
    /// Name that Prometheus may scrape by, besides addresses, localhost and the name of this
    /// machine; may be repeated
    #[arg(long, value_name = "NAME")]
    metrics_host: Vec<String>,
    /// Serve no live page
    #[arg(long)]
    no_web: bool,
    /// Address and port to serve the live page at [default: 127.0.0.1:47482]
    #[arg(short = 'w', long, value_name = "ADDRESS:PORT")]
    web_address: Option<String>,
    /// Watch this program instead of looking for bitcoind, bitcoin-node and bitcoin-qt; may be repeated
    #[arg(short = 'b', long, value_name = "FILE")]
    bitcoind_path: Vec<PathBuf>,
    /// Watch only this process
    #[arg(long, value_name = "PID")]
    bitcoind_pid: Option<u32>,
    /// Name a node: by its process id or its data directory; may be repeated
    #[arg(long, value_name = "PID|DATADIR=NAME")]
    node: Vec<NodeName>,
    /// Do not ask nodes over RPC
    #[arg(long)]
    pub(crate) no_rpc: bool,
    /// Do not read the debug.log of nodes
    #[arg(long)]
    pub(crate) no_log: bool,
    /// Do not connect to the IPC socket of nodes
    #[arg(long)]
    pub(crate) no_ipc: bool,
    /// Listen to nodes that dial us, with addnode=127.0.0.1:9333 in their bitcoin.conf
    #[arg(long)]
    pub(crate) p2p: bool,
    /// Listen for them here instead; may be repeated
    #[arg(long, value_name = "[NAME=]ADDRESS:PORT", requires = "p2p")]
    p2p_address: Vec<p2p::Listen>,
}

impl Config {
    /// Puts what `run` was told over the sections of those it concerns.
    pub(crate) fn apply(self, sections: &mut Sections) {
        let Sections { ebpf, rpc, p2p, metrics, logger, web, .. } = sections;
        if let Some(address) = self.web_address {
            web.web_address = address;
        }
        if let Some(address) = self.metrics_address {
            metrics.metrics_address = address;
        }
        if !self.metrics_host.is_empty() {
            rpc.prometheus_host.clone_from(&self.metrics_host);
            metrics.metrics_host = self.metrics_host;
        }
        if !self.bitcoind_path.is_empty() {
            ebpf.bitcoind_path = self.bitcoind_path;
        }
        if self.bitcoind_pid.is_some() {
            ebpf.bitcoind_pid = self.bitcoind_pid;
        }
        if !self.node.is_empty() {
            ebpf.node = self.node;
        }
        if !self.p2p_address.is_empty() {
            p2p.p2p_address = self.p2p_address;
        }
        logger.json |= self.json;
        // Who told one of the two what is known of addresses wants to see it in both.
        if web.ip_lists.is_empty() {
            web.ip_lists.clone_from(&metrics.ip_lists);
        }
        if web.asmap_file.is_none() {
            web.asmap_file.clone_from(&metrics.asmap_file);
            web.as_names_file.clone_from(&metrics.as_names_file);
        }
    }
}

/// Runs the main task of the program on a new runtime. Returns as soon as the task is done: threads that are still blocked, for
/// example on a named pipe, are left behind.
pub(crate) fn block_on(main: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(main);
    runtime.shutdown_background();
    outcome
}

/// A token that SIGINT and SIGTERM cancel.
pub(crate) fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
        tracing::info!("stopping");
    });
    Ok(stop)
}

/// `run`: the nodes of this machine, on screen and for Prometheus.
pub(crate) async fn everything(sections: Sections) -> Result<()> {
    let stop = stop_on_signal()?;
    let bus = bus(&sections)?;
    let mut tools = Vec::new();
    if !sections.run.quiet {
        tools.push(ToolKind::Logger);
    }
    if !sections.run.no_metrics {
        tools.push(ToolKind::Metrics);
    }
    if !sections.run.no_web {
        tools.push(ToolKind::Web);
    }
    if !sections.run.no_rpc {
        sections.rpc.validate().context("the rpc extractor failed")?;
    }
    let mut parts = Parts::start_tools(&bus, &sections, &tools);
    parts.look_into_nodes(&bus, sections)?;
    parts.until_end(&bus, stop).await
}

/// `extract NAME`.
pub(crate) async fn extractor(extractor: ExtractorKind, sections: Sections) -> Result<()> {
    let stop = stop_on_signal()?;
    let bus = bus(&sections)?;
    let mut parts = Parts::start_tools(&bus, &sections, &[]);
    parts.start_extractor(extractor, &bus, &sections);
    parts.until_end(&bus, stop).await
}

/// A tool on its own.
pub(crate) async fn tool(tool: ToolKind, sections: Sections) -> Result<()> {
    let stop = stop_on_signal()?;
    let bus = bus(&sections)?;
    Parts::start_tools(&bus, &sections, &[tool]).until_end(&bus, stop).await
}

fn bus(sections: &Sections) -> Result<Bus> {
    if sections.nats.nats_address.is_none() {
        return Ok(Bus::in_process());
    }
    Ok(Bus::nats(sections.nats.clone())?)
}

/// The parts that run.
pub(crate) struct Parts {
    extractors: JoinSet<Result<()>>,
    tools: JoinSet<Result<()>>,
    stop_extractors: CancellationToken,
    stop_tools: CancellationToken,
}

impl Parts {
    /// Starts tools. They come before extractors, so that they miss nothing.
    pub(crate) fn start_tools(bus: &Bus, sections: &Sections, tools: &[ToolKind]) -> Self {
        let mut parts = Parts {
            extractors: JoinSet::new(),
            tools: JoinSet::new(),
            stop_extractors: CancellationToken::new(),
            stop_tools: CancellationToken::new(),
        };
        for tool in tools.iter().copied() {
            let subscriber = tool.subscriber(bus, sections);
            let (sections, stop) = (sections.clone(), parts.stop_tools.clone());
            parts.tools.spawn(async move {
                tool.run(&sections, subscriber, stop)
                    .await
                    .with_context(|| format!("the {} failed", tool.name()))
            });
        }
        parts
    }

    /// Starts an extractor.
    pub(crate) fn start_extractor(&mut self, extractor: ExtractorKind, bus: &Bus, sections: &Sections) {
        let publisher = extractor.publisher(bus);
        let (sections, stop) = (sections.clone(), self.stop_extractors.clone());
        self.extractors.spawn(async move {
            let name = extractor.name();
            extractor
                .run(&sections, publisher, stop)
                .await
                .with_context(|| format!("the {name} extractor failed"))
        });
    }

    /// Starts everything that looks into the nodes of this machine, under the same names.
    fn look_into_nodes(&mut self, bus: &Bus, sections: Sections) -> Result<()> {
        let watcher = NodeWatcher::start(sections.ebpf.selection()).context("cannot look for nodes")?;
        let names = Arc::new(Names::new(sections.ebpf.node.clone()));
        let nodes = Nodes { names, watcher: Arc::new(watcher) };
        let stop = self.stop_extractors.clone();
        let publisher = ExtractorKind::Ebpf.publisher(bus);
        let ebpf = ebpf::run_with(sections.ebpf.clone(), nodes.clone(), publisher, stop.clone(), |_| ());
        self.spawn(async { ebpf.await.context("the ebpf extractor failed") });
        if sections.run.p2p {
            let who = windows::who_dials(nodes.clone());
            let publisher = ExtractorKind::P2p.publisher(bus);
            let p2p = p2p::run_asking(sections.p2p.clone(), who, publisher, stop.clone());
            self.spawn(async { p2p.await.context("the p2p extractor failed") });
        }
        if sections.run.no_rpc && sections.run.no_log && sections.run.no_ipc {
            return Ok(());
        }
        let page = rpc::Page::default();
        if !sections.run.no_rpc && !sections.run.no_metrics {
            let (page, config, stop) = (page.clone(), sections.rpc.clone(), stop.clone());
            self.spawn(async move {
                // These metrics are of the extractor, not of nodes: without them it still does its work.
                if let Err(error) = page.serve(&config, stop.clone()).await {
                    tracing::warn!(%error, "going on without metrics of the rpc extractor");
                    stop.cancelled().await;
                }
                Ok(())
            });
        }
        self.spawn(Follower::new(bus.clone(), sections, nodes, page, stop).run());
        Ok(())
    }

    /// Starts an extractor that is not in the list.
    pub(crate) fn spawn(&mut self, extractor: impl Future<Output = Result<()>> + Send + 'static) {
        self.extractors.spawn(extractor);
    }

    /// Cancelled when extractors shall end.
    pub(crate) fn stop_extractors(&self) -> CancellationToken {
        self.stop_extractors.clone()
    }

    /// Waits for a signal, or the first part to end, then ends all of them in order. Tools may take their time to show what an
    /// extractor left that came to its own end; a signal ends that, too.
    pub(crate) async fn until_end(mut self, bus: &Bus, stop: CancellationToken) -> Result<()> {
        let mut outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.extractors.join_next() => flatten(ended).inspect_err(|_| stop.cancel()),
            Some(ended) = self.tools.join_next() => {
                stop.cancel();
                flatten(ended)
            }
        };
        self.stop_extractors.cancel();
        let extractors = async {
            while let Some(ended) = self.extractors.join_next().await {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(flatten(ended));
            }
        };
        let mut begin = tokio::time::Instant::now();
        if tokio::time::timeout(DELIVER, extractors).await.is_err() {
            tracing::warn!("an extractor does not end, leaving it");
        }
        if !stop.is_cancelled() {
            // What an extractor left that came to its own end.
            tokio::select! {
                () = bus.drained() => {}
                () = stop.cancelled() => {}
            }
            begin = tokio::time::Instant::now();
        }
        let unsent = bus.close(DELIVER.saturating_sub(begin.elapsed())).await;
        if unsent > 0 {
            tracing::error!(
                events = unsent,
                "stopped before these events reached nats: they are lost, but for lines of logs, which are read again"
            );
        }
        let tools = async {
            while let Some(ended) = self.tools.join_next().await {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(flatten(ended));
            }
        };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(FINISH).await;
        };
        let finished = tokio::select! {
            () = tools => true,
            () = too_late => false,
        };
        if !finished {
            self.stop_tools.cancel();
            tracing::warn!("a tool does not finish, leaving it");
        }
        outcome
    }
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|crash| Err(anyhow!("a part crashed, please report this: {crash}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_that_never_end_are_left_within_two_seconds() {
        let bus = Bus::in_process();
        let mut parts = Parts::start_tools(&bus, &Sections::default(), &[]);
        parts.extractors.spawn(std::future::pending());
        parts.tools.spawn(std::future::pending());
        let stop = CancellationToken::new();
        stop.cancel();
        let begin = tokio::time::Instant::now();
        parts.until_end(&bus, stop).await.unwrap();
        assert!(begin.elapsed() <= Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}
