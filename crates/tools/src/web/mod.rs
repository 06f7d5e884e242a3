//! The live page: see nodes and their peers talk.
//!
//! One task takes events and keeps what views show, in bounded memory; clients get views as JSON, rendered once for all who look at
//! the same. A browser is sent sums and samples, never the flood. README.md and docs/web.md tell the rest.
//!
//! | file | what it is for |
//! |---|---|
//! | model/ | what is kept of events |
//! | views/ | what clients get, a file a topic |
//! | hub.rs | what the counting task and the clients share |
//! | server.rs | the server: connections, routes |
//! | guard.rs | who may come in |
//! | socket.rs | websockets: upgrade and frames |
//! | stream.rs | our own websocket: topics at a pace |
//! | public.rs, feed.rs | the public websocket: every event as JSON |
//! | limits.rs | what clients may do |
//! | api.rs | REST, and its OpenAPI description |
//! | assets.rs, page/ | the page |

mod api;
mod assets;
mod feed;
mod guard;
mod hub;
mod limits;
mod model;
mod public;
mod server;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod views;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use peer_observer_bus::{Finding, Subscriber};
use peer_observer_events::Subject;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use guard::Error as GuardError;
use guard::Guard;
use hub::Hub;
use model::Model;
use views::Show;

use crate::known::{self, Files, Known, ListFile, Watch};

/// Events that are taken before a client can get in between.
const BATCH: usize = 1024;
/// Most websocket clients at once: connections that one address can have.
const MAX_CLIENTS: usize = 65_536;

/// Settings of the web tool.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to serve the page at.
    #[arg(
        short,
        long,
        visible_alias = "websocket-address",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:47482"
    )]
    pub web_address: String,
    /// Token that whoever comes in has to know. Seen by all users of this machine: better use --web-token-file.
    #[arg(long, value_name = "TOKEN")]
    pub web_token: Option<String>,
    /// File with the token.
    #[arg(long, value_name = "FILE")]
    pub web_token_file: Option<PathBuf>,
    /// Header that a reverse proxy sets for those who may come in, with a value that nobody else knows.
    #[arg(long, value_name = "NAME=VALUE")]
    pub web_proxy_header: Option<String>,
    /// Name by which browsers may ask for the page, besides addresses and localhost. Can be repeated.
    #[arg(long, value_name = "NAME")]
    pub web_host: Vec<String>,
    /// Site whose pages may connect, such as http://localhost:8000. Can be repeated.
    #[arg(long, value_name = "ORIGIN")]
    pub web_origin: Vec<String>,
    /// Show no addresses, neither the node's nor its peers', and no log: for public display.
    #[arg(long)]
    pub web_limited: bool,
    /// Websocket clients at once, 1 to 65536.
    #[arg(long, value_name = "NUMBER", default_value_t = 256)]
    pub web_max_clients: usize,
    /// File with an address or subnet a line for a list that is shown with the peers that are on it; read again when it changes.
    /// Can be repeated.
    #[arg(long = "ip-list", value_name = "NAME=FILE")]
    pub ip_lists: Vec<ListFile>,
    /// Map of autonomous systems, as Bitcoin Core's -asmap takes it, for peers of which the node does not tell theirs
    #[arg(long, value_name = "FILE")]
    pub asmap_file: Option<PathBuf>,
    /// File with the names of autonomous systems, a number and a name a line
    #[arg(long, value_name = "FILE", requires = "asmap_file")]
    pub as_names_file: Option<PathBuf>,
    /// Name for the node of events that do not say which it is, as those of public extractors.
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub node: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            web_address: "127.0.0.1:47482".into(),
            web_token: None,
            web_token_file: None,
            web_proxy_header: None,
            web_host: Vec::new(),
            web_origin: Vec::new(),
            web_limited: false,
            web_max_clients: 256,
            ip_lists: Vec::new(),
            asmap_file: None,
            as_names_file: None,
            node: "node".into(),
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        let guard = self.guard()?;
        let address = &self.web_address;
        let failed = |source| Error::Listen { address: address.clone(), source };
        for address in address.to_socket_addrs().map_err(failed)? {
            guard.check_address(address)?;
        }
        Known::read(&self.files())?;
        Ok(())
    }

    /// Who may come in, if the settings that need nothing else to be judged can work.
    fn guard(&self) -> Result<Guard, Error> {
        if !(1..=MAX_CLIENTS).contains(&self.web_max_clients) {
            return Err(Error::Clients(self.web_max_clients));
        }
        Ok(Guard::new(self)?)
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

/// Why the web tool cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error(
        "cannot serve the page at {address}: {source}; if another program has that port, choose one with --web-address"
    )]
    Listen {
        /// The address that was configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody could look at the page, or more than there can be.
    #[error("--web-max-clients {0}: give a number from 1 to {MAX_CLIENTS}")]
    Clients(usize),
    /// It would not be guarded well.
    #[error(transparent)]
    Guard(#[from] GuardError),
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
    let address = &config.web_address;
    let guard = match config.guard() {
        Ok(guard) => guard,
        Err(error) => return vec![Finding::bad(error.to_string(), "correct the setting that is named")],
    };
    let mut resolved = address.to_socket_addrs().into_iter().flatten();
    let listen = match resolved.find_map(|address| guard.check_address(address).err()) {
        Some(error) => Finding::bad(error.to_string(), "set one of the two, or serve at 127.0.0.1"),
        None => Finding::listens("the page", "be served at", address, "--web-address"),
    };
    std::iter::once(listen).chain(config.files().check()).collect()
}

/// Serves the page until `stop`, or until the bus ends.
///
/// # Errors
/// When the address cannot be listened on, everybody could come in, or a file cannot be read.
pub async fn run(config: Config, subscriber: Subscriber, stop: CancellationToken) -> Result<(), Error> {
    let address = &config.web_address;
    let failed = |source| Error::Listen { address: address.clone(), source };
    // Before listening: not for a moment is it open to everybody.
    let guard = config.guard()?;
    for address in tokio::net::lookup_host(address).await.map_err(failed)? {
        guard.check_address(address)?;
    }
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    serve(listener, &config, subscriber, stop).await
}

/// Serves the page on a socket that listens already, until `stop`, or until the bus ends.
///
/// # Errors
/// When everybody could come in, or a file cannot be read.
pub async fn serve(
    listener: TcpListener,
    config: &Config,
    mut subscriber: Subscriber,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut guard = config.guard()?;
    let watch = Watch::new(config.files());
    let known = Known::read(&config.files())?;
    if let Ok(address) = listener.local_addr() {
        guard.check_address(address)?;
        guard = guard.at_port(address.port());
        tracing::info!("the live page is at http://{}/", shown(address));
    }
    let show = if config.web_limited { Show::NoAddresses } else { Show::Everything };
    let (stats, depth) = (subscriber.stats(), subscriber.depth());
    let hub = Hub::new(Model::new(&config.node, known), show, config.web_max_clients, stats, depth);
    // The server ends with the events, too.
    let server_stop = stop.child_token();
    let server = tokio::spawn(server::serve(listener, guard, hub.clone(), server_stop.clone()));
    let counting = hub.clone();
    tokio::spawn(watch.follow(known::LOOK, server_stop.clone(), move |known| counting.renew(known)));
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => break,
            received = subscriber.recv_many(&mut batch, BATCH) => received,
        };
        if received == 0 {
            break;
        }
        hub.observe(&batch);
        batch.clear();
        // While events wait, this never would; the clients it wakes run on this thread next.
        tokio::task::yield_now().await;
    }
    server_stop.cancel();
    if let Err(error) = server.await {
        tracing::error!(%error, "web server failed");
    }
    Ok(())
}

/// An address that a browser can open.
fn shown(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port()),
        false => address,
    }
}
