//! The bus over a NATS server.
//!
//! Core NATS, one encoded event a message, as the public protocol has it. What is added on this side of the server:
//!
//! - Connecting and reconnecting go on in the background for ever; a server that is not there yet is no error.
//! - Every publisher has one connection, one spool and one writing task, so order is kept. While the server is away, events
//!   wait in the spool; what does not fit is counted. A number is drawn only when an event is really sent.
//! - Every subscriber has one connection and one subscription for all subjects, because the server keeps the order of a
//!   connection over subjects, and several subscriptions would mix it.

mod backoff;
mod config;
#[cfg(test)]
mod position_tests;
mod publish;
#[cfg(test)]
mod server_tests;
mod subscribe;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use peer_observer_events::Subject;
use peer_observer_events::proto::observer::Source;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::{DEFAULT_ADDRESS, NatsConfig, has_login};
pub(crate) use publish::Spool;

use backoff::Backoff;

use crate::loss::Complaint;
use crate::queue::Limits;
use crate::subscriber::{Mailbox, Subscriber};

/// How often to look whether everything was sent.
const LOOK_AT_SPOOLS: Duration = Duration::from_millis(20);

/// How long events are kept back when the server is there again: everybody tries once a second
/// (backoff.rs) to reach it, and what is sent before those who listen are there is lost.
const SETTLE: Duration = Duration::from_secs(2);

/// A connection that is up.
#[derive(Debug, Clone, Copy)]
struct Up {
    since: Instant,
    /// Whether the server was away before.
    again: bool,
}

impl Up {
    /// Whether others that wait for the server have found it, too.
    fn has_settled(&self) -> bool {
        !self.again || self.since.elapsed() >= SETTLE
    }
}

/// How the lines about one connection are kept few.
#[derive(Default)]
struct ConnectionLog {
    /// Why the last attempt failed, once that was logged.
    cannot: String,
    gone: Complaint,
    refused: Complaint,
    /// The last end of the connection was not logged.
    is_quiet: bool,
}

impl ConnectionLog {
    /// Logs what happens to a connection. A server that is there and gone all the time, or refuses
    /// everything, is logged every ten seconds.
    fn log(&mut self, component: &'static str, address: &str, event: &async_nats::Event, is_up: bool) {
        match event {
            async_nats::Event::Connected if self.is_quiet => {}
            async_nats::Event::Connected => {
                self.cannot.clear();
                tracing::info!(component, address, "connected to nats");
            }
            async_nats::Event::Disconnected => {
                let due = self.gone.due(1);
                self.is_quiet = due.is_none();
                if let Some(times) = due {
                    tracing::warn!(component, address, times, "nats is gone, trying again");
                }
            }
            async_nats::Event::ServerError(error) => {
                if let Some(times) = self.refused.due(1) {
                    tracing::error!(component, address, times, %error, "the nats server refuses something");
                }
            }
            async_nats::Event::ClientError(error) if !is_up => {
                let error = error.to_string();
                if self.cannot != error {
                    tracing::warn!(component, address, %error, "cannot connect to nats, trying again");
                    self.cannot = error;
                }
            }
            async_nats::Event::ClientError(error) => {
                tracing::debug!(component, address, %error, "nats connection");
            }
            async_nats::Event::SlowConsumer(_) => {
                tracing::warn!(component, "nats delivers faster than events can be taken");
            }
            other => tracing::debug!(component, %other, "nats connection"),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file named in the configuration cannot be read.
    #[error("cannot read {what} {path}: {source}")]
    File {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A user needs a password.
    #[error("--nats-username {0} needs --nats-password or --nats-password-file")]
    NoPassword(String),
    /// A password needs a user.
    #[error("--nats-password and --nats-password-file need --nats-username")]
    NoUser,
    /// The credentials file is none.
    #[error(
        "the NATS credentials file {0} has no JWT and NKey seed: give a .creds file as `nsc generate creds` writes it"
    )]
    Credentials(String),
    /// The address is not one.
    #[error("{0:?} is no NATS address: give HOST:PORT or nats://HOST:PORT")]
    Address(String),
    /// The address has a user name or a password. Nothing of it is here: it is a secret.
    #[error(
        "--nats-address has a user name or password in it: \
         give them with --nats-username and --nats-password-file"
    )]
    LoginInAddress,
    /// A certificate needs its key, and a key its certificate.
    #[error("--nats-tls-cert and --nats-tls-key need each other")]
    HalfCertificate,
    /// The prefix would make subjects that the server refuses.
    #[error("subject prefix {0:?} must be one or more words of letters, digits, '-' and '_', joined by dots")]
    Prefix(String),
}

/// Makes publishers and subscribers on one server.
pub struct Nats {
    config: NatsConfig,
    options: config::Prepared,
    /// Of publishers that are there, or gone with something left to send.
    writers: Mutex<Vec<(Arc<Spool>, tokio::task::JoinHandle<u64>)>>,
    readers: Mutex<Vec<(Arc<Mailbox>, tokio::task::JoinHandle<()>)>>,
    stop: CancellationToken,
}

impl Nats {
    pub(crate) fn new(config: NatsConfig) -> Result<Self, Error> {
        let options = config.prepare()?;
        Ok(Nats {
            config,
            options,
            writers: Mutex::default(),
            readers: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    /// Options of a connection, and whether it is up.
    fn connection(&self, component: &'static str) -> (ConnectOptions, watch::Receiver<Option<Up>>) {
        self.connection_with(component, Arc::default())
    }

    fn connection_with(
        &self,
        component: &'static str,
        backoff: Arc<Backoff>,
    ) -> (ConnectOptions, watch::Receiver<Option<Up>>) {
        let (up, is_up) = watch::channel(None);
        let was_away = Arc::new(AtomicBool::new(false));
        let address = self.options.address.clone();
        let log = Arc::new(Mutex::new(ConnectionLog::default()));
        let pauses = backoff.clone();
        let options = self
            .options
            .connect_options()
            .name(format!("peer-observer {component}"))
            .reconnect_delay_callback(move |_| pauses.pause(Instant::now()))
            .event_callback(move |event| {
                let (up, address, log) = (up.clone(), address.clone(), log.clone());
                let (was_away, backoff) = (was_away.clone(), backoff.clone());
                async move {
                    let is_up = up.borrow().is_some();
                    match &event {
                        async_nats::Event::Connected => {
                            let since = Instant::now();
                            backoff.connected(since);
                            let again = was_away.load(Ordering::Relaxed);
                            up.send_replace(Some(Up { since, again }));
                        }
                        async_nats::Event::Disconnected => {
                            was_away.store(true, Ordering::Relaxed);
                            up.send_replace(None);
                        }
                        async_nats::Event::ClientError(_) if !is_up => {
                            was_away.store(true, Ordering::Relaxed)
                        }
                        _ => {}
                    }
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .log(component, &address, &event, is_up);
                }
            });
        (options, is_up)
    }

    pub(crate) fn start_publisher(&self, source: Source, component: &'static str) -> Arc<Spool> {
        let spool = Arc::new(Spool::new(component, self.config.spool_limits()));
        let (options, is_up) = self.connection(component);
        let writer = publish::Writer::new(spool.clone(), source, self.config.subject_prefix.as_deref());
        let task = tokio::spawn(writer.run(options, self.options.address.clone(), is_up));
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        // What a writer that failed left unsent is asked for at the end; one that ended in order has nothing more to say.
        writers.retain(|(spool, writer)| !writer.is_finished() || spool.unsent() > 0);
        writers.push((spool.clone(), task));
        spool
    }

    pub(crate) fn start_subscriber(
        &self,
        component: &'static str,
        subjects: &[Subject],
        limits: Limits,
    ) -> Subscriber {
        let mailbox = Mailbox::new(component, subjects, limits);
        let (options, is_up) = self.connection(component);
        let stop = self.stop.child_token();
        let prefix = self.config.subject_prefix.as_deref();
        let mut reader = subscribe::Reader::new(mailbox.clone(), subjects, prefix, is_up);
        let address = self.options.address.clone();
        let stopped = stop.clone();
        let closing = mailbox.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = reader.run(options, address) => {}
                () = stopped.cancelled() => {}
            }
            closing.queue.close();
            reader.leave().await;
        });
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|(mailbox, _)| !mailbox.gone.load(Ordering::Relaxed));
        readers.push((mailbox.clone(), task));
        Subscriber::new(mailbox, Some(stop.drop_guard()))
    }

    pub(crate) async fn drained(&self) {
        let unsent = || {
            let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.iter().any(|(spool, writer)| !writer.is_finished() && spool.unsent() > 0)
        };
        while unsent() {
            tokio::time::sleep(LOOK_AT_SPOOLS).await;
        }
    }

    pub(crate) async fn close(&self, patience: Duration) -> u64 {
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for (spool, _) in &writers {
            spool.queue.close();
        }
        let deadline = tokio::time::Instant::now() + patience;
        let mut unsent = 0;
        for (spool, mut task) in writers {
            match tokio::time::timeout_at(deadline, &mut task).await {
                Ok(left) => unsent += left.unwrap_or(0),
                Err(_) => {
                    task.abort();
                    unsent += spool.unsent();
                }
            }
            unsent += spool.untold();
        }
        self.stop.cancel();
        let readers = std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner));
        for (mailbox, task) in readers {
            mailbox.queue.close();
            // A reader waits for no more than the server's answer to its last announcement. One
            // that failed has been told of.
            let _ = task.await;
        }
        unsent
    }
}
