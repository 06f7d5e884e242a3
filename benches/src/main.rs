//! Benchmarks of peer-observer: what the numbers in docs/benchmarks.md are made with. Run by `cargo xtask bench`.
//!
//! Machines are shared and differ, so nothing here passes or fails by time. Where a number depends on the machine, it is
//! measured in turns with a named baseline in the same run, and the median of several rounds counts. Targets are printed beside.
//!
//! | file | what it measures |
//! |---|---|
//! | node_cost.rs | what a hit costs the node |
//! | extractor.rs | CPU and memory of the eBPF extractor |
//! | counting.rs | the metrics tool |
//! | scrape.rs | the page of the metrics tool when it is as long as can be |
//! | latency.rs | from the probe to a tool |
//! | discovery.rs | looking for nodes |
//! | web.rs | the live page |
//! | storm.rs | more hits than anyone can take |
//! | micro.rs | decoding, encoding, the bus |
//! | windows.rs | reading a log, asking over RPC |
//! | rig.rs | a stand-in node, the extractor and a counting subscriber |
//! | tour.rs | the recorded tour as hits and events |
//! | measure.rs | CPU time, memory, medians |
//! | report.rs | the table |

mod counting;
mod discovery;
mod extractor;
mod latency;
mod measure;
mod micro;
mod node_cost;
mod report;
mod rig;
mod scrape;
mod storm;
mod tour;
mod web;
mod windows;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::runtime::Runtime;

use report::Report;

/// Measures peer-observer, and prints a table.
#[derive(Parser)]
struct Args {
    /// What to measure; everything when nothing is named
    names: Vec<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// What a hit costs the node
    NodeCost,
    /// CPU and memory of the eBPF extractor
    Extractor,
    /// The metrics tool
    Metrics,
    /// The page of the metrics tool
    Scrape,
    /// From the probe to a tool
    Latency,
    /// Pings and blocks, more than anyone can take
    Storm,
    /// The live page, its server and its clients
    Web,
    /// Decoding, encoding, the bus
    Micro,
    /// Reading a log, asking over RPC
    Windows,
    /// Looking for nodes
    Discovery,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = Runtime::new().context("starting threads")?;
    // Buses start tasks of their own.
    let _entered = runtime.enter();
    let mut report = Report::default();
    for name in Name::value_variants() {
        if !args.names.is_empty() && !args.names.contains(name) {
            continue;
        }
        match name {
            Name::NodeCost => node_cost::measure(&mut report),
            Name::Extractor => extractor::measure(&mut report),
            Name::Metrics => counting::measure(&mut report, &runtime),
            Name::Scrape => scrape::measure(&mut report, &runtime),
            Name::Latency => latency::measure(&mut report),
            Name::Storm => storm::measure(&mut report),
            Name::Web => web::measure(&mut report, &runtime),
            Name::Micro => micro::measure(&mut report, &runtime),
            Name::Windows => windows::measure(&mut report),
            Name::Discovery => discovery::measure(&mut report),
        }
        .with_context(|| format!("measuring {name:?}"))?;
    }
    report.print()
}
