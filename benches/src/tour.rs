//! The recorded tour of data/regtest-tour, as a mix of real traffic: 1,653 hits, of which those with messages of more than 20 kB
//! are left out (240 B on average).

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use peer_observer_bus::Delivery;
use peer_observer_events::proto::observer::{Origin, Source};
use peer_observer_events::{Event, PeerObserverEvent, Sequencer, Subject};
use peer_observer_extractors::convert;
use peer_observer_node::hit::Hit;
use peer_observer_node::recording::Records;
use prost::Message;

/// Larger messages are left out, bytes.
pub(crate) const MAX_PAYLOAD: u64 = 20_000;

/// All hits of the tour, as a recording.
pub(crate) fn recording() -> Result<Vec<u8>> {
    peer_observer_testkit::recorded_hits("regtest-tour").context("reading the recorded tour")
}

/// Calls `take` with every hit of the mix.
pub(crate) fn each_hit(mut take: impl FnMut(u64, &Hit<'_>)) -> Result<()> {
    let recording = recording()?;
    for record in Records::new(&recording) {
        let record = record.context("reading the recorded tour")?;
        match &record.hit {
            Hit::Message(message) if message.size > MAX_PAYLOAD => {}
            hit => take(record.time_ns, hit),
        }
    }
    Ok(())
}

/// The payloads of the tour's messages, all sizes, with the message type.
pub(crate) fn payloads() -> Result<Vec<(String, Bytes)>> {
    let recording = recording()?;
    let mut payloads = Vec::new();
    for record in Records::new(&recording) {
        if let Hit::Message(message) = record.context("reading the recorded tour")?.hit {
            let kind = String::from_utf8_lossy(message.msg_type).into_owned();
            payloads.push((kind, Bytes::copy_from_slice(message.payload)));
        }
    }
    Ok(payloads)
}

/// The mix as events without origin, with their times.
pub(crate) fn contents() -> Result<Vec<(u64, PeerObserverEvent)>> {
    let mut contents = Vec::new();
    each_hit(|time_ns, hit| contents.push((time_ns, convert::event(hit))))?;
    Ok(contents)
}

/// Numbers events as an extractor does.
pub(crate) struct Numbering {
    node: Arc<str>,
    session: u64,
    sequencer: Sequencer,
}

impl Numbering {
    /// The numbers of a session.
    pub(crate) fn new(session: u64) -> Self {
        Self::of("bench", session)
    }

    /// The numbers of a session at a node of that name.
    pub(crate) fn of(node: &str, session: u64) -> Self {
        Numbering { node: node.into(), session, sequencer: Sequencer::default() }
    }

    /// An event as it is delivered.
    pub(crate) fn delivery(&mut self, time_ns: u64, content: PeerObserverEvent) -> Result<Delivery> {
        let subject = Subject::of(&content).context("finding the subject of an event")?;
        let origin = Origin {
            node: self.node.to_string(),
            extractor: Source::Ebpf as i32,
            session: self.session,
            sequence: self.sequencer.next(&self.node, subject),
            time_ns,
            ..Origin::default()
        };
        let event = Event {
            timestamp: time_ns / 1_000_000,
            origin: Some(origin),
            peer_observer_event: Some(content),
        };
        Ok(Delivery { subject, event: Arc::new(event) })
    }
}

/// Bytes that a NATS client reads at once, and that its messages share.
const READ: usize = 64 << 10;

/// The mix, so many times over, as it arrives from a server: subject and encoded event, many of them in one buffer.
pub(crate) fn encoded(session: u64, times: usize) -> Result<Vec<(Subject, Bytes)>> {
    as_it_arrives(&contents()?, times, &mut [Numbering::new(session)])
}

/// These events, so many times over, of these nodes in turns, as they arrive from a server.
pub(crate) fn as_it_arrives(
    contents: &[(u64, PeerObserverEvent)],
    times: usize,
    nodes: &mut [Numbering],
) -> Result<Vec<(Subject, Bytes)>> {
    let mut encoded = Vec::with_capacity(contents.len() * times);
    let mut buffer = BytesMut::with_capacity(READ);
    for _ in 0..times {
        for (i, (time_ns, content)) in contents.iter().enumerate() {
            let node = i % nodes.len();
            let delivery = nodes[node].delivery(*time_ns, content.clone())?;
            let length = delivery.event.encoded_len();
            if buffer.capacity() < length {
                buffer = BytesMut::with_capacity(READ.max(length));
            }
            delivery.event.encode(&mut buffer).context("encoding an event")?;
            encoded.push((delivery.subject, buffer.split().freeze()));
        }
    }
    Ok(encoded)
}
