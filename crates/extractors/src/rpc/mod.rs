//! What the node's RPC interface says, asked at intervals: peers, mempool, traffic, memory, address manager, chain, fees, bans.
//!
//! The node comes first: three connections at most, one of them for quick methods only, one call of a method at a time, and nothing is
//! asked twice because something else failed. README.md says what is asked how often.
//!
//! | file | what it is for |
//! |---|---|
//! | config.rs | flags and keys of the configuration file |
//! | found.rs | which login is for a node that was found |
//! | methods.rs | the methods: parameters, and what becomes of answers |
//! | convert.rs | from answers to the schema |
//! | fit.rs | makes events fit the bus |
//! | poll.rs | asks for one method again and again |
//! | node.rs | whether the node can be asked, and when it was restarted |
//! | metrics.rs | metrics of the extractor itself |
//! | page.rs | these of several nodes together |

mod config;
mod convert;
mod fit;
mod found;
mod methods;
mod metrics;
mod node;
mod page;
mod poll;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peer_observer_bus::{Finding, Publisher};
use peer_observer_exporter::registry::Description;
use peer_observer_exporter::server::{self, BindError};
use peer_observer_node::access;
use peer_observer_node::names::BadName;
use peer_observer_node::rpc::{self, Client, FoundNode, LargeAnswers, Limits, Login};
use peer_observer_node::windows::RpcWindow;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use methods::Method;

pub use config::{Config, IntervalError, MethodInterval};
pub use convert::{Error as AnswerError, recorded_addrman};
pub use found::Withheld;
pub use page::Page;

/// Time that `doctor` waits for an answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a user sets the address for metrics.
const METRICS_FLAG: &str = "--prometheus-address (of `run`: --set rpc.prometheus_address=ADDRESS:PORT)";

/// How a user allows a name for metrics.
const HOST_FLAG: &str = "--prometheus-host (of `run`: --metrics-host)";

/// Why the RPC extractor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No login was given.
    #[error(
        "say how to log in to the node: --rpc-cookie-file FILE (.cookie in its data directory), or --rpc-user with --rpc-password-file (of `run`: --set rpc.rpc_cookie_file=FILE, or rpc.rpc_user and rpc.rpc_password_file)"
    )]
    NoLogin,
    /// More than one login was given, or half a one.
    #[error(
        "give either --rpc-cookie-file, or --rpc-user with one of --rpc-password-file and --rpc-password"
    )]
    MixedLogin,
    /// The address cannot be one.
    #[error(
        "--rpc-host {0} must be HOST:PORT; the port is 8332 on the main network, unless rpcport says otherwise"
    )]
    Host(String),
    /// The name cannot be one.
    #[error("--rpc-node: {0}")]
    Name(BadName),
    /// The login of the settings is not for this node, and there is no other.
    #[error("{why}; {fix}", why = .0, fix = .0.fix())]
    Withheld(Withheld),
    /// An interval or limit of no time.
    #[error("intervals and --rpc-timeout must be at least one second")]
    NoTime,
    /// The payload is too small.
    #[error("--max-payload-bytes {bytes} is too small: at least {least}")]
    Payload {
        /// What was given, bytes.
        bytes: usize,
        /// The least that will do, bytes.
        least: usize,
    },
    /// The address for metrics cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// A part of the extractor ended without being asked to.
    #[error("asking the node failed, please report this: {0}")]
    Crashed(tokio::task::JoinError),
}

/// What the extractor's own metrics are.
pub fn describe_metrics() -> Vec<Description> {
    metrics::Metrics::new(std::iter::empty()).describe()
}

/// Whether the node can be asked, for `doctor`. Nothing when no login is given: then nobody wants to.
pub fn check(config: &Config) -> Vec<Finding> {
    let login = match config.validate().and_then(|()| config.login()) {
        Ok(Some(login)) => login,
        Ok(None) => return Vec::new(),
        Err(error) => {
            return vec![Finding::bad(error.to_string(), "correct the settings of the RPC extractor")];
        }
    };
    let metrics = Finding::listens("metrics", "be served at", &config.prometheus_address, METRICS_FLAG);
    let client = Client::new(config.rpc_host.clone(), login, check_limits(config));
    vec![check_host(&config.rpc_host, client), metrics]
}

/// Whether a node that was found can be asked, for `doctor`.
pub fn check_found(config: &Config, found: &RpcWindow) -> Finding {
    match found::login(config, found) {
        Ok((login, withheld)) => {
            let client = Client::of_found(found.host.clone(), login, check_limits(config), of_node(found));
            let finding = check_host(&found.host, client);
            match withheld {
                Some(withheld) if finding.ok => {
                    Finding { fix: Some(format!("{withheld}; {}", withheld.fix())), ..finding }
                }
                _ => finding,
            }
        }
        Err(Error::Withheld(withheld)) => Finding::bad(withheld.to_string(), withheld.fix()),
        Err(error) => Finding::bad(error.to_string(), "correct the settings of the RPC extractor"),
    }
}

fn check_limits(config: &Config) -> Limits {
    Limits { timeout: CHECK_TIMEOUT, ..config.limits() }
}

/// What a client has to know of a node that was found.
fn of_node(found: &RpcWindow) -> FoundNode {
    FoundNode { large: LargeAnswers::of_user(found.access.uid()), listener: found.listener() }
}

fn check_host(host: &str, client: Arc<Client>) -> Finding {
    // A thread of its own: whoever calls may be within a runtime already.
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        Some(runtime.block_on(async {
            client.connection().await.call("uptime", &serde_json::json!([])).await.map(|_| ())
        }))
    });
    match asked.join() {
        Ok(Some(Ok(()))) => Finding::good(format!("the node at {host} answers RPC calls")),
        Ok(Some(Err(error))) => Finding::bad(error.to_string(), fix(&error)),
        Ok(None) | Err(_) => {
            Finding::bad("cannot start a thread to ask the node", "try again with more memory")
        }
    }
}

fn fix(error: &rpc::Error) -> &'static str {
    match error {
        rpc::Error::Connect { .. } => {
            "start the node with server=1 in its bitcoin.conf; `extract rpc` wants its rpcport with --rpc-host"
        }
        rpc::Error::Stranger { .. } => {
            "start the node, or end the program of that user that listens in its place"
        }
        rpc::Error::LoginFile { source, .. } if access::is_denied_to_node(source) => {
            "let the node's user read that file: what that user may not read is not read for the node"
        }
        rpc::Error::LoginFile { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "rpccookieperms=group in its bitcoin.conf (Bitcoin Core 28 and later) and this user in the node's group, or run as root"
        }
        rpc::Error::LoginFile { .. } => {
            "the cookie is in the node's data directory (of the network) while it runs, with server=1 in its bitcoin.conf"
        }
        rpc::Error::LoginForm { .. } | rpc::Error::Unauthorized { .. } => {
            "use the node's cookie file, or the user and password of its rpcauth"
        }
        rpc::Error::Forbidden { .. } => {
            "add rpcallowip=ADDRESS or rpcwhitelist=USER:METHODS to its bitcoin.conf"
        }
        error if error.is_warming_up() => "wait until the node has started",
        _ => "look at the node's debug.log",
    }
}

/// Asks the node until `stop`.
///
/// # Errors
/// When the settings cannot work. A node that cannot be asked is waited for.
pub async fn run(config: Config, publisher: Publisher, stop: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    let login = config.login()?.ok_or(Error::NoLogin)?;
    let listener = server::bind(&config.prometheus_address, METRICS_FLAG).await?;
    run_at(listener, &config, config.methods(), login, publisher, stop).await
}

/// Asks a node that was found until `stop`, and puts its metrics on a page that nodes share. A login of the settings goes before the
/// one that was found, as far as it is for this node.
///
/// # Errors
/// When the settings cannot work. A node that cannot be asked is waited for.
pub async fn run_found(
    page: &Page,
    config: Config,
    found: RpcWindow,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (login, withheld) = found::login(&config, &found)?;
    if let Some(withheld) = withheld {
        tracing::warn!(
            node = config.rpc_node, reason = %withheld, fix = withheld.fix(),
            "using the login that was found, not that of the settings"
        );
    }
    let node = of_node(&found);
    let config = Config { rpc_host: found.host, ..config };
    config.validate()?;
    let methods = config.methods();
    let client = Client::of_found(config.rpc_host.clone(), login, config.limits(), node);
    let shared = shared(&config, &methods, client, publisher);
    page.add(&shared);
    let outcome = ask(&shared, methods, stop).await;
    page.remove(&shared);
    outcome
}

async fn run_at(
    listener: TcpListener,
    config: &Config,
    methods: Vec<(Method, Duration)>,
    login: Login,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), Error> {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, node = config.rpc_host, "serving metrics of the rpc extractor");
    }
    let client = Client::new(config.rpc_host.clone(), login, config.limits());
    let shared = shared(config, &methods, client, publisher);
    let page = {
        let shared = shared.clone();
        move || shared.metrics().render()
    };
    let names = server::Names { allowed: config.prometheus_host.clone(), flag: HOST_FLAG };
    let page = tokio::spawn(server::serve(listener, names, page, stop.clone()));
    let outcome = ask(&shared, methods, stop).await;
    page.abort();
    outcome
}

fn shared(
    config: &Config,
    methods: &[(Method, Duration)],
    client: Arc<Client>,
    publisher: Publisher,
) -> Arc<poll::Shared> {
    if methods.is_empty() {
        tracing::warn!("every RPC method is disabled, nothing to ask for");
    }
    Arc::new(poll::Shared {
        client,
        node: node::Node::new(),
        name: config.rpc_node.as_str().into(),
        max_payload: config.max_payload_bytes,
        publisher: Mutex::new(publisher),
        metrics: Mutex::new(metrics::Metrics::new(methods.iter().map(|(method, _)| *method))),
        named: Mutex::new(BTreeSet::new()),
    })
}

/// Asks for every method until `stop`.
async fn ask(
    shared: &Arc<poll::Shared>,
    methods: Vec<(Method, Duration)>,
    stop: CancellationToken,
) -> Result<(), Error> {
    // Several nodes may be asked side by side: what is logged of one says which it is.
    let span = tracing::info_span!("rpc", node = %shared.name);
    let mut tasks = JoinSet::new();
    for (method, every) in methods {
        tasks.spawn(poll::poll(shared.clone(), method, every).instrument(span.clone()));
    }
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(Err(error)) = tasks.join_next() => Err(Error::Crashed(error)),
    };
    tasks.shutdown().await;
    outcome
}
