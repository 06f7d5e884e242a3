//! A stand-in that has what a real node has besides tracepoints: a bitcoin.conf, an RPC interface with a cookie, a debug.log.

use std::fs;
use std::path::PathBuf;

use peer_observer_testkit::data_dir;
use peer_observer_testkit::fake_rpc::FakeRpc;
use peer_observer_testkit::log_writer::LogWriter;
use peer_observer_testkit::standin::{Config, StandIn, Variant};

/// Login of the RPC interface, as the cookie has it.
pub const COOKIE: &str = "__cookie__:0123456789abcdef";

/// A stand-in with all windows. Nothing looks for nodes before it is complete.
#[derive(Debug)]
pub struct Node {
    /// The process with the probes.
    pub standin: StandIn,
    /// Its RPC interface, which plays the recorded answers.
    pub rpc: FakeRpc,
    /// Its log, with one line in it.
    pub log: LogWriter,
}

impl Node {
    /// Starts one; `conf` is put in the section of its network.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(config: &Config, conf: &str) -> Self {
        let standin = StandIn::start(Variant::Core30, config).expect("cannot start the stand-in");
        let rpc = FakeRpc::start(COOKIE).expect("cannot start the RPC interface");
        rpc.play(&data_dir().join("rpc-samples")).expect("cannot read the recorded answers");
        let folder = standin.datadir().join("regtest");
        fs::create_dir(&folder).expect("cannot make the folder of the network");
        fs::write(folder.join(".cookie"), COOKIE).expect("cannot write the cookie");
        let mut log = LogWriter::open(folder.join("debug.log")).expect("cannot write the log");
        log.write(b"2026-01-01T00:00:00Z Bitcoin Core version v30.0.0\n").expect("cannot write the log");
        let node = Node { standin, rpc, log };
        node.configure(&format!("rpcport={}\n{conf}", node.rpc.addr().port()));
        node
    }

    /// Writes its bitcoin.conf.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, lines: &str) {
        let file = self.standin.datadir().join("bitcoin.conf");
        fs::write(file, format!("# of a test\n[regtest]\n{lines}")).expect("cannot write bitcoin.conf");
    }

    /// Its cookie file.
    pub fn cookie(&self) -> PathBuf {
        self.standin.datadir().join("regtest/.cookie")
    }

    /// Flags that have `run` watch it and nothing else, and clash with no other `run`.
    pub fn flags(&self) -> Vec<String> {
        let binary = self.standin.binary().path().display().to_string();
        let free = "127.0.0.1:0";
        ["run", "-b", &binary, "-m", free, "-w", free, "--set", "rpc.prometheus_address=127.0.0.1:0"]
            .map(Into::into)
            .into()
    }
}
