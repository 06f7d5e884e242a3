//! What a node says to us, and what we say to it: messages to events and answers, without I/O.
//!
//! What a peer hears of new blocks depends on what it asks for and on what the node thinks it knows. We ask for compact blocks
//! without waiting (BIP 152, high bandwidth), the first sign of a block that a node gives. The node does so only to who has the block
//! before it (Bitcoin Core net_processing.cpp, `NewPoWValidBlock`), else it falls back to inv. So we ask for the headers that
//! follow what we heard of last, and throw them away: then it takes us for up to date.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::decode::decode;
use peer_observer_events::proto::bitcoin_primitives::InventoryItem;
use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::observer::block_announced::Via;
use peer_observer_events::proto::observer::p2p_extra::P2pEvent as ExtraEvent;
use peer_observer_events::proto::observer::peer_info::Transport;
use peer_observer_events::proto::observer::{BlockAnnounced, P2pExtra, PeerInfo};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::proto::p2p_extractor::{
    AddressAnnouncement, InventoryAnnouncement, P2p, PingDuration,
};
use peer_observer_node::p2p::handshake::{self, Handshake, PROTOCOL_VERSION, Step};
use peer_observer_node::p2p::{self, Encoder, Message};

use super::Config;

/// How we name ourselves (BIP 14).
const USER_AGENT: &str = concat!("/peer-observer:", env!("CARGO_PKG_VERSION"), "/");
/// Pings that are remembered. A node so far behind answers old ones first.
const MAX_PINGS: usize = 128;
/// Most addresses in a message (Bitcoin Core net_processing.cpp, `MAX_ADDR_TO_SEND`).
const MAX_ADDRESSES: usize = 1_000;
/// Most entries in an inv (Bitcoin Core net_processing.cpp, `MAX_INV_SZ`).
const MAX_INVENTORY: usize = 50_000;
/// Most headers in a message (Bitcoin Core net_processing.h, `MAX_HEADERS_RESULTS`).
const MAX_HEADERS: usize = 2_000;
/// Blocks that are announced together (Bitcoin Core net_processing.cpp, `MAX_BLOCKS_TO_ANNOUNCE`). More are no announcement.
const MAX_ANNOUNCED: usize = 8;
/// Version of compact blocks that have witnesses (BIP 152).
const COMPACT_BLOCKS_VERSION: u64 = 2;

/// Why a node is not listened to any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It breaks the rules of the protocol.
    #[error(transparent)]
    Protocol(#[from] p2p::Error),
    /// A message has more entries than any may have.
    #[error("its {msg_type} has {entries} entries, more than {limit}")]
    TooMany { msg_type: &'static str, entries: usize, limit: usize },
}

/// What comes of messages, until it is sent and published.
pub(super) struct Outcome {
    encoder: Encoder,
    /// Bytes for the node.
    pub(super) answer: Vec<u8>,
    /// Events, in order.
    pub(super) events: Vec<PeerObserverEvent>,
    /// Messages of which no event could be made.
    pub(super) malformed: u64,
}

impl Outcome {
    pub(super) fn new(encoder: Encoder) -> Self {
        Outcome { encoder, answer: Vec::new(), events: Vec::new(), malformed: 0 }
    }

    fn send(&mut self, msg_type: &str, payload: &[u8]) {
        self.encoder.encode(msg_type, payload, &mut self.answer);
    }

    fn tell(&mut self, event: P2pEvent) {
        self.events.push(PeerObserverEvent::P2pExtractor(P2p { p2p_event: Some(event) }));
    }

    fn tell_extra(&mut self, event: ExtraEvent) {
        self.events.push(PeerObserverEvent::P2pExtra(P2pExtra { p2p_event: Some(event) }));
    }

    fn tell_blocks(&mut self, hashes: Vec<Bytes>, via: Via) {
        if hashes.len() > MAX_ANNOUNCED {
            return;
        }
        for hash in hashes {
            self.tell_extra(ExtraEvent::BlockAnnounced(BlockAnnounced { hash, via: via.into() }));
        }
    }
}

/// What the node was asked, when headers come that we only wanted it to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChainEnd {
    /// Where the node's chain ends is not known yet.
    Unknown,
    /// It was asked for what follows the block that it named; what it answers is not new.
    Asked,
    /// It thinks that we know its chain.
    Known,
}

/// A connection to a node, in messages.
pub(super) struct Session {
    disabled: Disabled,
    transport: Transport,
    handshake: Handshake,
    /// What it said in its version, until hands are shaken.
    info: Option<PeerInfo>,
    /// Nonces of pings, and when they were sent.
    pings: VecDeque<(u64, Instant)>,
    chain_end: ChainEnd,
}

/// Events that are not wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disabled {
    addresses: bool,
    inventory: bool,
    feefilter: bool,
}

impl From<&Config> for Disabled {
    fn from(config: &Config) -> Self {
        Disabled {
            addresses: config.disable_addrv2,
            inventory: config.disable_invs,
            feefilter: config.disable_feefilter,
        }
    }
}

impl Session {
    pub(super) fn new(disabled: Disabled, transport: Transport) -> Self {
        Session {
            disabled,
            transport,
            handshake: Handshake::default(),
            info: None,
            pings: VecDeque::new(),
            chain_end: ChainEnd::Unknown,
        }
    }

    /// Hands are shaken.
    pub(super) fn is_established(&self) -> bool {
        self.handshake.is_done()
    }

    /// Sends a ping, unless too many are unanswered.
    pub(super) fn ping(&mut self, now: Instant, outcome: &mut Outcome) {
        if self.pings.len() >= MAX_PINGS {
            return;
        }
        let nonce: u64 = rand::random();
        self.pings.push_back((nonce, now));
        outcome.send("ping", &nonce.to_le_bytes());
    }

    /// Takes a message that was received at `now`, `unix` since the UNIX epoch.
    pub(super) fn receive(
        &mut self,
        message: Message<'_>,
        now: Instant,
        unix: Duration,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        match self.handshake.receive(&message)? {
            Step::Answer { version } => self.answer(version, message, unix, outcome),
            Step::Nothing => Ok(()),
            Step::Done => {
                self.established(outcome);
                Ok(())
            }
            Step::Over => self.listen(message, now, outcome),
        }
    }

    fn answer(
        &mut self,
        version: i32,
        message: Message<'_>,
        unix: Duration,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let decoded = decode(message.msg_type, Bytes::copy_from_slice(message.payload));
        let Msg::Version(said) = decoded.msg else {
            let why = decoded.error.unwrap_or_default();
            return Err(p2p::Error::Version(format!("cannot be read: {why}")).into());
        };
        self.info = Some(PeerInfo {
            version: said.version,
            services: said.services,
            user_agent: said.user_agent,
            start_height: said.start_height,
            transport: self.transport.into(),
        });
        for (msg_type, payload) in handshake::answers(version, unix.as_secs(), rand::random(), USER_AGENT) {
            outcome.send(msg_type, &payload);
        }
        Ok(())
    }

    fn established(&mut self, outcome: &mut Outcome) {
        if let Some(info) = self.info.take() {
            outcome.tell_extra(ExtraEvent::PeerInfo(info));
        }
        let high_bandwidth = 1;
        let mut sendcmpct = vec![high_bandwidth];
        sendcmpct.extend_from_slice(&COMPACT_BLOCKS_VERSION.to_le_bytes());
        outcome.send("sendheaders", b"");
        outcome.send("sendcmpct", &sendcmpct);
    }

    fn listen(&mut self, message: Message<'_>, now: Instant, outcome: &mut Outcome) -> Result<(), Error> {
        match message.msg_type {
            "ping" => {
                // A ping without a nonce (before BIP 31) wants no answer.
                if let Some(nonce) = message.payload.first_chunk::<8>() {
                    outcome.send("pong", nonce);
                }
                return Ok(());
            }
            "pong" => {
                self.pong(message.payload, now, outcome);
                return Ok(());
            }
            "addr" | "addrv2" if self.disabled.addresses => return Ok(()),
            "feefilter" if self.disabled.feefilter => return Ok(()),
            "addr" | "addrv2" | "feefilter" | "inv" | "headers" | "cmpctblock" | "getheaders" => {}
            _ => return Ok(()),
        }
        let decoded = decode(message.msg_type, Bytes::copy_from_slice(message.payload));
        match decoded.msg {
            Msg::Addr(addr) => self.addresses(addr.addresses, outcome)?,
            Msg::Addrv2(addr) => self.addresses(addr.addresses, outcome)?,
            Msg::Emptyaddrv2(_) => self.addresses(Vec::new(), outcome)?,
            Msg::Feefilter(feefilter) => outcome.tell(P2pEvent::FeefilterAnnouncement(feefilter.fee)),
            Msg::Inv(inv) => self.inventory(inv.items, outcome)?,
            Msg::Headers(headers) => {
                let hashes: Vec<Bytes> = headers.headers.into_iter().map(|header| header.hash).collect();
                self.headers(hashes, outcome)?;
            }
            Msg::Compactblock(block) => outcome.tell_blocks(vec![block.header.hash], Via::Cmpctblock),
            Msg::Getheaders(asked) => self.asked_for_headers(asked.locator_hashes.first(), outcome),
            _ => {
                let why = decoded.error.unwrap_or_default();
                tracing::debug!(msg_type = message.msg_type, why, "cannot read a message");
                outcome.malformed += 1;
            }
        }
        Ok(())
    }

    fn pong(&mut self, payload: &[u8], now: Instant, outcome: &mut Outcome) {
        let Some(nonce) = payload.first_chunk().copied().map(u64::from_le_bytes) else { return };
        let Some(at) = self.pings.iter().position(|(sent, _)| *sent == nonce) else {
            tracing::debug!("a pong without a ping");
            return;
        };
        let (_, sent) = self.pings[at];
        // Answers come in order: what was sent before will not be answered any more.
        self.pings.drain(..=at);
        let duration = now.saturating_duration_since(sent).as_nanos() as u64;
        outcome.tell(P2pEvent::PingDuration(PingDuration { duration }));
    }

    fn addresses(
        &mut self,
        addresses: Vec<peer_observer_events::proto::bitcoin_primitives::Address>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        at_most("addr", addresses.len(), MAX_ADDRESSES)?;
        outcome.tell(P2pEvent::AddressAnnouncement(AddressAnnouncement { addresses }));
        Ok(())
    }

    fn inventory(&mut self, inventory: Vec<InventoryItem>, outcome: &mut Outcome) -> Result<(), Error> {
        at_most("inv", inventory.len(), MAX_INVENTORY)?;
        let blocks: Vec<Bytes> = inventory
            .iter()
            .filter_map(|entry| match entry.item.as_ref()? {
                Item::Block(hash) | Item::WitnessBlock(hash) | Item::CompactBlock(hash) => Some(hash.clone()),
                _ => None,
            })
            .collect();
        if let Some(last) = blocks.last() {
            ask_for_headers(last, outcome);
        }
        outcome.tell_blocks(blocks, Via::Inv);
        if !self.disabled.inventory {
            outcome.tell(P2pEvent::InventoryAnnouncement(InventoryAnnouncement { inventory }));
        }
        Ok(())
    }

    fn headers(&mut self, hashes: Vec<Bytes>, outcome: &mut Outcome) -> Result<(), Error> {
        at_most("headers", hashes.len(), MAX_HEADERS)?;
        if self.chain_end == ChainEnd::Asked {
            self.chain_end = ChainEnd::Known;
            return Ok(());
        }
        outcome.tell_blocks(hashes, Via::Headers);
        Ok(())
    }

    /// We have no headers to give, but the node says what it knows: we ask for what follows, once.
    fn asked_for_headers(&mut self, known: Option<&Bytes>, outcome: &mut Outcome) {
        outcome.send("headers", &[0]);
        if let (ChainEnd::Unknown, Some(known)) = (self.chain_end, known) {
            ask_for_headers(known, outcome);
            self.chain_end = ChainEnd::Asked;
        }
    }
}

/// Asks for the headers after a block.
fn ask_for_headers(after: &Bytes, outcome: &mut Outcome) {
    let mut getheaders = PROTOCOL_VERSION.to_le_bytes().to_vec();
    getheaders.push(1);
    getheaders.extend_from_slice(after);
    let no_stop = [0; 32];
    getheaders.extend_from_slice(&no_stop);
    outcome.send("getheaders", &getheaders);
}

fn at_most(msg_type: &'static str, entries: usize, limit: usize) -> Result<(), Error> {
    if entries > limit {
        return Err(Error::TooMany { msg_type, entries, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use peer_observer_node::p2p::{Network, v1};

    use super::*;

    #[test]
    fn a_ping_takes_from_its_start_until_its_own_pong_and_is_told_once() {
        let mut session = Session::new((&Config::default()).into(), Transport::V1);
        let mut outcome = Outcome::new(Encoder::V1(v1::Encoder::new(Network::Regtest)));
        let begin = Instant::now();
        let nonces = [0, 10_000, 20_000].map(|us| {
            outcome.answer.clear();
            session.ping(begin + Duration::from_micros(us), &mut outcome);
            outcome.answer[outcome.answer.len() - 8..].to_vec()
        });
        // Who answers the third will not answer the second any more.
        for (nonce, us) in [(0, 7_001), (0, 8_000), (2, 25_002), (1, 30_000)] {
            session.pong(&nonces[nonce], begin + Duration::from_micros(us), &mut outcome);
        }
        let told: Vec<u64> = outcome
            .events
            .iter()
            .map(|event| match event {
                PeerObserverEvent::P2pExtractor(P2p { p2p_event: Some(P2pEvent::PingDuration(ping)) }) => {
                    ping.duration
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [7_001_000, 5_002_000]);
    }
}
