//! The origin of an encoded event, without decoding it.
//!
//! Whoever receives events has to notice holes before anything waits in a queue, and decoding everything at that place
//! would make the receiver slow. This walks over the outermost fields only.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

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

/// Bytes that are no event.
#[derive(Debug, thiserror::Error)]
#[error("not an encoded event: {0}")]
pub struct Malformed(&'static str);

// Field numbers of proto/event.proto and proto/observer.proto.
const ORIGIN: u32 = 100;
const NODE: u32 = 1;
const EXTRACTOR: u32 = 2;
const SESSION: u32 = 3;
const SEQUENCE: u32 = 4;
const STREAM_AGE_S: u32 = 6;

/// The origin of an encoded event; nothing for an event of the public extractors.
///
/// # Errors
/// When the outermost fields are malformed. What is inside them is not looked at.
pub fn origin(event: &[u8]) -> Result<Option<Origin<'_>>, Malformed> {
    let mut rest = event;
    let mut found = None;
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(|_| Malformed("bad field key"))?;
        match wire_type {
            WireType::LengthDelimited => {
                let field = length_delimited(&mut rest)?;
                if tag == ORIGIN {
                    found = Some(parse(field)?);
                }
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())
                .map_err(|_| Malformed("bad field value"))?,
        }
    }
    Ok(found)
}

fn length_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = decode_varint(rest).map_err(|_| Malformed("bad length"))?;
    if length > rest.len() as u64 {
        return Err(Malformed("a field is longer than the event"));
    }
    let (field, after) = rest.split_at(length as usize);
    *rest = after;
    Ok(field)
}

fn parse(mut rest: &[u8]) -> Result<Origin<'_>, Malformed> {
    let mut origin = Origin { node: "", extractor: 0, session: 0, sequence: 0, stream_age_s: None };
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(|_| Malformed("bad key in the origin"))?;
        match (tag, wire_type) {
            (NODE, WireType::LengthDelimited) => {
                origin.node = std::str::from_utf8(length_delimited(&mut rest)?)
                    .map_err(|_| Malformed("the node's name is not UTF-8"))?;
            }
            (EXTRACTOR, WireType::Varint) => {
                origin.extractor =
                    decode_varint(&mut rest).map_err(|_| Malformed("bad extractor in the origin"))? as i32;
            }
            (SESSION, WireType::SixtyFourBit) => {
                origin.session = rest.try_get_u64_le().map_err(|_| Malformed("bad session in the origin"))?;
            }
            (SEQUENCE, WireType::Varint) => {
                origin.sequence =
                    decode_varint(&mut rest).map_err(|_| Malformed("bad sequence in the origin"))?;
            }
            (STREAM_AGE_S, WireType::Varint) => {
                let age = decode_varint(&mut rest).map_err(|_| Malformed("bad stream age in the origin"))?;
                origin.stream_age_s = Some(age as u32);
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())
                .map_err(|_| Malformed("bad value in the origin"))?,
        }
    }
    Ok(origin)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::{event::Event, observer};

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
}
