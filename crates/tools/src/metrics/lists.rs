//! Lists of addresses that dashboards count by.
//!
//! The lists are files of the user's, one address a line: they age, so none is built in. LinkingLion is the exception, a few
//! prefixes that have no list file anywhere.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Largest list file that is read, bytes.
const MAX_FILE: u64 = 64 << 20;

/// LinkingLion's networks since 2026, as address text begins in them: 143.20.137.0/24, 31.58.215.0/24, 87.229.79.0/24,
/// 2602:f5c0::/32.
const LINKING_LION: [&str; 4] = ["143.20.137.", "31.58.215.", "87.229.79.", "2602:f5c0:"];

/// The address, as text, is one of LinkingLion's.
pub(crate) fn is_linking_lion(ip: &str) -> bool {
    LINKING_LION.iter().any(|prefix| ip.starts_with(prefix))
}

/// A list that metrics know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListName {
    /// Gregory Maxwell's ban list of 2018.
    Gmax,
    /// Monero's ban list.
    Monero,
    /// Exits of the Tor network.
    TorExit,
    /// Nodes of bitprojects.io.
    Bitprojects,
}

impl ListName {
    /// All lists.
    pub const ALL: [ListName; 4] =
        [ListName::Gmax, ListName::Monero, ListName::TorExit, ListName::Bitprojects];

    /// The name as it is written in flags and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            ListName::Gmax => "gmax",
            ListName::Monero => "monero",
            ListName::TorExit => "tor_exit",
            ListName::Bitprojects => "bitprojects",
        }
    }
}

/// A list and the file it is read from: `gmax=/etc/peer-observer/gmax.txt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListFile {
    /// The list.
    pub name: ListName,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for ListFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unclear = || Error::Unclear { text: text.into() };
        let (name, path) = text.split_once('=').ok_or_else(unclear)?;
        let name = ListName::ALL.into_iter().find(|known| known.as_str() == name).ok_or_else(unclear)?;
        if path.is_empty() {
            return Err(unclear());
        }
        Ok(ListFile { name, path: path.into() })
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
        write!(f, "{}={}", self.name.as_str(), self.path.display())
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
        "`{text}` names no list: write NAME=FILE with one of the names gmax, monero, tor_exit, bitprojects"
    )]
    Unclear {
        /// What was given.
        text: String,
    },
    /// The file cannot be read.
    #[error("cannot read the address list {path}: {source}; correct --ip-list or leave it out")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("line {line} of the address list {path} is no IP address; a list has one address a line")]
    NoAddress {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// The file is too large to be a list.
    #[error("the address list {path} is larger than 64 MiB; a list has one address a line")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Lists that were read.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: [HashSet<IpAddr>; ListName::ALL.len()],
}

impl Lists {
    /// Reads the files. A list that no file is given for is empty; two files for one list are one list.
    ///
    /// # Errors
    /// When a file cannot be read or is not a list.
    pub(crate) fn read(files: &[ListFile]) -> Result<Self, Error> {
        let mut lists = Lists::default();
        for file in files {
            let addresses = read(&file.path)?;
            lists.lists[file.name as usize].extend(addresses);
        }
        Ok(lists)
    }

    /// The address is on the list.
    pub(crate) fn contains(&self, name: ListName, ip: IpAddr) -> bool {
        self.lists[name as usize].contains(&ip)
    }
}

/// Files of lists, and whether they changed since they were looked at.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<ListFile>,
    changed: Vec<Option<SystemTime>>,
}

impl Watch {
    /// Looks at the files. To miss no change, do so before they are read.
    pub(crate) fn new(files: &[ListFile]) -> Self {
        Watch { files: files.to_vec(), changed: files.iter().map(changed).collect() }
    }

    /// All lists, when a file changed since the last look.
    ///
    /// # Errors
    /// When a file cannot be read or is not a list; the next try is at its next change.
    pub(crate) fn read_if_changed(&mut self) -> Result<Option<Lists>, Error> {
        let changed: Vec<_> = self.files.iter().map(changed).collect();
        if changed == self.changed {
            return Ok(None);
        }
        self.changed = changed;
        Lists::read(&self.files).map(Some)
    }
}

fn changed(file: &ListFile) -> Option<SystemTime> {
    std::fs::metadata(&file.path).and_then(|metadata| metadata.modified()).ok()
}

fn read(path: &PathBuf) -> Result<Vec<IpAddr>, Error> {
    let failed = |source| Error::Read { path: path.clone(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(Error::TooLarge { path: path.clone() });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(i, line)| line.parse().map_err(|_| Error::NoAddress { path: path.clone(), line: i + 1 }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_an_address_a_line_and_comments() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# exits\n192.0.2.1\n\n 2001:db8::1 \r\n").unwrap();
        let files = [ListFile { name: ListName::TorExit, path: file.path().into() }];
        let lists = Lists::read(&files).unwrap();
        assert!(lists.contains(ListName::TorExit, "192.0.2.1".parse().unwrap()));
        assert!(lists.contains(ListName::TorExit, "2001:db8:0::1".parse().unwrap()));
        assert!(!lists.contains(ListName::Gmax, "192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_file_that_is_no_list_is_refused_with_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "192.0.2.1\nexample.org\n").unwrap();
        let error = Lists::read(&[ListFile { name: ListName::Gmax, path: file.path().into() }]).unwrap_err();
        assert!(error.to_string().starts_with("line 2 of the address list"), "{error}");
    }

    #[test]
    fn a_list_is_read_again_when_its_file_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str, s: u64| {
            std::fs::write(file.path(), text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s);
            file.as_file().set_modified(time).unwrap();
        };
        write("192.0.2.1\n", 1);
        let mut watch = Watch::new(&[ListFile { name: ListName::Gmax, path: file.path().into() }]);
        assert!(watch.read_if_changed().unwrap().is_none());
        write("192.0.2.2\n", 2);
        let lists = watch.read_if_changed().unwrap().unwrap();
        assert!(lists.contains(ListName::Gmax, "192.0.2.2".parse().unwrap()));
        write("half of a li", 3);
        assert!(watch.read_if_changed().is_err());
        assert!(watch.read_if_changed().unwrap().is_none(), "one complaint is enough");
        write("192.0.2.3\n", 4);
        assert!(watch.read_if_changed().unwrap().is_some());
    }

    #[test]
    fn names_and_files_are_told_apart() {
        let file: ListFile = "gmax=/a=b".parse().unwrap();
        assert_eq!((file.name, file.path.to_str()), (ListName::Gmax, Some("/a=b")));
        assert_eq!(file.to_string(), "gmax=/a=b");
        for unclear in ["gmax", "gmax=", "nobody=/a", ""] {
            assert!(unclear.parse::<ListFile>().is_err(), "{unclear}");
        }
    }

    #[test]
    fn linking_lion_is_known_by_its_networks_alone() {
        for ip in ["143.20.137.0", "31.58.215.255", "87.229.79.7", "2602:f5c0:1::2", "2602:f5c0::1"] {
            assert!(is_linking_lion(ip), "{ip}");
        }
        for ip in ["143.20.13.71", "31.58.2.15", "2602:f5c1::1", "162.218.65.1", ""] {
            assert!(!is_linking_lion(ip), "{ip}");
        }
    }
}
