//! Real events for tests.

use std::path::Path;
use std::sync::Arc;

use peer_observer_bus::Delivery;
use peer_observer_events::{Event, Subject};
use peer_observer_node::recording::read_file;
use prost::Message;

/// The events of a recorded tour as the public extractor published them.
pub(crate) fn tour() -> Vec<Delivery> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/regtest-tour/public-events.nats.zst");
    let frames = read_file(Path::new(path), 64 << 20).unwrap();
    let mut rest = frames.as_slice();
    let mut next = || -> Option<&[u8]> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (frame, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        rest = after;
        Some(frame)
    };
    let mut deliveries = Vec::new();
    while let (Some(subject), Some(payload)) = (next(), next()) {
        let subject = Subject::parse(std::str::from_utf8(subject).unwrap()).unwrap();
        deliveries.push(Delivery { subject, event: Arc::new(Event::decode(payload).unwrap()) });
    }
    assert_eq!(deliveries.len(), 1646);
    deliveries
}
