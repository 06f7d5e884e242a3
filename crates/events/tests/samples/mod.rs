//! Events to try forms on: every kind the schema knows, and those that a real node made.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use peer_observer_events::Event;
use peer_observer_node::recording::read_file;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Stands in every text of [`every_kind`]: clears a screen, forges a line, turns the direction of what follows.
pub(crate) const HOSTILE: &str = "x\u{1b}[2J\r\n--> to id=1\u{9b}\u{202e}\u{2028}";

/// An event of every kind in proto/schema.lock, all fields set, and each oneof inside them once with each member.
pub(crate) fn every_kind() -> Vec<Event> {
    let lock = std::fs::read_to_string(root().join("proto/schema.lock")).expect("proto/schema.lock");
    let fields: Vec<Field> = lock.lines().filter_map(Field::parse).collect();
    let samples = samples(&fields, "event.Event");
    samples.iter().map(|bytes| Event::decode(bytes.as_slice()).expect("an event of the schema")).collect()
}

/// What the public extractor published for data/regtest-tour, with its subjects.
pub(crate) fn recorded() -> Vec<(String, Event)> {
    const LARGEST: usize = 64 << 20;
    let path = root().join("data/regtest-tour/public-events.nats.zst");
    let mut frames = Bytes::from(read_file(&path, LARGEST).unwrap_or_else(|err| panic!("{err}")));
    let mut part = || {
        let length = frames.has_remaining().then(|| frames.get_u32_le() as usize)?;
        Some(frames.split_to(length))
    };
    let mut events = Vec::new();
    while let (Some(subject), Some(payload)) = (part(), part()) {
        let subject = String::from_utf8(subject.to_vec()).expect("a subject");
        events.push((subject, Event::decode(payload).expect("an event")));
    }
    events
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A line of proto/schema.lock: `message NAME NUMBER LABEL TYPE FIELD [oneof NAME]`.
struct Field<'a> {
    message: &'a str,
    number: u32,
    repeated: bool,
    kind: &'a str,
    oneof: Option<&'a str>,
}

impl Field<'_> {
    fn parse(line: &str) -> Option<Field<'_>> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["message", message, number, label, kind, _name, oneof @ ..] = words.as_slice() else {
            return None;
        };
        Some(Field {
            message,
            number: number.parse().expect("a number"),
            repeated: *label == "repeated",
            kind,
            oneof: oneof.get(1).copied(),
        })
    }
}

/// Encodings of a message: as many as it takes for each member of each oneof to be in one.
fn samples(schema: &[Field], message: &str) -> Vec<Vec<u8>> {
    let mut groups: Vec<(Option<&str>, Vec<Vec<u8>>)> = Vec::new();
    for field in schema.iter().filter(|field| field.message == message) {
        let encodings = encodings(schema, field);
        match groups.iter_mut().find(|(oneof, _)| oneof.is_some() && *oneof == field.oneof) {
            Some((_, members)) => members.extend(encodings),
            None => groups.push((field.oneof, encodings)),
        }
    }
    let count = groups.iter().map(|(_, encodings)| encodings.len()).max().unwrap_or(1);
    (0..count)
        .map(|i| groups.iter().flat_map(|(_, encodings)| encodings[i % encodings.len()].clone()).collect())
        .collect()
}

fn encodings(schema: &[Field], field: &Field) -> Vec<Vec<u8>> {
    let key = |wire_type| {
        let mut bytes = Vec::new();
        encode_key(field.number, wire_type, &mut bytes);
        bytes
    };
    let delimited = |content: &[u8]| {
        let mut bytes = key(WireType::LengthDelimited);
        encode_varint(content.len() as u64, &mut bytes);
        [bytes.as_slice(), content].concat()
    };
    match field.kind {
        "string" => vec![delimited(HOSTILE.as_bytes())],
        "bytes" => vec![delimited(&std::array::from_fn::<u8, 32, _>(|i| i as u8))],
        "double" => vec![[key(WireType::SixtyFourBit), 1.5_f64.to_le_bytes().to_vec()].concat()],
        "fixed64" => vec![[key(WireType::SixtyFourBit), u64::MAX.to_le_bytes().to_vec()].concat()],
        kind if schema.iter().any(|other| other.message == kind) => {
            let parts: Vec<Vec<u8>> = samples(schema, kind).iter().map(|sample| delimited(sample)).collect();
            if field.repeated { vec![parts.concat()] } else { parts }
        }
        // Integers, bool, enums.
        _ => vec![[key(WireType::Varint), vec![1]].concat()],
    }
}
