//! A scripted P2P peer that dials a node over the v1 transport, and says whatever a test wants it to say.
//!
//! It has a framing of its own, so that what reads the same bytes elsewhere is not tested against itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bitcoin_hashes::{Hash, sha256d};
use thiserror::Error;

/// Start of every message on regtest (Bitcoin Core kernel/chainparams.cpp, `CRegTestParams`).
pub const REGTEST_MAGIC: [u8; 4] = [0xfa, 0xbf, 0xb5, 0xda];

/// Protocol version that is spoken: 70016 has wtxid relay (BIP 339).
const PROTOCOL_VERSION: i32 = 70_016;

/// Services: NODE_NETWORK (BIP 111 and before) and NODE_WITNESS (BIP 144).
const SERVICES: u64 = 1 | 1 << 3;

/// Bytes before a payload: magic, message type, length, checksum.
const HEADER_LEN: usize = 4 + 12 + 4 + 4;

/// Largest payload of a message, bytes (Bitcoin Core net.h, `MAX_PROTOCOL_MESSAGE_LENGTH`).
const MAX_PAYLOAD: usize = 4_000_000;

const USER_AGENT: &[u8] = b"/testkit:0.1.0/";

/// What can go wrong with a peer.
#[derive(Debug, Error)]
pub enum Error {
    /// The connection cannot be made, or is lost.
    #[error("cannot {what} {addr}: {source}")]
    Connection {
        /// What was tried.
        what: &'static str,
        /// The node.
        addr: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// What was waited for did not come.
    #[error("{addr} sent no {msg_type} within {timeout:?}; it sent {seen:?}")]
    Timeout {
        /// The node.
        addr: SocketAddr,
        /// What was waited for.
        msg_type: String,
        /// How long.
        timeout: Duration,
        /// Types of the messages that came instead.
        seen: Vec<String>,
    },
    /// It does not speak the protocol.
    #[error("{addr} sent what is no message: {what}")]
    Protocol {
        /// The node.
        addr: SocketAddr,
        /// What is wrong.
        what: &'static str,
    },
}

/// A P2P message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Message type: `inv`.
    pub msg_type: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A connection to a node on regtest.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    addr: SocketAddr,
    received: Vec<u8>,
}

impl Peer {
    /// Dials a node, and says nothing yet.
    pub fn dial(addr: SocketAddr) -> Result<Self, Error> {
        let stream =
            TcpStream::connect(addr).map_err(|source| Error::Connection { what: "dial", addr, source })?;
        Ok(Peer { stream, addr, received: Vec::new() })
    }

    /// Dials a node and shakes hands: full relay, with wtxids and addrv2.
    pub fn connect(addr: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        let mut peer = Peer::dial(addr)?;
        peer.handshake(timeout)?;
        Ok(peer)
    }

    /// Shakes hands: `version`, `wtxidrelay` (BIP 339), `sendaddrv2` (BIP 155), `verack`.
    pub fn handshake(&mut self, timeout: Duration) -> Result<(), Error> {
        self.send("version", &version_payload())?;
        self.wait_for("version", timeout)?;
        for msg_type in ["wtxidrelay", "sendaddrv2", "verack"] {
            self.send(msg_type, b"")?;
        }
        self.wait_for("verack", timeout)?;
        Ok(())
    }

    /// The address that the node knows this peer by, in the way Core prints it.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.stream.local_addr().map_err(|source| self.connection_error("ask the address of", source))
    }

    /// Sends a message, whatever is in it. Types are cut to 12 bytes.
    pub fn send(&mut self, msg_type: &str, payload: &[u8]) -> Result<(), Error> {
        self.send_bytes(&frame(REGTEST_MAGIC, msg_type, payload))
    }

    /// Sends bytes that need not be a message; see [`frame`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(|source| self.connection_error("write to", source))
    }

    /// Sends a `ping` and waits for its `pong`: then the node has worked on everything sent before.
    pub fn ping(&mut self, nonce: u64, timeout: Duration) -> Result<(), Error> {
        self.send("ping", &nonce.to_le_bytes())?;
        let is_pong =
            |message: &Message| message.msg_type == "pong" && message.payload == nonce.to_le_bytes();
        self.wait_where("pong", is_pong, timeout).map(|_| ())
    }

    /// The next message of a type. Pings in between are answered, other messages are gone then.
    pub fn wait_for(&mut self, msg_type: &str, timeout: Duration) -> Result<Message, Error> {
        self.wait_where(msg_type, |message| message.msg_type == msg_type, timeout)
    }

    /// Waits until the node has closed the connection; whether it has.
    pub fn wait_closed(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_message(deadline) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    fn wait_where(
        &mut self,
        msg_type: &str,
        wanted: impl Fn(&Message) -> bool,
        timeout: Duration,
    ) -> Result<Message, Error> {
        let deadline = Instant::now() + timeout;
        let mut seen = Vec::new();
        while let Some(message) = self.next_message(deadline)? {
            if wanted(&message) {
                return Ok(message);
            }
            if message.msg_type == "ping" {
                self.send("pong", &message.payload)?;
            }
            seen.push(message.msg_type);
        }
        Err(Error::Timeout { addr: self.addr, msg_type: msg_type.to_owned(), timeout, seen })
    }

    /// The next message, `None` when there is none until `deadline`.
    fn next_message(&mut self, deadline: Instant) -> Result<Option<Message>, Error> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut buf = [0; 65_536];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buf));
            match read {
                Ok(0) => return Err(self.connection_error("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.received.extend_from_slice(&buf[..length]),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.connection_error("read from", source)),
            }
        }
    }

    /// Takes a message off what was received, if it is whole.
    fn take_message(&mut self) -> Result<Option<Message>, Error> {
        let protocol_error = |what| Err(Error::Protocol { addr: self.addr, what });
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        if header[..4] != REGTEST_MAGIC {
            return protocol_error("it does not begin with the magic of regtest");
        }
        let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
        if length > MAX_PAYLOAD {
            return protocol_error("it is longer than any message");
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if header[20..] != checksum(payload) {
            return protocol_error("its checksum is wrong");
        }
        let msg_type = String::from_utf8_lossy(&header[4..16]).trim_end_matches('\0').to_owned();
        let message = Message { msg_type, payload: payload.to_vec() };
        self.received.drain(..HEADER_LEN + length);
        Ok(Some(message))
    }

    fn connection_error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Connection { what, addr: self.addr, source }
    }
}

/// A message as it is sent: magic, type, length, checksum, payload. Change a byte of it for a broken one.
pub fn frame(magic: [u8; 4], msg_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = magic.to_vec();
    frame.extend(msg_type.bytes().chain(std::iter::repeat(0)).take(12));
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&checksum(payload));
    frame.extend_from_slice(payload);
    frame
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256d::Hash::hash(payload).to_byte_array();
    [a, b, c, d]
}

/// Payload of a `version` message, as in the Bitcoin developer reference.
pub(crate) fn version_payload() -> Vec<u8> {
    let no_addr = [0; 8 + 16 + 2];
    // A node that finds its own nonce thinks it dialed itself: any other will do.
    let nonce = u64::from(std::process::id()) << 32 | 0x7e57;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut payload = Vec::new();
    payload.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    payload.extend_from_slice(&SERVICES.to_le_bytes());
    payload.extend_from_slice(&now.to_le_bytes());
    payload.extend_from_slice(&no_addr);
    payload.extend_from_slice(&no_addr);
    payload.extend_from_slice(&nonce.to_le_bytes());
    payload.push(USER_AGENT.len() as u8);
    payload.extend_from_slice(USER_AGENT);
    payload.extend_from_slice(&0i32.to_le_bytes());
    payload.push(1);
    payload
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bitcoind::RealNode;
    use crate::{LONG, need, require};

    #[test]
    fn a_frame_is_that_of_the_protocol() {
        // An empty verack of mainnet, as in the Bitcoin developer reference.
        let expected =
            [&[0xf9, 0xbe, 0xb4, 0xd9][..], b"verack\0\0\0\0\0\0", &[0; 4], &[0x5d, 0xf6, 0xe0, 0xe2]]
                .concat();
        assert_eq!(frame([0xf9, 0xbe, 0xb4, 0xd9], "verack", b""), expected);
    }

    #[test]
    fn a_real_node_takes_it_for_a_peer() {
        require!(need::bitcoind());
        let node = RealNode::start(&[]).unwrap();
        let mut peer = Peer::connect(node.p2p_addr(), LONG).unwrap();
        peer.ping(7, LONG).unwrap();
        let peers = node.rpc("getpeerinfo", json!([])).unwrap();
        assert_eq!(peers[0]["subver"], "/testkit:0.1.0/");
        assert_eq!(peers[0]["addr"], peer.local_addr().unwrap().to_string());

        // The node does not mind what it does not know, but drops a peer with a wrong magic.
        peer.send("hello", b"?").unwrap();
        peer.ping(8, LONG).unwrap();
        peer.send_bytes(&frame([0; 4], "ping", &[0; 8])).unwrap();
        assert!(peer.wait_closed(LONG));
    }

    #[test]
    fn what_does_not_come_is_told_with_what_came() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = Peer::dial(listener.local_addr().unwrap()).unwrap();
        let (mut node, _) = listener.accept().unwrap();
        node.write_all(&frame(REGTEST_MAGIC, "feefilter", &[0; 8])).unwrap();
        node.write_all(&frame(REGTEST_MAGIC, "ping", &[9; 8])[..20]).unwrap();
        // Long enough for it to look once, however busy the machine.
        let err = peer.wait_for("version", Duration::from_secs(3)).unwrap_err();
        assert!(matches!(&err, Error::Timeout { seen, .. } if seen == &["feefilter"]), "{err}");

        let mut broken = frame(REGTEST_MAGIC, "ping", &[9; 8]);
        node.write_all(&broken[20..]).unwrap();
        assert_eq!(peer.wait_for("ping", LONG).unwrap().payload, [9; 8]);
        broken[HEADER_LEN] = 0;
        node.write_all(&broken).unwrap();
        assert!(matches!(peer.wait_for("ping", LONG), Err(Error::Protocol { .. })));
    }
}
