//! The server: one address for the page, the REST API and both websockets.
//!
//! Connections are limited in number, time and size before anything else looks at them; every request passes the guard.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, LOCATION, SET_COOKIE, UPGRADE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use peer_observer_exporter::server::accept;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::{self, COOKIE_NAME, Denied, Guard};
use super::hub::Hub;
use super::views::topic;
use super::{api, assets, public, stream};

/// HTTP connections at once, besides websockets. Further ones wait until one ends.
const MAX_CONNECTIONS: usize = 64;
/// Time a client has to send its request, and that an idle connection is kept.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a connection has for all its requests; websockets are none any more.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that connections have to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_millis(400);
/// Bytes of a request that are read at most; hyper wants 8 KiB or more.
const MAX_REQUEST: usize = 16 * 1024;
/// Bytes of a body that are read at most: a token.
const MAX_BODY: usize = 1024;
/// Bytes that wait for a slow websocket client before nothing more is made for it.
const WRITE_BUFFER: usize = 64 << 10;
/// The same, with what is too large to fit: an event can have 20 MB.
const MAX_WRITE_BUFFER: usize = 64 << 20;

#[derive(Clone)]
struct Shared {
    hub: Arc<Hub>,
    guard: Arc<Guard>,
    stop: CancellationToken,
    sockets: TaskTracker,
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, guard: Guard, hub: Arc<Hub>, stop: CancellationToken) {
    let sockets = TaskTracker::new();
    let shared = Shared { hub, guard: Arc::new(guard), stop: stop.clone(), sockets: sockets.clone() };
    let app = router(shared);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let (app, stop) = (app.clone(), stop.clone());
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = answer(stream, app, stop).await {
                tracing::debug!(%error, "web connection failed");
            }
        });
    }
    sockets.close();
    let rest = async {
        while connections.join_next().await.is_some() {}
        sockets.wait().await;
    };
    if tokio::time::timeout(STOP_TIMEOUT, rest).await.is_err() {
        tracing::debug!("web connections cut off");
    }
}

async fn answer(stream: TcpStream, app: Router, stop: CancellationToken) -> hyper::Result<()> {
    // Small updates are not to wait for more of them.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_TIMEOUT) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(REQUEST_TIMEOUT, connection).await.unwrap_or(Ok(()))
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/ws", get(public_socket))
        .route("/login", post(login).get(async || to_page()))
        .route("/api/v1/stream", get(own_socket))
        .route("/api/v1/openapi.json", get(|| async { json(StatusCode::OK, api::openapi()) }))
        .route("/api/v1/{topic}", get(rest))
        .fallback(file)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(shared.clone(), guarded))
        .with_state(shared)
}

async fn guarded(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = match shared.guard.check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            tracing::debug!(reason = %denied, path = request.uri().path(), "web request turned away");
            turn_away(denied, &request)
        }
    };
    guard::add_headers(response.headers_mut());
    response
}

fn turn_away(denied: Denied, request: &Request) -> Response {
    let path = request.uri().path();
    let page = path == "/" && !request.headers().contains_key(UPGRADE);
    let mut response = match denied {
        Denied::Token if page => asset("/login.html"),
        // Where a browser is after a wrong token, and asks again.
        Denied::Token if path == "/login" => return to_page().into_response(),
        _ => denied.to_string().into_response(),
    };
    *response.status_mut() = denied.status();
    if denied == Denied::Method {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// The page, or the public websocket: public pages connect to an address without a path.
async fn root(State(shared): State<Shared>, upgrade: Upgrade, uri: Uri) -> Response {
    if let Ok(upgrade) = upgrade {
        return open_public(shared, upgrade);
    }
    match guard::token_of(&uri).filter(|token| shared.guard.is_token(token)) {
        Some(token) => remember(token),
        None => asset("/"),
    }
}

async fn public_socket(State(shared): State<Shared>, upgrade: Upgrade) -> Response {
    match upgrade {
        Ok(upgrade) => open_public(shared, upgrade),
        Err(rejection) => rejection.into_response(),
    }
}

fn open_public(shared: Shared, upgrade: WebSocketUpgrade) -> Response {
    if shared.hub.show == super::views::Show::NoAddresses {
        return (StatusCode::FORBIDDEN, "not in limited mode: events tell addresses\n").into_response();
    }
    open(shared, upgrade, public::MAX_REQUEST, public::serve)
}

async fn own_socket(State(shared): State<Shared>, upgrade: Upgrade) -> Response {
    match upgrade {
        Ok(upgrade) => open(shared, upgrade, stream::MAX_REQUEST, stream::serve),
        Err(rejection) => rejection.into_response(),
    }
}

fn open<F>(
    shared: Shared,
    upgrade: WebSocketUpgrade,
    max_request: usize,
    serve: impl FnOnce(WebSocket, Arc<Hub>, CancellationToken) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let Some(place) = shared.hub.place() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many clients; see --web-max-clients\n")
            .into_response();
    };
    let token = shared.sockets.token();
    upgrade
        .max_message_size(max_request)
        // Memory for a frame is taken when its head says how long it will be.
        .max_frame_size(max_request)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .on_upgrade(move |socket| async move {
            let (_place, _token) = (place, token);
            serve(socket, shared.hub, shared.stop).await;
        })
}

async fn rest(State(shared): State<Shared>, Path(name): Path<String>, uri: Uri) -> Response {
    let Some(topic) = topic(&name) else {
        return failed(StatusCode::NOT_FOUND, "no such topic; see /api/v1/openapi.json");
    };
    let query = match api::query(topic, uri.query()) {
        Ok(query) => query,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    match shared.hub.render(topic, &query) {
        Ok(answer) => json(StatusCode::OK, answer.text),
        Err(refused) => failed(refused.status(), &refused.to_string()),
    }
}

fn json(status: StatusCode, body: impl Into<JsonBody>) -> Response {
    let JsonBody(body) = body.into();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

struct JsonBody(Body);

impl From<String> for JsonBody {
    fn from(text: String) -> Self {
        JsonBody(text.into())
    }
}

impl From<axum::extract::ws::Utf8Bytes> for JsonBody {
    fn from(text: axum::extract::ws::Utf8Bytes) -> Self {
        JsonBody(Bytes::from(text).into())
    }
}

fn failed(status: StatusCode, error: &str) -> Response {
    json(status, serde_json::json!({ "error": error }).to_string())
}

async fn file(method: Method, uri: Uri) -> Response {
    // What may be POSTed has a route.
    match method {
        Method::GET | Method::HEAD => asset(uri.path()),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn asset(path: &str) -> Response {
    match assets::asset(path) {
        Some(asset) => ([(CONTENT_TYPE, asset.kind)], asset.bytes).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here; the page is at /\n").into_response(),
    }
}

/// The form of the login page.
async fn login(State(shared): State<Shared>, body: Bytes) -> Response {
    let given = std::str::from_utf8(&body).ok().and_then(|body| api::decode(body.strip_prefix("token=")?));
    match given.filter(|given| shared.guard.is_token(given.trim())) {
        Some(token) => remember(token.trim()),
        None => {
            (StatusCode::UNAUTHORIZED, [(CONTENT_TYPE, assets::HTML)], assets::wrong_token()).into_response()
        }
    }
}

fn to_page() -> impl IntoResponse {
    (StatusCode::SEE_OTHER, [(LOCATION, "/")])
}

/// Keeps the token in a cookie, and leads to the page.
fn remember(token: &str) -> Response {
    let cookie = format!("{COOKIE_NAME}={token}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
}
