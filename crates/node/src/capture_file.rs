//! Reads the files that Bitcoin Core writes with its option `-capturemessages`.
//!
//! Core writes each message that it processes or sends to `message_capture/<peer>/msgs_recv.dat` or `msgs_sent.dat` in its
//! data directory (net.cpp, `CaptureMessageToFile`): `i64` time (us since the UNIX epoch), message type (12 bytes, filled
//! with NUL), `u32` length, payload; little-endian, without a header.
//!
//! The files can be read while they grow: a [`Reader`] that has come to the end of what is there goes on when there is more.
//! [`Merged`] reads the files of all peers in the order of time, with few of them open and one message in memory, as a node
//! has a folder for each peer it ever had.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::regular;

/// Largest payload of a message, bytes (Bitcoin Core net.h, `MAX_PROTOCOL_MESSAGE_LENGTH`).
pub const MAX_PAYLOAD: u32 = 4 * 1000 * 1000;

/// Length of a message type, bytes (Bitcoin Core protocol.h, `MESSAGE_TYPE_SIZE`).
const MSG_TYPE_LEN: usize = 12;

/// Bytes before the payload: time, message type, length.
const HEADER_LEN: usize = 8 + MSG_TYPE_LEN + 4;

/// Files that [`Merged`] reads at most. Each costs about 100 bytes of memory.
pub const MAX_FILES: usize = 1_000_000;

/// Name of the file with what the node received.
pub const RECEIVED: &str = "msgs_recv.dat";

/// Name of the file with what the node sent.
pub const SENT: &str = "msgs_sent.dat";

/// Why a capture file cannot be read.
#[derive(Debug, Error)]
pub enum Error {
    /// Reading failed.
    #[error("cannot read the capture file at offset {offset}: {source}")]
    Read {
        /// Where, bytes.
        offset: u64,
        /// Why not.
        source: io::Error,
    },
    /// A message that is longer than any message.
    #[error(
        "the message at offset {offset} of the capture file would have {length} bytes, more than the {MAX_PAYLOAD} \
         of any message; this is no capture file, or it is damaged from here on"
    )]
    TooLong {
        /// Where the message begins, bytes.
        offset: u64,
        /// What its length field says, bytes.
        length: u32,
    },
    /// A message type that is not filled with NUL, so no message begins there.
    #[error(
        "no message begins at offset {offset} of the capture file: {msg_type:02x?} is no message type; \
         this is no capture file, or it is damaged from here on"
    )]
    MessageType {
        /// Where the message should begin, bytes.
        offset: u64,
        /// What is there instead of a message type.
        msg_type: [u8; MSG_TYPE_LEN],
    },
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// None of what is in a folder is of a peer.
    #[error(
        "nothing in {path} is a folder of a peer, as 127.0.0.1_8333: name the folder message_capture, which is in the node's data \
         directory, in that of its network"
    )]
    NoPeers {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder that is not named by a peer's address.
    #[error("{path} is left out: its name is not the address of a peer, as 127.0.0.1_8333")]
    Folder {
        /// The file or folder.
        path: PathBuf,
    },
    /// One of many files cannot be read on; the others can.
    #[error("{path} is left out from here on: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },
    /// There are more files than can be merged.
    #[error("more than {MAX_FILES} capture files in {path}; read parts of it")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
    },
}

/// A message that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedMessage {
    /// When the node processed or sent it, us since the UNIX epoch. It can go backwards, as the node's clock can.
    pub time_us: i64,
    msg_type: [u8; MSG_TYPE_LEN],
    /// The payload.
    pub payload: Vec<u8>,
}

impl CapturedMessage {
    /// Message type: `inv`.
    pub fn msg_type(&self) -> &[u8] {
        let end = self.msg_type.iter().position(|byte| *byte == 0).unwrap_or(MSG_TYPE_LEN);
        &self.msg_type[..end]
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    time_us: i64,
    msg_type: [u8; MSG_TYPE_LEN],
    length: u32,
}

/// Reads the messages of one file.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Where the message begins that is read next, bytes.
    offset: u64,
    /// What has been read of that message.
    partial: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads a capture file from its start. Wrap a file in a [`BufReader`].
    pub fn new(input: R) -> Self {
        Reader::at(input, 0)
    }

    /// Reads on where `input` is, which is `offset` bytes from the start: the [`Reader::offset`] of an earlier one.
    pub fn at(input: R, offset: u64) -> Self {
        Reader { input, offset, partial: Vec::new() }
    }

    /// The next message, or `None` when there is no whole one (yet): call it again when the file has grown.
    ///
    /// After an error the place of the next message is not known, and every further call fails in the same way.
    ///
    /// # Errors
    /// When the file cannot be read, or is not in the format of capture files.
    pub fn next_message(&mut self) -> Result<Option<CapturedMessage>, Error> {
        let Some(header) = self.peek_header()? else { return Ok(None) };
        if !self.fill(HEADER_LEN + header.length as usize)? {
            return Ok(None);
        }
        self.offset += self.partial.len() as u64;
        let mut payload = std::mem::take(&mut self.partial);
        payload.drain(..HEADER_LEN);
        Ok(Some(CapturedMessage { time_us: header.time_us, msg_type: header.msg_type, payload }))
    }

    /// Where the next message begins, bytes from the start of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the next message that are there while the rest is not: the node is writing it, or it died while it did.
    pub fn incomplete(&self) -> usize {
        self.partial.len()
    }

    fn peek_header(&mut self) -> Result<Option<Header>, Error> {
        if !self.fill(HEADER_LEN)? {
            return Ok(None);
        }
        let offset = self.offset;
        let Some((time, rest)) = self.partial.split_first_chunk::<8>() else { return Ok(None) };
        let Some((msg_type, rest)) = rest.split_first_chunk::<MSG_TYPE_LEN>() else { return Ok(None) };
        let Some((length, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let (msg_type, length) = (*msg_type, u32::from_le_bytes(*length));

        let fill = msg_type.iter().skip_while(|byte| **byte != 0);
        if fill.copied().any(|byte| byte != 0) {
            return Err(Error::MessageType { offset, msg_type });
        }
        if length > MAX_PAYLOAD {
            return Err(Error::TooLong { offset, length });
        }
        Ok(Some(Header { time_us: i64::from_le_bytes(*time), msg_type, length }))
    }

    /// Reads until `wanted` bytes of the message are there; whether they are. Memory grows with what is there, not with what
    /// a length field says.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        let missing = wanted.saturating_sub(self.partial.len());
        let read = (&mut self.input).take(missing as u64).read_to_end(&mut self.partial);
        read.map_err(|source| Error::Read { offset: self.offset, source })?;
        Ok(self.partial.len() >= wanted)
    }
}

/// The address and port of the peer after which Core named a folder, as Core prints them elsewhere:
/// `127.0.0.1_14069` is `127.0.0.1:14069`, `[2001_db8__1]_8333` is `[2001:db8::1]:8333`.
///
/// Core replaces every colon by an underscore, which no address has.
pub fn peer_of_folder(name: &str) -> Option<String> {
    let (host, port) = name.rsplit_once('_')?;
    port.parse::<u16>().ok()?;
    let host = host.replace('_', ":");
    let is_address = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, zone) = match rest.strip_suffix(']')?.split_once('%') {
                Some((address, zone)) => (address, zone),
                None => (rest.strip_suffix(']')?, "0"),
            };
            address.parse::<Ipv6Addr>().is_ok() && zone.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }
        None => host.parse::<Ipv4Addr>().is_ok() || is_named_address(&host),
    };
    is_address.then(|| format!("{host}:{port}"))
}

/// Addresses that Core prints as a name in base32: Tor, I2P, and its internal ones (netaddress.cpp, `ToStringAddr`).
fn is_named_address(host: &str) -> bool {
    [".onion", ".b32.i2p", ".internal"]
        .into_iter()
        .filter_map(|ending| host.strip_suffix(ending))
        .any(|name| !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')))
}

/// A message of one of many files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedMessage {
    /// Address and port of the peer.
    pub peer: Arc<str>,
    /// The node received it.
    pub inbound: bool,
    /// The message.
    pub message: CapturedMessage,
}

/// The messages of all peers, ordered by time.
///
/// The messages of one file come in its order, also when the clock went backwards. Errors come in between: a file or folder
/// that is named by one is left out from there on.
#[derive(Debug)]
pub struct Merged {
    files: Vec<Source>,
    /// Files that have a message left: time of it, and index.
    next: BinaryHeap<Reverse<(i64, usize)>>,
    /// Files that are open, the last used one last.
    open: VecDeque<(usize, Reader<BufReader<File>>)>,
    max_open: usize,
    errors: VecDeque<Error>,
    incomplete: usize,
}

#[derive(Debug)]
struct Source {
    peer: Arc<str>,
    folder: Arc<Path>,
    inbound: bool,
    offset: u64,
}

impl Source {
    fn path(&self) -> PathBuf {
        self.folder.join(if self.inbound { RECEIVED } else { SENT })
    }
}

impl Merged {
    /// Finds the files of all peers in `message_capture`, with at most `max_open` of them open at a time.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read.
    pub fn open(message_capture: &Path, max_open: usize) -> Result<Self, Error> {
        let open_error = |source| Error::Open { path: message_capture.to_path_buf(), source };
        let mut merged = Merged {
            files: Vec::new(),
            next: BinaryHeap::new(),
            open: VecDeque::new(),
            max_open: max_open.max(1),
            errors: VecDeque::new(),
            incomplete: 0,
        };
        let mut folders = Vec::new();
        for entry in fs::read_dir(message_capture).map_err(open_error)? {
            folders.push(entry.map_err(open_error)?.path());
            if folders.len() > MAX_FILES / 2 {
                return Err(Error::TooManyFiles { path: message_capture.to_path_buf() });
            }
        }
        // Messages of the same microsecond come in the same order each time.
        folders.sort();
        let found = folders.len();
        for folder in folders {
            merged.add_folder(folder);
        }
        if found > 0 && merged.errors.len() == found {
            return Err(Error::NoPeers { path: message_capture.to_path_buf() });
        }
        Ok(merged)
    }

    /// Files that ended in the middle of a message, as far as they have been read.
    pub fn incomplete(&self) -> usize {
        self.incomplete
    }

    fn add_folder(&mut self, folder: PathBuf) {
        let Some(peer) = folder.file_name().and_then(|name| name.to_str()).and_then(peer_of_folder) else {
            self.errors.push_back(Error::Folder { path: folder });
            return;
        };
        let (peer, folder): (Arc<str>, Arc<Path>) = (peer.into(), folder.into());
        for inbound in [true, false] {
            let source = Source { peer: peer.clone(), folder: folder.clone(), inbound, offset: 0 };
            if source.path().exists() {
                self.files.push(source);
                self.queue(self.files.len() - 1);
            }
        }
    }

    /// Finds out the time of the next message of a file, if it has one.
    fn queue(&mut self, index: usize) {
        let header = self.with_reader(index, |reader| Ok((reader.peek_header()?, reader.incomplete())));
        match header {
            Some((Some(header), _)) => self.next.push(Reverse((header.time_us, index))),
            Some((None, incomplete)) => {
                self.incomplete += usize::from(incomplete > 0);
                self.close(index);
            }
            None => {}
        }
    }

    /// Does something with a file; an error is put aside, and the file is left out from then on.
    fn with_reader<T>(
        &mut self,
        index: usize,
        action: impl FnOnce(&mut Reader<BufReader<File>>) -> Result<T, Error>,
    ) -> Option<T> {
        let result = self.reader(index).and_then(|mut reader| {
            let result = action(&mut reader)?;
            self.files[index].offset = reader.offset();
            self.open.push_back((index, reader));
            Ok(result)
        });
        result.map_err(|source| self.leave_out(index, source)).ok()
    }

    /// Takes the reader of a file that is open, or opens it where it was left.
    fn reader(&mut self, index: usize) -> Result<Reader<BufReader<File>>, Error> {
        let position = self.open.iter().rposition(|(open, _)| *open == index);
        if let Some((_, reader)) = position.and_then(|position| self.open.remove(position)) {
            return Ok(reader);
        }
        if self.open.len() >= self.max_open {
            self.open.pop_front();
        }
        let source = &self.files[index];
        let open_error = |error| Error::Open { path: source.path(), source: error };
        let mut file = regular::open(&source.path()).map_err(open_error)?;
        file.seek(SeekFrom::Start(source.offset)).map_err(open_error)?;
        Ok(Reader::at(BufReader::new(file), source.offset))
    }

    fn leave_out(&mut self, index: usize, source: Error) {
        self.close(index);
        let path = self.files[index].path();
        self.errors.push_back(Error::File { path, source: Box::new(source) });
    }

    fn close(&mut self, index: usize) {
        self.open.retain(|(open, _)| *open != index);
    }
}

impl Iterator for Merged {
    type Item = Result<MergedMessage, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.errors.pop_front() {
                return Some(Err(error));
            }
            let Reverse((_, index)) = self.next.pop()?;
            match self.with_reader(index, |reader| reader.next_message()) {
                Some(Some(message)) => {
                    self.queue(index);
                    let Source { peer, inbound, .. } = &self.files[index];
                    return Some(Ok(MergedMessage { peer: peer.clone(), inbound: *inbound, message }));
                }
                Some(None) => {
                    self.incomplete += 1;
                    self.close(index);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;
    use crate::hit::Hit;
    use crate::recording::{self, Records};

    const LIMIT: usize = 64 << 20;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/regtest-tour").join(name)
    }

    /// The tour's capture files, unpacked.
    fn tour() -> TempDir {
        let folder = TempDir::new().unwrap();
        let tar = recording::read_file(&data("message_capture.tar.zst"), LIMIT).unwrap();
        let mut child = Command::new("tar")
            .arg("-xC")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("tar runs");
        child.stdin.take().unwrap().write_all(&tar).unwrap();
        assert!(child.wait().unwrap().success());
        folder
    }

    fn record(time_us: i64, msg_type: &str, payload: &[u8]) -> Vec<u8> {
        let mut record = time_us.to_le_bytes().to_vec();
        record.extend_from_slice(msg_type.as_bytes());
        record.resize(8 + MSG_TYPE_LEN, 0);
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(payload);
        record
    }

    fn write_files(files: &[(&str, Vec<u8>)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    type Message = (String, bool, Vec<u8>, Vec<u8>);

    #[test]
    fn a_real_capture_has_the_messages_that_the_tracepoints_saw() {
        let folder = tour();
        let mut captured: BTreeMap<Message, u64> = BTreeMap::new();
        let mut last = i64::MIN;
        for item in Merged::open(&folder.path().join("message_capture"), 4).unwrap() {
            let MergedMessage { peer, inbound, message } = item.unwrap();
            assert!(message.time_us >= last, "out of order");
            last = message.time_us;
            let msg_type = message.msg_type().to_vec();
            *captured.entry((peer.to_string(), inbound, msg_type, message.payload)).or_default() += 1;
        }

        let mut traced: BTreeMap<Message, u64> = BTreeMap::new();
        let hits = recording::read_file(&data("tracepoints.bin.zst"), LIMIT).unwrap();
        for record in Records::new(&hits) {
            let Hit::Message(message) = record.unwrap().hit else { continue };
            let peer = String::from_utf8(message.addr.to_vec()).unwrap();
            let key = (peer, message.inbound, message.msg_type.to_vec(), message.payload.to_vec());
            *traced.entry(key).or_default() += 1;
        }
        assert_eq!(captured.values().sum::<u64>(), 388 + 1_005);
        assert!(captured == traced);
    }

    #[test]
    fn the_order_does_not_depend_on_how_many_files_are_open() {
        let folder = tour();
        let read = |max_open| {
            let merged = Merged::open(&folder.path().join("message_capture"), max_open).unwrap();
            merged.map(Result::unwrap).collect::<Vec<_>>()
        };
        let all = read(1_000);
        assert_eq!(all.len(), 1_393);
        for max_open in [0, 1, 7] {
            assert!(read(max_open) == all, "{max_open} files open");
        }
    }

    #[test]
    fn a_message_that_is_being_written_comes_when_it_is_whole() {
        let first = record(1, "ping", b"12345678");
        let second = record(2, "verack", b"");
        let whole = [first.clone(), second].concat();
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut writer = path.reopen().unwrap();
        let mut reader = Reader::new(path.reopen().unwrap());
        let mut found = Vec::new();
        for byte in &whole {
            writer.write_all(&[*byte]).unwrap();
            if let Some(message) = reader.next_message().unwrap() {
                found.push((reader.offset(), message));
                assert_eq!(reader.incomplete(), 0);
            }
        }
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, first.len() as u64);
        assert_eq!((found[0].1.msg_type(), &found[0].1.payload[..]), (&b"ping"[..], &b"12345678"[..]));
        assert_eq!(found[1].0, whole.len() as u64);
        assert_eq!((found[1].1.msg_type(), found[1].1.time_us), (&b"verack"[..], 2));
    }

    #[test]
    fn a_file_that_ends_in_a_message_says_how_much_of_it_is_there() {
        let whole = record(1, "ping", b"12345678");
        for cut in 0..whole.len() {
            let mut reader = Reader::new(&whole[..cut]);
            assert_eq!(reader.next_message().unwrap(), None);
            assert_eq!((reader.incomplete(), reader.offset()), (cut, 0));
        }
    }

    #[test]
    fn a_message_type_of_twelve_bytes_is_whole() {
        let mut reader = Reader::new(&record(1, "twelve_bytes", b"")[..]).next_message().unwrap();
        assert_eq!(reader.take().unwrap().msg_type(), b"twelve_bytes");
    }

    #[test]
    fn what_is_no_capture_file_is_an_error_with_the_offset() {
        let good = record(1, "ping", b"12345678");
        let mut too_long = record(2, "block", b"");
        too_long[20..24].copy_from_slice(&(MAX_PAYLOAD + 1).to_le_bytes());
        let gap_in_type = record(2, "a\0b", b"");
        for (bad, expected) in [(too_long, "4000001 bytes"), (gap_in_type, "no message type")] {
            let file = [good.clone(), bad].concat();
            let mut reader = Reader::new(&file[..]);
            assert!(reader.next_message().unwrap().is_some());
            for _ in 0..2 {
                let err = reader.next_message().unwrap_err().to_string();
                assert!(err.contains(expected) && err.contains("offset 32"), "{err}");
            }
        }
    }

    #[test]
    fn the_largest_message_is_read() {
        let payload = vec![7; MAX_PAYLOAD as usize];
        let file = record(1, "block", &payload);
        let message = Reader::new(&file[..]).next_message().unwrap().unwrap();
        assert!(message.payload == payload);
    }

    #[test]
    fn folders_are_named_by_the_address_of_a_peer() {
        let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
        let cases = [
            ("127.0.0.1_14069", Some("127.0.0.1:14069")),
            ("[__1]_8333", Some("[::1]:8333")),
            ("[2001_db8__1]_18444", Some("[2001:db8::1]:18444")),
            (
                "[fc32_17ea_e415_c3bf_9808_149d_b5a2_c9aa]_8333",
                Some("[fc32:17ea:e415:c3bf:9808:149d:b5a2:c9aa]:8333"),
            ),
            ("[fe80__1%2]_8333", Some("[fe80::1%2]:8333")),
            (&format!("{onion}_8333"), Some(&format!("{onion}:8333"))),
            ("abcd234.b32.i2p_0", Some("abcd234.b32.i2p:0")),
            ("abcd234.internal_0", Some("abcd234.internal:0")),
            ("127.0.0.1", None),
            ("127.0.0.1_", None),
            ("127.0.0.1_65536", None),
            ("127.0.0.256_8333", None),
            ("[__1_8333", None),
            ("[]_8333", None),
            ("[x_1]_8333", None),
            (".onion_8333", None),
            ("not/base32.onion_8333", None),
            ("notes_2026", None),
            ("", None),
        ];
        for (folder, peer) in cases {
            assert_eq!(peer_of_folder(folder).as_deref(), peer, "{folder}");
        }
    }

    #[test]
    fn files_are_merged_by_time_and_each_keeps_its_order() {
        let root = write_files(&[
            (
                "1.1.1.1_1/msgs_recv.dat",
                [record(10, "a", b""), record(5, "b", b""), record(30, "c", b"")].concat(),
            ),
            ("1.1.1.1_1/msgs_sent.dat", record(10, "d", b"")),
            ("2.2.2.2_2/msgs_recv.dat", [record(1, "e", b""), record(20, "f", b"")].concat()),
        ]);
        let mut order = String::new();
        for item in Merged::open(root.path(), 1).unwrap() {
            let item = item.unwrap();
            order.push_str(std::str::from_utf8(item.message.msg_type()).unwrap());
            assert_eq!(item.inbound, item.message.msg_type() != b"d");
        }
        assert_eq!(order, "eabdfc");
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_read() {
        let mut damaged = record(2, "bad", b"");
        damaged[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        let root = write_files(&[
            ("1.1.1.1_1/msgs_recv.dat", [record(1, "a", b""), damaged].concat()),
            (
                "2.2.2.2_2/msgs_recv.dat",
                [record(3, "b", b""), record(9, "cut", b"cut")[..25].to_vec()].concat(),
            ),
            ("3.3.3.3_3/msgs_sent.dat", record(9, "cut", b"")[..5].to_vec()),
            ("4.4.4.4_4/msgs_sent.dat", Vec::new()),
            ("notes/todo.txt", Vec::new()),
        ]);
        let mut merged = Merged::open(root.path(), 2).unwrap();
        let (mut types, mut errors) = (Vec::new(), Vec::new());
        for item in &mut merged {
            match item {
                Ok(item) => types.push(item.message.msg_type().to_vec()),
                Err(err) => errors.push(err),
            }
        }
        assert_eq!(types, [b"a", b"b"]);
        assert!(matches!(&errors[0], Error::Folder { path } if path.ends_with("notes")), "{errors:?}");
        assert!(
            matches!(&errors[1], Error::File { path, .. } if path.ends_with("1.1.1.1_1/msgs_recv.dat")),
            "{errors:?}"
        );
        assert_eq!(errors.len(), 2);
        assert_eq!(merged.incomplete(), 2);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(matches!(Merged::open(Path::new("/no/such/folder"), 1), Err(Error::Open { .. })));
    }
}
