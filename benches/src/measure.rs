//! CPU time and memory as the kernel counts them, and what to make of several rounds.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of the threads of a process whose name begins with `name`; all of them with an empty name.
pub(crate) fn cpu(pid: u32, name: &str) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let mut ns = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        let thread = thread.with_context(|| format!("reading {folder}"))?.path();
        // A thread may end meanwhile; those that are measured do not.
        let Ok(comm) = fs::read_to_string(thread.join("comm")) else { continue };
        if comm.starts_with(name) {
            ns += first_number(&fs::read_to_string(thread.join("schedstat")).unwrap_or_default());
        }
    }
    Ok(Duration::from_nanos(ns))
}

/// CPU time of this thread.
pub(crate) fn own_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")
        .context("reading the CPU time of this thread: the kernel needs CONFIG_SCHED_INFO")?;
    Ok(Duration::from_nanos(first_number(&text)))
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// A line of /proc/PID/status that is in kB, such as `VmRSS`, in MB (10^6 bytes).
pub(crate) fn memory_mb(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(first_number(line.with_context(|| format!("finding {field} in {path}"))?) as f64 * 1024.0 / 1e6)
}

/// The value in the middle; of no values 0.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that a part of all values is not above; of no values 0.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(0.0)
}

/// The smallest value.
pub(crate) fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}
