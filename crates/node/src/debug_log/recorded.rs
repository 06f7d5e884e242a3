//! Real logs: every line of a kind becomes that kind, with what other means find in the line.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::recording;

fn log(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name);
    String::from_utf8(recording::read_file(&path, 16 << 20).unwrap()).unwrap()
}

fn name(kind: &Kind<'_>) -> String {
    let name = match kind {
        Kind::SawNewHeader { compact: true, .. } => "SawNewHeader(compact)".into(),
        Kind::Discouraged { outcome, .. } => format!("Discouraged({outcome:?})"),
        kind => format!("{kind:?}"),
    };
    name.split(" {").next().unwrap().to_owned()
}

fn counts(text: &str) -> BTreeMap<String, usize> {
    let mut parser = Parser::default();
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        if let Some(kind) = parser.parse(line).kind() {
            *counts.entry(name(&kind)).or_default() += 1;
        }
    }
    counts
}

/// Lines with this text, whatever stands around it.
fn grep(text: &str, wanted: &str) -> usize {
    text.lines().filter(|line| line.contains(wanted)).count()
}

/// What [`counts`] has to find, found by looking for words.
fn grepped(text: &str) -> BTreeMap<String, usize> {
    let eviction = "for eviction, disconnecting";
    let compact = "Saw new cmpctblock header hash";
    [
        ("BlockConnected", grep(text, "BlockConnected: block hash")),
        ("BlockChecked", grep(text, "BlockChecked: block hash")),
        ("SawNewHeader", grep(text, "Saw new header hash")),
        ("SawNewHeader(compact)", grep(text, compact)),
        ("Reconstructed", grep(text, "Successfully reconstructed block")),
        ("UpdateTip", grep(text, "UpdateTip: new best")),
        ("Misbehaving", grep(text, "Misbehaving: peer=")),
        ("Discouraged(Disconnected)", grep(text, "disconnecting but not discouraging")),
        ("Eviction", grep(text, eviction)),
        ("Disconnect", grep(text, "disconnecting peer=") - grep(text, eviction)),
        ("OrphansRemoved", grep(text, "removed orphan tx")),
        ("NodeStarted", grep(text, "Bitcoin Core version v")),
        ("NodeStopped", grep(text, "Shutdown in progress") + grep(text, "Shutdown done")),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}

#[test]
fn every_recorded_line_of_a_kind_becomes_that_kind() {
    let cases: [(&str, &[(&str, usize)]); 3] = [
        (
            "regtest-tour/debug.log.zst",
            &[
                ("BlockConnected", 310),
                ("BlockChecked", 155),
                ("SawNewHeader", 3),
                ("UpdateTip", 156),
                ("Misbehaving", 4),
                ("Discouraged(Disconnected)", 4),
            ],
        ),
        (
            "regtest-tour/debug-threadnames.log.zst",
            &[
                ("BlockConnected", 310),
                ("BlockChecked", 155),
                ("SawNewHeader", 5),
                ("SawNewHeader(compact)", 117),
                ("Reconstructed", 117),
                ("UpdateTip", 156),
            ],
        ),
        ("regtest-busy/debug.log.zst", &[("Eviction", 105)]),
    ];
    for (file, expected) in cases {
        let text = log(file);
        let counts = counts(&text);
        assert_eq!(counts, grepped(&text), "{file}");
        for (kind, count) in expected {
            assert_eq!(counts.get(*kind), Some(count), "{kind} in {file}");
        }
    }
    let tour = log("regtest-tour/debug.log.zst");
    assert_eq!(grep(&tour, "Enqueuing BlockConnected: block hash"), 155);
}

#[test]
fn every_recorded_line_has_its_header_taken_off() {
    for (file, threads, untimed) in [
        ("regtest-tour/debug.log.zst", false, 5),
        ("regtest-tour/debug-threadnames.log.zst", true, 5),
        ("regtest-busy/debug.log.zst", false, 1227),
    ] {
        let text = log(file);
        let mut parser = Parser::default();
        let mut without_time = 0;
        let mut last = 0;
        for raw in text.lines() {
            let line = parser.parse(raw);
            assert!(raw.ends_with(line.message), "{raw}");
            let Some(time_us) = line.time_us else {
                without_time += 1;
                assert_eq!(line.message, raw);
                continue;
            };
            // Lines of several threads are not quite in order.
            assert!(time_us + 1_000_000 > last, "{raw}");
            last = time_us;
            assert_eq!(line.thread.is_some(), threads, "{raw}");
            assert_eq!(line.location.is_some() && line.function.is_some(), threads, "{raw}");
            assert_eq!(
                line.category.is_none(),
                line.level != Level::Debug && line.level != Level::Trace,
                "{raw}"
            );
            let message = line.message;
            assert!(!message.starts_with("[net") && !message.starts_with("[init"), "{raw}");
        }
        assert_eq!(without_time, untimed, "{file}");
    }
}

#[test]
fn recorded_disconnects_say_who_and_why() {
    let text = log("regtest-busy/debug.log.zst");
    let mut parser = Parser::default();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for raw in text.lines() {
        let line = parser.parse(raw);
        let (peer, addr) = match line.kind() {
            Some(Kind::Disconnect { peer, addr, reason }) => {
                *reasons.entry(reason.into_owned()).or_default() += 1;
                (peer, addr)
            }
            Some(Kind::Eviction { peer, addr }) => (peer, addr),
            _ => continue,
        };
        let addr = addr.unwrap();
        assert!(raw.contains(&format!("disconnecting peer={peer} peeraddr={addr}")), "{raw}");
        assert!(addr.parse::<std::net::SocketAddr>().is_ok(), "{addr}");
    }
    for (reason, count) in &reasons {
        let start = reason.split(':').next().unwrap();
        assert_eq!(grep(&text, &format!("[net] {start}, disconnecting")), {
            reasons.iter().filter(|(r, _)| r.split(':').next() == Some(start)).map(|(_, n)| n).sum::<usize>()
        });
        assert!(*count > 0);
    }
    assert!(reasons.contains_key("socket closed"), "{reasons:?}");
}
