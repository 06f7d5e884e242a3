//! Reads the integers, byte strings and lists that P2P messages are made of.
//!
//! The one place where payloads are indexed: whatever is taken is known to be there, and a list never reserves more than
//! the rest of the payload could fill.

use std::ops::Range;

use bitcoin_hashes::{Hash as _, HashEngine as _, sha256d};
use bytes::{Bytes, BytesMut};

/// Length of a hash, bytes.
pub(super) const HASH: usize = 32;

/// Space for computed hashes is taken in pieces of this many bytes at most.
const LARGEST_CHUNK: usize = 16 * 1024;

/// Why a payload is not the message that its command promises.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("payload ends at byte {0}")]
    Ends(usize),
    #[error("compact size at byte {0} is not in its shortest form")]
    CompactSize(usize),
    #[error("{what} of {length} bytes, more than {limit}")]
    TooLong { what: &'static str, length: u64, limit: usize },
    #[error("{what} address of {length} bytes instead of {expected}")]
    AddressLength { what: &'static str, length: u64, expected: usize },
    #[error("{what} {value} is not {wanted}")]
    Value { what: &'static str, value: u64, wanted: &'static str },
    #[error("transaction says it has witnesses but has none")]
    NoWitness,
    #[error("{what} {index} of {count}: {source}")]
    Entry { what: &'static str, index: u64, count: u64, source: Box<Malformed> },
}

/// A payload and how far it has been read.
pub(super) struct Reader {
    payload: Bytes,
    /// Never past the end of `payload`.
    at: usize,
    /// Space for computed hashes: many share one allocation.
    hashes: BytesMut,
    /// Size of the next piece of that space, bytes.
    chunk: usize,
}

impl Reader {
    pub(super) fn new(payload: Bytes) -> Self {
        // A transaction has two hashes and most messages with hashes are single transactions.
        Self { payload, at: 0, hashes: BytesMut::new(), chunk: 2 * HASH }
    }

    /// The whole payload, however much was read.
    pub(super) fn into_payload(self) -> Bytes {
        self.payload
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> usize {
        self.payload.len() - self.at
    }

    /// Goes over `length` bytes and says where they are.
    fn take(&mut self, length: usize) -> Result<Range<usize>, Malformed> {
        if length > self.left() {
            return Err(Malformed::Ends(self.payload.len()));
        }
        let range = self.at..self.at + length;
        self.at = range.end;
        Ok(range)
    }

    pub(super) fn skip(&mut self, length: usize) -> Result<(), Malformed> {
        self.take(length)?;
        Ok(())
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<Bytes, Malformed> {
        let range = self.take(length)?;
        Ok(self.payload.slice(range))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let range = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.payload[range]);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// A hash, 32 bytes in internal order.
    pub(super) fn hash(&mut self) -> Result<Bytes, Malformed> {
        self.bytes(HASH)
    }

    /// Core's `ReadCompactSize`: 1, 3, 5 or 9 bytes, and no more than the number needs.
    pub(super) fn compact_size(&mut self) -> Result<u64, Malformed> {
        let start = self.at;
        let (value, smallest) = match self.u8()? {
            0xfd => (u64::from(u16::from_le_bytes(self.array()?)), 0xfd),
            0xfe => (u64::from(self.u32()?), 0x1_0000),
            0xff => (self.u64()?, 0x1_0000_0000),
            small => (u64::from(small), 0),
        };
        if value < smallest {
            return Err(Malformed::CompactSize(start));
        }
        Ok(value)
    }

    /// Bytes after their length.
    pub(super) fn var_bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.length()?;
        self.bytes(length)
    }

    /// Goes over bytes after their length.
    pub(super) fn skip_var_bytes(&mut self) -> Result<(), Malformed> {
        let length = self.length()?;
        self.skip(length)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        let length = self.compact_size()?;
        usize::try_from(length).map_err(|_| Malformed::Ends(self.payload.len()))
    }

    /// At most `limit` bytes after their length.
    pub(super) fn short_bytes(&mut self, what: &'static str, limit: usize) -> Result<Bytes, Malformed> {
        let length = self.compact_size()?;
        if length > limit as u64 {
            return Err(Malformed::TooLong { what, length, limit });
        }
        self.bytes(length as usize)
    }

    /// Text of at most `limit` bytes after its length. Core reads any bytes as text; what is not UTF-8 becomes U+FFFD.
    pub(super) fn text(&mut self, what: &'static str, limit: usize) -> Result<String, Malformed> {
        let text = self.short_bytes(what, limit)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A count, then as many entries. `smallest` is the least number of bytes an entry takes: no list reserves more than
    /// the rest of the payload could fill.
    pub(super) fn list<T>(
        &mut self,
        what: &'static str,
        smallest: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.compact_size()?;
        // More than fit: it will end with an error, most likely soon.
        let fits = self.left() / smallest;
        let capacity = usize::try_from(count).ok().filter(|count| *count <= fits).unwrap_or_default();
        let mut entries = Vec::with_capacity(capacity);
        for index in 1..=count {
            match read(self) {
                Ok(entry) => entries.push(entry),
                Err(source) => {
                    return Err(Malformed::Entry { what, index, count, source: Box::new(source) });
                }
            }
        }
        Ok(entries)
    }

    /// The part of the payload in that range, which has been read.
    pub(super) fn read_part(&self, range: Range<usize>) -> Bytes {
        self.payload.slice(range)
    }

    /// Double SHA-256 of parts of the payload that have been read, one after the other.
    pub(super) fn sha256d(&mut self, parts: impl IntoIterator<Item = Range<usize>>) -> Bytes {
        let mut engine = sha256d::Hash::engine();
        for part in parts {
            engine.input(&self.payload[part]);
        }
        if self.hashes.capacity() < HASH {
            self.hashes = BytesMut::with_capacity(self.chunk);
            self.chunk = (2 * self.chunk).min(LARGEST_CHUNK);
        }
        self.hashes.extend_from_slice(sha256d::Hash::from_engine(engine).as_byte_array());
        self.hashes.split().freeze()
    }
}
