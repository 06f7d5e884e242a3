//! What the user's files tell of addresses: lists they are on, the AS they are in. The files may change while the tool runs.
//!
//! | file | what it is for |
//! |---|---|
//! | lists.rs | lists of addresses |
//! | systems.rs | the map of autonomous systems, and their names |

pub(crate) mod lists;
mod systems;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use peer_observer_bus::Finding;
use peer_observer_exporter::worker::Worker;
use tokio_util::sync::CancellationToken;

pub use lists::{Error as ListError, ListFile};
use lists::{LINKING_LION_NAME, Lists, is_linking_lion};
pub use systems::Error as SystemsError;
use systems::Systems;

/// How often the files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(60);

/// The files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) lists: Vec<ListFile>,
    /// A map of AS.
    pub(crate) systems: Option<PathBuf>,
    /// Names of AS.
    pub(crate) names: Option<PathBuf>,
}

impl Files {
    /// Whether they can be used.
    pub(crate) fn check(&self) -> Vec<Finding> {
        let lists = self.lists.iter().map(|file| match Lists::read(std::slice::from_ref(file)) {
            Ok(_) => Finding::good(format!("address list {file} can be read")),
            Err(error) => Finding::bad(error.to_string(), "correct the file, or leave out its --ip-list"),
        });
        let names = self.names.as_deref();
        let systems = self.systems.as_deref().map(|map| match Systems::read(map, names) {
            Ok(_) => Finding::good(format!("the map of AS {} can be read", map.display())),
            Err(error) => Finding::bad(error.to_string(), "correct the file, or leave out --asmap-file"),
        });
        lists.chain(systems).collect()
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address list cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// The map of AS, or their names, cannot be used.
    #[error(transparent)]
    Systems(#[from] SystemsError),
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
    pub(crate) fn read(files: &Files) -> Result<Self, Error> {
        let names = files.names.as_deref();
        let systems = files.systems.as_deref().map(|map| Systems::read(map, names)).transpose()?;
        Ok(Known { lists: Lists::read(&files.lists)?, systems })
    }

    /// Number of the AS of an address, when there is a map and it knows.
    pub(crate) fn system_of(&self, ip: &str) -> Option<u32> {
        Some(self.systems.as_ref()?.of(ip.parse().ok()?)).filter(|number| *number > 0)
    }

    /// An AS for people: number, and name where there is one.
    pub(crate) fn system_label(&self, number: u32) -> String {
        match self.systems.as_ref().and_then(|systems| systems.name(number)) {
            Some(name) => format!("AS{number} {name}"),
            None => format!("AS{number}"),
        }
    }

    /// The lists that an address is on, the built-in one too.
    pub(crate) fn lists_with(&self, ip: &str) -> impl Iterator<Item = &str> {
        let lists = ip.parse().ok().into_iter().flat_map(|ip: IpAddr| self.lists.with(ip));
        is_linking_lion(ip).then_some(LINKING_LION_NAME).into_iter().chain(lists)
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
    files: Files,
    changed: Vec<Option<SystemTime>>,
}

impl Watch {
    /// Looks at the files. To miss no change, do so before they are read.
    pub(crate) fn new(files: Files) -> Self {
        Watch { changed: changed(&files), files }
    }

    /// What they say, when a file changed since the last look.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be; the next try is at its next change.
    pub(crate) fn read_if_changed(&mut self) -> Result<Option<Known>, Error> {
        let changed = changed(&self.files);
        if changed == self.changed {
            return Ok(None);
        }
        self.changed = changed;
        Known::read(&self.files).map(Some)
    }

    /// Hands over what the files say whenever one changes, until `stop`. One that cannot be read leaves all as it was.
    pub(crate) async fn follow(
        mut self,
        every: Duration,
        stop: CancellationToken,
        take: impl Fn(Known) + Send + 'static,
    ) {
        let reader = Worker::start("address-files", 1, move |_: &[()]| vec![self.read_if_changed()]);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            // Nobody else asks, so there is an answer unless reading failed in an unexpected way.
            match reader.ask(()).await.unwrap_or(Ok(None)) {
                Ok(None) => {}
                Ok(Some(known)) => {
                    take(known);
                    tracing::info!("address lists and maps read again");
                }
                Err(error) => tracing::warn!(%error, "address lists and maps stay as they were"),
            }
        }
    }
}

fn changed(files: &Files) -> Vec<Option<SystemTime>> {
    let lists = files.lists.iter().map(|list| &list.path);
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    lists.chain(&files.systems).chain(&files.names).map(modified).collect()
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
        let mut watch = Watch::new(Files { lists: vec![list], ..Files::default() });
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

    #[test]
    fn full_blocking_pool_delays_no_change_of_a_file() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
        let blocked = runtime.spawn_blocking(move || released.recv());
        let file = tempfile::NamedTempFile::new().unwrap();
        let list = format!("gmax={}", file.path().display()).parse().unwrap();
        let watch = Watch::new(Files { lists: vec![list], ..Files::default() });
        std::fs::write(file.path(), "192.0.2.1\n").unwrap();
        file.as_file().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        let (changed, mut changes) = tokio::sync::mpsc::channel(1);
        let take = move |known: Known| changed.try_send(known.lists_with("192.0.2.1").count()).unwrap();
        let follow = watch.follow(Duration::from_millis(1), CancellationToken::new(), take);
        runtime.spawn(follow);
        let found =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), changes.recv()).await });
        assert_eq!(found.expect("the change is seen"), Some(1));
        assert!(!blocked.is_finished());
        drop(release);
    }
}
