//! Holds a file still: whoever opens it for writing waits until we have let go of it.
//!
//! That is what the kernel's read leases are for (fcntl(2), "Leases"). The kernel tells of a writer that waits with a signal, here to
//! the thread that took the lease and to no other, and lets the writer go on when the lease is given back, or after
//! /proc/sys/fs/lease-break-time (45 s).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Whom signals of a file go to: `struct f_owner_ex`, which libc lacks.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

/// One thread, by its id.
const F_OWNER_TID: libc::c_int = 0;
const F_SETOWN_EX: libc::c_int = 15;

/// The leases of this thread, and what the kernel says of them.
pub(super) struct Leases {
    signals: libc::sigset_t,
    // What it says goes to one thread.
    thread: libc::pid_t,
}

impl Leases {
    /// From here on the signal waits in this thread, and in those that it starts, until it is asked for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        // SAFETY: the set is valid memory, and made empty before it is used.
        let (signals, failed) = unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            libc::sigaddset(&raw mut signals, libc::SIGIO);
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            (signals, failed)
        };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: it takes nothing and cannot fail.
        Ok(Leases { signals, thread: unsafe { libc::gettid() } })
    }

    /// Takes a lease on a file that was opened for reading only.
    ///
    /// # Errors
    /// When there is none to be had: the file is another user's and this process has no CAP_LEASE, somebody has it open for writing,
    /// or its file system knows no leases.
    pub(super) fn take(&self, file: File) -> io::Result<Lease> {
        let owner = Owner { kind: F_OWNER_TID, id: self.thread };
        // Before the lease: the kernel makes the whole process its owner otherwise, which this signal would end.
        // SAFETY: the descriptor is open, and the struct outlives the call, which only reads it.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner) })?;
        // SAFETY: the descriptor is open; no memory is involved.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) })?;
        Ok(Lease { file })
    }

    /// Waits until a writer waits for one of the leases, or the time is over. Call it on the thread that this was made on.
    pub(super) fn wait(&self, at_most: Duration) {
        let time = libc::timespec {
            tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(at_most.subsec_nanos() as i32),
        };
        // SAFETY: set and time are valid and only read; nobody asks who sent the signal.
        unsafe { libc::sigtimedwait(&raw const self.signals, std::ptr::null_mut(), &raw const time) };
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A file that nobody writes to before this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    file: File,
}

impl Lease {
    /// A writer waits for it, or went on without waiting any longer.
    pub(super) fn is_wanted(&self) -> bool {
        // SAFETY: the descriptor is open; no memory is involved.
        let held = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        held != libc::F_RDLCK
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing is not enough while a program that is just being started shares the descriptor.
        // SAFETY: the descriptor is open; no memory is involved.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_writer_waits_until_the_lease_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let leases = Leases::of_this_thread().unwrap();
        let lease = leases.take(File::open(&path).unwrap()).unwrap();
        assert!(!lease.is_wanted());
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "who reads waits for nothing");

        let written = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                std::fs::write(&path, "new").unwrap();
                written.store(true, Ordering::SeqCst);
            });
            let start = Instant::now();
            while !lease.is_wanted() {
                leases.wait(Duration::from_secs(60));
            }
            assert!(start.elapsed() < Duration::from_secs(60), "the signal ends the waiting");
            assert!(!written.load(Ordering::SeqCst));
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            drop(lease);
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn there_is_none_on_a_file_that_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = File::create(&path).unwrap();
        let leases = Leases::of_this_thread().unwrap();
        assert!(leases.take(File::open(&path).unwrap()).is_err());
        drop(writer);
        assert!(leases.take(File::open(&path).unwrap()).is_ok());
    }
}
