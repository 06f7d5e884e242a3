//! Addresses of nodes, in the form that came first and in that of BIP 155, and how the schema writes them.
//!
//! Tor and I2P addresses are the base32 of what is on the wire and a suffix; for Tor v3 that is the public key alone, so it
//! is not the name a browser would take. Existing readers of the schema know them in this form.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::reader::{Malformed, Reader};
use crate::proto::bitcoin_primitives::address::Address as Host;
use crate::proto::bitcoin_primitives::{Address, UnknownAddress};
use crate::proto::ebpf_extractor::message::{Addr, AddrV2};

/// Longest address that Core reads (BIP 155; `MAX_ADDRV2_SIZE`, netaddress.h), bytes.
const ADDRESS: usize = 512;
/// Tor v2 addresses inside IPv6 begin with this (`TORV2_IN_IPV6_PREFIX`, netaddress.h).
const ONION_CAT: [u8; 6] = [0xfd, 0x87, 0xd8, 0x7e, 0xeb, 0x43];
/// CJDNS addresses begin with this (`CJDNS_PREFIX`, netaddress.h).
const CJDNS: [u8; 1] = [0xfc];

/// Network ids of BIP 155.
mod network {
    pub(super) const IPV4: u8 = 1;
    pub(super) const IPV6: u8 = 2;
    pub(super) const TORV2: u8 = 3;
    pub(super) const TORV3: u8 = 4;
    pub(super) const I2P: u8 = 5;
    pub(super) const CJDNS: u8 = 6;
}

pub(super) fn addr(r: &mut Reader) -> Result<Addr, Malformed> {
    let addresses = r.list("address", 30, |r| {
        let timestamp = r.u32()?;
        legacy(r, timestamp)
    })?;
    Ok(Addr { addresses })
}

/// Services, 16 bytes of IPv6 and a port: entries of `addr` after their time, and both addresses in `version`.
pub(super) fn legacy(r: &mut Reader, timestamp: u32) -> Result<Address, Malformed> {
    let services = r.u64()?;
    let octets = r.array::<16>()?;
    let port = u16::from_be_bytes(r.array()?).into();
    let ip = Ipv6Addr::from(octets);
    let host = if let Some(onion) = octets.strip_prefix(&ONION_CAT) {
        Host::Torv2(base32(onion, ".onion"))
    } else if let Some(ipv4) = ip.to_ipv4() {
        Host::Ipv4(ipv4.to_string())
    } else {
        Host::Ipv6(ip.to_string())
    };
    Ok(Address { timestamp, services, port, address: Some(host) })
}

pub(super) fn addrv2(r: &mut Reader) -> Result<AddrV2, Malformed> {
    // Time, services, network, length of the address, port: an address of no bytes is one, too.
    let addresses = r.list("address", 4 + 1 + 1 + 1 + 2, |r| {
        let timestamp = r.u32()?;
        let services = r.compact_size()?;
        let host = host(r)?;
        let port = u16::from_be_bytes(r.array()?).into();
        Ok(Address { timestamp, services, port, address: Some(host) })
    })?;
    Ok(AddrV2 { addresses })
}

/// Network id, length and address of BIP 155.
///
/// What Core reads and then ignores (networks it does not know, IPv4 and Tor v2 inside IPv6, CJDNS outside of fc00::/8) is
/// kept as it came, as an unknown address.
fn host(r: &mut Reader) -> Result<Host, Malformed> {
    let id = r.u8()?;
    let length = r.compact_size()?;
    if length > ADDRESS as u64 {
        return Err(Malformed::TooLong { what: "address", length, limit: ADDRESS });
    }
    let host = match id {
        network::IPV4 => Host::Ipv4(Ipv4Addr::from(exact::<4>(r, "IPv4", length)?).to_string()),
        network::IPV6 => {
            let octets = exact::<16>(r, "IPv6", length)?;
            let ip = Ipv6Addr::from(octets);
            if ip.to_ipv4_mapped().is_some() || octets.starts_with(&ONION_CAT) {
                as_it_came(id, Bytes::copy_from_slice(&octets))
            } else {
                Host::Ipv6(ip.to_string())
            }
        }
        network::TORV2 if length == 10 => Host::Torv2(base32(&r.array::<10>()?, ".onion")),
        network::TORV3 => Host::Torv3(base32(&exact::<32>(r, "Tor v3", length)?, ".onion")),
        network::I2P => Host::I2p(base32(&exact::<32>(r, "I2P", length)?, ".b32.i2p")),
        network::CJDNS => {
            let octets = exact::<16>(r, "CJDNS", length)?;
            if octets.starts_with(&CJDNS) {
                Host::Cjdns(Ipv6Addr::from(octets).to_string())
            } else {
                as_it_came(id, Bytes::copy_from_slice(&octets))
            }
        }
        _ => as_it_came(id, r.bytes(length as usize)?),
    };
    Ok(host)
}

/// An address of a network whose addresses are `N` bytes long.
fn exact<const N: usize>(r: &mut Reader, what: &'static str, length: u64) -> Result<[u8; N], Malformed> {
    if length != N as u64 {
        return Err(Malformed::AddressLength { what, length, expected: N });
    }
    r.array()
}

fn as_it_came(id: u8, address: Bytes) -> Host {
    Host::Unknown(UnknownAddress { id: id.into(), address })
}

/// RFC 4648 base32 in small letters without padding, and a suffix.
fn base32(bytes: &[u8], suffix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8 + suffix.len());
    for group in bytes.chunks(5) {
        let mut bits = [0; 8];
        bits[3..3 + group.len()].copy_from_slice(group);
        let bits = u64::from_be_bytes(bits);
        for digit in 0..(group.len() * 8).div_ceil(5) {
            let index = (bits >> (35 - 5 * digit)) & 31;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text.push_str(suffix);
    text
}
