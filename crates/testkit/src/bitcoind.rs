//! A real Bitcoin Core node on regtest, for tests where one is installed.
//!
//! Every node runs a copy of the program: probes are attached to by file, and so a test sees the hits of its own node only.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::{Value, json};
use tempfile::TempDir;
use thiserror::Error;

use crate::LONG;
use crate::need::{self, Missing};
use crate::process::{self, Process, Signal};

/// No answer on regtest comes near to it, bytes.
const MAX_ANSWER: u64 = 256 << 20;

/// What can go wrong with a node.
#[derive(Debug, Error)]
pub enum Error {
    /// It is not installed.
    #[error("{0}")]
    Missing(Missing),
    /// Its files cannot be written.
    #[error("cannot set up bitcoind in {path}: {source}")]
    Setup {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not run as it should.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// It did not answer RPC calls in time, or ended before.
    #[error("bitcoind does not answer, last: {last}; its last lines:\n{log}")]
    NotReady {
        /// What the last call said.
        last: String,
        /// Its last lines.
        log: String,
    },
    /// It cannot be talked to.
    #[error("cannot call {method} of bitcoind: {source}")]
    Connection {
        /// The method.
        method: String,
        /// Why not.
        source: io::Error,
    },
    /// It says no.
    #[error("bitcoind refuses {method}: {message} (code {code})")]
    Refused {
        /// The method.
        method: String,
        /// Bitcoin Core's error code (rpc/protocol.h).
        code: i64,
        /// Why.
        message: String,
    },
}

/// A running node. It is killed when this is dropped.
#[derive(Debug)]
pub struct RealNode {
    process: Process,
    folder: TempDir,
    args: Vec<String>,
    p2p_port: u16,
    rpc_port: u16,
}

impl RealNode {
    /// Starts a node without peers that listens on 127.0.0.1, and waits until it answers RPC calls. `extra_args` are further
    /// options of bitcoind.
    pub fn start(extra_args: &[&str]) -> Result<Self, Error> {
        Self::start_program(&need::bitcoind().map_err(Error::Missing)?, extra_args)
    }

    /// Starts a `bitcoin-node` that listens for IPC, too.
    pub fn start_with_ipc(extra_args: &[&str]) -> Result<Self, Error> {
        let installed = need::bitcoin_node().map_err(Error::Missing)?;
        Self::start_program(&installed, &[&["-ipcbind=unix"], extra_args].concat())
    }

    fn start_program(installed: &Path, extra_args: &[&str]) -> Result<Self, Error> {
        let setup_error = |path: &Path| {
            let path = path.to_path_buf();
            |source| Error::Setup { path, source }
        };
        let folder = TempDir::with_prefix("bitcoind-").map_err(setup_error(&std::env::temp_dir()))?;
        let program = folder.path().join("bitcoind");
        fs::copy(installed, &program).map_err(setup_error(&program))?;
        let datadir = folder.path().join("datadir");
        fs::create_dir(&datadir).map_err(setup_error(&datadir))?;
        let p2p_port = crate::free_port().map_err(setup_error(folder.path()))?;
        let rpc_port = crate::free_port().map_err(setup_error(folder.path()))?;
        let mut args = vec![
            "-regtest".to_owned(),
            format!("-datadir={}", datadir.display()),
            format!("-bind=127.0.0.1:{p2p_port}"),
            format!("-rpcport={rpc_port}"),
            "-server".to_owned(),
            "-printtoconsole".to_owned(),
            "-listenonion=0".to_owned(),
            "-discover=0".to_owned(),
            "-dnsseed=0".to_owned(),
            "-fixedseeds=0".to_owned(),
            "-natpmp=0".to_owned(),
        ];
        args.extend(extra_args.iter().map(|&arg| arg.to_owned()));
        let process = run(&program, &args)?;
        let mut node = RealNode { process, folder, args, p2p_port, rpc_port };
        node.wait_ready()?;
        Ok(node)
    }

    /// What `bitcoind -version` says in its first line.
    pub fn version(&self) -> Result<String, Error> {
        let output = Command::new(self.program()).arg("-version").output();
        let output = output.map_err(|source| Error::Setup { path: self.program(), source })?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    /// The file to attach to.
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("bitcoind")
    }

    /// Its data directory, without `regtest`.
    pub fn datadir(&self) -> PathBuf {
        self.folder.path().join("datadir")
    }

    /// File with name and password for RPC calls, which is a new one each time it starts.
    pub fn cookie_file(&self) -> PathBuf {
        self.datadir().join("regtest").join(".cookie")
    }

    /// The socket of [`RealNode::start_with_ipc`].
    pub fn ipc_socket(&self) -> PathBuf {
        self.datadir().join("regtest").join("node.sock")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where it accepts peers.
    pub fn p2p_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.p2p_port).into()
    }

    /// Where it accepts RPC calls.
    pub fn rpc_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.rpc_port).into()
    }

    /// Its process, for what it logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Calls an RPC method: `node.rpc("getblockhash", json!([0]))`.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value, Error> {
        let connection_error = |source| Error::Connection { method: method.to_owned(), source };
        let cookie = fs::read_to_string(self.cookie_file()).map_err(connection_error)?;
        let request = json!({ "jsonrpc": "1.0", "id": 1, "method": method, "params": params });
        let body = post(self.rpc_addr(), &cookie, &request.to_string()).map_err(connection_error)?;
        let mut answer: Value =
            serde_json::from_slice(&body).map_err(|err| connection_error(io::Error::other(err)))?;
        let error = &answer["error"];
        if error.is_null() {
            return Ok(answer["result"].take());
        }
        Err(Error::Refused {
            method: method.to_owned(),
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Ends it in order, and waits until it is gone.
    pub fn stop(&mut self) -> Result<ExitStatus, Error> {
        self.process.signal(Signal::Terminate)?;
        Ok(self.process.wait(LONG)?)
    }

    /// Kills it, as `kill -9`.
    pub fn kill(&mut self) -> Result<(), Error> {
        Ok(self.process.kill()?)
    }

    /// Starts it again, with its data and ports, after it was stopped or killed.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill()?;
        // A killed node leaves its cookie, with which the new one would refuse calls until it has written its own.
        let _ = fs::remove_file(self.cookie_file());
        self.process = run(&self.program(), &self.args)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<(), Error> {
        let mut last = String::new();
        let mut is_ready = false;
        crate::wait_until(LONG, || {
            match self.rpc("getblockchaininfo", json!([])) {
                Ok(_) => is_ready = true,
                Err(err) => last = err.to_string(),
            }
            is_ready || !self.process.is_running()
        });
        if is_ready {
            return Ok(());
        }
        Err(Error::NotReady { last, log: self.process.last_lines() })
    }
}

fn run(program: &Path, args: &[String]) -> Result<Process, Error> {
    let mut command = Command::new(program);
    command.args(args);
    Ok(Process::spawn(command)?)
}

/// Posts JSON over HTTP and gives the body of the answer. Errors of RPC methods come as a body too.
fn post(addr: SocketAddr, login: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LONG))?;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        base64(login.as_bytes()),
        body.len(),
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    match answer.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(end) if answer.len() > end + 4 => Ok(answer.split_off(end + 4)),
        _ => Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]);
            text.push(if i <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_node_answers_mines_and_comes_back_after_it_was_killed() {
        require!(need::bitcoind());
        let mut node = RealNode::start(&["-debug=net"]).unwrap();
        assert!(node.version().unwrap().contains("version"));
        // A script that anyone can spend: no wallet is needed.
        node.rpc("generatetodescriptor", json!([3, "raw(51)"])).unwrap();
        assert_eq!(node.rpc("getblockcount", json!([])).unwrap(), 3);
        let err = node.rpc("getblockhash", json!([1_000])).unwrap_err();
        assert!(matches!(err, Error::Refused { code: -8, .. }), "{err}");

        let (pid, addr) = (node.pid(), node.rpc_addr());
        node.kill().unwrap();
        assert!(matches!(node.rpc("uptime", json!([])), Err(Error::Connection { .. })));
        node.restart().unwrap();
        assert_ne!(node.pid(), pid);
        assert_eq!(node.rpc_addr(), addr);
        assert!(node.rpc("getblockcount", json!([])).unwrap().is_u64());
        assert!(node.stop().unwrap().success());
    }

    #[test]
    fn an_option_that_bitcoind_refuses_is_told() {
        require!(need::bitcoind());
        let err = RealNode::start(&["-nosuchoption=1"]).unwrap_err();
        assert!(err.to_string().contains("nosuchoption"), "{err}");
    }
}
