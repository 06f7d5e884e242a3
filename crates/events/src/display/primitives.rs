//! Transactions, headers, addresses, inventory.

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Hash, Hex};
use crate::proto::bitcoin_primitives::{
    Address, BlockHeader, InventoryItem, PrefilledTransaction, Transaction, UnknownAddress, UnknownItem,
    address, inventory_item,
};

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction(txid={}, wtxid={})", Hash(&self.txid), Hash(&self.wtxid))
    }
}

impl fmt::Display for PrefilledTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefilledTransaction(diff_index={}, tx={})", self.diff_index, self.tx)
    }
}

impl fmt::Display for BlockHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlockHeader(hash={}, version={}, prev_blockhash={}, merkle_root={}, time={}, bits={}, nonce={})",
            Hash(&self.hash),
            self.version,
            Hash(&self.prev_blockhash),
            Hash(&self.merkle_root),
            self.time,
            self.bits,
            self.nonce
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address(timestamp={}, address=", self.timestamp)?;
        match &self.address {
            Some(address) => address.fmt(f)?,
            None => f.write_str(EMPTY)?,
        }
        write!(f, ", port={}, services={})", self.port, self.services)
    }
}

impl fmt::Display for address::Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, text) = match self {
            address::Address::Ipv4(text) => ("IPv4", text),
            address::Address::Ipv6(text) => ("IPv6", text),
            address::Address::Torv2(text) => ("TorV2", text),
            address::Address::Torv3(text) => ("TorV3", text),
            address::Address::I2p(text) => ("I2p", text),
            address::Address::Cjdns(text) => ("Cjdns", text),
            address::Address::Unknown(unknown) => return write!(f, "Unknown({unknown})"),
        };
        write!(f, "{network}({})", Escaped(text))
    }
}

impl fmt::Display for UnknownAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id={}, bytes={}", self.id, Hex(&self.address))
    }
}

impl fmt::Display for InventoryItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Some(item) => item.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for inventory_item::Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use inventory_item::Item;
        let (kind, hash) = match self {
            Item::Transaction(hash) => ("Tx", hash),
            Item::Block(hash) => ("Block", hash),
            Item::Wtx(hash) => ("WTx", hash),
            Item::WitnessTransaction(hash) => ("WitnessTx", hash),
            Item::WitnessBlock(hash) => ("WitnessBlock", hash),
            Item::CompactBlock(hash) => ("CompactBlock", hash),
            Item::Unknown(unknown) => return unknown.fmt(f),
            Item::Error(_) => return f.write_str("Error"),
        };
        write!(f, "{kind}({})", Hash(hash))
    }
}

impl fmt::Display for UnknownItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nobody knows what it identifies, so its bytes stay in the order of the network.
        write!(f, "Unknown(type={}, hash={})", self.inv_type, Hex(&self.hash))
    }
}
