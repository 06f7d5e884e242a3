//! Connections, mempool, validation, address manager: the events of tracepoints that are not messages.

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Hash};
use crate::proto::ebpf_extractor::addrman::{AddrmanEvent, InsertNew, InsertTried, addrman_event};
use crate::proto::ebpf_extractor::connection::{
    ClosedConnection, Connection, ConnectionEvent, EvictedInboundConnection, InboundConnection,
    MisbehavingConnection, OutboundConnection, connection_event,
};
use crate::proto::ebpf_extractor::mempool::{
    Added, MempoolEvent, Rejected, Removed, Replaced, mempool_event,
};
use crate::proto::ebpf_extractor::validation::{BlockConnected, ValidationEvent, validation_event};

impl fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Some(connection_event::Event::Closed(event)) => event.fmt(f),
            Some(connection_event::Event::InboundEvicted(event)) => event.fmt(f),
            Some(connection_event::Event::Inbound(event)) => event.fmt(f),
            Some(connection_event::Event::Outbound(event)) => event.fmt(f),
            Some(connection_event::Event::Misbehaving(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Connection(id={}, addr={}, conn_type={}, network={})",
            self.peer_id,
            Escaped(&self.addr),
            self.conn_type,
            self.network
        )
    }
}

impl fmt::Display for ClosedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClosedConnection(conn={}, time_established={})", self.conn, self.time_established)
    }
}

impl fmt::Display for EvictedInboundConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EvictedInboundConnection(conn={}, time_established={})", self.conn, self.time_established)
    }
}

impl fmt::Display for InboundConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboundConnection(conn={}, existing_connections={})", self.conn, self.existing_connections)
    }
}

impl fmt::Display for OutboundConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OutboundConnection(conn={}, existing_connections={})",
            self.conn, self.existing_connections
        )
    }
}

impl fmt::Display for MisbehavingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MisbehavingConnection(id={}, message={})", self.id, Escaped(&self.message))
    }
}

impl fmt::Display for MempoolEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Some(mempool_event::Event::Added(event)) => event.fmt(f),
            Some(mempool_event::Event::Replaced(event)) => event.fmt(f),
            Some(mempool_event::Event::Removed(event)) => event.fmt(f),
            Some(mempool_event::Event::Rejected(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Added({}, fee={}, vsize={})", Hash(&self.txid), self.fee, self.vsize)
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Removed({}, reason={}, vsize={}, fee={}, entry_time={})",
            Hash(&self.txid),
            Escaped(&self.reason),
            self.vsize,
            self.fee,
            self.entry_time
        )
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejected({}, reason={})", Hash(&self.txid), Escaped(&self.reason))
    }
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.replaced_by_transaction { "txid" } else { "package_hash" };
        write!(
            f,
            "Replaced(old=(txid={}, vsize={}, fee={}, entry_time={}) new=({kind}={}, vsize={}, fee={}))",
            Hash(&self.replaced_txid),
            self.replaced_vsize,
            self.replaced_fee,
            self.replaced_entry_time,
            Hash(&self.replacement_id),
            self.replacement_vsize,
            self.replacement_fee
        )
    }
}

impl fmt::Display for ValidationEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Some(validation_event::Event::BlockConnected(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for BlockConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlockConnected(hash={}, height={}, transactions={}, inputs={}, sigops={}, time={}ns)",
            Hash(&self.hash),
            self.height,
            self.transactions,
            self.inputs,
            self.sigops,
            self.connection_time
        )
    }
}

impl fmt::Display for AddrmanEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Some(addrman_event::Event::New(event)) => event.fmt(f),
            Some(addrman_event::Event::Tried(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for InsertNew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "InsertNew(inserted={}, bucket={}, bucket_pos={}, addr={}, addr_AS={}, source={}, source_AS={})",
            self.inserted,
            self.bucket,
            self.bucket_pos,
            Escaped(&self.addr),
            self.addr_as,
            Escaped(&self.source),
            self.source_as
        )
    }
}

impl fmt::Display for InsertTried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "InsertTried(bucket={}, bucket_pos={}, addr={}, addr_AS={}, source={}, source_AS={})",
            self.bucket,
            self.bucket_pos,
            Escaped(&self.addr),
            self.addr_as,
            Escaped(&self.source),
            self.source_as
        )
    }
}
