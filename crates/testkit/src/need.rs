//! What a test needs of the machine. A test that cannot run says why and passes, so that the rest can be run anywhere.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Why a test is skipped: what is missing, and how to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(String);

impl Missing {
    /// Something else that a test misses.
    pub fn new(why: impl Into<String>) -> Self {
        Missing(why.into())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ends a test that lacks something, after saying what: `require!(need::root(), need::nats_server());`
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        $(
            if let Err(missing) = $need {
                eprintln!("skipped: {missing}");
                return;
            }
        )+
    };
}

/// Being root: attaching to probes needs it, or capabilities that a test process never has otherwise.
pub fn root() -> Result<(), Missing> {
    // A process owns its folder in /proc by its effective user id.
    match std::fs::metadata("/proc/self") {
        Ok(metadata) if metadata.uid() == 0 => Ok(()),
        _ => Err(Missing::new("not root; run the tests with sudo")),
    }
}

/// The kernel's tracepoints, in tracefs.
pub fn tracefs() -> Result<(), Missing> {
    match std::fs::exists("/sys/kernel/tracing/events/signal") {
        Ok(true) => Ok(()),
        _ => Err(Missing::new("no tracefs; mount it with `mount -t tracefs tracefs /sys/kernel/tracing`")),
    }
}

/// `nats-server`.
pub fn nats_server() -> Result<PathBuf, Missing> {
    program("nats-server").ok_or_else(|| Missing::new("no nats-server; install nats-server"))
}

/// Chromium: `$CHROMIUM`, or `chromium` in the path.
pub fn chromium() -> Result<PathBuf, Missing> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    named.or_else(|| program("chromium")).ok_or_else(|| Missing::new("no chromium; install chromium"))
}

/// A real Bitcoin Core: `$BITCOIND`, or `bitcoind` in the path.
pub fn bitcoind() -> Result<PathBuf, Missing> {
    let found = match std::env::var_os("BITCOIND") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => program("bitcoind"),
    };
    found.ok_or_else(|| Missing::new("no bitcoind; install Bitcoin Core, or set BITCOIND to its path"))
}

/// A real Bitcoin Core with IPC: `$BITCOIN_NODE`, or `bitcoin-node` in the path.
pub fn bitcoin_node() -> Result<PathBuf, Missing> {
    let found = match std::env::var_os("BITCOIN_NODE") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => program("bitcoin-node"),
    };
    found.ok_or_else(|| {
        Missing::new("no bitcoin-node; install Bitcoin Core 30 or later, or set BITCOIN_NODE to its path")
    })
}

/// `openssl`, for certificates.
pub fn openssl() -> Result<PathBuf, Missing> {
    program("openssl").ok_or_else(|| Missing::new("no openssl; install openssl"))
}

/// `prometheus` and `promtool`.
pub fn prometheus() -> Result<(PathBuf, PathBuf), Missing> {
    let found = program("prometheus").zip(program("promtool"));
    found.ok_or_else(|| Missing::new("no prometheus; install prometheus"))
}

/// `ip`, for networks of their own.
pub fn ip() -> Result<PathBuf, Missing> {
    program("ip").ok_or_else(|| Missing::new("no ip; install iproute2"))
}

/// Debian has servers in sbin folders, which are not in everybody's path.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_ends_the_test() {
        let needs_what_nobody_has = |reached: &mut bool| {
            require!(Ok::<(), Missing>(()), Err::<(), _>(Missing::new("what nobody has")));
            *reached = true;
        };
        let mut reached = false;
        needs_what_nobody_has(&mut reached);
        assert!(!reached);
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(program("sh").is_some());
        assert_eq!(program("no-such-program-anywhere"), None);
    }
}
