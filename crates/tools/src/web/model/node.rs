//! A node: takes its events and keeps what views show of it.

use std::collections::VecDeque;
use std::time::Instant;

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::bitcoin_primitives::{InventoryItem, Transaction};
use peer_observer_events::proto::ebpf_extractor::connection::Connection;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event as ConnectionEvent;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::mempool::mempool_event::Event as MempoolEvent;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::validation::validation_event::Event as ValidationEvent;
use peer_observer_events::proto::ipc_extractor::ipc::IpcEvent;
use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::observer::rpc_extra::RpcEvent as RpcExtraEvent;
use peer_observer_events::proto::rpc_extractor::rpc::RpcEvent;
use peer_observer_events::proto::rpc_extractor::{AddrManInfo, BlockchainInfo, MempoolInfo, NetworkInfo};
use peer_observer_exporter::labels::bounded;

use super::Now;
use super::addresses::{AddrmanSummary, AddrmanSums, Gossip};
use super::blocks::{Blocks, Connected, Rebuilt, Via};
use super::clock::{Clock, Seen};
use super::log::Lines;
use super::message::{COMMANDS, Detail, OTHER, Record, command_index, hash};
use super::peers::{End, Hello, Peers, direction};
use super::series::Series;
use super::transactions::{MAX_ENTRIES, Transactions};
use crate::known::Known;

/// Messages that are kept for views: seconds of a flood, minutes otherwise.
const MAX_MESSAGES: usize = 32_768;
/// Notes that are kept.
const MAX_NOTES: usize = 300;
/// Headers in a message that announces blocks; more are an answer (Bitcoin Core src/net_processing.cpp, MAX_BLOCKS_TO_ANNOUNCE).
const MAX_ANNOUNCED_HEADERS: usize = 8;
/// Slots of the two histories, and their lengths, ns.
const FINE: (usize, u64) = (300, 1_000_000_000);
const COARSE: (usize, u64) = (360, 10_000_000_000);

/// What happened in a slot of time.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// Messages and bytes by direction (received, sent) and type.
    pub(crate) messages: [[u32; COMMANDS.len()]; 2],
    pub(crate) bytes: [u64; 2],
    /// Mempool: added, removed, replaced, rejected.
    pub(crate) mempool: [u32; 4],
    /// Connections: begun, ended, evicted, misbehaving.
    pub(crate) connections: [u32; 4],
}

impl Default for Slot {
    fn default() -> Self {
        Slot {
            messages: [[0; COMMANDS.len()]; 2],
            bytes: Default::default(),
            mempool: Default::default(),
            connections: Default::default(),
        }
    }
}

/// Something that is worth a line.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// Counts the notes of the node, from 1.
    pub(crate) number: u64,
    pub(crate) time_ns: u64,
    pub(crate) kind: &'static str,
    pub(crate) peer: Option<u64>,
    pub(crate) text: String,
}

/// What RPC says, the last of each.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) mempool: Option<MempoolInfo>,
    pub(crate) addrman: Option<AddrManInfo>,
    pub(crate) network: Option<NetworkInfo>,
    pub(crate) chain: Option<BlockchainInfo>,
    pub(crate) uptime_s: Option<u32>,
    /// When getpeerinfo was answered last, ns since the UNIX epoch.
    pub(crate) peers_ns: Option<u64>,
    pub(crate) addrman_tables: Option<AddrmanSummary>,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Box<str>,
    pub(crate) clock: Clock,
    /// The last five minutes, and the last hour.
    pub(crate) fine: Series<Slot>,
    pub(crate) coarse: Series<Slot>,
    pub(crate) peers: Peers,
    pub(crate) transactions: Transactions,
    pub(crate) blocks: Blocks,
    pub(crate) gossip: Gossip,
    pub(crate) log: Lines,
    pub(crate) told: Told,
    messages: VecDeque<Record>,
    message_count: u64,
    notes: VecDeque<Note>,
    note_count: u64,
    /// Height of the last block that was connected, and when that was, if it was seen.
    pub(crate) tip: Option<(i64, Option<u64>)>,
    addrman_sums: AddrmanSums,
}

impl Node {
    /// A node of which the first event just came.
    pub(crate) fn new(name: &str, time_ns: u64, now: Instant) -> Self {
        Node {
            name: name.into(),
            clock: Clock::new(time_ns, now),
            fine: Series::new(FINE.1, FINE.0),
            coarse: Series::new(COARSE.1, COARSE.0),
            peers: Peers::default(),
            transactions: Transactions::default(),
            blocks: Blocks::default(),
            gossip: Gossip::default(),
            log: Lines::default(),
            told: Told::default(),
            messages: VecDeque::new(),
            message_count: 0,
            notes: VecDeque::new(),
            note_count: 0,
            tip: None,
            addrman_sums: AddrmanSums::default(),
        }
    }

    /// Messages so far.
    pub(crate) fn messages(&self) -> u64 {
        self.message_count
    }

    /// Messages after that number, the first first, and the number of the first that is still there.
    pub(crate) fn messages_after(&self, number: u64) -> impl DoubleEndedIterator<Item = &Record> {
        let begin = self.messages.partition_point(|record| record.number <= number);
        self.messages.range(begin..)
    }

    /// The last notes, the last first.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().rev()
    }

    /// Takes an event.
    pub(crate) fn observe(&mut self, event: &PeerObserverEvent, known: &Known, time_ns: u64, now: Now) {
        // The log may be read from its beginning: its times say nothing about now.
        let time_ns = match event {
            PeerObserverEvent::LogExtractor(_) => {
                self.clock.hear(time_ns, now);
                time_ns
            }
            _ => match self.clock.see(time_ns, now.instant) {
                Seen::Follows(time_ns) => time_ns,
                Seen::Leapt(time_ns) => {
                    self.fine.clear();
                    self.coarse.clear();
                    time_ns
                }
            },
        };
        match event {
            PeerObserverEvent::EbpfExtractor(ebpf) => match &ebpf.ebpf_event {
                Some(EbpfEvent::Message(message)) => self.message(message, time_ns),
                Some(EbpfEvent::Connection(event)) => {
                    event.event.iter().for_each(|event| self.connection(event, time_ns));
                }
                Some(EbpfEvent::Mempool(event)) => {
                    event.event.iter().for_each(|event| self.mempool(event, time_ns));
                }
                Some(EbpfEvent::Validation(event)) => {
                    event.event.iter().for_each(|event| self.validation(event, time_ns));
                }
                Some(EbpfEvent::Addrman(_)) | None => {}
            },
            PeerObserverEvent::RpcExtractor(rpc) => {
                rpc.rpc_event.iter().for_each(|event| self.rpc(event, known, time_ns));
            }
            PeerObserverEvent::RpcExtra(rpc) => {
                if let Some(RpcExtraEvent::AddrmanPart(part)) = &rpc.rpc_event {
                    let snapshot = Some(part.snapshot);
                    let sums = self.addrman_sums.add(&part.addrman, known, snapshot, part.parts, time_ns);
                    self.told.addrman_tables = Some(sums);
                }
            }
            PeerObserverEvent::LogExtractor(log) => {
                self.log.add(log, time_ns);
                if let Some(LogEvent::CompactBlockReconstructedLog(line)) = &log.log_event
                    && let Some(hash) = from_hex(&line.block_hash)
                {
                    let rebuilt = Rebuilt {
                        prefilled: line.prefilled_txn_count,
                        mempool: line.mempool_txn_count,
                        extra: line.extra_pool_txn_count,
                        requested: line.requested_txn_count,
                    };
                    self.blocks.rebuilt(hash, rebuilt, time_ns);
                }
            }
            PeerObserverEvent::IpcExtractor(ipc) => {
                if let Some(IpcEvent::BlockTip(tip)) = &ipc.ipc_event {
                    self.tip = Some((tip.height.into(), Some(time_ns)));
                }
            }
            _ => {}
        }
    }

    fn slots(&mut self, time_ns: u64) -> [&mut Slot; 2] {
        [self.fine.at(time_ns), self.coarse.at(time_ns)]
    }

    fn note(&mut self, time_ns: u64, kind: &'static str, peer: Option<u64>, text: String) {
        self.note_count += 1;
        if self.notes.len() == MAX_NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { number: self.note_count, time_ns, kind, peer, text });
    }

    fn message(&mut self, event: &MessageEvent, time_ns: u64) {
        let meta = &event.meta;
        let command = command_index(&meta.command);
        for slot in self.slots(time_ns) {
            let way = direction(meta.inbound);
            slot.messages[way][command] += 1;
            slot.bytes[way] = slot.bytes[way].saturating_add(meta.size);
        }
        self.message_count += 1;
        let record = Record {
            number: self.message_count,
            time_ns,
            peer: meta.peer_id,
            inbound: meta.inbound,
            command: command as u8,
            size: meta.size,
            detail: Detail::of(event),
            name: (command == OTHER).then(|| bounded(&meta.command).into()),
            malformed: event.decode_error.is_some(),
        };
        self.peers.of(meta.peer_id, &meta.addr, meta.conn_type, time_ns).message(&record);
        if record.malformed {
            let text = format!("{}: {}", record.command(), record.detail);
            self.note(time_ns, "malformed", Some(meta.peer_id), text);
        }
        if let Some(msg) = &event.msg {
            self.content(msg, meta.peer_id, meta.inbound, time_ns);
        }
        if self.messages.len() == MAX_MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back(record);
    }

    fn content(&mut self, msg: &Msg, peer_id: u64, inbound: bool, time_ns: u64) {
        let Some(peer) = self.peers.open_mut(peer_id) else { return };
        match msg {
            Msg::Ping(ping) if inbound => peer.pings.came(ping.value, time_ns),
            Msg::Ping(ping) => peer.pings.sent(ping.value, time_ns),
            Msg::Pong(pong) if inbound => peer.pings.answered(pong.value, time_ns),
            Msg::Pong(pong) => peer.pings.answer_went(pong.value, time_ns),
            Msg::Version(version) if inbound => {
                peer.hello = Some(Hello {
                    version: version.version,
                    services: version.services,
                    user_agent: bounded(&version.user_agent).into(),
                    start_height: version.start_height,
                    relay: version.relay,
                });
            }
            Msg::Wtxidrelay(_) if inbound => peer.features.wtxidrelay = true,
            Msg::Sendaddrv2(_) if inbound => peer.features.sendaddrv2 = true,
            Msg::Sendheaders(_) if inbound => peer.features.sendheaders = true,
            Msg::Sendcompact(compact) if inbound => peer.features.high_bandwidth_from = compact.send_compact,
            Msg::Sendcompact(compact) => peer.features.high_bandwidth_to = compact.send_compact,
            Msg::Feefilter(filter) if inbound => peer.features.fee_filter = Some(filter.fee),
            Msg::Addr(addr) => self.addresses(&addr.addresses, peer_id, inbound, time_ns),
            Msg::Addrv2(addr) => self.addresses(&addr.addresses, peer_id, inbound, time_ns),
            Msg::Inv(inv) => self.inventory(&inv.items, peer_id, inbound, time_ns),
            Msg::Getdata(getdata) => self.getdata(&getdata.items, peer_id, inbound, time_ns),
            Msg::Notfound(notfound) => peer.relay.not_found += notfound.items.len() as u64,
            Msg::Tx(tx) => self.transaction(&tx.tx, peer_id, inbound, time_ns),
            Msg::Headers(headers) if inbound && headers.headers.len() <= MAX_ANNOUNCED_HEADERS => {
                let hashes = headers.headers.iter().filter_map(|header| hash(&header.hash));
                for hash in hashes.collect::<Vec<_>>() {
                    self.block_told(hash, peer_id, Via::Headers, time_ns);
                }
            }
            Msg::Compactblock(block) if inbound => {
                let Some(hash) = hash(&block.header.hash) else { return };
                self.block_told(hash, peer_id, Via::Compact, time_ns);
                let (short, whole) = (block.short_ids.len(), block.transactions.len());
                self.blocks.compact(hash, short as u32, whole as u32);
            }
            Msg::Block(block) if inbound => {
                if let Some(hash) = hash(&block.header.hash) {
                    self.block_told(hash, peer_id, Via::Block, time_ns);
                }
            }
            Msg::Getblocktxn(ask) if !inbound => {
                if let Some(hash) = hash(&ask.block_hash) {
                    self.blocks.misses(hash, ask.tx_indexes.len() as u32, peer_id, time_ns);
                }
            }
            Msg::Blocktxn(answer) if inbound => {
                if let Some(hash) = hash(&answer.block_hash) {
                    self.blocks.completed(hash, time_ns);
                }
            }
            _ => {}
        }
    }

    fn block_told(&mut self, hash: [u8; 32], peer: u64, via: Via, time_ns: u64) {
        if self.blocks.told(hash, peer, via, time_ns)
            && let Some(peer) = self.peers.open_mut(peer)
        {
            peer.relay.blocks_first += 1;
        }
    }

    fn addresses(
        &mut self,
        addresses: &[peer_observer_events::proto::bitcoin_primitives::Address],
        peer_id: u64,
        inbound: bool,
        time_ns: u64,
    ) {
        let Some(peer) = self.peers.open_mut(peer_id) else { return };
        if inbound {
            peer.relay.addresses_received += addresses.len() as u64;
            peer.relay.self_announced += self.gossip.received(addresses, peer_id, &peer.addr, time_ns);
        } else {
            peer.relay.addresses_sent += addresses.len() as u64;
            self.gossip.sent(addresses);
        }
    }

    fn inventory(&mut self, items: &[InventoryItem], peer_id: u64, inbound: bool, time_ns: u64) {
        let Some(peer) = self.peers.open_mut(peer_id) else { return };
        let mut told_of = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match &item.item {
                Some(Item::Transaction(bytes) | Item::Wtx(bytes)) => {
                    let count = if inbound { &mut peer.relay.tx_announced } else { &mut peer.relay.tx_told };
                    *count += 1;
                    let Some(hash) = hash(bytes).filter(|_| i < MAX_ENTRIES) else { continue };
                    if inbound {
                        let first = self.transactions.announced(hash, peer_id, time_ns);
                        peer.relay.tx_first += u64::from(first);
                    } else {
                        self.transactions.told(hash, time_ns);
                    }
                }
                Some(Item::Block(bytes)) if inbound && i < MAX_ANNOUNCED_HEADERS => {
                    told_of.extend(hash(bytes))
                }
                _ => {}
            }
        }
        for hash in told_of {
            self.block_told(hash, peer_id, Via::Inv, time_ns);
        }
    }

    fn getdata(&mut self, items: &[InventoryItem], peer_id: u64, inbound: bool, time_ns: u64) {
        let Some(peer) = self.peers.open_mut(peer_id) else { return };
        for (i, item) in items.iter().enumerate() {
            match &item.item {
                Some(Item::Transaction(bytes) | Item::Wtx(bytes) | Item::WitnessTransaction(bytes)) => {
                    let count = if inbound { &mut peer.relay.tx_asked_by } else { &mut peer.relay.tx_asked };
                    *count += 1;
                    let Some(hash) = hash(bytes).filter(|_| i < MAX_ENTRIES) else { continue };
                    if inbound {
                        self.transactions.asked_by(hash, time_ns);
                    } else {
                        self.transactions.asked(hash, peer_id, time_ns);
                    }
                }
                Some(Item::Block(bytes) | Item::WitnessBlock(bytes) | Item::CompactBlock(bytes))
                    if !inbound && i < MAX_ANNOUNCED_HEADERS =>
                {
                    hash(bytes).into_iter().for_each(|hash| self.blocks.asked(hash, peer_id, time_ns));
                }
                _ => {}
            }
        }
    }

    fn transaction(&mut self, tx: &Transaction, peer_id: u64, inbound: bool, time_ns: u64) {
        let Some(peer) = self.peers.open_mut(peer_id) else { return };
        let count = if inbound { &mut peer.relay.tx_received } else { &mut peer.relay.tx_sent };
        *count += 1;
        let (Some(wtxid), Some(txid)) = (hash(&tx.wtxid), hash(&tx.txid)) else { return };
        let not_first = if inbound {
            let whole = self.transactions.received(wtxid, txid, peer_id, time_ns);
            peer.relay.tx_unasked += u64::from(!whole.is_asked);
            whole.not_first
        } else {
            self.transactions.sent(wtxid, txid, time_ns)
        };
        self.was_not_first(not_first);
    }

    /// A peer was counted as the first to announce a transaction that was announced before, under its other id.
    fn was_not_first(&mut self, peer: Option<u64>) {
        if let Some(peer) = peer.and_then(|id| self.peers.any_mut(id)) {
            peer.relay.tx_first = peer.relay.tx_first.saturating_sub(1);
        }
    }

    fn begin(&mut self, conn: &Connection, time_ns: u64) {
        if self.peers.begin(conn.peer_id, &conn.addr, conn.conn_type, conn.network, time_ns) {
            self.transactions.restarted();
            self.blocks.restarted();
        }
    }

    fn connection(&mut self, event: &ConnectionEvent, time_ns: u64) {
        let (kind, id, text) = match event {
            ConnectionEvent::Inbound(event) => {
                self.begin(&event.conn, time_ns);
                (0, event.conn.peer_id, None)
            }
            ConnectionEvent::Outbound(event) => {
                self.begin(&event.conn, time_ns);
                (0, event.conn.peer_id, None)
            }
            ConnectionEvent::Closed(event) => {
                self.peers.close(event.conn.peer_id, time_ns, End::Closed);
                (1, event.conn.peer_id, None)
            }
            ConnectionEvent::InboundEvicted(event) => {
                self.peers.evict(event.conn.peer_id, time_ns);
                (2, event.conn.peer_id, None)
            }
            ConnectionEvent::Misbehaving(event) => {
                if let Some(peer) = self.peers.open_mut(event.id) {
                    peer.misbehaved += 1;
                    peer.misbehaviour = Some(bounded(&event.message).into());
                }
                (3, event.id, Some(bounded(&event.message).to_owned()))
            }
        };
        for slot in self.slots(time_ns) {
            slot.connections[kind] += 1;
        }
        let kind = ["connected", "closed", "evicted", "misbehaving"][kind];
        self.note(time_ns, kind, Some(id), text.unwrap_or_default());
    }

    fn mempool(&mut self, event: &MempoolEvent, time_ns: u64) {
        let kind = match event {
            MempoolEvent::Added(added) => {
                if let Some(txid) = hash(&added.txid) {
                    self.transactions.added(txid, added.vsize, added.fee, time_ns);
                }
                0
            }
            MempoolEvent::Removed(removed) => {
                if let Some(txid) = hash(&removed.txid) {
                    self.transactions.gone(txid, time_ns);
                }
                1
            }
            MempoolEvent::Replaced(replaced) => {
                if let Some(txid) = hash(&replaced.replaced_txid) {
                    self.transactions.gone(txid, time_ns);
                }
                let text =
                    format!("{} sat instead of {} sat", replaced.replacement_fee, replaced.replaced_fee);
                self.note(time_ns, "replaced", None, text);
                2
            }
            MempoolEvent::Rejected(rejected) => {
                if let Some(txid) = hash(&rejected.txid) {
                    self.transactions.rejected(txid, time_ns);
                }
                self.note(time_ns, "rejected", None, bounded(&rejected.reason).to_owned());
                3
            }
        };
        for slot in self.slots(time_ns) {
            slot.mempool[kind] += 1;
        }
    }

    fn validation(&mut self, event: &ValidationEvent, time_ns: u64) {
        let ValidationEvent::BlockConnected(block) = event;
        self.tip = Some((block.height.into(), Some(time_ns)));
        let text = format!("height {}, {} transactions", block.height, block.transactions);
        self.note(time_ns, "block", None, text);
        let Some(hash) = hash(&block.hash) else { return };
        let connected = Connected {
            time_ns,
            height: block.height,
            transactions: block.transactions,
            inputs: block.inputs,
            sigops: block.sigops,
            duration_ns: block.connection_time,
        };
        self.blocks.connected(hash, connected);
    }

    fn rpc(&mut self, event: &RpcEvent, known: &Known, time_ns: u64) {
        match event {
            RpcEvent::PeerInfos(infos) => {
                self.peers.infos(&infos.infos, time_ns);
                self.told.peers_ns = Some(time_ns);
            }
            RpcEvent::MempoolInfo(info) => self.told.mempool = Some(*info),
            RpcEvent::Uptime(uptime) => self.told.uptime_s = Some(*uptime),
            RpcEvent::AddrmanInfo(info) => self.told.addrman = Some(info.clone()),
            RpcEvent::NetworkInfo(info) => self.told.network = Some(info.clone()),
            RpcEvent::BlockchainInfo(info) => {
                let height = i64::from(info.blocks);
                // When the first one that is told came, nobody knows.
                self.tip = match self.tip {
                    Some((known, time)) if known == height => Some((known, time)),
                    Some(_) => Some((height, Some(time_ns))),
                    None => Some((height, None)),
                };
                self.told.chain = Some(info.clone());
            }
            RpcEvent::Addrman(addrman) => {
                self.told.addrman_tables = Some(self.addrman_sums.add(addrman, known, None, 1, time_ns));
            }
            _ => {}
        }
    }
}

/// A hash from hex in display order.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().rev().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_the_log_are_those_of_messages() {
        let hash = std::array::from_fn(|i| i as u8);
        assert_eq!(from_hex(&super::super::message::hex(&hash)), Some(hash));
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(from_hex(bad), None);
        }
    }
}
