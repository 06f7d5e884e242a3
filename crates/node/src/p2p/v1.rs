//! Messages in plain: magic, type, length, checksum, payload (Bitcoin Core protocol.h, `CMessageHeader`).

use bitcoin_hashes::{Hash as _, sha256d};

use super::inbox::Inbox;
use super::{Error, MAX_PAYLOAD, MSG_TYPE, Message, Network, read_msg_type, write_msg_type};

/// Bytes before a payload.
const HEADER: usize = 4 + MSG_TYPE + 4 + 4;

/// Takes bytes, gives messages.
#[derive(Debug)]
pub struct Decoder {
    network: Network,
    inbox: Inbox,
}

impl Decoder {
    /// For a connection on that network.
    pub fn new(network: Network) -> Self {
        Decoder { network, inbox: Inbox::default() }
    }

    /// Takes what was received.
    pub fn push(&mut self, received: &[u8]) {
        self.inbox.push(received);
    }

    /// The next message, if it is whole.
    ///
    /// # Errors
    /// When the magic, type, length or checksum is wrong. Bitcoin Core goes on after a wrong type or checksum; no node that we watch
    /// has a reason to send one, so here it ends the connection.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, Error> {
        let Some((magic, rest)) = self.inbox.unread().split_first_chunk::<4>() else { return Ok(None) };
        if *magic != self.network.magic() {
            return Err(Error::Magic { found: *magic, network: self.network });
        }
        let Some((_, rest)) = rest.split_first_chunk::<MSG_TYPE>() else { return Ok(None) };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_PAYLOAD {
            return Err(Error::TooLong { length, limit: MAX_PAYLOAD });
        }
        let Some((expected, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let expected = *expected;

        let Some(frame) = self.inbox.take(HEADER + length) else { return Ok(None) };
        let type_at = frame.start + 4;
        let payload = self.inbox.taken(frame.start + HEADER..frame.end);
        let msg_type = read_msg_type(self.inbox.taken(type_at..type_at + MSG_TYPE))?;
        if checksum(payload) != expected {
            return Err(Error::Checksum { msg_type: msg_type.to_owned(), length });
        }
        Ok(Some(Message { msg_type, payload }))
    }
}

/// Takes messages, gives bytes.
#[derive(Debug)]
pub struct Encoder {
    network: Network,
}

impl Encoder {
    /// For a connection on that network.
    pub fn new(network: Network) -> Self {
        Encoder { network }
    }

    /// Adds a message to `out`.
    pub fn encode(&mut self, msg_type: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.magic());
        write_msg_type(msg_type, out);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum(payload));
        out.extend_from_slice(payload);
    }
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256d::Hash::hash(payload).to_byte_array();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(msg_type: &str, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Encoder::new(Network::Mainnet).encode(msg_type, payload, &mut frame);
        frame
    }

    #[test]
    fn a_frame_is_that_of_the_protocol() {
        // An empty verack of mainnet, as in the Bitcoin developer reference.
        let expected =
            [&[0xf9, 0xbe, 0xb4, 0xd9][..], b"verack\0\0\0\0\0\0", &[0; 4], &[0x5d, 0xf6, 0xe0, 0xe2]];
        assert_eq!(frame("verack", b""), expected.concat());
    }

    #[test]
    fn messages_come_out_however_their_bytes_come_in() {
        let sent = [("ping", vec![1; 8]), ("verack", vec![]), ("hello", vec![2; 70_000])];
        let stream: Vec<u8> = sent.iter().flat_map(|(msg_type, payload)| frame(msg_type, payload)).collect();
        for piece in [1, 7, 24, 1_000, stream.len()] {
            let mut decoder = Decoder::new(Network::Mainnet);
            let mut received = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next_message().unwrap() {
                    received.push((message.msg_type.to_owned(), message.payload.to_vec()));
                }
            }
            assert!(
                received.iter().map(|(t, p)| (t.as_str(), p)).eq(sent.iter().map(|(t, p)| (*t, p))),
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused_as_soon_as_it_is_seen() {
        let good = frame("ping", &[1; 8]);
        let changed = |at: usize, byte: u8| {
            let mut frame = good.clone();
            frame[at] = byte;
            frame
        };
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new(Network::Mainnet);
            decoder.push(bytes);
            decoder.next_message().unwrap_err()
        };
        assert!(matches!(refused(&changed(0, 0)[..4]), Error::Magic { .. }));
        assert!(matches!(refused(&changed(5, 1)), Error::MsgType(_)));
        // 0xff in the second byte of the length is 65,288 bytes, in the last one more than any message has.
        assert!(matches!(refused(&changed(19, 0xff)[..20]), Error::TooLong { .. }));
        assert!(matches!(refused(&changed(30, 0)), Error::Checksum { length: 8, .. }));
    }

    #[test]
    fn the_largest_message_passes_and_one_more_byte_does_not() {
        let mut decoder = Decoder::new(Network::Mainnet);
        decoder.push(&frame("block", &vec![0; MAX_PAYLOAD]));
        assert_eq!(decoder.next_message().unwrap().unwrap().payload.len(), MAX_PAYLOAD);
        decoder.push(&frame("block", &vec![0; MAX_PAYLOAD + 1]));
        assert!(
            matches!(decoder.next_message(), Err(Error::TooLong { length, .. }) if length == MAX_PAYLOAD + 1)
        );
    }
}
