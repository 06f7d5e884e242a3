//! Calls methods over HTTP/1.1.
//!
//! Connections are kept for the next call, at most as many as the limits say; who wants one more waits. Calls that may take long leave
//! one to the others. A kept connection that the
//! node has closed meanwhile is replaced once, unnoticed. Every call asks only for what can be asked for twice.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{Answer, Error, Login, answer};
use crate::sockets;

/// Lookups of who listens somewhere, at once: each reads the kernel's list of sockets on a thread of
/// the pool that the whole program shares.
static LOOKUPS: Semaphore = Semaphore::const_new(1);

/// Bytes of a head of an answer that are read at most; hyper wants 8 KiB or more.
const MAX_HEAD: usize = 64 * 1024;

/// An answer beyond this is a large one, bytes: see [`LargeAnswers`].
const LARGE: usize = 256 * 1024;
/// Large answers of nodes of root, at once.
const LARGE_OF_ROOT: usize = 64;

/// The right to have a large answer in memory. A user can run any number of nodes that answer with as much as an answer may
/// have, and what is made of an answer takes a multiple of it. So the nodes of one user other than root have one at a time.
#[derive(Debug, Clone)]
pub struct LargeAnswers(Arc<Semaphore>);

impl LargeAnswers {
    /// Of the nodes of this user, together.
    pub fn of_user(uid: u32) -> Self {
        static USERS: Mutex<BTreeMap<u32, Weak<Semaphore>>> = Mutex::new(BTreeMap::new());
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, slots| slots.strong_count() > 0);
        if let Some(slots) = users.get(&uid).and_then(Weak::upgrade) {
            return LargeAnswers(slots);
        }
        let slots = Arc::new(Semaphore::new(if uid == 0 { LARGE_OF_ROOT } else { 1 }));
        users.insert(uid, Arc::downgrade(&slots));
        LargeAnswers(slots)
    }
}

/// A login that was refused is not tried again for so long: the node delays all calls a little for each, and logs it.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a call, from connecting to the last byte.
    pub timeout: Duration,
    /// Bytes of an answer.
    pub answer_bytes: usize,
}

/// A node that was found, rather than named by whoever runs this.
#[derive(Debug, Clone)]
pub struct FoundNode {
    /// It shares the right to large answers with others.
    pub large: LargeAnswers,
    /// The user who has to listen at its address, other than root; `None` for a node in another
    /// network namespace, where the kernel does not say who does.
    pub listener: Option<u32>,
}

/// Calls methods of one node.
#[derive(Debug)]
pub struct Client {
    host: String,
    login: Login,
    limits: Limits,
    slots: Semaphore,
    /// Of these, those that calls may have that take long.
    slow_slots: Semaphore,
    found: Option<FoundNode>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    header: Mutex<Option<HeaderValue>>,
    refused: Mutex<Option<(HeaderValue, Instant)>>,
    calls: AtomicU64,
}

/// What a node answered.
struct Body {
    bytes: Vec<u8>,
    large: Option<OwnedSemaphorePermit>,
}

/// The right to make calls, one after another.
#[derive(Debug)]
pub struct Connection<'a> {
    client: &'a Client,
    _slow_slot: Option<SemaphorePermit<'a>>,
    _slot: SemaphorePermit<'a>,
}

impl Client {
    /// A client for the node at `host`, HOST:PORT. Connects when a call is made.
    pub fn new(host: String, login: Login, limits: Limits) -> Arc<Self> {
        Self::with(host, login, limits, None)
    }

    /// [`Client::new`] for a node that was found.
    pub fn of_found(host: String, login: Login, limits: Limits, found: FoundNode) -> Arc<Self> {
        Self::with(host, login, limits, Some(found))
    }

    fn with(host: String, login: Login, limits: Limits, found: Option<FoundNode>) -> Arc<Self> {
        Arc::new(Client {
            host,
            login,
            limits,
            slots: Semaphore::new(limits.connections),
            slow_slots: Semaphore::new(limits.connections.saturating_sub(1).max(1)),
            found,
            idle: Mutex::default(),
            header: Mutex::default(),
            refused: Mutex::default(),
            calls: AtomicU64::new(0),
        })
    }

    /// A place for calls, once there is one. The wait for it is not within the time limit of a call.
    pub async fn connection(&self) -> Connection<'_> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        Connection { client: self, _slow_slot: None, _slot: slot }
    }

    /// The same for calls that may take long: all of them together leave one place to the others.
    pub async fn slow_connection(&self) -> Connection<'_> {
        let slow_slot = self.slow_slots.acquire().await.expect("the semaphore is never closed");
        Connection { _slow_slot: Some(slow_slot), ..self.connection().await }
    }

    async fn call(&self, method: &str, params: &Value) -> Result<Answer, Error> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from(answer::call(id, method, params));
        let header = match self.known_header() {
            Some(header) if !self.is_refused(&header) => header,
            _ => self.read_header()?,
        };
        if self.is_refused(&header) {
            return Err(Error::Unauthorized { host: self.host.clone() });
        }
        let (status, read) = self.exchange(method, &header, body.clone()).await?;
        if status != 401 {
            let answer = answer::read(&self.host, method, id, status, &read.bytes);
            return answer.map(|answer| answer.with_permit(read.large));
        }
        self.remember_refused(&header);
        // A node that was started again has a new cookie.
        let renewed = self.read_header()?;
        if renewed == header {
            return answer::read(&self.host, method, id, status, &read.bytes);
        }
        let (status, read) = self.exchange(method, &renewed, body).await?;
        if status == 401 {
            self.remember_refused(&renewed);
        }
        let answer = answer::read(&self.host, method, id, status, &read.bytes);
        answer.map(|answer| answer.with_permit(read.large))
    }

    fn is_refused(&self, header: &HeaderValue) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().is_some_and(|(refused, at)| refused == header && at.elapsed() < AFTER_REFUSAL)
    }

    fn remember_refused(&self, header: &HeaderValue) {
        let refused = (header.clone(), Instant::now());
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
    }

    fn known_header(&self) -> Option<HeaderValue> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_header(&self) -> Result<HeaderValue, Error> {
        let header = self.login.header()?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(header.clone());
        Ok(header)
    }

    /// Posts a body, and gives status and body of the answer.
    async fn exchange(&self, method: &str, header: &HeaderValue, body: Bytes) -> Result<(u16, Body), Error> {
        let broken = |source| Error::Broken { method: method.to_owned(), source };
        let mut kept = self.take_idle();
        let (mut sender, response) = loop {
            let is_kept = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.connect(method).await?,
            };
            let request = self.request(header, body.clone())?;
            match sender.send_request(request).await {
                Ok(response) => break (sender, response),
                // The node closed it while it was idle, or has ended since: others will not be better.
                Err(_) if is_kept => self.forget_idle(),
                Err(source) => return Err(broken(source)),
            }
        };
        let status = response.status().as_u16();
        let read = self.read_body(method, response).await?;
        if sender.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok((status, read))
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn connect(&self, method: &str) -> Result<SendRequest<Full<Bytes>>, Error> {
        let stream = TcpStream::connect(&self.host).await.map_err(|source| self.cannot_connect(source))?;
        if let Some(listener) = self.found.as_ref().and_then(|found| found.listener) {
            self.check_listener(&stream, listener).await?;
        }
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::Broken { method: method.to_owned(), source })?;
        // Ends when the sender is dropped or the node closes the connection.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Refuses a connection to anybody but this user and root. Nothing has been sent on it yet.
    async fn check_listener(&self, stream: &TcpStream, allowed: u32) -> Result<(), Error> {
        let addresses = stream.local_addr().and_then(|from| Ok((from, stream.peer_addr()?)));
        let (from, to) = addresses.map_err(|source| self.cannot_connect(source))?;
        let permit = LOOKUPS.acquire().await.expect("the semaphore is never closed");
        let looked_up = tokio::task::spawn_blocking(move || {
            // Kept until the end of the lookup, also when nobody waits for it any more.
            let _permit = permit;
            sockets::server_users(from, to)
        });
        let users = looked_up.await.map_err(|error| self.cannot_connect(io::Error::other(error)))?;
        if users.is_empty() {
            return Err(self.cannot_connect(io::Error::other("the kernel does not say who listens there")));
        }
        match users.into_iter().find(|uid| *uid != allowed && *uid != 0) {
            Some(uid) => Err(Error::Stranger { host: self.host.clone(), uid }),
            None => Ok(()),
        }
    }

    fn cannot_connect(&self, source: io::Error) -> Error {
        Error::Connect { host: self.host.clone(), source }
    }

    fn request(&self, header: &HeaderValue, body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
        Request::post("/")
            .header(HOST, &self.host)
            .header(AUTHORIZATION, header)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.cannot_connect(io::Error::new(io::ErrorKind::InvalidInput, error)))
    }

    async fn read_body(&self, method: &str, response: Response<Incoming>) -> Result<Body, Error> {
        let limit = self.limits.answer_bytes;
        let mut body = response.into_body();
        let (mut read, mut large) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| Error::Broken { method: method.to_owned(), source })?;
            let Some(data) = frame.data_ref() else { continue };
            if data.len() > limit - read.len() {
                return Err(Error::TooLarge { method: method.to_owned(), limit });
            }
            if read.len() + data.len() > LARGE
                && large.is_none()
                && let Some(found) = &self.found
            {
                // Meanwhile the node waits, not we: it is not read from.
                large = found.large.0.clone().acquire_owned().await.ok();
            }
            read.extend_from_slice(data);
        }
        Ok(Body { bytes: read, large })
    }
}

impl Connection<'_> {
    /// Calls a method: `call("getorphantxs", &json!([2]))`.
    ///
    /// # Errors
    /// When there is no result within the limits.
    pub async fn call(&self, method: &str, params: &Value) -> Result<Answer, Error> {
        let limit = self.client.limits.timeout;
        match tokio::time::timeout(limit, self.client.call(method, params)).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::Timeout { method: method.to_owned(), limit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_testkit::fake_rpc::{Behaviour, EVERYTHING, FakeRpc};
    use peer_observer_testkit::{LONG, data_dir, need, require};
    use serde_json::json;

    use super::super::LoginFile;
    use super::*;

    const LIMITS: Limits = Limits { connections: 3, timeout: LONG, answer_bytes: 1_000_000 };

    fn server() -> FakeRpc {
        let server = FakeRpc::start("u:p").unwrap();
        server.play(&data_dir().join("rpc-samples")).unwrap();
        server
    }

    fn client(server: &FakeRpc, limits: Limits) -> Arc<Client> {
        let login = Login::Password { user: "u".into(), password: "p".into() };
        Client::new(server.addr().to_string(), login, limits)
    }

    async fn uptime(client: &Client) -> Result<String, Error> {
        let answer = client.connection().await.call("uptime", &json!([])).await?;
        Ok(answer.json().to_owned())
    }

    #[tokio::test]
    async fn everything_that_goes_wrong_is_told_apart_and_over_when_it_is_over() {
        let server = server();
        let client = client(&server, LIMITS);
        let cases = [
            (Behaviour::Status(503), "work queue"),
            (Behaviour::Status(403), "rpcwhitelist"),
            (Behaviour::Status(500), "HTTP status 500"),
            (Behaviour::Refuse(-28, "Loading block index…"), "Loading block index… (code -28)"),
            (Behaviour::Refuse(-32601, "Method not found"), "Method not found"),
            (Behaviour::Partial, "connection broke"),
            (Behaviour::Close, "connection broke"),
            (Behaviour::Noise, "connection broke"),
            (Behaviour::Garbage, "cannot be understood"),
            (Behaviour::Oversized(1_000_001), "larger than 1000000 bytes"),
        ];
        for (behaviour, expected) in cases {
            server.behave(EVERYTHING, behaviour.clone());
            let error = uptime(&client).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{behaviour:?}: {error}");
            server.heal();
            assert_eq!(uptime(&client).await.unwrap(), "77", "after {behaviour:?}");
        }
    }

    #[tokio::test]
    async fn redirects_are_errors_and_not_followed() {
        let (server, other) = (server(), server());
        let client = client(&server, LIMITS);
        for status in [301, 302, 303, 307, 308] {
            let url = format!("http://u:p@{}/", other.addr());
            server.behave(EVERYTHING, Behaviour::Redirect(status, url));
            let error = uptime(&client).await.unwrap_err();
            assert!(error.to_string().contains(&format!("HTTP status {status}")), "{error}");
        }
        assert_eq!(server.calls("uptime"), 5);
        assert_eq!(other.most_connections(), 0);
    }

    #[tokio::test]
    async fn endless_answers_end_with_the_limits() {
        let server = server();
        server.behave(EVERYTHING, Behaviour::Endless(64 * 1024, Duration::ZERO));
        let error = uptime(&client(&server, LIMITS)).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");

        server.behave(EVERYTHING, Behaviour::Endless(1, Duration::from_millis(10)));
        let impatient = client(&server, Limits { timeout: Duration::from_secs(1), ..LIMITS });
        let error = uptime(&impatient).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn user_has_one_large_answer_at_a_time() {
        const USER: u32 = 54_321;
        let server = server();
        let large = format!("[\"{}\"]", "x".repeat(2 * LARGE));
        server.behave("getpeerinfo", Behaviour::Answer(large));
        let login = || Login::Password { user: "u".into(), password: "p".into() };
        let of = |uid| {
            let found = FoundNode { large: LargeAnswers::of_user(uid), listener: None };
            Client::of_found(server.addr().to_string(), login(), LIMITS, found)
        };
        let ask =
            async |client: &Client| client.connection().await.call("getpeerinfo", &json!([])).await.unwrap();
        let (one, other, root) = (of(USER), of(USER), of(0));
        let held = ask(&one).await;
        let waiting = tokio::spawn(async move { ask(&other).await });
        while server.calls("getpeerinfo") < 2 {
            tokio::task::yield_now().await;
        }
        // Small answers of the same user, and large ones of others, are not kept waiting.
        uptime(&one).await.unwrap();
        ask(&root).await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn stranger_at_the_address_of_a_found_node_is_sent_nothing() {
        require!(need::root());
        const NODE: u32 = 54_321;
        const NOBODY: u32 = 65_534;
        let client = |host: std::net::SocketAddr, listener| {
            let login = Login::Password { user: "u".into(), password: "p".into() };
            let found = FoundNode { large: LargeAnswers::of_user(NODE), listener };
            Client::of_found(host.to_string(), login, LIMITS, found)
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::os::unix::fs::fchown(&listener, Some(NOBODY), None).unwrap();
        let host = listener.local_addr().unwrap();
        let error = uptime(&client(host, Some(NODE))).await.unwrap_err();
        assert!(matches!(&error, Error::Stranger { uid: NOBODY, .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("user {NOBODY} listens at {host}")), "{error}");
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut received).unwrap();
        assert_eq!(received, b"");

        // Root may listen for anybody, and in another network namespace nobody can be named.
        let server = server();
        for listener in [Some(NODE), Some(0), None] {
            assert_eq!(uptime(&client(server.addr(), listener)).await.unwrap(), "77");
        }
    }

    #[tokio::test]
    async fn calls_share_few_connections_that_stay_open() {
        let server = server();
        let client = client(&server, LIMITS);
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { uptime(&client).await.unwrap() })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), "77");
        }
        for _ in 0..50 {
            uptime(&client).await.unwrap();
        }
        assert_eq!(server.calls("uptime"), 100);
        assert!(server.most_connections() <= 3, "{}", server.most_connections());
    }

    #[tokio::test]
    async fn a_slow_answer_ends_with_the_time_limit_and_delays_no_other_call() {
        const HOUR: Duration = Duration::from_secs(3600);
        let server = server();
        server.behave("getpeerinfo", Behaviour::Slow(HOUR));
        let ask = |client: Arc<Client>| async move {
            client.connection().await.call("getpeerinfo", &json!([])).await.map(|_| ())
        };
        let patient = client(&server, Limits { timeout: HOUR, ..LIMITS });
        let slow = tokio::spawn(ask(patient.clone()));
        for _ in 0..20 {
            uptime(&patient).await.unwrap();
        }
        assert!(!slow.is_finished());
        slow.abort();

        let impatient = client(&server, Limits { timeout: Duration::from_secs(1), ..LIMITS });
        assert!(matches!(ask(impatient.clone()).await, Err(Error::Timeout { .. })));
        // A busy machine may need more than the second for others, too.
        let deadline = tokio::time::Instant::now() + LONG;
        while uptime(&impatient).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "it does not go on");
        }
    }

    #[tokio::test]
    async fn a_restarted_node_with_a_new_cookie_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let cookie = dir.path().join(".cookie");
        std::fs::write(&cookie, "u:p").unwrap();
        let first = server();
        let addr = first.addr();
        let client = Client::new(addr.to_string(), Login::Cookie(LoginFile::of_ours(&cookie)), LIMITS);
        assert_eq!(uptime(&client).await.unwrap(), "77");

        drop(first);
        assert!(matches!(uptime(&client).await, Err(Error::Connect { .. })));
        let second = FakeRpc::start_at(addr, "u:new").unwrap();
        second.behave("uptime", Behaviour::Answer("1".into()));
        for _ in 0..5 {
            assert!(matches!(uptime(&client).await, Err(Error::Unauthorized { .. })));
        }
        assert_eq!(second.refused_logins(), 1, "a login that was refused is not tried again");
        std::fs::write(&cookie, "u:new").unwrap();
        assert_eq!(uptime(&client).await.unwrap(), "1");
    }

    #[tokio::test]
    async fn a_host_that_is_none_is_an_error() {
        for host in ["", "127.0.0.1", "127.0.0.1:1", "no host:8332"] {
            let login = Login::Password { user: "u".into(), password: "p".into() };
            let client = Client::new(host.into(), login, LIMITS);
            assert!(matches!(uptime(&client).await, Err(Error::Connect { .. })), "{host}");
        }
    }
}
