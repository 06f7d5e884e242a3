//! The websocket of the public peer-observer: a client says what it wants, and gets these events as JSON from then on.
//!
//! `{"ebpf":{"messages":true,"connections":true,"mempool":true,"validation":true},"p2p":true,"log":true,"rpc":true}`; what is left
//! out is not wanted. Nothing is sent before. It may be said again. What is empty, too long or no such thing ends the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::feed::{Kind, Kinds};
use super::hub::Hub;
use super::limits::{ASK, Patience, SEND};

/// Bytes of a subscription, at most.
pub(crate) const MAX_REQUEST: usize = 511;
/// Bytes of events that are sent before the client is listened to again.
const CHUNK: usize = 256 << 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    ebpf: Ebpf,
    p2p: Option<bool>,
    log: Option<bool>,
    rpc: Option<bool>,
    ipc: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ebpf {
    messages: Option<bool>,
    connections: Option<bool>,
    mempool: Option<bool>,
    validation: Option<bool>,
    addrman: Option<bool>,
}

/// What a subscription asks for; nothing when it is none.
fn wanted(text: &str) -> Option<Kinds> {
    let wanted: Wanted = serde_json::from_str(text).ok()?;
    Some(
        Kinds::default()
            .with(Kind::Messages, wanted.ebpf.messages)
            .with(Kind::Connections, wanted.ebpf.connections)
            .with(Kind::Mempool, wanted.ebpf.mempool)
            .with(Kind::Validation, wanted.ebpf.validation)
            .with(Kind::Addrman, wanted.ebpf.addrman)
            .with(Kind::P2p, wanted.p2p)
            .with(Kind::Log, wanted.log)
            .with(Kind::Rpc, wanted.rpc)
            .with(Kind::Ipc, wanted.ipc),
    )
}

/// Why a connection ends, as the client is told.
type End = (u16, &'static str);

const STOPPING: End = (close_code::AWAY, "peer-observer ends");
const BAD: End = (close_code::POLICY, "not a subscription");
const TOO_MUCH: End = (close_code::POLICY, "too many requests");
const SILENT: End = (close_code::AWAY, "no answer to pings");

/// Serves a client until it leaves, asks for what it may not, or `stop`.
pub(crate) async fn serve(mut socket: WebSocket, hub: Arc<Hub>, stop: CancellationToken) {
    let end = converse(&mut socket, &hub, &stop).await;
    if let Some((code, reason)) = end {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let _ = tokio::time::timeout(SEND, socket.send(Message::Close(Some(frame)))).await;
    }
}

/// Returns why it ends, if the client is to be told.
async fn converse(socket: &mut WebSocket, hub: &Hub, stop: &CancellationToken) -> Option<End> {
    let mut reader = hub.feed.reader();
    let mut patience = Patience::new();
    let mut ask = tokio::time::interval_at(Instant::now() + ASK, ASK);
    let mut events = Vec::new();
    let mut more = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Some(STOPPING),
            said = socket.next() => match said?.ok()? {
                Message::Text(text) => match wanted(&text) {
                    _ if !patience.heard() => return Some(TOO_MUCH),
                    Some(kinds) => reader.want(kinds),
                    None => return Some(BAD),
                },
                Message::Binary(_) => return Some(BAD),
                Message::Ping(_) | Message::Pong(_) if !patience.heard() => return Some(TOO_MUCH),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return None,
            },
            _ = ask.tick() => {
                if patience.is_over() {
                    return Some(SILENT);
                }
                send(socket, [Message::Ping(Default::default())]).await?;
            }
            () = reader.wait(), if !more => more = true,
            () = std::future::ready(()), if more => {
                let skipped = reader.take(CHUNK, &mut events);
                hub.skipped_events.fetch_add(skipped, Ordering::Relaxed);
                more = !events.is_empty();
                let begin = Instant::now();
                if send(socket, events.drain(..).map(Message::Text)).await.is_none() {
                    if begin.elapsed() >= SEND {
                        hub.skipped_events.fetch_add(reader.unread(), Ordering::Relaxed);
                    }
                    return None;
                }
            }
        }
    }
}

/// Sends and waits until it is gone. Nothing when the client does not take it.
async fn send(socket: &mut WebSocket, messages: impl IntoIterator<Item = Message>) -> Option<()> {
    let all = async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    tokio::time::timeout(SEND, all).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_those_of_the_public_tool() {
        let all = r#"{"ebpf":{"messages":true,"connections":true,"mempool":true,"validation":true},"p2p":true,"log":true,"rpc":true}"#;
        let kinds = wanted(all).unwrap();
        assert_ne!(kinds, Kinds::default());
        assert_eq!(
            wanted(r#"{"ebpf":{"addrman":true},"ipc":true,"later":1}"#).unwrap(),
            Kinds::default().with(Kind::Addrman, true).with(Kind::Ipc, true)
        );
        assert_eq!(wanted("{}"), Some(Kinds::default()));
        for bad in ["", "x", "[]x", "{\"p2p\":1}", "{\"ebpf\":true}", "null"] {
            assert_eq!(wanted(bad), None, "{bad}");
        }
    }
}
