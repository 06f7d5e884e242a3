//! Reads a recording record by record, so that it can be larger than memory.

use std::io::Read;

use super::{Error, Record, parse_record};

/// Longest record, bytes. A message of 4 MB is the largest hit; a length field with more than this is none.
pub const MAX_RECORD: usize = 8 << 20;

/// Reads the records of a recording from any stream of bytes.
///
/// Like [`super::Records`], a record that makes no sense is an error, and the ones behind it still come. Any other error ends
/// the recording.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Where the next record begins, bytes from the start.
    offset: usize,
    record: Vec<u8>,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads `input` from its start.
    pub fn new(input: R) -> Self {
        Reader { input, offset: 0, record: Vec::new(), is_over: false }
    }

    /// The next record, or nothing at the end.
    ///
    /// # Errors
    /// [`Error::Broken`] when the record makes no sense: the next can be read. Every other one is the last: the recording ends in a
    /// record, a record is too long, or the bytes cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        self.is_over = true;
        let offset = self.offset;
        let left = self.fill(4)?;
        if left == 0 {
            return Ok(None);
        }
        let Some(field) = self.record.first_chunk::<4>() else {
            return Err(Error::CutShort { offset, length: 4, left });
        };
        let length = u32::from_le_bytes(*field) as usize;
        if length > MAX_RECORD {
            return Err(Error::TooLong { offset, length });
        }
        let left = self.fill(length)?;
        if left < length {
            return Err(Error::CutShort { offset, length, left });
        }
        self.is_over = false;
        self.offset += 4 + length;
        parse_record(&self.record).map(Some).map_err(|problem| Error::Broken { offset, problem })
    }

    /// Reads the next `length` bytes, or what is left. Memory grows with what is there, not with what a length field says.
    fn fill(&mut self, length: usize) -> Result<usize, Error> {
        self.record.clear();
        (&mut self.input).take(length as u64).read_to_end(&mut self.record).map_err(Error::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Problem, Records, read_file, write_record};
    use super::*;
    use crate::hit::Hit;

    fn reports(reader: &mut Reader<impl Read>) -> Vec<Result<u64, String>> {
        let mut all = Vec::new();
        loop {
            match reader.next_record() {
                Ok(None) => return all,
                Ok(Some(record)) => all.push(Ok(record.time_ns)),
                Err(error) => all.push(Err(error.to_string())),
            }
        }
    }

    #[test]
    fn reader_finds_what_records_find() {
        let name = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/regtest-tour/tracepoints.bin.zst");
        let whole = read_file(name.as_ref(), 64 << 20).unwrap();
        let mut damaged = whole[..whole.len() - 1].to_vec();
        damaged[12] = 99;
        for recording in [&whole, &damaged, &whole[..2].to_vec(), &Vec::new()] {
            let expected: Vec<_> =
                Records::new(recording).map(|r| r.map(|r| r.time_ns).map_err(|e| e.to_string())).collect();
            assert_eq!(reports(&mut Reader::new(&recording[..])), expected);
        }
    }

    #[test]
    fn reader_goes_on_after_a_broken_record() {
        let mut recording = vec![1, 0, 0, 0, 9];
        let hit = Hit::MisbehavingConnection { peer_id: 1, reason: b"x" };
        write_record(&mut recording, 7, &hit).unwrap();
        let mut reader = Reader::new(&recording[..]);
        assert!(matches!(
            reader.next_record(),
            Err(Error::Broken { offset: 0, problem: Problem::Short("time") })
        ));
        assert_eq!(reader.next_record().unwrap(), Some(Record { time_ns: 7, hit }));
        assert_eq!(reader.next_record().unwrap(), None);
    }

    #[test]
    fn reader_takes_no_memory_for_a_length_field() {
        let endless = (&[0xff, 0xff, 0xff, 0x7f][..]).chain(std::io::repeat(0));
        let mut reader = Reader::new(endless);
        assert!(matches!(reader.next_record(), Err(Error::TooLong { offset: 0, length: 0x7fff_ffff })));
        assert_eq!(reader.next_record().unwrap(), None);
        assert!(reader.record.capacity() < 1000);
    }
}
