//! One try: connects, shakes hands, hangs up.
//!
//! We say who we are, that we are no node (no services) and want no transactions, and close the connection once the other side is
//! known to be a node. A node is what answers with a `version` of our network; whether it also says `verack` does not matter,
//! because a node may have reasons to let nobody in.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peer_observer_bus::now_ns;
use peer_observer_events::decode::decode;
use peer_observer_events::proto::ebpf_extractor::message::Version;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_node::p2p::handshake::{Handshake, OurVersion, Relay, Step};
use peer_observer_node::p2p::{self, Decoder, Encoder, Network, v1, v2};
use peer_observer_node::socks5::{self, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::config::{Config, Overlay};
use super::target::Target;

/// Who we say that we are.
pub(super) const USER_AGENT: &str = concat!("/peer-observer:", env!("CARGO_PKG_VERSION"), "/");

/// Service of nodes that speak v2 (BIP 324; Bitcoin Core protocol.h, `NODE_P2P_V2`).
const NODE_P2P_V2: u64 = 1 << 11;

/// Bytes that are read of a connection. A handshake has far fewer, with 4,095 of garbage (BIP 324) as well.
const MAX_RECEIVED: u64 = 64 * 1024;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In plain.
    V1,
    /// Encrypted (BIP 324).
    V2,
}

impl Transport {
    /// As metrics name it, in the order of the enum.
    pub(super) const NAMES: &[&str] = &["v1", "v2"];

    /// What a node that is said to offer `services` is tried over first.
    pub(super) fn first_for(services: u64) -> Self {
        if services & NODE_P2P_V2 == 0 { Transport::V1 } else { Transport::V2 }
    }

    pub(super) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Why no node was found at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Somebody is there, and wants no connection.
    Refused,
    /// There is no way there.
    Unreachable,
    /// There was no connection in time.
    ConnectTimeout,
    /// The proxy failed.
    Proxy,
    /// The connection was closed before a `version` came.
    Closed,
    /// No `version` came in time.
    HandshakeTimeout,
    /// It is a node of another network.
    WrongNetwork,
    /// What came is not the protocol.
    Protocol,
    /// This machine cannot connect: no file descriptors, no such network.
    Local,
}

impl Failure {
    /// As metrics name it, in the order of the enum.
    pub(super) const NAMES: &[&str] = &[
        "refused",
        "unreachable",
        "connect_timeout",
        "proxy",
        "closed",
        "handshake_timeout",
        "wrong_network",
        "protocol",
        "local",
    ];

    pub(super) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn of_connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Failure::Unreachable,
            io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::Local,
        }
    }
}

impl From<p2p::Error> for Failure {
    fn from(error: p2p::Error) -> Self {
        match error {
            p2p::Error::Magic { found, .. }
                if Network::ALL.iter().any(|network| network.magic() == found) =>
            {
                Failure::WrongNetwork
            }
            p2p::Error::KeyExchange(_) => Failure::Closed,
            _ => Failure::Protocol,
        }
    }
}

/// What a node said of itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) version: Version,
    pub(super) transport: Transport,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) result: Result<Answer, Failure>,
    pub(super) took: Duration,
}

impl Outcome {
    #[cfg(test)]
    pub(super) fn failed(failure: Failure) -> Self {
        Outcome { result: Err(failure), took: Duration::ZERO }
    }
}

/// Tries whether a node answers at `target`, over one connection. Nodes that speak v1 only hang up on v2 ([`Failure::Closed`]); whoever is
/// said to speak v2 can be made to say that, so the connection over v1 is for the plan to allow.
pub(super) async fn probe(target: &Target, transport: Transport, config: &Config) -> Outcome {
    let begin = Instant::now();
    let result = attempt(target, transport, config).await;
    Outcome { result, took: begin.elapsed() }
}

async fn attempt(target: &Target, transport: Transport, config: &Config) -> Result<Answer, Failure> {
    let mut stream = open(target, config).await?;
    // What was said before the time was up counts.
    let mut version = None;
    let shaken = timeout(
        config.handshake_timeout(),
        shake_hands(&mut stream, transport, config.p2p_network, &mut version),
    )
    .await;
    match (version, shaken) {
        (Some(version), _) => Ok(Answer { version, transport }),
        (None, Err(_)) => Err(Failure::HandshakeTimeout),
        (None, Ok(Err(failure))) => Err(failure),
        (None, Ok(Ok(()))) => Err(Failure::Closed),
    }
}

/// A connection to the address.
async fn open(target: &Target, config: &Config) -> Result<TcpStream, Failure> {
    let (overlay, name, port) = match target {
        Target::Direct(addr) => {
            let limit = Duration::from_secs(config.connect_timeout);
            let connected =
                timeout(limit, TcpStream::connect(addr)).await.map_err(|_| Failure::ConnectTimeout)?;
            return connected.map_err(|error| Failure::of_connecting(&error));
        }
        Target::Onion(name, port) => (Overlay::Onion, name, port),
        Target::I2p(name, port) => (Overlay::I2p, name, port),
    };
    let proxy = config.proxy(overlay).ok_or(Failure::Local)?;
    let through_proxy = async {
        let mut stream = TcpStream::connect(proxy).await.map_err(|_| Failure::Proxy)?;
        match socks5::connect(&mut stream, name, *port).await {
            Ok(()) => Ok(stream),
            Err(socks5::Error::Refused(code)) => Err(match socks5::refusal(code) {
                Refusal::ByDestination => Failure::Refused,
                Refusal::Unreachable => Failure::Unreachable,
                Refusal::TooLong => Failure::ConnectTimeout,
                Refusal::ByProxy => Failure::Proxy,
            }),
            Err(_) => Err(Failure::Proxy),
        }
    };
    let limit = Duration::from_secs(config.proxy_timeout);
    timeout(limit, through_proxy).await.map_err(|_| Failure::ConnectTimeout)?
}

/// Shakes hands, and says goodbye. The other side's `version` is in `version` as soon as it has come.
async fn shake_hands(
    stream: &mut TcpStream,
    transport: Transport,
    network: Network,
    version: &mut Option<Version>,
) -> Result<(), Failure> {
    let broken = |_: io::Error| Failure::Closed;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(MAX_RECEIVED));
    let (mut decoder, mut encoder) = match transport {
        Transport::V1 => (Decoder::V1(v1::Decoder::new(network)), Encoder::V1(v1::Encoder::new(network))),
        Transport::V2 => {
            let (decoder, encoder) = v2::initiate(network, &mut reader, &mut writer).await?;
            (Decoder::V2(Box::new(decoder)), Encoder::V2(Box::new(encoder)))
        }
    };
    let ours = OurVersion {
        services: 0,
        now: now_ns() / 1_000_000_000,
        nonce: rand::random(),
        user_agent: USER_AGENT,
        relay: Relay::Blocks,
    };
    let mut to_send = Vec::new();
    encoder.encode("version", &ours.payload(), &mut to_send);
    writer.write_all(&to_send).await.map_err(broken)?;

    let mut handshake = Handshake::default();
    let mut buffer = vec![0; 4096];
    loop {
        while let Some(message) = decoder.next_message()? {
            match handshake.receive(&message)? {
                Step::Answer { .. } => {
                    let decoded = decode("version", Bytes::copy_from_slice(message.payload));
                    let Msg::Version(theirs) = decoded.msg else { return Err(Failure::Protocol) };
                    *version = Some(theirs);
                    to_send.clear();
                    encoder.encode("verack", b"", &mut to_send);
                    writer.write_all(&to_send).await.map_err(broken)?;
                }
                Step::Done => return writer.shutdown().await.map_err(broken),
                Step::Nothing | Step::Over => {}
            }
        }
        match reader.read(&mut buffer).await.map_err(broken)? {
            0 if reader.get_ref().limit() == 0 => return Err(Failure::Protocol),
            0 => return Err(Failure::Closed),
            length => decoder.push(&buffer[..length]),
        }
    }
}
