//! Looking for nodes: what following a hundred of them costs.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_observer_node::watch::{NodeWatcher, Selection};
use peer_observer_testkit::wait_until;

use crate::measure::cpu;
use crate::report::Report;

const NODES: usize = 100;
const MEASURED: Duration = Duration::from_secs(20);
const PERCENT_OF_A_CORE: f64 = 1.0;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let program = folder.path().join("bitcoind");
    fs::copy("/bin/sh", &program).context("copying a program")?;
    let mut nodes = Vec::new();
    for i in 0..NODES {
        let datadir = folder.path().join(i.to_string());
        fs::create_dir(&datadir)?;
        fs::write(datadir.join("bitcoin.conf"), "regtest=1\n[regtest]\nrpcport=1\n")?;
        let mut node = Command::new(&program);
        node.args(["-c", "read line", "bitcoind", &format!("-datadir={}", datadir.display())]);
        nodes.push(node.stdin(Stdio::piped()).spawn().context("starting a node")?);
    }
    let with = percent(&Selection::default(), NODES)?;
    let nobody = Selection { programs: vec!["/nonexistent".into()], ..Selection::default() };
    let without = percent(&nobody, 0)?;
    end(nodes);
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok()))
        .count();
    report.add_at_most(
        &format!("discovery: following {NODES} nodes"),
        with,
        "% of a core",
        PERCENT_OF_A_CORE,
        format!("following none of them: {without:.2} %; {} processes on the machine", processes + NODES),
    );
    Ok(())
}

/// CPU time of the thread that looks for nodes, once it has found so many.
fn percent(selection: &Selection, nodes: usize) -> Result<f64> {
    let watcher = NodeWatcher::start(selection.clone()).context("starting to look")?;
    if !wait_until(Duration::from_secs(60), || watcher.has_looked() && watcher.nodes().len() >= nodes) {
        bail!("{} of {nodes} nodes are found", watcher.nodes().len());
    }
    let own = std::process::id();
    let (before, begin) = (cpu(own, "node-watcher")?, Instant::now());
    std::thread::sleep(MEASURED);
    let used = cpu(own, "node-watcher")?.saturating_sub(before);
    Ok(100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64())
}

fn end(nodes: Vec<Child>) {
    for mut node in nodes {
        drop(node.stdin.take());
        let _ = node.wait();
    }
}
