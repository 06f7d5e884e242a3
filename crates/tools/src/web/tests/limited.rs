//! Limited mode against every event that the schema has: one for each choice of each oneof, made
//! from `proto/schema.lock`, with an address in every field that may have one.

use std::collections::{BTreeMap, BTreeSet};

use peer_observer_events::Subject;
use prost::Message as _;

use super::*;
use crate::web::views::TOPICS;

const LOCK: &str = include_str!("../../../../../proto/schema.lock");
const ADDRESS: &str = "203.0.113.77:18333";
const BYTES: [u8; 4] = [203, 0, 113, 77];
/// What must not come out: the address, its bytes in hex, its group of networks, its port.
const MARKS: [&str; 4] = ["203.0.113.77", "cb00714d", "203.0.", "18333"];
/// Parts of the names of texts that may be addresses. Others are shown: user agents, names of
/// nodes, types of messages.
const ADDRESSES: [&str; 16] = [
    "addr", "source", "ip", "subnet", "line", "onion", "local", "bind", "tor", "cjdns", "host", "mapped",
    "debug", "message", "raw", "log",
];

struct Field {
    number: u64,
    kind: String,
    name: String,
    oneof: Option<String>,
}

type Schema = BTreeMap<String, Vec<Field>>;
/// Numbers of fields that are chosen, by message and oneof.
type Choices = BTreeMap<(String, String), u64>;

fn schema() -> Schema {
    let mut schema = Schema::new();
    for line in LOCK.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["message", message, number, _label, kind, name, oneof @ ..] = &words[..] else { continue };
        let oneof = if let ["oneof", oneof, ..] = oneof { Some((*oneof).to_owned()) } else { None };
        let number = number.parse().unwrap();
        let field = Field { number, kind: (*kind).into(), name: (*name).into(), oneof };
        schema.entry((*message).to_owned()).or_default().push(field);
    }
    schema
}

/// Adds the choices that lead to each field of each oneof in a message.
fn choices(
    schema: &Schema,
    message: &str,
    made: &Choices,
    path: &mut Vec<String>,
    all: &mut BTreeSet<Choices>,
) {
    if path.iter().filter(|on_path| *on_path == message).count() > 1 {
        return;
    }
    path.push(message.to_owned());
    for field in schema.get(message).into_iter().flatten() {
        let mut made = made.clone();
        if let Some(oneof) = &field.oneof {
            made.insert((message.to_owned(), oneof.clone()), field.number);
            all.insert(made.clone());
        }
        choices(schema, &field.kind, &made, path, all);
    }
    path.pop();
}

/// A message with a value in every field that is not ruled out by a choice. The first field of a
/// oneof is chosen by default.
fn encode(schema: &Schema, message: &str, made: &Choices, depth: usize) -> Vec<u8> {
    let fields = &schema[message];
    let mut out = Vec::new();
    for field in fields {
        if let Some(oneof) = &field.oneof {
            let default = || fields.iter().find(|other| other.oneof.as_ref() == Some(oneof)).unwrap().number;
            let chosen = made.get(&(message.to_owned(), oneof.clone())).copied().unwrap_or_else(default);
            if chosen != field.number {
                continue;
            }
        }
        let nested = schema.contains_key(&field.kind);
        if nested && depth > 12 {
            continue;
        }
        let (wire, value) = match field.kind.as_str() {
            "string" if ADDRESSES.iter().any(|part| field.name.contains(part)) => (2, ADDRESS.into()),
            "string" => (2, b"zz".into()),
            "bytes" => (2, BYTES.into()),
            "double" | "fixed64" | "sfixed64" => (1, vec![0; 8]),
            "float" | "fixed32" | "sfixed32" => (5, vec![0; 4]),
            _ if nested => (2, encode(schema, &field.kind, made, depth + 1)),
            _ => (0, vec![7]),
        };
        prost::encoding::encode_varint(field.number << 3 | wire, &mut out);
        if wire == 2 {
            prost::encoding::encode_varint(value.len() as u64, &mut out);
        }
        out.extend(value);
    }
    out
}

/// Every event.
fn events() -> Vec<PeerObserverEvent> {
    let schema = schema();
    let mut all = BTreeSet::new();
    choices(&schema, "event.Event", &Choices::new(), &mut Vec::new(), &mut all);
    let event = |made: &Choices| {
        let bytes = encode(&schema, "event.Event", made, 0);
        Event::decode(&*bytes)
            .unwrap_or_else(|error| panic!("{made:?}: {error}"))
            .peer_observer_event
            .unwrap()
    };
    all.iter().map(event).filter(|event| Subject::of(event).is_some()).collect()
}

#[tokio::test]
async fn limited_mode_hides_addresses_of_all_events() {
    let events = events();
    assert!(events.len() > 150, "{}", events.len());
    for limited in [false, true] {
        let mut running = Running::start(Config { web_limited: limited, ..Config::default() }).await;
        for (i, event) in events.iter().enumerate() {
            running.publish(1 + i as u64, event.clone());
        }
        running.wait_for("/api/v1/health", |health| health["events"] == events.len()).await;
        let mut found = BTreeSet::new();
        for topic in TOPICS {
            for query in
                ["", "?node=alice", "?id=7", "?id=0", "?limit=2000", "?range=3600", "?after=0&limit=2000"]
            {
                let path = format!("/api/v1/{}{query}", topic.name);
                let (head, body) = running.get(&path).await;
                assert!(!head.starts_with("HTTP/1.1 429"), "{path}");
                found.extend(
                    MARKS.iter().filter(|mark| body.contains(**mark)).map(|mark| (path.clone(), mark)),
                );
            }
        }
        assert_eq!(found.is_empty(), limited, "{found:?}");
        running.end().await;
    }
}
