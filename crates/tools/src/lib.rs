//! Tools of peer-observer: what is done with events.
//!
//! | module | what it does |
//! |---|---|
//! | [`connectivity`] | dials gossiped addresses, if allowed to, and says how many are real |
//! | [`known`] | none itself: reads lists of addresses and maps of autonomous systems |
//! | [`logger`] | prints events, a line each |
//! | [`metrics`] | counts events for Prometheus |
//! | [`terminal`] | none itself: whether what is printed may have colours |
//! | tour.rs | none itself: the events of a real node, for tests |
//! | [`web`] | shows them on a live page |

pub mod connectivity;
pub mod known;
pub mod logger;
pub mod metrics;
mod onion;
#[cfg(test)]
mod scrape;
pub mod terminal;
#[cfg(test)]
mod tour;
pub mod web;

/// Message types of Bitcoin Core's src/protocol.h (NetMsgType), and two that it no longer knows: what tools count apart, also when
/// peers make up others.
pub(crate) const MESSAGE_TYPES: [&str; 37] = [
    "version",
    "verack",
    "addr",
    "addrv2",
    "sendaddrv2",
    "inv",
    "getdata",
    "merkleblock",
    "getblocks",
    "getheaders",
    "tx",
    "headers",
    "block",
    "getaddr",
    "mempool",
    "ping",
    "pong",
    "notfound",
    "filterload",
    "filteradd",
    "filterclear",
    "sendheaders",
    "feefilter",
    "sendcmpct",
    "cmpctblock",
    "getblocktxn",
    "blocktxn",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "wtxidrelay",
    "sendtxrcncl",
    "reject",
    "alert",
];
