//! Settings of the eBPF extractor: the public flags, and what they lack.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use peer_observer_node::hit::Tracepoint;
use peer_observer_node::names::NodeName;
use peer_observer_node::watch::Selection;
use serde::{Deserialize, Serialize};

use super::kernel::MAX_PAYLOAD;

use super::Error;

/// Settings of the eBPF extractor.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "eBPF extractor")]
pub struct Config {
    /// Watch this program, running or not, instead of looking for bitcoind, bitcoin-node and bitcoin-qt; may be repeated
    #[arg(short = 'b', long, value_name = "FILE")]
    pub bitcoind_path: Vec<PathBuf>,
    /// Watch only this process
    #[arg(long, value_name = "PID", conflicts_with = "bitcoind_pid_file")]
    pub bitcoind_pid: Option<u32>,
    /// Watch only the process whose id is in this file; the file is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub bitcoind_pid_file: Option<PathBuf>,
    /// Name a node: by its process id or its data directory; may be repeated
    #[arg(long, value_name = "PID|DATADIR=NAME")]
    pub node: Vec<NodeName>,
    /// Leave out the P2P message tracepoints
    #[arg(long)]
    pub no_p2pmsg_tracepoints: bool,
    /// Leave out the connection tracepoints
    #[arg(long)]
    pub no_connection_tracepoints: bool,
    /// Leave out the mempool tracepoints
    #[arg(long)]
    pub no_mempool_tracepoints: bool,
    /// Leave out the validation tracepoint
    #[arg(long)]
    pub no_validation_tracepoints: bool,
    /// Leave out the UTXO set tracepoint
    #[arg(long)]
    pub no_utxocache_tracepoints: bool,
    /// Size of the kernel's ring buffer in bytes, a power of two; it counts twice in resident memory once it was full
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    pub ring_buffer_bytes: u32,
    /// Capture at most so many bytes of a message's payload; what is longer is marked
    #[arg(long, value_name = "BYTES", default_value_t = MAX_PAYLOAD)]
    pub max_payload: u32,
    /// The same for one message type, such as block=80 for headers only; may be repeated
    #[arg(long, value_name = "TYPE=BYTES")]
    pub max_payload_of: Vec<TypeLimit>,
    /// Log everything that libbpf says
    #[arg(long)]
    pub libbpf_debug: bool,
    /// Accepted for compatibility: a quiet node never ends this extractor
    #[arg(short = 'i', long, hide = true)]
    pub no_idle_exit: bool,
    /// Accepted for compatibility: the addrman tracepoints of patched nodes are used when a binary has them
    #[arg(long, hide = true)]
    pub addrman_tracepoints: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bitcoind_path: Vec::new(),
            bitcoind_pid: None,
            bitcoind_pid_file: None,
            node: Vec::new(),
            no_p2pmsg_tracepoints: false,
            no_connection_tracepoints: false,
            no_mempool_tracepoints: false,
            no_validation_tracepoints: false,
            no_utxocache_tracepoints: false,
            ring_buffer_bytes: 16 << 20,
            max_payload: MAX_PAYLOAD,
            max_payload_of: Vec::new(),
            libbpf_debug: false,
            no_idle_exit: false,
            addrman_tracepoints: false,
        }
    }
}

impl Config {
    /// Which processes are nodes.
    pub fn selection(&self) -> Selection {
        Selection {
            pid: self.bitcoind_pid,
            pid_file: self.bitcoind_pid_file.clone(),
            programs: self.bitcoind_path.clone(),
        }
    }

    /// All processes of a program are watched, and not only one.
    pub(super) fn watches_programs(&self) -> bool {
        self.bitcoind_pid.is_none() && self.bitcoind_pid_file.is_none()
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        if !self.ring_buffer_bytes.is_power_of_two() || self.ring_buffer_bytes < 4096 {
            return Err(Error::Config(format!(
                "--ring-buffer-bytes {} must be a power of two, 4096 or more",
                self.ring_buffer_bytes
            )));
        }
        for path in &self.bitcoind_path {
            if let Err(source) = std::fs::metadata(path) {
                return Err(Error::Config(format!("--bitcoind-path {}: {source}", path.display())));
            }
        }
        Ok(())
    }

    /// The settings leave this tracepoint in.
    pub fn wants(&self, tracepoint: Tracepoint) -> bool {
        match tracepoint.provider() {
            "net" => match tracepoint {
                Tracepoint::InboundMessage | Tracepoint::OutboundMessage => !self.no_p2pmsg_tracepoints,
                _ => !self.no_connection_tracepoints,
            },
            "mempool" => !self.no_mempool_tracepoints,
            "validation" => !self.no_validation_tracepoints,
            "utxocache" => !self.no_utxocache_tracepoints,
            _ => true,
        }
    }

    /// Limits by message type, as the kernel wants them.
    pub(super) fn type_limits(&self) -> BTreeMap<String, u32> {
        self.max_payload_of.iter().map(|l| (l.message.clone(), l.bytes)).collect()
    }
}

/// A word that does not say what it should.
#[derive(Debug, thiserror::Error)]
#[error("{text:?}: give {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

/// How much of the messages of a type is captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TypeLimit {
    /// Message type.
    pub message: String,
    /// Bytes of payload.
    pub bytes: u32,
}

impl FromStr for TypeLimit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.into(), expected: "TYPE=BYTES, such as block=80" };
        let (message, bytes) = text.split_once('=').ok_or_else(error)?;
        // Core: message types have at most 12 bytes (protocol.h, MESSAGE_TYPE_SIZE).
        if message.is_empty() || message.len() > 12 {
            return Err(error());
        }
        Ok(TypeLimit { message: message.into(), bytes: bytes.parse().map_err(|_| error())? })
    }
}

impl From<TypeLimit> for String {
    fn from(limit: TypeLimit) -> String {
        format!("{}={}", limit.message, limit.bytes)
    }
}

impl TryFrom<String> for TypeLimit {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_limits_name_a_message_type_that_can_exist() {
        assert_eq!(
            "block=80".parse::<TypeLimit>().unwrap(),
            TypeLimit { message: "block".into(), bytes: 80 }
        );
        for bad in ["block", "block=x", "=1", "averylongcommand=1"] {
            assert!(bad.parse::<TypeLimit>().is_err(), "{bad}");
        }
    }
}
