//! Lists of addresses.
//!
//! The lists are files of the user's, one address or subnet a line: they age, so none is built in. LinkingLion is the exception, a
//! few prefixes that have no list file anywhere.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest list file that is read, bytes.
const MAX_FILE: u64 = 64 << 20;
/// Longest name of a list, bytes: it is a label value.
const MAX_NAME: usize = 64;

/// Names of lists that have metrics of their own with public names.
pub(crate) const GMAX: &str = "gmax";
pub(crate) const MONERO: &str = "monero";
pub(crate) const TOR_EXIT: &str = "tor_exit";
pub(crate) const BITPROJECTS: &str = "bitprojects";

/// Name of the list that is built in, where lists are named.
pub(crate) const LINKING_LION_NAME: &str = "LinkingLion";

/// LinkingLion's networks since 2026, as address text begins in them: 143.20.137.0/24, 31.58.215.0/24, 87.229.79.0/24,
/// 2602:f5c0::/32.
const LINKING_LION: [&str; 4] = ["143.20.137.", "31.58.215.", "87.229.79.", "2602:f5c0:"];

/// LinkingLion's networks before: 162.218.65.0/24, 209.222.252.0/24, 91.198.115.0/24, 2604:d500:4::/48.
const LINKING_LION_BEFORE_2026: [&str; 4] = ["162.218.65.", "209.222.252.", "91.198.115.", "2604:d500:4:"];

/// The address, as text, is one of LinkingLion's.
pub(crate) fn is_linking_lion(ip: &str) -> bool {
    LINKING_LION.iter().any(|prefix| ip.starts_with(prefix))
}

/// The address, as text, is one that LinkingLion used before 2026.
pub(crate) fn was_linking_lion(ip: &str) -> bool {
    LINKING_LION_BEFORE_2026.iter().any(|prefix| ip.starts_with(prefix))
}

/// A list and the file it is read from: `gmax=/etc/peer-observer/gmax.txt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListFile {
    /// Name of the list.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for ListFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unclear = || Error::Unclear { text: text.into() };
        let (name, path) = text.split_once('=').ok_or_else(unclear)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) || path.is_empty() {
            return Err(unclear());
        }
        Ok(ListFile { name: name.into(), path: path.into() })
    }
}

impl TryFrom<String> for ListFile {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for ListFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.path.display())
    }
}

impl From<ListFile> for String {
    fn from(file: ListFile) -> String {
        file.to_string()
    }
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the form that is expected.
    #[error(
        "`{text}` names no list: write NAME=FILE, with letters, digits, `_`, `-` and `.` in the name, 64 at most"
    )]
    Unclear {
        /// What was given.
        text: String,
    },
    /// The file cannot be read.
    #[error("cannot read the address list {path}: {source}; correct its path or leave the list out")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "line {line} of the address list {path} is no IP address and no subnet; a list has one a line, as 192.0.2.1 or 192.0.2.0/24"
    )]
    NoAddress {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// The file is too large to be a list.
    #[error("the address list {path} is larger than 64 MiB; a list has one address or subnet a line")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Lists that were read.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: Vec<(String, Ranges)>,
}

impl Lists {
    /// Reads the files. Two files for one list are one list.
    ///
    /// # Errors
    /// When a file cannot be read or is not a list.
    pub(crate) fn read(files: &[ListFile]) -> Result<Self, Error> {
        let mut lists: Vec<(String, Vec<Range>)> = Vec::new();
        for file in files {
            let ranges = read(&file.path)?;
            match lists.iter_mut().find(|(name, _)| *name == file.name) {
                Some((_, list)) => list.extend(ranges),
                None => lists.push((file.name.clone(), ranges)),
            }
        }
        Ok(Lists { lists: lists.into_iter().map(|(name, ranges)| (name, Ranges::new(ranges))).collect() })
    }

    /// The names of the lists that the address is on.
    pub(crate) fn with(&self, ip: IpAddr) -> impl Iterator<Item = &str> {
        let number = number(ip);
        self.lists.iter().filter(move |(_, list)| list.contain(number)).map(|(name, _)| name.as_str())
    }
}

/// First and last address.
type Range = (u128, u128);

/// Ranges of addresses, ascending, that do not overlap.
#[derive(Debug)]
struct Ranges(Vec<Range>);

impl Ranges {
    fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        merged.shrink_to_fit();
        Ranges(merged)
    }

    fn contain(&self, number: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.0[after - 1].1
    }
}

/// The address as a number; IPv4 has its place within IPv6 (RFC 4291, 2.5.5.2).
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn read(path: &Path) -> Result<Vec<Range>, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(Error::TooLarge { path: path.into() });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(i, line)| range(line).ok_or_else(|| Error::NoAddress { path: path.into(), line: i + 1 }))
        .collect()
}

/// The range of an address or of a subnet, whose bits after the prefix do not matter.
fn range(text: &str) -> Option<Range> {
    let Some((ip, prefix)) = text.split_once('/') else {
        let number = number(text.parse().ok()?);
        return Some((number, number));
    };
    let ip: IpAddr = ip.parse().ok()?;
    let prefix: u32 = prefix.parse().ok()?;
    let host_bits = if ip.is_ipv4() { 32_u32 } else { 128 }.checked_sub(prefix)?;
    let host = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    let number = number(ip);
    Some((number & !host, number | host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(text: &str) -> Result<Lists, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Lists::read(&[ListFile { name: TOR_EXIT.into(), path: file.path().into() }])
    }

    #[test]
    fn a_list_has_addresses_subnets_and_comments() {
        let lists =
            lists("# exits\n192.0.2.1\n\n 2001:db8::1 \r\n198.51.100.77/24\n198.51.100.9\n2001:db8:7::/48\n")
                .unwrap();
        for ip in ["192.0.2.1", "2001:db8:0::1", "198.51.100.0", "198.51.100.255", "2001:db8:7:ffff::1"] {
            assert_eq!(lists.with(ip.parse().unwrap()).collect::<Vec<_>>(), [TOR_EXIT], "{ip}");
        }
        for ip in ["192.0.2.0", "192.0.2.2", "198.51.99.255", "198.51.101.0", "2001:db8:8::", "::"] {
            assert_eq!(lists.with(ip.parse().unwrap()).count(), 0, "{ip}");
        }
        let everything = super::tests::lists("0.0.0.0/0\n::/0\n").unwrap();
        assert_eq!(everything.with("255.255.255.255".parse().unwrap()).count(), 1);
    }

    #[test]
    fn a_file_that_is_no_list_is_refused_with_its_line() {
        for second in ["example.org", "192.0.2.0/33", "::/129", "192.0.2.0/", "/8", "192.0.2.0/-1"] {
            let error = lists(&format!("192.0.2.1\n{second}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2 of the address list"), "{error}");
        }
    }

    #[test]
    fn two_files_of_a_name_are_one_list() {
        let files = ["192.0.2.1\n", "192.0.2.2\n"].map(|text| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        });
        let lists = Lists::read(&[
            ListFile { name: "mine".into(), path: files[0].path().into() },
            ListFile { name: "mine".into(), path: files[1].path().into() },
        ]);
        let lists = lists.unwrap();
        for ip in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(lists.with(ip.parse().unwrap()).collect::<Vec<_>>(), ["mine"]);
        }
    }

    #[test]
    fn names_and_files_are_told_apart() {
        let file: ListFile = "gmax=/a=b".parse().unwrap();
        assert_eq!((file.name.as_str(), file.path.to_str()), (GMAX, Some("/a=b")));
        assert_eq!(file.to_string(), "gmax=/a=b");
        let long = format!("{}=/a", "x".repeat(65));
        for unclear in ["gmax", "gmax=", "no body=/a", "=/a", "", &long] {
            assert!(unclear.parse::<ListFile>().is_err(), "{unclear}");
        }
    }

    #[test]
    fn linking_lion_is_known_by_its_networks_alone() {
        for ip in ["143.20.137.0", "31.58.215.255", "87.229.79.7", "2602:f5c0:1::2", "2602:f5c0::1"] {
            assert!(is_linking_lion(ip) && !was_linking_lion(ip), "{ip}");
        }
        for ip in ["143.20.13.71", "31.58.2.15", "2602:f5c1::1", "162.218.6.51", ""] {
            assert!(!is_linking_lion(ip) && !was_linking_lion(ip), "{ip}");
        }
        for ip in ["162.218.65.1", "209.222.252.9", "91.198.115.0", "2604:d500:4:1::2"] {
            assert!(was_linking_lion(ip) && !is_linking_lion(ip), "{ip}");
        }
    }
}
