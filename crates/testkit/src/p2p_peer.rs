//! A scripted node that dials the P2P extractor over v1 or v2 (BIP 324), and says whatever a test wants it to say.
//!
//! v1 is [`crate::peer`], which dials anybody. v2 has the ciphers of the bip324 crate and a framing of its own, so that what reads
//! the same bytes elsewhere is not tested against itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bip324::{CipherSession, GarbageResult, Handshake, PacketType, Role, VersionResult};

use crate::LONG;
use crate::peer::{self, Error, Message, Peer, REGTEST_MAGIC, version_payload};

/// Length of a key as it is sent, bytes (BIP 324).
const KEY: usize = 64;
/// Garbage that is sent before the first packet: some, as Bitcoin Core does.
const GARBAGE: &[u8] = b"not a secret";
/// Short ids of the messages that tests send and an extractor answers with (BIP 324).
const SHORT_IDS: [(u8, &str); 11] = [
    (1, "addr"),
    (4, "cmpctblock"),
    (5, "feefilter"),
    (12, "getheaders"),
    (13, "headers"),
    (14, "inv"),
    (18, "ping"),
    (19, "pong"),
    (20, "sendcmpct"),
    (21, "tx"),
    (28, "addrv2"),
];

/// Which transport is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In plain.
    V1,
    /// Encrypted.
    V2,
}

/// A connection to an extractor on regtest.
pub enum NodePeer {
    /// In plain.
    V1(Peer),
    /// Encrypted.
    V2(Box<V2Peer>),
}

impl NodePeer {
    /// Dials, and agrees on keys for v2, but says nothing yet.
    pub fn dial(addr: SocketAddr, transport: Transport) -> Result<Self, Error> {
        Ok(match transport {
            Transport::V1 => NodePeer::V1(Peer::dial(addr)?),
            Transport::V2 => NodePeer::V2(Box::new(V2Peer::dial(addr)?)),
        })
    }

    /// Dials and shakes hands.
    pub fn connect(addr: SocketAddr, transport: Transport, timeout: Duration) -> Result<Self, Error> {
        let mut peer = NodePeer::dial(addr, transport)?;
        peer.send("version", &version_payload())?;
        peer.wait_for("version", timeout)?;
        for msg_type in ["wtxidrelay", "sendaddrv2", "verack"] {
            peer.send(msg_type, b"")?;
        }
        peer.wait_for("verack", timeout)?;
        Ok(peer)
    }

    /// A message as it is to be sent next: for v2 every frame has to be sent, in order.
    pub fn frame(&mut self, msg_type: &str, payload: &[u8]) -> Vec<u8> {
        match self {
            NodePeer::V1(_) => peer::frame(REGTEST_MAGIC, msg_type, payload),
            NodePeer::V2(peer) => peer.frame(msg_type, payload),
        }
    }

    /// Sends bytes that need not be a message.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            NodePeer::V1(peer) => peer.send_bytes(bytes),
            NodePeer::V2(peer) => peer.send_bytes(bytes),
        }
    }

    /// Sends a message, whatever is in it.
    pub fn send(&mut self, msg_type: &str, payload: &[u8]) -> Result<(), Error> {
        let frame = self.frame(msg_type, payload);
        self.send_bytes(&frame)
    }

    /// The next message of a type. Pings in between are answered, other messages are gone then.
    pub fn wait_for(&mut self, msg_type: &str, timeout: Duration) -> Result<Message, Error> {
        match self {
            NodePeer::V1(peer) => peer.wait_for(msg_type, timeout),
            NodePeer::V2(peer) => peer.wait_for(msg_type, timeout),
        }
    }

    /// Sends a `ping` and waits for its `pong`: then everything sent before was worked on.
    pub fn ping(&mut self, nonce: u64, timeout: Duration) -> Result<(), Error> {
        self.send("ping", &nonce.to_le_bytes())?;
        while self.wait_for("pong", timeout)?.payload != nonce.to_le_bytes() {}
        Ok(())
    }

    /// Answers the next ping when `delay` has passed, and says how long it really took from ping to pong.
    pub fn answer_ping_after(&mut self, delay: Duration, timeout: Duration) -> Result<Duration, Error> {
        let ping = self.wait_for("ping", timeout)?;
        let came = Instant::now();
        std::thread::sleep(delay);
        let pong = self.frame("pong", &ping.payload);
        let took = came.elapsed();
        self.send_bytes(&pong)?;
        Ok(took)
    }

    /// Waits until the other side has closed the connection; whether it has.
    pub fn wait_closed(&mut self, timeout: Duration) -> bool {
        match self {
            NodePeer::V1(peer) => peer.wait_closed(timeout),
            NodePeer::V2(peer) => peer.wait_closed(timeout),
        }
    }
}

/// A connection over v2.
pub struct V2Peer {
    stream: TcpStream,
    addr: SocketAddr,
    cipher: CipherSession,
    received: Vec<u8>,
    /// Length of the packet that is awaited, once it was decrypted.
    packet: Option<usize>,
}

impl V2Peer {
    fn dial(addr: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Connection { what: "dial", addr, source };
        let stream = TcpStream::connect(addr).map_err(failed)?;
        stream.set_read_timeout(Some(LONG)).map_err(failed)?;
        let cipher = agree(&stream, Role::Initiator).map_err(failed)?;
        Ok(V2Peer { stream, addr, cipher, received: Vec::new(), packet: None })
    }

    fn frame(&mut self, msg_type: &str, payload: &[u8]) -> Vec<u8> {
        let mut contents = match SHORT_IDS.iter().find(|(_, name)| *name == msg_type) {
            Some((id, _)) => vec![*id],
            None => [0].into_iter().chain(msg_type.bytes()).chain([0; 12]).take(13).collect(),
        };
        contents.extend_from_slice(payload);
        self.cipher.outbound().encrypt_to_vec(&contents, PacketType::Genuine, None)
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source| Error::Connection { what: "write to", addr: self.addr, source };
        self.stream.write_all(bytes).map_err(failed)
    }

    fn wait_for(&mut self, msg_type: &str, timeout: Duration) -> Result<Message, Error> {
        let deadline = Instant::now() + timeout;
        let mut seen = Vec::new();
        while let Some(message) = self.next_message(deadline)? {
            if message.msg_type == msg_type {
                return Ok(message);
            }
            if message.msg_type == "ping" {
                let pong = self.frame("pong", &message.payload);
                self.send_bytes(&pong)?;
            }
            seen.push(message.msg_type);
        }
        Err(Error::Timeout { addr: self.addr, msg_type: msg_type.to_owned(), timeout, seen })
    }

    fn wait_closed(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_message(deadline) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// The next message, `None` when there is none until `deadline`.
    fn next_message(&mut self, deadline: Instant) -> Result<Option<Message>, Error> {
        let addr = self.addr;
        let failed = |source| Error::Connection { what: "read from", addr, source };
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
                Ok(0) => return Err(failed(ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.received.extend_from_slice(&buf[..length]),
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// Takes a message off what was received, if it is whole.
    fn take_message(&mut self) -> Result<Option<Message>, Error> {
        let broken = |what| Error::Protocol { addr: self.addr, what };
        let length = match (self.packet, self.received.first_chunk()) {
            (Some(length), _) => length,
            (None, Some(encrypted)) => {
                let length = self.cipher.inbound().decrypt_packet_len(*encrypted);
                self.received.drain(..3);
                *self.packet.insert(length)
            }
            (None, None) => return Ok(None),
        };
        if self.received.len() < length {
            return Ok(None);
        }
        self.packet = None;
        let mut packet: Vec<u8> = self.received.drain(..length).collect();
        let (_, plain) = self
            .cipher
            .inbound()
            .decrypt_in_place(&mut packet, None)
            .map_err(|_| broken("it is not authentic"))?;
        let (id, rest) = plain[1..].split_first().ok_or_else(|| broken("it has no type"))?;
        if *id == 0 {
            let (msg_type, payload) = rest.split_at_checked(12).ok_or_else(|| broken("its type is cut"))?;
            let msg_type = String::from_utf8_lossy(msg_type).trim_end_matches('\0').to_owned();
            return Ok(Some(Message { msg_type, payload: payload.to_vec() }));
        }
        let (_, msg_type) = SHORT_IDS
            .iter()
            .find(|(known, _)| known == id)
            .ok_or_else(|| broken("its short id is unknown"))?;
        Ok(Some(Message { msg_type: (*msg_type).to_owned(), payload: rest.to_vec() }))
    }
}

/// Agrees on keys.
pub(crate) fn agree(mut stream: &TcpStream, role: Role) -> io::Result<CipherSession> {
    let failed = |error: bip324::Error| io::Error::other(error.to_string());
    let mut key = vec![0; KEY + GARBAGE.len()];
    let handshake = Handshake::new(REGTEST_MAGIC, role).map_err(failed)?;
    let handshake = handshake.send_key(Some(GARBAGE), &mut key).map_err(failed)?;
    stream.write_all(&key)?;
    let mut their_key = [0; KEY];
    stream.read_exact(&mut their_key)?;
    let handshake = handshake.receive_key(their_key).map_err(failed)?;
    // Two decoys before the version packet.
    let decoys: [&[u8]; 2] = [b"", b"decoy"];
    let mut version = vec![0; Handshake::send_version_len(Some(&decoys))];
    let mut handshake = handshake.send_version(&mut version, Some(&decoys)).map_err(failed)?;
    stream.write_all(&version)?;

    let mut garbage = Vec::new();
    let mut handshake = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        garbage.extend_from_slice(&byte);
        match handshake.receive_garbage(&garbage).map_err(failed)? {
            GarbageResult::FoundGarbage { handshake, .. } => break handshake,
            GarbageResult::NeedMoreData(same) => handshake = same,
        }
    };
    loop {
        let mut length = [0; 3];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; handshake.decrypt_packet_len(length).map_err(failed)?];
        stream.read_exact(&mut packet)?;
        match handshake.receive_version(&mut packet).map_err(failed)? {
            VersionResult::Complete { cipher } => return Ok(cipher),
            VersionResult::Decoy(next) => handshake = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitcoind::RealNode;
    use crate::{need, require};

    #[test]
    fn a_real_node_takes_it_for_a_peer_over_both_transports() {
        require!(need::bitcoind());
        let node = RealNode::start(&[]).unwrap();
        for (transport, name) in [(Transport::V1, "v1"), (Transport::V2, "v2")] {
            let mut peer = NodePeer::connect(node.p2p_addr(), transport, LONG).unwrap();
            peer.ping(7, LONG).unwrap();
            let peers = node.rpc("getpeerinfo", serde_json::json!([])).unwrap();
            let peers = peers.as_array().unwrap();
            assert_eq!(peers.last().unwrap()["transport_protocol_type"], name);
            peer.send("hello", b"?").unwrap();
            peer.ping(8, LONG).unwrap();
        }
    }
}
