//! Hits of tracepoints in a file, so that what a node did once can be told again without the node.
//!
//! A recording is records without a header, little-endian: `u32` length of what follows, `u64` time (ns since the UNIX
//! epoch), `u8` kind ([`Tracepoint`]), then the fields of the [`Hit`] in order. Text is `u16` length and bytes, a flag is one
//! byte, 0 or 1. Only the payload of a message has no length: it is the rest of the record, which may be shorter than the
//! size that the message says it has. Text and payload are borrowed from the recording, nothing is copied.
//!
//! | file | what it is for |
//! |---|---|
//! | read.rs | from bytes to hits |
//! | write.rs | from hits to bytes |
//! | reader.rs | the same, from a stream |
//! | file.rs | files, plain or compressed, with a bound |

mod file;
mod read;
mod reader;
mod write;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::hit::Hit;

pub use file::{Decompressed, decompress, open, read_file};
pub use read::{Records, parse_record};
pub use reader::{MAX_RECORD, Reader};
pub use write::write_record;

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
    /// The length field says more than any record has, so nothing behind it can be found.
    #[error(
        "the record at offset {offset} of the recording would have {length} bytes, more than the {MAX_RECORD} of any record; this \
         is no recording, or it is damaged from here on"
    )]
    TooLong {
        /// Offset of the record's length field in the recording, bytes.
        offset: usize,
        /// What the length field says, bytes.
        length: usize,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::path::Path;

    use super::*;
    use crate::hit::Message;

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
