//! P2P messages. The words are the public peer-observer's, also where they differ from the message's type (`old_ping`).

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Hash, Hex, List};
use crate::proto::ebpf_extractor::message::message_event::Msg;
use crate::proto::ebpf_extractor::message::{
    Addr, AddrV2, Alert, Block, BlockTxn, CFilter, CfCheckpt, CfHeaders, CompactBlock, FeeFilter, FilterAdd,
    FilterLoad, GetBlockTxn, GetBlocks, GetCFilter, GetCfCheckpt, GetCfHeaders, GetData, GetHeaders, Headers,
    Inv, MerkleBlock, MessageEvent, NotFound, Ping, Pong, Reject, SendCompact, Tx, Unknown, Version,
};

impl fmt::Display for MessageEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.meta.inbound { "<-- from" } else { "--> to" };
        write!(f, "{direction} id={} (conn_type={}): ", self.meta.peer_id, self.meta.conn_type)?;
        match &self.msg {
            Some(msg) => msg.fmt(f)?,
            None => f.write_str(EMPTY)?,
        }
        if let Some(error) = &self.decode_error {
            write!(f, " [decode error: {}]", Escaped(error))?;
        }
        if let Some(captured) = self.captured {
            write!(f, " [captured {captured} of {} bytes]", self.meta.size)?;
        }
        Ok(())
    }
}

impl fmt::Display for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Msg::Ping(msg) => msg.fmt(f),
            Msg::Pong(msg) => msg.fmt(f),
            Msg::Inv(msg) => msg.fmt(f),
            Msg::Getdata(msg) => msg.fmt(f),
            Msg::Tx(msg) => msg.fmt(f),
            Msg::Headers(msg) => msg.fmt(f),
            Msg::Addr(msg) => msg.fmt(f),
            Msg::Addrv2(msg) => msg.fmt(f),
            Msg::Feefilter(msg) => msg.fmt(f),
            Msg::Getheaders(msg) => msg.fmt(f),
            Msg::Getblocks(msg) => msg.fmt(f),
            Msg::Version(msg) => msg.fmt(f),
            Msg::Notfound(msg) => msg.fmt(f),
            Msg::Reject(msg) => msg.fmt(f),
            Msg::Compactblock(msg) => msg.fmt(f),
            Msg::Sendcompact(msg) => msg.fmt(f),
            Msg::Block(msg) => msg.fmt(f),
            Msg::Getblocktxn(msg) => msg.fmt(f),
            Msg::Blocktxn(msg) => msg.fmt(f),
            Msg::Alert(msg) => msg.fmt(f),
            Msg::Filteradd(msg) => msg.fmt(f),
            Msg::Filterload(msg) => msg.fmt(f),
            Msg::Getcfcheckpt(msg) => msg.fmt(f),
            Msg::Cfheaders(msg) => msg.fmt(f),
            Msg::Cfilter(msg) => msg.fmt(f),
            Msg::Cfcheckpt(msg) => msg.fmt(f),
            Msg::Getcfheaders(msg) => msg.fmt(f),
            Msg::Getcfilter(msg) => msg.fmt(f),
            Msg::Merkleblock(msg) => msg.fmt(f),
            Msg::Unknown(msg) => msg.fmt(f),
            Msg::Verack(_) => f.write_str("verack"),
            Msg::Sendheaders(_) => f.write_str("sendHeaders"),
            Msg::Getaddr(_) => f.write_str("getaddr"),
            Msg::Mempool(_) => f.write_str("mempool"),
            Msg::Wtxidrelay(_) => f.write_str("wtxidrelay"),
            Msg::Sendaddrv2(_) => f.write_str("sendaddrv2"),
            Msg::Filterclear(_) => f.write_str("filterclear"),
            Msg::Emptyaddrv2(_) => f.write_str("empty_addrv2"),
            Msg::Oldping(_) => f.write_str("old_ping"),
        }
    }
}

impl fmt::Display for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ping({})", self.value)
    }
}

impl fmt::Display for Pong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pong({})", self.value)
    }
}

impl fmt::Display for Inv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inv([{}])", List(&self.items))
    }
}

impl fmt::Display for GetData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GetData([{}])", List(&self.items))
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotFound([{}])", List(&self.items))
    }
}

impl fmt::Display for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tx({})", self.tx)
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Headers([{}])", List(&self.headers))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr([{}])", List(&self.addresses))
    }
}

impl fmt::Display for AddrV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddrV2([{}])", List(&self.addresses))
    }
}

impl fmt::Display for FeeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeeFilter({})", self.fee)
    }
}

impl fmt::Display for GetHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GetHeaders(version={}, locator_hashes=[{}], stop_hash={})",
            self.version,
            List(self.locator_hashes.iter().map(|hash| Hash(hash))),
            Hash(&self.stop_hash)
        )
    }
}

impl fmt::Display for GetBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GetBlocks(version={}, locator_hashes=[{}], stop_hash={})",
            self.version,
            List(self.locator_hashes.iter().map(|hash| Hash(hash))),
            Hash(&self.stop_hash)
        )
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Version(version={}, services={}, timestamp={}, receiver={}, sender={}, nonce={}, user_agent={}, \
             start_height={}, relay={})",
            self.version,
            self.services,
            self.timestamp,
            self.receiver,
            self.sender,
            self.nonce,
            Escaped(&self.user_agent),
            self.start_height,
            self.relay
        )
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Reject(command={}, reason={}, details={}, hash={})",
            Escaped(&self.rejected_command),
            self.reason,
            Escaped(&self.reason_details),
            Hash(&self.hash)
        )
    }
}

impl fmt::Display for CompactBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CmpctBlock(header={}, nonce={}, short_ids=[{}], prefilled_transactions=[{}])",
            self.header,
            self.nonce,
            List(self.short_ids.iter().map(|id| Hex(id))),
            List(&self.transactions)
        )
    }
}

impl fmt::Display for SendCompact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendCompact(send_compact={}, version={})", self.send_compact, self.version)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block(header={}, transactions={})", self.header, List(&self.transactions))
    }
}

impl fmt::Display for GetBlockTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GetBlockTxn(hash={}, tx_indexes={})", Hash(&self.block_hash), List(&self.tx_indexes))
    }
}

impl fmt::Display for BlockTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockTxn(hash={}, transactions={})", Hash(&self.block_hash), List(&self.transactions))
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alert(alert={})", Hex(&self.alert))
    }
}

impl fmt::Display for FilterAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilterAdd(filter={})", Hex(&self.filter))
    }
}

impl fmt::Display for FilterLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FilterLoad(filter={}, hash_funcs={}, tweak={}, flags={})",
            Hex(&self.filter),
            self.hash_funcs,
            self.tweak,
            self.flags
        )
    }
}

impl fmt::Display for GetCfCheckpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GetCFCheckpt(filter_type={}, stop_hash={})", self.filter_type, Hash(&self.stop_hash))
    }
}

impl fmt::Display for CfCheckpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CFCheckpt(filter_type={}, stop_hash={}, filter_headers=[{}])",
            self.filter_type,
            Hash(&self.stop_hash),
            List(self.filter_headers.iter().map(|hash| Hash(hash)))
        )
    }
}

impl fmt::Display for GetCfHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GetCFHeaders(filter_type={}, start_height={}, stop_hash={})",
            self.filter_type,
            self.start_height,
            Hash(&self.stop_hash)
        )
    }
}

impl fmt::Display for CfHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CFHeaders(filter_type={}, stop_hash={}, prev_filter_header={}, filter_hashes=[{}])",
            self.filter_type,
            Hash(&self.stop_hash),
            Hash(&self.previous_filter_header),
            List(self.filter_hashes.iter().map(|hash| Hash(hash)))
        )
    }
}

impl fmt::Display for GetCFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GetCFilter(filter_type={}, start_height={}, stop_hash={})",
            self.filter_type,
            self.start_height,
            Hash(&self.stop_hash)
        )
    }
}

impl fmt::Display for CFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CFilter(filter_type={}, block_hash={}, filter={})",
            self.filter_type,
            Hash(&self.block_hash),
            Hex(&self.filter)
        )
    }
}

impl fmt::Display for MerkleBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MerkleBlock(header={}, num_transactions={}, bits=[", self.header, self.num_transactions)?;
        for (i, bit) in self.bits.iter().enumerate() {
            let separator = if i > 0 { "," } else { "" };
            write!(f, "{separator}{bit}")?;
        }
        write!(f, "], hashes=[{}])", List(self.hashes.iter().map(|hash| Hash(hash))))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unknown(command={}, payload={})", Escaped(&self.command), Hex(&self.payload))
    }
}
