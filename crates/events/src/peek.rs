//! What a receiver of encoded events checks, mostly without decoding them.
//!
//! Whoever receives events has to notice holes before anything waits in a queue, and decoding everything at that place
//! would make the receiver slow. This walks over the outermost fields only.

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::Event;

/// Where an event comes from: what [`crate::proto::observer::Origin`] says, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Part of peer-observer, as in the schema's `Source`.
    pub extractor: i32,
    /// Session of the extractor.
    pub session: u64,
    /// Number in the stream.
    pub sequence: u64,
    /// Whole seconds since the first event of the stream was sent, where that is known.
    pub stream_age_s: Option<u32>,
}

/// Longest name of a node, bytes. Subscribers keep it for each stream.
pub const MAX_NODE_NAME: usize = 255;

/// Bytes that are no event, or none that is accepted.
#[derive(Debug, thiserror::Error)]
#[error("not an encoded event: {0}")]
pub struct Malformed(Reason);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Shape(&'static str),
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

fn malformed(what: &'static str) -> Malformed {
    Malformed(Reason::Shape(what))
}

const LONG_NAME: &str = "the node's name is too long";

/// Decodes an event as it comes from a bus.
///
/// # Errors
/// When it is malformed, or the name of its node is longer than [`MAX_NODE_NAME`].
pub fn decode(bytes: Bytes) -> Result<Event, Malformed> {
    let event = Event::decode(bytes).map_err(|error| Malformed(error.into()))?;
    if event.origin.as_ref().is_some_and(|origin| origin.node.len() > MAX_NODE_NAME) {
        return Err(malformed(LONG_NAME));
    }
    Ok(event)
}

/// What a receiver needs of an encoded event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peeked<'a> {
    /// Where it comes from; nothing for an event of the public extractors.
    pub origin: Option<Origin<'a>>,
    /// The encoded [`crate::proto::observer::StreamPositions`], when it is one.
    pub positions: Option<&'a [u8]>,
}

// Field numbers of proto/event.proto and proto/observer.proto.
const ORIGIN: u32 = 100;
const STREAM_POSITIONS: u32 = 108;
const NODE: u32 = 1;
const EXTRACTOR: u32 = 2;
const SESSION: u32 = 3;
const SEQUENCE: u32 = 4;
const STREAM_AGE_S: u32 = 6;

/// The origin of an encoded event; nothing for an event of the public extractors.
///
/// # Errors
/// As [`peek`].
pub fn origin(event: &[u8]) -> Result<Option<Origin<'_>>, Malformed> {
    Ok(peek(event)?.origin)
}

/// What a receiver needs of an encoded event.
///
/// # Errors
/// When the outermost fields or the origin are malformed, or the name of the node is longer than
/// [`MAX_NODE_NAME`]. What is inside other fields is not looked at.
pub fn peek(event: &[u8]) -> Result<Peeked<'_>, Malformed> {
    let mut rest = event;
    let mut peeked = Peeked::default();
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(|_| malformed("bad field key"))?;
        match wire_type {
            WireType::LengthDelimited => {
                let field = length_delimited(&mut rest)?;
                match tag {
                    ORIGIN => peeked.origin = Some(parse(field)?),
                    STREAM_POSITIONS => peeked.positions = Some(field),
                    _ => {}
                }
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())
                .map_err(|_| malformed("bad field value"))?,
        }
    }
    Ok(peeked)
}

fn length_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = decode_varint(rest).map_err(|_| malformed("bad length"))?;
    if length > rest.len() as u64 {
        return Err(malformed("a field is longer than the event"));
    }
    let (field, after) = rest.split_at(length as usize);
    *rest = after;
    Ok(field)
}

fn parse(mut rest: &[u8]) -> Result<Origin<'_>, Malformed> {
    let mut origin = Origin { node: "", extractor: 0, session: 0, sequence: 0, stream_age_s: None };
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(|_| malformed("bad key in the origin"))?;
        match (tag, wire_type) {
            (NODE, WireType::LengthDelimited) => {
                let name = length_delimited(&mut rest)?;
                if name.len() > MAX_NODE_NAME {
                    return Err(malformed(LONG_NAME));
                }
                origin.node =
                    std::str::from_utf8(name).map_err(|_| malformed("the node's name is not UTF-8"))?;
            }
            (EXTRACTOR, WireType::Varint) => {
                origin.extractor =
                    decode_varint(&mut rest).map_err(|_| malformed("bad extractor in the origin"))? as i32;
            }
            (SESSION, WireType::SixtyFourBit) => {
                origin.session = rest.try_get_u64_le().map_err(|_| malformed("bad session in the origin"))?;
            }
            (SEQUENCE, WireType::Varint) => {
                origin.sequence =
                    decode_varint(&mut rest).map_err(|_| malformed("bad sequence in the origin"))?;
            }
            (STREAM_AGE_S, WireType::Varint) => {
                let age = decode_varint(&mut rest).map_err(|_| malformed("bad stream age in the origin"))?;
                origin.stream_age_s = Some(age as u32);
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())
                .map_err(|_| malformed("bad value in the origin"))?,
        }
    }
    Ok(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerObserverEvent;
    use crate::proto::observer;

    #[test]
    fn the_origin_is_what_the_event_was_encoded_with() {
        let mut event = Event {
            timestamp: 5,
            origin: Some(observer::Origin {
                node: "alice".into(),
                extractor: 2,
                session: u64::MAX,
                sequence: 1 << 40,
                time_ns: 9,
                stream_age_s: Some(u32::MAX),
            }),
            peer_observer_event: None,
        };
        let bytes = event.encode_to_vec();
        let expected = Origin {
            node: "alice",
            extractor: 2,
            session: u64::MAX,
            sequence: 1 << 40,
            stream_age_s: Some(u32::MAX),
        };
        assert_eq!(origin(&bytes).unwrap(), Some(expected));
        event.origin = None;
        assert_eq!(origin(&event.encode_to_vec()).unwrap(), None);
    }

    #[test]
    fn truncated_events_are_errors_or_have_no_origin() {
        let event = Event {
            timestamp: 5,
            origin: Some(observer::Origin {
                node: "alice".into(),
                extractor: 2,
                session: 3,
                sequence: 4,
                time_ns: 9,
                ..observer::Origin::default()
            }),
            peer_observer_event: None,
        };
        let bytes = event.encode_to_vec();
        for end in 0..bytes.len() {
            assert!(!matches!(origin(&bytes[..end]), Ok(Some(_))), "complete at {end} of {}", bytes.len());
        }
    }

    #[test]
    fn long_node_names_are_malformed() {
        let named = |bytes| {
            let origin = Some(observer::Origin { node: "n".repeat(bytes), ..Default::default() });
            Bytes::from(Event { timestamp: 5, origin, peer_observer_event: None }.encode_to_vec())
        };
        let longest = named(MAX_NODE_NAME);
        assert!(origin(&longest).is_ok() && decode(longest.clone()).is_ok());
        for bytes in [MAX_NODE_NAME + 1, 4_000_000] {
            let long = named(bytes);
            assert!(origin(&long).is_err() && decode(long.clone()).is_err(), "{bytes}");
            // Fields that come twice are merged.
            let twice = Bytes::from([long, longest.clone()].concat());
            assert!(origin(&twice).is_err(), "{bytes}");
        }
    }

    #[test]
    fn announced_positions_are_found() {
        let positions = observer::StreamPositions { streams: Vec::new(), leaving: true };
        let event = Event {
            timestamp: 5,
            origin: None,
            peer_observer_event: Some(PeerObserverEvent::StreamPositions(positions.clone())),
        };
        let bytes = event.encode_to_vec();
        let found = peek(&bytes).unwrap().positions.map(observer::StreamPositions::decode);
        assert_eq!(found, Some(Ok(positions)));
    }
}
