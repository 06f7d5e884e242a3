//! One connection after the other, and the events.
//!
//! There is one connection at a time, with one call in progress. Cap'n Proto's objects stay on the thread that made them, so every
//! connection has a thread of its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use peer_observer_bus::{Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::ipc_extractor::{BlockTip, Ipc};
use peer_observer_exporter::server;
use peer_observer_node::access::Access;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Error, Tip, speak};
use super::metrics::{Method, Metrics};
use super::started::{Peer, Socket, Started};
use super::{Config, Error as RunError};

/// How long to leave a node alone after a connection that ended.
#[derive(Debug)]
pub(super) struct Pauses {
    /// At first; then twice as long each time that connecting fails again.
    pub(super) first: Duration,
    /// At most, for a node that is not there, or not yet.
    pub(super) away: Duration,
    /// At most, for one that is there, but does not do as it should.
    pub(super) odd: Duration,
}

const PAUSES: Pauses =
    Pauses { first: Duration::from_millis(250), away: Duration::from_secs(2), odd: Duration::from_secs(60) };

/// Between two calls. While a node catches up its tip changes thousands of times a second, and nobody needs them all.
const PACE: Duration = Duration::from_millis(50);
/// A call waits for so long at most: a node that is stopped, or that we have left, keeps its thread until then.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a node that says that it stops is left alone at most. It may write its coins for minutes.
const LONGEST_STOP: Duration = Duration::from_secs(600);
/// After so many calls comes another connection: what is read from one is bounded (client.rs).
const CALLS: usize = 1000;

/// What is done, and how.
#[derive(Debug)]
pub(super) struct Settings {
    /// The node's socket.
    pub(super) socket: PathBuf,
    /// Its name in events.
    pub(super) name: Arc<str>,
    /// When to tell a tip again.
    pub(super) every: Duration,
    /// How long a node may answer nothing.
    pub(super) limit: Duration,
    /// When to try again.
    pub(super) pauses: Pauses,
    /// Who may connect to the socket, where a node that was found names it.
    pub(super) access: Option<Access>,
}

/// A socket to connect to.
struct Place {
    path: PathBuf,
    /// What the path refers to.
    _socket: Option<OwnedFd>,
}

impl Settings {
    /// From the configuration, which is valid.
    pub(super) fn new(socket: PathBuf, config: &Config) -> Self {
        Settings {
            socket,
            name: config.ipc_node.as_str().into(),
            every: Duration::from_secs(config.query_interval),
            limit: Duration::from_secs(config.ipc_timeout),
            pauses: PAUSES,
            access: None,
        }
    }

    /// The socket that is there now.
    fn place(&self) -> io::Result<Place> {
        let Some(access) = &self.access else {
            return Ok(Place { path: self.socket.clone(), _socket: None });
        };
        let socket = access.socket(&self.socket)?;
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd()).into();
        Ok(Place { path, _socket: Some(socket) })
    }
}

/// A node that is watched.
pub(super) struct Watch {
    settings: Settings,
    metrics: Metrics,
    publisher: Mutex<Publisher>,
    trouble: Mutex<Trouble>,
    /// Where the node that said last that it stops listens, and until when it is left alone.
    stopping: Mutex<Option<(Socket, Instant)>>,
}

/// Watches a node until `stop`, and serves metrics.
pub(super) async fn run(
    listener: TcpListener,
    names: server::Names,
    settings: Settings,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), RunError> {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, socket = %settings.socket.display(), "serving metrics of the ipc extractor");
    }
    let watch = Watch::new(settings, publisher);
    let page = {
        let watch = watch.clone();
        move || watch.metrics.render()
    };
    let pages = tokio::spawn(server::serve(listener, names, page, stop.clone()));
    watch.follow(stop).await?;
    pages.await.map(|_| ()).map_err(RunError::Crashed)
}

/// One connection, on a thread of its own: not one of those that the runtime has for work that takes long, which a node that
/// never answers would keep from others.
async fn on_a_thread(watch: Arc<Watch>, stop: CancellationToken) -> Result<(), Error> {
    let runtime = tokio::runtime::Handle::current();
    let (done, finished) = oneshot::channel();
    let thread = std::thread::Builder::new().name("ipc".into()).spawn(move || {
        let connection = stop.run_until_cancelled(watch.connection());
        let _ = done.send(runtime.block_on(connection).unwrap_or(Ok(())));
    });
    thread.map_err(Error::Connect)?;
    // The library has checks that a node can make fail. That must end no more than its connection.
    finished.await.unwrap_or(Err(Error::Crashed))
}

impl Watch {
    /// One that nothing is known of.
    pub(super) fn new(settings: Settings, publisher: Publisher) -> Arc<Self> {
        Arc::new(Watch {
            settings,
            metrics: Metrics::new(),
            publisher: Mutex::new(publisher),
            trouble: Mutex::default(),
            stopping: Mutex::default(),
        })
    }

    /// Watches the node until `stop`.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) -> Result<(), RunError> {
        while !stop.is_cancelled() {
            if self.is_left_alone() {
                let _ = stop.run_until_cancelled(sleep(self.settings.pauses.away)).await;
                continue;
            }
            let outcome = on_a_thread(self.clone(), stop.clone()).await;
            self.metrics.disconnected();
            let Err(error) = outcome else { continue };
            self.metrics.failed(&error);
            let pause = self.trouble().tell(&error, &self.settings.pauses);
            let _ = stop.run_until_cancelled(sleep(pause)).await;
        }
        Ok(())
    }

    /// Connects, and tells of tips until that fails, or the connection has been used enough.
    async fn connection(&self) -> Result<(), Error> {
        let begin = Instant::now();
        let place = self.settings.place().map_err(Error::Connect)?;
        let socket = Socket::at(&place.path);
        let stream = UnixStream::connect(&place.path).await.map_err(Error::Connect)?;
        let listener = stream.peer_cred().map_err(Error::Connect)?;
        if self.settings.access.as_ref().is_some_and(|access| access.uid() != listener.uid()) {
            return Err(Error::Stranger { uid: listener.uid() });
        }
        let pid = listener.pid().filter(|pid| *pid > 0);
        let started = Peer { pid, socket: &place.path }.started().ok_or(Error::Starting)?;
        self.metrics.fetched(Method::Connect, begin.elapsed());
        let (mut system, init) = speak(stream);
        let tips = async {
            let client = Client::open(init, self.settings.limit, &self.metrics).await?;
            self.tips(&client, &started).await
        };
        tokio::pin!(tips);
        let outcome = tokio::select! {
            outcome = &mut tips => outcome,
            // What was asked for fails then, and says why.
            _ = &mut system => {
                let closed = Err(Error::Closed { method: Method::Connect });
                timeout(PACE, tips).await.unwrap_or(closed)
            }
        };
        if let Err(Error::Stopping) = outcome {
            *self.stopping() = socket.map(|socket| (socket, Instant::now() + LONGEST_STOP));
        }
        outcome
    }

    /// Whether the node that listens is one that said that it stops.
    fn is_left_alone(&self) -> bool {
        self.stopping().as_ref().is_some_and(|(socket, until)| {
            let there = self.settings.place().ok().and_then(|place| Socket::at(&place.path));
            Instant::now() < *until && there.as_ref() == Some(socket)
        })
    }

    fn stopping(&self) -> MutexGuard<'_, Option<(Socket, Instant)>> {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of tips for as long as a connection is used.
    async fn tips(&self, client: &Client<'_>, started: &Started) -> Result<(), Error> {
        let (mut method, mut tip) = (Method::GetTip, client.tip().await?);
        self.trouble().is_over(client);
        self.metrics.connected(client.schema());
        let mut told: Option<(Tip, Instant)> = None;
        let mut can_wait = true;
        for _ in 0..CALLS {
            let time_ns = now_ns();
            let is_due = |tip: &Tip| match &told {
                Some((last, at)) => last != tip || at.elapsed() >= self.settings.every,
                None => true,
            };
            if let Some(tip) = tip.filter(is_due) {
                self.publish(method, time_ns, &tip);
                told = Some((tip, Instant::now()));
            }
            sleep(PACE).await;
            if started.is_over() {
                return Err(Error::Stopping);
            }
            (method, tip) = self.next(client, told.as_ref(), &mut can_wait).await?;
        }
        Ok(())
    }

    /// The tip, when it is another one or has to be told again, and what brought it.
    async fn next(
        &self,
        client: &Client<'_>,
        told: Option<&(Tip, Instant)>,
        can_wait: &mut bool,
    ) -> Result<(Method, Option<Tip>), Error> {
        let every = self.settings.every;
        let Some((tip, at)) = told else {
            sleep(every.min(PAUSES.away)).await;
            return Ok((Method::GetTip, client.tip().await?));
        };
        let due = *at + every;
        if *can_wait {
            let left = due.saturating_duration_since(Instant::now());
            match client.changed(tip, left.min(LONGEST_WAIT)).await {
                Ok(tip) => return Ok((Method::WaitTipChanged, Some(tip))),
                Err(Error::Unknown { .. }) => {
                    tracing::warn!(?every, "the node cannot say when its tip changes, asking for it");
                    *can_wait = false;
                }
                Err(error) => return Err(error),
            }
        }
        sleep_until(due).await;
        Ok((Method::GetTip, client.tip().await?))
    }

    fn publish(&self, method: Method, time_ns: u64, tip: &Tip) {
        self.metrics.published(method);
        let hash = Bytes::copy_from_slice(&tip.hash);
        let tip = IpcEvent::BlockTip(BlockTip { height: tip.height, hash });
        let event = PeerObserverEvent::IpcExtractor(Ipc { ipc_event: Some(tip) });
        let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        publisher.publish(&self.settings.name, time_ns, event);
    }
}

/// What is wrong with the node. Told when it begins, becomes something else, and ends.
#[derive(Debug, Default)]
struct Trouble {
    last: Option<std::mem::Discriminant<Error>>,
    /// Connections in a row that brought nothing.
    failures: u32,
}

impl Trouble {
    /// Says for how long to leave the node alone.
    fn tell(&mut self, error: &Error, pauses: &Pauses) -> Duration {
        let kind = std::mem::discriminant(error);
        if self.last.replace(kind) == Some(kind) {
            tracing::debug!(%error, "still no tips");
        } else {
            tracing::warn!(%error, "trying again until it works");
        }
        let most = match error {
            Error::Connect(_) | Error::Starting | Error::Closed { .. } | Error::Stopping => pauses.away,
            _ => pauses.odd,
        };
        let pause = pauses.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        pause.min(most)
    }

    fn is_over(&mut self, client: &Client<'_>) {
        *self = Trouble::default();
        tracing::info!(schema = client.schema().version(), "watching the node's tip over ipc");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_for_a_node_that_is_away_and_to_a_minute_for_an_odd_one() {
        let away = || Error::Connect(std::io::ErrorKind::NotFound.into());
        let odd = || Error::Late { method: Method::GetTip, limit: Duration::ZERO };
        for (error, expected) in [
            (&away as &dyn Fn() -> Error, [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000]),
            (&odd, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]),
        ] {
            let mut trouble = Trouble::default();
            for ms in expected {
                assert_eq!(trouble.tell(&error(), &PAUSES), Duration::from_millis(ms));
            }
            trouble.failures = u32::MAX;
            assert!(trouble.tell(&error(), &PAUSES) >= PAUSES.away);
        }
    }
}
