//! TCP ports that stay a test's own.
//!
//! A port that the kernel picks is anybody's again once its listener is gone: it becomes the listener of another test, or the
//! near end of any connection, before a program is started on it, or while one is started again. The ports here are none that
//! the kernel picks from, and each is locked for as long as the process lives that asked for it.

use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Those of the kernel begin at 32768 unless somebody has changed that (`ip_local_port_range` in ip(7)).
const KERNEL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Below it, there are services of many a machine.
const LOWEST: u16 = 10_000;

/// What keeps the ports of this process from others.
static LOCKS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A TCP port of 127.0.0.1 that nobody listens on, and that no other test gets until this process ends.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    let ports = own_range(&std::fs::read_to_string(KERNEL_RANGE)?);
    let count = ports.len() as u32;
    // Processes that run at the same time begin at different places: fewer tries.
    let begin = std::process::id().wrapping_mul(7_919) % count;
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    for step in 0..count {
        let port = ports.start + ((begin + step) % count) as u16;
        let Some(lock) = lock(port)? else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            locks.push(lock);
            return Ok(port);
        }
    }
    Err(io::Error::other(format!("no port of {ports:?} is free")))
}

/// Ports below those that the kernel picks from. Where it picks from nearly all of them, locks alone must do.
fn own_range(kernel: &str) -> Range<u16> {
    let lowest = kernel.split_whitespace().next().and_then(|port| port.parse().ok());
    match lowest {
        Some(end) if end > LOWEST + 1_000 => LOWEST..end,
        _ => LOWEST..u16::MAX,
    }
}

/// Keeps other processes from a port; `None` when one of them, or this one, has it.
///
/// An abstract name, not a file: it is gone with the process, however that ends, and it is of this network only, as ports are.
fn lock(port: u16) -> io::Result<Option<UnixListener>> {
    let name = SocketAddr::from_abstract_name(format!("peer-observer-testkit-port-{port}"))?;
    match UnixListener::bind_addr(&name) {
        Ok(lock) => Ok(Some(lock)),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_below_those_that_the_kernel_picks_from() {
        for (kernel, range) in [
            ("32768\t60999\n", LOWEST..32_768),
            ("15000\t65535\n", LOWEST..15_000),
            ("1024\t65535\n", LOWEST..u16::MAX),
            ("", LOWEST..u16::MAX),
        ] {
            assert_eq!(own_range(kernel), range, "{kernel:?}");
        }
        let port = free_port().unwrap();
        assert!(own_range(&std::fs::read_to_string(KERNEL_RANGE).unwrap()).contains(&port));
    }

    #[test]
    fn nobody_gets_a_port_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            // As another process would find it.
            assert!(lock(port).unwrap().is_none(), "{port}");
            // And it is there for whatever the test starts.
            drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
        }
    }
}
