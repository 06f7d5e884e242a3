//! What the machine must have, and giving up the rights that are not needed.

use caps::{CapSet, Capability, CapsHashSet};
use peer_observer_bus::Finding;
use peer_observer_node::discover::NodeProcess;
use peer_observer_node::probes::Probes;

use super::Config;

/// The kernel that is needed: ring buffers (5.8), atomics that return a value (5.12), cookies of uprobes (5.15).
const KERNEL: (u32, u32) = (5, 15);

/// Capabilities the extractor needs while it runs, and what for.
pub fn needed_capabilities() -> [(Capability, &'static str); 4] {
    [
        (Capability::CAP_BPF, "load eBPF programs, read their maps"),
        (Capability::CAP_PERFMON, "attach to tracepoints, read a node's memory there"),
        (Capability::CAP_SYS_PTRACE, "see which program and data directory a node of another user has"),
        (Capability::CAP_DAC_READ_SEARCH, "read a node's program and bitcoin.conf where only its user may"),
    ]
}

/// Gives up all capabilities but the needed ones, for this thread and those it starts; call it before there are others. Rights
/// that the process never had are no error: `check` tells of them.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet =
        needed_capabilities().into_iter().map(|(c, _)| c).filter(|c| permitted.contains(c)).collect();
    caps::clear(None, CapSet::Ambient)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        // Without this, root gets everything back in the next program it starts.
        for capability in caps::all() {
            if !keep.contains(&capability)
                && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false)
            {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

/// Whether the kernel will let this process load and attach its programs.
pub fn may_run() -> bool {
    [Capability::CAP_BPF, Capability::CAP_PERFMON]
        .into_iter()
        .all(|c| caps::has_cap(None, CapSet::Effective, c).unwrap_or(false))
}

/// Looks whether this machine has what the extractor needs.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = machine();
    for path in &config.bitcoind_path {
        findings.push(tracepoints(&path.display().to_string(), Probes::of_binary(path)));
    }
    findings
}

/// Looks whether a running node has tracepoints.
pub fn check_node(node: &NodeProcess) -> Finding {
    tracepoints(&node.exe.display().to_string(), Probes::of_node(node))
}

/// Logs what this machine lacks: the extractor may still run, and see less.
pub(super) fn warn_of_machine() {
    for Finding { what, fix, .. } in machine().into_iter().filter(|finding| !finding.ok) {
        tracing::warn!(fix, "{what}");
    }
}

fn machine() -> Vec<Finding> {
    let mut findings = vec![kernel_version()];
    findings.extend(capabilities());
    findings.push(lockdown());
    findings.push(pid_namespace());
    findings
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The version of the kernel that runs, or 0.0.
pub(super) fn linux_version() -> (u32, u32) {
    version(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn kernel_version() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if version(release) >= KERNEL {
        return Finding::good(format!("kernel {release}"));
    }
    Finding::bad(
        format!("kernel {release} is too old for the tracepoints"),
        format!("use Linux {}.{} or later", KERNEL.0, KERNEL.1),
    )
}

fn capabilities() -> Vec<Finding> {
    needed_capabilities()
        .into_iter()
        .map(|(capability, what_for)| match caps::has_cap(None, CapSet::Effective, capability) {
            Ok(true) => Finding::good(format!("{capability}: {what_for}")),
            _ => Finding::bad(
                format!("{capability} is missing: {what_for}"),
                "run as root, or with a systemd unit that has AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE \
                 CAP_DAC_READ_SEARCH",
            ),
        })
        .collect()
}

fn lockdown() -> Finding {
    let state = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if state.contains("[confidentiality]") {
        return Finding::bad(
            "kernel lockdown is at confidentiality: eBPF programs may not read memory",
            "boot without lockdown=confidentiality; integrity is fine",
        );
    }
    Finding::good("kernel lockdown does not stand in the way; kernel BTF is not needed")
}

/// Process ids here are those of the kernel.
pub(super) fn has_kernels_pids() -> bool {
    // The kernel's number of the first PID namespace, PROC_PID_INIT_INO in include/linux/proc_ns.h.
    const FIRST: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own.as_os_str() == FIRST)
}

fn pid_namespace() -> Finding {
    if has_kernels_pids() {
        return Finding::good("the process ids of the whole machine can be seen");
    }
    Finding::bad(
        "this runs in a PID namespace of its own: nodes cannot be told apart, because the kernel has other process ids",
        "run it outside of the container, or with the host's PID namespace (docker run --pid=host)",
    )
}

fn tracepoints(what: &str, probes: Result<Probes, peer_observer_node::probes::Error>) -> Finding {
    match probes {
        Ok(probes) if probes.known().next().is_some() => Finding::good(format!(
            "{what}: {} tracepoints, as Bitcoin Core {} has them",
            probes.known().count(),
            probes.release()
        )),
        Ok(_) => Finding::bad(
            format!("{what}: no tracepoints"),
            "use a release of Bitcoin Core 22 or later for Linux, or build with -DWITH_USDT=ON",
        ),
        Err(error) => Finding::bad(format!("{what}: {error}"), "run as root, or with CAP_SYS_PTRACE"),
    }
}
