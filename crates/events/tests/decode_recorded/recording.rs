//! Reads just enough of the recordings in data/; the formats are in data/regtest-tour/README.md.

use std::path::Path;

use bytes::{Buf, Bytes};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_node::recording::read_file;
use prost::Message as _;

/// A hit of net:inbound_message or net:outbound_message.
pub(crate) struct Recorded {
    pub(crate) inbound: bool,
    pub(crate) peer_id: u64,
    pub(crate) command: String,
    pub(crate) payload: Bytes,
}

fn unpack(file: &str) -> Bytes {
    const LARGEST: usize = 64 << 20;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(file);
    read_file(&path, LARGEST).unwrap_or_else(|err| panic!("{err}")).into()
}

fn text(bytes: &mut Bytes) -> String {
    let length = bytes.get_u16_le();
    String::from_utf8(bytes.split_to(length.into()).to_vec()).expect("text")
}

/// The P2P messages of a recording, in order.
pub(crate) fn messages(recording: &str) -> Vec<Recorded> {
    let mut records = unpack(&format!("{recording}/tracepoints.bin.zst"));
    let mut messages = Vec::new();
    while records.has_remaining() {
        let length = records.get_u32_le() as usize;
        let mut record = records.split_to(length);
        let _time = record.get_u64_le();
        let inbound = match record.get_u8() {
            1 => true,
            2 => false,
            _ => continue,
        };
        let peer_id = record.get_u64_le();
        let _addr = text(&mut record);
        let _conn_type = text(&mut record);
        let command = text(&mut record);
        let size = record.get_u64_le();
        assert_eq!(size, record.len() as u64);
        messages.push(Recorded { inbound, peer_id, command, payload: record });
    }
    messages
}

/// The message events that the public extractor published, in order.
pub(crate) fn published() -> Vec<MessageEvent> {
    let mut frames = unpack("regtest-tour/public-events.nats.zst");
    let mut events = Vec::new();
    while frames.has_remaining() {
        let length = frames.get_u32_le() as usize;
        frames.advance(length);
        let length = frames.get_u32_le() as usize;
        let event = Event::decode(frames.split_to(length)).expect("an event");
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = event.peer_observer_event else { continue };
        let Some(EbpfEvent::Message(message)) = ebpf.ebpf_event else { continue };
        events.push(message);
    }
    events
}
