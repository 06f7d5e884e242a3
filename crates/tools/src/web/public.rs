//! The websocket of the public peer-observer: a client says what it wants, and gets these events as JSON from then on.
//!
//! `{"ebpf":{"messages":true,"connections":true,"mempool":true,"validation":true},"p2p":true,"log":true,"rpc":true}`; what is left
//! out is not wanted. Nothing is sent before. It may be said again. What is empty, too long or no such thing ends the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use peer_observer_exporter::listener::Slot;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::feed::{Kind, Kinds, Reader};
use super::hub::Hub;
use super::limits::{ASK, Patience, SEND};
use super::socket::{self, End, Message, REVOKED, SILENT, STOPPING, Socket, TOO_MUCH, frame, send};

/// Bytes of a subscription, at most.
pub(crate) const MAX_REQUEST: usize = 511;
/// Bytes of events that are sent before the client is listened to again.
const CHUNK: usize = 64 << 10;

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

const BAD: End = (CloseCode::Policy, "not a subscription");
const TOO_SLOW: End = (CloseCode::Policy, "too slow for an event of this size");

/// Serves a client until it leaves, asks for what it may not, or `stop`.
pub(crate) async fn serve(mut socket: Socket, slot: Slot, hub: Arc<Hub>, stop: CancellationToken) {
    let end = tokio::select! {
        end = converse(&mut socket, &hub, &stop) => end,
        () = slot.revoked() => Some(REVOKED),
    };
    socket::close(&mut socket, end).await;
}

/// Returns why it ends, if the client is to be told.
async fn converse(socket: &mut Socket, hub: &Hub, stop: &CancellationToken) -> Option<End> {
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
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
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
                let taken = reader.take(CHUNK, &mut events);
                hub.skipped_events.fetch_add(taken.skipped, Ordering::Relaxed);
                more = !events.is_empty() || taken.long.is_some();
                let begin = Instant::now();
                let sent = match send(socket, events.drain(..).map(Message::Text)).await {
                    Some(()) => send_long(socket, &reader, taken.long).await,
                    None => Err(None),
                };
                if let Err(end) = sent {
                    if end.is_some() || begin.elapsed() >= SEND {
                        let unsent = reader.unread() + u64::from(taken.long.is_some());
                        hub.skipped_events.fetch_add(unsent, Ordering::Relaxed);
                    }
                    return end;
                }
            }
        }
    }
}

/// Sends a long event, if there is one.
///
/// # Errors
/// Why the connection ends, if the client is to be told: the event is gone before the client has
/// taken it, or the client took nothing.
async fn send_long(socket: &mut Socket, reader: &Reader<'_>, long: Option<u64>) -> Result<(), Option<End>> {
    let Some(number) = long else { return Ok(()) };
    let mut at = 0;
    loop {
        let (part, is_last) = reader.part(number, at).ok_or(Some(TOO_SLOW))?;
        let is_first = at == 0;
        at += part.len();
        send(socket, [frame(part, is_first, is_last)]).await.ok_or(None)?;
        if is_last {
            return Ok(());
        }
    }
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
