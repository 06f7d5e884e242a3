//! From the payload of a P2P message to the schema's form of it.
//!
//! A busy node exchanges thousands of messages a second, so this goes over the payload once and straight to the generated
//! types: transactions, hashes and short ids are slices of the payload, nothing is copied but text.
//!
//! What counts as malformed is what Bitcoin Core fails to read (its `serialize.h`, `protocol.h`, `netaddress.h`,
//! `blockencodings.h`, `primitives/`), because then the node we watch could not make anything of the message either. Rules
//! that Core applies to a message it has read (at most 1,000 addresses, 50,000 inventory entries) are not ours: those
//! messages are decoded. For messages that Core does not read (`reject`, `alert`, `merkleblock`, `cfilter` and the like)
//! the BIPs decide.
//!
//! | file | messages |
//! |---|---|
//! | `reader` | none: integers, lists and hashes, each length checked |
//! | `peer` | version, inventory, locators, small settings |
//! | `address` | addr, addrv2 (BIP 155) |
//! | `block` | transactions, headers, blocks, compact blocks (BIP 152), merkle blocks |
//! | `filter` | bloom filters (BIP 37), compact filters (BIP 157) |

mod address;
mod block;
mod filter;
mod peer;
mod reader;

use bytes::Bytes;

use crate::proto::ebpf_extractor::message::Unknown;
use crate::proto::ebpf_extractor::message::message_event::Msg;
use reader::{Malformed, Reader};

/// A P2P message in the schema's form, and what was wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The message; `unknown` when the command is not known or the payload could not be read.
    pub msg: Msg,
    /// Why the payload could not be read, or how much of it is left over after the message. Short: at most a few hundred
    /// bytes, whatever the payload.
    pub error: Option<String>,
}

/// Decodes the payload of a P2P message into the schema's form.
///
/// Never fails: a message that cannot be read is an event too. Memory is bounded by a small multiple of the payload.
pub fn decode(command: &str, payload: Bytes) -> Decoded {
    let mut reader = Reader::new(payload);
    match message(command, &mut reader) {
        Ok(Some(msg)) => Decoded { msg, error: left_over(reader.left()) },
        Ok(None) => Decoded { msg: unknown(command, reader), error: None },
        Err(err) => Decoded { msg: unknown(command, reader), error: Some(format!("{command}: {err}")) },
    }
}

/// The message, or `None` if the command is not one of the schema's.
fn message(command: &str, r: &mut Reader) -> Result<Option<Msg>, Malformed> {
    let msg = match command {
        "inv" => Msg::Inv(peer::inv(r)?),
        "tx" => Msg::Tx(block::tx(r)?),
        "getdata" => Msg::Getdata(peer::getdata(r)?),
        // Before BIP 31 a ping was empty.
        "ping" if r.left() == 0 => Msg::Oldping(true),
        "ping" => Msg::Ping(peer::ping(r)?),
        "pong" => Msg::Pong(peer::pong(r)?),
        "headers" => Msg::Headers(block::headers(r)?),
        "getheaders" => Msg::Getheaders(peer::getheaders(r)?),
        "addr" => Msg::Addr(address::addr(r)?),
        // Not even a count: seen on the network often enough to have a form of its own.
        "addrv2" if r.left() == 0 => Msg::Emptyaddrv2(true),
        "addrv2" => Msg::Addrv2(address::addrv2(r)?),
        "cmpctblock" => Msg::Compactblock(block::cmpctblock(r)?),
        "getblocktxn" => Msg::Getblocktxn(block::getblocktxn(r)?),
        "blocktxn" => Msg::Blocktxn(block::blocktxn(r)?),
        "block" => Msg::Block(block::block(r)?),
        "notfound" => Msg::Notfound(peer::notfound(r)?),
        "feefilter" => Msg::Feefilter(peer::feefilter(r)?),
        "version" => Msg::Version(peer::version(r)?),
        "sendcmpct" => Msg::Sendcompact(peer::sendcmpct(r)?),
        "getblocks" => Msg::Getblocks(peer::getblocks(r)?),
        "reject" => Msg::Reject(peer::reject(r)?),
        "alert" => Msg::Alert(peer::alert(r)?),
        "merkleblock" => Msg::Merkleblock(block::merkleblock(r)?),
        "filteradd" => Msg::Filteradd(filter::filteradd(r)?),
        "filterload" => Msg::Filterload(filter::filterload(r)?),
        "getcfilters" => Msg::Getcfilter(filter::getcfilters(r)?),
        "cfilter" => Msg::Cfilter(filter::cfilter(r)?),
        "getcfheaders" => Msg::Getcfheaders(filter::getcfheaders(r)?),
        "cfheaders" => Msg::Cfheaders(filter::cfheaders(r)?),
        "getcfcheckpt" => Msg::Getcfcheckpt(filter::getcfcheckpt(r)?),
        "cfcheckpt" => Msg::Cfcheckpt(filter::cfcheckpt(r)?),
        "verack" => Msg::Verack(true),
        "sendheaders" => Msg::Sendheaders(true),
        "getaddr" => Msg::Getaddr(true),
        "mempool" => Msg::Mempool(true),
        "wtxidrelay" => Msg::Wtxidrelay(true),
        "sendaddrv2" => Msg::Sendaddrv2(true),
        "filterclear" => Msg::Filterclear(true),
        _ => return Ok(None),
    };
    Ok(Some(msg))
}

fn unknown(command: &str, reader: Reader) -> Msg {
    Msg::Unknown(Unknown { command: command.to_owned(), payload: reader.into_payload() })
}

fn left_over(bytes: usize) -> Option<String> {
    match bytes {
        0 => None,
        1 => Some("1 byte left over after the message".to_owned()),
        _ => Some(format!("{bytes} bytes left over after the message")),
    }
}

#[cfg(test)]
mod tests;
