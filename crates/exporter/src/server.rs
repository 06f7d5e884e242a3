//! Serves the metrics page over HTTP.
//!
//! Everything is bounded: the number of connections, fairly among clients ([`crate::listener`]),
//! the time each may be idle and may last, and what a client can make us read. Pages are rendered
//! on a thread of their own, once for all clients that wait for the same.

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
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, VARY,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::host::Hosts;
use crate::listener::{self, Connection, GiveUp, Slots};
use crate::render::Format;
use crate::worker::Worker;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Time a client has to send its request, and between one request and the next.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a connection lasts at most. A scraper connects again then; slow readers are disconnected.
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

/// How users allow names for a metrics endpoint, besides addresses, `localhost` and the name of
/// this machine.
#[derive(Debug, Clone)]
pub struct Names {
    /// The names that are allowed.
    pub allowed: Vec<String>,
    /// The flag that allows one.
    pub flag: &'static str,
}

/// Serves a site until `stop`: the page at `/` and `/metrics`, `ok` at `/healthz`, and at `/readyz` whether it is ready.
pub async fn serve(listener: TcpListener, names: Names, site: impl Site, stop: CancellationToken) {
    let site = Arc::new(site);
    let pages = site.clone();
    let service = Arc::new(Service {
        hosts: Hosts::with_own_name(&names.allowed),
        flag: names.flag,
        site,
        renderer: Worker::start("metrics-renderer", MAX_CONNECTIONS, move |wanted: &[Wanted]| {
            render(&*pages, wanted)
        }),
        stop: stop.clone(),
    });
    let slots = Slots::new(MAX_CONNECTIONS, GiveUp::LeastRecentlyUsed);
    let mut connections = listener::accept(listener, slots, service, &stop).await;
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, rest).await.is_err() {
        tracing::debug!("metrics connections cut off");
    }
}

/// What the connections of a server share.
struct Service<S> {
    hosts: Hosts,
    flag: &'static str,
    site: Arc<S>,
    renderer: Worker<Wanted, Page>,
    stop: CancellationToken,
}

impl<S: Site> listener::Service for Service<S> {
    async fn serve(&self, connection: Connection) {
        let Connection { stream, slot, .. } = connection;
        let slot = &slot;
        let answer = service_fn(|request| async move {
            slot.establish();
            let _busy = slot.busy();
            Ok::<_, Infallible>(self.respond(&request).await)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .max_buf_size(MAX_REQUEST)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = slot.revoked() => return tracing::debug!("metrics connection closed for another client"),
            () = tokio::time::sleep(CONNECTION_TIMEOUT) => {
                return tracing::debug!("metrics connection took too long");
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "metrics connection failed");
        }
    }
}

impl<S: Site> Service<S> {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.is_ours(request) {
            let mut response = plain(
                StatusCode::MISDIRECTED_REQUEST,
                format!("this is not the host you asked for; allow its name with {}\n", self.flag),
            );
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" | "/metrics" => self.metrics(request).await,
            "/healthz" => plain(StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.site.ready() {
                Ok(()) => plain(StatusCode::OK, "ready\n".into()),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
        }
    }

    /// The request names one of our hosts. Health checks over HTTP/1.0 name none, which no browser
    /// does.
    fn is_ours(&self, request: &Request<Incoming>) -> bool {
        let unnamed = request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST);
        unnamed || self.hosts.named_by(request.headers()).is_some()
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let openmetrics =
            self.site.openmetrics() && accepts(request, &ACCEPT, "application/openmetrics-text");
        let format = if openmetrics { Format::OpenMetrics } else { Format::Text };
        let compressed = accepts(request, &ACCEPT_ENCODING, "gzip");
        let Some(page) = self.renderer.ask(Wanted { format, compressed }).await else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n".into());
        };
        let mut response = Response::new(Full::new(page.body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        if page.compressed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// What a client wants of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    format: Format,
    compressed: bool,
}

#[derive(Debug, Clone)]
struct Page {
    body: Bytes,
    compressed: bool,
}

/// The pages for clients that wait at the same time, each rendered once.
fn render(site: &impl Site, wanted: &[Wanted]) -> Vec<Page> {
    let mut texts: Vec<(Format, Bytes)> = Vec::new();
    let mut pages: Vec<(Wanted, Page)> = Vec::new();
    let mut page_of = |wanted: Wanted| {
        if let Some((_, page)) = pages.iter().find(|(rendered, _)| *rendered == wanted) {
            return page.clone();
        }
        let text = match texts.iter().find(|(format, _)| *format == wanted.format) {
            Some((_, text)) => text.clone(),
            None => {
                let text = Bytes::from(site.page(wanted.format));
                texts.push((wanted.format, text.clone()));
                text
            }
        };
        let compressed =
            (wanted.compressed && text.len() >= MIN_COMPRESSED).then(|| gzip(&text).ok()).flatten();
        let page = match compressed {
            Some(compressed) => Page { body: compressed.into(), compressed: true },
            None => Page { body: text, compressed: false },
        };
        pages.push((wanted, page.clone()));
        page
    };
    wanted.iter().map(|wanted| page_of(*wanted)).collect()
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
    use tokio::net::TcpStream;

    use super::*;

    const NAMES: Names = Names { allowed: Vec::new(), flag: "--metrics-host" };

    async fn start(page: &'static str) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, NAMES, move || page.to_owned(), stop.clone()));
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
            let answer = get(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
            assert!(head.contains("content-length: 4"), "{answer}");
            assert_eq!(body, "a 1\n");
        }
        for (request, status) in [
            ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
            ("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
            ("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = get(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
        let answer = get(address, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
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
        tokio::spawn(serve(listener, NAMES, site, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn what_is_alive_need_not_be_ready() {
        let address = start_site(Starting).await;
        let answer = get(address, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no event yet\n"), "{answer}");
        let answer = get(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn openmetrics_is_for_those_who_ask_where_it_is_offered() {
        let offered = start_site(Starting).await;
        let (plain, ..) = start("a 1\n").await;
        let ask = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.75,*/*\r\n\r\n";
        let refuse = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;q=0\r\n\r\n";
        assert!(
            get(offered, ask).await.contains("content-type: application/openmetrics-text; version=1.0.0")
        );
        for (address, request) in
            [(plain, ask), (offered, refuse), (offered, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")]
        {
            assert!(get(address, request).await.contains("content-type: text/plain; version=0.0.4"));
        }
    }

    #[tokio::test]
    async fn a_page_is_compressed_for_those_who_can_read_that() {
        let address = start_site(Starting).await;
        let answer = get_bytes(
            address,
            "GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: br, gzip;q=0.5\r\n\r\n",
        )
        .await;
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
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
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
        let scrapes =
            (0..20).map(|_| tokio::spawn(get(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")));
        for scrape in scrapes.collect::<Vec<_>>() {
            assert!(scrape.await.unwrap().ends_with("a 1\n"));
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_sent_away_in_time() {
        let (address, ..) = start("a 1\n").await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        // It is served as well once a later one is.
        get(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
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
        assert!(get(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ends_with("a 1\n"));
        tokio::time::pause();
        stop.cancel();
        tokio::time::timeout(2 * STOP_TIMEOUT, server).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn host_of_another_site_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = Names { allowed: vec!["metrics.example".into()], flag: "--metrics-host" };
        tokio::spawn(serve(listener, names, || "a 1\n".to_owned(), CancellationToken::new()));
        for path in ["/", "/metrics", "/healthz", "/readyz", "/other"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: rebound.example:8282\r\n\r\n");
            let answer = get(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("--metrics-host"), "{answer}");
            assert!(!answer.contains("a 1"), "{answer}");
        }
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: metrics.example:8282\r\n\r\n".to_owned(), "200"),
            (format!("GET / HTTP/1.1\r\nHost: {}:8282\r\n\r\n", own.trim()), "200"),
            ("GET / HTTP/1.1\r\nHost: 192.0.2.1:8282\r\n\r\n".to_owned(), "200"),
            ("GET / HTTP/1.1\r\nHost: [::1]:8282\r\n\r\n".to_owned(), "200"),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "421"),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".to_owned(), "421"),
            ("GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n".to_owned(), "421"),
        ] {
            let answer = get(address, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
        assert!(get(address, "GET / HTTP/1.0\r\n\r\n").await.contains(" 200 "), "a health check");
        assert!(get(address, "GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n").await.contains(" 421 "));
    }

    #[test]
    fn full_blocking_pool_delays_no_scrape() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
        let blocked = runtime.spawn_blocking(move || released.recv());
        let answer = runtime.block_on(async {
            let address = start_site(Starting).await;
            tokio::time::timeout(
                Duration::from_secs(60),
                get(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            )
            .await
        });
        assert!(answer.expect("an answer").starts_with("HTTP/1.1 200"));
        assert!(!blocked.is_finished());
        drop(release);
    }

    #[test]
    fn waiting_clients_share_one_rendering() {
        struct Counting(std::sync::atomic::AtomicUsize);
        impl Site for Counting {
            fn page(&self, format: Format) -> String {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                format!("{format:?}\n").repeat(300)
            }
        }
        let site = Counting(Default::default());
        let of = |format, compressed| Wanted { format, compressed };
        let wanted = [(Format::Text, true), (Format::OpenMetrics, false), (Format::Text, false)]
            .map(|(format, compressed)| of(format, compressed))
            .repeat(20);
        let pages = render(&site, &wanted);
        assert_eq!((pages.len(), site.0.load(std::sync::atomic::Ordering::Relaxed)), (60, 2));
        for (wanted, page) in wanted.iter().zip(&pages) {
            assert_eq!(page.compressed, wanted.compressed);
            assert_eq!(page.body.starts_with(b"OpenMetrics"), wanted.format == Format::OpenMetrics);
        }
    }

    #[tokio::test]
    async fn idle_connections_keep_nobody_out() {
        let (address, ..) = start("a 1\n").await;
        let mut idle = Vec::new();
        for i in 0..5 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
            if i % 20 == 0 {
                let answer = get(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                assert!(answer.ends_with("a 1\n"), "after {i}: {answer}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_user_cannot_keep_scrapers_out() {
        use peer_observer_testkit::{need, other_user, require};
        require!(need::root());
        let (address, ..) = start("a 1\n").await;
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _attacker = other_user::hold_connections(address, 2 * MAX_CONNECTIONS, request).unwrap();
        for i in 0..50 {
            assert!(get(address, request).await.ends_with("a 1\n"), "scrape {i}");
        }
        // Nor can it end a connection that a scraper keeps.
        let mut kept = TcpStream::connect(address).await.unwrap();
        for i in 0..50 {
            kept.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"a 1\n") {
                assert_ne!(kept.read_buf(&mut answer).await.unwrap(), 0, "closed after {i}");
            }
            assert!(get(address, request).await.ends_with("a 1\n"), "scrape {i}");
        }
    }
}
