//! How nodes ended.
//!
//! A process that is not our child ends without telling us how. Since Linux 6.15 a pidfd says it (`PIDFD_GET_INFO` with
//! `PIDFD_INFO_EXIT`, linux/pidfd.h). Before, a program at the tracepoint signal:signal_deliver notes fatal signals.

use std::os::fd::{AsRawFd, BorrowedFd};

use peer_observer_node::watch::{Ended, ExitSource};

use super::kernel::{self, Kernel, NodeSignals};

/// Linux that tells how a process ended through its pidfd.
const TELLS_ENDS: (u32, u32) = (6, 15);

/// This kernel says through a pidfd how a process ended.
pub(super) fn pidfd_tells() -> bool {
    super::check::linux_version() >= TELLS_ENDS
}

/// `struct pidfd_info` in its first version, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Of `mask`: `exit_code` is there.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::Ioctl =
    (3 << 30 | (size_of::<PidfdInfo>() as u32) << 16 | 0xff << 8 | 11) as libc::Ioctl;

/// Asks pidfds.
pub(super) struct Pidfds;

impl ExitSource for Pidfds {
    fn expect(&self, _pid: u32) {}

    fn ended(&self, pidfd: Option<BorrowedFd<'_>>, _pid: u32) -> Option<Ended> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the descriptor is open, and the kernel writes at most as many bytes as the number of the call says.
        let failed = unsafe { libc::ioctl(pidfd?.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        (failed == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| Ended::from_wait_status(info.exit_code))
    }

    fn forget(&self, _pid: u32) {}
}

/// Notes fatal signals.
pub(super) struct Signals(NodeSignals);

impl Signals {
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn new(kernel: &Kernel) -> Result<Self, kernel::Error> {
        Ok(Signals(kernel.signals()?))
    }
}

impl ExitSource for Signals {
    fn expect(&self, pid: u32) {
        self.0.expect(pid);
    }

    fn ended(&self, _pidfd: Option<BorrowedFd<'_>>, pid: u32) -> Option<Ended> {
        self.0.of(pid).map(Ended::Signal)
    }

    fn forget(&self, pid: u32) {
        self.0.forget(pid);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use peer_observer_testkit::{need, require};
    use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

    use super::*;
    use crate::ebpf::kernel::LoadOptions;

    fn sleep() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn kill(mut child: Child, signal: Signal) {
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn pidfd_tells_exit_status_and_signal() {
        if !pidfd_tells() {
            eprintln!("skipped: Linux before 6.15 does not tell");
            return;
        }
        let end = |mut child: Child, signal: Option<Signal>| {
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            match signal {
                Some(signal) => kill(child, signal),
                None => drop(child.wait().unwrap()),
            }
            Pidfds.ended(Some(pidfd.as_fd()), 0)
        };
        let exits = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(end(exits, None), Some(Ended::Exit(3)));
        assert_eq!(end(sleep(), Some(Signal::KILL)), Some(Ended::Signal(9)));
        assert_eq!(end(sleep(), Some(Signal::SEGV)), Some(Ended::Signal(11)));
        // One that runs still.
        let child = sleep();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(Pidfds.ended(Some(pidfd.as_fd()), 0), None);
        kill(child, Signal::KILL);
    }

    #[test]
    fn signal_tracepoint_notes_fatal_signals_of_nodes() {
        require!(need::root(), need::tracefs());
        let options = LoadOptions {
            ring_bytes: 4096,
            max_payload: 0,
            type_limits: Default::default(),
            watches_signals: true,
        };
        let kernel = Kernel::load(&options).unwrap();
        let signals = Signals::new(&kernel).unwrap();
        let end = |child: Child, signal| {
            let pid = child.id();
            signals.expect(pid);
            kill(child, signal);
            let ended = signals.ended(None, pid);
            signals.forget(pid);
            assert_eq!(signals.ended(None, pid), None);
            ended
        };
        assert_eq!(end(sleep(), Signal::KILL), Some(Ended::Signal(9)));
        assert_eq!(end(sleep(), Signal::SEGV), Some(Ended::Signal(11)));
        let mut exits = Command::new("sh").args(["-c", "sleep 0.1; exit 3"]).spawn().unwrap();
        signals.expect(exits.id());
        let pid = exits.id();
        exits.wait().unwrap();
        assert_eq!(signals.ended(None, pid), None, "no signal ended it");
        let unknown = sleep();
        let pid = unknown.id();
        kill(unknown, Signal::KILL);
        assert_eq!(signals.ended(None, pid), None, "it is no node");
    }
}
