//! The tip of a node's chain, told over IPC at the moment it changes.
//!
//! A `bitcoin-node` that runs with `-ipcbind=unix` answers calls of Cap'n Proto over a Unix socket. One of them waits until the tip
//! is another one, so nothing is polled, and the event is there before an RPC client would ask. The types of these calls are
//! generated while this crate is built, by a compiler that not everybody has: that is why all of it but the settings is behind the
//! Cargo feature `ipc`.
//!
//! | file | what it is for |
//! |---|---|
//! | config.rs | flags and keys of the configuration file |
//! | client.rs | the calls of a connection, and which schema the node has |
//! | started.rs | whether a node of Bitcoin Core 30 can be called yet |
//! | watch.rs | one connection after the other, and the events |
//! | metrics.rs | metrics of the extractor itself |

#[cfg(feature = "ipc")]
mod client;
mod config;
#[cfg(feature = "ipc")]
mod metrics;
#[cfg(feature = "ipc")]
mod started;
#[cfg(feature = "ipc")]
#[cfg(test)]
mod tests;
#[cfg(feature = "ipc")]
mod watch;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use peer_observer_bus::{Finding, Publisher};
#[cfg(feature = "ipc")]
use peer_observer_exporter::server;
use peer_observer_exporter::server::BindError;
use peer_observer_node::names::BadName;
use peer_observer_node::windows::IpcWindow;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// Whether this build has the extractor, and not only its settings.
pub const IS_BUILT: bool = cfg!(feature = "ipc");

/// How a user sets the address for metrics.
const METRICS_FLAG: &str = "--prometheus-address";
/// How a user allows a name for metrics.
#[cfg(feature = "ipc")]
const HOST_FLAG: &str = "--prometheus-host";

/// Why the IPC extractor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program was built without it.
    #[error(
        "this peer-observer was built without the ipc extractor: install capnproto and libcapnp-dev, and build it again \
         with cargo build --release -p peer-observer --features ipc"
    )]
    NotBuilt,
    /// No socket was named.
    #[error(
        "name the socket of a bitcoin-node that runs with -ipcbind=unix: --ipc-socket-path FILE (node.sock in its data directory)"
    )]
    NoSocket,
    /// The name cannot be one.
    #[error("--ipc-node: {0}")]
    Name(BadName),
    /// An interval or limit of no time.
    #[error("--query-interval and --ipc-timeout must be at least one second")]
    NoTime,
    /// The address for metrics cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// A part of the extractor ended without being asked to.
    #[error("asking the node failed, please report this: {0}")]
    Crashed(tokio::task::JoinError),
}

/// Whether the node can be asked, for `doctor`. Nothing when no socket is named: then nobody wants to.
pub fn check(config: &Config) -> Vec<Finding> {
    let path = match config.socket() {
        Ok(path) => path,
        Err(Error::NoSocket) => return Vec::new(),
        Err(error) => {
            return vec![Finding::bad(error.to_string(), "correct the settings of the IPC extractor")];
        }
    };
    if !IS_BUILT {
        return vec![Finding::bad(
            "this build has no ipc extractor",
            "install capnproto and libcapnp-dev, and build with --features ipc",
        )];
    }
    let metrics = Finding::listens("metrics", "be served at", &config.prometheus_address, METRICS_FLAG);
    vec![can_connect(path, UnixStream::connect(path)), metrics]
}

/// Whether the socket of a node that was found can be connected to, for `doctor`.
pub fn check_found(found: &IpcWindow) -> Finding {
    let socket = found.access.socket(&found.path);
    let connected =
        socket.and_then(|socket| UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())));
    can_connect(&found.path, connected)
}

/// What is said of a socket that was tried to be connected to.
fn can_connect(path: &Path, connected: io::Result<UnixStream>) -> Finding {
    let shown = path.display();
    match connected {
        Ok(_) => Finding::good(format!("a node listens on {shown}")),
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => "run peer-observer as the user of the node, or as root",
                _ => "start bitcoin-node (Bitcoin Core 30 or later) with ipcbind=unix; it is waited for",
            };
            Finding::bad(format!("cannot connect to {shown}: {error}"), fix)
        }
    }
}

/// Tells of the node's tips until `stop`.
///
/// # Errors
/// When the settings cannot work, or this build has no such extractor. A node that cannot be asked is waited for.
pub async fn run(config: Config, publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    let path = config.socket()?.to_path_buf();
    start(path, config, publisher, stop).await
}

/// [`run`] for a node that was found, without a page of metrics.
///
/// # Errors
/// When the settings cannot work, or this build has no such extractor. A node that cannot be asked is waited for.
pub async fn run_found(
    config: Config,
    found: IpcWindow,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let config = Config { ipc_socket_path: Some(found.path.clone()), ..config };
    config.validate()?;
    start_found(found, config, publisher, stop).await
}

#[cfg(not(feature = "ipc"))]
async fn start_found(_: IpcWindow, _: Config, _: Publisher, _: CancellationToken) -> Result<(), Error> {
    Err(Error::NotBuilt)
}

#[cfg(feature = "ipc")]
async fn start_found(
    found: IpcWindow,
    config: Config,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let settings =
        watch::Settings { access: Some(found.access), ..watch::Settings::new(found.path, &config) };
    watch::Watch::new(settings, publisher).follow(stop).await
}

#[cfg(not(feature = "ipc"))]
async fn start(_: PathBuf, _: Config, _: Publisher, _: CancellationToken) -> Result<(), Error> {
    Err(Error::NotBuilt)
}

#[cfg(feature = "ipc")]
async fn start(
    path: PathBuf,
    config: Config,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let listener = server::bind(&config.prometheus_address, METRICS_FLAG).await?;
    let names = server::Names { allowed: config.prometheus_host.clone(), flag: HOST_FLAG };
    watch::run(listener, names, watch::Settings::new(path, &config), publisher, stop).await
}
