//! Our own stream: a client opens topics and gets each of them anew at its pace, computed here, so that a busy node does not drown
//! a browser.
//!
//! | client says | |
//! |---|---|
//! | `{"open":1,"topic":"peers","every":1000,"query":{"node":"alice"}}` | topic, how often in ms, and what the REST API takes |
//! | `{"close":1}` | |
//!
//! | server says | |
//! |---|---|
//! | `{"hello":{"version","limited","topics"}}` | first of all |
//! | `{"sub":1,"missed":0,"data":{...}}` | the answer of the REST API; `missed` updates were left out because this client was slow |
//! | `{"sub":1,"error":"..."}` | there is no such thing (yet); it goes on when there is |
//!
//! Topics without end (`messages`, `log`) begin with the last ones and go on with what is new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use peer_observer_exporter::listener::Slot;
use serde::Deserialize;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::hub::{Hub, TICK};
use super::limits::{ASK, Patience};
use super::socket::{self, End, Message, REVOKED, SILENT, STOPPING, Socket, TOO_MUCH, send, send_text};
use super::views::{Query, Refused, Show, TOPICS, Topic, topic};

/// Bytes of a request, at most.
pub(crate) const MAX_REQUEST: usize = 2048;
/// Topics that a client can have open.
const MAX_OPEN: usize = 16;
/// An update this seldom is none, ms.
const MAX_EVERY_MS: u64 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Request {
    Open {
        open: u32,
        topic: String,
        #[serde(default)]
        every: u64,
        #[serde(default)]
        query: Query,
    },
    Close {
        close: u32,
    },
}

/// A topic that a client has open.
struct Open {
    topic: &'static Topic,
    query: Query,
    /// Ticks between two updates.
    every: u64,
    /// Tick of the last update.
    last: Option<u64>,
    refused: Option<Refused>,
}

const BAD: End = (CloseCode::Policy, "not a request");
const NO_TOPIC: End = (CloseCode::Policy, "no such topic");
const TOO_MANY: End = (CloseCode::Policy, "too many topics");

/// Serves a client until it leaves, asks for what it may not, or `stop`.
pub(crate) async fn serve(socket: Socket, slot: Slot, hub: Arc<Hub>, stop: CancellationToken) {
    let mut client = Client { socket, hub, open: BTreeMap::new() };
    let end = tokio::select! {
        end = client.converse(&stop) => end,
        () = slot.revoked() => Some(REVOKED),
    };
    socket::close(&mut client.socket, end).await;
}

struct Client {
    socket: Socket,
    hub: Arc<Hub>,
    open: BTreeMap<u32, Open>,
}

impl Client {
    /// Returns why it ends, if the client is to be told.
    async fn converse(&mut self, stop: &CancellationToken) -> Option<End> {
        let topics: Vec<_> = TOPICS.iter().map(|topic| topic.name).collect();
        let limited = self.hub.show == Show::NoAddresses;
        let hello = json!({ "hello": { "version": env!("CARGO_PKG_VERSION"), "limited": limited, "topics": topics } });
        send(&mut self.socket, [Message::Text(hello.to_string().into())]).await?;
        let mut patience = Patience::new();
        let mut ask = tokio::time::interval_at(tokio::time::Instant::now() + ASK, ASK);
        // Together with the others: what is rendered for the first of them is new for all.
        let mut ticks = tokio::time::interval_at(self.hub.next_tick().into(), TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Some(STOPPING),
                said = self.socket.next() => {
                    let said = said?.ok()?;
                    if !patience.heard() {
                        return Some(TOO_MUCH);
                    }
                    match said {
                        Message::Text(text) => {
                            if let Err(end) = self.request(&text) {
                                return Some(end);
                            }
                            // What was opened is wanted now.
                            self.update().await?;
                        }
                        Message::Binary(_) => return Some(BAD),
                        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                        Message::Close(_) => return None,
                    }
                }
                _ = ask.tick() => {
                    if patience.is_over() {
                        return Some(SILENT);
                    }
                    send(&mut self.socket, [Message::Ping(Default::default())]).await?;
                }
                _ = ticks.tick() => self.update().await?,
            }
        }
    }

    fn request(&mut self, text: &str) -> Result<(), End> {
        match serde_json::from_str(text).map_err(|_| BAD)? {
            Request::Close { close } => {
                self.open.remove(&close);
            }
            Request::Open { open, topic: name, every, query } => {
                let topic = topic(&name).ok_or(NO_TOPIC)?;
                if self.open.len() >= MAX_OPEN && !self.open.contains_key(&open) {
                    return Err(TOO_MANY);
                }
                let every = every.min(MAX_EVERY_MS).div_ceil(TICK.as_millis() as u64).max(1);
                self.open.insert(open, Open { topic, query, every, last: None, refused: None });
            }
        }
        Ok(())
    }

    /// Sends what is due.
    async fn update(&mut self) -> Option<()> {
        let ids: Vec<u32> = self.open.keys().copied().collect();
        for id in ids {
            let tick = self.hub.tick();
            let Some(open) = self.open.get_mut(&id) else { continue };
            let since = open.last.map_or(u64::MAX, |last| tick.saturating_sub(last));
            if since < open.every {
                continue;
            }
            // A topic without end leaves out what it must by itself, and says so.
            let missed = match open.last {
                Some(_) if open.query.after.is_none() => since / open.every - 1,
                _ => 0,
            };
            open.last = Some(tick);
            let parts = match self.hub.render(open.topic, &open.query) {
                Ok(answer) => {
                    open.refused = None;
                    let nothing_new = answer.next.is_some() && answer.next == open.query.after;
                    if answer.next.is_some() {
                        open.query.after = answer.next;
                    }
                    if nothing_new {
                        continue;
                    }
                    let head = format!("{{\"sub\":{id},\"missed\":{missed},\"data\":");
                    vec![head.into(), answer.text.into(), Bytes::from_static(b"}")]
                }
                Err(refused) if open.refused == Some(refused) => continue,
                Err(refused) => {
                    open.refused = Some(refused);
                    vec![json!({ "sub": id, "error": refused.to_string() }).to_string().into()]
                }
            };
            self.hub.skipped_updates.fetch_add(missed, Ordering::Relaxed);
            send_text(&mut self.socket, &parts).await?;
        }
        Some(())
    }
}
