//! Which names a server may be asked by.
//!
//! A browser sends the name it asked for as the `Host` header. A page of an attacker can have its
//! own name resolve to this machine (DNS rebinding), and would then read whatever is served here;
//! its name gives it away. An address cannot be made to point here by anybody else.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap};

/// The kernel's name of this machine.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Names that a server answers to, besides addresses and `localhost`.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// These names, with or without a port.
    pub fn new(names: &[String]) -> Self {
        Hosts { names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// These and the name of this machine, by which scrapers on other machines know it.
    pub fn with_own_name(names: &[String]) -> Self {
        let mut hosts = Self::new(names);
        let own = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
        hosts.names.extend(Some(own.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()));
        hosts
    }

    /// The host that a request names, in lower case and with its port, if that is one of ours.
    /// `None` also for a request that names none, or several.
    pub fn named_by(&self, headers: &HeaderMap) -> Option<String> {
        let mut all = headers.get_all(HOST).iter();
        let (Some(host), None) = (all.next(), all.next()) else { return None };
        let host = host.to_str().ok()?.to_ascii_lowercase();
        let name = without_port(&host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let ours = address || name == "localhost" || self.names.iter().any(|n| *n == name || *n == host);
        ours.then_some(host)
    }
}

/// The host of `host:port` or `[v6]:port`.
fn without_port(authority: &str) -> &str {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|at| at + 2),
        None => authority.find(':'),
    };
    &authority[..end.unwrap_or(authority.len()).min(authority.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(hosts: &Hosts, names: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HOST, name.parse().unwrap());
        }
        hosts.named_by(&headers).is_some()
    }

    #[test]
    fn host_is_an_address_localhost_or_configured() {
        let hosts = Hosts::new(&["Node.Example".into(), "other.example:81".into()]);
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:47482",
            "[::1]:9",
            "[::1]",
            "192.0.2.1",
            "node.example",
            "Node.Example:80",
            "other.example:81",
        ] {
            assert!(allows(&hosts, &[good]), "{good}");
        }
        for bad in [
            "",
            "[",
            "]",
            "[]",
            ":80",
            "evil.example",
            "x.node.example",
            "node.example.evil",
            "node.example.",
            "other.example:82",
            "localhost.",
            "localhost.evil.example",
            "127.0.0.1.evil.example:47482",
            "127.1",
            "0x7f000001",
            "2130706433",
            "localhost@evil.example",
            "evil.example/localhost",
        ] {
            assert!(!allows(&hosts, &[bad]), "{bad}");
        }
        assert!(!allows(&hosts, &[]));
        assert!(!allows(&hosts, &["localhost", "localhost"]));
        assert!(!allows(&hosts, &["localhost", "evil.example"]));
    }

    #[test]
    fn own_name_is_allowed_on_request() {
        let own = std::fs::read_to_string(HOSTNAME).unwrap();
        assert!(allows(&Hosts::with_own_name(&[]), &[own.trim(),][..]));
        assert!(allows(&Hosts::with_own_name(&[]), &[&format!("{}:8282", own.trim().to_uppercase())]));
        assert!(!allows(&Hosts::with_own_name(&[]), &["evil.example"]));
    }
}
