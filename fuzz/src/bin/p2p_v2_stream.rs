//! What a peer sends over v2, whether it dialed us or we dialed it: garbage instead of a handshake, or packets of any content after
//! one.
#![no_main]

use std::task::{Context, Poll, Waker};

use bip324::{CipherSession, GarbageResult, Handshake, PacketType, Role, VersionResult};
use libfuzzer_sys::fuzz_target;
use peer_observer_node::p2p::v2::{Decoder, Encoder, initiate, respond};
use peer_observer_node::p2p::{Error, MAX_PAYLOAD, Network};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

const NETWORK: Network = Network::Regtest;

/// Runs what never waits for anything but itself.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // Two sides wake each other: that is a few turns.
    for _ in 0..10_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits for ever");
}

/// The handshake of the side that dials, with any garbage and decoy.
async fn dial(garbage: &[u8], decoy: &[u8], mut stream: tokio::io::DuplexStream) -> CipherSession {
    let mut key = vec![0; 64 + garbage.len()];
    let handshake = Handshake::new(NETWORK.magic(), Role::Initiator).expect("a key");
    let handshake = handshake.send_key(Some(garbage), &mut key).expect("garbage is short");
    stream.write_all(&key).await.expect("open");
    let mut their_key = [0; 64];
    stream.read_exact(&mut their_key).await.expect("open");
    let handshake = handshake.receive_key(their_key).expect("a key");
    let decoys = [decoy];
    let mut version = vec![0; Handshake::send_version_len(Some(&decoys))];
    let handshake = handshake.send_version(&mut version, Some(&decoys)).expect("space");
    stream.write_all(&version).await.expect("open");
    let mut answer = vec![0; Handshake::send_version_len(None)];
    stream.read_exact(&mut answer).await.expect("open");
    let Ok(GarbageResult::FoundGarbage { mut handshake, consumed_bytes }) =
        handshake.receive_garbage(&answer)
    else {
        panic!("no terminator");
    };
    let (length, packet) = answer[consumed_bytes..].split_first_chunk().expect("a packet");
    handshake.decrypt_packet_len(*length).expect("a length");
    match handshake.receive_version(&mut packet.to_vec()) {
        Ok(VersionResult::Complete { cipher }) => cipher,
        _ => panic!("no version"),
    }
}

fn connected(garbage: &[u8], decoy: &[u8]) -> (CipherSession, Decoder, Encoder) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (reader, mut writer) = tokio::io::split(ours);
    let mut reader = BufReader::new(reader);
    let both = async {
        let (session, answered) = futures_util::future::join(
            dial(garbage, decoy, theirs),
            respond(NETWORK, &mut reader, &mut writer),
        )
        .await;
        let (decoder, encoder) = answered.expect("a handshake as in BIP 324");
        (session, decoder, encoder)
    };
    run(both)
}

fuzz_target!(|input: &[u8]| {
    let [kind, at, piece, rest @ ..] = input else { return };
    if kind % 4 == 0 {
        let mut reader = rest;
        let refused = run(respond(NETWORK, &mut reader, &mut Vec::new()));
        assert!(refused.is_err(), "keys cannot be guessed");
        let mut reader = rest;
        let refused = run(initiate(NETWORK, &mut reader, &mut Vec::new()));
        assert!(refused.is_err(), "keys cannot be guessed");
        return;
    }
    let garbage = &rest[..rest.len().min(usize::from(*at))];
    let (mut session, mut decoder, _) = connected(garbage, rest);
    let mut stream = Vec::new();
    let packets: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    for (number, contents) in packets.iter().enumerate() {
        let packet_type = if number % 5 == 4 { PacketType::Decoy } else { PacketType::Genuine };
        stream.extend_from_slice(&session.outbound().encrypt_to_vec(contents, packet_type, None));
    }
    let changed = kind % 4 == 1;
    let place = usize::from(*at) % stream.len();
    if changed {
        stream[place] ^= 1 | *piece;
    }
    let mut messages = 0;
    let mut ended = None;
    'stream: for bytes in stream.chunks(usize::from(*piece) + 1) {
        decoder.push(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    assert!(message.payload.len() <= MAX_PAYLOAD && message.msg_type.len() <= 12);
                    messages += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    ended = Some(error);
                    break 'stream;
                }
            }
        }
    }
    assert!(messages <= packets.len());
    if !changed {
        assert!(!matches!(ended, Some(Error::Cipher(_))), "what is authentic is read: {ended:?}");
    }
});
