//! One connection: reads, times, writes. What is said is up to session.rs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peer_observer_bus::loss::What;
use peer_observer_bus::now_ns;
use peer_observer_events::Subject;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::proto::observer::peer_info::Transport;
use peer_observer_exporter::listener::Slot;
use peer_observer_node::p2p::{self, Decoder, Detected, Encoder, Network, detect, v1, v2};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::Shared;
use super::session::{self, Outcome, Session};

/// Bytes that are read at a time.
const CHUNK: usize = 64 * 1024;
/// Time for the first byte. Nodes begin to speak as soon as they are connected, so that silence is
/// nobody who should have a place.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the node closed it")]
    ByNode,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("it said nothing within {0:?}")]
    Silent(Duration),
    #[error("it did not shake hands within {0:?}")]
    Handshake(Duration),
    #[error("no whole message came within {0:?}")]
    Idle(Duration),
    #[error("it did not read what we sent within {0:?}")]
    Writing(Duration),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error("this extractor stops")]
    Stopped,
}

impl From<p2p::Error> for Closed {
    fn from(error: p2p::Error) -> Self {
        Closed::Session(error.into())
    }
}

/// A connection whose transport is known.
struct Opened {
    transport: Transport,
    decoder: Decoder,
    encoder: Encoder,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

/// Listens to a node until the connection ends, and says why it did.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    network: Network,
    node: &Arc<str>,
    slot: &Slot,
    shared: &Shared,
) -> Closed {
    match listen(stream, peer, network, node, slot, shared).await {
        Ok(never) => match never {},
        Err(closed) => closed,
    }
}

async fn listen(
    stream: TcpStream,
    peer: SocketAddr,
    network: Network,
    node: &Arc<str>,
    slot: &Slot,
    shared: &Shared,
) -> Result<std::convert::Infallible, Closed> {
    let config = &shared.config;
    // Pings are small, and shall not wait for more.
    stream.set_nodelay(true)?;
    let (handshake_timeout, idle_timeout) = (config.handshake_timeout(), config.idle_timeout());
    let deadline = tokio::time::Instant::now() + handshake_timeout;
    let opened = tokio::select! {
        opened = timeout_at(deadline, open(stream, network)) => opened,
        () = shared.stop.cancelled() => return Err(Closed::Stopped),
    };
    let Opened { transport, mut decoder, encoder, mut reader, mut writer } =
        opened.map_err(|_| Closed::Handshake(handshake_timeout))??;

    let mut session = Session::new(config.into(), transport);
    let mut outcome = Outcome::new(encoder);
    let mut buffer = vec![0; CHUNK];
    let mut pings = interval(Duration::from_secs(config.ping_interval));
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut limit = deadline;
    let mut serving = None;
    loop {
        // What came with the key exchange is in the decoder already.
        let now = Instant::now();
        let unix = Duration::from_nanos(now_ns());
        let mut ended = Ok(());
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    if let Err(error) = session.receive(message, now, unix, &mut outcome) {
                        ended = Err(Closed::from(error));
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    ended = Err(error.into());
                    break;
                }
            }
            if session.is_established() {
                limit = tokio::time::Instant::now() + idle_timeout;
            }
        }
        publish(&mut outcome, node, unix, shared);
        ended?;
        if session.is_established() {
            slot.establish();
        }
        write(&mut writer, &mut outcome, shared).await?;
        if session.is_established() && serving.is_none() {
            tracing::info!(%peer, %node, transport = transport.as_str_name(), "a node has connected");
            serving = Some(shared.serving(node));
            pings.reset_immediately();
        }

        let may_ping = session.is_established() && !config.disable_ping;
        tokio::select! {
            length = reader.read(&mut buffer) => match length? {
                0 => return Err(Closed::ByNode),
                length => decoder.push(&buffer[..length]),
            },
            _ = pings.tick(), if may_ping => {
                session.ping(Instant::now(), &mut outcome);
                write(&mut writer, &mut outcome, shared).await?;
            }
            () = sleep_until(limit) => return Err(match session.is_established() {
                true => Closed::Idle(idle_timeout),
                false => Closed::Handshake(handshake_timeout),
            }),
            () = shared.stop.cancelled() => return Err(Closed::Stopped),
        }
    }
}

/// Finds out which transport the node speaks, and agrees on keys where it needs them.
async fn open(stream: TcpStream, network: Network) -> Result<Opened, Closed> {
    let (mut reader, mut writer) = stream.into_split();
    let mut prefix = [0; p2p::V1_PREFIX];
    let mut length = 0;
    let detected = loop {
        match detect(&prefix[..length], network)? {
            Detected::Undecided => {}
            detected => break detected,
        }
        let read = reader.read(&mut prefix[length..]);
        let read = match length {
            0 => timeout(FIRST_BYTE, read).await.map_err(|_| Closed::Silent(FIRST_BYTE))?,
            _ => read.await,
        };
        match read? {
            0 => return Err(Closed::ByNode),
            more => length += more,
        }
    };
    let received = &prefix[..length];
    if detected == Detected::V1 {
        let mut decoder = v1::Decoder::new(network);
        decoder.push(received);
        let (decoder, encoder) = (Decoder::V1(decoder), Encoder::V1(v1::Encoder::new(network)));
        return Ok(Opened { transport: Transport::V1, decoder, encoder, reader, writer });
    }
    let mut buffered = BufReader::new(received.chain(reader));
    let (mut decoder, encoder) = v2::respond(network, &mut buffered, &mut writer).await?;
    decoder.push(buffered.buffer());
    let (_, reader) = buffered.into_inner().into_inner();
    let (decoder, encoder) = (Decoder::V2(Box::new(decoder)), Encoder::V2(Box::new(encoder)));
    Ok(Opened { transport: Transport::V2, decoder, encoder, reader, writer })
}

fn publish(outcome: &mut Outcome, node: &Arc<str>, unix: Duration, shared: &Shared) {
    if outcome.events.is_empty() && outcome.malformed == 0 {
        return;
    }
    let time_ns = unix.as_nanos() as u64;
    let mut sink = shared.sink();
    let mut batch = sink.publisher.batch();
    for event in outcome.events.drain(..) {
        batch.publish(node, time_ns, event);
    }
    drop(batch);
    let malformed = std::mem::take(&mut outcome.malformed);
    if malformed > 0 {
        let what = What {
            stage: Stage::Decode,
            cause: "malformed",
            node: node.clone(),
            subject: Some(Subject::P2pExtractor),
            tracepoint: None,
            session: None,
        };
        sink.book.add(what, malformed, None, time_ns);
    }
}

async fn write(writer: &mut OwnedWriteHalf, outcome: &mut Outcome, shared: &Shared) -> Result<(), Closed> {
    if outcome.answer.is_empty() {
        return Ok(());
    }
    let limit = shared.config.handshake_timeout();
    tokio::select! {
        written = timeout(limit, writer.write_all(&outcome.answer)) => {
            written.map_err(|_| Closed::Writing(limit))??;
        }
        () = shared.stop.cancelled() => return Err(Closed::Stopped),
    }
    outcome.answer.clear();
    Ok(())
}
