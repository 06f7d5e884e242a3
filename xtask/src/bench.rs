//! Runs the benchmarks of benches/ in a release build, together with the program that some of them start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where the results are kept.
const RESULTS: &str = "docs/benchmarks.md";

/// What is done with the table.
pub(crate) enum Output {
    /// It is only printed.
    Print,
    /// It is printed, and kept in docs/benchmarks.md.
    Keep,
}

/// Measures what is named, or everything.
pub(crate) fn run(root: &Path, names: &[String], output: &Output) -> Result<()> {
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root);
        command
    };
    let built = cargo()
        .args(["build", "--release", "-p", "peer-observer", "-p", "peer-observer-benches"])
        .status()
        .context("running cargo")?;
    if !built.success() {
        bail!("the release build failed: {built}");
    }
    // Not with `cargo run`, for which Cargo would build everything again: alone, the package needs fewer features of its dependencies.
    let measured = Command::new(release_folder(root).join("peer-observer-benches"))
        .args(names)
        .stdout(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .context("running the benchmarks")?;
    if !measured.status.success() {
        bail!("the benchmarks failed: {}", measured.status);
    }
    let table = String::from_utf8(measured.stdout).context("reading the results")?;
    std::io::Write::write_all(&mut std::io::stdout(), table.as_bytes()).context("printing the results")?;
    if let Output::Keep = output {
        let path = root.join(RESULTS);
        let page = format!("{}\n{table}", introduction());
        fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Where Cargo puts release builds.
pub(crate) fn release_folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root.join(target).join("release")
}

fn introduction() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, m)| m);
    let count = cpus.lines().filter(|l| l.starts_with("processor")).count();
    format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench --write` on Linux {}, {count} CPUs ({model}). Times depend on the machine and on what else \
         it does; read a number beside its baseline, which was measured in turns with it. What is measured how stands in \
         `benches/src/`.\n",
        // Without what whoever built it put behind the version.
        kernel.trim().split('-').next().unwrap_or_default()
    )
}
