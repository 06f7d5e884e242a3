//! Messages encrypted as in BIP 324. Nodes since Bitcoin Core 27 speak it first, and v1 only to who does not answer.
//!
//! The ciphers are those of the bip324 crate. Its own reader is not used: it takes memory for what a packet's length says before
//! the packet is there, and treats bits of the header as significant that BIP 324 says to ignore.

use std::fmt;
use std::ops::Range;

use bip324::{
    CipherSession, GarbageResult, Handshake, InboundCipher, OutboundCipher, PacketType, ReceivedKey, Role,
    VersionResult,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::inbox::Inbox;
use super::{Error, MAX_PAYLOAD, MSG_TYPE, Message, Network, read_msg_type, write_msg_type};

/// Length of a key as it is sent (BIP 324, ElligatorSwift), bytes.
const KEY: usize = 64;
/// The header of a packet and its tag (BIP 324), bytes.
const HEADER_AND_TAG: usize = bip324::NUM_HEADER_BYTES + 16;
/// The header bit of packets without a meaning (BIP 324).
const IGNORE: u8 = 0x80;
/// Largest packet after its length: header, a message type that is spelled out, payload, tag (Bitcoin Core net.h,
/// `MAX_CONTENTS_LEN`).
const MAX_PACKET: usize = HEADER_AND_TAG + 1 + MSG_TYPE + MAX_PAYLOAD;

/// Message types of one byte (BIP 324, "v2 Bitcoin P2P message structure"). The first stands for one that is spelled out.
const SHORT_IDS: [&str; 29] = [
    "",
    "addr",
    "block",
    "blocktxn",
    "cmpctblock",
    "feefilter",
    "filteradd",
    "filterclear",
    "filterload",
    "getblocks",
    "getblocktxn",
    "getdata",
    "getheaders",
    "headers",
    "inv",
    "mempool",
    "merkleblock",
    "notfound",
    "ping",
    "pong",
    "sendcmpct",
    "tx",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "addrv2",
];

/// Whether messages of this type go out under an id of one byte.
pub fn has_short_id(msg_type: &str) -> bool {
    short_id(msg_type).is_some()
}

fn short_id(msg_type: &str) -> Option<u8> {
    let id = SHORT_IDS.iter().position(|known| *known == msg_type && !known.is_empty())?;
    u8::try_from(id).ok()
}

impl From<bip324::Error> for Error {
    fn from(error: bip324::Error) -> Self {
        Error::Cipher(error)
    }
}

/// Agrees on keys with a peer that has dialed us and speaks v2. What the peer sends after that is left in `reader`.
///
/// We send neither garbage nor decoys: they hide what the traffic is, and the node was told to dial us. The caller limits the time.
///
/// # Errors
/// When the connection breaks, or the peer does not know the protocol or the network.
pub async fn respond<R, W>(
    network: Network,
    reader: &mut R,
    writer: &mut W,
) -> Result<(Decoder, Encoder), Error>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut their_key = [0; KEY];
    reader.read_exact(&mut their_key).await?;
    let mut answer = [0; KEY];
    let handshake = Handshake::new(network.magic(), Role::Responder)?.send_key(None, &mut answer)?;
    let handshake = handshake.receive_key(their_key)?;
    writer.write_all(&answer).await?;
    exchange_versions(handshake, reader, writer).await
}

/// Agrees on keys with a peer that we have dialed, and that is said to speak v2. What the peer sends after that is left in `reader`.
///
/// We send neither garbage nor decoys. The caller limits the time, and how much is read.
///
/// # Errors
/// When the connection breaks, as it does at once with a peer that speaks v1 only, or the peer does not know the protocol or the
/// network.
pub async fn initiate<R, W>(
    network: Network,
    reader: &mut R,
    writer: &mut W,
) -> Result<(Decoder, Encoder), Error>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut key = [0; KEY];
    let handshake = Handshake::new(network.magic(), Role::Initiator)?.send_key(None, &mut key)?;
    writer.write_all(&key).await?;
    let mut their_key = [0; KEY];
    reader.read_exact(&mut their_key).await?;
    exchange_versions(handshake.receive_key(their_key)?, reader, writer).await
}

/// What both sides do alike once they have each other's key.
async fn exchange_versions<R, W>(
    handshake: Handshake<ReceivedKey<'_>>,
    reader: &mut R,
    writer: &mut W,
) -> Result<(Decoder, Encoder), Error>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut version = vec![0; Handshake::send_version_len(None)];
    let mut handshake = handshake.send_version(&mut version, None)?;
    writer.write_all(&version).await?;

    // The garbage is part of what the first packet authenticates, so it is kept.
    let mut garbage = Vec::new();
    let mut handshake = loop {
        let received = reader.fill_buf().await?;
        if received.is_empty() {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let (before, length) = (garbage.len(), received.len());
        garbage.extend_from_slice(received);
        match handshake.receive_garbage(&garbage)? {
            GarbageResult::FoundGarbage { handshake, consumed_bytes } => {
                reader.consume(consumed_bytes - before);
                break handshake;
            }
            GarbageResult::NeedMoreData(same) => {
                reader.consume(length);
                handshake = same;
            }
        }
    };

    loop {
        let mut length = [0; bip324::NUM_LENGTH_BYTES];
        reader.read_exact(&mut length).await?;
        let length = handshake.decrypt_packet_len(length)?;
        if length > MAX_PACKET {
            return Err(Error::TooLong { length, limit: MAX_PACKET });
        }
        let mut packet = Vec::new();
        (&mut *reader).take(length as u64).read_to_end(&mut packet).await?;
        match handshake.receive_version(&mut packet)? {
            VersionResult::Complete { cipher } => return Ok(split(cipher)),
            VersionResult::Decoy(next) => handshake = next,
        }
    }
}

fn split(cipher: CipherSession) -> (Decoder, Encoder) {
    let (inbound, outbound) = cipher.into_split();
    (Decoder { cipher: inbound, inbox: Inbox::default(), packet: None }, Encoder { cipher: outbound })
}

/// Takes bytes, gives messages.
pub struct Decoder {
    cipher: InboundCipher,
    inbox: Inbox,
    /// Length of the packet whose rest is awaited: a length can be decrypted only once.
    packet: Option<usize>,
}

impl Decoder {
    /// Takes what was received.
    pub fn push(&mut self, received: &[u8]) {
        self.inbox.push(received);
    }

    /// The next message, if it is whole. Decoys and messages whose short id we do not know are left out.
    ///
    /// # Errors
    /// When a packet is not authentic, too long, or has no message type.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, Error> {
        let (contents, short_id) = loop {
            let Some(contents) = self.next_packet()? else { return Ok(None) };
            let Some(id) = self.inbox.taken(contents.clone()).first() else { return Err(Error::EmptyPacket) };
            if let Some(short_id) = SHORT_IDS.get(usize::from(*id)) {
                break (contents, *short_id);
            }
        };
        let rest = &self.inbox.taken(contents)[1..];
        if !short_id.is_empty() {
            return Ok(Some(Message { msg_type: short_id, payload: rest }));
        }
        let Some((msg_type, payload)) = rest.split_at_checked(MSG_TYPE) else {
            return Err(Error::MsgType(rest.to_vec()));
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::TooLong { length: payload.len(), limit: MAX_PAYLOAD });
        }
        Ok(Some(Message { msg_type: read_msg_type(msg_type)?, payload }))
    }

    /// Where the contents of the next packet are that is no decoy.
    fn next_packet(&mut self) -> Result<Option<Range<usize>>, Error> {
        loop {
            let length = match self.packet {
                Some(length) => length,
                None => {
                    let Some(encrypted) = self.inbox.unread().first_chunk().copied() else { return Ok(None) };
                    let length = self.cipher.decrypt_packet_len(encrypted);
                    if length > MAX_PACKET {
                        return Err(Error::TooLong { length, limit: MAX_PACKET });
                    }
                    self.inbox.take(encrypted.len());
                    self.packet = Some(length);
                    length
                }
            };
            let Some(packet) = self.inbox.take(length) else { return Ok(None) };
            self.packet = None;
            let (_, plain) = self.cipher.decrypt_in_place(self.inbox.taken_mut(packet.clone()), None)?;
            if plain.first().is_some_and(|header| header & IGNORE == 0) {
                return Ok(Some(packet.start + bip324::NUM_HEADER_BYTES..packet.start + plain.len()));
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("packet", &self.packet).finish_non_exhaustive()
    }
}

/// Takes messages, gives bytes.
pub struct Encoder {
    cipher: OutboundCipher,
}

impl Encoder {
    /// Adds a message to `out`.
    pub fn encode(&mut self, msg_type: &str, payload: &[u8], out: &mut Vec<u8>) {
        let mut contents = Vec::with_capacity(1 + MSG_TYPE + payload.len());
        match short_id(msg_type) {
            Some(id) => contents.push(id),
            None => {
                contents.push(0);
                write_msg_type(msg_type, &mut contents);
            }
        }
        contents.extend_from_slice(payload);
        out.extend_from_slice(&self.cipher.encrypt_to_vec(&contents, PacketType::Genuine, None));
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::{AsyncRead, BufReader, ReadHalf, WriteHalf};

    use super::*;

    /// The side that dials: the bip324 crate's handshake, and packets of any form.
    struct Dialer {
        cipher: CipherSession,
    }

    impl Dialer {
        fn packet(&mut self, contents: &[u8]) -> Vec<u8> {
            self.cipher.outbound().encrypt_to_vec(contents, PacketType::Genuine, None)
        }

        fn decoy(&mut self, contents: &[u8]) -> Vec<u8> {
            self.cipher.outbound().encrypt_to_vec(contents, PacketType::Decoy, None)
        }
    }

    async fn dial<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        network: Network,
        garbage: &[u8],
        decoys: &[&[u8]],
        reader: &mut R,
        writer: &mut W,
    ) -> Dialer {
        let mut key = vec![0; KEY + garbage.len()];
        let handshake = Handshake::new(network.magic(), Role::Initiator).unwrap();
        let handshake = handshake.send_key(Some(garbage), &mut key).unwrap();
        writer.write_all(&key).await.unwrap();
        let mut their_key = [0; KEY];
        reader.read_exact(&mut their_key).await.unwrap();
        let handshake = handshake.receive_key(their_key).unwrap();
        let mut version = vec![0; Handshake::send_version_len(Some(decoys))];
        let handshake = handshake.send_version(&mut version, Some(decoys)).unwrap();
        writer.write_all(&version).await.unwrap();
        let mut answer = vec![0; Handshake::send_version_len(None)];
        reader.read_exact(&mut answer).await.unwrap();
        let GarbageResult::FoundGarbage { mut handshake, consumed_bytes } =
            handshake.receive_garbage(&answer).unwrap()
        else {
            panic!("no terminator");
        };
        let packet = &answer[consumed_bytes..];
        let length = handshake.decrypt_packet_len(*packet.first_chunk().unwrap()).unwrap();
        let VersionResult::Complete { cipher } =
            handshake.receive_version(&mut packet[3..3 + length].to_vec()).unwrap()
        else {
            panic!("a decoy");
        };
        Dialer { cipher }
    }

    async fn connected(garbage: &[u8], decoys: &[&[u8]]) -> (Dialer, Decoder, Encoder) {
        // As much as a socket takes: both sides write before they read.
        let (ours, theirs) = tokio::io::duplex(1 << 15);
        let (reader, mut writer) = tokio::io::split(ours);
        let (mut their_reader, mut their_writer): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(theirs);
        let mut reader = BufReader::new(reader);
        let (dialer, answered) = tokio::join!(
            dial(Network::Regtest, garbage, decoys, &mut their_reader, &mut their_writer),
            respond(Network::Regtest, &mut reader, &mut writer),
        );
        let (decoder, encoder) = answered.unwrap();
        assert!(reader.buffer().is_empty());
        (dialer, decoder, encoder)
    }

    #[tokio::test]
    async fn keys_are_agreed_on_whatever_garbage_and_decoys_come_before() {
        let most = vec![7; 4095];
        let cases: [(&[u8], &[&[u8]]); 3] = [(b"", &[]), (b"garbage", &[b"", b"decoy"]), (&most, &[&most])];
        for (garbage, decoys) in cases {
            let (mut dialer, mut decoder, mut encoder) = connected(garbage, decoys).await;
            decoder.push(&dialer.packet(&[&[18][..], &[1; 8]].concat()));
            let message = decoder.next_message().unwrap().unwrap();
            assert_eq!(message, Message { msg_type: "ping", payload: &[1; 8] });

            let mut sent = Vec::new();
            encoder.encode("pong", &[2; 8], &mut sent);
            let length = dialer.cipher.inbound().decrypt_packet_len(*sent.first_chunk().unwrap());
            let (_, plain) =
                dialer.cipher.inbound().decrypt_in_place(&mut sent[3..3 + length], None).unwrap();
            assert_eq!(plain, [&[0, 19][..], &[2; 8]].concat());
        }
    }

    #[tokio::test]
    async fn messages_come_out_however_their_bytes_come_in() {
        for piece in [1, 3, 20, 999, 1 << 20] {
            let (mut dialer, mut decoder, _) = connected(b"", &[]).await;
            let long = vec![9; 70_000];
            let stream = [
                dialer.packet(&[14, 0]),
                dialer.decoy(b"anything"),
                dialer.packet(&[&b"\0sendtxrcncl\0"[..], &long].concat()),
                // An id that no message has yet.
                dialer.packet(&[200, 1, 2, 3]),
                dialer.packet(b"\0wtxidrelay\0\0"),
            ]
            .concat();
            let mut received = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next_message().unwrap() {
                    received.push((message.msg_type.to_owned(), message.payload.to_vec()));
                }
            }
            let expected = [
                ("inv".to_owned(), vec![0]),
                ("sendtxrcncl".to_owned(), long),
                ("wtxidrelay".to_owned(), vec![]),
            ];
            assert_eq!(received, expected, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn what_breaks_the_rules_is_refused() {
        let (mut dialer, mut decoder, _) = connected(b"", &[]).await;
        let mut changed = dialer.packet(&[18, 1]);
        changed[5] ^= 1;
        decoder.push(&changed);
        assert!(matches!(decoder.next_message(), Err(Error::Cipher(_))));

        let contents: [(&[u8], &str); 3] =
            [(b"", "no message type"), (b"\0ping", "is no text"), (b"\0pi\nng\0\0\0\0\0\0\0", "is no text")];
        for (contents, why) in contents {
            let (mut dialer, mut decoder, _) = connected(b"", &[]).await;
            decoder.push(&dialer.packet(contents));
            assert!(decoder.next_message().unwrap_err().to_string().contains(why), "{contents:?}");
        }

        let (mut dialer, mut decoder, _) = connected(b"", &[]).await;
        decoder.push(&dialer.packet(&vec![1; 1 + MSG_TYPE + MAX_PAYLOAD + 1])[..3]);
        assert!(matches!(decoder.next_message(), Err(Error::TooLong { .. })), "before the rest has come");
    }

    #[test]
    fn only_types_of_the_table_have_a_short_id() {
        for (msg_type, has) in
            [("addr", true), ("addrv2", true), ("ping", true), ("version", false), ("", false)]
        {
            assert_eq!(has_short_id(msg_type), has, "{msg_type}");
        }
    }

    #[tokio::test]
    async fn who_dials_and_who_is_dialed_understand_each_other_on_one_network_only() {
        let (ours, theirs) = tokio::io::duplex(1 << 15);
        let (reader, mut writer) = tokio::io::split(ours);
        let (their_reader, mut their_writer) = tokio::io::split(theirs);
        let (mut reader, mut their_reader) = (BufReader::new(reader), BufReader::new(their_reader));
        let (dialed, answered) = tokio::join!(
            initiate(Network::Mainnet, &mut reader, &mut writer),
            respond(Network::Mainnet, &mut their_reader, &mut their_writer),
        );
        let ((mut decoder, mut encoder), (mut their_decoder, mut their_encoder)) =
            (dialed.unwrap(), answered.unwrap());
        let mut sent = Vec::new();
        encoder.encode("version", b"ours", &mut sent);
        their_decoder.push(&sent);
        let received = their_decoder.next_message().unwrap();
        assert_eq!(received, Some(Message { msg_type: "version", payload: b"ours" }));
        sent.clear();
        their_encoder.encode("verack", b"", &mut sent);
        decoder.push(&sent);
        assert_eq!(decoder.next_message().unwrap(), Some(Message { msg_type: "verack", payload: b"" }));

        let (ours, theirs) = tokio::io::duplex(1 << 15);
        let (reader, mut writer) = tokio::io::split(ours);
        let (their_reader, mut their_writer) = tokio::io::split(theirs);
        let (mut reader, mut their_reader) = (BufReader::new(reader), BufReader::new(their_reader));
        let strangers = async {
            tokio::join!(
                initiate(Network::Mainnet, &mut reader, &mut writer),
                respond(Network::Regtest, &mut their_reader, &mut their_writer),
            )
        };
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), strangers).await;
        assert!(waited.is_err(), "each waits for what ends the other's garbage");
    }

    #[tokio::test]
    async fn a_dialed_peer_that_is_none_is_told_why() {
        let mut sink = Vec::new();
        let cases: [(&[u8], &str); 3] = [
            (b"", "the connection broke"),
            (&[1; KEY - 1], "the connection broke"),
            (&[1; KEY + 5_000], "cannot be followed"),
        ];
        for (bytes, why) in cases {
            let mut reader = Cursor::new(bytes);
            let err = initiate(Network::Regtest, &mut reader, &mut sink).await.unwrap_err();
            assert!(err.to_string().contains(why), "{err}");
        }
    }

    #[tokio::test]
    async fn who_does_not_finish_is_told_why() {
        let mut sink = Vec::new();
        let mut short = Cursor::new(vec![1; 60]);
        let err = respond(Network::Regtest, &mut short, &mut sink).await.unwrap_err();
        assert!(matches!(err, Error::KeyExchange(_)), "{err}");

        let mut endless = Cursor::new(vec![1; KEY + 5_000]);
        let err = respond(Network::Regtest, &mut endless, &mut sink).await.unwrap_err();
        assert!(matches!(err, Error::Cipher(bip324::Error::NoGarbageTerminator)), "{err}");
    }
}
