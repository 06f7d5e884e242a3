//! Serves the metrics page over HTTP.
//!
//! Everything is bounded: the number of connections, the time each may be idle and may last, and what a client can make us read.
//! A scraper may keep its connection; when there are many, idle ones make room for others by their time limit.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, VARY,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::render::Format;

/// Connections at once. Further ones wait until one ends.
const MAX_CONNECTIONS: usize = 64;
/// Time a client has to send its request, and between one request and the next.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a connection lasts at most. A scraper connects again then; one that reads too slowly is rid of.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Time that answers in progress have when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a request that are read at most; hyper wants 8 KiB or more.
const MAX_REQUEST: usize = 16 * 1024;
/// Pages shorter than this are not compressed, bytes.
const MIN_COMPRESSED: usize = 1024;

/// An address that metrics cannot be served at.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {source}; if another program has that port, choose one with {flag}"
)]
pub struct BindError {
    address: String,
    flag: &'static str,
    source: io::Error,
}

/// Listens for those who want metrics. `flag` is how a user sets the address.
///
/// # Errors
/// When the address is none, or is in use.
pub async fn bind(address: &str, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address: address.into(), flag, source })
}

/// Refuses what [`bind`] could never listen on, without listening.
///
/// # Errors
/// When the address is none.
pub fn check_address(address: &str, flag: &'static str) -> Result<(), BindError> {
    let found = address.to_socket_addrs();
    found.map(|_| ()).map_err(|source| BindError { address: address.into(), flag, source })
}

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// The metrics page.
    fn page(&self, format: Format) -> String;

    /// Clients that ask for OpenMetrics get it.
    fn openmetrics(&self) -> bool {
        false
    }

    /// Whether what is counted is worth reading already; if not, why.
    ///
    /// # Errors
    /// One sentence for a person.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<F: Fn() -> String + Send + Sync + 'static> Site for F {
    fn page(&self, _format: Format) -> String {
        self()
    }
}

/// Serves a site until `stop`: the page at `/` and `/metrics`, `ok` at `/healthz`, and at `/readyz` whether it is ready.
pub async fn serve(listener: TcpListener, site: impl Site, stop: CancellationToken) {
    let site = Arc::new(site);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let site = site.clone();
        let stop = stop.clone();
        connections.spawn(async move {
            let _slot = slot;
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, site, stop)).await;
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "metrics connection failed"),
                Err(_) => tracing::debug!("metrics connection took too long"),
            }
        });
    }
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, rest).await.is_err() {
        tracing::debug!("metrics connections cut off");
    }
}

/// The next connection, once there is a slot for it. Nothing when there is none to be had: whoever asks may ask again.
pub async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, mostly: there is no use in trying again at once.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer(stream: TcpStream, site: Arc<impl Site>, stop: CancellationToken) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(respond(&request, site).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn respond(request: &Request<Incoming>, site: Arc<impl Site>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" | "/metrics" => metrics(request, site).await,
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => match site.ready() {
            Ok(()) => plain(StatusCode::OK, "ready\n".into()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
    }
}

async fn metrics(request: &Request<Incoming>, site: Arc<impl Site>) -> Response<Full<Bytes>> {
    let openmetrics = site.openmetrics() && accepts(request, &ACCEPT, "application/openmetrics-text");
    let format = if openmetrics { Format::OpenMetrics } else { Format::Text };
    let compress = accepts(request, &ACCEPT_ENCODING, "gzip");
    // A page of megabytes takes its time: the connections of others go on meanwhile.
    let made = tokio::task::spawn_blocking(move || {
        let page = site.page(format);
        if !compress || page.len() < MIN_COMPRESSED {
            return (page.into_bytes(), false);
        }
        match gzip(page.as_bytes()) {
            Ok(compressed) => (compressed, true),
            Err(_) => (page.into_bytes(), false),
        }
    });
    let Ok((body, compressed)) = made.await else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n".into());
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzip(page: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}

/// The client lists this value in a header, and does not rule it out with `q=0`.
fn accepts(request: &Request<Incoming>, header: &HeaderName, value: &str) -> bool {
    let lists = request.headers().get_all(header).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case(value))
            && !parts
                .any(|parameter| matches!(parameter.split_once('='), Some(("q", q)) if q.parse() == Ok(0.0)))
    })
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(Format::Text.content_type());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(page: &'static str) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, move || page.to_owned(), stop.clone()));
        (address, stop, server)
    }

    /// The answer to a request, which is made to be the last of its connection.
    async fn get(address: SocketAddr, request: &str) -> String {
        String::from_utf8(get_bytes(address, request).await).unwrap()
    }

    async fn get_bytes(address: SocketAddr, request: &str) -> Vec<u8> {
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_is_at_two_paths_and_nowhere_else() {
        let (address, ..) = start("a 1\n").await;
        for path in ["/", "/metrics", "/metrics?x=y"] {
            let answer = get(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
            assert!(head.contains("content-length: 4"), "{answer}");
            assert_eq!(body, "a 1\n");
        }
        for (request, status) in [
            ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = get(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
        let answer = get(address, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.contains("content-length: 4") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    struct Starting;

    impl Site for Starting {
        fn page(&self, format: Format) -> String {
            format!("{format:?}\n").repeat(300)
        }

        fn openmetrics(&self) -> bool {
            true
        }

        fn ready(&self) -> Result<(), String> {
            Err("no event yet".into())
        }
    }

    async fn start_site(site: impl Site) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, site, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn what_is_alive_need_not_be_ready() {
        let address = start_site(Starting).await;
        let answer = get(address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no event yet\n"), "{answer}");
        let answer = get(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn openmetrics_is_for_those_who_ask_where_it_is_offered() {
        let offered = start_site(Starting).await;
        let (plain, ..) = start("a 1\n").await;
        let ask = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.75,*/*\r\n\r\n";
        let refuse = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;q=0\r\n\r\n";
        assert!(
            get(offered, ask).await.contains("content-type: application/openmetrics-text; version=1.0.0")
        );
        for (address, request) in
            [(plain, ask), (offered, refuse), (offered, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")]
        {
            assert!(get(address, request).await.contains("content-type: text/plain; version=0.0.4"));
        }
    }

    #[tokio::test]
    async fn a_page_is_compressed_for_those_who_can_read_that() {
        let address = start_site(Starting).await;
        let answer =
            get_bytes(address, "GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br, gzip;q=0.5\r\n\r\n").await;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]);
        assert!(head.contains("content-encoding: gzip"), "{head}");
        let mut page = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer[end + 4..]), &mut page)
            .unwrap();
        assert_eq!(page, "Text\n".repeat(300));
    }

    #[tokio::test]
    async fn a_scraper_may_keep_its_connection() {
        let (address, ..) = start("a 1\n").await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"a 1\n") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
            }
        }
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let (address, ..) = start("a 1\n").await;
        let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(2 * MAX_REQUEST));
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_silent_client_blocks_nobody() {
        let (address, ..) = start("a 1\n").await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let scrapes = (0..20).map(|_| tokio::spawn(get(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")));
        for scrape in scrapes.collect::<Vec<_>>() {
            assert!(scrape.await.unwrap().ends_with("a 1\n"));
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_sent_away_in_time() {
        let (address, ..) = start("a 1\n").await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        tokio::time::pause();
        let mut rest = Vec::new();
        let limit = REQUEST_TIMEOUT + Duration::from_secs(1);
        let ended = tokio::time::timeout(limit, silent.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still connected after {limit:?}");
    }

    #[tokio::test]
    async fn a_stop_ends_it_also_with_clients_connected() {
        let (address, stop, server) = start("a 1\n").await;
        let _silent = TcpStream::connect(address).await.unwrap();
        assert!(get(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ends_with("a 1\n"));
        tokio::time::pause();
        stop.cancel();
        tokio::time::timeout(2 * STOP_TIMEOUT, server).await.unwrap().unwrap();
    }
}
