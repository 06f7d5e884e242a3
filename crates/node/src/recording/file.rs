//! Recordings as files, plain or compressed. Zstandard is decompressed nowhere else, so that nothing is without a bound.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;

use super::Error;

/// First bytes of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads a file that is plain or compressed with Zstandard, whatever it is called; `limit` bounds what it may become, in bytes.
///
/// # Errors
/// When it cannot be read or decompressed, or becomes larger than `limit`.
pub fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|source| Error::Open { path: path.to_path_buf(), source })?;
    decompress(file, limit)
}

/// Reads to the end of what is plain or compressed with Zstandard (several frames in a row too).
///
/// `limit` bounds what comes out, in bytes: a few bytes can be made to decompress to more than any memory. The decoder's
/// own window is bounded by 100 MiB.
///
/// # Errors
/// When it cannot be read or decompressed, or becomes larger than `limit`.
#[expect(clippy::disallowed_methods, reason = "what it gives is bounded here, for all who decompress")]
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
