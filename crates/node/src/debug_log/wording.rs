//! From the wording of a message to what it means.
//!
//! Messages are told apart by how they begin, never by words in the middle: peers choose some of these (user agents, message
//! types). Bitcoin Core leaves no `=` in what peers say (util/strencodings.cpp `SanitizeString`), so `peer=` is its own.

use std::borrow::Cow;

use super::kind::{DownloadOf, Kind, Outcome, Presync};
use super::scan::Scan;
use super::time;

#[cfg(test)]
mod tests;

/// What a message of a category means; nothing when it is none of those above.
pub fn kind<'a>(category: Option<&str>, message: &'a str) -> Option<Kind<'a>> {
    let scan = Scan(message);
    // In the order of what a node writes most.
    let found = match message.as_bytes().first()? {
        b's' if message.starts_with("sending ") => return None,
        b'r' if message.starts_with("received") => return None,
        b'r' => orphan_removed(scan),
        b's' => evicted(scan),
        b'B' => block_connected(scan).or_else(|| block_checked(scan)).or_else(|| node_started(scan)),
        b'E' => enqueuing(scan).or_else(|| orphans_erased(scan)).or_else(|| excessive_logging(scan)),
        b'S' => saw_new_header(scan)
            .or_else(|| reconstructed(scan))
            .or_else(|| stall_started(scan))
            .or_else(|| node_stopped(scan)),
        b'U' => update_tip(scan),
        b'T' => download_timeout(scan),
        b'P' => stalling(scan).or_else(|| presync_progress(scan)),
        b'M' => misbehaving(scan),
        b'D' | b'W' => discouraged(scan),
        b'I' => presync(scan),
        b'm' | b'o' => orphanage_overflow(scan),
        b'c' => connected_to_self(scan),
        b'R' => logging_restarted(scan),
        _ => None,
    };
    match category {
        Some("net") | None => found.or_else(|| disconnect(message)),
        _ => found,
    }
}

fn block_connected(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("BlockConnected: block hash=")?;
    let hash = s.hash()?;
    s.tag(" block height=")?;
    Some(Kind::BlockConnected { hash, height: s.number()? })
}

fn enqueuing(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Enqueuing ")?;
    block_connected(s)
}

fn block_checked(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("BlockChecked: block hash=")?;
    let hash = s.hash()?;
    s.tag(" state=")?;
    let (state, debug) = s.0.split_once(", ").unwrap_or((s.0, ""));
    Some(Kind::BlockChecked { hash, state, debug })
}

fn saw_new_header(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Saw new ")?;
    let compact = s.tag("cmpctblock ").is_some();
    s.tag("header hash=")?;
    let hash = s.hash()?;
    s.tag(" height=")?;
    let height = s.number()?;
    s.tag(" peer=")?;
    Some(Kind::SawNewHeader { hash, height, peer: s.number()?, compact })
}

fn reconstructed(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Successfully reconstructed block ")?;
    let hash = s.hash()?;
    s.tag(" with ")?;
    let prefilled = s.number()?;
    s.tag(" txn prefilled, ")?;
    let mempool = s.number()?;
    s.tag(" txn from mempool (incl at least ")?;
    let extra = s.number()?;
    s.tag(" from extra pool) and ")?;
    let requested = s.number()?;
    s.tag(" txn ")?;
    let requested_bytes = match s.tag("(") {
        Some(()) => s.number()?,
        None => 0,
    };
    Some(Kind::Reconstructed { hash, prefilled, mempool, extra, requested, requested_bytes })
}

fn update_tip(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("UpdateTip: new best=")?;
    let hash = s.hash()?;
    s.tag(" height=")?;
    let height = s.number()?;
    s.tag(" version=0x")?;
    let version = s.take_while(|b| b.is_ascii_hexdigit());
    let version = u32::from_str_radix(version, 16).ok()?.cast_signed();
    s.tag(" log2_work=")?;
    let log2_work = s.float()?;
    s.tag(" tx=")?;
    let tx_count = s.number()?;
    s.tag(" date='")?;
    let (time_us, rest) = time::parse(s.0)?;
    s = Scan(rest);
    s.tag("' progress=")?;
    let progress = s.float()?;
    s.tag(" cache=")?;
    let cache_mib = s.float()?;
    s.tag("MiB(")?;
    let cache_coins = s.number()?;
    s.tag("txo)")?;
    let warning = s.tag(" warning='").map(|()| s.0.strip_suffix('\'').unwrap_or(s.0));
    Some(Kind::UpdateTip {
        hash,
        height,
        version,
        log2_work,
        tx_count,
        time: time_us / 1_000_000,
        progress,
        cache_mib,
        cache_coins,
        warning,
    })
}

fn download_timeout(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Timeout downloading ")?;
    let what = match s.tag("block ") {
        Some(()) => DownloadOf::Block(s.hash()?),
        None => s.tag("headers").map(|()| DownloadOf::Headers)?,
    };
    Some(Kind::DownloadTimeout {
        what,
        peer: peer_in(s.0),
        disconnecting: !s.0.contains("not disconnecting"),
    })
}

fn stall_started(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Stall started peer=")?;
    Some(Kind::DownloadStalling { peer: Some(s.number()?), disconnecting: false })
}

/// `Peer is stalling block download, disconnecting peer=5`, before Core 28 `Peer=5 is stalling block download, disconnecting`.
fn stalling(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Peer")?;
    let peer = s.tag("=").and_then(|()| s.number());
    let (_, rest) = s.0.split_once(" is stalling block download, disconnecting")?;
    Some(Kind::DownloadStalling { peer: peer.or_else(|| peer_in(rest)), disconnecting: true })
}

/// `Misbehaving: peer=5: reason`, before Core 28 `Misbehaving: peer=5 (0 -> 100) DISCOURAGE THRESHOLD EXCEEDED: reason`.
fn misbehaving(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Misbehaving: peer=")?;
    let peer = s.number()?;
    let mut score = None;
    if s.tag(" (").is_some() {
        let before = s.number()?;
        s.tag(" -> ")?;
        score = Some((before, s.number()?));
        s.tag(")")?;
        s.tag(" DISCOURAGE THRESHOLD EXCEEDED").or_else(|| s.tag(" BAN THRESHOLD EXCEEDED"));
    }
    Some(Kind::Misbehaving { peer, reason: s.0.strip_prefix(": ").unwrap_or(s.0), score })
}

fn discouraged(s: Scan<'_>) -> Option<Kind<'_>> {
    const OUTCOMES: [(&str, Outcome); 5] = [
        ("Disconnecting and discouraging peer ", Outcome::Discouraged),
        ("Warning: disconnecting but not discouraging local peer ", Outcome::Disconnected),
        ("Warning: disconnecting but not discouraging inbound onion peer ", Outcome::Disconnected),
        ("Warning: not punishing noban peer ", Outcome::Spared),
        ("Warning: not punishing manually connected peer ", Outcome::Spared),
    ];
    let (rest, outcome) =
        OUTCOMES.iter().find_map(|(text, outcome)| Some((s.0.strip_prefix(text)?, *outcome)))?;
    Some(Kind::Discouraged { peer: Scan(rest).number()?, outcome })
}

/// `selected inbound connection for eviction, disconnecting peer=5`, before Core 29 `... for eviction peer=5; disconnecting`.
fn evicted(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("selected inbound connection for eviction")?;
    Some(Kind::Eviction { peer: peer_in(s.0)?, addr: addr_in(s.0) })
}

fn presync(mut s: Scan<'_>) -> Option<Kind<'_>> {
    if s.tag("Ignoring low-work chain (height=").is_some() {
        let height = Some(s.number()?);
        let peer = peer_in(s.0);
        return Some(Kind::Presync { state: Presync::Aborted, peer, height, reason: Some("low-work chain") });
    }
    s.tag("Initial headers sync ")?;
    let (state, rest) = s.0.split_once(" with peer=")?;
    let state = match state {
        "started" => Presync::Started,
        "transition" => Presync::Redownloading,
        "aborted" => Presync::Aborted,
        _ => return None,
    };
    let mut s = Scan(rest);
    let peer = Some(s.number()?);
    s.tag(": ")?;
    let (before, height) = s.0.split_once("height=")?;
    let reason = before.strip_suffix(" at ").filter(|_| state == Presync::Aborted);
    Some(Kind::Presync { state, peer, height: Scan(height).number(), reason })
}

fn presync_progress(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Pre-synchronizing blockheaders, height: ")?;
    Some(Kind::Presync { state: Presync::Progress, peer: None, height: Some(s.number()?), reason: None })
}

fn orphan_removed(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("removed orphan tx ")?;
    s.hash()?;
    let wtxid = s.tag(" (wtxid=").and_then(|()| s.hash());
    let announcements = s.tag(") (").and_then(|()| s.number());
    Some(Kind::OrphansRemoved { count: 1, announcements, cause: "unknown", peer: None, wtxid })
}

fn orphanage_overflow(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("orphanage overflow, removed ").or_else(|| s.tag("mapOrphan overflow, removed "))?;
    let count = s.number()?;
    let announcements = s.tag(" tx (").and_then(|()| s.number());
    Some(Kind::OrphansRemoved { count, announcements, cause: "overflow", peer: None, wtxid: None })
}

fn orphans_erased(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Erased ")?;
    let count = s.number()?;
    s.tag(" orphan t")?;
    let peer = peer_in(s.0);
    let cause = if peer.is_some() {
        "peer"
    } else if s.0.contains(" by block") {
        "block"
    } else if s.0.contains(" expiration") {
        "expired"
    } else {
        "unknown"
    };
    Some(Kind::OrphansRemoved { count, announcements: None, cause, peer, wtxid: None })
}

fn connected_to_self(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("connected to self at ")?;
    Some(Kind::ConnectedToSelf { addr: s.0.split_once(", ").map_or(s.0, |(addr, _)| addr) })
}

fn excessive_logging(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Excessive logging detected from ")?;
    let (location, function, rest) = place(s.0, "): >")?;
    let (_, window) = rest.split_once("time window of ")?;
    let window = Scan(window).number()?;
    Some(Kind::LogRateLimit { location, function, suppressing: true, dropped_bytes: None, window })
}

fn logging_restarted(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Restarting logging from ")?;
    let (location, function, rest) = place(s.0, "): ")?;
    s = Scan(rest);
    let dropped_bytes = Some(s.number()?);
    s.tag(" bytes were dropped during the last ")?;
    Some(Kind::LogRateLimit { location, function, suppressing: false, dropped_bytes, window: s.number()? })
}

/// `net.cpp:12 (void f())`: location, function, and what follows `end`.
fn place<'a>(text: &'a str, end: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (location, rest) = text.split_once(" (")?;
    // The function can hold nearly anything, what follows it cannot.
    let (function, rest) = rest.rsplit_once(end)?;
    Some((location.strip_prefix("./").unwrap_or(location), function, rest))
}

/// `Bitcoin Core version v30.0.0 (release build)`. Forks of Bitcoin Core put in their own name.
fn node_started(mut s: Scan<'_>) -> Option<Kind<'_>> {
    s.tag("Bitcoin ")?;
    let (name, version) = s.0.split_once(" version ")?;
    if name.contains(' ') || !version.starts_with('v') {
        return None;
    }
    Some(Kind::NodeStarted { version })
}

/// Before Core 28 `Shutdown: In progress...`, `Shutdown: done`.
fn node_stopped(s: Scan<'_>) -> Option<Kind<'_>> {
    match s.0 {
        "Shutdown in progress..." | "Shutdown: In progress..." => Some(Kind::NodeStopped { done: false }),
        "Shutdown done" | "Shutdown: done" => Some(Kind::NodeStopped { done: true }),
        _ => None,
    }
}

/// `why, disconnecting peer=5 peeraddr=1.2.3.4:5: more`; in older releases the peer stands elsewhere, and `disconnecting` at the
/// end.
fn disconnect(message: &str) -> Option<Kind<'_>> {
    const DISCONNECTING: &str = "disconnecting";
    const EXTRA: [&str; 2] =
        ["disconnecting extra block-relay-only peer=", "disconnecting extra outbound peer="];
    /// What Core before 29 says of a connection that it then closes.
    const OLD: [&str; 8] = [
        "socket closed for peer=",
        "socket recv error for peer=",
        "socket send error for peer=",
        "socket no message in first ",
        "socket sending timeout: ",
        "socket receive timeout: ",
        "version handshake timeout peer=",
        "V2 handshake timeout peer=",
    ];
    let says_so = message.find("disconnecting peer=").is_some_and(|at| !message[..at].ends_with("not "))
        || message
            .strip_suffix(DISCONNECTING)
            .is_some_and(|s| s.ends_with([' ', ';', ',']) && !s.ends_with("not "))
        || EXTRA.iter().chain(&OLD).any(|text| message.starts_with(text));
    if !says_so {
        return None;
    }
    let peer = peer_in(message)?;
    let addr = addr_in(message);
    let mut reason = message.replacen(&format!("peer={peer}"), "", 1).replacen(DISCONNECTING, "", 1);
    if let Some(addr) = addr {
        reason = reason.replacen(&format!("peeraddr={addr}"), "", 1);
    }
    // What was taken out leaves spaces and separators behind.
    let mut words = String::with_capacity(reason.len());
    for word in reason.split_whitespace() {
        if word.bytes().all(|b| matches!(b, b',' | b';' | b':')) {
            while words.ends_with([',', ';', ':']) {
                words.pop();
            }
            words.push_str(word);
            continue;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    let reason = words.trim_matches([',', ';', ':', ' ']).to_owned();
    Some(Kind::Disconnect { peer, addr, reason: Cow::Owned(reason) })
}

/// The first `peer=5`.
fn peer_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("peer=")?;
    Scan(rest).number()
}

/// The first `peeraddr=1.2.3.4:5` (`-logips`).
fn addr_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("peeraddr=")?;
    let addr = rest.split(' ').next()?.trim_end_matches([':', ',', ';']);
    if addr.is_empty() { None } else { Some(addr) }
}
