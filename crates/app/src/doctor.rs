//! What this machine can do, and what is missing.

use std::io::Write;

use anyhow::Result;
use peer_observer_bus::Finding;
use peer_observer_extractors::{ebpf, ipc, log, p2p, rpc};
use peer_observer_node::discover::{self, NodeProcess};
use peer_observer_node::watch::running;
use peer_observer_node::windows::{self, Closed, Windows};
use peer_observer_tools::terminal::shows_colours;

use crate::components::{self, Sections};
use crate::log::single_line;

/// Categories of debug.log that say what tracepoints do not, without a line for every message.
const CATEGORIES: [&str; 4] = ["validation", "cmpctblock", "txpackages", "mempoolrej"];

/// Prints what every component finds, and which windows every node has. What is missing is no error: it was asked for.
pub(crate) fn run(sections: &Sections) -> Result<()> {
    let (good, bad) = if shows_colours(&std::io::stdout()) {
        ("\x1b[32mok\x1b[0m     ", "\x1b[31mmissing\x1b[0m")
    } else {
        ("ok     ", "missing")
    };
    let mut text = String::new();
    let mut missing = 0;
    let components =
        components::check_all(sections).into_iter().map(|(name, found)| (name.to_owned(), found));
    for (heading, findings) in components.chain(check_nodes(sections)) {
        if findings.is_empty() {
            continue;
        }
        text.push_str(&format!("{}\n", single_line(&heading)));
        for Finding { ok, what, fix } in findings {
            text.push_str(&format!("  {} {}\n", if ok { good } else { bad }, single_line(&what)));
            if let Some(fix) = fix {
                let lines: Vec<String> = fix.lines().map(single_line).collect();
                text.push_str(&format!("          {}\n", lines.join("\n              ")));
            }
            missing += usize::from(!ok);
        }
    }
    text.push_str(&match missing {
        0 => "nothing is missing: `peer-observer run` watches the nodes on this machine\n".to_owned(),
        n => format!("{n} missing\n"),
    });
    print(&text)
}

/// The windows of every node that runs.
fn check_nodes(sections: &Sections) -> Vec<(String, Vec<Finding>)> {
    let running = running(&sections.ebpf.selection());
    let mut all: Vec<_> = running.iter().map(|node| (heading(node), check_node(sections, node))).collect();
    let mut findings = Vec::new();
    let hidden = discover::hidden();
    if !hidden.is_empty() {
        findings.push(Finding::bad(
            format!("nodes that may not be looked at: processes {hidden:?}"),
            "run as root, or with CAP_SYS_PTRACE",
        ));
    }
    if running.is_empty() && hidden.is_empty() {
        findings.push(Finding::bad(
            "no running Bitcoin Core node found",
            "start one; it will be found then. `peer-observer demo` shows what there is to see without one",
        ));
    }
    all.push(("nodes".into(), findings));
    all
}

fn heading(node: &NodeProcess) -> String {
    let (program, datadir) = (node.exe.display(), node.datadir.display());
    format!("node {} ({program}, {}, {datadir})", node.pid, node.network.as_str())
}

fn check_node(sections: &Sections, node: &NodeProcess) -> Vec<Finding> {
    let windows = Windows::of(node);
    let rpc = match &windows.rpc {
        Ok(found) => rpc::check_found(&sections.rpc, found),
        Err(closed) => is_closed(closed),
    };
    let log = match &windows.log {
        Ok(found) => with_categories(log::check_found(found), node),
        Err(closed) => is_closed(closed),
    };
    let dials = check_dialling(&sections.p2p, node);
    // Nothing of a node without IPC: most have none.
    let ipc = windows.ipc.iter().filter(|_| ipc::IS_BUILT).map(|found| ("ipc", ipc::check_found(found)));
    [("tracepoints", ebpf::check_node(node)), ("rpc", rpc), ("log", log), ("p2p", dials)]
        .into_iter()
        .chain(ipc)
        .map(|(window, finding)| Finding { what: format!("{window}: {}", finding.what), ..finding })
        .collect()
}

fn is_closed(closed: &Closed) -> Finding {
    Finding::bad(closed.to_string(), closed.fix())
}

/// Says which lines the log could have besides.
fn with_categories(finding: Finding, node: &NodeProcess) -> Finding {
    let asked_for = node.settings.all("debug", node.network);
    let lacking = CATEGORIES.iter().filter(|category| !asked_for.contains(category));
    let lines: String = lacking.map(|category| format!("\ndebug={category}")).collect();
    let has_all = ["", "1", "all"].iter().any(|all| asked_for.contains(all));
    if !finding.ok || has_all || lines.is_empty() {
        return finding;
    }
    Finding { fix: Some(format!("it would say more with these lines in bitcoin.conf:{lines}")), ..finding }
}

/// Whether a node is told to dial us. One that was told over RPC is not known here.
fn check_dialling(settings: &p2p::Config, node: &NodeProcess) -> Finding {
    let addresses: Vec<String> = settings.p2p_address.iter().map(|listen| listen.addr.to_string()).collect();
    let dialled = ["addnode", "connect"].map(|option| node.settings.all(option, node.network)).concat();
    if let Some(address) = addresses.iter().find(|address| dialled.contains(&address.as_str())) {
        return Finding::good(format!("it dials {address}, where `run --p2p` and `extract p2p` listen"));
    }
    let line = format!("addnode={}", addresses.first().map_or("127.0.0.1:9333", |address| address));
    Finding::bad(
        "it does not dial us",
        format!("`run --p2p`, and in bitcoin.conf: {}", windows::in_section(node.network, &line)),
    )
}

/// Writes to standard output. Nobody reading is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
