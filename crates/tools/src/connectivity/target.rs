//! What of a gossiped address may be dialed, and how: an address is whatever a peer chose to send, so one can name our own printer, the
//! mail server of a third party, or nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use peer_observer_events::proto::bitcoin_primitives::Address;
use peer_observer_events::proto::bitcoin_primitives::address::Address as Host;

use super::config::{Config, Overlay};
use crate::onion::{from_base32, onion_name};

/// Ports that other services listen at, which nobody shall be made to knock at: Bitcoin Core dials none of them (netbase.cpp,
/// `IsBadPort`).
const BAD_PORTS: &[u16] = &[
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3306, 3389, 3659, 4045, 5060, 5061, 5432, 5900, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6697,
    10080, 27017,
];

/// First byte of CJDNS addresses (Bitcoin Core netaddress.h, `CJDNS_PREFIX`).
const CJDNS: u8 = 0xfc;

/// Why an address is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// It leads to no public place.
    Unroutable,
    /// At that port is another service.
    Port,
    /// There is no way into its network from here.
    Network,
    /// Its neighbourhood was dialed often enough.
    Netgroup,
    /// Too many others wait.
    Queue,
    /// It came with an answer to getaddr, which is no gossip.
    Getaddr,
}

impl Skip {
    /// As metrics name it, in the order of the enum.
    pub(super) const NAMES: &[&str] = &["unroutable", "port", "network", "netgroup", "queue", "getaddr"];
}

/// What can be dialed. Its text is unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Directly.
    Direct(SocketAddr),
    /// Through the proxy of a network.
    Onion(String, u16),
    /// Through the proxy of a network. I2P has no ports.
    I2p(String, u16),
}

impl Target {
    /// Where an address leads, if it may be dialed.
    pub(super) fn new(address: &Address, config: &Config) -> Result<Self, Skip> {
        let port = u16::try_from(address.port).map_err(|_| Skip::Port)?;
        let target = match address.address.as_ref().ok_or(Skip::Network)? {
            Host::Ipv4(text) => {
                let ip: Ipv4Addr = text.parse().map_err(|_| Skip::Unroutable)?;
                if !is_public_v4(ip) {
                    unless_local(config)?;
                }
                Target::Direct((ip, port).into())
            }
            Host::Ipv6(text) => {
                let ip: Ipv6Addr = text.parse().map_err(|_| Skip::Unroutable)?;
                if !is_public_v6(ip) {
                    unless_local(config)?;
                }
                Target::Direct((ip, port).into())
            }
            Host::Cjdns(text) => {
                let ip: Ipv6Addr = text.parse().map_err(|_| Skip::Unroutable)?;
                if ip.octets()[0] != CJDNS {
                    unless_local(config)?;
                }
                if !config.cjdns {
                    return Err(Skip::Network);
                }
                Target::Direct((ip, port).into())
            }
            Host::Torv3(text) => {
                let name = onion_name(text).ok_or(Skip::Unroutable)?;
                config.proxy(Overlay::Onion).ok_or(Skip::Network)?;
                Target::Onion(name, port)
            }
            Host::I2p(text) => {
                let hash = text.strip_suffix(".b32.i2p").and_then(|text| from_base32(text, 32));
                hash.ok_or(Skip::Unroutable)?;
                config.proxy(Overlay::I2p).ok_or(Skip::Network)?;
                return Ok(Target::I2p(text.clone(), port));
            }
            // Tor has not served version 2 since 2021.
            Host::Torv2(_) | Host::Unknown(_) => return Err(Skip::Network),
        };
        if port == 0 || (BAD_PORTS.contains(&port) && !config.allow_local) {
            return Err(Skip::Port);
        }
        Ok(target)
    }

    /// It is dialed over IPv6, and not through CJDNS.
    pub(super) fn is_ipv6(&self) -> bool {
        matches!(self, Target::Direct(SocketAddr::V6(addr)) if addr.ip().octets()[0] != CJDNS)
    }

    /// Its neighbourhood, most of which may be in one hand: /16 of IPv4, /32 of IPv6. Names of Tor and I2P have none.
    pub(super) fn netgroup(&self) -> Option<IpAddr> {
        let Target::Direct(addr) = self else { return None };
        Some(match addr.ip() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Ipv4Addr::new(a, b, 0, 0).into()
            }
            IpAddr::V6(ip) => {
                let [a, b, ..] = ip.segments();
                Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0).into()
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Direct(addr) => addr.fmt(f),
            Target::Onion(name, port) | Target::I2p(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Whether this machine has a way to public IPv6 addresses. Without one every IPv6 address would be told to be none. A UDP socket that is
/// connected looks for the way and sends nothing.
pub(super) fn has_ipv6() -> bool {
    let somewhere = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 1);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect((somewhere, 9))).is_ok()
}

/// What is said of an address that is not public.
fn unless_local(config: &Config) -> Result<(), Skip> {
    if config.allow_local { Ok(()) } else { Err(Skip::Unroutable) }
}

/// The address is none of the special ones of IANA's registry (RFC 6890 and later).
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match a {
        0 | 10 | 127 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        198 => b & 0xfe == 18 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        // Multicast, reserved, broadcast.
        224..=255 => true,
        _ => false,
    };
    !special
}

/// The address is of the part of IPv6 that is given out (2000::/3), and none of the special ones in there: those of RFC 6890 and RFC
/// 9637, and 6to4 and Teredo, which hide an IPv4 address of any kind.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let given_out = a & 0xe000 == 0x2000;
    let special = match a {
        // Teredo, benchmarks, ORCHID and its second version, all in 2001::/23.
        0x2001 => b < 0x200 || b == 0xdb8,
        0x2002 => true,
        0x3fff => b < 0x1000,
        _ => false,
    };
    given_out && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Host {
        match text.parse() {
            Ok(IpAddr::V4(_)) => Host::Ipv4(text.into()),
            _ => Host::Ipv6(text.into()),
        }
    }

    fn target(host: Host, port: u32, config: &Config) -> Result<String, Skip> {
        let address = Address { timestamp: 0, services: 0, port, address: Some(host) };
        Target::new(&address, config).map(|target| target.to_string())
    }

    #[test]
    fn only_public_addresses_are_dialed() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "",
            "localhost",
            "1.2.3",
        ];
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.0.3.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.0",
            "203.0.112.1",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860::1",
            "2a01:4f8::1",
            "2600::1",
            "3ffe::1",
        ];
        let config = Config::default();
        for text in private {
            assert_eq!(target(ip(text), 8333, &config), Err(Skip::Unroutable), "{text}");
        }
        for text in public {
            assert!(target(ip(text), 8333, &config).is_ok(), "{text}");
        }
        let local = Config { allow_local: true, ..config };
        assert_eq!(target(ip("127.0.0.1"), 22, &local).unwrap(), "127.0.0.1:22");
        assert_eq!(target(ip("nonsense"), 8333, &local), Err(Skip::Unroutable));
    }

    #[test]
    fn ports_of_other_services_are_not_knocked_at() {
        let config = Config::default();
        for port in [0, 22, 25, 53, 5432, 6697, 27017, 65_536, u32::MAX] {
            assert_eq!(target(ip("1.1.1.1"), port, &config), Err(Skip::Port), "{port}");
        }
        for port in [80, 443, 8332, 8333, 8334, 65_535] {
            assert_eq!(target(ip("1.1.1.1"), port, &config).unwrap(), format!("1.1.1.1:{port}"));
        }
    }

    #[test]
    fn overlay_networks_are_dialed_where_there_is_a_way() {
        let key = format!("{}.onion", "a".repeat(52));
        let onion = onion_name(&key).unwrap();
        let i2p = format!("{}.b32.i2p", "a".repeat(52));
        let none = Config::default();
        let proxy = Config { socks5_proxy: vec!["127.0.0.1:9050".parse().unwrap()], ..Config::default() };
        let i2p_only =
            Config { socks5_proxy: vec!["i2p=127.0.0.1:4447".parse().unwrap()], ..Config::default() };
        let cjdns = Config { cjdns: true, ..Config::default() };
        let cases: [(Host, &Config, Result<&str, Skip>); 11] = [
            (Host::Torv3(key.clone()), &proxy, Ok(&onion)),
            (Host::Torv3(key.clone()), &none, Err(Skip::Network)),
            (Host::Torv3(key.clone()), &i2p_only, Err(Skip::Network)),
            (Host::Torv3("x.onion".into()), &proxy, Err(Skip::Unroutable)),
            (Host::Torv2("aaaaaaaaaaaaaaaa.onion".into()), &proxy, Err(Skip::Network)),
            (Host::I2p(i2p.clone()), &none, Err(Skip::Network)),
            (Host::I2p(i2p.clone()), &i2p_only, Ok(&i2p)),
            (Host::I2p("example.i2p".into()), &proxy, Err(Skip::Unroutable)),
            (Host::Cjdns("fc00::1".into()), &none, Err(Skip::Network)),
            (Host::Cjdns("fc00::1".into()), &cjdns, Ok("[fc00::1]")),
            (Host::Cjdns("fd00::1".into()), &cjdns, Err(Skip::Unroutable)),
        ];
        for (host, config, expected) in cases {
            let expected = expected.map(|name| format!("{name}:8333"));
            assert_eq!(target(host.clone(), 8333, config), expected, "{host:?}");
        }
        assert!(target(Host::I2p(i2p), 0, &proxy).is_ok(), "I2P has no ports");
    }

    #[test]
    fn neighbourhoods_are_those_of_networks() {
        let config = Config::default();
        let group = |text: &str| {
            let address = Address { timestamp: 0, services: 0, port: 8333, address: Some(ip(text)) };
            Target::new(&address, &config).unwrap().netgroup().unwrap().to_string()
        };
        assert_eq!(group("11.22.33.44"), "11.22.0.0");
        assert_eq!(group("2a01:4f8:1:2::3"), "2a01:4f8::");
        assert_eq!(Target::I2p("x".into(), 0).netgroup(), None);
        let is_ipv6 = |addr: &str| Target::Direct(addr.parse().unwrap()).is_ipv6();
        assert!(is_ipv6("[2a01::1]:1") && !is_ipv6("[fc00::1]:1") && !is_ipv6("1.2.3.4:1"));
    }
}
