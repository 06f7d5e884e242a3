//! Chores of the repository. `cargo xtask help` lists them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod bpf;
mod check_node;
mod committed;
mod dashboards;
#[cfg(test)]
mod layout;
mod metrics;
mod proto;
mod schema;
mod soak;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the repository")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Measure speed, cost and losses; needs root and nats-server
    Bench {
        /// Keep the results in docs/benchmarks.md
        #[arg(long)]
        write: bool,
        /// What to measure; everything when nothing is named: node-cost, extractor, metrics, scrape, latency, storm, web,
        /// micro, windows, discovery
        names: Vec<String>,
    },
    /// Compare what is told of a real node with what it says itself, and write docs/checked-against.md; needs root, bitcoind
    /// ($BITCOIND, or in the path) and nats-server
    CheckNode {
        /// How long a node is watched through all windows
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Run an attack for long against a release build, and keep the result in docs/soaks.md; needs root
    Soak {
        /// Attack to repeat
        name: soak::Name,
        /// Minutes to repeat it
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Generate committed files again
    #[command(subcommand)]
    Regenerate(Regenerate),
}

#[derive(Subcommand)]
enum Regenerate {
    /// The Rust types of proto/
    Proto {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// The programs for the kernel; needs clang 14 of Debian 12
    Bpf {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// The Grafana dashboards in dashboards/, from dashboards/source/
    Dashboards {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// docs/metrics.md, from the metrics that the program registers
    Metrics {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// The list of numbers, names and types that the schema must keep; refuses changes that break readers
    SchemaLock {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = root()?;
    match Args::parse().chore {
        Chore::Bench { write: false, names } => bench::run(&root, &names, &bench::Output::Print),
        Chore::Bench { write: true, names } => bench::run(&root, &names, &bench::Output::Keep),
        Chore::CheckNode { minutes } => check_node::run(&root, minutes),
        Chore::Soak { name, minutes } => soak::run(&root, name, minutes),
        Chore::Regenerate(Regenerate::Proto { check: false }) => proto::regenerate(&root),
        Chore::Regenerate(Regenerate::Proto { check: true }) => proto::check(&root),
        Chore::Regenerate(Regenerate::Bpf { check: false }) => bpf::regenerate(&root),
        Chore::Regenerate(Regenerate::Bpf { check: true }) => bpf::check(&root),
        Chore::Regenerate(Regenerate::Dashboards { check: false }) => dashboards::files(&root)?.write(&root),
        Chore::Regenerate(Regenerate::Dashboards { check: true }) => dashboards::files(&root)?.check(&root),
        Chore::Regenerate(Regenerate::Metrics { check: false }) => metrics::files(&root)?.write(&root),
        Chore::Regenerate(Regenerate::Metrics { check: true }) => metrics::files(&root)?.check(&root),
        Chore::Regenerate(Regenerate::SchemaLock { check: false }) => schema::regenerate(&root),
        Chore::Regenerate(Regenerate::SchemaLock { check: true }) => schema::check(&root),
    }
}

fn root() -> Result<PathBuf> {
    Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("finding the workspace's root")?
        .to_path_buf())
}
