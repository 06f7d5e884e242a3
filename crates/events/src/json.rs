//! Events as JSON, for pages and other programs.
//!
//! The public form is what the public websocket tool sends: only what stands in the event's oneof, without time and
//! origin, as `{"EbpfExtractor":{"ebpf_event":{"Message":{...}}}}`. Names are the schema's (those of oneof members in
//! CamelCase), bytes are arrays of numbers, enums are numbers, maps are objects, absent values `null`. Integers of 64 bits
//! are numbers: readers that keep numbers as doubles (JavaScript) round nonces and sessions above 2^53. What the schema
//! has beyond the public one (`decode_error`, `captured`, `detail`) is left out when it is not set.

use serde::Serialize;

use crate::proto::observer::Source;
use crate::{Event, PeerObserverEvent, Subject};

/// The public form; nothing for an event that is empty.
pub fn to_json(event: &Event) -> Option<String> {
    // Cannot fail: keys are strings or integers, and memory takes all that is written.
    event.peer_observer_event.as_ref().and_then(|event| serde_json::to_string(event).ok())
}

/// Writes the public form to the end of `out`; nothing for an event that is empty.
///
/// # Errors
///
/// Those of `out`, as I/O errors inside [`serde_json::Error`].
pub fn write_json(event: &Event, out: impl std::io::Write) -> Result<(), serde_json::Error> {
    match &event.peer_observer_event {
        Some(event) => serde_json::to_writer(out, event),
        None => Ok(()),
    }
}

/// The event with where it comes from, as one line of JSON without the line feed:
/// `{"time_ns","node","extractor","session","sequence","subject","event"}`.
///
/// `event` is the public form, `subject` the bus subject without prefix, `extractor` a name like `ebpf`. Events of the
/// public extractors have no origin: node, extractor, session and sequence are then `null`, and `time_ns` (ns since the
/// UNIX epoch) is as exact as their milliseconds.
pub fn to_json_line(event: &Event) -> String {
    let origin = event.origin.as_ref();
    let line = Line {
        time_ns: origin.map_or_else(|| event.timestamp.saturating_mul(1_000_000), |origin| origin.time_ns),
        node: origin.map(|origin| origin.node.as_str()),
        extractor: origin
            .and_then(|origin| Source::try_from(origin.extractor).ok())
            .map(|source| source.as_str_name().to_lowercase()),
        session: origin.map(|origin| origin.session),
        sequence: origin.map(|origin| origin.sequence),
        subject: event.peer_observer_event.as_ref().and_then(Subject::of).map(Subject::as_str),
        event: event.peer_observer_event.as_ref(),
    };
    // Cannot fail, see `to_json`.
    serde_json::to_string(&line).unwrap_or_default()
}

#[derive(Serialize)]
struct Line<'a> {
    time_ns: u64,
    node: Option<&'a str>,
    extractor: Option<String>,
    session: Option<u64>,
    sequence: Option<u64>,
    subject: Option<&'static str>,
    event: Option<&'a PeerObserverEvent>,
}
