//! From a hit of a tracepoint to an event of the schema. Used by every source of hits: the kernel, recordings, capture files.

use bytes::Bytes;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::conn_type;
use peer_observer_events::decode::{Decoded, decode};
use peer_observer_events::proto::ebpf_extractor::addrman::{
    AddrmanEvent, InsertNew, InsertTried, addrman_event,
};
use peer_observer_events::proto::ebpf_extractor::connection::{
    ClosedConnection, Connection, ConnectionEvent, EvictedInboundConnection, InboundConnection,
    MisbehavingConnection, OutboundConnection, connection_event,
};
use peer_observer_events::proto::ebpf_extractor::mempool::{
    Added, MempoolEvent, Rejected, Removed, Replaced, mempool_event,
};
use peer_observer_events::proto::ebpf_extractor::message::{
    MessageEvent, Metadata, Unknown, message_event::Msg,
};
use peer_observer_events::proto::ebpf_extractor::validation::{
    BlockConnected, ValidationEvent, validation_event,
};
use peer_observer_events::proto::ebpf_extractor::{Ebpf, ebpf::EbpfEvent};
use peer_observer_events::proto::observer::{UtxoCache, UtxoCacheFlush, utxo_cache};
use peer_observer_node::hit::{self, Hit};

/// The event that a hit is.
pub fn event(hit: &Hit<'_>) -> PeerObserverEvent {
    let ebpf = match *hit {
        Hit::Message(ref m) => EbpfEvent::Message(message(m)),
        Hit::InboundConnection { ref conn, existing } => {
            connection_event(connection_event::Event::Inbound(InboundConnection {
                conn: connection(conn),
                existing_connections: existing,
            }))
        }
        Hit::OutboundConnection { ref conn, existing } => {
            connection_event(connection_event::Event::Outbound(OutboundConnection {
                conn: connection(conn),
                existing_connections: existing,
            }))
        }
        Hit::ClosedConnection { ref conn, established } => {
            connection_event(connection_event::Event::Closed(ClosedConnection {
                conn: connection(conn),
                time_established: established,
            }))
        }
        Hit::EvictedInboundConnection { ref conn, established } => {
            connection_event(connection_event::Event::InboundEvicted(EvictedInboundConnection {
                conn: connection(conn),
                time_established: established,
            }))
        }
        Hit::MisbehavingConnection { peer_id, reason } => {
            connection_event(connection_event::Event::Misbehaving(MisbehavingConnection {
                id: peer_id as u64,
                message: text(reason),
            }))
        }
        Hit::MempoolAdded { txid, vsize, fee } => {
            mempool_event(mempool_event::Event::Added(Added { txid: hash(txid), vsize, fee }))
        }
        Hit::MempoolRemoved { txid, reason, vsize, fee, entry_time } => {
            mempool_event(mempool_event::Event::Removed(Removed {
                txid: hash(txid),
                reason: text(reason),
                vsize,
                fee,
                entry_time,
            }))
        }
        Hit::MempoolReplaced {
            replaced_txid,
            replaced_vsize,
            replaced_fee,
            replaced_entry_time,
            replacement_id,
            replacement_vsize,
            replacement_fee,
            by_transaction,
        } => mempool_event(mempool_event::Event::Replaced(Replaced {
            replaced_txid: hash(replaced_txid),
            replaced_vsize,
            replaced_fee,
            replaced_entry_time,
            replacement_id: hash(replacement_id),
            replacement_vsize,
            replacement_fee,
            replaced_by_transaction: by_transaction,
        })),
        Hit::MempoolRejected { txid, reason } => {
            mempool_event(mempool_event::Event::Rejected(Rejected { txid: hash(txid), reason: text(reason) }))
        }
        Hit::BlockConnected { hash: block, height, transactions, inputs, sigops, duration } => {
            EbpfEvent::Validation(ValidationEvent {
                event: Some(validation_event::Event::BlockConnected(BlockConnected {
                    hash: hash(block),
                    height,
                    transactions: transactions as i64,
                    inputs,
                    sigops: sigops as i64,
                    connection_time: duration,
                })),
            })
        }
        Hit::UtxoCacheFlush { duration_us, mode, coins, bytes, for_prune } => {
            let flush = UtxoCacheFlush { duration_us, mode, coins, bytes, for_prune };
            return PeerObserverEvent::Utxocache(UtxoCache { event: Some(utxo_cache::Event::Flush(flush)) });
        }
        Hit::AddrmanAttemptAdd { inserted, bucket, position, addr, addr_as, source, source_as } => {
            addrman_event(addrman_event::Event::New(InsertNew {
                inserted,
                bucket,
                bucket_pos: position,
                addr: text(addr),
                addr_as,
                source: text(source),
                source_as,
            }))
        }
        Hit::AddrmanMoveToGood { bucket, position, addr, addr_as, source, source_as } => {
            addrman_event(addrman_event::Event::Tried(InsertTried {
                bucket,
                bucket_pos: position,
                addr: text(addr),
                addr_as,
                source: text(source),
                source_as,
            }))
        }
    };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(ebpf) })
}

fn message(m: &hit::Message<'_>) -> MessageEvent {
    let command = text(m.msg_type);
    let payload = Bytes::copy_from_slice(m.payload);
    let captured = m.payload.len() as u64;
    let (decoded, captured) = if captured == m.size {
        (decode(&command, payload), None)
    } else {
        // Half a message decodes to nothing or to something wrong.
        let error = Some(format!("{captured} of {} bytes captured", m.size));
        (Decoded { msg: Msg::Unknown(Unknown { command: command.clone(), payload }), error }, Some(captured))
    };
    MessageEvent {
        meta: Metadata {
            peer_id: m.peer_id as u64,
            addr: text(m.addr),
            conn_type: conn_type::from_name(m.conn_type) as i32,
            command,
            inbound: m.inbound,
            size: m.size,
        },
        msg: Some(decoded.msg),
        decode_error: decoded.error,
        captured,
    }
}

/// A message of which something could not be read where the node has it. What is left is told, and marked.
pub fn unread_message(m: &hit::Message<'_>) -> PeerObserverEvent {
    let mut message = message(m);
    let payload = Bytes::copy_from_slice(m.payload);
    message.msg = Some(Msg::Unknown(Unknown { command: message.meta.command.clone(), payload }));
    message.decode_error = Some("part of it could not be read in the node's memory".into());
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })
}

fn connection(c: &hit::Connection<'_>) -> Connection {
    Connection {
        peer_id: c.peer_id as u64,
        addr: text(c.addr),
        conn_type: conn_type::from_name(c.conn_type) as i32,
        network: c.network,
    }
}

fn connection_event(event: connection_event::Event) -> EbpfEvent {
    EbpfEvent::Connection(ConnectionEvent { event: Some(event) })
}

fn mempool_event(event: mempool_event::Event) -> EbpfEvent {
    EbpfEvent::Mempool(MempoolEvent { event: Some(event) })
}

fn addrman_event(event: addrman_event::Event) -> EbpfEvent {
    EbpfEvent::Addrman(AddrmanEvent { event: Some(event) })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hash(bytes: hit::Hash) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use peer_observer_events::Subject;

    use super::*;

    #[test]
    fn a_message_that_was_captured_in_part_is_kept_and_marked() {
        let hit = Hit::Message(hit::Message {
            inbound: true,
            peer_id: 3,
            addr: b"127.0.0.1:1\xff",
            conn_type: b"inbound",
            msg_type: b"block",
            size: 100,
            payload: &[7; 80],
        });
        let PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(m)) }) = event(&hit)
        else {
            panic!()
        };
        assert_eq!((m.captured, m.meta.size), (Some(80), 100));
        assert_eq!(m.decode_error.as_deref(), Some("80 of 100 bytes captured"));
        let Some(Msg::Unknown(unknown)) = m.msg else { panic!("{:?}", m.msg) };
        assert_eq!((unknown.command.as_str(), unknown.payload.len()), ("block", 80));
        assert_eq!(m.meta.addr, "127.0.0.1:1\u{fffd}");
    }

    #[test]
    fn what_public_tools_do_not_know_goes_out_of_their_sight() {
        let flush = Hit::UtxoCacheFlush { duration_us: 1, mode: 2, coins: 3, bytes: 4, for_prune: true };
        assert_eq!(Subject::of(&event(&flush)), Some(Subject::UtxoCache));
        let add = Hit::AddrmanMoveToGood {
            bucket: 1,
            position: 2,
            addr: b"a",
            addr_as: 3,
            source: b"b",
            source_as: 4,
        };
        assert_eq!(Subject::of(&event(&add)), Some(Subject::Addrman));
    }
}
