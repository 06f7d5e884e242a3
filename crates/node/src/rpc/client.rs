//! Calls methods over HTTP/1.1.
//!
//! Connections are kept for the next call, at most as many as the limits say; who wants one more waits. A kept connection that the
//! node has closed meanwhile is replaced once, unnoticed. Every call asks only for what can be asked for twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Answer, Error, Login, answer};

/// Bytes of a head of an answer that are read at most; hyper wants 8 KiB or more.
const MAX_HEAD: usize = 64 * 1024;

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

/// Calls methods of one node.
#[derive(Debug)]
pub struct Client {
    host: String,
    login: Login,
    limits: Limits,
    slots: Semaphore,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    header: Mutex<Option<HeaderValue>>,
    calls: AtomicU64,
}

/// The right to make calls, one after another.
#[derive(Debug)]
pub struct Connection<'a> {
    client: &'a Client,
    _slot: SemaphorePermit<'a>,
}

impl Client {
    /// A client for the node at `host`, HOST:PORT. Connects when a call is made.
    pub fn new(host: String, login: Login, limits: Limits) -> Arc<Self> {
        Arc::new(Client {
            host,
            login,
            limits,
            slots: Semaphore::new(limits.connections),
            idle: Mutex::default(),
            header: Mutex::default(),
            calls: AtomicU64::new(0),
        })
    }

    /// A place for calls, once there is one.
    pub async fn connection(&self) -> Connection<'_> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        Connection { client: self, _slot: slot }
    }

    async fn call(&self, method: &str, params: &Value) -> Result<Answer, Error> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from(answer::call(id, method, params));
        let header = match self.known_header() {
            Some(header) => header,
            None => self.read_header()?,
        };
        let (status, read) = self.exchange(method, &header, body.clone()).await?;
        if status != 401 {
            return answer::read(&self.host, method, id, status, &read);
        }
        // A node that was started again has a new cookie.
        let renewed = self.read_header()?;
        if renewed == header {
            return answer::read(&self.host, method, id, status, &read);
        }
        let (status, read) = self.exchange(method, &renewed, body).await?;
        answer::read(&self.host, method, id, status, &read)
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
    async fn exchange(
        &self,
        method: &str,
        header: &HeaderValue,
        body: Bytes,
    ) -> Result<(u16, Vec<u8>), Error> {
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
        let stream = TcpStream::connect(&self.host)
            .await
            .map_err(|source| Error::Connect { host: self.host.clone(), source })?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::Broken { method: method.to_owned(), source })?;
        // Ends when the sender is dropped or the node closes the connection.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, header: &HeaderValue, body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
        Request::post("/")
            .header(HOST, &self.host)
            .header(AUTHORIZATION, header)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Error::Connect {
                host: self.host.clone(),
                source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
            })
    }

    async fn read_body(&self, method: &str, response: Response<Incoming>) -> Result<Vec<u8>, Error> {
        let limit = self.limits.answer_bytes;
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| Error::Broken { method: method.to_owned(), source })?;
            let Some(data) = frame.data_ref() else { continue };
            if data.len() > limit - read.len() {
                return Err(Error::TooLarge { method: method.to_owned(), limit });
            }
            read.extend_from_slice(data);
        }
        Ok(read)
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
