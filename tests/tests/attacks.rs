//! Attacks by users of the machine: processes that claim to be nodes. Whatever they do, the honest node is watched, and nothing of
//! others is read.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::io::{PipeWriter, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use peer_observer_bus::Bus;
use peer_observer_e2e::account::{Account, Kept};
use peer_observer_e2e::extractor::Extractor;
use peer_observer_e2e::victim::{Victim, report, rounds};
use peer_observer_e2e::{LONG, program, turn, until};
use peer_observer_extractors::ebpf;
use peer_observer_testkit::process::Process;
use peer_observer_testkit::standin::{Binary, Config, Source, StandIn, Synthetic, SyntheticMessage, Variant};
use peer_observer_testkit::{need, other_user, require, wait_until};
use tempfile::TempDir;

/// Users that nobody is.
const STRANGER: u32 = 54_321;

/// Processes of strangers that are called `bitcoind` and wait.
struct Fakes {
    folder: TempDir,
    processes: Vec<Child>,
    // They end when it is closed.
    _open: PipeWriter,
    input: std::io::PipeReader,
}

impl Fakes {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/sh", folder.path().join("bitcoind")).unwrap();
        let (input, open) = std::io::pipe().unwrap();
        Fakes { folder, processes: Vec::new(), _open: open, input }
    }

    /// A data directory of this user.
    fn datadir(&self, name: &str, user: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.join("regtest")).unwrap();
        for folder in [&path, &path.join("regtest")] {
            chown(folder, Some(user), Some(user)).unwrap();
        }
        path
    }

    /// As many as a user can start, of each of four users, each with a log or with 16 MiB of settings.
    fn start_thousand(&mut self, round: u32) {
        const INCLUDED: usize = 16;
        let filler = "=\n".repeat(1 << 19);
        for user in STRANGER..STRANGER + 4 {
            let shared = self.datadir(&format!("conf-{user}"), user);
            let mut conf = String::new();
            for i in 0..INCLUDED {
                conf.push_str(&format!("includeconf={i}.conf\n"));
                write_own(&shared.join(format!("{i}.conf")), &filler, user);
            }
            write_own(&shared.join("bitcoin.conf"), &conf, user);
            for i in 0..250 {
                // Half of them with much to read, half of them with a log of their own.
                let datadir = match i % 2 {
                    0 => shared.clone(),
                    _ => self.datadir(&format!("{round}-{user}-{i}"), user),
                };
                write_own(&datadir.join("regtest/debug.log"), "2026-01-01T00:00:00Z x\n", user);
                let datadir = format!("-datadir={}", datadir.display());
                self.start(user, &["-regtest", &datadir, "-rpcport=1"]);
            }
        }
    }

    /// Kills the oldest ones until so many are left.
    fn keep_newest(&mut self, count: usize) {
        let old = self.processes.len().saturating_sub(count);
        self.processes.drain(..old).for_each(end);
    }

    fn start(&mut self, user: u32, arguments: &[&str]) {
        let mut command = Command::new(self.folder.path().join("bitcoind"));
        command.args(["-c", "read line", "bitcoind"]).args(arguments);
        command.stdin(self.input.try_clone().unwrap()).uid(user).gid(user).current_dir("/");
        self.processes.push(command.spawn().unwrap());
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        self.keep_newest(0);
    }
}

fn end(mut process: Child) {
    let _ = process.kill();
    let _ = process.wait();
}

fn write_own(path: &Path, text: &str, user: u32) {
    fs::write(path, text).unwrap();
    chown(path, Some(user), Some(user)).unwrap();
}

/// S3, S4, S13: as many processes as a user can start, each with a log and with 16 MiB of settings.
#[test]
fn thousand_fake_nodes_with_megabytes_of_settings_do_no_harm() {
    require!(need::root());
    let _turn = turn();
    let mut victim = Victim::start();
    for round in rounds() {
        let mut fakes = Fakes::new();
        fakes.start_thousand(round);
        victim.wait_for_line(|line| line.contains("too many nodes"));
        victim.assert_watched();
    }
    victim.assert_unharmed("1,000 fake nodes of four users, half of them with 16 MiB of settings");
}

/// S3: the program ends although the attack goes on.
#[test]
fn program_stops_while_a_thousand_fake_nodes_run() {
    require!(need::root());
    let _turn = turn();
    let mut victim = Victim::start();
    let mut fakes = Fakes::new();
    fakes.start_thousand(0);
    victim.wait_for_line(|line| line.contains("too many nodes"));
    victim.stop();
    for process in &mut fakes.processes {
        assert!(process.try_wait().unwrap().is_none(), "a fake node ended before the program did");
    }
}

/// S13: short-lived processes with paths and arguments as long as the kernel takes them.
#[test]
fn long_paths_of_short_lived_processes_do_no_harm() {
    require!(need::root());
    let _turn = turn();
    let mut victim = Victim::start();
    let long = "x".repeat(120_000);
    for round in rounds() {
        let mut fakes = Fakes::new();
        for i in 0..400 {
            let datadir = format!("-datadir=/{round}-{i}-{long}");
            fakes.start(STRANGER, &["-regtest", &datadir, &long, &long, &long]);
            fakes.keep_newest(4);
            if i % 20 == 0 {
                victim.memory_kb();
            }
        }
        victim.assert_watched();
    }
    victim.assert_unharmed("400 short-lived processes with paths of 120 kB");
}

/// S2, S11: logs, cookies and settings that lead to files of root, or of the kernel.
#[test]
fn files_of_others_are_never_read_for_a_node() {
    require!(need::root());
    let _turn = turn();
    let secrets = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(secrets.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let secret = secrets.path().join("secret");
    fs::write(&secret, "2026-01-01T00:00:00Z SECRET-OF-ROOT\nuser:SECRET-OF-ROOT\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let root_only = secrets.path().join("root-only");
    fs::write(&root_only, "2026-01-01T00:00:00Z SECRET-OF-ROOT\n").unwrap();
    fs::set_permissions(&root_only, fs::Permissions::from_mode(0o600)).unwrap();

    let mut fakes = Fakes::new();
    let mut logs = Vec::new();
    for (name, target) in [
        ("link", secret.as_path()),
        ("maps", Path::new("/proc/1/maps")),
        ("environ", Path::new("/proc/self/environ")),
        ("closed", &root_only),
    ] {
        let datadir = fakes.datadir(name, STRANGER);
        logs.push(datadir.join("regtest/debug.log"));
        symlink(target, datadir.join("regtest/debug.log")).unwrap();
        symlink(target, datadir.join("regtest/.cookie")).unwrap();
        fakes.start(STRANGER, &["-regtest", &format!("-datadir={}", datadir.display()), "-rpcport=1"]);
    }
    let bitcoind = fakes.folder.path().join("bitcoind").display().to_string();
    let mut program = program::start(&[
        "run",
        "--json",
        "--no-metrics",
        "--no-web",
        "-b",
        &bitcoind,
        "--set",
        "rpc.prometheus_address=127.0.0.1:0",
    ]);
    // Each of the four logs was tried, and refused.
    let mut refused = 0;
    while refused < 4 {
        let line = program.wait_for_line(|_| true, LONG).unwrap();
        assert!(!line.contains("SECRET"), "{line}");
        assert!(!line.contains("\"extractor\":\"log\""), "{line}");
        refused += usize::from(line.contains("cannot read the log"));
    }
    // One that may be read: a log of their own is followed.
    let datadir = fakes.datadir("honest", STRANGER);
    let log = datadir.join("regtest/debug.log");
    write_own(&log, "2026-01-01T00:00:00Z first\n", STRANGER);
    fakes.start(STRANGER, &["-regtest", &format!("-datadir={}", datadir.display()), "-rpcport=1"]);
    let mut number = 0;
    loop {
        number += 1;
        let mut text = fs::read_to_string(&log).unwrap();
        text.push_str(&format!("2026-01-01T00:00:00Z line {number}\n"));
        write_own(&log, &text, STRANGER);
        if let Ok(line) = program
            .wait_for_line(|line| line.contains("\"extractor\":\"log\""), std::time::Duration::from_secs(1))
        {
            assert!(!line.contains("SECRET"), "{line}");
            break;
        }
        assert!(number < 180, "the log that may be read is not read");
    }
    assert!(program::terminate(program));
}

/// S2: a user exchanges the folder of his log with a link to one of root, as fast as the kernel can, while the log is followed.
#[test]
fn folder_exchanged_with_a_link_gives_nothing_away() {
    require!(need::root());
    let _turn = turn();
    let secrets = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(secrets.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let line = |text: &str, number: u32| format!("2026-01-01T00:00:00Z {text} {number}\n");
    // Its file may be read by everybody, and its folder be searched by root only.
    let mut secret = log_for_all(&secrets.path().join("debug.log"));
    let mut fakes = Fakes::new();
    let datadir = fakes.datadir("exchanged", STRANGER);
    let (own, link) = (datadir.join("regtest"), datadir.join("link"));
    let mut log = log_for_all(&own.join("debug.log"));
    symlink(secrets.path(), &link).unwrap();
    fakes.start(STRANGER, &["-regtest", &format!("-datadir={}", datadir.display()), "-rpcport=1"]);
    let bitcoind = fakes.folder.path().join("bitcoind").display().to_string();
    let mut program =
        program::start(&["run", "--json", "--no-metrics", "--no-web", "--no-rpc", "-b", &bitcoind]);
    program.wait_for_line(|line| line.contains("looking into"), LONG).unwrap();
    let _exchanging = other_user::exchange(STRANGER, &own, &link).unwrap();
    // Whenever there is nothing new, the follower opens the path again, to see whether the log was rotated: that of root would
    // be the next one.
    let (mut written, mut read) = (0, 0);
    for _ in rounds() {
        let enough = read + 1_000;
        let is_enough = wait_until(LONG, || {
            written += 1;
            log.write_all(line("OWN", written).as_bytes()).unwrap();
            secret.write_all(line("SECRET", written).as_bytes()).unwrap();
            for line in program.take_lines() {
                assert!(!line.contains("SECRET"), "{line}");
                read += u32::from(line.contains("OWN"));
            }
            read >= enough
        });
        assert!(is_enough, "only {read} lines were read");
    }
    assert!(program::terminate(program));
    report("a folder exchanged with a link", &format!("{read} own lines read, none of others"));
}

/// A log that all may read, of root: only its folder says whose it is.
fn log_for_all(path: &Path) -> File {
    let file = File::create(path).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    file
}

/// S6: programs with more forms of arguments than there is room for, then an honest node.
#[test]
fn programs_with_many_argument_forms_leave_room_for_others() {
    require!(need::root());
    let _turn = turn();
    let mut program = program::start(&["run", "--no-metrics", "--no-web", "--no-rpc", "--no-log"]);
    let config = Config { user: Some(STRANGER), ..Config::pings(3) };
    let fakes: Vec<StandIn> = (0..3).map(|_| StandIn::start(Variant::ManyForms, &config).unwrap()).collect();
    program.wait_for_line(|line| line.contains("in too many places"), LONG).unwrap();
    let mut honest = StandIn::start(Variant::Core30, &Config::pings(3)).unwrap();
    let pid = format!("pid={}", honest.pid());
    program.wait_for_line(|line| line.contains("watching") && line.contains(&pid), LONG).unwrap();
    assert_all_hits_are_seen(&mut program, &mut honest);
    drop(fakes);
    assert!(program::terminate(program));
}

fn assert_all_hits_are_seen(program: &mut Process, node: &mut StandIn) {
    node.go().unwrap();
    assert_eq!(node.report(LONG).unwrap().fired, 3);
    for _ in 0..3 {
        program.wait_for_line(|line| line.contains("<--") && line.contains("Ping"), LONG).unwrap();
    }
}

/// S6: programs of another user are attached to process by process, each with forms of its own.
#[test]
fn all_nodes_of_another_user_are_attached() {
    require!(need::root());
    let _turn = turn();
    const NODES: usize = 64;
    let binary = Binary::install(Variant::Core30).unwrap();
    let config = Config { user: Some(STRANGER), ..Config::pings(3) };
    let mut nodes: Vec<StandIn> = (0..NODES).map(|_| binary.start(&config).unwrap()).collect();
    let path = binary.path().display().to_string();
    let mut program =
        program::start(&["run", "--no-metrics", "--no-web", "--no-rpc", "--no-log", "-b", &path]);
    for _ in 0..NODES {
        let line =
            program.wait_for_line(|line| line.contains("watching") || line.contains("cannot"), LONG).unwrap();
        assert!(line.contains("watching"), "{line}");
    }
    // The first and the last one are seen to the last hit.
    for at in [0, NODES - 1] {
        assert_all_hits_are_seen(&mut program, &mut nodes[at]);
    }
    assert!(program::terminate(program));
}

/// D8: a program of another user floods the ring buffer that all nodes share.
#[tokio::test(flavor = "multi_thread")]
async fn hits_beside_a_flood_of_another_user_are_published_or_counted() {
    require!(need::root());
    let _turn = turn();
    const ROUNDS: u64 = 20;
    const PINGS: u64 = 500;
    let message = SyntheticMessage::Ping;
    let flood = Source::Synthetic(Synthetic { message, count: 250_000, size: 8, threads: 2 });
    let flood = Config { user: Some(STRANGER), ..Config::new(flood) };
    let mut hostile = StandIn::start(Variant::Core30, &flood).unwrap();
    let mut honest = StandIn::start(Variant::Core30, &Config::pings(PINGS)).unwrap();
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    let programs = [&honest, &hostile].map(|standin| standin.binary().path().to_path_buf());
    let config = ebpf::Config {
        bitcoind_path: programs.into(),
        ring_buffer_bytes: 64 << 10,
        ..ebpf::Config::default()
    };
    let mut extractor = Extractor::start(config, &bus);
    for _ in 0..2 {
        extractor.watched().await;
    }
    hostile.go().unwrap();
    for _ in 0..ROUNDS {
        honest.go().unwrap();
        assert_eq!(honest.report(LONG).unwrap().fired, PINGS);
    }
    let flooded = hostile.report(LONG).unwrap().fired;
    extractor.stop().await;
    let fired = flooded + ROUNDS * PINGS;
    until("the account is closed", || kept.look(Account::hits) >= fired).await;
    let account = kept.close(&bus).await;
    account.assert_books_are_even();
    let of_honest = account.books.iter().filter(|((pid, _), _)| *pid == honest.pid());
    assert_eq!(of_honest.map(|(_, book)| book.hits).sum::<u64>(), ROUNDS * PINGS);
    assert_eq!(account.hits(), fired);
    assert_eq!(account.total() + account.total_lost(), fired, "{:?}", account.lost);
    assert_eq!((account.out_of_order, account.nonces_out_of_order), (0, 0));
}

/// S7: a stranger who names the data directory of another user is not that user's node.
#[test]
fn stranger_with_the_data_directory_of_a_node_does_not_take_its_name() {
    require!(need::root());
    let _turn = turn();
    let mut honest = StandIn::start(Variant::Core30, &Config::pings(3)).unwrap();
    let datadir = format!("-datadir={}", honest.datadir().display());
    let mut fakes = Fakes::new();
    // First, so that the name is free.
    fakes.start(STRANGER, &["-regtest", &datadir]);
    let name = format!("{}=alice", honest.datadir().display());
    let mut program = program::start(&[
        "run",
        "--json",
        "--no-metrics",
        "--no-web",
        "--node",
        &name,
        "--set",
        "rpc.prometheus_address=127.0.0.1:0",
    ]);
    let (mut of_stranger, mut of_honest, mut is_watched) = (None, None, false);
    let pids = [fakes.processes[0].id(), honest.pid()].map(|pid| format!("pid={pid}"));
    let has_pid = |line: &str, pid: &str| line.split(' ').any(|word| word == pid);
    // The eBPF extractor says that a node is gone, and only of nodes that it has seen: its start takes longer than that of others.
    while of_stranger.is_none() || of_honest.is_none() || !is_watched {
        let line = program.wait_for_line(|line| line.contains("node="), LONG).unwrap();
        is_watched |= line.contains("watching") && has_pid(&line, &pids[1]);
        if !line.contains("looking into") {
            continue;
        }
        let name = line.split_once("node=").unwrap().1.split(' ').next().unwrap().to_owned();
        match () {
            () if has_pid(&line, &pids[0]) => of_stranger = Some(name),
            () if has_pid(&line, &pids[1]) => of_honest = Some(name),
            () => {}
        }
    }
    assert_eq!(of_honest.as_deref(), Some("alice"));
    assert!(
        of_stranger.as_deref().is_some_and(|name| name.starts_with("regtest-user-54321")),
        "{of_stranger:?}"
    );
    honest.kill().unwrap();
    let is_gone = |line: &str| line.contains("node is gone") && has_pid(line, &pids[1]);
    let line = program.wait_for_line(is_gone, LONG).unwrap();
    assert!(line.contains("node=alice"), "{line}");
    assert!(line.contains("ended=signal 9") || line.contains("ended=unknown"), "{line}");
    assert!(program::terminate(program));
}
