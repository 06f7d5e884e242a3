//! Settings: what may be dialed, how often, and where results go.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use peer_observer_exporter::server;
use peer_observer_node::p2p::Network;
use serde::{Deserialize, Serialize};

use super::{Error, METRICS_FLAG, exits};
use crate::known::Known;

/// An hour, s: for how long the public tool believes a result.
const HOUR: u64 = 60 * 60;

/// Settings of the connectivity check.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Open connections to the network. Without this it only says what it would do
    #[arg(long)]
    pub connect: bool,
    /// Address and port to serve the metrics at
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:18282")]
    pub metrics_address: String,
    /// Name that Prometheus may scrape by, besides addresses, localhost and the name of this
    /// machine; may be repeated
    #[arg(long, value_name = "NAME")]
    pub metrics_host: Vec<String>,
    /// Network of the nodes: mainnet, testnet3, testnet4, signet or regtest
    #[arg(long, value_name = "NETWORK", default_value_t = Network::Mainnet)]
    pub p2p_network: Network,
    /// Write results to a CSV file in this folder
    #[arg(long, value_name = "FOLDER")]
    pub csv_dir: Option<PathBuf>,
    /// Write results to Parquet files in this folder
    #[arg(long, value_name = "FOLDER")]
    pub parquet_dir: Option<PathBuf>,
    /// Try onion services and I2P through this proxy, or one of both with `onion=` or `i2p=` in front; may be repeated
    #[arg(long, value_name = "[onion=|i2p=]HOST:PORT")]
    pub socks5_proxy: Vec<Proxy>,
    /// Try CJDNS addresses: this machine has a CJDNS router
    #[arg(long)]
    pub cjdns: bool,
    /// Connections to begin in a second, at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub rate: u32,
    /// Connections at a time, at most
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    pub concurrency: usize,
    /// Connections to begin in a minute to addresses of one /16 (IPv4) or /32 (IPv6), at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub netgroup_rate: u32,
    /// Addresses that may wait to be tried; more are left out, and counted
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    pub queue: usize,
    /// Try no address again for so long
    #[arg(long, value_name = "SECONDS", default_value_t = HOUR)]
    pub cache_age: u64,
    /// Results that are remembered, at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    pub cache_size: usize,
    /// Give up a connection that is not there by then
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub connect_timeout: u64,
    /// Give up a connection through a proxy that is not there by then
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub proxy_timeout: u64,
    /// Give up a connection over which no node has answered by then
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub handshake_timeout: u64,
    /// File with the addresses of Tor's exits, one a line; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tor_exit_list: Option<PathBuf>,
    /// Series that a metric can have for the label source_ip; the rest is counted as `other`
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    pub max_label_values: usize,
    /// Try addresses of this machine and of private networks, and any port: for tests
    #[arg(long)]
    pub allow_local: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connect: false,
            metrics_address: "127.0.0.1:18282".into(),
            metrics_host: Vec::new(),
            p2p_network: Network::Mainnet,
            csv_dir: None,
            parquet_dir: None,
            socks5_proxy: Vec::new(),
            cjdns: false,
            rate: 10,
            concurrency: 50,
            netgroup_rate: 10,
            queue: 10_000,
            cache_age: HOUR,
            cache_size: 100_000,
            connect_timeout: 5,
            proxy_timeout: 60,
            handshake_timeout: 10,
            tor_exit_list: None,
            max_label_values: 500,
            allow_local: false,
        }
    }
}

/// Longest time that is waited for anything, s.
const MAX_SECONDS: u64 = 600;
/// Most connections that are begun in a second. A scan of the whole network is not what this is for.
const MAX_RATE: u32 = 1_000;
/// Most connections at a time: file descriptors, which a process has 1,024 of by default.
const MAX_CONCURRENCY: usize = 900;
/// Most addresses that wait or are remembered; 10 million take a few GB.
const MAX_ADDRESSES: usize = 10_000_000;
/// Longest time that a result is believed, s: a month.
const MAX_AGE: u64 = 31 * 24 * HOUR;

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        self.validate_values()?;
        Known::read(&exits(self.tor_exit_list.as_deref()))?;
        Ok(())
    }

    /// The same without what depends on files.
    pub(super) fn validate_values(&self) -> Result<(), Error> {
        let range = |flag, value: u64, from, to| match (from..=to).contains(&value) {
            true => Ok(()),
            false => Err(Error::Range { flag, value, from, to }),
        };
        range("--rate", self.rate.into(), 1, MAX_RATE.into())?;
        range("--concurrency", self.concurrency as u64, 1, MAX_CONCURRENCY as u64)?;
        range("--netgroup-rate", self.netgroup_rate.into(), 1, u64::from(MAX_RATE) * 60)?;
        range("--queue", self.queue as u64, 1, MAX_ADDRESSES as u64)?;
        range("--cache-size", self.cache_size as u64, 1, MAX_ADDRESSES as u64)?;
        range("--cache-age", self.cache_age, 1, MAX_AGE)?;
        range("--connect-timeout", self.connect_timeout, 1, MAX_SECONDS)?;
        range("--proxy-timeout", self.proxy_timeout, 1, MAX_SECONDS)?;
        range("--handshake-timeout", self.handshake_timeout, 1, MAX_SECONDS)?;
        server::check_address(&self.metrics_address, METRICS_FLAG)?;
        Ok(())
    }

    /// The proxy for an overlay network, if there is one. One that is named for it goes before one for both.
    pub(super) fn proxy(&self, overlay: Overlay) -> Option<&str> {
        let of = |wanted| self.socks5_proxy.iter().find(move |proxy| proxy.overlay == wanted);
        of(Some(overlay)).or_else(|| of(None)).map(|proxy| proxy.address.as_str())
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout)
    }

    /// What it does, or would do, for a person to decide.
    pub(super) fn intention(&self) -> String {
        let mut kinds = vec!["IPv4", "IPv6"];
        let overlays = [
            (Overlay::Onion, "onion services (through the proxy)"),
            (Overlay::I2p, "I2P (through the proxy)"),
        ];
        kinds.extend(
            overlays.iter().filter(|(overlay, _)| self.proxy(*overlay).is_some()).map(|(_, text)| *text),
        );
        if self.cjdns {
            kinds.push("CJDNS");
        }
        let files: Vec<String> = [("CSV", &self.csv_dir), ("Parquet", &self.parquet_dir)]
            .into_iter()
            .filter_map(|(kind, dir)| Some(format!("{kind} files in {}", dir.as_ref()?.display())))
            .collect();
        let which = if self.allow_local {
            "any address, also of this machine and private networks"
        } else {
            "public addresses only"
        };
        format!(
            "dial the {} addresses that peers gossip, from this machine's own address: {}; {which}; at most {} connections a second, {} at a \
             time, {} a minute to one /16 or /32; no address again within {} s; shake hands as {} and hang up; results: metrics at {}{}{}",
            self.p2p_network,
            kinds.join(", "),
            self.rate,
            self.concurrency,
            self.netgroup_rate,
            self.cache_age,
            super::probe::USER_AGENT,
            self.metrics_address,
            if files.is_empty() { "" } else { ", " },
            files.join(", "),
        )
    }
}

/// A network that is reached through a proxy only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// Tor's onion services.
    Onion,
    /// I2P.
    I2p,
}

/// A SOCKS5 proxy, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Proxy {
    /// The network it leads to; both if none is named.
    pub overlay: Option<Overlay>,
    /// Where it is: host and port.
    pub address: String,
}

/// Text that names no proxy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is no proxy: give HOST:PORT, onion=HOST:PORT or i2p=HOST:PORT")]
pub struct NoProxy(String);

impl FromStr for Proxy {
    type Err = NoProxy;

    fn from_str(text: &str) -> Result<Self, NoProxy> {
        let error = || NoProxy(text.into());
        let (overlay, address) = match text.split_once('=') {
            Some(("onion", address)) => (Some(Overlay::Onion), address),
            Some(("i2p", address)) => (Some(Overlay::I2p), address),
            Some(_) => return Err(error()),
            None => (None, text),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(error());
        }
        Ok(Proxy { overlay, address: address.into() })
    }
}

impl TryFrom<String> for Proxy {
    type Error = NoProxy;

    fn try_from(text: String) -> Result<Self, NoProxy> {
        text.parse()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.overlay {
            Some(Overlay::Onion) => "onion=",
            Some(Overlay::I2p) => "i2p=",
            None => "",
        })?;
        f.write_str(&self.address)
    }
}

impl From<Proxy> for String {
    fn from(proxy: Proxy) -> String {
        proxy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn flags_have_the_same_defaults_as_the_file() {
        assert_eq!(Program::try_parse_from(["x"]).unwrap().config, Config::default());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>(r#"{"conect":true}"#).is_err());
        Config::default().validate().unwrap();
    }

    #[test]
    fn settings_survive_the_file() {
        let flags = [
            "x",
            "--connect",
            "--p2p-network",
            "signet",
            "--socks5-proxy",
            "localhost:9050",
            "--socks5-proxy",
            "i2p=[::1]:4447",
        ];
        let config = Program::try_parse_from(flags).unwrap().config;
        let json = serde_json::to_string(&config).unwrap();
        assert!(
            json.contains(r#""signet""#) && json.contains(r#"["localhost:9050","i2p=[::1]:4447"]"#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert_eq!(config.proxy(Overlay::Onion), Some("localhost:9050"));
        assert_eq!(config.proxy(Overlay::I2p), Some("[::1]:4447"));
        assert_eq!(Config::default().proxy(Overlay::Onion), None);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for proxy in ["", "localhost", ":9050", "localhost:port", "tor=localhost:9050", "localhost:65536"] {
            assert!(proxy.parse::<Proxy>().is_err(), "{proxy}");
        }
        let default = Config::default();
        let bad = [
            (Config { rate: 0, ..default.clone() }, "--rate"),
            (Config { rate: 1_001, ..default.clone() }, "--rate"),
            (Config { concurrency: 0, ..default.clone() }, "--concurrency"),
            (Config { netgroup_rate: 0, ..default.clone() }, "--netgroup-rate"),
            (Config { queue: 0, ..default.clone() }, "--queue"),
            (Config { cache_age: u64::MAX, ..default.clone() }, "--cache-age"),
            (Config { cache_size: usize::MAX, ..default.clone() }, "--cache-size"),
            (Config { connect_timeout: 0, ..default.clone() }, "--connect-timeout"),
            (Config { proxy_timeout: 601, ..default.clone() }, "--proxy-timeout"),
            (Config { handshake_timeout: 0, ..default.clone() }, "--handshake-timeout"),
        ];
        for (config, flag) in bad {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
