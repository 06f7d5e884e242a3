//! Serves the metrics page over HTTP.
//!
//! A connection gets one answer and ends. That costs a scraper nothing and lets everything be bounded: the number of
//! connections, the time each takes, and what a client can make us read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::render;

/// Connections at once. Further ones wait until one ends.
const MAX_CONNECTIONS: usize = 64;
/// Time a client has to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a client has for everything.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that answers in progress have when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a request that are read at most; hyper wants 8 KiB or more.
const MAX_REQUEST: usize = 16 * 1024;

/// Serves what `page` gives until `stop`.
pub async fn serve<F>(listener: TcpListener, page: F, stop: CancellationToken)
where
    F: Fn() -> String + Send + Sync + 'static,
{
    let page = Arc::new(page);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let page = page.clone();
        let stop = stop.clone();
        connections.spawn(async move {
            let _slot = slot;
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, page, stop)).await;
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

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, mostly: there is no use in trying again at once.
            tracing::warn!(%error, "cannot accept a metrics connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer<F>(stream: TcpStream, page: Arc<F>, stop: CancellationToken) -> hyper::Result<()>
where
    F: Fn() -> String + Send + Sync + 'static,
{
    let service = service_fn(|request| {
        let response = respond(&request, &*page);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn respond(request: &Request<Incoming>, page: &impl Fn() -> String) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" | "/metrics" => plain(StatusCode::OK, page()),
        _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(render::CONTENT_TYPE));
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

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
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
        let limit = CONNECTION_TIMEOUT + Duration::from_secs(1);
        let ended = tokio::time::timeout(limit, silent.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still connected after {limit:?}");
    }

    #[tokio::test]
    async fn a_stop_ends_it_also_with_clients_connected() {
        let (address, stop, server) = start("a 1\n").await;
        let _silent = TcpStream::connect(address).await.unwrap();
        assert!(get(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ends_with("a 1\n"));
        stop.cancel();
        tokio::time::timeout(2 * STOP_TIMEOUT, server).await.unwrap().unwrap();
    }
}
