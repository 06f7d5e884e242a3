//! The Bitcoin P2P protocol: bytes to messages, messages to bytes, and shaking hands.
//!
//! Nodes dial us (`-addnode`), and the connectivity check dials nodes. Whoever is at the other end may send anything, so nothing here
//! trusts a length: memory is bounded by one message, and what breaks the rules is an error that ends the connection. All of it takes
//! and gives bytes; only the BIP 324 key exchange reads and writes, because what it has seen so far has to be kept until it is
//! authenticated.
//!
//! | module | what it is for |
//! |---|---|
//! | [`v1`] | messages in plain |
//! | [`v2`] | messages encrypted as in BIP 324 |
//! | [`handshake`] | `version` to `verack`: what must come when, and what is answered |
//! | inbox.rs | bytes that were received and not yet read |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod handshake;
mod inbox;
pub mod v1;
pub mod v2;

/// Largest payload of a message, bytes (Bitcoin Core net.h, `MAX_PROTOCOL_MESSAGE_LENGTH`).
pub const MAX_PAYLOAD: usize = 4_000_000;

/// Length of a message type where it is spelled out, bytes.
const MSG_TYPE: usize = 12;

/// Bytes that tell the transports apart: the magic and the type of a v1 `version` message (BIP 324).
pub const V1_PREFIX: usize = 4 + MSG_TYPE;

/// Why a peer's bytes are not what they should be. Whoever gets one of these closes the connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The magic is not that of our network.
    #[error(
        "its message begins with {found:02x?}, those of {network} with {:02x?}; is --p2p-network that of the node?",
        .network.magic()
    )]
    Magic {
        /// What it sent.
        found: [u8; 4],
        /// What we speak.
        network: Network,
    },
    /// A message type is not padded ASCII.
    #[error("its message type {0:02x?} is no text")]
    MsgType(Vec<u8>),
    /// A message is larger than any may be.
    #[error("its message of {length} bytes is larger than the {limit} bytes that are allowed")]
    TooLong {
        /// Length that it announced, bytes.
        length: usize,
        /// Largest, bytes.
        limit: usize,
    },
    /// A message is broken.
    #[error("the checksum of its {msg_type} of {length} bytes is wrong")]
    Checksum {
        /// Type of the message.
        msg_type: String,
        /// Length of its payload, bytes.
        length: usize,
    },
    /// An encrypted packet has nothing in it.
    #[error("its encrypted packet has no message type")]
    EmptyPacket,
    /// Keys cannot be agreed on, or a packet is not authentic.
    #[error("its encrypted transport cannot be followed: {0}; is --p2p-network that of the node?")]
    Cipher(bip324::Error),
    /// The connection broke during the key exchange.
    #[error("the connection broke while keys were exchanged: {0}")]
    KeyExchange(#[from] std::io::Error),
    /// A message came when it should not.
    #[error("it sent {msg_type} {when}")]
    Order {
        /// Type of the message.
        msg_type: String,
        /// What was wrong about the time.
        when: &'static str,
    },
    /// Its `version` says nothing that we can use.
    #[error("its version message {0}")]
    Version(String),
}

/// A Bitcoin network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The real one.
    Mainnet,
    /// The third test network.
    Testnet3,
    /// The fourth test network (BIP 94).
    Testnet4,
    /// The default signet (BIP 325).
    Signet,
    /// Of one's own.
    Regtest,
}

impl Network {
    /// All of them.
    pub const ALL: [Network; 5] =
        [Network::Mainnet, Network::Testnet3, Network::Testnet4, Network::Signet, Network::Regtest];

    /// Start of every v1 message (Bitcoin Core kernel/chainparams.cpp, `pchMessageStart`).
    pub const fn magic(self) -> [u8; 4] {
        match self {
            Network::Mainnet => [0xf9, 0xbe, 0xb4, 0xd9],
            Network::Testnet3 => [0x0b, 0x11, 0x09, 0x07],
            Network::Testnet4 => [0x1c, 0x16, 0x3f, 0x28],
            Network::Signet => [0x0a, 0x03, 0xcf, 0x40],
            Network::Regtest => [0xfa, 0xbf, 0xb5, 0xda],
        }
    }

    /// Its name, as in `--p2p-network`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Network::Mainnet => "mainnet",
            Network::Testnet3 => "testnet3",
            Network::Testnet4 => "testnet4",
            Network::Signet => "signet",
            Network::Regtest => "regtest",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no network has.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no network: give mainnet, testnet3, testnet4, signet or regtest")]
pub struct UnknownNetwork(String);

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, UnknownNetwork> {
        Network::ALL
            .into_iter()
            .find(|network| network.as_str() == name)
            .ok_or_else(|| UnknownNetwork(name.to_owned()))
    }
}

/// A message, as long as it is in the buffer it was received into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Message type: `inv`.
    pub msg_type: &'a str,
    /// Its payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// It speaks v1.
    V1,
    /// It speaks v2: these bytes begin its key.
    V2,
    /// Too few bytes to tell.
    Undecided,
}

/// Tells v1 from v2 by the bytes received so far, in the way of BIP 324: v1 begins with the magic and `version`, and a key begins
/// with that by chance only once in 2^128.
///
/// # Errors
/// When it is v1 of another network, which Bitcoin Core refuses in the same way.
pub fn detect(received: &[u8], network: Network) -> Result<Detected, Error> {
    let mut version = [0; V1_PREFIX];
    version[..4].copy_from_slice(&network.magic());
    version[4..11].copy_from_slice(b"version");
    let seen = received.len().min(V1_PREFIX);
    if received[..seen] == version[..seen] {
        return Ok(if seen == V1_PREFIX { Detected::V1 } else { Detected::Undecided });
    }
    // Until the type is there, it can be v1 of another network.
    let Some((magic, msg_type)) = received.split_first_chunk::<4>() else { return Ok(Detected::Undecided) };
    let seen = msg_type.len().min(MSG_TYPE);
    if msg_type[..seen] != version[4..4 + seen] {
        return Ok(Detected::V2);
    }
    match seen {
        MSG_TYPE => Err(Error::Magic { found: *magic, network }),
        _ => Ok(Detected::Undecided),
    }
}

/// Takes bytes of a connection, gives messages.
#[derive(Debug)]
pub enum Decoder {
    /// In plain.
    V1(v1::Decoder),
    /// Encrypted.
    V2(Box<v2::Decoder>),
}

impl Decoder {
    /// Takes what was received. Take all messages before giving it more: then it holds no more than one message and this.
    pub fn push(&mut self, received: &[u8]) {
        match self {
            Decoder::V1(decoder) => decoder.push(received),
            Decoder::V2(decoder) => decoder.push(received),
        }
    }

    /// The next message, if it is whole.
    ///
    /// # Errors
    /// When the peer breaks the rules of the transport. There is no way to go on then.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, Error> {
        match self {
            Decoder::V1(decoder) => decoder.next_message(),
            Decoder::V2(decoder) => decoder.next_message(),
        }
    }
}

/// Takes messages, gives bytes to send.
#[derive(Debug)]
pub enum Encoder {
    /// In plain.
    V1(v1::Encoder),
    /// Encrypted.
    V2(Box<v2::Encoder>),
}

impl Encoder {
    /// Adds a message to what is to be sent. Types are cut to 12 bytes.
    pub fn encode(&mut self, msg_type: &str, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoder::V1(encoder) => encoder.encode(msg_type, payload, out),
            Encoder::V2(encoder) => encoder.encode(msg_type, payload, out),
        }
    }
}

/// Reads a message type: ASCII without control characters, then zeros (Bitcoin Core protocol.cpp, `IsMessageTypeValid`).
fn read_msg_type(bytes: &[u8]) -> Result<&str, Error> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (text, padding) = bytes.split_at(end);
    let is_text = text.iter().all(|b| (b' '..=b'~').contains(b)) && padding.iter().all(|b| *b == 0);
    match std::str::from_utf8(text) {
        Ok(text) if is_text => Ok(text),
        _ => Err(Error::MsgType(bytes.to_vec())),
    }
}

fn write_msg_type(msg_type: &str, out: &mut Vec<u8>) {
    out.extend(msg_type.bytes().chain(std::iter::repeat(0)).take(MSG_TYPE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_transport() {
        let version = |network: Network| [&network.magic()[..], b"version\0\0\0\0\0"].concat();
        let ours = version(Network::Signet);
        let key = [7; 64];
        let mut nearly = ours.clone();
        nearly[15] = 1;
        let cases: [(&str, &[u8], Detected); 8] = [
            ("nothing", b"", Detected::Undecided),
            ("a magic", &ours[..4], Detected::Undecided),
            ("all but a byte", &ours[..15], Detected::Undecided),
            ("a version message", &ours, Detected::V1),
            ("a foreign magic", &version(Network::Regtest)[..4], Detected::Undecided),
            ("a key", &key[..5], Detected::V2),
            ("three bytes of a key", &key[..3], Detected::Undecided),
            ("a key that begins like v1", &nearly, Detected::V2),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(detect(bytes, Network::Signet).unwrap(), expected, "{name}");
        }
        let foreign = detect(&version(Network::Mainnet), Network::Signet).unwrap_err();
        assert!(matches!(foreign, Error::Magic { found: [0xf9, 0xbe, 0xb4, 0xd9], .. }));
    }

    #[test]
    fn networks_have_a_name_and_a_magic_each() {
        for network in Network::ALL {
            assert_eq!(network.as_str().parse::<Network>().unwrap(), network);
            assert_eq!(serde_json::to_value(network).unwrap(), network.as_str());
            assert_eq!(Network::ALL.iter().filter(|other| other.magic() == network.magic()).count(), 1);
        }
        assert!("bitcoin".parse::<Network>().is_err());
    }

    #[test]
    fn message_types_are_text_padded_with_zeros() {
        let cases: [(&[u8; 12], Option<&str>); 6] = [
            (b"ping\0\0\0\0\0\0\0\0", Some("ping")),
            (b"sendtxrcncl1", Some("sendtxrcncl1")),
            (&[0; 12], Some("")),
            (b"ping\0\0\0\0\0\0\0x", None),
            (b"pi\nng\0\0\0\0\0\0\0", None),
            (&[0xff; 12], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read_msg_type(bytes).ok(), expected, "{bytes:?}");
        }
    }
}
