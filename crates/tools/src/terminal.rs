//! Whether what is printed may have colours: one rule for events, the log and `doctor`.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Colours can be seen at `out`, and nobody asked for none.
pub fn shows_colours(out: &impl IsTerminal) -> bool {
    out.is_terminal() && allows_colours(std::env::var_os("NO_COLOR").as_deref())
}

/// `NO_COLOR` means no colours when it is there and not empty (no-color.org).
fn allows_colours(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_turns_colours_off_unless_it_is_empty() {
        for (no_color, allowed) in [(None, true), (Some(""), true), (Some("1"), false), (Some("0"), false)] {
            assert_eq!(allows_colours(no_color.map(OsStr::new)), allowed, "{no_color:?}");
        }
    }

    #[test]
    fn a_file_shows_none() {
        assert!(!shows_colours(&tempfile::tempfile().unwrap()));
    }
}
