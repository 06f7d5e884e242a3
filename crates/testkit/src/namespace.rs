//! A network of its own, for tests that dial addresses which look public: whatever is dialed there stays there.
//!
//! The kernel keeps it for as long as a thread or program runs in it, so nothing is left behind, however a test ends.

use std::io;
use std::process::Command;
use std::thread;

/// Runs `test` on a thread in a new network, which has loopback and nothing else. All addresses are local there: who listens at
/// 0.0.0.0 or [::] is reached at any of them. Threads and programs that `test` starts are in it, too. Needs root and `ip`.
///
/// # Errors
/// When the network cannot be made.
///
/// # Panics
/// When `test` does.
pub fn in_new_network<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = thread::spawn(|| {
        leave_network()?;
        for arguments in
            ["link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"]
        {
            ip(arguments)?;
        }
        Ok(test())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `ip` in the network of this thread: `ip("route add unreachable 44.0.0.0/8 table local")`.
///
/// # Errors
/// When it fails.
pub fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Moves this thread, and no other, into a new network.
#[allow(unsafe_code, reason = "the standard library has no call for it")]
fn leave_network() -> io::Result<()> {
    // SAFETY: `unshare` takes a number and touches no memory; with CLONE_NEWNET it concerns the calling thread only.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{need, require};

    #[test]
    fn every_address_is_there_and_what_is_inside_stays_inside() {
        require!(need::root(), need::ip());
        // Nobody else gets it outside.
        let port = crate::free_port().unwrap();
        let inside = in_new_network(move || {
            for (any, one) in [("0.0.0.0:0", "11.22.33.44"), ("[::]:0", "2a01:4f8::1")] {
                let listener = TcpListener::bind(any).unwrap();
                let port = listener.local_addr().unwrap().port();
                assert!(TcpStream::connect((one, port)).is_ok(), "{one}");
                assert!(TcpStream::connect(("127.0.0.1", port)).is_ok() || any.starts_with('['));
            }
            ip("route add unreachable 44.0.0.0/8 table local").unwrap();
            let error = TcpStream::connect("44.1.2.3:1").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        });
        let _inside = inside.unwrap();
        // The same port is free outside.
        TcpListener::bind(("127.0.0.1", port)).unwrap();
        let failed = std::panic::catch_unwind(|| in_new_network(|| panic!("as a test does")));
        assert!(failed.is_err());
    }
}
