//! Ours against the `bitcoin` crate: the same payloads decode, to the same values, in recordings and in damaged copies of
//! them. Where the two may differ is listed in [`excused`], with the reason.

use std::collections::{BTreeMap, HashSet};

use bitcoin::consensus::encode;
use bitcoin::hashes::{Hash as _, HashEngine as _, sha256d};
use bitcoin::p2p::message::{NetworkMessage, RawNetworkMessage};
use bitcoin::p2p::message_blockdata::Inventory;
use bitcoin::{Transaction, block};
use bytes::Bytes;
use peer_observer_events::decode::{Decoded, decode};
use peer_observer_events::proto::bitcoin_primitives as proto;
use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;

use crate::recording;

/// What the other implementation says of bytes after a message that it can read.
const EXTRA_BYTES: &str = "extra bytes after network message payload";

/// The other implementation's view, of a message with that payload.
fn theirs(command: &str, payload: &[u8]) -> Result<NetworkMessage, encode::Error> {
    let mut engine = sha256d::Hash::engine();
    engine.input(payload);
    let checksum = sha256d::Hash::from_engine(engine);

    let mut raw = vec![0; 4];
    raw.extend_from_slice(command.as_bytes());
    raw.resize(16, 0);
    raw.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    raw.extend_from_slice(&checksum[..4]);
    raw.extend_from_slice(payload);
    encode::deserialize::<RawNetworkMessage>(&raw).map(RawNetworkMessage::into_payload)
}

/// Whether the two may disagree here, and why.
fn excused(
    command: &str,
    ours: &Decoded,
    theirs: &Result<NetworkMessage, encode::Error>,
) -> Option<&'static str> {
    let error = ours.error.as_deref().unwrap_or_default();
    let read = match theirs {
        Ok(_) => true,
        Err(encode::Error::ParseFailed(theirs)) => *theirs == EXTRA_BYTES,
        Err(_) => false,
    };
    let at_end = matches!(theirs, Err(encode::Error::Io(_))) && ours.error.is_none();
    let reason = match theirs {
        _ if read && error.ends_with("more than 256") => "Core reads no longer user agent",
        _ if read && error.ends_with("more than 12") || error.ends_with("more than 111") => {
            "Core read no longer reject"
        }
        _ if read && error.ends_with("more than 4169") => "no block has a merkle tree of so many nodes",
        _ if read && error.ends_with("is not at most 65535") => "Core reads indexes of 16 bits",
        _ if read && error.ends_with("has none") => {
            "Core takes a transaction without inputs for one without witnesses"
        }
        Err(encode::Error::UnsupportedSegwitFlag(0)) => "Core reads a transaction without inputs and outputs",
        Err(encode::Error::ParseFailed(theirs)) => match *theirs {
            "String was not valid UTF8" => "Core reads any bytes as text",
            "first byte was not 0 or 1" => "Core reads any byte as a bool",
            "Headers message should not contain transactions" => "Core does not look at the count",
            "feefilter value out of range" => "Core reads it, then ignores it",
            "OnionCat address sent with IPv6 network id" => "Core reads it, then ignores it",
            "IPV4 wrapped address sent with IPv6 network id" => "Core reads it, then ignores it",
            "Invalid TorV2 address" => "Core does not know Tor v2 any more, so any length will do",
            "Invalid CJDNS address" if !error.contains("CJDNS") => "Core reads any 16 bytes as CJDNS",
            _ => return None,
        },
        _ if at_end && command == "version" => "relay may be absent (BIP 37)",
        _ if at_end && command == "reject" => "only blocks and transactions have a hash (BIP 61)",
        _ if at_end && matches!(ours.msg, Msg::Oldping(_) | Msg::Emptyaddrv2(_)) => "forms of their own",
        _ => return None,
    };
    Some(reason)
}

/// Panics unless ours and theirs agree on that payload. The reason if they need not.
fn compare(command: &str, payload: &[u8]) -> Option<&'static str> {
    let ours = decode(command, Bytes::copy_from_slice(payload));
    let theirs = theirs(command, payload);
    let reason = excused(command, &ours, &theirs);
    if reason.is_some() {
        return reason;
    }
    let context = || format!("{command} {payload:02x?}: ours {ours:?}, theirs {theirs:?}");
    let failed = matches!(ours.msg, Msg::Unknown(_)) && ours.error.is_some();
    match &theirs {
        Ok(message) => {
            assert_eq!(ours.error, None, "{}", context());
            assert!(same(&ours.msg, message), "{}", context());
        }
        Err(encode::Error::ParseFailed(EXTRA_BYTES)) => {
            assert!(!failed, "{}", context());
            let error = ours.error.as_deref().unwrap_or_default();
            let left: usize = error.split(' ').next().unwrap_or_default().parse().expect("bytes left over");
            // Without them theirs decodes too, to the same.
            let whole = &payload[..payload.len() - left];
            assert_eq!(decode(command, Bytes::copy_from_slice(whole)).msg, ours.msg, "{}", context());
            compare(command, whole);
        }
        Err(_) => assert!(failed, "{}", context()),
    }
    None
}

fn same_header(ours: &proto::BlockHeader, theirs: &block::Header) -> bool {
    ours.version == theirs.version.to_consensus()
        && ours.prev_blockhash == theirs.prev_blockhash.as_byte_array()[..]
        && ours.merkle_root == theirs.merkle_root.as_byte_array()[..]
        && ours.time == theirs.time
        && ours.bits == theirs.bits.to_consensus()
        && ours.nonce == theirs.nonce
        && ours.hash == theirs.block_hash().as_byte_array()[..]
}

fn same_transaction(ours: &proto::Transaction, theirs: &Transaction) -> bool {
    ours.txid == theirs.compute_txid().as_byte_array()[..]
        && ours.wtxid == theirs.compute_wtxid().as_byte_array()[..]
        && ours.raw.as_deref() == Some(encode::serialize(theirs).as_slice())
}

fn same_list<A, B>(ours: &[A], theirs: &[B], same: impl Fn(&A, &B) -> bool) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
}

fn same_hashes<H: AsRef<[u8]>>(ours: &[Bytes], theirs: &[H]) -> bool {
    same_list(ours, theirs, |ours, theirs| *ours == *theirs.as_ref())
}

fn same_item(ours: &proto::InventoryItem, theirs: &Inventory) -> bool {
    match (&ours.item, theirs) {
        (Some(Item::Transaction(ours)), Inventory::Transaction(theirs)) => {
            *ours == theirs.as_byte_array()[..]
        }
        (Some(Item::Block(ours)), Inventory::Block(theirs)) => *ours == theirs.as_byte_array()[..],
        (Some(Item::Wtx(ours)), Inventory::WTx(theirs)) => *ours == theirs.as_byte_array()[..],
        (Some(Item::WitnessTransaction(ours)), Inventory::WitnessTransaction(theirs)) => {
            *ours == theirs.as_byte_array()[..]
        }
        (Some(Item::WitnessBlock(ours)), Inventory::WitnessBlock(theirs)) => {
            *ours == theirs.as_byte_array()[..]
        }
        (Some(Item::CompactBlock(ours)), Inventory::CompactBlock(theirs)) => {
            *ours == theirs.as_byte_array()[..]
        }
        (Some(Item::Unknown(ours)), Inventory::Unknown { inv_type, hash }) => {
            ours.inv_type == *inv_type && ours.hash == hash[..]
        }
        _ => false,
    }
}

/// Whether a message has the same values in both forms. Addresses: all but their text, which the recorded events check.
fn same(ours: &Msg, theirs: &NetworkMessage) -> bool {
    use NetworkMessage as Theirs;
    match (ours, theirs) {
        (Msg::Version(ours), Theirs::Version(theirs)) => {
            ours.version == theirs.version
                && ours.services == theirs.services.to_u64()
                && ours.timestamp == theirs.timestamp
                && ours.receiver.services == theirs.receiver.services.to_u64()
                && ours.receiver.port == u32::from(theirs.receiver.port)
                && ours.sender.services == theirs.sender.services.to_u64()
                && ours.sender.port == u32::from(theirs.sender.port)
                && ours.nonce == theirs.nonce
                && ours.user_agent == theirs.user_agent
                && ours.start_height == theirs.start_height
                && ours.relay == theirs.relay
        }
        (Msg::Verack(true), Theirs::Verack)
        | (Msg::Sendheaders(true), Theirs::SendHeaders)
        | (Msg::Getaddr(true), Theirs::GetAddr)
        | (Msg::Mempool(true), Theirs::MemPool)
        | (Msg::Wtxidrelay(true), Theirs::WtxidRelay)
        | (Msg::Sendaddrv2(true), Theirs::SendAddrV2)
        | (Msg::Filterclear(true), Theirs::FilterClear) => true,
        (Msg::Ping(ours), Theirs::Ping(theirs)) => ours.value == *theirs,
        (Msg::Pong(ours), Theirs::Pong(theirs)) => ours.value == *theirs,
        (Msg::Feefilter(ours), Theirs::FeeFilter(theirs)) => ours.fee == *theirs,
        (Msg::Sendcompact(ours), Theirs::SendCmpct(theirs)) => {
            ours.send_compact == theirs.send_compact && ours.version == theirs.version
        }
        (Msg::Inv(ours), Theirs::Inv(theirs)) => same_list(&ours.items, theirs, same_item),
        (Msg::Getdata(ours), Theirs::GetData(theirs)) => same_list(&ours.items, theirs, same_item),
        (Msg::Notfound(ours), Theirs::NotFound(theirs)) => same_list(&ours.items, theirs, same_item),
        (Msg::Getheaders(ours), Theirs::GetHeaders(theirs)) => {
            ours.version == theirs.version
                && same_hashes(&ours.locator_hashes, &theirs.locator_hashes)
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
        }
        (Msg::Getblocks(ours), Theirs::GetBlocks(theirs)) => {
            ours.version == theirs.version
                && same_hashes(&ours.locator_hashes, &theirs.locator_hashes)
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
        }
        (Msg::Addr(ours), Theirs::Addr(theirs)) => {
            same_list(&ours.addresses, theirs, |ours, (time, theirs)| {
                ours.timestamp == *time
                    && ours.services == theirs.services.to_u64()
                    && ours.port == u32::from(theirs.port)
            })
        }
        (Msg::Addrv2(ours), Theirs::AddrV2(theirs)) => same_list(&ours.addresses, theirs, |ours, theirs| {
            ours.timestamp == theirs.time
                && ours.services == theirs.services.to_u64()
                && ours.port == u32::from(theirs.port)
        }),
        (Msg::Reject(ours), Theirs::Reject(theirs)) => {
            ours.rejected_command == theirs.message
                && ours.reason_details == theirs.reason
                && ours.hash == theirs.hash.as_byte_array()[..]
        }
        (Msg::Alert(ours), Theirs::Alert(theirs)) => ours.alert == theirs[..],
        (Msg::Tx(ours), Theirs::Tx(theirs)) => same_transaction(&ours.tx, theirs),
        (Msg::Headers(ours), Theirs::Headers(theirs)) => same_list(&ours.headers, theirs, same_header),
        (Msg::Block(ours), Theirs::Block(theirs)) => {
            same_header(&ours.header, &theirs.header)
                && same_list(&ours.transactions, &theirs.txdata, same_transaction)
        }
        (Msg::Blocktxn(ours), Theirs::BlockTxn(theirs)) => {
            ours.block_hash == theirs.transactions.block_hash.as_byte_array()[..]
                && same_list(&ours.transactions, &theirs.transactions.transactions, same_transaction)
        }
        (Msg::Compactblock(ours), Theirs::CmpctBlock(theirs)) => {
            let theirs = &theirs.compact_block;
            same_header(&ours.header, &theirs.header)
                && ours.nonce == theirs.nonce
                && same_hashes(&ours.short_ids, &theirs.short_ids)
                && same_list(&ours.transactions, &theirs.prefilled_txs, |ours, theirs| {
                    ours.diff_index == u32::from(theirs.idx) && same_transaction(&ours.tx, &theirs.tx)
                })
        }
        (Msg::Getblocktxn(ours), Theirs::GetBlockTxn(theirs)) => {
            ours.block_hash == theirs.txs_request.block_hash.as_byte_array()[..]
                && ours.tx_indexes == theirs.txs_request.indexes
        }
        (Msg::Merkleblock(ours), Theirs::MerkleBlock(theirs)) => {
            same_header(&ours.header, &theirs.header)
                && ours.num_transactions == theirs.txn.num_transactions()
                && ours.bits == *theirs.txn.bits()
                && same_hashes(&ours.hashes, theirs.txn.hashes())
        }
        (Msg::Filteradd(ours), Theirs::FilterAdd(theirs)) => ours.filter == theirs.data[..],
        (Msg::Filterload(ours), Theirs::FilterLoad(theirs)) => {
            ours.filter == theirs.filter[..]
                && ours.hash_funcs == theirs.hash_funcs
                && ours.tweak == theirs.tweak
                && ours.flags == theirs.flags as i32
        }
        (Msg::Getcfilter(ours), Theirs::GetCFilters(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.start_height == theirs.start_height
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
        }
        (Msg::Cfilter(ours), Theirs::CFilter(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.block_hash == theirs.block_hash.as_byte_array()[..]
                && ours.filter == theirs.filter[..]
        }
        (Msg::Getcfheaders(ours), Theirs::GetCFHeaders(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.start_height == theirs.start_height
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
        }
        (Msg::Cfheaders(ours), Theirs::CFHeaders(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
                && ours.previous_filter_header == theirs.previous_filter_header.as_byte_array()[..]
                && same_hashes(&ours.filter_hashes, &theirs.filter_hashes)
        }
        (Msg::Getcfcheckpt(ours), Theirs::GetCFCheckpt(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
        }
        (Msg::Cfcheckpt(ours), Theirs::CFCheckpt(theirs)) => {
            ours.filter_type == u32::from(theirs.filter_type)
                && ours.stop_hash == theirs.stop_hash.as_byte_array()[..]
                && same_hashes(&ours.filter_headers, &theirs.filter_headers)
        }
        (Msg::Unknown(ours), Theirs::Unknown { command, payload }) => {
            ours.command == command.as_ref() && ours.payload == payload[..]
        }
        _ => false,
    }
}

/// Different payloads of both recordings; `mempool`, which they lack, and a few that they have in one form only.
fn payloads() -> Vec<(String, Bytes)> {
    let mut seen = HashSet::new();
    let recorded = ["regtest-tour", "regtest-busy"].into_iter().flat_map(recording::messages);
    let mut payloads: Vec<_> = recorded
        .map(|hit| (hit.command, hit.payload))
        .filter(|payload| seen.insert(payload.clone()))
        .collect();
    payloads.push(("mempool".to_owned(), Bytes::new()));
    payloads
}

/// xorshift64*, so that every run damages the same bits.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

#[test]
fn recorded_payloads_decode_as_with_the_bitcoin_crate() {
    for (command, payload) in payloads() {
        compare(&command, &payload);
    }
}

#[test]
fn damaged_payloads_decode_exactly_when_they_do_with_the_bitcoin_crate() {
    /// Payloads of a command and a length that are damaged.
    const OF_A_KIND: usize = 3;
    /// Longest payload that is damaged, bytes.
    const LONGEST: usize = 800;
    let mut kinds: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let mut random = Random(0x5eed);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut compared = 0;

    for (command, payload) in payloads() {
        let kind = kinds.entry((command.clone(), payload.len())).or_default();
        *kind += 1;
        if *kind > OF_A_KIND || payload.len() > LONGEST {
            continue;
        }
        let mut damaged: Vec<Vec<u8>> = (0..payload.len()).map(|length| payload[..length].to_vec()).collect();
        damaged.push([&payload[..], &[0]].concat());
        for _ in 0..payload.len().min(300) {
            let mut copy = payload.to_vec();
            let at = random.below(copy.len());
            copy[at] ^= 1 << random.below(8);
            // Counts and lengths are where it matters, and they have special values.
            if random.below(3) == 0 {
                let at = random.below(copy.len().min(120));
                copy[at] = [0x00, 0x01, 0xfc, 0xfd, 0xfe, 0xff][random.below(6)];
            }
            damaged.push(copy);
        }
        for payload in damaged {
            if let Some(reason) = compare(&command, &payload) {
                *reasons.entry(reason).or_default() += 1;
            }
            compared += 1;
        }
    }

    assert!(compared > 10_000, "compared {compared}");
    let excused: usize = reasons.values().sum();
    eprintln!("{excused} of {compared}: {reasons:?}");
    assert!(excused * 20 < compared, "{excused} of {compared} excused: {reasons:?}");
}
