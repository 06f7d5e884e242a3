//! A debug.log in a folder whose owner does to it whatever a user can do: it is read on, in bounded memory, and nothing waits.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use peer_observer_node::debug_log::{Begin, Follower, Lines, Step};

/// The extractor keeps as much of a line, bytes.
const MAX_LINE: usize = 10 << 20;

/// What the follower reads until there is nothing new, as lines. Errors are for the owner of the log; it can be tried again.
fn poll(follower: &mut Follower, lines: &mut Lines, mut each: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    // Each change is one or two steps of none but bytes.
    for _ in 0..10_000 {
        match follower.step(&mut buffer) {
            Ok(Step::Read(n)) => lines.push(&buffer[..n], |line| each(line.bytes)),
            Ok(Step::Break(_)) => lines.finish(|line| each(line.bytes)),
            Ok(Step::Idle) | Err(_) => return,
        }
    }
    panic!("the follower does not come to an end");
}

/// Removes whatever is there.
fn clear(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir(path);
    }
}

#[test]
fn log_survives_a_storm_of_replacements() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let log = at("debug.log");
    assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let mut follower = Follower::new(&log, None, Begin::Start);
    let mut lines = Lines::new(MAX_LINE);
    // A fixed generator (xorshift), so that a failure can be seen again.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..400 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        match random % 10 {
            0 if fs::symlink_metadata(&log).is_ok_and(|metadata| metadata.is_file()) => {
                fs::rename(&log, at(&format!("debug.log.{}", random >> 60))).unwrap();
            }
            1 if fs::metadata(&log).is_ok_and(|metadata| metadata.is_file()) => {
                let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
                file.set_len(random >> 52).unwrap();
            }
            2 => clear(&log),
            3..6 => {
                clear(&log);
                // To a rotated file, to itself, to a folder, to a pipe that nobody writes to.
                let target = ["debug.log.1", "debug.log", ".", "fifo"][random as usize % 4];
                symlink(at(target), &log).unwrap();
            }
            6 => {
                clear(&log);
                let _ = fs::create_dir(&log);
            }
            _ => {
                if fs::symlink_metadata(&log).is_ok_and(|metadata| !metadata.is_file()) {
                    clear(&log);
                }
                let text = format!("line {round}\n\0\0\u{fffd}");
                fs::write(&log, text.repeat(1 + (random >> 58) as usize)).unwrap();
            }
        }
        poll(&mut follower, &mut lines, |_| {});
    }
    clear(&log);
    fs::write(&log, "the last line\n").unwrap();
    let mut last = Vec::new();
    // A file that was just cut is looked at a few times before its place is given up.
    for _ in 0..20 {
        poll(&mut follower, &mut lines, |line| last = line.to_vec());
    }
    assert_eq!(last, b"the last line");
}

#[test]
fn endless_line_and_hole_of_nuls_take_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("debug.log");
    fs::write(&log, "before\n").unwrap();
    // Holes: 32 MB that take no room on disk, and no memory here.
    let file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.set_len(32 << 20).unwrap();
    let mut follower = Follower::new(&log, None, Begin::Start);
    let mut lines = Lines::new(MAX_LINE);
    let mut found = Vec::new();
    let mut each = |line: &[u8]| found.push(line.len());
    poll(&mut follower, &mut lines, &mut each);
    let long = vec![b'x'; 1 << 20];
    for _ in 0..12 {
        (&file).write_all(&long).unwrap();
        poll(&mut follower, &mut lines, &mut each);
    }
    (&file).write_all(b"\nafter\n").unwrap();
    poll(&mut follower, &mut lines, &mut each);
    assert_eq!(found, [6, MAX_LINE, 5]);
}
