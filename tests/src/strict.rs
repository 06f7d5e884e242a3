//! The public schema, and nothing else than the public schema.
//!
//! Public tools end at an event whose oneof they do not know, so what goes out on subjects of one token has to be just what they
//! can read. Decoders are too kind to tell: prost fills in what is missing and passes over what it does not know. This one
//! reads an event against `public-schema.txt`, which does not come from proto/, and refuses everything that is not as it says.

use std::collections::{BTreeMap, BTreeSet};

/// First number of our additions, which public readers skip.
const OURS: u32 = 100;
/// Values of ConnType that are ours and excepted: manual, addr-fetch, private-broadcast. Public readers take them as they are.
const EXCEPTED_CONN_TYPES: [u64; 3] = [5, 6, 7];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Label {
    Required,
    Optional,
    Repeated,
    Oneof(String),
}

#[derive(Debug)]
struct Field {
    name: String,
    kind: String,
    label: Label,
}

/// A schema.
#[derive(Debug)]
pub struct Schema {
    messages: BTreeMap<String, BTreeMap<u32, Field>>,
    enums: BTreeMap<String, BTreeSet<u64>>,
}

/// A field as it lies on the wire.
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Fixed32,
    Bytes(&'a [u8]),
}

impl Schema {
    /// The public schema.
    ///
    /// # Panics
    /// When its text is broken.
    pub fn public() -> Self {
        let mut schema = Schema { messages: BTreeMap::new(), enums: BTreeMap::new() };
        let mut current = "";
        for line in include_str!("public-schema.txt").lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["message", name] => {
                    current = name;
                    schema.messages.insert((*name).to_owned(), BTreeMap::new());
                }
                ["enum", name] => {
                    current = name;
                    schema.enums.insert((*name).to_owned(), BTreeSet::new());
                }
                [number, _] => {
                    let values = schema.enums.get_mut(current).expect("values stand in enums");
                    values.insert(number.parse().expect("a number"));
                }
                [number, name, kind, label @ ..] => {
                    let label = match label {
                        ["required"] => Label::Required,
                        ["optional"] => Label::Optional,
                        ["repeated"] => Label::Repeated,
                        ["oneof", oneof] => Label::Oneof((*oneof).to_owned()),
                        _ => panic!("{line}: no such label"),
                    };
                    let field = Field { name: (*name).to_owned(), kind: (*kind).to_owned(), label };
                    let fields = schema.messages.get_mut(current).expect("fields stand in messages");
                    fields.insert(number.parse().expect("a number"), field);
                }
                _ => panic!("{line}: neither message, enum, value nor field"),
            }
        }
        schema
    }

    /// Reads an encoded event.
    ///
    /// # Errors
    /// What a public reader could not make sense of, and where.
    pub fn check_event(&self, event: &[u8]) -> Result<(), String> {
        self.check("event.Event", event).map_err(|why| format!("Event{why}"))
    }

    fn check(&self, name: &str, mut bytes: &[u8]) -> Result<(), String> {
        let fields = self.messages.get(name).ok_or_else(|| format!(": {name} is not in the schema"))?;
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        while !bytes.is_empty() {
            let (number, value) = take_field(&mut bytes).ok_or(": cut short or no protobuf")?;
            let Some(field) = fields.get(&number) else {
                if number >= OURS {
                    continue;
                }
                return Err(format!(": {name} has no field {number}"));
            };
            *seen.entry(number).or_default() += 1;
            self.check_value(field, &value).map_err(|why| format!(".{}{why}", field.name))?;
        }
        let mut oneofs: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, field) in fields {
            let times = seen.get(number).copied().unwrap_or(0);
            match &field.label {
                Label::Required if times != 1 => {
                    return Err(format!(": the required field {} is there {times} times", field.name));
                }
                Label::Optional if times > 1 => {
                    return Err(format!(": {} is there {times} times", field.name));
                }
                Label::Oneof(oneof) => *oneofs.entry(oneof).or_default() += times,
                _ => {}
            }
        }
        match oneofs.into_iter().find(|(_, times)| *times != 1) {
            Some((oneof, times)) => Err(format!(": {times} members of the oneof {oneof}, must be 1")),
            None => Ok(()),
        }
    }

    fn check_value(&self, field: &Field, value: &Value<'_>) -> Result<(), String> {
        let fits = match (field.kind.as_str(), value) {
            ("bool", Value::Varint(value)) => *value <= 1,
            ("uint32", Value::Varint(value)) => u32::try_from(*value).is_ok(),
            ("sint32", Value::Varint(value)) => u32::try_from(*value).is_ok(),
            // Negative ones take ten bytes.
            ("int32", Value::Varint(value)) => i32::try_from(*value as i64).is_ok(),
            ("uint64" | "int64" | "sint64", Value::Varint(_)) => true,
            ("fixed64" | "double", Value::Fixed64) => true,
            ("fixed32", Value::Fixed32) => true,
            ("bytes", Value::Bytes(_)) => true,
            ("string", Value::Bytes(bytes)) => std::str::from_utf8(bytes).is_ok(),
            (kind, Value::Varint(value)) => match self.enums.get(kind) {
                Some(known) => {
                    let excepted =
                        kind == "bitcoin_primitives.ConnType" && EXCEPTED_CONN_TYPES.contains(value);
                    known.contains(value) || excepted
                }
                None => false,
            },
            (kind, Value::Bytes(bytes)) if self.messages.contains_key(kind) => {
                return self.check(kind, bytes);
            }
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(format!(": no value of {}", field.kind)),
        }
    }
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = take_varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Varint(take_varint(bytes)?),
        1 => {
            take(bytes, 8)?;
            Value::Fixed64
        }
        2 => {
            let length = take_varint(bytes)?;
            Value::Bytes(take(bytes, usize::try_from(length).ok()?)?)
        }
        5 => {
            take(bytes, 4)?;
            Value::Fixed32
        }
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, value))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_the_public_extractor_are_the_public_schema() {
        let schema = Schema::public();
        let public = crate::recorded::public();
        assert_eq!(public.len(), 1_646);
        for published in public {
            assert_eq!(schema.check_event(&published.payload), Ok(()), "{}", published.subject);
        }
    }

    #[test]
    fn what_public_tools_cannot_read_is_refused() {
        // Event 10: timestamp. 1: ebpf; within, 1: message, 4: mempool; within, 1: added {1 txid, 2 vsize, 3 fee}, 4: rejected.
        // Message {1: meta {1 peer_id, 2 addr, 3 conn_type, 4 command, 5 inbound, 6 size}, 32: verack}.
        let meta = |conn_type: u8| [0x08, 1, 0x12, 1, b'a', 0x18, conn_type, 0x22, 1, b'v', 0x28, 1, 0x30, 0];
        let message = |conn_type: u8| {
            let mut message = vec![0x50, 1, 0x0a, 21, 0x0a, 19, 0x0a, 14];
            message.extend(meta(conn_type));
            message.extend([0x80, 0x02, 1]);
            message
        };
        let schema = Schema::public();
        let added = [0x0a, 1, 9, 0x10, 1, 0x18, 1];
        let event = |mempool: &[u8]| {
            let mut event = vec![0x50, 1, 0x0a, mempool.len() as u8 + 2, 0x22, mempool.len() as u8];
            event.extend_from_slice(mempool);
            event
        };
        let member = |number: u8, fields: &[u8]| {
            let mut mempool = vec![number << 3 | 2, fields.len() as u8];
            mempool.extend_from_slice(fields);
            event(&mempool)
        };
        let good = member(1, &added);
        assert_eq!(schema.check_event(&good), Ok(()));
        // A field that is ours, outside of the oneof: origin.
        assert_eq!(schema.check_event(&[good.as_slice(), &[0xa2, 0x06, 0]].concat()), Ok(()));
        for conn_type in 0..=7 {
            assert_eq!(schema.check_event(&message(conn_type)), Ok(()), "{conn_type}");
        }
        let cases: [(Vec<u8>, &str); 12] = [
            (good[..good.len() - 1].to_vec(), "cut short"),
            (good[2..].to_vec(), "timestamp is there 0 times"),
            (vec![0x50, 1], "0 members of the oneof peer_observer_event"),
            (vec![0x50, 1, 0xaa, 0x06, 0], "0 members of the oneof peer_observer_event"),
            (vec![0x50, 1, 0x32, 0], "no field 6"),
            (vec![0x50, 1, 0x1a, 0], "0 members of the oneof p2p_event"),
            (vec![0x50, 1, 0x0a, 2, 0x1a, 0], "no field 3"),
            (event(&[]), "0 members of the oneof event"),
            (member(1, &added[..5]), "fee is there 0 times"),
            (member(4, &[0x0a, 1, 9, 0x12, 1, 0xff]), "no value of string"),
            (member(1, &[0x08, 1, 0x10, 1, 0x18, 1]), "no value of bytes"),
            (message(8), "no value of bitcoin_primitives.ConnType"),
        ];
        for (bytes, expected) in cases {
            let why = schema.check_event(&bytes).expect_err(expected);
            assert!(why.contains(expected), "{why}, expected {expected}");
        }
    }
}
