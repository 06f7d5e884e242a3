//! Settings of the IPC extractor: flags and keys of the configuration file.

use std::path::{Path, PathBuf};

use clap::Args;
use peer_observer_node::names::check_name;
use serde::{Deserialize, Serialize};

use super::Error;

/// Settings of the IPC extractor.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "IPC extractor")]
pub struct Config {
    /// Unix socket of a bitcoin-node with -ipcbind=unix: node.sock in its data directory (of the network)
    #[arg(short = 'i', long, value_name = "FILE")]
    pub ipc_socket_path: Option<PathBuf>,
    /// Name of the node in events
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub ipc_node: String,
    /// Seconds after which a tip that stays is told again
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub query_interval: u64,
    /// Seconds without any answer after which the connection is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub ipc_timeout: u64,
    /// Address and port to serve this extractor's metrics at
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8285")]
    pub prometheus_address: String,
    /// Name that Prometheus may scrape by, besides addresses, localhost and the name of this
    /// machine; may be repeated
    #[arg(long, value_name = "NAME")]
    pub prometheus_host: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ipc_socket_path: None,
            ipc_node: "node".into(),
            query_interval: 10,
            ipc_timeout: 30,
            prometheus_address: "127.0.0.1:8285".into(),
            prometheus_host: Vec::new(),
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        check_name(&self.ipc_node).map_err(Error::Name)?;
        if self.query_interval == 0 || self.ipc_timeout == 0 {
            return Err(Error::NoTime);
        }
        Ok(())
    }

    /// The socket, if the settings can work.
    pub(super) fn socket(&self) -> Result<&Path, Error> {
        self.validate()?;
        self.ipc_socket_path.as_deref().ok_or(Error::NoSocket)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn settings_without_flags_are_those_without_a_file() {
        let flags = |flags: &[&str]| Cli::try_parse_from([&["ipc"], flags].concat()).map(|cli| cli.config);
        assert_eq!(flags(&[]).unwrap(), Config::default());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>("{\"ipc_port\": 1}").is_err());
        let public = flags(&["-i", "/node.sock", "--query-interval", "5", "--prometheus-address", "[::1]:1"]);
        assert_eq!(public.unwrap().socket().unwrap(), Path::new("/node.sock"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let good = Config { ipc_socket_path: Some("/node.sock".into()), ..Config::default() };
        assert!(good.validate().is_ok());
        for bad in [
            Config::default(),
            Config { query_interval: 0, ..good.clone() },
            Config { ipc_timeout: 0, ..good.clone() },
            Config { ipc_node: String::new(), ..good.clone() },
            Config { ipc_node: "n".repeat(256), ..good },
        ] {
            assert!(bad.socket().is_err(), "{bad:?}");
        }
    }
}
