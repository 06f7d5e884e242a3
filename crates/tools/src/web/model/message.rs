//! A message as the page shows it: a line with what matters, in bounded memory.

use std::fmt::{self, Write};

use peer_observer_events::proto::bitcoin_primitives::inventory_item::Item;
use peer_observer_events::proto::bitcoin_primitives::{Address, InventoryItem, address};
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_exporter::labels::bounded;

use crate::MESSAGE_TYPES;

/// [`MESSAGE_TYPES`], and `other` for what anybody makes up.
pub(crate) const COMMANDS: [&str; MESSAGE_TYPES.len() + 1] = {
    let mut commands = ["other"; MESSAGE_TYPES.len() + 1];
    let mut i = 0;
    while i < MESSAGE_TYPES.len() {
        commands[i] = MESSAGE_TYPES[i];
        i += 1;
    }
    commands
};

/// Index of `other`.
pub(crate) const OTHER: usize = COMMANDS.len() - 1;

/// The index of a message type in [`COMMANDS`].
pub(crate) fn command_index(command: &str) -> usize {
    COMMANDS[..OTHER].iter().position(|known| *known == command).unwrap_or(OTHER)
}

/// A message, kept for a while.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Counts the messages of the node, from 1.
    pub(crate) number: u64,
    /// ns since the UNIX epoch.
    pub(crate) time_ns: u64,
    pub(crate) peer: u64,
    pub(crate) inbound: bool,
    /// Index in [`COMMANDS`].
    pub(crate) command: u8,
    /// Payload, bytes.
    pub(crate) size: u64,
    pub(crate) detail: Detail,
    /// Type of a message that has no name here.
    pub(crate) name: Option<Box<str>>,
    pub(crate) malformed: bool,
}

impl Record {
    /// The type of the message.
    pub(crate) fn command(&self) -> &str {
        self.name.as_deref().unwrap_or(COMMANDS[usize::from(self.command)])
    }
}

/// What matters in a message.
#[derive(Debug, Clone)]
pub(crate) enum Detail {
    Nothing,
    Nonce(u64),
    Inventory {
        transactions: u32,
        blocks: u32,
        other: u32,
        first: Option<[u8; 32]>,
    },
    Hash([u8; 32]),
    /// Of so many, the last has this hash.
    Hashes {
        count: u32,
        last: Option<[u8; 32]>,
    },
    Block {
        hash: [u8; 32],
        transactions: u32,
    },
    Compact {
        hash: [u8; 32],
        short: u32,
        whole: u32,
    },
    Addresses {
        count: u32,
    },
    FeeRate(i64),
    HighBandwidth(bool),
    Text(Box<str>),
}

/// A hash, if it has the length of one.
pub(crate) fn hash(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Detail {
    /// What matters in this message.
    pub(crate) fn of(event: &MessageEvent) -> Detail {
        if let Some(error) = &event.decode_error {
            return Detail::Text(bounded(error).into());
        }
        let Some(msg) = &event.msg else { return Detail::Nothing };
        match msg {
            Msg::Ping(ping) => Detail::Nonce(ping.value),
            Msg::Pong(pong) => Detail::Nonce(pong.value),
            Msg::Inv(inv) => inventory(&inv.items),
            Msg::Getdata(getdata) => inventory(&getdata.items),
            Msg::Notfound(notfound) => inventory(&notfound.items),
            Msg::Tx(tx) => hash(&tx.tx.wtxid).map_or(Detail::Nothing, Detail::Hash),
            Msg::Headers(headers) => Detail::Hashes {
                count: count(headers.headers.len()),
                last: headers.headers.last().and_then(|header| hash(&header.hash)),
            },
            Msg::Block(block) => hash(&block.header.hash).map_or(Detail::Nothing, |hash| Detail::Block {
                hash,
                transactions: count(block.transactions.len()),
            }),
            Msg::Compactblock(block) => {
                hash(&block.header.hash).map_or(Detail::Nothing, |hash| Detail::Compact {
                    hash,
                    short: count(block.short_ids.len()),
                    whole: count(block.transactions.len()),
                })
            }
            Msg::Getblocktxn(ask) => {
                Detail::Hashes { count: count(ask.tx_indexes.len()), last: hash(&ask.block_hash) }
            }
            Msg::Blocktxn(answer) => {
                Detail::Hashes { count: count(answer.transactions.len()), last: hash(&answer.block_hash) }
            }
            Msg::Addr(addr) => Detail::Addresses { count: count(addr.addresses.len()) },
            Msg::Addrv2(addr) => Detail::Addresses { count: count(addr.addresses.len()) },
            Msg::Feefilter(filter) => Detail::FeeRate(filter.fee),
            Msg::Sendcompact(compact) => Detail::HighBandwidth(compact.send_compact),
            Msg::Version(version) => Detail::Text(bounded(&version.user_agent).into()),
            Msg::Reject(reject) => Detail::Text(bounded(&reject.reason_details).into()),
            _ => Detail::Nothing,
        }
    }
}

fn inventory(items: &[InventoryItem]) -> Detail {
    let (mut transactions, mut blocks, mut other) = (0, 0, 0);
    for item in items {
        match &item.item {
            Some(Item::Transaction(_) | Item::Wtx(_) | Item::WitnessTransaction(_)) => transactions += 1,
            Some(Item::Block(_) | Item::WitnessBlock(_) | Item::CompactBlock(_)) => blocks += 1,
            _ => other += 1,
        }
    }
    let first = items.first().and_then(|item| item.item.as_ref()).and_then(item_hash);
    Detail::Inventory { transactions, blocks, other, first }
}

/// The hash of an entry of an inventory.
pub(crate) fn item_hash(item: &Item) -> Option<[u8; 32]> {
    match item {
        Item::Transaction(bytes)
        | Item::Wtx(bytes)
        | Item::WitnessTransaction(bytes)
        | Item::Block(bytes)
        | Item::WitnessBlock(bytes)
        | Item::CompactBlock(bytes) => hash(bytes),
        Item::Unknown(item) => hash(&item.hash),
        Item::Error(_) => None,
    }
}

/// The beginning of a hash in display order, for people.
struct Short<'a>(&'a [u8; 32]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leading = self.0.iter().rev().take_while(|byte| **byte == 0).count();
        // The zeros that a block's hash begins with tell nothing.
        if leading > 2 {
            f.write_char('…')?;
        }
        for byte in self.0.iter().rev().skip(if leading > 2 { leading } else { 0 }).take(5) {
            write!(f, "{byte:02x}")?;
        }
        f.write_char('…')
    }
}

/// A hash in display order, hex.
pub(crate) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().rev().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Nothing => Ok(()),
            Detail::Nonce(nonce) => write!(f, "nonce {nonce:016x}"),
            Detail::Inventory { transactions, blocks, other, first } => {
                let mut separator = "";
                for (n, what) in [(transactions, "tx"), (blocks, "block"), (other, "other")] {
                    if *n > 0 {
                        write!(f, "{separator}{n} {what}")?;
                        separator = ", ";
                    }
                }
                match first {
                    Some(first) if transactions + blocks + other == 1 => write!(f, " {}", Short(first)),
                    _ => Ok(()),
                }
            }
            Detail::Hash(hash) => Short(hash).fmt(f),
            Detail::Hashes { count, last: None } => write!(f, "{count}"),
            Detail::Hashes { count, last: Some(hash) } => write!(f, "{count}, {}", Short(hash)),
            Detail::Block { hash, transactions } => write!(f, "{}, {transactions} tx", Short(hash)),
            Detail::Compact { hash, short, whole } => {
                write!(f, "{}, {short} short ids, {whole} whole", Short(hash))
            }
            Detail::Addresses { count } => write!(f, "{count} addresses"),
            Detail::FeeRate(rate) => write!(f, "{rate} sat/kvB"),
            Detail::HighBandwidth(true) => f.write_str("high bandwidth"),
            Detail::HighBandwidth(false) => f.write_str("low bandwidth"),
            Detail::Text(text) => f.write_str(text),
        }
    }
}

/// Networks of addresses, as Bitcoin Core's src/netaddress.h numbers them (`Network`); then what is none of these.
pub(crate) const NETWORKS: [&str; 8] =
    ["unroutable", "ipv4", "ipv6", "onion", "i2p", "cjdns", "internal", "unknown"];

/// The network of a gossiped address, as an index in [`NETWORKS`].
pub(crate) fn network_of(address: &Address) -> usize {
    match &address.address {
        Some(address::Address::Ipv4(_)) => 1,
        Some(address::Address::Ipv6(_)) => 2,
        Some(address::Address::Torv2(_) | address::Address::Torv3(_)) => 3,
        Some(address::Address::I2p(_)) => 4,
        Some(address::Address::Cjdns(_)) => 5,
        Some(address::Address::Unknown(_)) | None => 7,
    }
}

/// The text of a gossiped address, without port.
pub(crate) fn address_text(address: &Address) -> Option<&str> {
    match address.address.as_ref()? {
        address::Address::Ipv4(text)
        | address::Address::Ipv6(text)
        | address::Address::Torv2(text)
        | address::Address::Torv3(text)
        | address::Address::I2p(text)
        | address::Address::Cjdns(text) => Some(text),
        address::Address::Unknown(_) => None,
    }
}

/// Where an address is without its port: `[::1]:8333` is `::1`.
pub(crate) fn host_of(addr: &str) -> &str {
    let host = match addr.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => addr,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// The group of networks that Bitcoin Core would count an address to without an ASMap: /16 for IPv4, /32 for IPv6
/// (src/netgroup.cpp `NetGroupManager::GetGroup`). For other networks the name of the network.
pub(crate) fn netgroup(addr: &str) -> String {
    let host = host_of(addr);
    if host.ends_with(".onion") {
        return "onion".into();
    }
    if host.ends_with(".b32.i2p") {
        return "i2p".into();
    }
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => {
            let [a, b, ..] = ip.octets();
            format!("{a}.{b}.0.0/16")
        }
        Ok(std::net::IpAddr::V6(ip)) if ip.segments()[0] >> 8 == 0xfc => "cjdns".into(),
        Ok(std::net::IpAddr::V6(ip)) => {
            let [a, b, ..] = ip.segments();
            format!("{a:x}:{b:x}::/32")
        }
        Err(_) => "other".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_by_name_and_the_rest_is_other() {
        for (i, command) in COMMANDS.iter().enumerate() {
            assert_eq!(command_index(command), i);
        }
        for made_up in ["", "Version", "hello", "<script>"] {
            assert_eq!(command_index(made_up), OTHER, "{made_up}");
        }
    }

    #[test]
    fn groups_of_networks_are_those_of_bitcoin_core() {
        let cases = [
            ("192.0.2.7:8333", "192.0.0.0/16", "192.0.2.7"),
            ("[2001:db8:1::7]:8333", "2001:db8::/32", "2001:db8:1::7"),
            ("[fc32:17ea::1]:8333", "cjdns", "fc32:17ea::1"),
            ("abcdefgh.onion:8333", "onion", "abcdefgh.onion"),
            ("abcdefgh.b32.i2p:0", "i2p", "abcdefgh.b32.i2p"),
            ("", "other", ""),
            ("<b>:80", "other", "<b>"),
            ("[:", "other", "["),
        ];
        for (addr, group, host) in cases {
            assert_eq!((netgroup(addr).as_str(), host_of(addr)), (group, host), "{addr}");
        }
    }

    #[test]
    fn details_are_short_sentences() {
        let mut block = [7; 32];
        block[26..].fill(0);
        let cases = [
            (Detail::Inventory { transactions: 3, blocks: 1, other: 0, first: None }, "3 tx, 1 block"),
            (
                Detail::Inventory { transactions: 1, blocks: 0, other: 0, first: Some([1; 32]) },
                "1 tx 0101010101…",
            ),
            (Detail::Hash(block), "…0707070707…"),
            (Detail::Nonce(1), "nonce 0000000000000001"),
        ];
        for (detail, text) in cases {
            assert_eq!(detail.to_string(), text);
        }
    }
}
