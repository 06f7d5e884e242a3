//! From bytes to hits. Whatever is in a record, nothing is read beyond it.

use super::{Error, Problem, Record};
use crate::hit::{Connection, Hash, Hit, Message, Tracepoint};

/// Reads one record: time, kind and body, without the length field before them.
///
/// # Errors
/// Which field makes no sense.
pub fn parse_record(record: &[u8]) -> Result<Record<'_>, Problem> {
    let mut fields = Fields { left: record };
    let time_ns = fields.u64("time")?;
    let kind = fields.u8("kind")?;
    let tracepoint = Tracepoint::from_kind(kind).ok_or(Problem::Kind(kind))?;
    let hit = fields.hit(tracepoint)?;
    if !fields.left.is_empty() {
        return Err(Problem::Trailing(fields.left.len()));
    }
    Ok(Record { time_ns, hit })
}

/// The records of a recording, in order.
///
/// A record that makes no sense is an error with its offset, and the ones behind it still come. A length field that points
/// behind the end is the last error: whatever follows cannot be told apart.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    recording: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    /// Reads `recording` from its start.
    pub fn new(recording: &'a [u8]) -> Self {
        Records { recording, offset: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = &self.recording[self.offset..];
        if left.is_empty() {
            return None;
        }
        let offset = self.offset;
        let Some((length, rest)) = left.split_first_chunk::<4>() else {
            self.offset = self.recording.len();
            return Some(Err(Error::CutShort { offset, length: 4, left: left.len() }));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(record) = rest.get(..length) else {
            self.offset = self.recording.len();
            return Some(Err(Error::CutShort { offset, length, left: rest.len() }));
        };
        self.offset += 4 + length;
        Some(parse_record(record).map_err(|problem| Error::Broken { offset, problem }))
    }
}

/// Takes fields off the front of a record.
struct Fields<'a> {
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Problem> {
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(Problem::Short(field))?;
        self.left = left;
        Ok(*taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Problem> {
        Ok(self.array::<1>(field)?[0])
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, Problem> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Problem::Flag(field)),
        }
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, Problem> {
        Ok(i32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, Problem> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    fn hash(&mut self, field: &'static str) -> Result<Hash, Problem> {
        self.array(field)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a [u8], Problem> {
        let length = usize::from(u16::from_le_bytes(self.array(field)?));
        let (text, left) = self.left.split_at_checked(length).ok_or(Problem::Short(field))?;
        self.left = left;
        Ok(text)
    }

    fn message(&mut self, inbound: bool) -> Result<Message<'a>, Problem> {
        let mut message = Message {
            inbound,
            peer_id: self.i64("peer id")?,
            addr: self.text("address")?,
            conn_type: self.text("connection type")?,
            msg_type: self.text("message type")?,
            size: self.u64("size")?,
            payload: &[],
        };
        message.payload = std::mem::take(&mut self.left);
        let captured = message.payload.len();
        if captured as u64 > message.size {
            return Err(Problem::Payload { size: message.size, captured });
        }
        Ok(message)
    }

    fn connection(&mut self) -> Result<Connection<'a>, Problem> {
        Ok(Connection {
            peer_id: self.i64("peer id")?,
            addr: self.text("address")?,
            conn_type: self.text("connection type")?,
            network: self.u32("network")?,
        })
    }

    fn hit(&mut self, tracepoint: Tracepoint) -> Result<Hit<'a>, Problem> {
        Ok(match tracepoint {
            Tracepoint::InboundMessage => Hit::Message(self.message(true)?),
            Tracepoint::OutboundMessage => Hit::Message(self.message(false)?),
            Tracepoint::InboundConnection => Hit::InboundConnection {
                conn: self.connection()?,
                existing: self.u64("existing connections")?,
            },
            Tracepoint::OutboundConnection => Hit::OutboundConnection {
                conn: self.connection()?,
                existing: self.u64("existing connections")?,
            },
            Tracepoint::ClosedConnection => {
                Hit::ClosedConnection { conn: self.connection()?, established: self.u64("time established")? }
            }
            Tracepoint::EvictedInboundConnection => Hit::EvictedInboundConnection {
                conn: self.connection()?,
                established: self.u64("time established")?,
            },
            Tracepoint::MisbehavingConnection => {
                Hit::MisbehavingConnection { peer_id: self.i64("peer id")?, reason: self.text("reason")? }
            }
            Tracepoint::MempoolAdded => Hit::MempoolAdded {
                txid: self.hash("txid")?,
                vsize: self.i32("vsize")?,
                fee: self.i64("fee")?,
            },
            Tracepoint::MempoolRemoved => Hit::MempoolRemoved {
                txid: self.hash("txid")?,
                reason: self.text("reason")?,
                vsize: self.i32("vsize")?,
                fee: self.i64("fee")?,
                entry_time: self.u64("entry time")?,
            },
            Tracepoint::MempoolReplaced => Hit::MempoolReplaced {
                replaced_txid: self.hash("replaced txid")?,
                replaced_vsize: self.i32("replaced vsize")?,
                replaced_fee: self.i64("replaced fee")?,
                replaced_entry_time: self.u64("replaced entry time")?,
                replacement_id: self.hash("replacement id")?,
                replacement_vsize: self.i32("replacement vsize")?,
                replacement_fee: self.i64("replacement fee")?,
                by_transaction: self.flag("by transaction")?,
            },
            Tracepoint::MempoolRejected => {
                Hit::MempoolRejected { txid: self.hash("txid")?, reason: self.text("reason")? }
            }
            Tracepoint::BlockConnected => Hit::BlockConnected {
                hash: self.hash("hash")?,
                height: self.i32("height")?,
                transactions: self.u64("transactions")?,
                inputs: self.i32("inputs")?,
                sigops: self.u64("sigops")?,
                duration: self.u64("duration")?,
            },
            Tracepoint::UtxoCacheFlush => Hit::UtxoCacheFlush {
                duration_us: self.i64("duration")?,
                mode: self.u32("mode")?,
                coins: self.u64("coins")?,
                bytes: self.u64("bytes")?,
                for_prune: self.flag("for prune")?,
            },
            Tracepoint::AddrmanAttemptAdd => Hit::AddrmanAttemptAdd {
                inserted: self.flag("inserted")?,
                bucket: self.i32("bucket")?,
                position: self.i32("position")?,
                addr: self.text("address")?,
                addr_as: self.u32("AS of the address")?,
                source: self.text("source")?,
                source_as: self.u32("AS of the source")?,
            },
            Tracepoint::AddrmanMoveToGood => Hit::AddrmanMoveToGood {
                bucket: self.i32("bucket")?,
                position: self.i32("position")?,
                addr: self.text("address")?,
                addr_as: self.u32("AS of the address")?,
                source: self.text("source")?,
                source_as: self.u32("AS of the source")?,
            },
        })
    }
}
