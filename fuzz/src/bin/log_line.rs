//! debug.log, or something that looks like it: every byte is in a line, in whatever pieces they come; a line is taken apart
//! without losing its message; a kind is one only where the line says so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::debug_log::{Lines, Parser, kind};

/// Small enough that inputs reach it, bytes.
const MAX_LINE: usize = 600;

fuzz_target!(|input: &[u8]| {
    let Some((piece, log)) = input.split_first() else { return };
    let mut lines = Lines::new(MAX_LINE);
    let mut parser = Parser::default();
    let mut total = 0;
    let mut each = |line: peer_observer_node::debug_log::RawLine<'_>| {
        total += line.length();
        assert!(line.bytes.len() <= MAX_LINE);
        assert!(!line.bytes.contains(&b'\n') && !line.bytes.starts_with(&[0]));
        let text = String::from_utf8_lossy(line.bytes);
        let parsed = parser.parse(&text);
        assert!(text.ends_with(parsed.message));
        assert!(parsed.time_us.is_none() || !parsed.continued);
        let _ = parsed.kind();
        // Behind any header, too.
        let _ = kind(parsed.category, &text);
    };
    for piece in log.chunks(usize::from(*piece) + 1) {
        lines.push(piece, &mut each);
    }
    lines.finish(&mut each);
    let newlines = log.iter().filter(|b| **b == b'\n').count() as u64;
    // A carriage return at the end of a line belongs to its end.
    let returns = log.split(|b| *b == b'\n').filter(|line| line.ends_with(b"\r")).count() as u64;
    assert!(total + newlines <= log.len() as u64 && total + newlines + returns >= log.len() as u64);
});
