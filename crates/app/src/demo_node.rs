//! The node of the demo: fires a recording through probes of its own, as Bitcoin Core would through its own.
//!
//! Runs as a process apart (`peer-observer demo-node`, not in the help), because probes are seen from outside of a process.

use std::ffi::CString;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use peer_observer_node::hit::{Connection, Hit, Message};
use peer_observer_node::recording::Records;
use probe::probe_lazy;

use crate::demo;

/// Settings of the demo's node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// How fast: 1 is as it was recorded
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Options of a node, for who looks at its command line
    #[arg(last = true)]
    _node: Vec<String>,
}

/// The node that it plays: one without a data directory, and not what would be the user's own by default.
pub(crate) const OPTIONS: [&str; 2] = ["-regtest", "-datadir=/nonexistent"];

/// What the demo says when the node shall begin: the tour alone, or what follows it, too.
pub(crate) const ONCE: &str = "once";
pub(crate) const ON_AND_ON: &str = "on and on";
/// What the node says when the busy node's recording begins, each time.
pub(crate) const BUSY: &str = "busy";

/// Says that it is ready, waits for a line, fires the tour, says how many hits there were; then waits for the end of its input, or
/// fires the busy node's recording over and over until then.
pub(crate) fn run(config: &Config) -> Result<()> {
    let tour = demo::recording()?;
    say("ready")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("waiting to begin")?;
    let fired = play(&tour, config.speed)?;
    say(&format!("fired {fired}"))?;
    if line.trim() == ON_AND_ON {
        let (busy, speed) = (demo::busy()?, config.speed);
        std::thread::spawn(move || while say(BUSY).and_then(|()| play(&busy, speed)).is_ok() {});
    }
    line.clear();
    std::io::stdin().read_line(&mut line).context("waiting for the end")?;
    Ok(())
}

/// Fires a recording. Returns how many hits somebody saw.
fn play(recording: &[u8], speed: f64) -> Result<u64> {
    let begin = Instant::now();
    let mut first = None;
    let mut fired = 0u64;
    for record in Records::new(recording) {
        let record = record.context("the demo's recording is broken")?;
        let first = *first.get_or_insert(record.time_ns);
        let after = Duration::from_nanos(((record.time_ns.saturating_sub(first)) as f64 / speed) as u64);
        if let Some(wait) = after.checked_sub(begin.elapsed()) {
            std::thread::sleep(wait);
        }
        fired += u64::from(fire(&record.hit));
    }
    Ok(fired)
}

fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).context("telling the demo")
}

/// A text as the probe's arguments have it.
fn text(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

/// Fires the probe of a hit. Returns whether someone was attached.
fn fire(hit: &Hit<'_>) -> bool {
    match hit {
        Hit::Message(message) => fire_message(message),
        Hit::InboundConnection { conn, existing } => {
            let Connection { peer_id, network, .. } = *conn;
            let (addr, kind) = (text(conn.addr), text(conn.conn_type));
            probe_lazy!(net, inbound_connection, peer_id, addr.as_ptr(), kind.as_ptr(), network, *existing)
        }
        Hit::OutboundConnection { conn, existing } => {
            let Connection { peer_id, network, .. } = *conn;
            let (addr, kind) = (text(conn.addr), text(conn.conn_type));
            probe_lazy!(net, outbound_connection, peer_id, addr.as_ptr(), kind.as_ptr(), network, *existing)
        }
        Hit::ClosedConnection { conn, established } => {
            let Connection { peer_id, network, .. } = *conn;
            let (addr, kind) = (text(conn.addr), text(conn.conn_type));
            probe_lazy!(net, closed_connection, peer_id, addr.as_ptr(), kind.as_ptr(), network, *established)
        }
        Hit::EvictedInboundConnection { conn, established } => {
            let Connection { peer_id, network, .. } = *conn;
            let (addr, kind) = (text(conn.addr), text(conn.conn_type));
            probe_lazy!(
                net,
                evicted_inbound_connection,
                peer_id,
                addr.as_ptr(),
                kind.as_ptr(),
                network,
                *established
            )
        }
        Hit::MisbehavingConnection { peer_id, reason } => {
            let reason = text(reason);
            probe_lazy!(net, misbehaving_connection, *peer_id, reason.as_ptr())
        }
        Hit::MempoolAdded { txid, vsize, fee } => probe_lazy!(mempool, added, txid.as_ptr(), *vsize, *fee),
        Hit::MempoolRemoved { txid, reason, vsize, fee, entry_time } => {
            let reason = text(reason);
            probe_lazy!(mempool, removed, txid.as_ptr(), reason.as_ptr(), *vsize, *fee, *entry_time)
        }
        Hit::MempoolReplaced {
            replaced_txid,
            replaced_vsize,
            replaced_fee,
            replaced_entry_time,
            replacement_id,
            replacement_vsize,
            replacement_fee,
            by_transaction,
        } => {
            probe_lazy!(
                mempool,
                replaced,
                replaced_txid.as_ptr(),
                *replaced_vsize,
                *replaced_fee,
                *replaced_entry_time,
                replacement_id.as_ptr(),
                *replacement_vsize,
                *replacement_fee,
                *by_transaction
            )
        }
        Hit::MempoolRejected { txid, reason } => {
            let reason = text(reason);
            probe_lazy!(mempool, rejected, txid.as_ptr(), reason.as_ptr())
        }
        Hit::BlockConnected { hash, height, transactions, inputs, sigops, duration } => probe_lazy!(
            validation,
            block_connected,
            hash.as_ptr(),
            *height,
            *transactions,
            *inputs,
            *sigops,
            *duration
        ),
        Hit::UtxoCacheFlush { duration_us, mode, coins, bytes, for_prune } => {
            probe_lazy!(utxocache, flush, *duration_us, *mode, *coins, *bytes, *for_prune)
        }
        // Only patched nodes have these; the demo's recording is not of one.
        Hit::AddrmanAttemptAdd { .. } | Hit::AddrmanMoveToGood { .. } => false,
    }
}

fn fire_message(message: &Message<'_>) -> bool {
    let Message { peer_id, size, .. } = *message;
    let (addr, kind, name) = (text(message.addr), text(message.conn_type), text(message.msg_type));
    let payload = message.payload.as_ptr();
    if message.inbound {
        probe_lazy!(net, inbound_message, peer_id, addr.as_ptr(), kind.as_ptr(), name.as_ptr(), size, payload)
    } else {
        probe_lazy!(
            net,
            outbound_message,
            peer_id,
            addr.as_ptr(),
            kind.as_ptr(),
            name.as_ptr(),
            size,
            payload
        )
    }
}
