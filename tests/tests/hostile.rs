//! What other users of the machine, files and a full disk can do to the program: it stays up, and says only what is true.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File, OpenOptions};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use peer_observer_e2e::node::Node;
use peer_observer_e2e::page::{self, sum};
use peer_observer_e2e::{LONG, STOP, program};
use peer_observer_testkit::process::{Process, Signal};
use peer_observer_testkit::standin::{Binary, Config, StandIn, Variant};
use peer_observer_testkit::{need, require, wait_until};

/// Colours, a title, a carriage return, a line of a log, C1 controls, and a character that turns the direction of text.
const HOSTILE: &str =
    "x\u{1b}[31m\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z ERROR forged\u{9b}1m\u{85}\u{202e}end";

/// Fails when text of others is on a line of its own, or is more than text.
fn assert_plain(what: &str, output: &[u8]) {
    let text = std::str::from_utf8(output).unwrap_or_else(|error| panic!("{what}: {error}"));
    let is_steering =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    for line in text.lines() {
        assert!(!line.contains(is_steering), "{what}: {line:?}");
        assert!(!line.starts_with("2026-01-01"), "{what}: {line:?}");
    }
    assert!(text.contains("ERROR forged"), "{what}: the name is not in it: {text}");
}

/// Makes a named pipe in a folder.
fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Runs the program by way of a shell: `script` ends with `exec "$0" "$@"`.
fn by_shell(script: &str, args: &[&str]) -> Process {
    let (command, state) = program::command(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(program::path()).args(args);
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Process::spawn(shell).unwrap().keep(state)
}

#[test]
fn hostile_flags_forge_no_line() {
    let set = format!("metrics.metrics_address={HOSTILE}");
    let flag = format!("--{HOSTILE}");
    for args in [
        &["extract", "capture", "--recording", HOSTILE][..],
        &["extract", "capture", "--capturemessages", HOSTILE],
        &["-c", HOSTILE, "config", "check"],
        &["--set", HOSTILE, "config", "check"],
        &["--set", &set, "config", "check"],
        &["metrics", "-m", HOSTILE, "-a", "127.0.0.1:1"],
        &["logger", &flag],
        &[HOSTILE],
    ] {
        let output = program::output(args);
        assert!(!output.status.success(), "{args:?}");
        assert_plain(&format!("{args:?}"), &[output.stdout, output.stderr].concat());
    }
}

#[test]
fn hostile_names_forge_no_log_line() {
    require!(need::root());
    let folder = tempfile::tempdir().unwrap();
    let datadir = folder.path().join(HOSTILE);
    fs::create_dir(&datadir).unwrap();
    let binary = Binary::install(Variant::Core30).unwrap();
    let mut command = Command::new(binary.path());
    command.args(["-regtest", "--wait-for-go", "--synthetic", "ping", "--count", "1", "--size", "8"]);
    command.args(["--threads", "1", "--repeat", "1", "--pace", "flat-out"]);
    for option in ["datadir", "debuglogfile", "rpccookiefile"] {
        command.arg(format!("-{option}={}", datadir.display()));
    }
    let _node = Process::spawn(command).unwrap();
    let log = folder.path().join("stderr");
    let path = binary.path().display().to_string();
    let (mut command, _state) = program::command(&["run", "--no-web", "--no-metrics", "-q", "-b", &path]);
    let mut run = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let is_found = || fs::read(&log).unwrap().windows(12).any(|part| part == b"looking into");
    let found = wait_until(LONG, is_found);
    let doctor = program::output(&["--set", &format!("ebpf.bitcoind_path=[\"{path}\"]"), "doctor"]);
    let _ = run.kill();
    run.wait().unwrap();
    assert!(found, "{}", String::from_utf8_lossy(&fs::read(&log).unwrap()));
    assert_plain("run", &fs::read(&log).unwrap());
    assert_plain("doctor", &doctor.stdout);
}

#[test]
fn named_pipes_are_no_recordings() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = fifo(folder.path());
    let peer = folder.path().join("capture/127.0.0.1_8333");
    fs::create_dir_all(&peer).unwrap();
    fs::hard_link(&fifo, peer.join("msgs_recv.dat")).unwrap();
    // Else nothing in it would be a folder of a peer.
    fs::create_dir(folder.path().join("capture/127.0.0.1_8334")).unwrap();
    let capture = folder.path().join("capture");
    for (flag, path) in [("--recording", &fifo), ("--capturemessages", &capture)] {
        let mut program =
            program::start(&["extract", "capture", "-a", "127.0.0.1:1", flag, &path.display().to_string()]);
        program.wait_for_line(|line| line.contains("not a regular file"), LONG).unwrap();
        // What is left out of a folder is a loss, which waits for the server.
        program.signal(Signal::Terminate).unwrap();
        program.wait(STOP).unwrap();
    }
}

#[test]
fn blocked_tool_does_not_delay_the_exit() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = fifo(folder.path());
    let list = format!("gmax={}", fifo.display());
    let mut program =
        program::start(&["metrics", "-a", "127.0.0.1:1", "-m", "127.0.0.1:0", "--ip-list", &list]);
    let mut writer = None;
    // Without waiting, a pipe can be opened for writing only once somebody reads it.
    assert!(wait_until(LONG, || {
        const O_NONBLOCK: i32 = 0o4000;
        writer = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&fifo).ok();
        writer.is_some()
    }));
    program.signal(Signal::Terminate).unwrap();
    assert!(program.wait(STOP).unwrap().success());
}

#[test]
fn large_recording_is_played_in_bounded_memory() {
    const RECORD: u32 = 4 << 20;
    const RECORDS: usize = 384;
    // A Zstandard frame by hand: 1.5 GiB of records whose kind does not exist, almost all of them runs of one byte.
    let block = |header: u32, content: &[u8]| [&header.to_le_bytes()[..3], content].concat();
    let run = |length: u32| block(length << 3 | 1 << 1, &[0xff]);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (17 - 10) << 3];
    for _ in 0..RECORDS {
        frame.extend(block(4 << 3, &RECORD.to_le_bytes()));
        for _ in 0..RECORD >> 17 {
            frame.extend(run(1 << 17));
        }
    }
    frame.extend(block(1, &[]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.zst");
    fs::write(&path, frame).unwrap();
    let path = path.display().to_string();
    // 1.5 GiB of addresses, which is more than threads reserve.
    let mut program = by_shell(
        "ulimit -v 1572864; exec \"$0\" \"$@\"",
        &["extract", "capture", "-a", "127.0.0.1:1", "--recording", &path],
    );
    let line = program.wait_for_line(|line| line.contains("only counted"), LONG).unwrap();
    assert!(line.contains("kind 255"), "{line}");
    program.wait_for_line(|line| line.contains("played recording="), LONG).unwrap();
    assert!(program::terminate(program));
}

#[test]
fn metrics_recover_when_descriptors_run_out() {
    let mut program =
        by_shell("ulimit -n 32; exec \"$0\" \"$@\"", &["metrics", "-a", "127.0.0.1:1", "-m", "127.0.0.1:0"]);
    let address = program::page_address(&mut program);
    let connections: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    program.wait_for_line(|line| line.contains("Too many open files"), LONG).unwrap();
    drop(connections);
    assert!(wait_until(LONG, || page::fetch(address).is_ok()));
    assert!(program::terminate(program));
}

#[test]
fn log_is_followed_while_the_state_disk_is_full() {
    require!(need::root());
    let mut node = Node::start(&Config::pings(1), "");
    let disk = tempfile::tempdir().unwrap();
    let flags = node.flags();
    let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
    args.extend(["--no-rpc", "--json"]);
    let script = format!(
        "mount -t tmpfs -o size=16k tmpfs '{0}' && head -c 100000 /dev/zero >'{0}/fill' 2>/dev/null
         STATE_DIRECTORY='{0}' exec unshare -m \"$0\" \"$@\"",
        disk.path().display()
    );
    // The mount is in a namespace of its own, so nothing of it is left.
    let (command, state) = program::command(&args);
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &script]).arg(program::path()).args(&args);
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut program = Process::spawn(shell).unwrap().keep(state);
    program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    let mut is_warned = false;
    let mut is_told = false;
    assert!(wait_until(LONG, || {
        node.log.write(b"2026-01-01T00:00:01Z UpdateTip: new best=ab height=1\n").unwrap();
        while let Ok(line) = program.wait_for_line(|_| true, std::time::Duration::from_millis(50)) {
            is_warned |= line.contains("No space left on device");
            is_told |= line.contains("UpdateTip");
        }
        is_warned && is_told
    }));
    assert!(program::terminate(program));
}

#[test]
fn mutated_probe_notes_harm_only_their_program() {
    require!(need::root());
    const MUTANTS: usize = 10;
    let mut good = StandIn::start(Variant::Core30, &Config::pings(100)).unwrap();
    // A fixed generator (xorshift), so that a failure can be seen again.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mutants: Vec<StandIn> = (0..MUTANTS)
        .map(|number| {
            let binary = Binary::install(Variant::Core30).unwrap();
            let mut program = fs::read(binary.path()).unwrap();
            let notes: Vec<usize> =
                (12..program.len() - 100).filter(|at| program[*at..].starts_with(b"stapsdt\0")).collect();
            // Lengths of this and the next note, addresses, names, forms of arguments.
            for _ in 0..8 {
                let at = notes[next() % notes.len()] - 12 + next() % 90;
                program[at] = next() as u8;
            }
            // Of the note of `net:inbound_message`: the forms of its arguments, which libbpf quotes when it does not know them.
            const NAME: &[u8] = b"net\0inbound_message\0";
            let at = program.windows(NAME.len()).position(|part| part == NAME);
            if let Some(at) = at.filter(|_| number % 2 == 0) {
                program[at + NAME.len()] = 0xff;
            }
            fs::write(binary.path(), program).unwrap();
            binary.start(&Config::pings(1)).unwrap()
        })
        .collect();
    let binaries: Vec<String> =
        mutants.iter().chain([&good]).map(|node| node.binary().path().display().to_string()).collect();
    let mut args =
        vec!["run", "--no-web", "-q", "-m", "127.0.0.1:0", "--set", "rpc.prometheus_address=127.0.0.1:0"];
    for binary in &binaries {
        args.extend(["-b", binary]);
    }
    let mut program = program::start(&args);
    let address = program::page_address(&mut program);
    let path = &binaries[MUTANTS];
    program.wait_for_line(|line| line.contains("watching") && line.contains(path), LONG).unwrap();
    good.go().unwrap();
    assert_eq!(good.report(LONG).unwrap().fired, 100);
    program::wait_for_page(address, |page| sum(page, "p2p_message_count", &["message=\"ping\""]) == 100.0);
    assert!(program::terminate(program));
}
