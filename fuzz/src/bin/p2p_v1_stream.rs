//! What a peer sends to the P2P extractor over v1: nothing panics, memory is bounded, and pieces make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::p2p::handshake::Handshake;
use peer_observer_node::p2p::v1::{Decoder, Encoder};
use peer_observer_node::p2p::{MAX_PAYLOAD, Network, detect};

/// Messages, and whether the stream ended with an error.
fn read(stream: &[u8], piece: usize) -> (Vec<(String, Vec<u8>)>, bool) {
    let mut decoder = Decoder::new(Network::Regtest);
    let mut handshake = Handshake::default();
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    assert!(message.payload.len() <= MAX_PAYLOAD && message.msg_type.len() <= 12);
                    let _ = handshake.receive(&message);
                    messages.push((message.msg_type.to_owned(), message.payload.to_vec()));
                }
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

// The first byte says how the stream is cut. The next says whether the rest is a stream, or messages to be made a stream: else
// checksums would keep the fuzzer out.
fuzz_target!(|input: &[u8]| {
    let [piece, kind, rest @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    let mut stream = rest.to_vec();
    if kind % 2 == 1 {
        stream.clear();
        let mut encoder = Encoder::new(Network::Regtest);
        for message in rest.split(|byte| *byte == b'\n') {
            let (msg_type, payload) = message.split_at(message.len().min(usize::from(*kind) % 13));
            encoder.encode(&String::from_utf8_lossy(msg_type), payload, &mut stream);
        }
    }
    let _ = detect(&stream, Network::Regtest);
    let whole = read(&stream, stream.len().max(1));
    assert_eq!(read(&stream, piece), whole);
});
