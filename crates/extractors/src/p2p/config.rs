//! Settings of the P2P extractor: the public flags, and those that tell nodes apart and keep strangers out.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use peer_observer_node::names::{BadName, check_name};
use peer_observer_node::p2p;
use serde::{Deserialize, Serialize};

use super::Error;

/// Settings of the P2P extractor.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "P2P extractor")]
pub struct Config {
    /// Listen here for nodes started with -addnode=ADDRESS; may be repeated, with the name of the node that dials it
    #[arg(long, value_name = "[NAME=]ADDRESS:PORT", default_value = "127.0.0.1:9333")]
    pub p2p_address: Vec<Listen>,
    /// Network of the nodes: mainnet, testnet3, testnet4, signet or regtest
    #[arg(long, value_name = "NETWORK", default_value = "mainnet")]
    pub p2p_network: Network,
    /// Name of a node whose name neither the address it dials nor the address it comes from says
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub p2p_node: String,
    /// Let nodes of these addresses connect; may be repeated, with the name of the node that comes from there
    #[arg(long, value_name = "[NAME=]ADDRESS[/BITS]", default_values = ["127.0.0.0/8", "::1"])]
    pub p2p_allow: Vec<Allowed>,
    /// Connections at a time; more are closed at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    pub p2p_max_connections: usize,
    /// Close connections that have not shaken hands by then
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub p2p_handshake_timeout: u64,
    /// Close connections that bring no whole message for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 20 * 60)]
    pub p2p_idle_timeout: u64,
    /// Time between pings
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub ping_interval: u64,
    /// Measure no ping times
    #[arg(long)]
    pub disable_ping: bool,
    /// Tell no addresses
    #[arg(long)]
    pub disable_addrv2: bool,
    /// Tell no inventory; announcements of blocks are told all the same
    #[arg(long)]
    pub disable_invs: bool,
    /// Tell no fee filters
    #[arg(long)]
    pub disable_feefilter: bool,
}

impl Default for Config {
    fn default() -> Self {
        let anywhere = |addr| Listen { name: None, addr };
        let any_of = |addr, bits| Allowed { name: None, addr, bits };
        Config {
            p2p_address: vec![anywhere(SocketAddr::from(([127, 0, 0, 1], 9333)))],
            p2p_network: Network(p2p::Network::Mainnet),
            p2p_node: "node".into(),
            p2p_allow: vec![
                any_of(IpAddr::from([127, 0, 0, 0]), 8),
                any_of(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
            ],
            p2p_max_connections: 16,
            p2p_handshake_timeout: 60,
            p2p_idle_timeout: 20 * 60,
            ping_interval: 10,
            disable_ping: false,
            disable_addrv2: false,
            disable_invs: false,
            disable_feefilter: false,
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        if self.p2p_address.is_empty() {
            return Err(Error::NoAddress);
        }
        let names = self.p2p_address.iter().filter_map(|listen| listen.name.as_ref());
        let names = names.chain(self.p2p_allow.iter().filter_map(|allowed| allowed.name.as_ref()));
        names.chain([&self.p2p_node]).try_for_each(|name| check_name(name)).map_err(Error::Name)?;
        if self.p2p_max_connections == 0 {
            return Err(Error::NoConnections);
        }
        let times = [self.ping_interval, self.p2p_handshake_timeout, self.p2p_idle_timeout];
        if times.iter().any(|s| !(1..=MAX_SECONDS).contains(s)) {
            return Err(Error::Time);
        }
        Ok(())
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.p2p_handshake_timeout)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.p2p_idle_timeout)
    }

    /// Nodes may connect from `peer`.
    pub(super) fn allows(&self, peer: IpAddr) -> bool {
        self.p2p_allow.iter().any(|allowed| allowed.contains(peer))
    }

    /// The name of who dials `listen` from `peer`, when the address on either side has one.
    pub(super) fn name_of<'a>(&'a self, listen: &'a Listen, peer: IpAddr) -> Option<&'a str> {
        let mut allowed = self.p2p_allow.iter().filter(|allowed| allowed.contains(peer));
        listen.name.as_deref().or_else(|| allowed.find_map(|allowed| allowed.name.as_deref()))
    }
}

/// A day: nothing that is waited for here is worth more.
const MAX_SECONDS: u64 = 24 * 60 * 60;

/// A word that does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It has another form.
    #[error("{text:?}: give {expected}")]
    Form {
        /// The word.
        text: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The name cannot be one.
    #[error("{text:?}: {why}")]
    Name {
        /// The word.
        text: String,
        /// What is wrong with the name.
        why: BadName,
    },
}

/// Splits `NAME=REST`, where the name may be missing.
fn split_name(text: &str) -> Result<(Option<&str>, &str), ParseError> {
    let Some((name, rest)) = text.split_once('=') else { return Ok((None, text)) };
    check_name(name).map_err(|why| ParseError::Name { text: text.into(), why })?;
    Ok((Some(name), rest))
}

fn join_name(name: Option<String>, rest: String) -> String {
    match name {
        Some(name) => format!("{name}={rest}"),
        None => rest,
    }
}

macro_rules! text_in_files {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }
    };
}

/// An address to listen on, and the name of the node that dials it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Listen {
    /// Name of the node.
    pub name: Option<String>,
    /// Address and port.
    pub addr: SocketAddr,
}

impl FromStr for Listen {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::Form { text: text.into(), expected: "ADDRESS:PORT or NAME=ADDRESS:PORT" };
        let (name, addr) = split_name(text)?;
        Ok(Listen { name: name.map(Into::into), addr: addr.parse().map_err(|_| error())? })
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        join_name(listen.name, listen.addr.to_string())
    }
}

text_in_files!(Listen);

/// Addresses that nodes may come from, and the name of the node that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Allowed {
    /// Name of the node.
    pub name: Option<String>,
    /// An address of theirs.
    pub addr: IpAddr,
    /// Leading bits that they have in common with it.
    pub bits: u32,
}

impl Allowed {
    fn contains(&self, peer: IpAddr) -> bool {
        let apart = match (self.addr, peer.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (ours.to_bits() ^ theirs.to_bits()).leading_zeros(),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits() ^ theirs.to_bits()).leading_zeros(),
            _ => return false,
        };
        apart >= self.bits
    }
}

impl FromStr for Allowed {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::Form {
            text: text.into(),
            expected: "ADDRESS, ADDRESS/BITS, or one of them after NAME=",
        };
        let (name, net) = split_name(text)?;
        let (addr, bits) = net.split_once('/').map_or((net, None), |(addr, bits)| (addr, Some(bits)));
        let addr: IpAddr = addr.parse().map_err(|_| error())?;
        let all = if addr.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), str::parse).ok().filter(|bits| *bits <= all).ok_or_else(error)?;
        Ok(Allowed { name: name.map(Into::into), addr, bits })
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> String {
        join_name(allowed.name, format!("{}/{}", allowed.addr, allowed.bits))
    }
}

text_in_files!(Allowed);

/// Network of the nodes, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Network(pub p2p::Network);

impl FromStr for Network {
    type Err = p2p::UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, p2p::UnknownNetwork> {
        text.parse().map(Network)
    }
}

impl TryFrom<String> for Network {
    type Error = p2p::UnknownNetwork;

    fn try_from(text: String) -> Result<Self, p2p::UnknownNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.0.to_string()
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
    }

    #[test]
    fn settings_survive_the_file() {
        let flags = [
            "x",
            "--p2p-address",
            "alice=0.0.0.0:1",
            "--p2p-address",
            "[::1]:2",
            "--p2p-network",
            "signet",
            "--p2p-allow",
            "bob=10.0.0.0/9",
        ];
        let config = Program::try_parse_from(flags).unwrap().config;
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(r#"["alice=0.0.0.0:1","[::1]:2"]"#), "{json}");
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert!(serde_json::from_str::<Config>(r#"{"p2p_adress":[]}"#).is_err());
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for listen in ["", "localhost:1", "127.0.0.1", "=127.0.0.1:1", "a=b=127.0.0.1:1"] {
            assert!(listen.parse::<Listen>().is_err(), "{listen}");
        }
        for allowed in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "x", "=10.0.0.1"] {
            assert!(allowed.parse::<Allowed>().is_err(), "{allowed}");
        }
        let default = Config::default();
        let bad = [
            Config { p2p_address: vec![], ..default.clone() },
            Config { p2p_node: String::new(), ..default.clone() },
            Config {
                p2p_allow: vec![Allowed { name: Some(String::new()), ..default.p2p_allow[0].clone() }],
                ..default.clone()
            },
            Config { p2p_max_connections: 0, ..default.clone() },
            Config { ping_interval: 0, ..default.clone() },
            Config { p2p_handshake_timeout: 0, ..default.clone() },
            Config { p2p_idle_timeout: u64::MAX, ..default.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
        default.validate().unwrap();
    }

    #[test]
    fn nodes_are_named_by_where_they_dial_then_by_where_they_come_from() {
        let config = Config {
            p2p_allow: ["10.0.0.0/9", "bob=10.1.0.0/16", "carol=fd00::1", "0.0.0.0/32"]
                .map(|a| a.parse().unwrap())
                .into(),
            ..Config::default()
        };
        let (named, unnamed): (Listen, Listen) =
            ("alice=0.0.0.0:1".parse().unwrap(), "0.0.0.0:2".parse().unwrap());
        let cases = [
            (&named, "10.1.0.1", true, Some("alice")),
            (&unnamed, "10.1.0.1", true, Some("bob")),
            (&unnamed, "::ffff:10.1.0.1", true, Some("bob")),
            (&unnamed, "10.127.255.255", true, None),
            (&unnamed, "10.128.0.0", false, None),
            (&named, "11.0.0.0", false, Some("alice")),
            (&unnamed, "fd00::1", true, Some("carol")),
            (&unnamed, "fd00::2", false, None),
        ];
        for (listen, peer, allowed, name) in cases {
            let peer = peer.parse().unwrap();
            assert_eq!((config.allows(peer), config.name_of(listen, peer)), (allowed, name), "{peer}");
        }
        let everyone = Config { p2p_allow: vec!["0.0.0.0/0".parse().unwrap()], ..Config::default() };
        assert!(everyone.allows("203.0.113.1".parse().unwrap()));
    }
}
