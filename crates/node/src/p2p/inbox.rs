//! Bytes that were received and not yet read.

use std::ops::Range;

/// A buffer that has grown for a large message is given back down to this, bytes.
const KEEP: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Never past the end of `bytes`.
    read: usize,
}

impl Inbox {
    /// Adds what was received. What was taken before is gone then.
    pub(super) fn push(&mut self, received: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        if self.bytes.len() + received.len() < KEEP {
            self.bytes.shrink_to(KEEP);
        }
        self.bytes.extend_from_slice(received);
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    /// Takes that many bytes, if they are there, and says where they are until the next `push`.
    pub(super) fn take(&mut self, length: usize) -> Option<Range<usize>> {
        if length > self.unread().len() {
            return None;
        }
        let range = self.read..self.read + length;
        self.read = range.end;
        Some(range)
    }

    /// Bytes that were taken.
    pub(super) fn taken(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Bytes that were taken, to be decrypted where they are.
    pub(super) fn taken_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_once_and_memory_is_given_back() {
        let mut inbox = Inbox::default();
        inbox.push(b"abc");
        assert_eq!(inbox.take(4), None);
        let range = inbox.take(2).unwrap();
        assert_eq!(inbox.taken(range), b"ab");
        inbox.push(b"d");
        assert_eq!(inbox.unread(), b"cd");

        inbox.push(&vec![0; 4 * KEEP]);
        inbox.take(4 * KEEP + 2).unwrap();
        inbox.push(b"e");
        assert_eq!(inbox.unread(), b"e");
        assert!(inbox.bytes.capacity() <= KEEP);
    }
}
