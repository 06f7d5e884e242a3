//! What messages mean, for those that mean something to us.
//!
//! Messages are told apart by how they begin, never by words in the middle: peers choose some of these (user agents, message
//! types). Bitcoin Core leaves no `=` in what peers say (util/strencodings.cpp `SanitizeString`), so `peer=` is its own.

use std::borrow::Cow;
use std::str::FromStr;

use super::time;

/// What a message means. Peers are Bitcoin Core's ids, hashes are hex in display order.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    /// A block was connected to the chain, or that is waiting to be told.
    BlockConnected {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
    },
    /// A block was checked.
    BlockChecked {
        /// Block hash.
        hash: &'a str,
        /// `Valid`, or why it is not.
        state: &'a str,
        /// What follows the first comma; may be empty.
        debug: &'a str,
    },
    /// A header that is new to the node.
    SawNewHeader {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
        /// The peer.
        peer: u32,
        /// It came in a compact block.
        compact: bool,
    },
    /// A compact block became a block.
    Reconstructed {
        /// Block hash.
        hash: &'a str,
        /// Transactions that came with it.
        prefilled: u32,
        /// Transactions that the node had.
        mempool: u32,
        /// Of these, at least so many from the extra pool.
        extra: u32,
        /// Transactions that were asked for.
        requested: u32,
        /// Size of those, bytes; 0 when the node does not say.
        requested_bytes: u32,
    },
    /// The chain has a new tip.
    UpdateTip {
        /// Block hash.
        hash: &'a str,
        /// Height, blocks.
        height: u32,
        /// Block version.
        version: i32,
        /// Logarithm to base 2 of the chain's work, hashes.
        log2_work: f64,
        /// Transactions in the chain.
        tx_count: u64,
        /// Time of the block, UNIX s.
        time: u64,
        /// Share of the chain that is verified, 0 to 1.
        progress: f64,
        /// Memory of the coins cache, MiB.
        cache_mib: f64,
        /// Coins in the cache.
        cache_coins: u64,
        /// Warning at the end of the line.
        warning: Option<&'a str>,
    },
    /// Something did not come in time.
    DownloadTimeout {
        /// What.
        what: DownloadOf<'a>,
        /// The peer.
        peer: Option<u64>,
        /// The connection is closed.
        disconnecting: bool,
    },
    /// A peer holds up the download of blocks.
    DownloadStalling {
        /// The peer.
        peer: Option<u64>,
        /// The connection is closed; otherwise its time begins to run out.
        disconnecting: bool,
    },
    /// The node closes a connection.
    Disconnect {
        /// The peer.
        peer: u64,
        /// Its address and port.
        addr: Option<&'a str>,
        /// Why; may be empty.
        reason: Cow<'a, str>,
    },
    /// A peer misbehaved.
    Misbehaving {
        /// The peer.
        peer: u64,
        /// How; may be empty.
        reason: &'a str,
        /// Score before and after, in Core before 28.
        score: Option<(u32, u32)>,
    },
    /// What follows from misbehaving.
    Discouraged {
        /// The peer.
        peer: u64,
        /// What follows.
        outcome: Outcome,
    },
    /// An inbound peer gives way to another.
    Eviction {
        /// The peer that is closed.
        peer: u64,
        /// Its address and port.
        addr: Option<&'a str>,
    },
    /// Headers that are not stored yet: their chain may have too little work.
    Presync {
        /// How far it is.
        state: Presync,
        /// The peer.
        peer: Option<u64>,
        /// Height reached, blocks.
        height: Option<u64>,
        /// Why it was given up.
        reason: Option<&'a str>,
    },
    /// Orphan transactions were dropped.
    OrphansRemoved {
        /// Number of transactions.
        count: u64,
        /// Number of announcements.
        announcements: Option<u64>,
        /// `overflow`, `expired`, `block`, `peer` or `unknown`.
        cause: &'static str,
        /// The peer that left.
        peer: Option<u64>,
        /// Witness transaction id, when it is one transaction.
        wtxid: Option<&'a str>,
    },
    /// The node dialled itself.
    ConnectedToSelf {
        /// Address and port.
        addr: &'a str,
    },
    /// The node leaves out lines of one place in its source, or no longer does.
    LogRateLimit {
        /// `net.cpp:123`
        location: &'a str,
        /// Function there.
        function: &'a str,
        /// Lines are left out from now on.
        suppressing: bool,
        /// What was left out, bytes, once that is over.
        dropped_bytes: Option<u64>,
        /// Length of the window, s.
        window: u64,
    },
    /// The node starts.
    NodeStarted {
        /// `v30.0.0 (release build)`
        version: &'a str,
    },
    /// The node ends.
    NodeStopped {
        /// It has ended; otherwise it begins to.
        done: bool,
    },
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadOf<'a> {
    /// A block with this hash.
    Block(&'a str),
    /// Headers.
    Headers,
}

/// What follows from misbehaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Disconnected, and the address is discouraged.
    Discouraged,
    /// Disconnected only.
    Disconnected,
    /// Nothing.
    Spared,
}

/// How far the synchronisation of headers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presync {
    /// It begins.
    Started,
    /// It goes on.
    Progress,
    /// There is enough work: headers are fetched again, and stored.
    Redownloading,
    /// It is given up.
    Aborted,
}

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

/// A message, from where it is not yet read.
#[derive(Clone, Copy)]
struct Scan<'a>(&'a str);

impl<'a> Scan<'a> {
    /// Passes over this text, if it comes next.
    fn tag(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self.0.bytes().position(|b| !wanted(b) || !b.is_ascii()).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// 64 hex digits.
    fn hash(&mut self) -> Option<&'a str> {
        let hash = self.take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hash.len() == 64 { Some(hash) } else { None }
    }

    fn number<T: FromStr>(&mut self) -> Option<T> {
        self.take_while(|b| b.is_ascii_digit()).parse().ok()
    }

    fn float(&mut self) -> Option<f64> {
        let text = self.take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e'));
        text.parse().ok().filter(|n: &f64| n.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00000000000000000001b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";
    const H: &str = HASH;

    fn shown(category: &str, message: &str) -> String {
        match kind(Some(category), message) {
            Some(kind) => format!("{kind:?}").replace(HASH, "H"),
            None => "None".into(),
        }
    }

    #[test]
    fn every_wording_becomes_its_kind() {
        let cases: &[(&str, String, &str)] = &[
            (
                "validation",
                format!("BlockConnected: block hash={H} block height=437"),
                r#"BlockConnected { hash: "H", height: 437 }"#,
            ),
            (
                "validation",
                format!("Enqueuing BlockConnected: block hash={H} block height=437"),
                r#"BlockConnected { hash: "H", height: 437 }"#,
            ),
            (
                "validation",
                format!("BlockChecked: block hash={H} state=Valid"),
                r#"BlockChecked { hash: "H", state: "Valid", debug: "" }"#,
            ),
            (
                "validation",
                format!("BlockChecked: block hash={H} state=bad-txns-duplicate, duplicate transaction, really"),
                r#"BlockChecked { hash: "H", state: "bad-txns-duplicate", debug: "duplicate transaction, really" }"#,
            ),
            (
                "validation",
                format!("Saw new header hash={H} height=7 peer=3, peeraddr=1.2.3.4:5"),
                r#"SawNewHeader { hash: "H", height: 7, peer: 3, compact: false }"#,
            ),
            (
                "validation",
                format!("Saw new cmpctblock header hash={H} height=7 peer=0"),
                r#"SawNewHeader { hash: "H", height: 7, peer: 0, compact: true }"#,
            ),
            (
                "cmpctblock",
                format!(
                    "Successfully reconstructed block {H} with 1 txn prefilled, 3000 txn from mempool (incl at least 5 \
                     from extra pool) and 2 txn (700 bytes) requested"
                ),
                r#"Reconstructed { hash: "H", prefilled: 1, mempool: 3000, extra: 5, requested: 2, requested_bytes: 700 }"#,
            ),
            (
                "cmpctblock",
                format!(
                    "Successfully reconstructed block {H} with 1 txn prefilled, 3000 txn from mempool (incl at least 5 \
                     from extra pool) and 2 txn requested"
                ),
                r#"Reconstructed { hash: "H", prefilled: 1, mempool: 3000, extra: 5, requested: 2, requested_bytes: 0 }"#,
            ),
            (
                "all",
                format!(
                    "UpdateTip: new best={H} height=800000 version=0xe0000000 log2_work=94.399543 tx=868965226 \
                     date='2023-07-24T03:17:09Z' progress=1.000000 cache=55.3MiB(416205txo) warning='Unknown new rules'"
                ),
                r#"UpdateTip { hash: "H", height: 800000, version: -536870912, log2_work: 94.399543, tx_count: 868965226, time: 1690168629, progress: 1.0, cache_mib: 55.3, cache_coins: 416205, warning: Some("Unknown new rules") }"#,
            ),
            (
                "net",
                format!("Timeout downloading block {H}, disconnecting peer=9 peeraddr=[::1]:8333"),
                r#"DownloadTimeout { what: Block("H"), peer: Some(9), disconnecting: true }"#,
            ),
            (
                "net",
                format!("Timeout downloading block {H} from peer=9, disconnecting"),
                r#"DownloadTimeout { what: Block("H"), peer: Some(9), disconnecting: true }"#,
            ),
            (
                "net",
                "Timeout downloading headers, disconnecting peer=9".into(),
                r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: true }"#,
            ),
            (
                "net",
                "Timeout downloading headers from noban peer, not disconnecting peer=9".into(),
                r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: false }"#,
            ),
            (
                "net",
                "Timeout downloading headers from noban peer=9, not disconnecting".into(),
                r#"DownloadTimeout { what: Headers, peer: Some(9), disconnecting: false }"#,
            ),
            (
                "net",
                "Stall started peer=12".into(),
                r#"DownloadStalling { peer: Some(12), disconnecting: false }"#,
            ),
            (
                "net",
                "Peer is stalling block download, disconnecting peer=12".into(),
                r#"DownloadStalling { peer: Some(12), disconnecting: true }"#,
            ),
            (
                "net",
                "Peer=12, peeraddr=1.2.3.4:5 is stalling block download, disconnecting".into(),
                r#"DownloadStalling { peer: Some(12), disconnecting: true }"#,
            ),
            (
                "net",
                "socket closed, disconnecting peer=4 peeraddr=1.2.3.4:8333".into(),
                r#"Disconnect { peer: 4, addr: Some("1.2.3.4:8333"), reason: "socket closed" }"#,
            ),
            (
                "net",
                "socket recv error, disconnecting peer=4 peeraddr=[2001:db8::1]:8333: Connection reset by peer (104)".into(),
                r#"Disconnect { peer: 4, addr: Some("[2001:db8::1]:8333"), reason: "socket recv error: Connection reset by peer (104)" }"#,
            ),
            (
                "net",
                "ping timeout: 1200.000000s, disconnecting peer=4".into(),
                r#"Disconnect { peer: 4, addr: None, reason: "ping timeout: 1200.000000s" }"#,
            ),
            (
                "net",
                "disconnecting extra outbound peer=4 (last block announcement received at time 17)".into(),
                r#"Disconnect { peer: 4, addr: None, reason: "extra outbound (last block announcement received at time 17)" }"#,
            ),
            (
                "net",
                "peer=4 using obsolete version 31799; disconnecting".into(),
                r#"Disconnect { peer: 4, addr: None, reason: "using obsolete version 31799" }"#,
            ),
            (
                "net",
                "version handshake timeout peer=4".into(),
                r#"Disconnect { peer: 4, addr: None, reason: "version handshake timeout" }"#,
            ),
            ("net", "disconnecting peer=4".into(), r#"Disconnect { peer: 4, addr: None, reason: "" }"#),
            (
                "net",
                "Misbehaving: peer=7: inv message size = 50001".into(),
                r#"Misbehaving { peer: 7, reason: "inv message size = 50001", score: None }"#,
            ),
            ("net", "Misbehaving: peer=7".into(), r#"Misbehaving { peer: 7, reason: "", score: None }"#),
            (
                "net",
                "Misbehaving: peer=7 (0 -> 20): non-continuous headers sequence".into(),
                r#"Misbehaving { peer: 7, reason: "non-continuous headers sequence", score: Some((0, 20)) }"#,
            ),
            (
                "net",
                "Misbehaving: peer=7 (80 -> 100) DISCOURAGE THRESHOLD EXCEEDED: x".into(),
                r#"Misbehaving { peer: 7, reason: "x", score: Some((80, 100)) }"#,
            ),
            (
                "net",
                "Disconnecting and discouraging peer 7!".into(),
                r#"Discouraged { peer: 7, outcome: Discouraged }"#,
            ),
            (
                "net",
                "Warning: disconnecting but not discouraging local peer 7!".into(),
                r#"Discouraged { peer: 7, outcome: Disconnected }"#,
            ),
            (
                "net",
                "Warning: disconnecting but not discouraging inbound onion peer 7!".into(),
                r#"Discouraged { peer: 7, outcome: Disconnected }"#,
            ),
            (
                "all",
                "Warning: not punishing noban peer 7!".into(),
                r#"Discouraged { peer: 7, outcome: Spared }"#,
            ),
            (
                "all",
                "Warning: not punishing manually connected peer 7!".into(),
                r#"Discouraged { peer: 7, outcome: Spared }"#,
            ),
            (
                "net",
                "selected inbound connection for eviction, disconnecting peer=8 peeraddr=1.2.3.4:5".into(),
                r#"Eviction { peer: 8, addr: Some("1.2.3.4:5") }"#,
            ),
            (
                "net",
                "selected inbound connection for eviction peer=8; disconnecting".into(),
                r#"Eviction { peer: 8, addr: None }"#,
            ),
            (
                "net",
                "Initial headers sync started with peer=3: height=0, max_commitments=5, min_work=00".into(),
                r#"Presync { state: Started, peer: Some(3), height: Some(0), reason: None }"#,
            ),
            (
                "net",
                "Initial headers sync aborted with peer=3: incomplete headers message at height=2000 (presync phase)".into(),
                r#"Presync { state: Aborted, peer: Some(3), height: Some(2000), reason: Some("incomplete headers message") }"#,
            ),
            (
                "net",
                "Initial headers sync transition with peer=3: reached sufficient work at height=9, redownloading from height=0".into(),
                r#"Presync { state: Redownloading, peer: Some(3), height: Some(9), reason: None }"#,
            ),
            (
                "net",
                "Ignoring low-work chain (height=15) from peer=3".into(),
                r#"Presync { state: Aborted, peer: Some(3), height: Some(15), reason: Some("low-work chain") }"#,
            ),
            (
                "all",
                "Pre-synchronizing blockheaders, height: 42000 (~5.11%)".into(),
                r#"Presync { state: Progress, peer: None, height: Some(42000), reason: None }"#,
            ),
            (
                "txpackages",
                format!("removed orphan tx {H} (wtxid={H}) (3 announcements)"),
                r#"OrphansRemoved { count: 1, announcements: Some(3), cause: "unknown", peer: None, wtxid: Some("H") }"#,
            ),
            (
                "txpackages",
                format!("removed orphan tx {H} (wtxid={H}) after 3s"),
                r#"OrphansRemoved { count: 1, announcements: None, cause: "unknown", peer: None, wtxid: Some("H") }"#,
            ),
            (
                "txpackages",
                "orphanage overflow, removed 4 tx (6 announcements)".into(),
                r#"OrphansRemoved { count: 4, announcements: Some(6), cause: "overflow", peer: None, wtxid: None }"#,
            ),
            (
                "mempool",
                "mapOrphan overflow, removed 4 tx".into(),
                r#"OrphansRemoved { count: 4, announcements: None, cause: "overflow", peer: None, wtxid: None }"#,
            ),
            (
                "txpackages",
                "Erased 2 orphan transaction(s) included or conflicted by block".into(),
                r#"OrphansRemoved { count: 2, announcements: None, cause: "block", peer: None, wtxid: None }"#,
            ),
            (
                "txpackages",
                "Erased 2 orphan transaction(s) from peer=6".into(),
                r#"OrphansRemoved { count: 2, announcements: None, cause: "peer", peer: Some(6), wtxid: None }"#,
            ),
            (
                "txpackages",
                "Erased 2 orphan tx due to expiration".into(),
                r#"OrphansRemoved { count: 2, announcements: None, cause: "expired", peer: None, wtxid: None }"#,
            ),
            (
                "all",
                "connected to self at 1.2.3.4:8333, disconnecting".into(),
                r#"ConnectedToSelf { addr: "1.2.3.4:8333" }"#,
            ),
            (
                "all",
                "Excessive logging detected from ./net.cpp:12 (void f(A (*)(int))): >1048576 bytes logged during the last \
                 time window of 3600s. Suppressing logging to disk"
                    .into(),
                r#"LogRateLimit { location: "net.cpp:12", function: "void f(A (*)(int))", suppressing: true, dropped_bytes: None, window: 3600 }"#,
            ),
            (
                "all",
                "Restarting logging from net.cpp:12 (void f()): 77 bytes were dropped during the last 3600s.".into(),
                r#"LogRateLimit { location: "net.cpp:12", function: "void f()", suppressing: false, dropped_bytes: Some(77), window: 3600 }"#,
            ),
            (
                "all",
                "Bitcoin Core version v30.0.0 (release build)".into(),
                r#"NodeStarted { version: "v30.0.0 (release build)" }"#,
            ),
            ("all", "Shutdown in progress...".into(), "NodeStopped { done: false }"),
            ("all", "Shutdown: In progress...".into(), "NodeStopped { done: false }"),
            ("all", "Shutdown done".into(), "NodeStopped { done: true }"),
            ("all", "Shutdown: done".into(), "NodeStopped { done: true }"),
        ];
        for (category, message, expected) in cases {
            assert_eq!(shown(category, message), *expected, "{message}");
        }
    }

    #[test]
    fn what_only_looks_like_a_kind_is_none() {
        let cases: &[String] = &[
            String::new(),
            "x".into(),
            "BlockConnected: block hash=".into(),
            format!("BlockConnected: block hash={H} block height="),
            format!("BlockConnected: block hash={H} block height=4294967296"),
            format!("BlockConnected: block hash={H}0 block height=1"),
            format!("BlockConnected: block hash={} block height=1", H.to_uppercase()),
            format!("BlockDisconnected: block hash={H} block height=1"),
            format!("[background validation] UpdateTip: new best={H}"),
            format!("Saw new header hash={H} height=7"),
            "Misbehaving: peer=-1".into(),
            "Initial headers sync complete with peer=3: releasing all at height=7 (redownload phase)".into(),
            // A peer chooses its user agent.
            "receive version message: /disconnecting/: version 70016, blocks=0, us=1.2.3.4:5, txrelay=1, peer=5".into(),
            "receive version message: /a, disconnecting/: version 70016, peer=5".into(),
            "Unknown command \"disconnectin\" from peer=5".into(),
            "Not downloading blocks from peer=5, which doesn't have the snapshot block in its best chain.".into(),
            "Bitcoin is not for version v1".into(),
            "Timeout downloading block \u{fffd}".into(),
            "Shutdown requested. Exiting.".into(),
            "Resetting socket for peer=5".into(),
        ];
        for message in cases {
            assert_eq!(shown("net", message), "None", "{message}");
        }
        assert_eq!(shown("bench", "x, disconnecting peer=4"), "None");
    }
}
