//! Settings of the RPC extractor: flags and keys of the configuration file.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use peer_observer_node::names::check_name;
use peer_observer_node::rpc::{Limits, Login, LoginFile};
use serde::{Deserialize, Serialize};

use super::Error;
use super::methods::Method;

/// Connections to the node. Before version 29 a node answers with four threads (Bitcoin Core httpserver.h), and one is to be left for
/// those who work with it.
const CONNECTIONS: usize = 3;
/// Smaller payloads have no room for what cannot be split.
pub(super) const MIN_PAYLOAD: usize = 64 * 1024;

/// Settings of the RPC extractor.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "RPC extractor")]
pub struct Config {
    /// Address and port of the node's RPC interface
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8332")]
    pub rpc_host: String,
    /// User for the RPC interface
    #[arg(long, value_name = "NAME", conflicts_with = "rpc_cookie_file")]
    pub rpc_user: Option<String>,
    /// Password for the RPC interface; other users of this machine can see it, so a file is better
    #[arg(long, value_name = "PASSWORD", requires = "rpc_user")]
    pub rpc_password: Option<String>,
    /// File with the password for the RPC interface; white space around it is ignored
    #[arg(long, value_name = "FILE", requires = "rpc_user", conflicts_with = "rpc_password")]
    pub rpc_password_file: Option<PathBuf>,
    /// The node's cookie file, .cookie in its data directory (of the network); read again when the node is restarted
    #[arg(long, value_name = "FILE")]
    pub rpc_cookie_file: Option<PathBuf>,
    /// Name of the node in events
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub rpc_node: String,
    /// Seconds from one query to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub query_interval: u64,
    /// The same for getchaintxstats, getblockchaininfo, getrawaddrman, getchaintips and listbanned
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub query_interval_less_frequent: u64,
    /// The same for one method; may be repeated
    #[arg(long, value_name = "METHOD=SECONDS")]
    pub interval: Vec<MethodInterval>,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub rpc_timeout: u64,
    /// Bytes of an answer that are read at most
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20)]
    pub rpc_max_answer_bytes: usize,
    /// Largest event, bytes: a getrawaddrman that is larger, or that the NATS server does not take, goes out in parts
    #[arg(long, value_name = "BYTES", default_value_t = 5_242_880)]
    pub max_payload_bytes: usize,
    /// Address and port to serve this extractor's metrics at
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8284")]
    pub prometheus_address: String,
    /// Name that Prometheus may scrape by, besides addresses, localhost and the name of this
    /// machine; may be repeated
    #[arg(long, value_name = "NAME")]
    pub prometheus_host: Vec<String>,
    /// Do not ask for getpeerinfo
    #[arg(long)]
    pub disable_getpeerinfo: bool,
    /// Do not ask for getmempoolinfo
    #[arg(long)]
    pub disable_getmempoolinfo: bool,
    /// Do not ask for uptime
    #[arg(long)]
    pub disable_uptime: bool,
    /// Do not ask for getnettotals
    #[arg(long)]
    pub disable_getnettotals: bool,
    /// Do not ask for getmemoryinfo
    #[arg(long)]
    pub disable_getmemoryinfo: bool,
    /// Do not ask for getaddrmaninfo
    #[arg(long)]
    pub disable_getaddrmaninfo: bool,
    /// Do not ask for getchaintxstats
    #[arg(long)]
    pub disable_getchaintxstats: bool,
    /// Do not ask for getnetworkinfo
    #[arg(long)]
    pub disable_getnetworkinfo: bool,
    /// Do not ask for getblockchaininfo
    #[arg(long)]
    pub disable_getblockchaininfo: bool,
    /// Do not ask for getorphantxs
    #[arg(long)]
    pub disable_getorphantxs: bool,
    /// Do not ask for getrawaddrman
    #[arg(long)]
    pub disable_getrawaddrman: bool,
    /// Do not ask for estimatesmartfee
    #[arg(long)]
    pub disable_estimatesmartfee: bool,
    /// Do not ask for getchaintips
    #[arg(long)]
    pub disable_getchaintips: bool,
    /// Do not ask for listbanned
    #[arg(long)]
    pub disable_listbanned: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rpc_host: "127.0.0.1:8332".into(),
            rpc_user: None,
            rpc_password: None,
            rpc_password_file: None,
            rpc_cookie_file: None,
            rpc_node: "node".into(),
            query_interval: 10,
            query_interval_less_frequent: 120,
            interval: Vec::new(),
            rpc_timeout: 30,
            rpc_max_answer_bytes: 128 << 20,
            max_payload_bytes: 5_242_880,
            prometheus_address: "127.0.0.1:8284".into(),
            prometheus_host: Vec::new(),
            disable_getpeerinfo: false,
            disable_getmempoolinfo: false,
            disable_uptime: false,
            disable_getnettotals: false,
            disable_getmemoryinfo: false,
            disable_getaddrmaninfo: false,
            disable_getchaintxstats: false,
            disable_getnetworkinfo: false,
            disable_getblockchaininfo: false,
            disable_getorphantxs: false,
            disable_getrawaddrman: false,
            disable_estimatesmartfee: false,
            disable_getchaintips: false,
            disable_listbanned: false,
        }
    }
}

impl Config {
    /// How to log in; nothing when nothing is said of it.
    pub(super) fn login(&self) -> Result<Option<Login>, Error> {
        let user = || self.rpc_user.clone();
        Ok(match (user(), &self.rpc_password, &self.rpc_password_file, &self.rpc_cookie_file) {
            (None, None, None, None) => None,
            (None, None, None, Some(path)) => Some(Login::Cookie(LoginFile::of_ours(path))),
            (Some(user), Some(password), None, None) => {
                Some(Login::Password { user, password: password.clone() })
            }
            (Some(user), None, Some(path), None) => {
                Some(Login::PasswordFile { user, file: LoginFile::of_ours(path) })
            }
            _ => return Err(Error::MixedLogin),
        })
    }

    /// What the client may take.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            connections: CONNECTIONS,
            timeout: Duration::from_secs(self.rpc_timeout),
            answer_bytes: self.rpc_max_answer_bytes,
        }
    }

    /// The methods that are asked for, and how often.
    pub(super) fn methods(&self) -> Vec<(Method, Duration)> {
        Method::ALL
            .iter()
            .filter(|method| !self.is_disabled(**method))
            .map(|method| (*method, Duration::from_secs(self.seconds(*method))))
            .collect()
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn validate(&self) -> Result<(), Error> {
        let port = self.rpc_host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(Error::Host(self.rpc_host.clone()));
        }
        check_name(&self.rpc_node).map_err(Error::Name)?;
        if Method::ALL.iter().any(|method| self.seconds(*method) == 0) || self.rpc_timeout == 0 {
            return Err(Error::NoTime);
        }
        if self.max_payload_bytes < MIN_PAYLOAD {
            return Err(Error::Payload { bytes: self.max_payload_bytes, least: MIN_PAYLOAD });
        }
        self.login().map(|_| ())
    }

    fn seconds(&self, method: Method) -> u64 {
        let own = self.interval.iter().rev().find(|interval| interval.method == method);
        match own {
            Some(interval) => interval.seconds,
            None if method.is_rare() => self.query_interval_less_frequent,
            None => self.query_interval,
        }
    }

    fn is_disabled(&self, method: Method) -> bool {
        match method {
            Method::GetPeerInfo => self.disable_getpeerinfo,
            Method::GetMempoolInfo => self.disable_getmempoolinfo,
            Method::Uptime => self.disable_uptime,
            Method::GetNetTotals => self.disable_getnettotals,
            Method::GetMemoryInfo => self.disable_getmemoryinfo,
            Method::GetAddrmanInfo => self.disable_getaddrmaninfo,
            Method::GetChainTxStats => self.disable_getchaintxstats,
            Method::GetNetworkInfo => self.disable_getnetworkinfo,
            Method::GetBlockchainInfo => self.disable_getblockchaininfo,
            Method::GetOrphanTxs => self.disable_getorphantxs,
            Method::GetRawAddrman => self.disable_getrawaddrman,
            Method::EstimateSmartFee => self.disable_estimatesmartfee,
            Method::GetChainTips => self.disable_getchaintips,
            Method::ListBanned => self.disable_listbanned,
        }
    }
}

/// How often one method is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MethodInterval {
    method: Method,
    seconds: u64,
}

/// An interval that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}: expected METHOD=SECONDS with a method of the RPC extractor, such as getpeerinfo=5")]
pub struct IntervalError(String);

impl FromStr for MethodInterval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let parsed = text
            .split_once('=')
            .and_then(|(method, seconds)| Some((Method::parse(method)?, seconds.parse().ok()?)));
        let (method, seconds) = parsed.ok_or_else(|| IntervalError(text.into()))?;
        Ok(MethodInterval { method, seconds })
    }
}

impl TryFrom<String> for MethodInterval {
    type Error = IntervalError;

    fn try_from(text: String) -> Result<Self, IntervalError> {
        text.parse()
    }
}

impl From<MethodInterval> for String {
    fn from(interval: MethodInterval) -> String {
        format!("{}={}", interval.method.name(), interval.seconds)
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

    fn flags(flags: &[&str]) -> Result<Config, clap::Error> {
        Cli::try_parse_from([&["rpc"], flags].concat()).map(|cli| cli.config)
    }

    #[test]
    fn settings_without_flags_are_those_without_a_file() {
        assert_eq!(flags(&[]).unwrap(), Config::default());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>("{\"rpc_port\": 1}").is_err());
    }

    #[test]
    fn every_method_has_its_public_interval_and_can_have_its_own() {
        let seconds = |config: &Config| -> Vec<(&str, u64)> {
            config.methods().iter().map(|(m, d)| (m.name(), d.as_secs())).collect()
        };
        let rare = ["getchaintxstats", "getblockchaininfo", "getrawaddrman", "getchaintips", "listbanned"];
        for (name, seconds) in seconds(&Config::default()) {
            assert_eq!(seconds, if rare.contains(&name) { 120 } else { 10 }, "{name}");
        }
        let config = flags(&[
            "--query-interval=1",
            "--query-interval-less-frequent=2",
            "--interval=uptime=7",
            "--interval=getrawaddrman=8",
        ]);
        for (name, seconds) in seconds(&config.unwrap()) {
            let expected = match name {
                "uptime" => 7,
                "getrawaddrman" => 8,
                _ if rare.contains(&name) => 2,
                _ => 1,
            };
            assert_eq!(seconds, expected, "{name}");
        }
        assert!(flags(&["--interval=getblock=7"]).is_err());
        assert!(flags(&["--interval=uptime"]).is_err());
        assert!(flags(&["--interval=uptime=0"]).unwrap().validate().is_err());
        let again: MethodInterval = serde_json::from_str("\"uptime=7\"").unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), "\"uptime=7\"");
    }

    #[test]
    fn every_method_has_its_off_switch() {
        for method in Method::ALL {
            let config = flags(&[&format!("--disable-{}", method.name())]).unwrap();
            assert!(config.methods().iter().all(|(m, _)| m != method), "{}", method.name());
            assert_eq!(config.methods().len(), Method::ALL.len() - 1);
        }
    }

    #[test]
    fn a_login_is_one_of_three_and_complete() {
        let login = |given: &[&str]| flags(given).unwrap().login();
        assert!(login(&[]).unwrap().is_none());
        assert!(matches!(login(&["--rpc-cookie-file=/c"]), Ok(Some(Login::Cookie(_)))));
        assert!(matches!(login(&["--rpc-user=u", "--rpc-password=p"]), Ok(Some(Login::Password { .. }))));
        let file = login(&["--rpc-user=u", "--rpc-password-file=/p"]);
        assert!(matches!(file, Ok(Some(Login::PasswordFile { .. }))));
        assert!(matches!(login(&["--rpc-user=u"]), Err(Error::MixedLogin)));
        assert!(flags(&["--rpc-user=u", "--rpc-password=p", "--rpc-cookie-file=/c"]).is_err());
        assert!(flags(&["--rpc-password=p"]).is_err());
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert!(Config::default().validate().is_ok());
        for bad in [
            Config { rpc_host: "localhost".into(), ..Config::default() },
            Config { rpc_host: "localhost:rpc".into(), ..Config::default() },
            Config { query_interval: 0, ..Config::default() },
            Config { rpc_timeout: 0, ..Config::default() },
            Config { rpc_node: String::new(), ..Config::default() },
            Config { rpc_node: "n".repeat(256), ..Config::default() },
            Config { max_payload_bytes: 1000, ..Config::default() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
