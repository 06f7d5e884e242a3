//! The tool as it runs: a bus, a socket, clients of all kinds.
//!
//! | file | what it tests |
//! |---|---|
//! | mod.rs | what the others share |
//! | rest.rs | pages and the REST API |
//! | sockets.rs | both websockets |
//! | hostile.rs | who must not come in, and what must not come out |
//! | limited.rs | limited mode against every event of the schema |
//! | abuse.rs | clients that want more than their share, or break the protocol |

mod abuse;
mod hostile;
mod limited;
mod rest;
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use peer_observer_bus::{Bus, Limits, Publisher};
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{Event, PeerObserverEvent};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tour::tour;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(40);
/// Events of the tour, as the public extractor published them: data/regtest-tour/README.md.
const TOUR_EVENTS: usize = 1_646;

type Socket = WebSocketStream<TcpStream>;

/// The tool, as it runs.
struct Running {
    address: SocketAddr,
    bus: Bus,
    publisher: Publisher,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("web", &subjects(&config), Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { serve(listener, &config, subscriber, stop).await }
        });
        let publisher = bus.publisher(Source::Ebpf, "ebpf");
        Running { address, bus, publisher, stop, task }
    }

    async fn with_tour(config: Config) -> Self {
        let mut running = Self::start(config).await;
        running.publish_tour();
        running.wait_for("/api/v1/health", |health| health["events"] == TOUR_EVENTS).await;
        running
    }

    fn publish(&mut self, time_ns: u64, event: PeerObserverEvent) {
        let node: Arc<str> = "alice".into();
        self.publisher.publish(&node, time_ns, event);
    }

    fn publish_tour(&mut self) {
        for delivery in tour() {
            let event = Arc::unwrap_or_clone(delivery.event);
            self.publish(time_ns(&event), event.peer_observer_event.unwrap());
        }
    }

    /// The answer to a request: head and body.
    async fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that has enough of a request may cut it off.
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    async fn get_with(&self, path: &str, headers: &str) -> (String, String) {
        let host = self.address;
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")).await
    }

    async fn get(&self, path: &str) -> (String, String) {
        self.get_with(path, "").await
    }

    async fn json(&self, path: &str) -> Value {
        let (head, body) = self.get(path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn wait_for(&self, path: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let value = self.json(path).await;
            if condition(&value) {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} does not come to say it: {value}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_for_status(&self, path: &str, status: &str) {
        let deadline = tokio::time::Instant::now() + LONG;
        while !self.get(path).await.0.starts_with(&format!("HTTP/1.1 {status}")) {
            assert!(tokio::time::Instant::now() < deadline, "{path} does not come to answer {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connect_with(
        &self,
        path: &str,
        header: Option<(&'static str, &str)>,
    ) -> Result<(Socket, Response), SocketError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        client_async_with_config(request, stream, Some(config)).await
    }

    async fn connect(&self, path: &str) -> Socket {
        self.connect_with(path, None).await.unwrap().0
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(2), self.task).await.expect("it ends").unwrap().unwrap();
    }
}

fn time_ns(event: &Event) -> u64 {
    event.timestamp * 1_000_000
}

async fn say(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

/// The next text; nothing when the connection ends.
async fn hear(socket: &mut Socket) -> Option<String> {
    let text = async {
        loop {
            match socket.next().await?.ok()? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LONG, text).await.expect("something to hear")
}

async fn hear_json(socket: &mut Socket) -> Value {
    serde_json::from_str(&hear(socket).await.expect("a message")).unwrap()
}

/// How a connection ended: the code of its close frame, or nothing when it was cut.
async fn end_of(socket: &mut Socket) -> Option<u16> {
    let end = async {
        loop {
            match socket.next().await? {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(LONG, end).await.expect("the connection ends")
}
