//! Recordings as files, plain or compressed. Zstandard is decompressed only here, so that every
//! decompression has a bound and every checksum is compared.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Error, Reader};
use crate::regular;

/// First bytes of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of a frame's header at most: magic number, descriptor, window descriptor, dictionary, content size.
const MAX_HEADER: usize = 4 + 1 + 1 + 4 + 8;

/// Largest window of a frame, bytes: what has to stay in memory while it is decompressed. `zstd
/// -19` and below write at most 8 MiB.
const MAX_WINDOW: u64 = 64 << 20;

/// Bytes that are decompressed ahead of what is asked for.
const STEP: usize = 128 << 10;

/// Opens a recording, plain or compressed with Zstandard, whatever its name. Memory is bounded by
/// one record and one window.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub fn open(path: &Path) -> Result<Reader<Decompressed<File>>, Error> {
    let file = regular::open(path).map_err(|source| Error::Open { path: path.to_path_buf(), source })?;
    Ok(Reader::new(Decompressed::new(file)?))
}

/// Reads a file that is plain or compressed with Zstandard, whatever it is called; `limit` bounds
/// what it may become, in bytes.
///
/// # Errors
/// When it cannot be read or decompressed, or becomes larger than `limit`.
pub fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = regular::open(path).map_err(|source| Error::Open { path: path.to_path_buf(), source })?;
    decompress(file, limit)
}

/// Reads to the end of what is plain or compressed with Zstandard (several frames in a row too).
///
/// `limit` bounds what comes out, in bytes: a few bytes can be made to decompress to more than any memory.
///
/// # Errors
/// When it cannot be read or decompressed, or becomes larger than `limit`.
pub fn decompress(reader: impl Read, limit: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let whole = (limit as u64).saturating_add(1);
    Decompressed::new(reader)?.take(whole).read_to_end(&mut out).map_err(Error::Read)?;
    if out.len() > limit {
        return Err(Error::TooBig { limit });
    }
    Ok(out)
}

/// The bytes of a file that is plain or compressed, as they are needed.
///
/// The checksum of a frame, if it has one, is compared after the last byte of the frame, and a
/// mismatch is an error then. Damage in a frame without a checksum can go unnoticed.
#[expect(missing_debug_implementations, reason = "the decoder has none")]
pub struct Decompressed<R> {
    input: BufReader<io::Chain<Cursor<Vec<u8>>, R>>,
    /// Nothing when the file is plain.
    decoder: Option<FrameDecoder>,
    is_in_frame: bool,
}

impl<R: Read> Decompressed<R> {
    /// Finds out whether `reader` is compressed.
    ///
    /// # Errors
    /// When it cannot be read.
    #[expect(
        clippy::disallowed_methods,
        reason = "window and checksum are checked here, for all who decompress"
    )]
    pub fn new(mut reader: R) -> Result<Self, Error> {
        let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
        (&mut reader).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::Read)?;
        let decoder = (start == ZSTD_MAGIC).then(FrameDecoder::new);
        let input = BufReader::new(Cursor::new(start).chain(reader));
        Ok(Decompressed { input, decoder, is_in_frame: false })
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(decoder) = &mut self.decoder else { return self.input.read(buffer) };
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_in_frame {
                if self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                begin_frame(decoder, &mut self.input)?;
                self.is_in_frame = true;
            }
            let wanted = buffer.len().min(STEP);
            while decoder.can_collect() < wanted && !decoder.is_finished() {
                let step = BlockDecodingStrategy::UptoBytes(wanted - decoder.can_collect());
                decoder.decode_blocks(&mut self.input, step).map_err(io::Error::other)?;
            }
            let read = decoder.read(&mut buffer[..wanted])?;
            if read > 0 {
                return Ok(read);
            }
            let said = decoder.get_checksum_from_data();
            if said.is_some() && said != decoder.get_calculated_checksum() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, BAD_CHECKSUM));
            }
            self.is_in_frame = false;
        }
    }
}

/// Error of a frame whose content does not match its checksum.
const BAD_CHECKSUM: &str = "the checksum does not match: the file is damaged, get another copy of it";

/// Reads the header of a frame. The decoder itself allows any window, so it sees the header only
/// when that is bounded.
fn begin_frame(decoder: &mut FrameDecoder, input: &mut impl Read) -> io::Result<()> {
    let mut header = [0; MAX_HEADER];
    let mut length = ZSTD_MAGIC.len() + 1;
    input.read_exact(&mut header[..length])?;
    if header[..ZSTD_MAGIC.len()] == ZSTD_MAGIC {
        let (fields, window) = header_fields(header[ZSTD_MAGIC.len()]);
        input.read_exact(&mut header[length..length + fields])?;
        let window = window(&header[length..length + fields]);
        if window > MAX_WINDOW {
            let why = format!(
                "it needs a window of {window} bytes in memory, more than {MAX_WINDOW}: decompress it with `zstd -d --long=31`"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        length += fields;
    }
    decoder.reset(&header[..length]).map_err(io::Error::other)
}

/// Number of header bytes after the descriptor, and a function that reads the window size from them
/// (RFC 8878, section 3.1.1.1).
fn header_fields(descriptor: u8) -> (usize, impl Fn(&[u8]) -> u64) {
    let is_single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!is_single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        flag => 1 << flag,
    };
    let size = move |fields: &[u8]| {
        if !is_single_segment {
            let base = 1_u64 << (10 + (fields[0] >> 3));
            return base + base / 8 * u64::from(fields[0] & 7);
        }
        // The content is the window. Of two bytes, 256 are left out.
        let content =
            fields[dictionary..].iter().rev().fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
        if content_size == 2 { content + 256 } else { content }
    };
    (window + dictionary + content_size, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 << 20;

    fn data(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)).unwrap()
    }

    /// A frame with one block of zeros, so many bytes, in a window of 2^`window_log`.
    fn frame_of_zeros(window_log: u8, length: u32) -> Vec<u8> {
        let header = [&ZSTD_MAGIC[..], &[0, (window_log - 10) << 3]].concat();
        // Last block, run-length encoded.
        let block = (length << 3 | 1 << 1 | 1).to_le_bytes();
        [&header[..], &block[..3], &[0]].concat()
    }

    #[test]
    fn flipped_bit_fails_the_checksum() {
        let whole = data("regtest-tour/tracepoints.bin.zst");
        assert!(whole[4] & 4 != 0, "the recording has a checksum");
        decompress(&whole[..], LIMIT).unwrap();
        // In the checksum itself, and in literals of the last block, where it changes what is told
        // and no structure.
        for at in [whole.len() - 1, whole.len() - 4] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            let error = decompress(&flipped[..], LIMIT).unwrap_err();
            assert!(error.to_string().contains("checksum"), "{at}: {error}");
        }
        // Anywhere behind the magic number: an error, or the same bytes.
        let plain = decompress(&whole[..], LIMIT).unwrap();
        let mut unnoticed = 0;
        for at in (4..whole.len()).step_by(whole.len() / 40) {
            let mut flipped = whole.clone();
            flipped[at] ^= 16;
            unnoticed += usize::from(decompress(&flipped[..], LIMIT).is_ok_and(|bytes| bytes != plain));
        }
        assert_eq!(unnoticed, 0);
    }

    #[test]
    fn frame_without_a_checksum_is_read() {
        assert_eq!(decompress(&frame_of_zeros(17, 1000)[..], LIMIT).unwrap(), [0; 1000]);
    }

    #[test]
    fn window_is_bounded_in_every_frame() {
        let large = frame_of_zeros(30, 1000);
        // A single segment has its content for a window: 4 GiB.
        let segment = [&ZSTD_MAGIC[..], &[0xe0], &(4_u64 << 30).to_le_bytes(), &[0; 16]].concat();
        let second = [frame_of_zeros(17, 10), large.clone()].concat();
        for frame in [large, segment, second] {
            let error = decompress(&frame[..], LIMIT).unwrap_err();
            assert!(error.to_string().contains("zstd -d --long=31"), "{error}");
        }
        decompress(&frame_of_zeros(26, 1000)[..], LIMIT).unwrap();
    }

    #[test]
    fn damaged_files_fail_within_their_bounds() {
        let whole = data("regtest-tour/tracepoints.bin.zst");
        // A fixed generator (xorshift), so that a failure can be seen again.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize
        };
        for _ in 0..60 {
            let mut damaged = whole[..1 + next() % whole.len()].to_vec();
            for _ in 0..next() % 8 {
                let at = next() % damaged.len().min(2000);
                damaged[at] = next() as u8;
            }
            let _ = decompress(&damaged[..], 1 << 20);
        }
        for (bytes, limit) in [(vec![0; 1 << 16], 1 << 16), (vec![0xff; 1 << 16], 1 << 16)] {
            assert_eq!(decompress(&bytes[..], limit).unwrap(), bytes, "plain");
            let frame = [&ZSTD_MAGIC[..], &bytes].concat();
            assert!(decompress(&frame[..], limit).is_err());
        }
    }
}
