//! Is what peer-observer tells of a node true?
//!
//! Other tests replay recordings, which say what a node's probes said, not what the node did. Here the node itself is asked:
//! real nodes on regtest meet peers, transactions and blocks, are killed, restarted and upgraded, and what the extractor
//! published is compared with what they answer over RPC.
//!
//! | file | what it is for |
//! |---|---|
//! | watch.rs | the extractor under test, and all its events |
//! | bytes.rs | bytes by peer and message type |
//! | state.rs | mempool, blocks, connections |
//! | coins.rs | transactions without a wallet |
//! | windows.rs | all windows at once: `peer-observer run` beside a node for some minutes |
//! | report.rs | docs/checked-against.md |

mod bytes;
mod coins;
mod report;
mod state;
mod watch;
mod windows;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bitcoin::Amount;
use peer_observer_events::Event;
use peer_observer_testkit::bitcoind::{self, RealNode};
use peer_observer_testkit::need;
use peer_observer_testkit::peer::{Peer, REGTEST_MAGIC, frame};
use peer_observer_testkit::process::Process;
use serde_json::{Value, json};

use coins::{ANYONE, Coin, NODE_ARGS};
use report::{Report, Table};
use watch::Watch;

const LONG: Duration = Duration::from_secs(60);
/// Nothing may happen for so long at a quiet point. Announcements of transactions wait some seconds, but come one after the
/// other.
const QUIET: Duration = Duration::from_secs(2);
/// How long to wait for a quiet point.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);

/// Blocks that give coins. 100 more make the coins spendable (Bitcoin Core consensus/consensus.h, `COINBASE_MATURITY`).
const COIN_BLOCKS: u32 = 30;
const FEE: Amount = Amount::from_sat(100_000);
/// Transactions of 210 kB: together a block of 3.8 MB, just under the 4,000,000 of a message.
const LARGE: u32 = 18;

/// Room for 29 inbound peers besides 11 outbound ones: the node protects some 20 from eviction (Bitcoin Core node/eviction.cpp).
const MAX_CONNECTIONS: &str = "-maxconnections=40";
/// Peers that come when there are some already.
const CROWD: u32 = 40;

/// Types that no node knows.
const UNKNOWN_TYPES: [&str; 2] = ["hello", "zzzzzzzzzzzz"];
/// Payloads that no decoder can read, of types that do not end the connection.
const MALFORMED: [(&str, &[u8]); 4] =
    [("sendcmpct", &[0]), ("inv", &[2; 37]), ("addr", &[1; 3]), ("tx", &[1; 2])];

/// Runs the check, the part with all windows for so many minutes, and writes docs/checked-against.md.
pub(crate) fn run(root: &Path, minutes: u64) -> Result<()> {
    let report = check(Duration::from_secs(minutes * 60))?;
    let path = root.join("docs/checked-against.md");
    fs::write(&path, report.markdown()).with_context(|| format!("writing {}", path.display()))?;
    let failed = report.failed();
    ensure!(failed.is_empty(), "not as the node says: {}", failed.join(", "));
    Ok(())
}

/// What the machine lacks for the check.
fn missing() -> Result<(), need::Missing> {
    need::root()?;
    need::nats_server()?;
    need::bitcoind().map(|_| ())
}

fn check(time: Duration) -> Result<Report> {
    missing().map_err(|missing| anyhow!("cannot check: {missing}"))?;
    let peer_observer = watch::build()?;
    // Both are set up and stopped, so that the extractor can be there before they start.
    let args = [&NODE_ARGS[..], &[MAX_CONNECTIONS]].concat();
    let mut alice = RealNode::start(&args)?;
    let mut bob = RealNode::start(&args)?;
    alice.stop()?;
    bob.stop()?;
    let mut report = Report::new(alice.version()?);
    let programs = [alice.program(), bob.program()];
    let names = [(alice.datadir(), "alice"), (bob.datadir(), "bob")];
    let mut watch = Watch::start(&peer_observer, &programs, &names)?;
    alice.restart()?;
    bob.restart()?;
    let watching = [("alice", &alice), ("bob", &bob)].map(|(name, node)| {
        format!(
            "watching node={name} pid={} network=\"regtest\" datadir={}",
            node.pid(),
            node.datadir().display()
        )
    });
    watch.wait_for_log(&watching)?;
    report.check("two nodes are told apart by their data directories", "2 processes", Vec::new());

    let mut town = Town::new(alice, bob)?;
    town.relay_transactions()?;
    town.say_nonsense()?;
    let quiet = compare_all(&mut report, &watch, &town, "alice", 0, "first life")?;
    compare_bob(&mut report, &watch, &town)?;
    compare_nonsense(&mut report, &town, &quiet);
    town.mine_large_block()?;
    let quiet = compare_all(&mut report, &watch, &town, "alice", 0, "after a large block")?;
    compare_large(&mut report, &quiet);
    compare_bob(&mut report, &watch, &town)?;
    compare_flush(&mut report, &watch, &town)?;
    compare_crowd(&mut report, &watch, &town)?;

    let killed = town.alice.pid();
    let mark = watch.mark();
    town.alice.kill()?;
    let mark_dead = wait_for_silence(&watch, "alice", mark)?;
    town.alice.restart()?;
    ensure!(town.alice.pid() != killed, "the node has the same process id again");
    town.meet_again()?;
    compare_life(&mut report, &watch, &town, mark_dead, "killed with SIGKILL and started again")?;

    let mark = compare_stop(&mut report, &watch, &mut town)?;
    replace_program(&town.alice)?;
    watch.wait_for_log(&[format!("attached program={}", town.alice.program().display())])?;
    town.alice.restart()?;
    town.meet_again()?;
    compare_life(&mut report, &watch, &town, mark, "its program replaced, and started again")?;

    let third = Third::start(&town.bob.program())?;
    watch.wait_for_log(&[format!(
        "pid={} network=\"regtest\" datadir={}",
        third.process.id(),
        third.datadir.path().display()
    )])?;
    report.check(
        "a node whose chain is in bitcoin.conf, next to another of the same program",
        "network=regtest, its own data directory",
        Vec::new(),
    );
    drop(third);

    town.alice.stop()?;
    town.bob.stop()?;
    close_books(&mut report, watch)?;
    windows::check(&mut report, &peer_observer, time)?;
    Ok(report)
}

/// Two nodes with a link each way, one over v2 and one over v1, and scripted peers (v1) at the first.
struct Town {
    alice: RealNode,
    bob: RealNode,
    peers: Vec<Peer>,
    coins: Vec<Coin>,
    /// Transactions that were refused, with the node's words.
    rejected: BTreeMap<String, String>,
    /// Bytes by peer address that the node counts and refuses before there is a message.
    unseen: BTreeMap<String, u64>,
    /// Id of the peer that sent more than it may.
    greedy: u64,
}

impl Town {
    fn new(alice: RealNode, bob: RealNode) -> Result<Self> {
        alice.rpc("generatetodescriptor", json!([COIN_BLOCKS + 100, ANYONE]))?;
        let coins = coins::mined(&alice, 1..=COIN_BLOCKS)?;
        let mut town = Town {
            alice,
            bob,
            peers: Vec::new(),
            coins,
            rejected: BTreeMap::new(),
            unseen: BTreeMap::new(),
            greedy: 0,
        };
        town.meet()?;
        Ok(town)
    }

    /// Connects everybody.
    fn meet(&mut self) -> Result<()> {
        let (alice, bob) = (&self.alice, &self.bob);
        bob.rpc("addnode", json!([alice.p2p_addr(), "onetry", true]))?;
        wait("the v2 link", || is_connected(alice, "v2"))?;
        alice.rpc("addnode", json!([bob.p2p_addr(), "onetry", false]))?;
        wait("the v1 link", || is_connected(bob, "v1"))?;
        self.peers.clear();
        for _ in 0..3 {
            self.peers.push(Peer::connect(alice.p2p_addr(), LONG)?);
        }
        self.sync()
    }

    /// The same in another life of the first node, and a little to talk about.
    fn meet_again(&mut self) -> Result<()> {
        self.unseen.clear();
        // The other node does not notice at once that its peer is gone.
        wait("the old links to end", || Ok(self.bob.rpc("getpeerinfo", json!([]))? == json!([])))?;
        self.meet()?;
        for peer in &mut self.peers {
            peer.send("hello", b"again")?;
            peer.ping(2, LONG)?;
        }
        let transaction = coins::spend(self.coin()?, FEE);
        coins::send(&self.alice, &transaction)?;
        self.bob.rpc("generatetodescriptor", json!([2, ANYONE]))?;
        self.sync()
    }

    fn coin(&mut self) -> Result<Coin> {
        self.coins.pop().context("no coins left")
    }

    fn sync(&self) -> Result<()> {
        wait("both nodes to have the same blocks", || {
            let tip = |node: &RealNode| node.rpc("getbestblockhash", json!([]));
            Ok(tip(&self.alice)? == tip(&self.bob)?)
        })
    }

    /// Transactions over RPC and from a peer, replaced and refused ones.
    fn relay_transactions(&mut self) -> Result<()> {
        for _ in 0..8 {
            let transaction = coins::spend(self.coin()?, FEE);
            coins::send(&self.alice, &transaction)?;
        }
        for _ in 0..3 {
            let transaction = coins::spend(self.coin()?, FEE);
            self.peers[1].send("tx", &bitcoin::consensus::serialize(&transaction))?;
        }
        self.peers[1].ping(1, LONG)?;
        let contested = self.coin()?;
        coins::send(&self.alice, &coins::spend(contested, FEE))?;
        coins::send(&self.alice, &coins::spend(contested, FEE * 2))?;
        let unpaid = coins::spend(self.coin()?, Amount::ZERO);
        let too_late = coins::spend(contested, FEE * 3 / 2);
        for transaction in [unpaid, too_late] {
            match coins::send(&self.alice, &transaction) {
                Err(bitcoind::Error::Refused { message, .. }) => {
                    self.rejected.insert(transaction.compute_txid().to_string(), message);
                }
                other => bail!("the node should have refused a transaction: {other:?}"),
            }
        }
        Ok(())
    }

    /// What a node gets to hear on the open network.
    fn say_nonsense(&mut self) -> Result<()> {
        let peer = &mut self.peers[0];
        for message_type in UNKNOWN_TYPES {
            peer.send(message_type, b"?")?;
        }
        for (message_type, payload) in MALFORMED {
            peer.send(message_type, payload)?;
        }
        peer.ping(3, LONG)?;
        let mut wrong_checksum = frame(REGTEST_MAGIC, "ping", &[9; 8]);
        wrong_checksum[20] ^= 1;
        let wrong_type = frame(REGTEST_MAGIC, "pi\u{1}ng", &[9; 8]);
        for refused in [&wrong_checksum, &wrong_type] {
            peer.send_bytes(refused)?;
            *self.unseen.entry(peer.local_addr()?.to_string()).or_default() += refused.len() as u64;
        }
        peer.ping(4, LONG)?;

        let mut greedy = Peer::connect(self.alice.p2p_addr(), LONG)?;
        self.greedy = peer_id(&self.alice, &greedy)?;
        // One more than there may be (Bitcoin Core net_processing.cpp, `MAX_INV_SZ`), each of 36 bytes.
        let mut too_many = vec![0xfd];
        too_many.extend_from_slice(&50_001_u16.to_le_bytes());
        too_many.resize(3 + 50_001 * 36, 0);
        greedy.send("inv", &too_many)?;
        ensure!(greedy.wait_closed(LONG), "the node keeps a peer that sends too many inventories");
        Ok(())
    }

    /// Mines a block of 3.8 MB and has a peer fetch it.
    fn mine_large_block(&mut self) -> Result<()> {
        let (split, coins) = coins::split(self.coin()?, LARGE, FEE);
        coins::send(&self.alice, &split)?;
        self.alice.rpc("generatetodescriptor", json!([1, ANYONE]))?;
        for coin in coins {
            coins::send(&self.alice, &coins::spend_large(coin, FEE * 10))?;
        }
        let hashes = self.alice.rpc("generatetodescriptor", json!([1, ANYONE]))?;
        let hash: bitcoin::BlockHash = hashes[0].as_str().context("no block was mined")?.parse()?;
        self.sync()?;
        // One entry: a block with witnesses (BIP 144, MSG_WITNESS_BLOCK).
        let mut wanted = vec![1];
        wanted.extend_from_slice(&0x4000_0002_u32.to_le_bytes());
        wanted.extend_from_slice(bitcoin::hashes::Hash::as_byte_array(&hash));
        self.peers[2].send("getdata", &wanted)?;
        self.peers[2].wait_for("block", LONG)?;
        Ok(())
    }
}

/// A node that is told its chain in bitcoin.conf alone.
struct Third {
    process: Process,
    datadir: tempfile::TempDir,
}

impl Third {
    fn start(program: &Path) -> Result<Self> {
        let datadir = tempfile::TempDir::with_prefix("bitcoind-conf-")?;
        let port = peer_observer_testkit::free_port()?;
        let conf = format!(
            "chain=regtest\n[regtest]\nbind=127.0.0.1:{port}\nserver=0\nlistenonion=0\ndnsseed=0\nfixedseeds=0\n"
        );
        fs::write(datadir.path().join("bitcoin.conf"), conf)?;
        let mut command = Command::new(program);
        command.arg(format!("-datadir={}", datadir.path().display()));
        Ok(Third { process: Process::spawn(command)?, datadir })
    }
}

/// Waits until `condition` holds.
fn wait(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut outcome = Ok(false);
    peer_observer_testkit::wait_until(LONG, || {
        outcome = condition();
        !matches!(outcome, Ok(false))
    });
    ensure!(outcome.with_context(|| format!("waiting for {what}"))?, "waited in vain for {what}");
    Ok(())
}

fn is_connected(node: &RealNode, transport: &str) -> Result<bool> {
    let peers = node.rpc("getpeerinfo", json!([]))?;
    let mut peers = peers.as_array().context("getpeerinfo: no list")?.iter();
    // After the handshake there is at least one ping in each direction.
    Ok(peers.any(|peer| {
        peer["transport_protocol_type"] == transport && peer["bytesrecv_per_msg"]["pong"].is_u64()
    }))
}

fn peer_id(node: &RealNode, peer: &Peer) -> Result<u64> {
    let addr = peer.local_addr()?.to_string();
    let peers = node.rpc("getpeerinfo", json!([]))?;
    let mut peers = peers.as_array().context("getpeerinfo: no list")?.iter();
    peers.find(|peer| peer["addr"] == *addr).and_then(|peer| peer["id"].as_u64()).context("the peer is gone")
}

/// A moment at which nothing happened for a while.
struct Quiet {
    peerinfo: Value,
    events: Vec<Arc<Event>>,
}

/// Waits until a node and its events stand still.
fn wait_for_quiet(watch: &Watch, node: &RealNode, name: &str, mark: usize) -> Result<Quiet> {
    let deadline = Instant::now() + QUIET_TIMEOUT;
    let traffic = |peerinfo: &Value| -> Vec<Value> {
        let peers = peerinfo.as_array().into_iter().flatten();
        peers.map(|peer| json!([peer["id"], peer["bytesrecv"], peer["bytessent"]])).collect()
    };
    let mut before = (node.rpc("getpeerinfo", json!([]))?, watch.since(mark, name).len());
    while Instant::now() < deadline {
        std::thread::sleep(QUIET);
        let peerinfo = node.rpc("getpeerinfo", json!([]))?;
        let events = watch.since(mark, name);
        if traffic(&before.0) == traffic(&peerinfo) && before.1 == events.len() {
            return Ok(Quiet { peerinfo, events });
        }
        before = (peerinfo, events.len());
    }
    bail!("{name} was not quiet for {QUIET:?} within {QUIET_TIMEOUT:?}")
}

/// Waits until a dead node's last events are there; tells how many there are of all nodes.
fn wait_for_silence(watch: &Watch, name: &str, mark: usize) -> Result<usize> {
    let mut before = usize::MAX;
    wait("the last events", || {
        std::thread::sleep(QUIET / 2);
        let now = watch.since(mark, name).len();
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    Ok(watch.mark())
}

/// Compares all that there is at a quiet point of the first node's first life.
fn compare_all(
    report: &mut Report,
    watch: &Watch,
    town: &Town,
    name: &str,
    mark: usize,
    when: &str,
) -> Result<Quiet> {
    let quiet = compare_life(report, watch, town, mark, when)?;
    let (seen, differences) = state::mempool(&town.alice, &quiet.events)?;
    report.check(format!("{name}, {when}: mempool with vsizes and fees, getrawmempool"), seen, differences);
    let (seen, differences) = state::blocks(&town.alice, &quiet.events)?;
    report.check(
        format!("{name}, {when}: blocks connected, in order, with transactions and inputs, getblockstats"),
        seen,
        differences,
    );
    Ok(quiet)
}

/// Compares what begins anew when a node does: bytes and connections.
fn compare_life(report: &mut Report, watch: &Watch, town: &Town, mark: usize, when: &str) -> Result<Quiet> {
    let quiet = wait_for_quiet(watch, &town.alice, "alice", mark)?;
    compare_traffic(report, &quiet, &format!("alice, {when}"), &town.unseen)?;
    Ok(quiet)
}

fn compare_traffic(
    report: &mut Report,
    quiet: &Quiet,
    when: &str,
    unseen: &BTreeMap<String, u64>,
) -> Result<()> {
    let bytes = bytes::compare(&quiet.peerinfo, &quiet.events, &UNKNOWN_TYPES, unseen)?;
    let peers: Vec<String> = bytes.peers.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    report.check(
        format!("{when}: bytes by peer, direction and message type, getpeerinfo"),
        format!(
            "{} sums of {} messages and {} bytes, peers: {}",
            bytes.sums,
            bytes.messages,
            bytes.bytes,
            peers.join(", ")
        ),
        bytes.differences,
    );
    let (seen, differences) = state::connections(&quiet.peerinfo, &quiet.events)?;
    report.check(format!("{when}: connections with address and type, getpeerinfo"), seen, differences);
    Ok(())
}

fn compare_bob(report: &mut Report, watch: &Watch, town: &Town) -> Result<()> {
    let quiet = wait_for_quiet(watch, &town.bob, "bob", 0)?;
    compare_traffic(report, &quiet, "bob, the other end", &BTreeMap::new())?;
    let (seen, differences) = state::mempool(&town.bob, &quiet.events)?;
    report.check("bob, the other end: mempool with vsizes and fees, getrawmempool", seen, differences);
    let (seen, differences) = state::blocks(&town.bob, &quiet.events)?;
    report.check("bob, the other end: blocks connected, getblockstats", seen, differences);
    Ok(())
}

/// Compares what was refused, and what cannot be decoded.
fn compare_nonsense(report: &mut Report, town: &Town, quiet: &Quiet) {
    let seen = state::rejections(&quiet.events);
    let differences = town
        .rejected
        .iter()
        // RPC puts details behind the reason.
        .filter(|(txid, message)| !seen.get(*txid).is_some_and(|reason| message.starts_with(reason.as_str())))
        .map(|(txid, message)| format!("{txid}: node {message:?}, events {:?}", seen.get(txid)))
        .collect();
    let reasons: Vec<_> = town.rejected.keys().filter_map(|txid| seen.get(txid)).cloned().collect();
    report.check("reasons of refused transactions, sendrawtransaction", reasons.join("; "), differences);

    let misbehaving = state::misbehaving(&quiet.events);
    let reason = misbehaving.get(&town.greedy).cloned().unwrap_or_default();
    let differences = match reason.contains("50001") {
        true => Vec::new(),
        false => vec![format!("peer {}: {misbehaving:?}", town.greedy)],
    };
    report.check("a peer that sends too many inventories", reason, differences);

    let peer = peer_id(&town.alice, &town.peers[0]).unwrap_or(u64::MAX);
    let malformed = state::malformed(&quiet.events, peer);
    let differences = MALFORMED
        .iter()
        .filter(|(message_type, _)| !malformed.contains_key(*message_type))
        .map(|(message_type, _)| format!("{message_type}: no decode error"))
        .collect();
    let seen: Vec<String> = malformed.iter().map(|(kind, error)| format!("{kind}: {error}")).collect();
    report.check("malformed messages", seen.join("; "), differences);
}

fn compare_large(report: &mut Report, quiet: &Quiet) {
    let largest = state::largest_message(&quiet.events);
    let (seen, differences) = match &largest {
        Some((kind, size, 0)) if *size > 3_500_000 => {
            (format!("{kind} of {size} bytes, captured in full"), vec![])
        }
        other => (String::new(), vec![format!("largest message: {other:?}")]),
    };
    report.check("the largest message", seen, differences);
}

/// gettxoutsetinfo writes the UTXO set to disk first.
fn compare_flush(report: &mut Report, watch: &Watch, town: &Town) -> Result<()> {
    let mark = watch.mark();
    town.alice.rpc("gettxoutsetinfo", json!([]))?;
    wait_for_silence(watch, "alice", mark)?;
    let (seen, differences) = state::flushes(&watch.since(mark, "alice"));
    report.check("alice: the UTXO set written at gettxoutsetinfo", seen, differences);
    Ok(())
}

/// Stops the first node, which writes the UTXO set; tells where the events of its next life begin.
fn compare_stop(report: &mut Report, watch: &Watch, town: &mut Town) -> Result<usize> {
    let mark = watch.mark();
    town.alice.stop()?;
    let next = wait_for_silence(watch, "alice", mark)?;
    let (seen, differences) = state::flushes(&watch.since(mark, "alice"));
    report.check("alice: the UTXO set written at its stop", seen, differences);
    Ok(next)
}

/// More peers than the first node has room for.
fn compare_crowd(report: &mut Report, watch: &Watch, town: &Town) -> Result<()> {
    let crowd: Vec<Peer> =
        (0..CROWD).map(|_| Peer::connect(town.alice.p2p_addr(), LONG)).collect::<Result<_, _>>()?;
    let quiet = wait_for_quiet(watch, &town.alice, "alice", 0)?;
    compare_traffic(report, &quiet, "alice, crowded", &town.unseen)?;
    let (seen, differences) = state::evictions(&quiet.peerinfo, &quiet.events);
    report.check("alice, crowded: evicted peers are gone, getpeerinfo", seen, differences);
    drop(crowd);
    Ok(())
}

/// Puts a new file in the place of a node's program, as an upgrade does.
fn replace_program(node: &RealNode) -> Result<()> {
    let (program, new) = (node.program(), node.program().with_extension("new"));
    fs::copy(&program, &new)
        .and_then(|_| fs::rename(&new, &program))
        .with_context(|| format!("replacing {}", program.display()))
}

/// Ends the extractor and compares its books with what arrived.
fn close_books(report: &mut Report, watch: Watch) -> Result<()> {
    let ended = watch.finish()?;
    let mut sums: BTreeMap<(String, String), [u64; 4]> = BTreeMap::new();
    for ((node, _), books) in ended.books() {
        for book in &books.tracepoints {
            let sum = sums.entry((node.clone(), book.tracepoint.clone())).or_default();
            for (sum, count) in sum.iter_mut().zip([book.hits, book.published, book.dropped, book.unread]) {
                *sum += count;
            }
        }
    }
    let arrived = ended.arrived();
    let mut unbalanced = Vec::new();
    let mut missing = Vec::new();
    let mut rows = Vec::new();
    for ((node, tracepoint), [hits, published, dropped, unread]) in &sums {
        let got = arrived.get(&(node.clone(), tracepoint)).copied().unwrap_or_default();
        if *hits != published + dropped {
            unbalanced
                .push(format!("{node} {tracepoint}: {hits} hits, {published} published, {dropped} dropped"));
        }
        if *published != got {
            missing.push(format!("{node} {tracepoint}: {published} published, {got} arrived"));
        }
        let numbers = [hits, published, dropped, unread, &got].map(u64::to_string);
        rows.push([vec![node.clone(), tracepoint.clone()], numbers.to_vec()].concat());
    }
    for (node, tracepoint) in arrived.keys() {
        if !sums.contains_key(&(node.clone(), (*tracepoint).to_owned())) {
            missing.push(format!("{node} {tracepoint}: in no books"));
        }
    }
    let hits: u64 = sums.values().map(|sum| sum[0]).sum();
    report.check("books of the extractor: hits = published + dropped", format!("{hits} hits"), unbalanced);
    report.check(
        "events that arrived over NATS = published",
        format!("{} events", arrived.values().sum::<u64>()),
        missing,
    );
    let losses = ended.losses();
    let lost: u64 = losses.iter().map(|loss| loss.count).sum::<u64>() + ended.lost_transport;
    report.check("losses", lost.to_string(), losses.iter().map(|loss| format!("{loss:?}")).collect());
    report.table(Table {
        title: "Books",
        header: &["node", "tracepoint", "hits", "published", "dropped", "unread arguments", "arrived"],
        rows,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_real_node_is_what_it_says_itself() {
        if let Err(missing) = missing() {
            eprintln!("skipped: {missing}");
            return;
        }
        let report = check(Duration::from_secs(45)).unwrap();
        assert_eq!(report.failed(), Vec::<&str>::new(), "{}", report.markdown());
    }
}
