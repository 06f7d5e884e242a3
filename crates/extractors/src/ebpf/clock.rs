//! From the kernel's monotonic clock to UNIX time.

use std::io;

fn read(clock: libc::clockid_t) -> io::Result<i128> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that lives through the call.
    if unsafe { libc::clock_gettime(clock, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
}

/// What to add to the kernel's monotonic clock (ns) to get UNIX time (ns). Sampled again every second, so that a step of the
/// clock shows as a step in events, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offset(i128);

impl Offset {
    /// Samples both clocks. The monotonic one is read on both sides of the other, so that a pause between does less harm.
    pub(super) fn sample() -> io::Result<Self> {
        let before = read(libc::CLOCK_MONOTONIC)?;
        let unix = read(libc::CLOCK_REALTIME)?;
        let after = read(libc::CLOCK_MONOTONIC)?;
        Ok(Offset(unix - (before + after) / 2))
    }

    /// ns since the UNIX epoch.
    pub(super) fn unix_ns(self, monotonic_ns: u64) -> u64 {
        u64::try_from(i128::from(monotonic_ns) + self.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_leads_to_the_time_on_the_wall() {
        let offset = Offset::sample().unwrap();
        let monotonic = u64::try_from(read(libc::CLOCK_MONOTONIC).unwrap()).unwrap();
        let now = peer_observer_bus::now_ns();
        assert!(now.abs_diff(offset.unix_ns(monotonic)) < 1_000_000_000);
    }
}
