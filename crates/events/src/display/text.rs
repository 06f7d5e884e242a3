//! What lines are made of. All of it writes straight to the formatter: a block of 4 MB must not become a string on the way.

use std::fmt::{self, Write};

/// Text that somebody else chose, so that it stays text: one line that steers no terminal.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

/// Prints any value on one line, with control characters escaped. Unlike [`Escaped`] it keeps the backslash, because values
/// formatted with `Debug` have escapes of their own.
#[derive(Debug, Clone, Copy)]
pub struct SingleLine<T>(pub T);

/// Escapes what is written to it.
struct EscapingWriter<'a, 'b>(&'a mut fmt::Formatter<'b>);

/// A hash in display order: hex of the bytes reversed.
pub(super) struct Hash<'a>(pub(super) &'a [u8]);

/// Bytes as hex.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

/// Items with `, ` between them.
pub(super) struct List<I>(pub(super) I);

/// The name of an enum's value, or its number when it has none here.
pub(super) struct Name(pub(super) Option<&'static str>, pub(super) i32);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The backslash too, so that an escape cannot be forged.
        write_escaped(f, self.0, |c| c == '\\' || needs_escape(c))
    }
}

impl<T: fmt::Display> fmt::Display for SingleLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapingWriter(f), "{}", self.0)
    }
}

impl Write for EscapingWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_escaped(self.0, text, needs_escape)
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str, needs_escape: impl Fn(char) -> bool) -> fmt::Result {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| needs_escape(*c)) {
        f.write_str(&rest[..at])?;
        write!(f, "{}", c.escape_default())?;
        rest = &rest[at + c.len_utf8()..];
    }
    f.write_str(rest)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, characters without a width, and those that turn the
/// direction of what follows (Unicode Bidirectional Algorithm).
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Hash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0.iter().rev())
    }
}

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0.iter())
    }
}

fn write_hex<'a>(f: &mut fmt::Formatter<'_>, bytes: impl Iterator<Item = &'a u8>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        f.write_char(char::from(DIGITS[usize::from(byte >> 4)]))?;
        f.write_char(char::from(DIGITS[usize::from(byte & 15)]))?;
    }
    Ok(())
}

impl<I> fmt::Display for List<I>
where
    I: IntoIterator<Item: fmt::Display> + Clone,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.clone().into_iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.1),
        }
    }
}

/// `Name(a=1, b=2)` where some of the fields may be absent. An error is kept and comes out of [`Fields::end`].
pub(super) struct Fields<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    result: fmt::Result,
    separator: &'static str,
}

impl<'a, 'b> Fields<'a, 'b> {
    pub(super) fn new(f: &'a mut fmt::Formatter<'b>, name: &str) -> Fields<'a, 'b> {
        let result = write!(f, "{name}(");
        Fields { f, result, separator: "" }
    }

    pub(super) fn field(mut self, name: &str, value: impl fmt::Display) -> Self {
        let separator = std::mem::replace(&mut self.separator, ", ");
        self.result = self.result.and_then(|()| write!(self.f, "{separator}{name}={value}"));
        self
    }

    pub(super) fn some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    pub(super) fn some_text(self, name: &str, value: Option<&String>) -> Self {
        self.some(name, value.map(|text| Escaped(text)))
    }

    pub(super) fn end(self) -> fmt::Result {
        self.result.and_then(|()| self.f.write_str(")"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_a_terminal_or_begin_a_line() {
        for (text, expected) in [
            ("/Satoshi:30.0.0/", "/Satoshi:30.0.0/"),
            ("grüße 東京 🦀", "grüße 東京 🦀"),
            ("", ""),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\n<-- from id=1", "a\\n<-- from id=1"),
            ("\r\t\0\u{7}\u{8}", "\\r\\t\\u{0}\\u{7}\\u{8}"),
            ("\u{9b}31m \u{7f}", "\\u{9b}31m \\u{7f}"),
            ("\u{202e}gnp.exe \u{2066}\u{200b}\u{feff}", "\\u{202e}gnp.exe \\u{2066}\\u{200b}\\u{feff}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\\n", "\\\\n"),
        ] {
            assert_eq!(Escaped(text).to_string(), expected);
        }
    }

    #[test]
    fn single_line_escapes_display_and_debug_but_no_backslash() {
        let hostile = "a\u{1b}]0;x\u{7}\r\n\u{9b}31m\u{202e}\\";
        let plain = "a\\u{1b}]0;x\\u{7}\\r\\n\\u{9b}31m\\u{202e}\\";
        assert_eq!(SingleLine(hostile).to_string(), plain);
        assert_eq!(SingleLine(format_args!("<{hostile}>")).to_string(), format!("<{plain}>"));
        let debug = SingleLine(format_args!("{:?}", "tab\t\u{9b}")).to_string();
        assert_eq!(debug, "\"tab\\t\\u{9b}\"", "escaped once");
    }

    #[test]
    fn hashes_are_reversed_whatever_their_length() {
        assert_eq!(Hash(&[1, 2, 0xab]).to_string(), "ab0201");
        assert_eq!(Hash(&[]).to_string(), "");
        assert_eq!(Hex(&[1, 2, 0xab]).to_string(), "0102ab");
    }

    #[test]
    fn lists_and_fields_are_separated() {
        assert_eq!(List(&[1, 2, 3]).to_string(), "1, 2, 3");
        assert_eq!(List(&[0_u8; 0]).to_string(), "");
        struct Sample;
        impl fmt::Display for Sample {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = "x\n".to_owned();
                Fields::new(f, "Sample").some("a", None::<u8>).field("b", 1).some_text("c", Some(&text)).end()
            }
        }
        assert_eq!(Sample.to_string(), "Sample(b=1, c=x\\n)");
    }
}
