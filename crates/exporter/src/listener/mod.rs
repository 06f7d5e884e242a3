//! Accepts connections so that no client keeps others out: for the metrics, the live page and the
//! P2P port.
//!
//! Clients of this machine all come from loopback addresses, so the kernel is asked whose socket is
//! at the other end of a connection. That reads `/proc`, on a thread of its own and once for all
//! connections that arrive meanwhile.

mod slots;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use peer_observer_node::sockets;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use slots::{Busy, GiveUp, Slot, Slots, Source};

use crate::throttle::Throttle;
use crate::worker::Worker;

/// Connections of a listener whose client is looked up at once. Others wait in the kernel's queue.
const MAX_ARRIVING: usize = 64;
/// Lookups that wait at once, of all listeners.
const MAX_LOOKUPS: usize = 1024;
/// Wait after a failure to accept that concerns more than one connection: until a connection that
/// has to close has done so, and where there is none.
const SHED: Duration = Duration::from_millis(10);
const BACKOFF: Duration = Duration::from_millis(200);

/// Finds the users of connections; see [`sockets::client_users`].
static USERS: LazyLock<Worker<(SocketAddr, SocketAddr), Option<u32>>> =
    LazyLock::new(|| Worker::start("socket-users", MAX_LOOKUPS, sockets::client_users));

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// [`Service::allows`] says no.
    NotAllowed,
    /// All slots are taken, and none has to be given up for it.
    Full,
}

/// An accepted connection. It has to be closed when its slot is revoked.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub stream: TcpStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// Its permission to exist.
    pub slot: Slot,
}

/// What connections are for.
pub trait Service: Send + Sync + 'static {
    /// Whether clients may connect from there at all.
    fn allows(&self, _client: IpAddr) -> bool {
        true
    }

    /// A connection was closed at once.
    fn refused(&self, client: SocketAddr, why: Refusal) {
        tracing::debug!(%client, ?why, "refused a connection");
    }

    /// Serves a connection to its end. It is dropped when its slot is revoked.
    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send;
}

/// Accepts connections until `stop`, and returns those that are still open.
pub async fn accept(
    listener: TcpListener,
    slots: Arc<Slots>,
    service: Arc<impl Service>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let arriving = Arc::new(Semaphore::new(MAX_ARRIVING));
    let mut connections = JoinSet::new();
    let mut failures = Throttle::default();
    let mut resume = Instant::now();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return connections,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection failed, please report this");
                }
                continue;
            }
            accepted = next(&listener, &arriving, resume) => accepted,
        };
        match accepted {
            Ok((stream, client, place)) if service.allows(client.ip()) => {
                connections.spawn(serve(stream, client, place, slots.clone(), service.clone()));
            }
            Ok((_, client, _)) => service.refused(client, Refusal::NotAllowed),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if let Some(times) = failures.due() {
                    tracing::warn!(%error, times, "cannot accept connections, trying again");
                }
                resume = Instant::now() + if slots.shed() { SHED } else { BACKOFF };
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    arriving: &Arc<Semaphore>,
    resume: Instant,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    tokio::time::sleep_until(resume).await;
    let place = arriving.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    Ok((stream, client, place))
}

/// The client gave up while it waited (accept(2)).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    slots: Arc<Slots>,
    service: Arc<impl Service>,
) {
    let source = source(&stream, peer).await;
    let slot = slots.admit(source);
    drop(place);
    match slot {
        Some(slot) => service.serve(Connection { stream, peer, slot }).await,
        None => service.refused(peer, Refusal::Full),
    }
}

/// Where a connection comes from. A client of this machine may also use one of the machine's other
/// addresses.
async fn source(stream: &TcpStream, peer: SocketAddr) -> Source {
    let Ok(own) = stream.local_addr() else { return Source::of(peer.ip()) };
    let client = peer.ip().to_canonical();
    if !client.is_loopback() && client != own.ip().to_canonical() {
        return Source::of(client);
    }
    USERS.ask((peer, own)).await.flatten().map_or(Source::Local, Source::User)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn loopback_client_is_its_user_from_any_address() {
        let user = std::fs::metadata("/proc/self").unwrap().uid();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in ["127.0.0.1", "127.0.0.2", "127.255.0.1"] {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
            let client = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            assert_eq!(source(&stream, peer).await, Source::User(user), "{address}");
            drop(client);
            assert_eq!(source(&stream, peer).await, Source::Local, "{address}, closed");
        }
    }
}
