//! Keeps the schema readable by everyone who reads it today.
//!
//! proto/schema.lock lists every number, name, type and label of the schema as it was released. Bytes written with it are
//! in archives and on buses, so nothing in the list may change or go. What is new in messages of the public peer-observer
//! takes numbers from 100 up, so that it cannot meet what upstream adds; messages of the package `observer` are ours.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use protox::prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind};

use crate::proto;

const LOCK: &str = "proto/schema.lock";

/// First number for what is ours in messages and enums of the public schema.
const FIRST_OF_OURS: i64 = 100;

const HEAD: &str = "\
# Every number, name, label and type of the schema. Nothing here may change or go: `cargo xtask regenerate schema-lock`
# adds what is new and refuses the rest. To take over a number below 100 that upstream has added, add its line by hand.
";

/// What bytes on the wire depend on, one line each, by what must stay: message and number, or enum and number.
#[derive(Debug, PartialEq, Eq)]
struct Lines(BTreeMap<Place, String>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// `message` or `enum`.
    kind: String,
    /// Full name: `event.Event`.
    name: String,
    number: i64,
}

/// A change of the schema that existing readers or data would not survive.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Removed { place: Place, was: String },
    Changed { place: Place, was: String, is: String },
    BelowOurs { place: Place },
    Required { place: Place },
}

/// Writes the lock; fails, and writes nothing, when the schema has changed in a way that breaks readers.
pub(crate) fn regenerate(root: &Path) -> Result<()> {
    let path = root.join(LOCK);
    let schema = Lines::of(&proto::compile(root)?.descriptor_pool());
    if path.exists() {
        refuse(&read(&path)?.refusals(&schema))?;
    }
    std::fs::write(&path, schema.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// Fails when the schema breaks readers, or has something that the lock does not record.
pub(crate) fn check(root: &Path) -> Result<()> {
    let lock = read(&root.join(LOCK))?;
    let schema = Lines::of(&proto::compile(root)?.descriptor_pool());
    refuse(&lock.refusals(&schema))?;
    if lock != schema {
        bail!("{LOCK} does not record all of proto/: run `cargo xtask regenerate schema-lock`");
    }
    Ok(())
}

fn read(path: &Path) -> Result<Lines> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Lines::parse(&text).with_context(|| format!("reading {}", path.display()))
}

fn refuse(refusals: &[Refusal]) -> Result<()> {
    if refusals.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = refusals.iter().map(|refusal| format!("\n  {refusal}")).collect();
    bail!("proto/ has changed in a way that breaks readers of what exists:{}", list.concat());
}

impl Lines {
    fn of(pool: &DescriptorPool) -> Lines {
        let mut lines = BTreeMap::new();
        for message in pool.all_messages().filter(|message| !is_library(message.full_name())) {
            for field in message.fields() {
                let place = Place::new("message", message.full_name(), field.number().into());
                lines.insert(place, describe(&field));
            }
        }
        for list in pool.all_enums().filter(|list| !is_library(list.full_name())) {
            for value in list.values() {
                let place = Place::new("enum", list.full_name(), value.number().into());
                lines.insert(place, value.name().to_owned());
            }
        }
        Lines(lines)
    }

    fn parse(text: &str) -> Result<Lines> {
        let mut lines = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(4, ' ');
            let (Some(kind), Some(name), Some(number), Some(rest)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                bail!("expected `message|enum NAME NUMBER WHAT`, found `{line}`");
            };
            let number = number.parse().with_context(|| format!("no number in `{line}`"))?;
            if lines.insert(Place::new(kind, name, number), rest.to_owned()).is_some() {
                bail!("stands there twice: `{line}`");
            }
        }
        Ok(Lines(lines))
    }

    /// What in `schema` breaks those who rely on `self`.
    fn refusals(&self, schema: &Lines) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for (place, was) in &self.0 {
            let (place, was) = (place.clone(), was.clone());
            match schema.0.get(&place) {
                None => refusals.push(Refusal::Removed { place, was }),
                Some(is) if *is != was => refusals.push(Refusal::Changed { place, was, is: is.clone() }),
                Some(_) => {}
            }
        }
        for (place, is) in schema.0.iter().filter(|(place, _)| !self.0.contains_key(place)) {
            let place = place.clone();
            // A new message may have any numbers in a package of ours, and in none of the public ones.
            if place.is_public() && place.number < FIRST_OF_OURS {
                refusals.push(Refusal::BelowOurs { place });
            } else if self.has(&place) && is.starts_with("required ") {
                refusals.push(Refusal::Required { place });
            }
        }
        refusals
    }

    fn has(&self, like: &Place) -> bool {
        self.0.keys().any(|place| place.kind == like.kind && place.name == like.name)
    }
}

impl Place {
    fn new(kind: &str, name: &str, number: i64) -> Place {
        Place { kind: kind.to_owned(), name: name.to_owned(), number }
    }

    fn is_public(&self) -> bool {
        !self.name.starts_with("observer.")
    }
}

fn is_library(name: &str) -> bool {
    name.starts_with("google.")
}

fn describe(field: &FieldDescriptor) -> String {
    let label = match field.cardinality() {
        Cardinality::Optional => "optional",
        Cardinality::Required => "required",
        Cardinality::Repeated => "repeated",
    };
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(list) => list.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    let oneof = field.containing_oneof().map(|oneof| format!(" oneof {}", oneof.name())).unwrap_or_default();
    let packed = if field.is_packed() { " packed" } else { "" };
    format!("{label} {kind} {}{oneof}{packed}", field.name())
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        self.0.iter().try_for_each(|(place, what)| writeln!(f, "{place} {what}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.name, self.number)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Removed { place, was } => {
                write!(f, "{place} {was}: gone; keep it, even when nothing sets it")
            }
            Refusal::Changed { place, was, is } => {
                write!(f, "{place} {was}: is now `{is}`; leave it and add a new number")
            }
            Refusal::BelowOurs { place } => {
                write!(
                    f,
                    "{place}: new in a public package; take a number from {FIRST_OF_OURS} up, or package observer"
                )
            }
            Refusal::Required { place } => {
                write!(f, "{place}: new and required, so what exists lacks it; make it optional")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
message event.Event 10 required uint64 timestamp
message event.Event 1 optional rpc_extractor.rpc rpc_extractor oneof peer_observer_event
message observer.Loss 1 required uint64 count
enum bitcoin_primitives.ConnType 4 Feeler
";

    #[test]
    fn the_schema_keeps_what_the_lock_lists_and_the_lock_lists_all_of_it() -> Result<()> {
        check(&crate::root()?)
    }

    #[test]
    fn a_change_that_breaks_readers_is_refused_and_one_that_does_not_is_taken() {
        // What is replaced in the old schema, by what, and the number of the line in question where it is refused.
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("", "", None),
            ("message event.Event 10 required uint64 timestamp\n", "", Some("gone")),
            ("required uint64 timestamp", "required uint32 timestamp", Some("is now")),
            ("required uint64 timestamp", "optional uint64 timestamp", Some("is now")),
            ("required uint64 timestamp", "required uint64 time", Some("is now")),
            (" oneof peer_observer_event", "", Some("is now")),
            ("event.Event 10", "event.Event 11", Some("gone")),
            ("observer.Loss", "observer.Lost", Some("gone")),
            ("enum bitcoin_primitives.ConnType 4 Feeler\n", "", Some("gone")),
            ("4 Feeler", "4 Manual", Some("is now")),
            ("enum ", "message event.Event 12 optional uint64 x\nenum ", Some("from 100 up")),
            ("enum ", "message event.New 1 optional uint64 x\nenum ", Some("from 100 up")),
            ("4 Feeler", "4 Feeler\nenum bitcoin_primitives.ConnType 8 New", Some("from 100 up")),
            ("enum ", "message event.Event 100 required uint64 x\nenum ", Some("make it optional")),
            ("enum ", "message observer.Loss 2 required uint64 x\nenum ", Some("make it optional")),
            ("enum ", "message event.Event 100 optional uint64 x\nenum ", None),
            ("enum ", "message observer.Loss 2 optional uint64 x\nenum ", None),
            ("enum ", "message observer.New 1 required uint64 x\nenum ", None),
            ("4 Feeler", "4 Feeler\nenum observer.New 0 A", None),
        ];
        let old = Lines::parse(OLD).unwrap();
        for (from, to, expected) in cases {
            let new = Lines::parse(&OLD.replacen(from, to, 1)).unwrap();
            let refused = refuse(&old.refusals(&new)).map_err(|error| error.to_string());
            match expected {
                None => assert_eq!(refused, Ok(()), "`{from}` -> `{to}`"),
                Some(why) => {
                    let error = refused.expect_err(&format!("`{from}` -> `{to}` was taken"));
                    assert!(error.contains(why), "`{from}` -> `{to}`: {error}");
                }
            }
        }
    }

    #[test]
    fn a_lock_is_read_back_as_it_was_written() {
        let lines = Lines::parse(OLD).unwrap();
        assert_eq!(Lines::parse(&lines.to_string()).unwrap(), lines);
        for broken in ["message event.Event ten required uint64 x", "message event.Event 1", &OLD.repeat(2)] {
            assert!(Lines::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn every_field_says_what_it_is() -> Result<()> {
        for message in proto::compile(&crate::root()?)?.descriptor_pool().all_messages() {
            if message.is_map_entry() {
                continue;
            }
            let file = message.parent_file().file_descriptor_proto().clone();
            let locations = file.source_code_info.unwrap_or_default().location;
            for field in message.fields() {
                let comment = locations
                    .iter()
                    .find(|location| location.path == field.path())
                    .map(|location| location.leading_comments().trim().to_owned())
                    .unwrap_or_default();
                assert!(comment.len() > 2, "{} has no comment", field.full_name());
                assert!(!comment.contains("TODO"), "{}: {comment}", field.full_name());
            }
        }
        Ok(())
    }
}
