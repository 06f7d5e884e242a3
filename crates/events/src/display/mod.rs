//! Events as text: one event, one line.
//!
//! What users of the public peer-observer parse stays as it is there: a message that the node sent begins with `--> to`,
//! one that it received with `<-- from`, everything else with `#` and a word: `# CONN InboundConnection(...)`. Inside stand
//! the schema's names with their values. Hashes are hex in display order (bytes reversed), other bytes hex as they are.
//!
//! Peers choose much of this text, so it must not be able to move a terminal's cursor, colour it, or begin a line that
//! looks like another event: control, format and direction characters are escaped, as is the backslash. It is text for
//! people all the same: a user agent can contain `)` or `,`. Programs read the [JSON form](crate::json).
//!
//! | file | what it prints |
//! |---|---|
//! | `text.rs` | escaping, hex, lists, fields: what the others are made of |
//! | `primitives.rs` | transactions, headers, addresses, inventory |
//! | `message.rs` | P2P messages |
//! | `tracepoints.rs` | connections, mempool, validation, address manager |
//! | `rpc.rs` | answers of RPC methods |
//! | `log.rs` | lines of debug.log |
//! | `observer.rs` | losses, incidents, and what else is ours |

use std::fmt;

use crate::proto::ebpf_extractor::Ebpf;
use crate::proto::ebpf_extractor::ebpf::EbpfEvent;
use crate::proto::ipc_extractor::ipc::IpcEvent;
use crate::proto::ipc_extractor::{BlockTip, Ipc};
use crate::proto::p2p_extractor::p2p::P2pEvent;
use crate::proto::p2p_extractor::{AddressAnnouncement, InventoryAnnouncement, P2p, PingDuration};
use crate::{Event, PeerObserverEvent};

mod log;
mod message;
mod observer;
mod primitives;
mod rpc;
mod text;
mod tracepoints;

pub use text::{Escaped, SingleLine};
use text::{Hash, List};

/// What stands where a oneof is empty, which only a broken or newer publisher sends.
const EMPTY: &str = "None";

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer_observer_event {
            Some(event) => event.fmt(f),
            None => write!(f, "# EVENT {EMPTY}"),
        }
    }
}

impl fmt::Display for PeerObserverEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerObserverEvent::EbpfExtractor(event) => event.fmt(f),
            PeerObserverEvent::RpcExtractor(event) => write!(f, "# RPC {event}"),
            PeerObserverEvent::P2pExtractor(event) => write!(f, "# P2P {event}"),
            PeerObserverEvent::LogExtractor(event) => write!(f, "# LOG {event}"),
            PeerObserverEvent::IpcExtractor(event) => write!(f, "# IPC {event}"),
            PeerObserverEvent::Loss(event) => write!(f, "# LOSS {event}"),
            PeerObserverEvent::Incident(event) => write!(f, "# INCIDENT {event}"),
            PeerObserverEvent::Utxocache(event) => write!(f, "# UTXOCACHE {event}"),
            PeerObserverEvent::RpcExtra(event) => write!(f, "# RPC {event}"),
            PeerObserverEvent::P2pExtra(event) => write!(f, "# P2P {event}"),
            PeerObserverEvent::Books(event) => write!(f, "# BOOKS {event}"),
            PeerObserverEvent::StreamPositions(event) => write!(f, "# STREAMS {event}"),
        }
    }
}

impl fmt::Display for Ebpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ebpf_event {
            Some(EbpfEvent::Message(event)) => event.fmt(f),
            Some(EbpfEvent::Connection(event)) => write!(f, "# CONN {event}"),
            Some(EbpfEvent::Addrman(event)) => write!(f, "# ADDRMAN {event}"),
            Some(EbpfEvent::Mempool(event)) => write!(f, "# MEMPOOL {event}"),
            Some(EbpfEvent::Validation(event)) => write!(f, "# VALIDATION {event}"),
            None => write!(f, "# EBPF {EMPTY}"),
        }
    }
}

impl fmt::Display for P2p {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.p2p_event {
            Some(P2pEvent::PingDuration(event)) => event.fmt(f),
            Some(P2pEvent::AddressAnnouncement(event)) => event.fmt(f),
            Some(P2pEvent::InventoryAnnouncement(event)) => event.fmt(f),
            Some(P2pEvent::FeefilterAnnouncement(fee)) => write!(f, "FeefilterAnnouncement({fee})"),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for PingDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PingDuration({}ns)", self.duration)
    }
}

impl fmt::Display for AddressAnnouncement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressAnnouncement: [{}]", List(&self.addresses))
    }
}

impl fmt::Display for InventoryAnnouncement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InventoryAnnouncement: [{}]", List(&self.inventory))
    }
}

impl fmt::Display for Ipc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ipc_event {
            Some(IpcEvent::BlockTip(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for BlockTip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockTip(height={}, hash={})", self.height, Hash(&self.hash))
    }
}
