//! The kernel's records, as bpf/probes.bpf.c writes them, read back.

use peer_observer_node::hit::{Connection, Hash, Hit, Message, Tracepoint};

/// Offset of `captured` in a message's record.
const MESSAGE_CAPTURED: usize = HEADER + 16;
/// Length of a message's record before the payload.
const MESSAGE: usize = HEADER + 24 + MSG_TYPE + CONN_TYPE + ADDR;
const HEADER: usize = 24;
const MSG_TYPE: usize = 16;
const CONN_TYPE: usize = 24;
const ADDR: usize = 96;
const REASON: usize = 256;
const SHORT_REASON: usize = 32;

/// What the payload or a hash points to could not be read (`PAYLOAD_UNREAD`).
const PAYLOAD_UNREAD: u8 = 1;
/// What a text points to could not be read (`TEXT_UNREAD`).
const TEXT_UNREAD: u8 = 2;
/// A text fills its field, so it may go on (`TEXT_CUT`).
pub(super) const TEXT_CUT: u8 = 4;
/// An argument in the node's memory could not be read (`ARGUMENT_UNREAD`).
const ARGUMENT_UNREAD: u8 = 8;

/// A record of the ring.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// Kernel's monotonic clock, ns.
    pub(super) monotonic_ns: u64,
    /// Process that hit the probe.
    pub(super) pid: u32,
    /// What could not be read.
    pub(super) flags: u8,
    pub(super) hit: Hit<'a>,
}

impl Record<'_> {
    /// Something of it could not be read, and stands there as 0 or as an empty text.
    pub(super) fn is_unread(&self) -> bool {
        self.flags & (PAYLOAD_UNREAD | TEXT_UNREAD | ARGUMENT_UNREAD) != 0
    }
}

/// The process and the kind of a record, whatever else is in it.
pub(super) fn origin(record: &[u8]) -> Option<(u32, usize)> {
    let mut f = Fields { rest: record.get(16..)? };
    let pid = f.u32()?;
    let [kind] = f.array()?;
    Some((pid, Tracepoint::from_kind(kind)? as usize))
}

/// Part of a record that says something: a message's payload seldom fills the place that was reserved for it.
pub(super) fn used(record: &[u8]) -> &[u8] {
    let kind = record.get(20).copied().unwrap_or(0);
    if kind != Tracepoint::InboundMessage as u8 && kind != Tracepoint::OutboundMessage as u8 {
        return record;
    }
    let captured = Fields { rest: record.get(MESSAGE_CAPTURED..).unwrap_or(&[]) }.u32().unwrap_or(0);
    record.get(..MESSAGE + captured as usize).unwrap_or(record)
}

/// Reads a record; nothing when it is too short or of an unknown kind, which only a fault in the BPF object can cause.
pub(super) fn parse(record: &[u8]) -> Option<Record<'_>> {
    let mut f = Fields { rest: record };
    let monotonic_ns = f.u64()?;
    let _hit_number = f.u64()?;
    let pid = f.u32()?;
    let [kind, flags] = f.array()?;
    f.skip(2)?;
    let hit = match Tracepoint::from_kind(kind)? {
        t @ (Tracepoint::InboundMessage | Tracepoint::OutboundMessage) => {
            let peer_id = f.i64()?;
            let size = f.u64()?;
            let captured = f.u32()?;
            f.skip(4)?;
            let msg_type = f.text(MSG_TYPE)?;
            let conn_type = f.text(CONN_TYPE)?;
            let addr = f.text(ADDR)?;
            let payload = f.rest.get(..captured as usize)?;
            let inbound = t == Tracepoint::InboundMessage;
            Hit::Message(Message { inbound, peer_id, addr, conn_type, msg_type, size, payload })
        }
        Tracepoint::InboundConnection => {
            let (conn, existing) = f.connection()?;
            Hit::InboundConnection { conn, existing }
        }
        Tracepoint::OutboundConnection => {
            let (conn, existing) = f.connection()?;
            Hit::OutboundConnection { conn, existing }
        }
        Tracepoint::ClosedConnection => {
            let (conn, established) = f.connection()?;
            Hit::ClosedConnection { conn, established }
        }
        Tracepoint::EvictedInboundConnection => {
            let (conn, established) = f.connection()?;
            Hit::EvictedInboundConnection { conn, established }
        }
        Tracepoint::MisbehavingConnection => {
            Hit::MisbehavingConnection { peer_id: f.i64()?, reason: f.text(REASON)? }
        }
        Tracepoint::MempoolAdded => {
            let txid = f.array()?;
            let fee = f.i64()?;
            Hit::MempoolAdded { txid, vsize: f.i32()?, fee }
        }
        Tracepoint::MempoolRemoved => {
            let txid = f.array()?;
            let fee = f.i64()?;
            let entry_time = f.u64()?;
            let vsize = f.i32()?;
            f.skip(4)?;
            Hit::MempoolRemoved { txid, reason: f.text(SHORT_REASON)?, vsize, fee, entry_time }
        }
        Tracepoint::MempoolReplaced => {
            let replaced_txid: Hash = f.array()?;
            let replacement_id: Hash = f.array()?;
            let replaced_fee = f.i64()?;
            let replaced_entry_time = f.u64()?;
            let replacement_fee = f.i64()?;
            let replaced_vsize = f.i32()?;
            let replacement_vsize = f.i32()?;
            let [by_transaction] = f.array()?;
            Hit::MempoolReplaced {
                replaced_txid,
                replaced_vsize,
                replaced_fee,
                replaced_entry_time,
                replacement_id,
                replacement_vsize,
                replacement_fee,
                by_transaction: by_transaction != 0,
            }
        }
        Tracepoint::MempoolRejected => Hit::MempoolRejected { txid: f.array()?, reason: f.text(REASON)? },
        Tracepoint::BlockConnected => {
            let hash = f.array()?;
            let transactions = f.u64()?;
            let sigops = f.u64()?;
            let duration = f.u64()?;
            Hit::BlockConnected { hash, height: f.i32()?, transactions, inputs: f.i32()?, sigops, duration }
        }
        Tracepoint::UtxoCacheFlush => {
            let duration_us = f.i64()?;
            let coins = f.u64()?;
            let bytes = f.u64()?;
            let mode = f.u32()?;
            let [for_prune] = f.array()?;
            Hit::UtxoCacheFlush { duration_us, mode, coins, bytes, for_prune: for_prune != 0 }
        }
        t @ (Tracepoint::AddrmanAttemptAdd | Tracepoint::AddrmanMoveToGood) => {
            let bucket = f.i32()?;
            let position = f.i32()?;
            let addr_as = f.u32()?;
            let source_as = f.u32()?;
            let [inserted, ..]: [u8; 8] = f.array()?;
            let addr = f.text(ADDR)?;
            let source = f.text(ADDR)?;
            if t == Tracepoint::AddrmanMoveToGood {
                Hit::AddrmanMoveToGood { bucket, position, addr, addr_as, source, source_as }
            } else {
                let inserted = inserted != 0;
                Hit::AddrmanAttemptAdd { inserted, bucket, position, addr, addr_as, source, source_as }
            }
        }
    };
    Some(Record { monotonic_ns, pid, flags, hit })
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.rest = self.rest.get(n..)?;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_ne_bytes)
    }

    /// A text in a field of `size` bytes, up to its NUL.
    fn text(&mut self, size: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(field.split(|b| *b == 0).next().unwrap_or(field))
    }

    fn connection(&mut self) -> Option<(Connection<'a>, u64)> {
        let peer_id = self.i64()?;
        let extra = self.u64()?;
        let network = self.u32()?;
        self.skip(4)?;
        let conn_type = self.text(CONN_TYPE)?;
        let addr = self.text(ADDR)?;
        Some((Connection { peer_id, addr, conn_type, network }, extra))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(captured: u32, payload: &[u8]) -> Vec<u8> {
        let mut r = Vec::new();
        r.extend(5u64.to_ne_bytes());
        r.extend(6u64.to_ne_bytes());
        r.extend(7u32.to_ne_bytes());
        r.extend([1, 0, 0, 0]);
        r.extend((-3i64).to_ne_bytes());
        r.extend(9u64.to_ne_bytes());
        r.extend(captured.to_ne_bytes());
        r.extend([0; 4]);
        for (text, size) in [("inv", MSG_TYPE), ("inbound", CONN_TYPE), ("1.2.3.4:8333", ADDR)] {
            let mut field = text.as_bytes().to_vec();
            // What the ring held there before must not matter.
            field.push(0);
            field.resize(size, b'x');
            r.extend(field);
        }
        r.extend(payload);
        r
    }

    #[test]
    fn a_message_is_read_up_to_what_was_captured() {
        let record = message(2, b"abcdef");
        assert_eq!(used(&record).len(), MESSAGE + 2);
        let parsed = parse(&record).unwrap();
        let Hit::Message(m) = parsed.hit else { panic!() };
        assert_eq!((m.msg_type, m.conn_type, m.addr), (&b"inv"[..], &b"inbound"[..], &b"1.2.3.4:8333"[..]));
        assert_eq!((m.peer_id, m.size, m.payload), (-3, 9, &b"ab"[..]));
        assert_eq!((parsed.pid, parsed.monotonic_ns), (7, 5));
    }

    #[test]
    fn short_and_unknown_records_are_refused() {
        let record = message(6, b"abcdef");
        for end in 0..record.len() {
            assert!(parse(&record[..end]).is_none(), "{end}");
            let _ = used(&record[..end]);
        }
        let mut unknown = record;
        unknown[20] = 99;
        assert!(parse(&unknown).is_none());
    }
}
