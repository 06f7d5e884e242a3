//! What nodes say to us as a peer of theirs: how long they take to answer, what they relay, when a block becomes visible.
//!
//! Nodes dial us (`-addnode`); this extractor dials nobody. Whoever reaches the port may try, so
//! connections are few and shared fairly among sources, each has a bounded memory, and one that
//! breaks the rules is closed without touching the others.
//!
//! | file | what it is for |
//! |---|---|
//! | config.rs | flags and keys of the configuration file, names of nodes, who may connect |
//! | connection.rs | one connection: transport, times, reading and writing |
//! | session.rs | what messages mean: events, and answers |

mod config;
mod connection;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peer_observer_bus::loss::LossBook;
use peer_observer_bus::{Finding, Publisher, now_ns};
use peer_observer_exporter::listener::{self, Connection, GiveUp, Refusal, Slots};
use peer_observer_exporter::throttle::Throttle;
use peer_observer_exporter::worker::Worker;
use peer_observer_node::names::BadName;
use peer_observer_node::p2p;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use connection::Closed;

pub use config::{Allowed, Config, Listen, Network, ParseError};

/// Losses are told this often.
const TELL: Duration = Duration::from_secs(1);
/// Connections whose node is looked up at once.
const MAX_LOOKUPS: usize = 64;
/// Time to find out which node dials. One that is not known by then has the name of those that
/// nothing names.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the P2P extractor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to listen on.
    #[error("name an address to listen on: --p2p-address ADDRESS:PORT")]
    NoAddress,
    /// A name cannot be one.
    #[error("--p2p-node, --p2p-address or --p2p-allow: {0}")]
    Name(BadName),
    /// Nobody may connect.
    #[error("--p2p-max-connections must be at least 1")]
    NoConnections,
    /// A time that makes no sense.
    #[error("--ping-interval, --p2p-handshake-timeout and --p2p-idle-timeout must be 1 to 86,400 seconds")]
    Time,
    /// The address cannot be listened on.
    #[error(
        "cannot listen for nodes on {addr}: {source}; if another program has that port, choose one with --p2p-address"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A part of the extractor ended without being asked to.
    #[error("listening for nodes failed, please report this: {0}")]
    Crashed(tokio::task::JoinError),
}

/// Whether nodes could dial us, for `doctor`.
pub fn check(config: &Config) -> Vec<Finding> {
    if let Err(error) = config.validate() {
        return vec![Finding::bad(error.to_string(), "correct the settings of the P2P extractor")];
    }
    let listen = |listen: &Listen| {
        let mut found = Finding::listens("nodes", "dial", listen.addr, "--p2p-address");
        if found.ok {
            found.what += &format!("; a node does with addnode={} in its bitcoin.conf", listen.addr);
        }
        found
    };
    config.p2p_address.iter().map(listen).collect()
}

/// A node that dials us, when it is known whose connection it is.
#[derive(Debug, Clone)]
pub struct Dialler {
    /// Its name.
    pub node: Arc<str>,
    /// Its network.
    pub network: p2p::Network,
}

/// Tells who dials: from the address of the connection and our own. May take its time: it looks at all sockets of nodes.
pub type WhoDials = Arc<dyn Fn(SocketAddr, SocketAddr) -> Option<Dialler> + Send + Sync>;

/// Listens to the nodes that dial us, until `stop`.
///
/// # Errors
/// When the settings cannot work, or an address cannot be listened on. Whatever connections do ends only themselves.
pub async fn run(config: Config, publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    run_asking(config, Arc::new(|_, _| None), publisher, stop).await
}

/// [`run`], where `who` knows nodes that the settings do not name.
///
/// # Errors
/// As for [`run`].
pub async fn run_asking(
    config: Config,
    who: WhoDials,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let mut listeners = Vec::new();
    for listen in &config.p2p_address {
        let error = |source| Error::Listen { addr: listen.addr, source };
        let listener = TcpListener::bind(listen.addr).await.map_err(error)?;
        let addr = listener.local_addr().map_err(error)?;
        tracing::info!(%addr, network = %config.p2p_network.0, "nodes can dial us with -addnode");
        listeners.push((listener, Listen { addr, ..listen.clone() }));
    }
    serve(listeners, config, who, publisher, stop).await
}

/// What all connections have in common.
struct Shared {
    config: Config,
    who: Worker<(SocketAddr, SocketAddr), Option<Dialler>>,
    stop: CancellationToken,
    sink: Mutex<Sink>,
    /// Connections of each node, by its name.
    nodes: Mutex<BTreeMap<Arc<str>, usize>>,
}

/// Where events go.
struct Sink {
    publisher: Publisher,
    book: LossBook,
}

impl Shared {
    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that this node is connected, until what is returned is dropped.
    fn serving(&self, node: &Arc<str>) -> Serving<'_> {
        let mut nodes = self.nodes();
        let connections = nodes.entry(node.clone()).or_default();
        *connections += 1;
        if *connections > 1 {
            tracing::warn!(
                %node,
                connections,
                "connected more than once; if these are different nodes, name them: --p2p-address NAME=ADDRESS:PORT, a port for each"
            );
        }
        Serving { shared: self, node: node.clone() }
    }

    fn tell_losses(&self) {
        let mut sink = self.sink();
        for (node, event) in sink.book.take() {
            sink.publisher.publish(&node, now_ns(), event);
        }
    }
}

/// A node that is connected.
struct Serving<'a> {
    shared: &'a Shared,
    node: Arc<str>,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut nodes = self.shared.nodes();
        if let Some(connections) = nodes.get_mut(&self.node) {
            *connections -= 1;
            if *connections == 0 {
                nodes.remove(&self.node);
            }
        }
    }
}

async fn serve(
    listeners: Vec<(TcpListener, Listen)>,
    config: Config,
    who: WhoDials,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let book = LossBook::new(publisher.component());
    let slots = Slots::new(config.p2p_max_connections, GiveUp::Pending);
    let shared = Arc::new(Shared {
        config,
        who: lookups(who),
        stop,
        sink: Mutex::new(Sink { publisher, book }),
        nodes: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for (listener, listen) in listeners {
        let (slots, stop) = (slots.clone(), shared.stop.clone());
        let port = Port { listen, shared: shared.clone(), refused: Mutex::default() };
        tasks.spawn(async move {
            let mut connections = listener::accept(listener, slots, Arc::new(port), &stop).await;
            while connections.join_next().await.is_some() {}
        });
    }
    let mut tell = tokio::time::interval(TELL);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(())) => {}
                Some(Err(crash)) => return Err(Error::Crashed(crash)),
                None => break,
            },
            _ = tell.tick() => shared.tell_losses(),
        }
    }
    shared.tell_losses();
    Ok(())
}

/// Looks for nodes that dial on a thread of its own.
fn lookups(who: WhoDials) -> Worker<(SocketAddr, SocketAddr), Option<Dialler>> {
    Worker::start("p2p-lookup", MAX_LOOKUPS, move |connections: &[(SocketAddr, SocketAddr)]| {
        connections.iter().map(|(peer, own)| who(*peer, *own)).collect()
    })
}

/// An address that nodes dial.
struct Port {
    listen: Listen,
    shared: Arc<Shared>,
    /// Knocking does not fill the log.
    refused: Mutex<Throttle>,
}

impl listener::Service for Port {
    fn allows(&self, client: IpAddr) -> bool {
        self.shared.config.allows(client)
    }

    fn refused(&self, peer: SocketAddr, why: Refusal) {
        let reason = match why {
            Refusal::NotAllowed => "its address is not in --p2p-allow",
            Refusal::Full => "there are --p2p-max-connections already",
        };
        let due = self.refused.lock().unwrap_or_else(PoisonError::into_inner).due();
        if let Some(times) = due {
            tracing::warn!(%peer, reason, times, "refused a connection");
        }
    }

    async fn serve(&self, connection: Connection) {
        let Connection { stream, peer, slot } = connection;
        let serve = async {
            let Dialler { node, network } = self.dialler(peer).await;
            let closed = connection::serve(stream, peer, network, &node, &slot, &self.shared).await;
            match closed {
                Closed::Stopped => {}
                closed => tracing::warn!(%peer, %node, reason = %closed, "closed a connection"),
            }
        };
        tokio::select! {
            () = serve => {}
            () = slot.revoked() => tracing::warn!(%peer, "closed a connection for that of another client"),
        }
    }
}

impl Port {
    /// The node that dials: as the settings name it, else as it is known to be, else by the name of
    /// those that nobody knows.
    async fn dialler(&self, peer: SocketAddr) -> Dialler {
        let config = &self.shared.config;
        let named = config.name_of(&self.listen, peer.ip()).map(Arc::<str>::from);
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, self.shared.who.ask((peer, self.listen.addr)));
        let known = tokio::select! {
            found = lookup => found.ok().flatten().flatten(),
            // The connection is about to be closed.
            () = self.shared.stop.cancelled() => None,
        };
        let network = known.as_ref().map_or(config.p2p_network.0, |known| known.network);
        let node = named.or(known.map(|known| known.node)).unwrap_or_else(|| config.p2p_node.as_str().into());
        Dialler { node, network }
    }
}
