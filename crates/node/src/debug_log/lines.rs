//! Bytes to lines. A line that never ends must not fill the memory, and a hole of NUL bytes, which a crash of the machine or a
//! careless rotation leaves behind, must not hide the line that follows it.

/// A line as it was read, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// The line, or as much of it as is kept.
    pub bytes: &'a [u8],
    /// What was left out at its end, bytes.
    pub cut: u64,
    /// NUL bytes that stood in front of it.
    pub nuls: u64,
}

impl RawLine<'_> {
    /// Length of all of it, bytes.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64 + self.cut + self.nuls
    }
}

/// Makes lines of bytes that come in pieces.
#[derive(Debug)]
pub struct Lines {
    max_line: usize,
    /// A line that has begun.
    partial: Vec<u8>,
    cut: u64,
    nuls: u64,
}

impl Lines {
    /// A buffer for a line is kept unless it has grown beyond this, bytes.
    const KEEP: usize = 64 << 10;

    /// Keeps at most `max_line` bytes of a line.
    pub fn new(max_line: usize) -> Self {
        Lines { max_line, partial: Vec::new(), cut: 0, nuls: 0 }
    }

    /// Takes bytes in, and gives every line that is complete with them.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(RawLine<'_>)) {
        loop {
            if self.partial.is_empty() {
                let nuls = bytes.iter().take_while(|b| **b == 0).count();
                self.nuls += nuls as u64;
                bytes = &bytes[nuls..];
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else { break };
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() && self.nuls == 0 && line.len() <= self.max_line {
                each(RawLine { bytes: without_cr(line), cut: 0, nuls: 0 });
            } else {
                self.keep(line);
                self.end(&mut each);
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    /// Gives a line that has begun as if it were complete: nothing will follow it.
    pub fn finish(&mut self, mut each: impl FnMut(RawLine<'_>)) {
        if self.pending() > 0 {
            self.end(&mut each);
        }
    }

    /// Bytes of a line that has begun.
    pub fn pending(&self) -> u64 {
        self.partial.len() as u64 + self.cut + self.nuls
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.max_line - self.partial.len());
        self.partial.extend_from_slice(&bytes[..kept]);
        self.cut += (bytes.len() - kept) as u64;
    }

    fn end(&mut self, each: &mut impl FnMut(RawLine<'_>)) {
        let bytes = if self.cut == 0 { without_cr(&self.partial) } else { &self.partial };
        each(RawLine { bytes, cut: self.cut, nuls: self.nuls });
        self.partial.clear();
        self.partial.shrink_to(Self::KEEP);
        self.cut = 0;
        self.nuls = 0;
    }
}

/// Lines of a node on Windows end with two bytes.
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line as text with what was left out, however the bytes are cut into pieces.
    fn lines(max_line: usize, bytes: &[u8]) -> Vec<(String, u64, u64)> {
        let read = |piece: usize| {
            let mut lines = Lines::new(max_line);
            let mut found = Vec::new();
            let mut each = |line: RawLine<'_>| {
                found.push((String::from_utf8_lossy(line.bytes).into_owned(), line.cut, line.nuls));
            };
            for piece in bytes.chunks(piece) {
                lines.push(piece, &mut each);
                assert!(lines.partial.len() <= max_line);
            }
            lines.finish(&mut each);
            assert_eq!(lines.pending(), 0);
            found
        };
        let whole = read(bytes.len().max(1));
        for piece in 1..bytes.len() {
            assert_eq!(read(piece), whole, "in pieces of {piece}");
        }
        whole
    }

    fn line(text: &str, cut: u64, nuls: u64) -> (String, u64, u64) {
        (text.into(), cut, nuls)
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        assert_eq!(lines(100, b""), []);
        assert_eq!(lines(100, b"\n\n"), [line("", 0, 0), line("", 0, 0)]);
        assert_eq!(lines(100, b"a\r\nbc\nd"), [line("a", 0, 0), line("bc", 0, 0), line("d", 0, 0)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_is_whole() {
        assert_eq!(lines(4, b"abcdefg\nhij\n"), [line("abcd", 3, 0), line("hij", 0, 0)]);
        assert_eq!(lines(4, b"abcdefg"), [line("abcd", 3, 0)]);
        assert_eq!(lines(4, b"abcd\nefg\n"), [line("abcd", 0, 0), line("efg", 0, 0)]);
    }

    #[test]
    fn nuls_in_front_of_a_line_are_passed_over_and_those_within_stay() {
        let bytes = b"a\n\0\0\0\0\0\0b\0c\n\0";
        assert_eq!(lines(4, bytes), [line("a", 0, 0), line("b\0c", 0, 6), line("", 0, 1)]);
    }

    #[test]
    fn memory_for_a_long_line_is_given_back() {
        let mut lines = Lines::new(10 << 20);
        lines.push(&vec![b'x'; 11 << 20], |_| panic!("not complete"));
        assert_eq!(lines.pending(), 11 << 20);
        let mut cut = 0;
        lines.push(b"\n", |line| cut = line.cut);
        assert_eq!(cut, 1 << 20);
        assert!(lines.partial.capacity() <= Lines::KEEP);
    }
}
