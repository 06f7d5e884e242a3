//! The program from outside: what it prints, how it ends, what it may do, what it refuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use peer_observer_e2e::page::{self, sum};
use peer_observer_e2e::{LONG, STOP, program};
use peer_observer_testkit::process::{Process, Signal};
use peer_observer_testkit::standin::{Binary, Config, Pace, StandIn, Variant};
use peer_observer_testkit::{free_port, need, require};

/// Capabilities that the eBPF extractor needs while it runs (linux/capability.h): CAP_DAC_READ_SEARCH 2, CAP_SYS_PTRACE 19,
/// CAP_PERFMON 38, CAP_BPF 39.
const NEEDED: u64 = 1 << 2 | 1 << 19 | 1 << 38 | 1 << 39;

/// Plays the demo to its end. Returns what it logged, and its lines of events without the time in front.
fn demo(args: &[&str]) -> (String, Vec<String>) {
    let all = [&["demo", "--once", "--speed", "50", "-m", "127.0.0.1:0"], args].concat();
    let output = program::output(&all);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let text = String::from_utf8(output.stdout).unwrap();
    (log, text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect())
}

#[test]
fn the_demo_shows_the_same_with_and_without_probes() {
    let (log, straight) = demo(&["--no-probes"]);
    assert!(log.contains("straight from the recording"), "{log}");
    assert_eq!(straight.len(), 1_653, "{log}");
    let starting =
        |text: &str| straight.iter().filter(|line| line.starts_with(&format!("demo {text} "))).count();
    assert_eq!((starting("-->"), starting("<--"), starting("#")), (1_005, 388, 260));
    require!(need::root());
    let (log, through_probes) = demo(&[]);
    assert!(log.contains("through real probes"), "{log}");
    assert!(log.contains("network=\"regtest\" datadir=/nonexistent"), "not a node of the user's: {log}");
    assert_eq!(through_probes, straight);
}

/// Starts `run` with one stand-in, and waits until it watches it.
fn run(standin: &StandIn, args: &[&str]) -> Process {
    let binary = standin.binary().path().display().to_string();
    let mut program = program::start(&[&["run", "--no-web", "-b", &binary], args].concat());
    program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    program
}

#[test]
fn everything_that_was_seen_before_a_signal_is_shown_and_the_end_is_quick() {
    require!(need::root());
    // So many that most are on their way, and so few that even a busy machine shows them in the time for it.
    const PINGS: u64 = 1_000;
    for signal in [Signal::Interrupt, Signal::Terminate] {
        let mut standin = StandIn::start(Variant::Core30, &Config::pings(PINGS)).unwrap();
        let mut program = run(&standin, &["--no-metrics"]);
        standin.go().unwrap();
        assert_eq!(standin.report(LONG).unwrap().fired, PINGS);
        program.signal(signal).unwrap();
        let status = program.wait(STOP).unwrap();
        assert!(status.success(), "{signal:?}: {status}");
        // Its output is read by a thread that may not be done yet.
        let mut shown = 0;
        while let Ok(line) =
            program.wait_for_line(|line| line.contains("Ping(") || line.contains("lost"), LONG)
        {
            assert!(line.ends_with(&format!("Ping({shown})")), "{line}, expected {shown}");
            shown += 1;
        }
        assert_eq!(shown, PINGS, "{signal:?}");
    }
}

#[test]
fn programs_whose_log_nobody_reads_any_more_go_on_and_end_as_others_do() {
    require!(need::root());
    let standin = StandIn::start(Variant::Core30, &Config::pings(1)).unwrap();
    let binary = standin.binary().path().display().to_string();
    let run = ["run", "--no-web", "--no-metrics", "-b", &binary];
    let metrics = ["metrics", "-a", "127.0.0.1:1", "-m", "127.0.0.1:0"];
    let log = ["extract", "log", "-a", "127.0.0.1:1", "--log-file", "/nonexistent/debug.log"];
    for (args, line) in
        [(&run[..], "watching"), (&metrics[..], "serving metrics"), (&log[..], "the log is not there yet")]
    {
        let (mut command, _state) = program::command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        said.find(|said| said.as_ref().unwrap().contains(line)).unwrap().unwrap();
        drop(said);
        let kill = Command::new("sh").args(["-c", "kill $0", &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let mut status = None;
        let ended = peer_observer_testkit::wait_until(LONG, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let _ = child.kill();
        assert!(ended && status.unwrap().success(), "{args:?}: {status:?}");
    }
}

#[test]
fn under_load_the_end_is_quick_too() {
    require!(need::root());
    let config = Config { pace: Pace::PerSecond(5_000.0), ..Config::pings(1_000_000) };
    let mut standin = StandIn::start(Variant::Core30, &config).unwrap();
    let mut program = run(&standin, &["-m", "127.0.0.1:0", "--json"]);
    standin.go().unwrap();
    program.wait_for_line(|line| line.contains("\"Ping\""), LONG).unwrap();
    program.signal(Signal::Terminate).unwrap();
    assert!(program.wait(STOP).unwrap().success());
}

#[test]
fn it_shows_what_happens_and_counts_it() {
    require!(need::root());
    let mut standin = StandIn::start(Variant::Core30, &Config::pings(500)).unwrap();
    let binary = standin.binary().path().display().to_string();
    let node = format!("{}=alice", standin.datadir().display());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let at = address.to_string();
    let mut program = program::start(&["run", "--no-web", "-b", &binary, "-m", &at, "--node", &node]);
    assert_eq!(program::page_address(&mut program), address);
    let watching = program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    for part in ["node=alice", &standin.pid().to_string(), "regtest", &binary] {
        assert!(watching.contains(part), "{part}: {watching}");
    }
    standin.go().unwrap();
    standin.report(LONG).unwrap();
    let line = program.wait_for_line(|line| line.ends_with("Ping(499)"), LONG).unwrap();
    assert!(line.contains(" alice <-- from id=0 (conn_type=1): "), "{line}");
    let page = program::wait_for_page(address, |page| sum(page, "p2p_message_count", &[]) == 500.0);
    let labels = ["message=\"ping\"", "direction=\"inbound\"", "connection_type=\"1\""];
    assert_eq!(sum(&page, "p2p_message_count", &labels), 500.0);
    assert_eq!(sum(&page, "p2p_message_bytes", &labels), 4_000.0);
    assert_eq!(sum(&page, "pipeline_events", &["node=\"alice\"", "subject=\"netmsg\""]), 500.0);
    assert_eq!(sum(&page, "pipeline_lost", &[]), 0.0);
    assert!(program::terminate(program));
    assert!(page::fetch(address).is_err(), "nobody serves it any more");
}

#[test]
fn only_the_rights_that_are_needed_are_kept() {
    require!(need::root());
    let standin = StandIn::start(Variant::Core30, &Config::pings(1)).unwrap();
    let program = run(&standin, &["-m", "127.0.0.1:0"]);
    let threads: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", program.id())).unwrap().collect();
    assert!(threads.len() > 3);
    for thread in threads {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let capabilities = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap()
        };
        assert_eq!(capabilities("CapEff:"), NEEDED, "{status}");
        assert_eq!(capabilities("CapPrm:"), NEEDED, "{status}");
        assert_eq!(capabilities("CapInh:"), 0, "{status}");
    }
    assert!(program::terminate(program));
}

#[test]
fn descriptor_limit_is_raised_for_many_nodes() {
    require!(need::root());
    let standin = StandIn::start(Variant::Core30, &Config::pings(1)).unwrap();
    let path = standin.binary().path().display().to_string();
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -Sn 256; exec \"$@\"", "sh"])
        .arg(program::path())
        .env("STATE_DIRECTORY", state.path());
    command.args(["run", "--no-metrics", "--no-web", "--no-rpc", "-b", &path]);
    let mut program = Process::spawn(command).unwrap().keep(state);
    program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.id())).unwrap();
    let soft: u64 = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap();
    assert!(soft > 1024, "{limits}");
    assert!(program::terminate(program));
}

#[test]
fn fatal_errors_say_what_to_do_and_are_no_success() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer-observer.toml");
    std::fs::write(&file, "[metrics]\nmetrics_adress = \"127.0.0.1:1\"\n").unwrap();
    let file = file.display().to_string();
    let cases: [(&[&str], i32, &str); 14] = [
        (&["demo", "--once", "--no-probes", "-m", &taken], 1, "--metrics-address"),
        (&["demo", "--once", "--speed=-1"], 1, "--speed -1"),
        (&["metrics", "-m", &taken, "-a", "127.0.0.1:1"], 1, &taken),
        (&["metrics", "-u", "alice"], 1, "--nats-password"),
        (&["metrics", "-p", "secret"], 1, "--nats-username"),
        (&["metrics", "--nats-credentials-file", &file], 1, "NKey"),
        (&["metrics", "-a", "not an address"], 1, "HOST:PORT"),
        (&["logger", "--no-such-flag"], 2, "--no-such-flag"),
        (&["--log-level", "loud", "doctor"], 2, "loud"),
        (&["-c", &file, "config", "check"], 1, "metrics_adress"),
        (&["-c", "/nonexistent/file", "config", "check"], 1, "/nonexistent/file"),
        (&["--set", "metrics.no_such_key=1", "config", "check"], 1, "no_such_key"),
        (&["--set", "connectivity.rate=0", "config", "check"], 1, "connectivity.rate: --rate 0"),
        (&["extract", "capture"], 1, "--recording"),
    ];
    for (args, code, expected) in cases {
        let output = program::output(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?} should say {expected}: {error}");
        assert!(!error.contains("panicked"), "{args:?}: {error}");
    }
    require!(need::root());
    let binary = Binary::install(Variant::Core30).unwrap();
    let path = binary.path().display().to_string();
    let cases: [(&[&str], &str); 3] = [
        (&["run", "--no-web", "-b", &path, "-m", &taken], "--metrics-address"),
        (&["run", "-b", "/nonexistent/bitcoind", "--no-metrics", "--no-web"], "/nonexistent/bitcoind"),
        (
            &["--set", "ebpf.ring_buffer_bytes=5000", "run", "--no-metrics", "--no-web", "-b", &path],
            "power of two",
        ),
    ];
    for (args, expected) in cases {
        let output = program::output(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?} should say {expected}: {error}");
    }
}

#[test]
fn the_printed_configuration_can_be_used_and_flags_go_over_it() {
    let printed = program::output(&["config", "print"]);
    assert!(printed.status.success());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer-observer.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let file = file.display().to_string();
    let checked = program::output(&["-c", &file, "config", "check"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let again = program::output(&["-c", &file, "config", "print"]);
    assert_eq!(again.stdout, printed.stdout);
    let set = program::output(&["-c", &file, "--set", "metrics.metrics_address=[::1]:9", "config", "print"]);
    let set = String::from_utf8_lossy(&set.stdout).into_owned();
    assert!(set.contains("metrics_address = \"[::1]:9\""), "{set}");
}

#[test]
fn the_doctor_says_of_every_need_whether_it_is_met() {
    let output = program::output(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for needed in ["kernel", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "metrics"] {
        let said = text.lines().filter(|line| line.contains(needed));
        assert!(said.count() > 0, "{needed}: {text}");
    }
    require!(need::root());
    let standin = StandIn::start(Variant::Core24, &Config::pings(1)).unwrap();
    let output = program::output(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("node {} ", standin.pid())));
    let node = lines.next().unwrap_or_else(|| panic!("the node is not named: {text}"));
    assert!(node.contains("regtest"), "{node}");
    let tracepoints = lines.next().unwrap();
    for part in ["ok", "4 tracepoints", "23 or 24"] {
        assert!(tracepoints.contains(part), "{part}: {tracepoints}");
    }
}

#[test]
fn too_few_file_descriptors_keep_no_scraper_out() {
    // Fewer than the connections that the metrics tool takes.
    let script = "ulimit -n 48; exec \"$0\" metrics -a 127.0.0.1:1 -m 127.0.0.1:0";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program::path()).env("NO_COLOR", "1");
    let began = std::time::Instant::now();
    let mut metrics = Process::spawn(command).unwrap();
    let address = program::page_address(&mut metrics);
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(std::net::TcpStream::connect(address).unwrap());
    }
    let mut failures = 0;
    for _ in 0..20 {
        page::fetch(address).unwrap();
    }
    metrics.signal(Signal::Terminate).unwrap();
    while let Ok(line) = metrics.wait_for_line(|_| true, LONG) {
        failures += u64::from(line.contains("cannot accept connections"));
    }
    // One at once, and one every ten seconds.
    assert!((1..=1 + began.elapsed().as_secs() / 10).contains(&failures), "{failures} lines");
}
