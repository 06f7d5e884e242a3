//! Reads a message word by word.

use std::str::FromStr;

/// A message, from where it is not yet read.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a>(pub(super) &'a str);

impl<'a> Scan<'a> {
    /// Passes over this text, if it comes next.
    pub(super) fn tag(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self.0.bytes().position(|b| !wanted(b) || !b.is_ascii()).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// 64 hex digits.
    pub(super) fn hash(&mut self) -> Option<&'a str> {
        let hash = self.take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hash.len() == 64 { Some(hash) } else { None }
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Option<T> {
        self.take_while(|b| b.is_ascii_digit()).parse().ok()
    }

    pub(super) fn float(&mut self) -> Option<f64> {
        let text = self.take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e'));
        text.parse().ok().filter(|n: &f64| n.is_finite())
    }
}
