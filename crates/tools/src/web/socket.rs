//! Websockets: the upgrade of a request, and texts that are sent in frames.
//!
//! A websocket library copies a frame before it writes it. An event can have 20 MB, and there can
//! be hundreds of clients that take none of it: so a large text goes out in frames of a bounded
//! size (RFC 6455, 5.4), and the next frame is made when the one before is gone.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::SinkExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
pub(crate) use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::limits::SEND;

/// A connection to a client.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Bytes of a frame at most.
pub(crate) const FRAME: usize = 64 << 10;
/// Bytes that are kept for reading; requests are short.
const READ_BUFFER: usize = 4 << 10;
/// Bytes that wait for a slow client before nothing more is made for it.
const WRITE_BUFFER: usize = FRAME;
/// The same, with the frame that is added then.
const MAX_WRITE_BUFFER: usize = 4 * FRAME;

/// Why a connection ends: a code and a reason for the client.
pub(crate) type End = (CloseCode, &'static str);

pub(crate) const STOPPING: End = (CloseCode::Away, "peer-observer ends");
pub(crate) const TOO_MUCH: End = (CloseCode::Policy, "too many requests");
pub(crate) const SILENT: End = (CloseCode::Away, "no answer to pings");
pub(crate) const REVOKED: End = (CloseCode::Again, "another client needs the place");

/// Whether a request asks for a websocket.
pub(crate) fn is_wanted(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The answer to a request for a websocket, and the connection once that is sent. Messages of
/// clients have at most `max_message` bytes.
///
/// # Errors
/// The answer to a request that cannot become one.
pub(crate) fn upgrade(
    mut request: Request,
    max_message: usize,
) -> Result<(Response, impl Future<Output = Option<Socket>>), Box<Response>> {
    let answer = create_response_with_body(&request, Body::empty).map_err(|error| {
        let mut response = format!("{error}\n").into_response();
        *response.status_mut() = StatusCode::BAD_REQUEST;
        if !is_wanted(&request) {
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        Box::new(response)
    })?;
    let upgraded = hyper::upgrade::on(&mut request);
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_message))
        // Memory for a frame is taken when its head says how long it will be.
        .max_frame_size(Some(max_message))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER);
    let socket = async move {
        let stream = TokioIo::new(upgraded.await.ok()?);
        Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
    };
    Ok((answer, socket))
}

/// Part of a text.
pub(crate) fn frame(bytes: Bytes, is_first: bool, is_last: bool) -> Message {
    let data = if is_first { Data::Text } else { Data::Continue };
    Message::Frame(Frame::message(bytes, OpCode::Data(data), is_last))
}

/// Sends messages, and waits until they are gone. `None` when the client does not take them.
pub(crate) async fn send(socket: &mut Socket, messages: impl IntoIterator<Item = Message>) -> Option<()> {
    let all = async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    tokio::time::timeout(SEND, all).await.ok()?.ok()
}

/// Sends a text that consists of parts, and waits until it is gone. `None` when the client does not
/// take it.
pub(crate) async fn send_text(socket: &mut Socket, parts: &[Bytes]) -> Option<()> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length <= FRAME {
        let text = Utf8Bytes::try_from(Bytes::from(parts.concat())).ok()?;
        return send(socket, [Message::Text(text)]).await;
    }
    let mut sent = 0;
    for part in parts {
        for at in (0..part.len()).step_by(FRAME) {
            let bytes = part.slice(at..part.len().min(at + FRAME));
            let is_first = sent == 0;
            sent += bytes.len();
            send(socket, [frame(bytes, is_first, sent == length)]).await?;
        }
    }
    Some(())
}

/// Tells a client why its connection ends, if it is to be told.
pub(crate) async fn close(socket: &mut Socket, end: Option<End>) {
    if let Some((code, reason)) = end {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        // It may be gone.
        let _ = send(socket, [Message::Close(Some(frame))]).await;
    }
}
