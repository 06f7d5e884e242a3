//! What the recordings hold, and what the public extractor made of the same hits.

use std::collections::BTreeMap;

use bytes::Bytes;
use peer_observer_events::proto::bitcoin_primitives::ConnType;
use peer_observer_events::proto::ebpf_extractor::connection::{Connection, connection_event};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_extractors::convert;
use peer_observer_node::recording::{self, Records};
use peer_observer_testkit::data_dir;
use prost::Message;

use crate::plain::Published;

/// The public extractor's events take less, bytes.
const MAX_PUBLIC: usize = 16 << 20;

/// Message types that the public extractor cuts, so that it does not know them.
const TOO_LONG: [&str; 2] = ["getcfheaders", "getcfcheckpt"];
/// What it leaves of them, bytes.
const PUBLIC_COMMAND: usize = 11;

/// The events of a recording, in order: what each hit has to become.
///
/// # Panics
/// When the recording is broken.
pub fn events(recording: &[u8]) -> Vec<PeerObserverEvent> {
    Records::new(recording).map(|record| convert::event(&record.expect("a whole record").hit)).collect()
}

/// Number of hits of a recording, by tracepoint.
///
/// # Panics
/// When the recording is broken.
pub fn hits(recording: &[u8]) -> BTreeMap<String, u64> {
    let mut hits = BTreeMap::new();
    for record in Records::new(recording) {
        let tracepoint = record.expect("a whole record").hit.tracepoint();
        *hits.entry(tracepoint.as_str().to_owned()).or_default() += 1;
    }
    hits
}

/// What the public extractor published during the tour, in its order, which is not that of the hits.
///
/// # Panics
/// When the file is broken.
pub fn public() -> Vec<Published> {
    let path = data_dir().join("regtest-tour/public-events.nats.zst");
    let frames = Bytes::from(recording::read_file(&path, MAX_PUBLIC).expect("the public extractor's events"));
    let mut offset = 0;
    let mut next = || {
        let length = frames.get(offset..offset + 4)?;
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
        offset += 4 + length;
        Some(frames.slice(offset - length..offset))
    };
    let mut all = Vec::new();
    while let (Some(subject), Some(payload)) = (next(), next()) {
        all.push(Published { subject: String::from_utf8_lossy(&subject).into_owned(), payload });
    }
    all
}

/// What is the same in an event of ours and one of the public extractor of the same hit, encoded: everything but the time, our
/// additions, the connection types that it does not tell apart, and two messages that it cannot read.
pub fn in_common(event: &PeerObserverEvent) -> Vec<u8> {
    let mut event = event.clone();
    if let PeerObserverEvent::EbpfExtractor(ebpf) = &mut event {
        match &mut ebpf.ebpf_event {
            Some(EbpfEvent::Message(message)) => {
                message.meta.conn_type = public_conn_type(message.meta.conn_type);
                (message.decode_error, message.captured) = (None, None);
                let cut = message.meta.command.get(..PUBLIC_COMMAND).unwrap_or_default();
                if TOO_LONG.iter().any(|command| command[..PUBLIC_COMMAND] == *cut) {
                    message.meta.command.truncate(PUBLIC_COMMAND);
                    message.msg = None;
                }
            }
            Some(EbpfEvent::Connection(connection)) => {
                if let Some(conn) = connection.event.as_mut().and_then(connection_of) {
                    conn.conn_type = public_conn_type(conn.conn_type);
                }
            }
            _ => {}
        }
    }
    Event { timestamp: 0, origin: None, peer_observer_event: Some(event) }.encode_to_vec()
}

fn connection_of(event: &mut connection_event::Event) -> Option<&mut Connection> {
    match event {
        connection_event::Event::Inbound(event) => Some(&mut event.conn),
        connection_event::Event::Outbound(event) => Some(&mut event.conn),
        connection_event::Event::Closed(event) => Some(&mut event.conn),
        connection_event::Event::InboundEvicted(event) => Some(&mut event.conn),
        connection_event::Event::Misbehaving(_) => None,
    }
}

/// What the public extractor makes of a connection type.
pub fn public_conn_type(ours: i32) -> i32 {
    let public = match ConnType::try_from(ours) {
        Ok(ConnType::Manual | ConnType::AddrFetch | ConnType::PrivateBroadcast) => ConnType::Unknown,
        Ok(ConnType::Feeler) => ConnType::OutboundFullRelay,
        Ok(same) => same,
        Err(_) => ConnType::Unknown,
    };
    public as i32
}
