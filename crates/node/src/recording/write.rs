//! From hits to bytes.

use super::Error;
use crate::hit::{Connection, Hit, Tracepoint};

/// Appends a record to `recording`. On an error nothing is appended.
///
/// # Errors
/// When a text, or the record, is longer than its length field can say.
pub fn write_record(recording: &mut Vec<u8>, time_ns: u64, hit: &Hit) -> Result<(), Error> {
    let start = recording.len();
    let mut writer = Writer { out: recording, tracepoint: hit.tracepoint(), too_long: None };
    writer.u32(0);
    writer.u64(time_ns);
    writer.u8(hit.tracepoint() as u8);
    writer.hit(hit);
    let too_long = writer.too_long;

    let length = recording.len() - start - 4;
    let error = match (too_long, u32::try_from(length)) {
        (None, Ok(length)) => {
            recording[start..start + 4].copy_from_slice(&length.to_le_bytes());
            return Ok(());
        }
        (Some(error), _) => error,
        (None, Err(_)) => {
            Error::DoesNotFit { tracepoint: hit.tracepoint().as_str(), field: "record", length }
        }
    };
    recording.truncate(start);
    Err(error)
}

/// Appends fields to a record.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    tracepoint: Tracepoint,
    too_long: Option<Error>,
}

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }

    fn text(&mut self, field: &'static str, text: &[u8]) {
        let Ok(length) = u16::try_from(text.len()) else {
            let tracepoint = self.tracepoint.as_str();
            self.too_long = Some(Error::DoesNotFit { tracepoint, field, length: text.len() });
            return;
        };
        self.bytes(&length.to_le_bytes());
        self.bytes(text);
    }

    fn connection(&mut self, conn: &Connection) {
        self.i64(conn.peer_id);
        self.text("address", conn.addr);
        self.text("connection type", conn.conn_type);
        self.u32(conn.network);
    }

    fn hit(&mut self, hit: &Hit) {
        match hit {
            Hit::Message(message) => {
                self.i64(message.peer_id);
                self.text("address", message.addr);
                self.text("connection type", message.conn_type);
                self.text("message type", message.msg_type);
                self.u64(message.size);
                self.bytes(message.payload);
            }
            Hit::InboundConnection { conn, existing } | Hit::OutboundConnection { conn, existing } => {
                self.connection(conn);
                self.u64(*existing);
            }
            Hit::ClosedConnection { conn, established }
            | Hit::EvictedInboundConnection { conn, established } => {
                self.connection(conn);
                self.u64(*established);
            }
            Hit::MisbehavingConnection { peer_id, reason } => {
                self.i64(*peer_id);
                self.text("reason", reason);
            }
            Hit::MempoolAdded { txid, vsize, fee } => {
                self.bytes(txid);
                self.i32(*vsize);
                self.i64(*fee);
            }
            Hit::MempoolRemoved { txid, reason, vsize, fee, entry_time } => {
                self.bytes(txid);
                self.text("reason", reason);
                self.i32(*vsize);
                self.i64(*fee);
                self.u64(*entry_time);
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
            } => {
                self.bytes(replaced_txid);
                self.i32(*replaced_vsize);
                self.i64(*replaced_fee);
                self.u64(*replaced_entry_time);
                self.bytes(replacement_id);
                self.i32(*replacement_vsize);
                self.i64(*replacement_fee);
                self.u8(u8::from(*by_transaction));
            }
            Hit::MempoolRejected { txid, reason } => {
                self.bytes(txid);
                self.text("reason", reason);
            }
            Hit::BlockConnected { hash, height, transactions, inputs, sigops, duration } => {
                self.bytes(hash);
                self.i32(*height);
                self.u64(*transactions);
                self.i32(*inputs);
                self.u64(*sigops);
                self.u64(*duration);
            }
            Hit::UtxoCacheFlush { duration_us, mode, coins, bytes, for_prune } => {
                self.i64(*duration_us);
                self.u32(*mode);
                self.u64(*coins);
                self.u64(*bytes);
                self.u8(u8::from(*for_prune));
            }
            Hit::AddrmanAttemptAdd { inserted, bucket, position, addr, addr_as, source, source_as } => {
                self.u8(u8::from(*inserted));
                self.i32(*bucket);
                self.i32(*position);
                self.text("address", addr);
                self.u32(*addr_as);
                self.text("source", source);
                self.u32(*source_as);
            }
            Hit::AddrmanMoveToGood { bucket, position, addr, addr_as, source, source_as } => {
                self.i32(*bucket);
                self.i32(*position);
                self.text("address", addr);
                self.u32(*addr_as);
                self.text("source", source);
                self.u32(*source_as);
            }
        }
    }
}
