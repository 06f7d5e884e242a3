//! The other windows into the nodes of this machine: `run` starts the rpc, log and ipc extractors for each node that it finds, and says
//! who dials the p2p extractor.
//!
//! Nodes come, go and come back. What looks into a node goes on while the node is away for a moment, because a node that is
//! started again is the same one; when it has changed (another port, another container) what looks into it is started anew. So is
//! what ended by itself: with the node, or after a while that grows from time to time.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use peer_observer_bus::{Bus, Publisher};
use peer_observer_extractors::ebpf::Nodes;
use peer_observer_extractors::{ipc, log, p2p, rpc};
use peer_observer_node::access::Root;
use peer_observer_node::discover::NodeProcess;
use peer_observer_node::names::Names;
use peer_observer_node::sockets;
use peer_observer_node::watch::{NodeEvent, Subscription};
use peer_observer_node::windows::{Closed, IpcWindow, LogWindow, RpcWindow, Windows};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::components::{ExtractorKind, Sections};

/// How often to look for nodes that came or went.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that is away for so long is no longer waited for; should it come back, it is found as any other.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// What looks into a node ends within this time.
const END: Duration = Duration::from_secs(1);
/// What ended by itself is started again after this time, after twice as long the next time, and so on.
const AGAIN: Duration = Duration::from_secs(10);
/// How often that time doubles, at most: to about an hour and a half.
const DOUBLINGS: u32 = 9;

/// Knows the nodes of this machine that dial us.
pub(crate) fn who_dials(nodes: Nodes) -> p2p::WhoDials {
    let watcher = nodes.watcher.clone();
    let find = move |peer: SocketAddr, own: SocketAddr| {
        let running = nodes.watcher.nodes();
        let pids: Vec<u32> = running.iter().map(|node| node.pid).collect();
        let pid = sockets::dialler(&pids, peer, own)?;
        let node = running.iter().find(|node| node.pid == pid)?;
        Some(p2p::Dialler { node: nodes.names.name(node), network: node.network })
    };
    Arc::new(move |peer, own| {
        // A node that was just started dials before it is looked for again.
        find(peer, own).or_else(|| {
            watcher.look_now();
            find(peer, own)
        })
    })
}

/// Looks into the nodes that are found, until `stop`.
pub(crate) struct Follower {
    starter: Starter,
    names: Arc<Names>,
    events: Subscription,
    /// The processes that run, by their ids.
    running: BTreeMap<u32, Arc<NodeProcess>>,
    followed: BTreeMap<Arc<str>, Followed>,
}

/// Starts what looks into nodes.
struct Starter {
    bus: Bus,
    sections: Arc<Sections>,
    page: rpc::Page,
    stop: CancellationToken,
}

/// A node that is looked into.
struct Followed {
    process: Arc<NodeProcess>,
    gone_since: Option<Instant>,
    /// Where the files of the node are, over its restarts.
    root: Root,
    windows: Windows,
    rpc: Option<Look>,
    log: Option<Look>,
    ipc: Option<Look>,
}

/// An extractor that looks into a node.
struct Look {
    stop: CancellationToken,
    task: JoinHandle<()>,
    begun: Instant,
    /// How often it was started because the one before had ended by itself.
    again: u32,
}

impl Look {
    fn new(stop: CancellationToken, task: JoinHandle<()>) -> Self {
        Look { stop, task, begun: Instant::now(), again: 0 }
    }

    /// It ended by itself, and that it was started is long enough ago.
    fn is_due(&self) -> bool {
        self.task.is_finished() && self.begun.elapsed() >= AGAIN * 2_u32.pow(self.again.min(DOUBLINGS))
    }

    /// Goes on for a node that was started again, if it still can and the window is the same.
    async fn take_over(before: Option<Self>, is_same: bool) -> Option<Self> {
        let look = before?;
        if is_same && !look.task.is_finished() {
            return Some(look);
        }
        look.end().await;
        None
    }

    async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(END, self.task).await.is_err() {
            tracing::warn!("what looks into a node does not end, leaving it");
        }
    }
}

impl Follower {
    /// One that follows these nodes. Metrics of their rpc extractors go on `page`.
    pub(crate) fn new(
        bus: Bus,
        sections: Sections,
        nodes: Nodes,
        page: rpc::Page,
        stop: CancellationToken,
    ) -> Self {
        let starter = Starter { bus, sections: Arc::new(sections), page, stop };
        let events = nodes.watcher.subscribe();
        let (running, followed) = Default::default();
        Follower { starter, names: nodes.names, events, running, followed }
    }

    /// Follows them until it is told to stop.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.starter.stop.cancelled() => break,
            }
            self.take_events();
            self.part().await;
            self.meet().await;
        }
        for followed in std::mem::take(&mut self.followed).into_values() {
            followed.end().await;
        }
        Ok(())
    }

    fn take_events(&mut self) {
        for event in self.events.poll() {
            match event {
                NodeEvent::Appeared(node) | NodeEvent::Changed(node) => {
                    self.running.insert(node.pid, node);
                }
                NodeEvent::Gone(node, _) => {
                    self.running.remove(&node.pid);
                }
            }
        }
    }

    /// Looks into nodes that are new, or changed, or no longer looked into.
    async fn meet(&mut self) {
        let running: Vec<Arc<NodeProcess>> = self.running.values().cloned().collect();
        for node in running {
            let name = self.names.name(&node);
            if let Some(followed) = self.followed.get_mut(&name) {
                if Arc::ptr_eq(&followed.process, &node) {
                    followed.gone_since = None;
                    self.starter.start(&name, followed);
                    continue;
                }
                // Only one of two that were given the same name can be followed.
                let other = self.running.get(&followed.process.pid);
                if !followed.process.is(&node) && other.is_some_and(|other| followed.process.is(other)) {
                    continue;
                }
            }
            let before = self.followed.remove(&name);
            let followed = self.starter.follow(&name, &node, before).await;
            self.followed.insert(name, followed);
        }
    }

    /// Lets go of nodes that are gone for long.
    async fn part(&mut self) {
        let mut forgotten = Vec::new();
        for (name, followed) in &mut self.followed {
            match self.running.get(&followed.process.pid) {
                // It got another name when its data directory was found, and is followed under that.
                Some(node) if followed.process.is(node) && self.names.name(node) != *name => {
                    forgotten.push(name.clone());
                    continue;
                }
                Some(node) if followed.process.is(node) => continue,
                _ => {}
            }
            let since = *followed.gone_since.get_or_insert_with(Instant::now);
            if since.elapsed() > FORGET_AFTER {
                forgotten.push(name.clone());
            }
        }
        for name in forgotten {
            if let Some(followed) = self.followed.remove(&name) {
                followed.end().await;
            }
        }
    }
}

impl Starter {
    /// Looks into a node; what looked into it before goes on where it can.
    async fn follow(&self, name: &Arc<str>, node: &Arc<NodeProcess>, before: Option<Followed>) -> Followed {
        // What goes on reads the files of this process from now on, and not those of the one that is gone.
        // Of another user nothing goes on: it would read the files of this process with the rights of the one before.
        let before = match before {
            Some(before) if before.process.user != node.user => {
                before.end().await;
                None
            }
            before => before,
        };
        let root = match &before {
            Some(before) => {
                before.root.move_to(&node.root());
                before.root.clone()
            }
            None => node.root(),
        };
        let windows = Windows::beneath(node, &root);
        let run = &self.sections.run;
        tracing::info!(
            node = %name, pid = node.pid, run_ns = node.run_ns,
            rpc = shown((!run.no_rpc).then_some(&windows.rpc), |rpc| rpc.host.clone()),
            log = shown((!run.no_log).then_some(&windows.log), |log| log.path.display().to_string()),
            ipc = match ipc::IS_BUILT {
                true => shown((!run.no_ipc).then_some(&windows.ipc), |ipc| ipc.path.display().to_string()),
                false => "not in this build".into(),
            },
            p2p = if run.p2p { "when it dials" } else { "not asked for" },
            "looking into"
        );
        let (mut rpc, mut log, mut ipc) = (None, None, None);
        if let Some(before) = before {
            rpc = Look::take_over(before.rpc, before.windows.rpc == windows.rpc).await;
            log = Look::take_over(before.log, before.windows.log == windows.log).await;
            ipc = Look::take_over(before.ipc, before.windows.ipc == windows.ipc).await;
        }
        let process = node.clone();
        let mut followed = Followed { process, gone_since: None, root, windows, rpc, log, ipc };
        self.start(name, &mut followed);
        followed
    }

    /// Starts what is to look into a node and does not.
    fn start(&self, name: &Arc<str>, node: &mut Followed) {
        let run = &self.sections.run;
        if !run.no_rpc
            && let Ok(found) = &node.windows.rpc
        {
            renew(&mut node.rpc, || self.ask(name, found));
        }
        if !run.no_log
            && let Ok(found) = &node.windows.log
        {
            renew(&mut node.log, || self.read(name, found));
        }
        if ipc::IS_BUILT
            && !run.no_ipc
            && let Ok(found) = &node.windows.ipc
        {
            renew(&mut node.ipc, || self.wait(name, found));
        }
    }

    fn ask(&self, name: &Arc<str>, found: &RpcWindow) -> Look {
        let config = rpc::Config { rpc_node: name.to_string(), ..self.sections.rpc.clone() };
        let (page, found) = (self.page.clone(), found.clone());
        self.look(ExtractorKind::Rpc, name, |publisher, stop| async move {
            rpc::run_found(&page, config, found, publisher, stop).await
        })
    }

    fn read(&self, name: &Arc<str>, found: &LogWindow) -> Look {
        let run = |publisher, stop| log::run_found(found.clone(), name.clone(), publisher, stop);
        self.look(ExtractorKind::Log, name, run)
    }

    fn wait(&self, name: &Arc<str>, found: &IpcWindow) -> Look {
        let config = ipc::Config { ipc_node: name.to_string(), ..self.sections.ipc.clone() };
        let run = |publisher, stop| ipc::run_found(config, found.clone(), publisher, stop);
        self.look(ExtractorKind::Ipc, name, run)
    }

    /// Starts an extractor that looks into a node.
    fn look<F, E>(
        &self,
        extractor: ExtractorKind,
        name: &Arc<str>,
        run: impl FnOnce(Publisher, CancellationToken) -> F,
    ) -> Look
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send,
    {
        let stop = self.stop.child_token();
        let running = run(extractor.publisher(&self.bus), stop.clone());
        let name = name.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(node = %name, extractor = extractor.name(), %error, "an extractor of this node failed");
            }
        });
        Look::new(stop, task)
    }
}

impl Followed {
    async fn end(self) {
        tokio::join!(end(self.rpc), end(self.log), end(self.ipc));
    }
}

/// Starts what was never started, or has ended and is due.
fn renew(look: &mut Option<Look>, start: impl FnOnce() -> Look) {
    let again = match look {
        None => 0,
        Some(over) if over.is_due() => over.again + 1,
        Some(_) => return,
    };
    *look = Some(Look { again, ..start() });
}

async fn end(look: Option<Look>) {
    if let Some(look) = look {
        look.end().await;
    }
}

/// A window as it is logged; nothing when it is not asked for.
fn shown<T>(window: Option<&Result<T, Closed>>, open: impl Fn(&T) -> String) -> String {
    match window {
        None => "not asked for".into(),
        Some(Ok(window)) => open(window),
        Some(Err(closed)) => format!("{closed}; {}", closed.fix()),
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_node::discover;
    use peer_observer_node::watch::{NodeWatcher, Selection};

    use super::*;

    /// A follower whose rpc extractors end at once, as their login is half a one. It finds no node by itself.
    fn follower() -> Follower {
        let mut sections = Sections::default();
        sections.rpc.rpc_user = Some("u".into());
        (sections.run.no_log, sections.run.no_ipc) = (true, true);
        let nobody = Selection { pid_file: Some("/nonexistent".into()), ..Selection::default() };
        let watcher = Arc::new(NodeWatcher::start(nobody).unwrap());
        let nodes = Nodes { names: Arc::new(Names::new(Vec::new())), watcher };
        Follower::new(Bus::in_process(), sections, nodes, rpc::Page::default(), CancellationToken::new())
    }

    async fn meet(follower: &mut Follower, node: &Arc<NodeProcess>) {
        follower.running = [(node.pid, node.clone())].into();
        follower.meet().await;
    }

    fn look(follower: &Follower) -> &Look {
        let followed = follower.followed.values().next().expect("a node that is followed");
        followed.rpc.as_ref().expect("a look")
    }

    async fn until_it_ends(follower: &Follower) {
        while !look(follower).task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    fn own() -> NodeProcess {
        discover::process(std::process::id()).unwrap()
    }

    #[tokio::test]
    async fn what_looks_into_a_node_and_ended_begins_again_with_the_node() {
        let node = Arc::new(own());
        let mut follower = follower();
        meet(&mut follower, &node).await;
        until_it_ends(&follower).await;
        let begun = look(&follower).begun;
        let restarted = NodeProcess { started: node.started + 1, ..own() };
        meet(&mut follower, &Arc::new(restarted)).await;
        assert!(look(&follower).begun > begun);
        assert_eq!(look(&follower).again, 0);
    }

    #[tokio::test]
    async fn files_are_those_of_the_process_that_runs_now() {
        let mut follower = follower();
        let in_container = NodeProcess { shares_mounts: false, ..own() };
        meet(&mut follower, &Arc::new(in_container.clone())).await;
        let access = |follower: &Follower| {
            let followed = follower.followed.values().next().unwrap();
            followed.windows.log.as_ref().unwrap().access.clone()
        };
        let before = access(&follower);
        assert!(before.is_elsewhere());
        let outside = NodeProcess { started: in_container.started + 1, shares_mounts: true, ..own() };
        meet(&mut follower, &Arc::new(outside)).await;
        assert!(!before.is_elsewhere(), "who reads its log goes on with the new process");
        assert_eq!(access(&follower), before);
    }

    #[tokio::test(start_paused = true)]
    async fn what_looks_into_a_node_and_ends_again_and_again_is_started_less_and_less_often() {
        let node = Arc::new(own());
        let mut follower = follower();
        let mut starts = Vec::new();
        for second in 0..20_000_u64 {
            meet(&mut follower, &node).await;
            until_it_ends(&follower).await;
            if starts.len() as u32 == look(&follower).again {
                starts.push(second);
            }
            tokio::time::advance(LOOK_EVERY).await;
        }
        assert_eq!(starts[..5], [0, 10, 30, 70, 150]);
        let pauses: Vec<u64> = starts.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.is_sorted() && pauses.last() == Some(&5120), "{pauses:?}");
    }
}
