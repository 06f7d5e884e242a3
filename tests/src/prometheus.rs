//! A real Prometheus, and what it answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use peer_observer_testkit::process::Process;
use serde_json::Value;

/// A Prometheus that runs until it is dropped.
pub struct Prometheus {
    /// Where it answers.
    pub address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    /// Starts it with a configuration file and a folder for its data.
    ///
    /// # Errors
    /// When it cannot be started, or does not become ready.
    pub fn start(program: &Path, config: &Path, data: &Path) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], peer_observer_testkit::free_port()?));
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--query.lookback-delta=5m");
        let mut process = Process::spawn(command).map_err(io::Error::other)?;
        process
            .wait_for_line(|line| line.contains("ready to receive web requests"), crate::LONG)
            .map_err(io::Error::other)?;
        Ok(Prometheus { address, _process: process })
    }

    /// Answers of its HTTP API.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn get(&self, path: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(crate::LONG))?;
        // 1.0: the answer comes in one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no answer"))?;
        let answer: Value = serde_json::from_str(body)?;
        if answer["status"] != "success" {
            return Err(io::Error::other(format!("{path}: {}", answer["error"])));
        }
        Ok(answer)
    }

    /// How many series a query returns now.
    ///
    /// # Errors
    /// When it does not answer, or does not understand the query.
    pub fn series(&self, query: &str) -> io::Result<usize> {
        let answer = self.get(&format!("/api/v1/query?query={}", escaped(query)))?;
        Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
    }
}

fn escaped(query: &str) -> String {
    query
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
