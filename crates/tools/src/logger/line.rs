//! What an event looks like as a line.
//!
//! `2025-12-30T15:19:12.123456Z alice <-- from ...`: when, at which node, and the text of the event, whole and at the end, so
//! that what reads the text of the public logger finds it there.

use std::io::Write;

use peer_observer_events::{Event, json};

/// Where a line is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// On a terminal that shows colours.
    Ansi,
    /// Elsewhere.
    None,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text(Colour),
    /// One JSON object.
    Json,
}

/// Characters of a node's name that are printed.
const NODE_CHARS: usize = 64;

/// Stands for the node when an event does not say which it is.
const NO_NODE: &str = "-";

/// Appends the event as one line, with its line feed. Writing to a `Vec` cannot fail.
pub(super) fn write(out: &mut Vec<u8>, event: &Event, form: Form) {
    let colour = match form {
        Form::Json => {
            out.extend_from_slice(json::to_json_line(event).as_bytes());
            out.push(b'\n');
            return;
        }
        Form::Text(colour) => colour,
    };
    let (dim, bright, plain) = match colour {
        Colour::Ansi => ("\x1b[2m", "\x1b[36m", "\x1b[0m"),
        Colour::None => ("", "", ""),
    };
    let _ = out.write_all(dim.as_bytes());
    write_time(out, time_us(event));
    let _ = write!(out, "{plain} {bright}");
    match &event.origin {
        Some(origin) => {
            // The name comes from whoever publishes: it must not move the cursor.
            for c in origin.node.chars().take(NODE_CHARS).flat_map(char::escape_debug) {
                let _ = write!(out, "{c}");
            }
        }
        None => out.extend_from_slice(NO_NODE.as_bytes()),
    }
    let _ = writeln!(out, "{plain} {event}");
}

/// When it was, us since the UNIX epoch, as exact as the event says.
fn time_us(event: &Event) -> u64 {
    match &event.origin {
        Some(origin) => origin.time_ns / 1000,
        None => event.timestamp.saturating_mul(1000),
    }
}

/// Writes a time in UTC as RFC 3339 has it. The calendar repeats every 400 years, 146,097 days; years are counted from March,
/// so that a leap day is the last of its year.
fn write_time(out: &mut Vec<u8>, us: u64) {
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // 719,468 days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March have 31, 30, 31, 30, 31 days, twice and a bit: 153 days in 5.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let _ = write!(
        out,
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{us:06}Z",
        era * 400 + year,
        second / 3600,
        second / 60 % 60,
        second % 60,
    );
}

#[cfg(test)]
mod tests {
    use peer_observer_events::PeerObserverEvent;
    use peer_observer_events::proto::observer::{Origin, Source, UtxoCache};

    use super::*;

    fn event(node: &str, time_ns: u64) -> Event {
        Event {
            timestamp: time_ns / 1_000_000,
            origin: Some(Origin {
                node: node.into(),
                extractor: Source::Ebpf as i32,
                session: 1,
                sequence: 2,
                time_ns,
                ..Origin::default()
            }),
            peer_observer_event: Some(PeerObserverEvent::Utxocache(UtxoCache::default())),
        }
    }

    fn line(event: &Event, form: Form) -> String {
        let mut out = Vec::new();
        write(&mut out, event, form);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // As `date -u -d @... +%FT%TZ` says.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_767_107_952, "2025-12-30T15:19:12.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
        ] {
            let mut out = Vec::new();
            write_time(&mut out, seconds * 1_000_000);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_line_is_when_and_where_and_the_whole_text() {
        let event = event("alice", 1_767_107_952_123_456_789);
        let text = event.to_string();
        assert_eq!(
            line(&event, Form::Text(Colour::None)),
            format!("2025-12-30T15:19:12.123456Z alice {text}\n")
        );
        let coloured = line(&event, Form::Text(Colour::Ansi));
        assert!(coloured.contains("\x1b[") && coloured.ends_with(&format!("\x1b[0m {text}\n")), "{coloured}");
    }

    #[test]
    fn events_of_public_extractors_have_their_milliseconds_and_no_node() {
        let event = Event { origin: None, ..event("", 1_767_107_952_123_999_999) };
        assert!(line(&event, Form::Text(Colour::None)).starts_with("2025-12-30T15:19:12.123000Z - "));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = line(&event("alice", 1), Form::Json);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["node"], "alice");
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn hostile_names_and_times_stay_one_line() {
        let event = event(&"\x1b[2J\n".repeat(1000), u64::MAX);
        let text = line(&event, Form::Text(Colour::None));
        assert!(text.len() < 2000 && !text.contains('\x1b') && text.matches('\n').count() == 1, "{text}");
        let late = Event { timestamp: u64::MAX, origin: None, peer_observer_event: None };
        assert!(line(&late, Form::Text(Colour::None)).ends_with("Z - # EVENT None\n"));
    }
}
