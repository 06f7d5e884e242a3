//! Real events for tests.

use std::io::Read;
use std::sync::Arc;

use peer_observer_bus::Delivery;
use peer_observer_events::{Event, Subject};
use prost::Message;

/// The events of a recorded tour as the public extractor published them.
pub(crate) fn tour() -> Vec<Delivery> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/regtest-tour/public-events.nats.zst");
    let file = std::fs::File::open(path).unwrap();
    let mut frames = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut frames).unwrap();
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
