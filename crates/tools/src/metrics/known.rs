//! What the user's files tell of addresses: lists they are on, the AS they are in. The files may change while the tool runs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use super::Config;
use super::lists::{self, Lists};
use super::systems::{self, Systems};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address list cannot be used.
    #[error(transparent)]
    List(#[from] lists::Error),
    /// The map of AS, or their names, cannot be used.
    #[error(transparent)]
    Systems(#[from] systems::Error),
}

/// What is known of addresses.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) lists: Lists,
    /// Only where the user has a map.
    pub(crate) systems: Option<Systems>,
}

impl Known {
    /// Reads all files.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub(crate) fn read(config: &Config) -> Result<Self, Error> {
        let names = config.as_names_file.as_deref();
        let systems = config.asmap_file.as_deref().map(|map| Systems::read(map, names)).transpose()?;
        Ok(Known { lists: Lists::read(&config.ip_lists)?, systems })
    }

    /// The key of the AS of an address: its number and its name. Nothing without a map, `0` for what the map does not know.
    pub(crate) fn system(&self, ip: &str) -> Option<String> {
        let systems = self.systems.as_ref()?;
        let number = ip.parse::<IpAddr>().map_or(0, |ip| systems.of(ip));
        Some(systems.key(number))
    }
}

/// The files, and whether they changed since they were looked at.
#[derive(Debug)]
pub(crate) struct Watch {
    config: Config,
    changed: Vec<Option<SystemTime>>,
}

impl Watch {
    /// Looks at the files. To miss no change, do so before they are read.
    pub(crate) fn new(config: &Config) -> Self {
        Watch { config: config.clone(), changed: changed(config) }
    }

    /// What they say, when a file changed since the last look.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be; the next try is at its next change.
    pub(crate) fn read_if_changed(&mut self) -> Result<Option<Known>, Error> {
        let changed = changed(&self.config);
        if changed == self.changed {
            return Ok(None);
        }
        self.changed = changed;
        Known::read(&self.config).map(Some)
    }
}

fn changed(config: &Config) -> Vec<Option<SystemTime>> {
    let lists = config.ip_lists.iter().map(|list| &list.path);
    let files: Vec<&PathBuf> = lists.chain(&config.asmap_file).chain(&config.as_names_file).collect();
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    files.into_iter().map(modified).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str, s: u64| {
            std::fs::write(file.path(), text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s);
            file.as_file().set_modified(time).unwrap();
        };
        write("192.0.2.1\n", 1);
        let list = format!("gmax={}", file.path().display()).parse().unwrap();
        let mut watch = Watch::new(&Config { ip_lists: vec![list], ..Config::default() });
        assert!(watch.read_if_changed().unwrap().is_none());
        write("192.0.2.2\n", 2);
        let known = watch.read_if_changed().unwrap().unwrap();
        assert_eq!(known.lists.with("192.0.2.2".parse().unwrap()).count(), 1);
        write("half of a li", 3);
        assert!(watch.read_if_changed().is_err());
        assert!(watch.read_if_changed().unwrap().is_none(), "one complaint is enough");
        write("192.0.2.3\n", 4);
        assert!(watch.read_if_changed().unwrap().is_some());
    }
}
