//! Hits of tracepoints in a file, so that what a node did once can be told again without the node.
//!
//! A recording is records without a header, little-endian: `u32` length of what follows, `u64` time (ns since the UNIX
//! epoch), `u8` kind ([`Tracepoint`]), then the fields of the [`Hit`] in order. Text is `u16` length and bytes, a flag is one
//! byte, 0 or 1. Only the payload of a message has no length: it is the rest of the record, which may be shorter than the
//! size that the message says it has. Text and payload are borrowed from the recording, nothing is copied.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

use crate::hit::{Connection, Hash, Hit, Message, Tracepoint};

/// First bytes of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a recording cannot be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The length field says more than there is, so nothing behind it can be found.
    #[error(
        "recording ends in the middle of the record at offset {offset}: it says {length} bytes, {left} are left; \
         the file was cut short, what comes before is fine"
    )]
    CutShort {
        /// Offset of the record's length field in the recording, bytes.
        offset: usize,
        /// What the length field says, bytes.
        length: usize,
        /// What is left, bytes.
        left: usize,
    },
    /// A record that is whole but makes no sense; the next one can be read.
    #[error("cannot read the record at offset {offset} of the recording: {problem}")]
    Broken {
        /// Offset of the record's length field in the recording, bytes.
        offset: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A hit that the format has no room for.
    #[error("cannot record a hit of {tracepoint}: {field} of {length} bytes does not fit its length field")]
    DoesNotFit {
        /// The tracepoint.
        tracepoint: &'static str,
        /// The field that is too long.
        field: &'static str,
        /// Its length, bytes.
        length: usize,
    },
    /// The file cannot be opened.
    #[error("cannot open the recording {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be read, or what is compressed in it is damaged.
    #[error("cannot read or decompress: {0}")]
    Read(#[source] io::Error),
    /// There is more in it than the caller wants in memory.
    #[error("more than {limit} bytes when decompressed: refused, raise the limit if this is no mistake")]
    TooBig {
        /// What the caller allows, bytes.
        limit: usize,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    /// It ends before its last field.
    #[error("it ends before the field `{0}`")]
    Short(&'static str),
    /// There is something behind its last field.
    #[error("{0} bytes are left behind its last field")]
    Trailing(usize),
    /// No tracepoint has that number.
    #[error("no tracepoint has the kind {0}; the recording may be from a newer version")]
    Kind(u8),
    /// A flag that is neither 0 nor 1.
    #[error("the flag `{0}` is neither 0 nor 1")]
    Flag(&'static str),
    /// A message with more payload than its size.
    #[error("{captured} bytes of payload in a message of {size}")]
    Payload {
        /// Size of the message, bytes.
        size: u64,
        /// Payload in the record, bytes.
        captured: usize,
    },
}

/// A hit and when it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Time of the hit, ns since the UNIX epoch.
    pub time_ns: u64,
    /// What was hit.
    pub hit: Hit<'a>,
}

/// Reads one record: time, kind and body, without the length field before them.
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

/// Appends a record to `recording`. On an error nothing is appended.
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

/// Reads a file that is plain or compressed with Zstandard, whatever it is called; `limit` bounds what it may become, in bytes.
pub fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|source| Error::Open { path: path.to_path_buf(), source })?;
    decompress(file, limit)
}

/// Reads to the end of what is plain or compressed with Zstandard (several frames in a row too).
///
/// `limit` bounds what comes out, in bytes: a few bytes can be made to decompress to more than any memory. The decoder's
/// own window is bounded by 100 MiB.
pub fn decompress(reader: impl Read, limit: usize) -> Result<Vec<u8>, Error> {
    let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
    let mut reader = reader;
    (&mut reader).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::Read)?;
    let is_compressed = start == ZSTD_MAGIC;
    let mut input = BufReader::new(io::Cursor::new(start).chain(reader));

    let mut out = Vec::new();
    if !is_compressed {
        read_bounded(&mut input, &mut out, limit)?;
        return Ok(out);
    }
    while !input.fill_buf().map_err(Error::Read)?.is_empty() {
        let frame = StreamingDecoder::new(&mut input).map_err(|err| Error::Read(io::Error::other(err)))?;
        read_bounded(frame, &mut out, limit)?;
    }
    Ok(out)
}

/// Appends what `reader` gives to `out`, which may not get longer than `limit`.
fn read_bounded(reader: impl Read, out: &mut Vec<u8>, limit: usize) -> Result<(), Error> {
    let room = limit.saturating_sub(out.len()) as u64;
    reader.take(room.saturating_add(1)).read_to_end(out).map_err(Error::Read)?;
    if out.len() > limit {
        return Err(Error::TooBig { limit });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LIMIT: usize = 64 << 20;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
    }

    fn count_by_tracepoint(recording: &[u8]) -> BTreeMap<u8, usize> {
        let mut counts = BTreeMap::new();
        for record in Records::new(recording) {
            *counts.entry(record.unwrap().hit.tracepoint() as u8).or_default() += 1;
        }
        counts
    }

    /// One hit of each kind that real recordings lack.
    fn hits_of_our_kinds() -> Vec<Hit<'static>> {
        vec![
            Hit::UtxoCacheFlush { duration_us: -5, mode: 2, coins: 77, bytes: 1 << 40, for_prune: true },
            Hit::AddrmanAttemptAdd {
                inserted: false,
                bucket: 1023,
                position: -1,
                addr: b"1.2.3.4:8333",
                addr_as: 64512,
                source: b"[2001:db8::1]:8333",
                source_as: 0,
            },
            Hit::AddrmanMoveToGood {
                bucket: 255,
                position: 63,
                addr: b"",
                addr_as: u32::MAX,
                source: &[0xff, 0xfe],
                source_as: 1,
            },
        ]
    }

    #[test]
    fn real_recordings_have_the_hits_that_were_counted_when_they_were_made() {
        type Counts = &'static [(u8, usize)];
        let recordings: [(&str, usize, Counts); 2] = [
            (
                "regtest-tour/tracepoints.bin.zst",
                1_653,
                &[
                    (1, 388),
                    (2, 1005),
                    (3, 19),
                    (4, 6),
                    (5, 18),
                    (7, 4),
                    (8, 28),
                    (9, 28),
                    (10, 1),
                    (11, 2),
                    (12, 154),
                ],
            ),
            (
                "regtest-busy/tracepoints.bin.zst",
                9_832,
                &[
                    (1, 1779),
                    (2, 7021),
                    (3, 174),
                    (4, 40),
                    (5, 214),
                    (6, 105),
                    (8, 240),
                    (9, 239),
                    (10, 15),
                    (12, 5),
                ],
            ),
        ];
        for (name, total, expected) in recordings {
            let counts = count_by_tracepoint(&read_file(&data(name), LIMIT).unwrap());
            assert_eq!(counts.values().sum::<usize>(), total, "{name}");
            assert_eq!(counts, expected.iter().copied().collect(), "{name}");
        }
    }

    #[test]
    fn real_messages_have_all_of_their_payload() {
        let recording = read_file(&data("regtest-tour/tracepoints.bin.zst"), LIMIT).unwrap();
        let mut largest = 0;
        for record in Records::new(&recording) {
            let Hit::Message(message) = record.unwrap().hit else { continue };
            assert_eq!(message.payload.len() as u64, message.size);
            assert!(message.addr.contains(&b':'), "{message:?}");
            largest = largest.max(message.size);
        }
        assert_eq!(largest, 1_800_039, "the big block of the tour");
    }

    #[test]
    fn what_is_read_is_written_as_the_same_bytes() {
        let mut ours = Vec::new();
        for hit in hits_of_our_kinds() {
            write_record(&mut ours, u64::MAX, &hit).unwrap();
        }
        let read_back: Vec<_> = Records::new(&ours).map(|record| record.unwrap().hit).collect();
        assert_eq!(read_back, hits_of_our_kinds());

        let mut recordings = vec![ours];
        for name in ["regtest-tour/tracepoints.bin.zst", "regtest-busy/tracepoints.bin.zst"] {
            recordings.push(read_file(&data(name), LIMIT).unwrap());
        }
        for recording in recordings {
            let mut written = Vec::new();
            for record in Records::new(&recording) {
                let record = record.unwrap();
                write_record(&mut written, record.time_ns, &record.hit).unwrap();
            }
            assert!(written == recording);
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error_and_the_records_behind_it_still_come() {
        let mut ours = Vec::new();
        for hit in hits_of_our_kinds() {
            write_record(&mut ours, 1, &hit).unwrap();
        }
        let tour = read_file(&data("regtest-tour/tracepoints.bin.zst"), LIMIT).unwrap();
        let mut seen = [false; 16];
        for recording in [&ours, &tour] {
            for record in Records::new(recording) {
                let record = record.unwrap();
                let kind = record.hit.tracepoint() as usize;
                if seen[kind] || kind <= 2 {
                    continue;
                }
                seen[kind] = true;
                let mut whole = Vec::new();
                write_record(&mut whole, record.time_ns, &record.hit).unwrap();
                for cut in 0..whole.len() - 4 {
                    let mut broken = (cut as u32).to_le_bytes().to_vec();
                    broken.extend_from_slice(&whole[4..4 + cut]);
                    broken.extend_from_slice(&whole);
                    let results: Vec<_> = Records::new(&broken).collect();
                    assert!(matches!(
                        results[0],
                        Err(Error::Broken { offset: 0, problem: Problem::Short(_) })
                    ));
                    assert_eq!(results[1].as_ref().unwrap(), &record);
                    assert_eq!(results.len(), 2);
                }
            }
        }
        assert_eq!(seen.iter().filter(|seen| **seen).count(), 12, "kinds tried");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let header = |kind: u8| [&7u64.to_le_bytes()[..], &[kind]].concat();
        let message = [&header(1)[..], &[0; 8 + 2 + 2 + 2], &3u64.to_le_bytes(), b"four"].concat();
        let flush = [&header(13)[..], &[0; 8 + 4 + 8 + 8], &[2]].concat();
        let rejected = [&header(11)[..], &[0; 32 + 2], b"more"].concat();
        let cases = [
            (header(0), Problem::Kind(0)),
            (header(16), Problem::Kind(16)),
            (message, Problem::Payload { size: 3, captured: 4 }),
            (flush, Problem::Flag("for prune")),
            (rejected, Problem::Trailing(4)),
            (vec![0; 8], Problem::Short("kind")),
            (vec![], Problem::Short("time")),
        ];
        for (record, problem) in cases {
            assert_eq!(parse_record(&record), Err(problem));
        }
    }

    #[test]
    fn a_length_that_points_behind_the_end_ends_the_recording() {
        for (bytes, length, left) in
            [(&[1u8, 0, 0][..], 4, 3), (&[0xff, 0xff, 0xff, 0xff, 0, 0], u32::MAX as usize, 2)]
        {
            let mut recording = Vec::new();
            write_record(&mut recording, 1, &hits_of_our_kinds()[0]).unwrap();
            let end = recording.len();
            recording.extend_from_slice(bytes);
            let mut records = Records::new(&recording);
            assert!(records.next().unwrap().is_ok());
            match records.next() {
                Some(Err(Error::CutShort { offset, length: says, left: has })) => {
                    assert_eq!((offset, says, has), (end, length, left));
                }
                other => panic!("{other:?}"),
            }
            assert!(records.next().is_none());
        }
    }

    #[test]
    fn a_payload_captured_in_part_stays_so() {
        let message = Message {
            inbound: false,
            peer_id: -1,
            addr: b"a:1",
            conn_type: b"manual",
            msg_type: b"block",
            size: 4_000_000,
            payload: b"the first bytes",
        };
        let mut recording = Vec::new();
        write_record(&mut recording, 5, &Hit::Message(message)).unwrap();
        let record = Records::new(&recording).next().unwrap().unwrap();
        assert_eq!(record, Record { time_ns: 5, hit: Hit::Message(message) });
    }

    #[test]
    fn text_that_does_not_fit_is_refused_and_leaves_no_trace() {
        let reason = vec![b'x'; usize::from(u16::MAX) + 1];
        let mut recording = b"before".to_vec();
        let result =
            write_record(&mut recording, 1, &Hit::MisbehavingConnection { peer_id: 1, reason: &reason });
        assert!(matches!(result, Err(Error::DoesNotFit { field: "reason", length: 65_536, .. })));
        assert_eq!(recording, b"before");
    }

    #[test]
    fn decompression_stops_at_the_limit() {
        let compressed = std::fs::read(data("regtest-tour/tracepoints.bin.zst")).unwrap();
        let whole = decompress(&compressed[..], LIMIT).unwrap();
        assert_eq!(whole.len(), 4_402_275);
        assert_eq!(decompress(&compressed[..], whole.len()).unwrap().len(), whole.len());
        let refused = decompress(&compressed[..], whole.len() - 1);
        assert!(matches!(refused, Err(Error::TooBig { .. })));
        assert!(matches!(decompress(&b"plain"[..], 4), Err(Error::TooBig { limit: 4 })));
    }

    #[test]
    fn plain_bytes_and_several_frames_are_read_whole() {
        assert_eq!(decompress(&b"plain"[..], 5).unwrap(), b"plain");
        assert_eq!(decompress(&b""[..], 0).unwrap(), b"");
        let frame = std::fs::read(data("regtest-busy/tracepoints.bin.zst")).unwrap();
        let one = decompress(&frame[..], LIMIT).unwrap().len();
        assert_eq!(decompress(&frame.repeat(2)[..], LIMIT).unwrap().len(), 2 * one);
    }

    #[test]
    fn damaged_compression_is_an_error() {
        let compressed = std::fs::read(data("regtest-tour/tracepoints.bin.zst")).unwrap();
        assert!(matches!(decompress(&compressed[..compressed.len() / 2], LIMIT), Err(Error::Read(_))));
        assert!(matches!(decompress(&compressed[..5], LIMIT), Err(Error::Read(_))));
        assert!(matches!(read_file(Path::new("/no/such/file"), LIMIT), Err(Error::Open { .. })));
    }
}
