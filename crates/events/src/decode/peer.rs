//! What peers tell each other about themselves and about what they have: version, inventory, locators, small settings.

use bytes::Bytes;

use super::address;
use super::reader::{HASH, Malformed, Reader};
use crate::proto::bitcoin_primitives::inventory_item::Item;
use crate::proto::bitcoin_primitives::{InventoryItem, UnknownItem};
use crate::proto::ebpf_extractor::message::reject::RejectReason;
use crate::proto::ebpf_extractor::message::{
    Alert, FeeFilter, GetBlocks, GetData, GetHeaders, Inv, NotFound, Ping, Pong, Reject, SendCompact, Version,
};

/// Longest user agent that Core reads, bytes (`MAX_SUBVERSION_LENGTH`, net.h).
const USER_AGENT: usize = 256;
/// Longest command (BIP 61, and the message header).
const COMMAND: usize = 12;
/// Longest text in a `reject` (`MAX_REJECT_MESSAGE_LENGTH` of Core until 0.20).
const REJECT_TEXT: usize = 111;

pub(super) fn ping(r: &mut Reader) -> Result<Ping, Malformed> {
    Ok(Ping { value: r.u64()? })
}

pub(super) fn pong(r: &mut Reader) -> Result<Pong, Malformed> {
    Ok(Pong { value: r.u64()? })
}

pub(super) fn feefilter(r: &mut Reader) -> Result<FeeFilter, Malformed> {
    Ok(FeeFilter { fee: r.i64()? })
}

pub(super) fn sendcmpct(r: &mut Reader) -> Result<SendCompact, Malformed> {
    Ok(SendCompact { send_compact: r.u8()? != 0, version: r.u64()? })
}

/// Core also reads a version that ends after the receiver, as the first releases sent it; the schema requires the rest.
pub(super) fn version(r: &mut Reader) -> Result<Version, Malformed> {
    Ok(Version {
        version: r.u32()?,
        services: r.u64()?,
        timestamp: r.i64()?,
        receiver: address::legacy(r, 0)?,
        sender: address::legacy(r, 0)?,
        nonce: r.u64()?,
        user_agent: r.text("user agent", USER_AGENT)?,
        start_height: r.i32()?,
        // BIP 37: a peer that says nothing wants transactions.
        relay: r.left() == 0 || r.u8()? != 0,
    })
}

pub(super) fn inv(r: &mut Reader) -> Result<Inv, Malformed> {
    Ok(Inv { items: inventory(r)? })
}

pub(super) fn getdata(r: &mut Reader) -> Result<GetData, Malformed> {
    Ok(GetData { items: inventory(r)? })
}

pub(super) fn notfound(r: &mut Reader) -> Result<NotFound, Malformed> {
    Ok(NotFound { items: inventory(r)? })
}

fn inventory(r: &mut Reader) -> Result<Vec<InventoryItem>, Malformed> {
    r.list("entry", 4 + HASH, |r| {
        let inv_type = r.u32()?;
        let hash = r.hash()?;
        // Numbers: Core's enum GetDataMsg (protocol.h), BIP 144, BIP 152, BIP 339.
        let item = match inv_type {
            1 => Item::Transaction(hash),
            2 => Item::Block(hash),
            4 => Item::CompactBlock(hash),
            5 => Item::Wtx(hash),
            0x4000_0001 => Item::WitnessTransaction(hash),
            0x4000_0002 => Item::WitnessBlock(hash),
            _ => Item::Unknown(UnknownItem { inv_type, hash }),
        };
        Ok(InventoryItem { item: Some(item) })
    })
}

pub(super) fn getheaders(r: &mut Reader) -> Result<GetHeaders, Malformed> {
    let (version, locator_hashes, stop_hash) = locator(r)?;
    Ok(GetHeaders { version, locator_hashes, stop_hash })
}

pub(super) fn getblocks(r: &mut Reader) -> Result<GetBlocks, Malformed> {
    let (version, locator_hashes, stop_hash) = locator(r)?;
    Ok(GetBlocks { version, locator_hashes, stop_hash })
}

fn locator(r: &mut Reader) -> Result<(u32, Vec<Bytes>, Bytes), Malformed> {
    Ok((r.u32()?, r.list("hash", HASH, Reader::hash)?, r.hash()?))
}

/// BIP 61.
pub(super) fn reject(r: &mut Reader) -> Result<Reject, Malformed> {
    let rejected_command = r.text("rejected command", COMMAND)?;
    let reason = match r.u8()? {
        0x01 => RejectReason::Malformed,
        0x10 => RejectReason::Invalid,
        0x11 => RejectReason::Obsolete,
        0x12 => RejectReason::Duplicate,
        0x40 => RejectReason::Nonstandard,
        0x41 => RejectReason::Dust,
        0x42 => RejectReason::Fee,
        0x43 => RejectReason::Checkpoint,
        code => {
            return Err(Malformed::Value {
                what: "reject code",
                value: code.into(),
                wanted: "one of BIP 61",
            });
        }
    };
    let reason_details = r.text("reason", REJECT_TEXT)?;
    // BIP 61 has a hash for transactions and blocks only. Readers of the schema count on 32 bytes.
    let hash = if r.left() == 0 { Bytes::from_static(&[0; HASH]) } else { r.hash()? };
    Ok(Reject { rejected_command, reason: reason.into(), reason_details, hash })
}

/// The text of an alert; its signature, which is left over, has no place in the schema.
pub(super) fn alert(r: &mut Reader) -> Result<Alert, Malformed> {
    Ok(Alert { alert: r.var_bytes()? })
}
