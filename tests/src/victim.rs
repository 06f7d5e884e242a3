//! `run` beside an honest node, while somebody attacks it, and what has to hold afterwards.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use peer_observer_testkit::process::{Process, Signal};
use peer_observer_testkit::standin::Config;
use peer_observer_testkit::wait_until;

use crate::node::Node;
use crate::{LONG, page, program};

/// Memory of its own that the program may have after an attack, kB.
const MEMORY_KB: u64 = 128 << 10;
/// Name of the honest node.
const HONEST: &str = "node=\"alice\"";

/// The program and an honest node.
#[derive(Debug)]
pub struct Victim {
    /// The honest node.
    pub node: Node,
    program: Process,
    metrics: SocketAddr,
    web: SocketAddr,
    fired: f64,
    began: Instant,
    most: Memory,
}

/// Memory of a process, kB.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    /// Its own, without what is only mapped from files.
    own: u64,
    /// All that is resident.
    resident: u64,
}

impl Victim {
    /// Starts both. The program looks for nodes by name, as it does for users.
    ///
    /// # Panics
    /// When they do not start.
    pub fn start() -> Self {
        let node = Node::start(&Config::pings(10), "");
        let name = format!("{}=alice", node.standin.datadir().display());
        let free = "127.0.0.1:0";
        let mut program = program::start(&[
            "run",
            "--quiet",
            "-m",
            free,
            "-w",
            free,
            "--node",
            &name,
            "--set",
            "rpc.prometheus_address=127.0.0.1:0",
            "--set",
            "metrics.node_label=true",
        ]);
        let (mut metrics, mut web, mut is_watched) = (None, None, false);
        while metrics.is_none() || web.is_none() || !is_watched {
            let line = program.wait_for_line(|_| true, LONG).expect("it finds the honest node");
            if line.contains("serving metrics") {
                let address = line.split_once("address=").map(|(_, rest)| rest.trim());
                metrics = address.and_then(|address| address.split(' ').next()?.parse().ok());
            }
            if let Some((_, address)) = line.split_once("the live page is at http://") {
                web = address.trim_end_matches('/').parse().ok();
            }
            is_watched |= line.contains("watching") && line.contains("node=alice");
        }
        let metrics = metrics.expect("the address in the log");
        let web = web.expect("the address in the log");
        let (began, most) = (Instant::now(), Memory::default());
        let mut victim = Victim { node, program, metrics, web, fired: 0.0, began, most };
        victim.assert_watched();
        victim
    }

    /// Waits for a line of the program's log.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for_line(&mut self, wanted: impl FnMut(&str) -> bool) -> String {
        self.program.wait_for_line(wanted, LONG).expect("a line of the log")
    }

    /// Its memory, kB, without what is only mapped from files.
    ///
    /// # Panics
    /// When it is gone.
    pub fn memory_kb(&mut self) -> u64 {
        self.memory().own
    }

    fn memory(&mut self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.id())).expect("it runs");
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let now = Memory { own: value("RssAnon:"), resident: value("VmRSS:") };
        self.most.own = self.most.own.max(now.own);
        self.most.resident = self.most.resident.max(now.resident);
        now
    }

    /// Each hit of the honest node is counted, and the metrics and the live page answer.
    ///
    /// # Panics
    /// When not.
    pub fn assert_watched(&mut self) {
        self.node.standin.go().expect("the honest node runs");
        let report = self.node.standin.report(LONG).expect("the honest node runs");
        assert_eq!((report.fired, report.not_attached), (10, 0));
        self.fired += 10.0;
        let fired = self.fired;
        let pings = |page: &page::Samples| page::sum(page, "p2p_message_count", &[HONEST]);
        program::wait_for_page(self.metrics, |page| pings(page) >= fired);
        let mut health = None;
        let is_live = wait_until(LONG, || {
            health = page::ask(self.web, "health").ok();
            health.as_ref().is_some_and(|health| health["nodes"]["live"].as_u64() > Some(0))
        });
        assert!(is_live, "the live page shows a live node: {health:?}");
        self.memory();
    }

    /// The program stops when it is told to, whatever goes on. Returns how long that took, for a log.
    ///
    /// # Panics
    /// When it does not stop, or not well.
    pub fn stop(mut self) -> Duration {
        self.program.signal(Signal::Terminate).expect("it runs, without a restart");
        let stopping = Instant::now();
        assert!(self.program.wait(LONG).expect("it stops").success());
        stopping.elapsed()
    }

    /// What has to hold after an attack: the honest node is watched, through its log and RPC as well, memory is given back,
    /// and the program stops when it is told to.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_unharmed(mut self, attack: &str) {
        self.assert_watched();
        let before = self.node.rpc.calls("uptime");
        let called = wait_until(LONG, || self.node.rpc.calls("uptime") > before);
        assert!(called, "the honest node is asked over RPC");
        let lines = |page: &page::Samples| page::sum(page, "log_events", &[HONEST]);
        let read = page::fetch(self.metrics).map_or(0.0, |page| lines(&page));
        self.node.log.write(b"2026-01-01T00:00:01Z UpdateTip: new best=ab height=1\n").expect("it can log");
        program::wait_for_page(self.metrics, |page| lines(page) > read);
        let is_back = wait_until(LONG, || self.memory_kb() < MEMORY_KB);
        assert!(is_back, "it has {} kB still", self.memory_kb());
        let (left, most, took) = (self.memory(), self.most, self.began.elapsed());
        let stopped = self.stop();
        report(
            attack,
            &format!(
                "{} s, at most {} MB ({} resident), {} MB ({} resident) afterwards, stopped in {:.1} s",
                took.as_secs(),
                most.own >> 10,
                most.resident >> 10,
                left.own >> 10,
                left.resident >> 10,
                stopped.as_secs_f64()
            ),
        );
    }
}

/// Writes how an attack went, for `cargo xtask soak`.
pub fn report(attack: &str, result: &str) {
    let _ = writeln!(std::io::stdout(), "soak: {attack}: {result}");
}

/// How often an attack is repeated: once, and for long in `cargo xtask soak`.
pub fn rounds() -> impl Iterator<Item = u32> {
    let seconds = std::env::var("PEER_OBSERVER_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    (0..).take_while(move |round| *round == 0 || until.is_some_and(|until| Instant::now() < until))
}
