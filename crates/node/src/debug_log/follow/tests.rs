//! Every test numbers its lines: none may be missing, none may come twice.

use std::fs;
use std::io::Write;

use tempfile::TempDir;

use super::super::lines::Lines;
use super::*;

/// A node that writes numbered lines.
struct Log {
    folder: TempDir,
    file: Option<File>,
    written: u32,
}

impl Log {
    fn new() -> Self {
        Log { folder: TempDir::new().unwrap(), file: None, written: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("debug.log")
    }

    fn rotated(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens the file as the node does: at its start, and when it is asked to with SIGHUP.
    fn reopen(&mut self) {
        self.file = Some(File::options().append(true).create(true).open(self.path()).unwrap());
    }

    fn write(&mut self, lines: u32) {
        for _ in 0..lines {
            let line = format!("2026-01-01T00:00:00Z line {}\n", self.written);
            self.raw(line.as_bytes());
            self.written += 1;
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.file.is_none() {
            self.reopen();
        }
        self.file.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn rename(&self, name: &str) {
        fs::rename(self.path(), self.rotated(name)).unwrap();
    }

    /// What logrotate's copytruncate does.
    fn copy_and_truncate(&self, name: &str) {
        fs::copy(self.path(), self.rotated(name)).unwrap();
        self.truncate();
    }

    /// What `tail -F debug.log | grep` writes beside it.
    fn copy_last_line_to(&self, name: &str) {
        let line = format!("2026-01-01T00:00:00Z line {}\n", self.written - 1);
        fs::write(self.rotated(name), line).unwrap();
    }

    fn truncate(&self) {
        self.file.as_ref().unwrap().set_len(0).unwrap();
    }

    /// What the node does at its start: keeps the end of the file, which begins in the middle of a line.
    fn shrink(&mut self, keep: usize) {
        let all = fs::read(self.path()).unwrap();
        fs::write(self.path(), &all[all.len().saturating_sub(keep)..]).unwrap();
        self.reopen();
    }
}

/// Who reads them.
struct Reader {
    follower: Follower,
    lines: Lines,
    read: Vec<u32>,
    others: Vec<String>,
    breaks: Vec<Break>,
}

impl Reader {
    fn new(log: &Log, position: Option<Position>) -> Self {
        Reader {
            follower: Follower::new(log.path(), position, Begin::Start),
            lines: Lines::new(1000),
            read: Vec::new(),
            others: Vec::new(),
            breaks: Vec::new(),
        }
    }

    /// Reads with a buffer of this size until there is nothing new.
    fn poll_with(&mut self, buffer: usize) {
        let mut buffer = vec![0; buffer];
        loop {
            let step = self.follower.step(&mut buffer).unwrap();
            let (read, others) = (&mut self.read, &mut self.others);
            let mut each = |line: super::super::RawLine<'_>| {
                let text = String::from_utf8_lossy(line.bytes).into_owned();
                match text.strip_prefix("2026-01-01T00:00:00Z line ").map(str::parse) {
                    Some(Ok(number)) => read.push(number),
                    _ => others.push(text),
                }
            };
            match step {
                Step::Idle => return,
                Step::Read(n) => self.lines.push(&buffer[..n], &mut each),
                Step::Break(why) => {
                    self.lines.finish(&mut each);
                    self.breaks.push(why);
                }
            }
        }
    }

    fn poll(&mut self) {
        self.poll_with(4096);
    }

    fn polls(&mut self, n: u32) {
        for _ in 0..n {
            self.poll();
        }
    }

    fn position(&self) -> Option<Position> {
        self.follower.position(self.lines.pending())
    }

    /// Another one, which goes on where this one is.
    fn restarted(self, log: &Log) -> Self {
        let position = self.position();
        assert!(position.is_some());
        Reader { read: self.read, others: self.others, breaks: self.breaks, ..Reader::new(log, position) }
    }

    fn assert_all(&self, log: &Log) {
        assert_eq!(self.read, (0..log.written).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_is_followed_from_when_it_appears_and_partial_lines_are_completed() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    reader.polls(2);
    log.reopen();
    reader.poll();
    log.write(3);
    reader.poll();
    log.raw(b"2026-01-01T00:00:00Z li");
    reader.poll();
    assert_eq!(reader.read, [0, 1, 2]);
    log.raw(b"ne 3\n");
    log.written += 1;
    reader.poll_with(5);
    log.write(100);
    reader.poll_with(7);
    reader.assert_all(&log);
    assert!(reader.others.is_empty() && reader.breaks.is_empty());
}

#[test]
fn what_was_there_before_is_passed_over_unless_it_is_wanted() {
    let mut log = Log::new();
    log.write(5);
    log.raw(b"2026-01-01T00:00:00Z ");
    let mut reader = Reader::new(&log, None);
    reader.follower = Follower::new(log.path(), None, Begin::End);
    reader.poll();
    assert!(reader.read.is_empty());
    log.raw(b"line 5\n");
    log.written += 1;
    log.write(1);
    reader.poll();
    assert_eq!((reader.read, reader.others), (vec![5, 6], vec![]));
}

#[test]
fn rotation_by_renaming_loses_and_doubles_nothing() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    for round in 0..5 {
        log.write(10);
        reader.poll();
        log.rename(&format!("debug.log.{round}"));
        // The node writes to the renamed file until it is told to open a new one.
        log.write(10);
        reader.poll();
        log.write(1);
        File::create(log.path()).unwrap();
        reader.poll();
        log.write(1);
        log.reopen();
        if round % 2 == 0 {
            reader.poll();
        }
        log.write(1);
    }
    reader.poll();
    reader.assert_all(&log);
    assert_eq!(reader.breaks, [Break::Rotated; 5]);
}

#[test]
fn several_rotations_between_two_looks_lose_and_double_nothing() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    log.write(10);
    reader.poll();
    let mut second = 0;
    for name in ["debug.log.3", "debug.log.1", "debug.log.2"] {
        log.write(10);
        log.rename(name);
        second += 1;
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        log.file.as_ref().unwrap().set_modified(time).unwrap();
        log.reopen();
    }
    log.write(10);
    reader.poll();
    reader.assert_all(&log);
    assert_eq!(reader.breaks, [Break::Rotated; 3]);
}

#[test]
fn what_somebody_else_writes_beside_the_log_is_no_part_of_it() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    for round in 0..3 {
        log.write(10);
        reader.poll();
        log.rename(&format!("debug.log.{round}"));
        for name in ["debug.log.errors", "debug.log.1st", "debug.log2", "debug.log.state.json"] {
            log.copy_last_line_to(name);
        }
        log.reopen();
        log.write(10);
        reader.poll();
    }
    reader.assert_all(&log);
    assert_eq!(reader.breaks, [Break::Rotated; 3]);
}

#[test]
fn rotated_files_are_known_by_their_names() {
    let is = |name: &str| is_rotation(Path::new("/x/debug.log"), &Path::new("/x").join(name));
    for name in [
        "debug.log.1",
        "debug.log.12.gz",
        "debug.log-20260101",
        "debug.log-20260101-1767225600.zst",
        "debug.log.20260101T0000",
        "debug.log.2026-01-01T00:00:00Z",
        "debug.log_2026-01-01.xz",
        "debug.log.old",
        "debug.log.bak.bz2",
    ] {
        assert!(is(name), "{name}");
    }
    for name in [
        "debug.log",
        "debug.log.gz",
        "debug.log.errors",
        "debug.log2",
        "debug.log.",
        "debug.log.1x",
        "other.1",
    ] {
        assert!(!is(name), "{name}");
    }
}

#[test]
fn a_log_that_is_not_there_yet_is_waited_for_with_the_place_in_it() {
    let mut log = Log::new();
    log.write(50);
    let mut reader = Reader::new(&log, None);
    reader.poll();
    // Its volume is not mounted yet.
    let (folder, elsewhere) = (log.folder.path(), log.folder.path().with_extension("elsewhere"));
    fs::rename(folder, &elsewhere).unwrap();
    let mut reader = reader.restarted(&log);
    reader.polls(3 * LOOKS);
    fs::rename(&elsewhere, folder).unwrap();
    log.write(5);
    reader.polls(LOOKS + 1);
    reader.assert_all(&log);
    assert!(reader.breaks.is_empty() && reader.others.is_empty());
}

#[test]
fn a_line_that_was_cut_by_rotation_ends_there() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    log.write(1);
    log.raw(b"a killed node");
    reader.poll();
    log.rename("debug.log.1");
    log.reopen();
    log.write(1);
    reader.poll();
    reader.assert_all(&log);
    assert_eq!(reader.others, ["a killed node"]);
}

#[test]
fn rotation_by_copying_and_truncating_loses_and_doubles_nothing() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    for round in 0..5 {
        log.write(20);
        reader.poll();
        // These are read from the copy.
        log.write(20);
        log.copy_and_truncate(&format!("debug.log.{round}"));
        // Fewer and more than there were before.
        log.write(if round % 2 == 0 { 3 } else { 200 });
        reader.poll();
    }
    reader.poll();
    reader.assert_all(&log);
    assert!(reader.others.is_empty());
    assert!(!reader.breaks.contains(&Break::Gap));
}

#[test]
fn truncation_without_a_copy_is_told_and_what_follows_is_read() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    log.write(20);
    reader.poll();
    log.truncate();
    reader.polls(LOOKS + 1);
    log.write(20);
    reader.polls(LOOKS + 1);
    reader.assert_all(&log);
    assert_eq!(reader.breaks, [Break::Gap]);
}

#[test]
fn a_restart_while_the_place_is_looked_for_keeps_the_line_that_had_begun() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    log.write(50);
    log.raw(b"2026-01-01T00:00:00Z li");
    reader.poll();
    let all = fs::read(log.path()).unwrap();
    log.truncate();
    reader.poll();
    // Goes on as the node shrinks it; meanwhile we are restarted.
    let mut reader = reader.restarted(&log);
    log.raw(&all[500..]);
    log.raw(b"ne 50\n");
    log.written += 1;
    reader.poll();
    reader.assert_all(&log);
    assert!(reader.breaks.is_empty() && reader.others.is_empty());
}

#[test]
fn a_log_that_the_node_shrinks_at_its_start_is_not_read_again() {
    let mut log = Log::new();
    let mut reader = Reader::new(&log, None);
    log.write(1000);
    reader.poll();
    log.write(2);
    log.shrink(3000);
    log.write(10);
    reader.poll();
    reader.assert_all(&log);
    assert!(reader.breaks.is_empty());

    // Seen between truncation and writing.
    let all = fs::read(log.path()).unwrap();
    log.truncate();
    reader.poll();
    log.raw(&all[1000..]);
    log.write(10);
    reader.poll();
    reader.assert_all(&log);
    assert!(reader.breaks.is_empty() && reader.others.is_empty());
}

#[test]
fn our_restart_loses_and_doubles_nothing_wherever_it_happens() {
    let mut log = Log::new();
    log.write(30);
    let size = fs::metadata(log.path()).unwrap().len() as usize;
    for at in 1..size {
        let mut reader = Reader::new(&log, None);
        let mut buffer = vec![0; at];
        // Opens the file, then reads a piece of it.
        assert_eq!(reader.follower.step(&mut buffer).unwrap(), Step::Read(0));
        assert_eq!(reader.follower.step(&mut buffer).unwrap(), Step::Read(at));
        let read = &mut reader.read;
        reader.lines.push(&buffer, |line| {
            let text = String::from_utf8_lossy(line.bytes).into_owned();
            read.push(text.rsplit(' ').next().unwrap().parse().unwrap());
        });
        let mut reader = reader.restarted(&log);
        reader.poll();
        reader.assert_all(&log);
        assert!(reader.breaks.is_empty());
    }
}

#[test]
fn what_happened_to_the_file_while_we_were_away_is_caught_up_with() {
    type Away = fn(&mut Log);
    let cases: &[(&str, Away, bool)] = &[
        ("nothing", |_| {}, false),
        ("more lines", |log| log.write(5), false),
        (
            "renamed",
            |log| {
                log.write(5);
                log.rename("debug.log.1");
                log.write(1);
                log.reopen();
            },
            false,
        ),
        (
            "renamed, and not there yet",
            |log| {
                log.rename("debug.log.1");
                log.write(5);
            },
            false,
        ),
        (
            "renamed three times",
            |log| {
                for name in ["debug.log-20260102", "debug.log-20260101", "debug.log.old"] {
                    log.write(5);
                    log.rename(name);
                    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(log.written.into());
                    log.file.as_ref().unwrap().set_modified(time).unwrap();
                    log.reopen();
                }
            },
            false,
        ),
        (
            "copied and truncated",
            |log| {
                log.write(5);
                log.copy_and_truncate("debug.log.1");
            },
            false,
        ),
        (
            "shrunk by the node",
            |log| {
                log.write(5);
                log.shrink(700);
            },
            false,
        ),
        (
            "renamed and compressed",
            |log| {
                fs::write(log.rotated("debug.log.1.gz"), [0x1f, 0x8b, 8]).unwrap();
                fs::remove_file(log.path()).unwrap();
                log.reopen();
            },
            true,
        ),
        (
            "renamed, and being compressed",
            |log| {
                log.write(5);
                log.rename("debug.log.1");
                fs::write(log.rotated("debug.log.1.gz"), [0x1f, 0x8b, 8]).unwrap();
                log.reopen();
            },
            false,
        ),
        (
            "renamed twice, and the newer one compressed",
            |log| {
                log.rename("debug.log.2");
                fs::write(log.rotated("debug.log.1.gz"), [0x1f, 0x8b, 8]).unwrap();
                log.reopen();
            },
            true,
        ),
        (
            "a backup besides",
            |log| {
                log.write(5);
                log.rename("debug.log.1");
                fs::copy(log.rotated("debug.log.1"), log.rotated("debug.log.bak")).unwrap();
                log.reopen();
            },
            false,
        ),
        (
            "a log of somebody else besides",
            |log| {
                log.write(5);
                log.rename("debug.log.1");
                log.copy_last_line_to("debug.log.errors");
                log.reopen();
            },
            false,
        ),
    ];
    // Also from a log that was still empty when we left, which has nothing to know it by.
    for ((name, away, gap), before) in cases.iter().flat_map(|case| [(case, 50), (case, 0)]) {
        let name = format!("{name}, after {before} lines");
        let mut log = Log::new();
        log.reopen();
        log.file.as_ref().unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        log.write(before);
        let mut reader = Reader::new(&log, None);
        reader.poll();
        away(&mut log);
        log.write(5);
        let mut reader = reader.restarted(&log);
        reader.polls(LOOKS + 1);
        log.write(5);
        reader.poll();
        assert_eq!(reader.read, (0..log.written).collect::<Vec<_>>(), "{name}");
        assert_eq!(reader.breaks.contains(&Break::Gap), *gap, "{name}: {:?}", reader.breaks);
        assert!(reader.others.is_empty(), "{name}");
    }
}

#[test]
fn what_is_no_regular_file_is_an_error_and_nothing_is_waited_for() {
    let log = Log::new();
    fs::create_dir(log.path()).unwrap();
    let mut follower = Follower::new(log.path(), None, Begin::Start);
    for _ in 0..2 {
        assert!(follower.step(&mut [0; 10]).is_err());
    }
    fs::remove_dir(log.path()).unwrap();
    assert_eq!(follower.step(&mut [0; 10]).unwrap(), Step::Idle);
}
