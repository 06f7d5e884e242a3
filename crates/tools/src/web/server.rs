//! The server: one address for the page, the REST API and both websockets.
//!
//! Connections are limited in number, time and size before anything else looks at them; every request passes the guard.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use peer_observer_exporter::listener::{self, Connection, GiveUp, Slot, Slots};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::{self, Denied, Guard, Visitor};
use super::hub::Hub;
use super::limits::{RENDERING, REQUEST};
use super::socket::{self, Socket};
use super::views::topic;
use super::{api, assets, public, stream};

/// HTTP connections at once, besides websockets.
const MAX_CONNECTIONS: usize = 64;
/// Time a client has to send its request, and that an idle connection is kept.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a client has to send its first request with a login, where one is needed.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time a connection has for all its requests; websockets are none any more.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that connections have to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_millis(400);
/// Bytes of a request that are read at most; hyper wants 8 KiB or more.
const MAX_REQUEST: usize = 16 * 1024;
/// Bytes of a body that are read at most: a token.
const MAX_BODY: usize = 1024;

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
    let slots = Slots::new(MAX_CONNECTIONS, GiveUp::LeastRecentlyUsed);
    let server = Server { needs_login: shared.guard.needs_login(), app: router(shared), stop: stop.clone() };
    let mut connections = listener::accept(listener, slots, Arc::new(server), &stop).await;
    sockets.close();
    let rest = async {
        while connections.join_next().await.is_some() {}
        sockets.wait().await;
    };
    if tokio::time::timeout(STOP_TIMEOUT, rest).await.is_err() {
        tracing::debug!("web connections cut off");
    }
}

struct Server {
    app: Router,
    needs_login: bool,
    stop: CancellationToken,
}

/// The connection that a request came over.
#[derive(Clone)]
struct Client(Arc<ClientState>);

struct ClientState {
    slot: Slot,
    /// A request over it had the login, if one is needed.
    known: CancellationToken,
}

impl listener::Service for Server {
    async fn serve(&self, connection: Connection) {
        let Connection { stream, slot, .. } = connection;
        // Small updates are not to wait for more of them.
        let _ = stream.set_nodelay(true);
        let client = Client(Arc::new(ClientState { slot, known: CancellationToken::new() }));
        let app = TowerToHyperService::new(self.app.clone());
        let service = service_fn(|mut request: hyper::Request<_>| {
            request.extensions_mut().insert(client.clone());
            app.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .max_buf_size(MAX_REQUEST)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let unknown_for_long = async {
            tokio::time::sleep(LOGIN_TIMEOUT).await;
            if !self.needs_login || client.0.known.is_cancelled() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "web connection failed");
                }
                return;
            }
            () = client.0.slot.revoked() => return tracing::debug!("web connection closed for another client"),
            () = unknown_for_long => return tracing::debug!("web connection without a login closed"),
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(CONNECTION_TIMEOUT) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = tokio::time::timeout(REQUEST_TIMEOUT, connection) => {}
            () = client.0.slot.revoked() => {}
        }
    }
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

async fn guarded(
    State(shared): State<Shared>,
    Extension(Client(client)): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    let checked = shared.guard.check(request.method(), request.uri(), request.headers());
    let _busy = client.slot.busy();
    if checked == Ok(Visitor::Known) {
        client.slot.establish();
        client.known.cancel();
    }
    let mut response = match checked {
        Ok(_) => next.run(request).await,
        Err(denied) => {
            tracing::debug!(reason = %denied, path = request.uri().path(), "web request turned away");
            turn_away(denied, &request)
        }
    };
    if checked != Ok(Visitor::Known) {
        // Places are for those who may come in.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    guard::add_headers(response.headers_mut());
    response
}

fn turn_away(denied: Denied, request: &Request) -> Response {
    let path = request.uri().path();
    let page = path == "/" && !socket::is_wanted(request);
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

/// The page, or the public websocket: public pages connect to an address without a path.
async fn root(state: State<Shared>, client: Extension<Client>, request: Request) -> Response {
    if socket::is_wanted(&request) {
        return public_socket(state, client, request).await;
    }
    let guard = &state.guard;
    match guard::token_of(request.uri()).filter(|token| guard.is_token(token)) {
        Some(token) => remember(guard, token, request.headers()),
        None => asset("/"),
    }
}

async fn public_socket(
    State(shared): State<Shared>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Response {
    if shared.hub.show == super::views::Show::NoAddresses {
        return (StatusCode::FORBIDDEN, "not in limited mode: events tell addresses\n").into_response();
    }
    open(shared, &client, request, public::MAX_REQUEST, public::serve)
}

async fn own_socket(
    State(shared): State<Shared>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Response {
    open(shared, &client, request, stream::MAX_REQUEST, stream::serve)
}

fn open<F>(
    shared: Shared,
    Client(client): &Client,
    request: Request,
    max_request: usize,
    serve: impl FnOnce(Socket, Slot, Arc<Hub>, CancellationToken) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let (response, socket) = match socket::upgrade(request, max_request) {
        Ok(upgrade) => upgrade,
        Err(response) => return *response,
    };
    let Some(place) = shared.hub.place(client.slot.source()) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many clients; see --web-max-clients\n")
            .into_response();
    };
    let Shared { hub, stop, sockets, .. } = shared;
    sockets.spawn(async move {
        if let Some(socket) = socket.await {
            serve(socket, place, hub, stop).await;
        }
    });
    response
}

async fn rest(
    State(shared): State<Shared>,
    Extension(Client(client)): Extension<Client>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let (hub, source) = (&shared.hub, client.slot.source());
    if let Err(wait) = hub.rest.take(source, REQUEST) {
        return too_many(wait);
    }
    let Some(topic) = topic(&name) else {
        return failed(StatusCode::NOT_FOUND, "no such topic; see /api/v1/openapi.json");
    };
    let query = match api::query(topic, uri.query()) {
        Ok(query) => query,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let answer = match hub.rendered(topic, &query) {
        Some(answer) => answer,
        None => match hub.rest.take(source, RENDERING) {
            Ok(()) => hub.render(topic, &query),
            Err(wait) => return too_many(wait),
        },
    };
    match answer {
        Ok(answer) => json(StatusCode::OK, answer.text),
        Err(refused) => failed(refused.status(), &refused.to_string()),
    }
}

/// The client has to wait that long before it asks again.
fn too_many(wait: Duration) -> Response {
    let mut response = failed(StatusCode::TOO_MANY_REQUESTS, "too many requests; use /api/v1/stream");
    // Whole seconds, and not none.
    response.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
    response
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

impl From<socket::Utf8Bytes> for JsonBody {
    fn from(text: socket::Utf8Bytes) -> Self {
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
async fn login(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let given = std::str::from_utf8(&body).ok().and_then(|body| api::decode(body.strip_prefix("token=")?));
    match given.filter(|given| shared.guard.is_token(given.trim())) {
        Some(token) => remember(&shared.guard, token.trim(), &headers),
        None => {
            (StatusCode::UNAUTHORIZED, [(CONTENT_TYPE, assets::HTML)], assets::wrong_token()).into_response()
        }
    }
}

fn to_page() -> impl IntoResponse {
    (StatusCode::SEE_OTHER, [(LOCATION, "/")])
}

/// Keeps the token in a cookie, and leads to the page.
fn remember(guard: &Guard, token: &str, headers: &HeaderMap) -> Response {
    let cookie = guard.cookie(token, headers);
    (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
}
