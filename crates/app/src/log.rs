//! The program's own log, and how it prints errors: one event is one line, whatever a process, peer, server or file name contains.
//!
//! The formatter escapes field values and messages, so that no call site has to remember that a path is hostile. The default
//! formatter of `tracing-subscriber` escapes terminal sequences in messages only, and newlines nowhere.

use std::fmt::{self, Debug, Display, Write as _};
use std::io::Write as _;

use anyhow::anyhow;
use peer_observer_events::display::SingleLine;
use peer_observer_tools::terminal::shows_colours;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::util::SubscriberInitExt;

use crate::faults::Refused;

/// Longer values are cut, bytes. journald splits lines at 48 KiB, and the second half would look like a line of its own.
const MAX_VALUE: usize = 4096;

/// Standard output is for events; everything else goes to standard error.
pub(crate) fn to_stderr(level: &str) -> anyhow::Result<()> {
    // The NATS client logs every attempt to connect; the bus logs what matters.
    let filter = EnvFilter::try_new(format!("{level},async_nats=off,libbpf=info"))
        .map_err(|e| anyhow!("--log-level {level}: {e}: give error, warn, info, debug or trace"))?;
    subscriber(filter, std::io::stderr, shows_colours(&std::io::stderr())).init();
    Ok(())
}

fn subscriber<W>(filter: EnvFilter, writer: W, has_colours: bool) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(EscapedFields)
        .with_writer(writer)
        .with_ansi(has_colours)
        .with_target(false)
        // It would panic where nobody reads standard error any more.
        .log_internal_errors(false)
        .finish()
}

/// Prints why the program ends. Nobody reading is no error.
pub(crate) fn complain(why: &str) {
    let _ = writeln!(std::io::stderr(), "peer-observer: {why}");
}

/// Formats an error with its causes, and repeats none: many errors include the text of their cause.
///
/// The result is one line, except for errors that are lists or excerpts of our own. Those keep their lines, indented, so that none
/// looks like a log line.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut said = String::new();
    let mut shown = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !said.is_empty() {
            if said.contains(&text) {
                continue;
            }
            said.push_str(": ");
            shown.push_str(": ");
        }
        shown.push_str(&match cause.is::<Refused>() || cause.is::<toml::de::Error>() {
            true => text.lines().map(single_line).collect::<Vec<_>>().join("\n  "),
            false => single_line(&text),
        });
        said.push_str(&text);
    }
    shown
}

/// Escapes control characters and newlines.
pub(crate) fn single_line(text: &str) -> String {
    SingleLine(text).to_string()
}

/// Formats the fields of events and spans as `tracing-subscriber` does, with every value escaped and bounded.
struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: impl Display) -> fmt::Result {
        if !std::mem::replace(&mut self.is_first, false) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.trim_start_matches("r#");
            match self.writer.has_ansi_escapes() {
                true => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
                false => write!(self.writer, "{name}=")?,
            }
        }
        let mut bounded = Bounded { writer: &mut self.writer, left: MAX_VALUE, cut: 0 };
        write!(bounded, "{}", SingleLine(value))?;
        match bounded.cut {
            0 => Ok(()),
            cut => write!(self.writer, "... ({cut} bytes cut)"),
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), format_args!("{value:?}"));
        }
    }
}

/// Writes the first bytes of a value, and counts the rest.
struct Bounded<'a, 'writer> {
    writer: &'a mut Writer<'writer>,
    left: usize,
    cut: usize,
}

impl fmt::Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.floor_char_boundary(self.left);
        // Nothing shorter goes behind a piece that was cut.
        self.left = if taken < text.len() { 0 } else { self.left - taken };
        self.cut += text.len() - taken;
        self.writer.write_str(&text[..taken])
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    const HOSTILE: &str = "/x\u{1b}[31m\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z ERROR forged\u{9b}1m\u{85}\u{202e}\u{2028}end";

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `log` runs.
    fn written(has_colours: bool, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let made = buffer.clone();
        let subscriber = subscriber(EnvFilter::new("debug"), move || made.clone(), has_colours);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(std::mem::take(&mut *buffer.0.lock().unwrap())).unwrap()
    }

    fn assert_one_plain_line(text: &str) {
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line:?}");
        assert!(line.ends_with("end") || line.ends_with("end\""), "{line:?}");
        assert!(line.contains("\\u{1b}[31m\\u{1b}]0;title\\u{7}\\r\\n2026"), "{line:?}");
        assert!(line.contains("forged\\u{9b}1m\\u{85}\\u{202e}\\u{2028}"), "{line:?}");
    }

    #[test]
    fn log_escapes_every_kind_of_value() {
        let error = io::Error::other(HOSTILE);
        let dyn_error: &(dyn std::error::Error + 'static) = &error;
        let owned = HOSTILE.to_owned();
        let logs: [&dyn Fn(); 7] = [
            &|| tracing::info!(path = %HOSTILE, "found"),
            &|| tracing::info!(path = ?HOSTILE, "found"),
            &|| tracing::info!(path = HOSTILE, "found"),
            &|| tracing::info!(error = dyn_error, "found"),
            &|| tracing::info!(%error, "found"),
            &|| tracing::info!("{owned}"),
            &|| tracing::info_span!("rpc", node = %HOSTILE).in_scope(|| tracing::info!("forged at the end")),
        ];
        for (at, log) in logs.iter().enumerate() {
            let text = written(false, log);
            assert_eq!(text.lines().count(), 1, "{at}: {text:?}");
            if at < 6 {
                assert_one_plain_line(&text);
            }
            assert!(!text.trim_end().contains(char::is_control), "{at}: {text:?}");
        }
    }

    #[test]
    fn log_keeps_its_form_and_colours() {
        let log = || tracing::warn!(n = 5, name = "x y", path = %"/a\\b", "two words");
        let plain = written(false, log);
        assert!(plain.ends_with("Z  WARN two words n=5 name=\"x y\" path=/a\\b\n"), "{plain:?}");
        let coloured = written(true, || tracing::warn!(path = %"/a\u{1b}[1m", "words"));
        let field = "words \u{1b}[3mpath\u{1b}[0m\u{1b}[2m=\u{1b}[0m/a\\u{1b}[1m\n";
        assert!(coloured.ends_with(field) && coloured.contains("\u{1b}[33m WARN"), "{coloured:?}");
    }

    #[test]
    fn log_cuts_long_values() {
        let long = "ä".repeat(100_000);
        let text = written(false, || tracing::info!(path = %long, n = 1, "m"));
        assert!(text.len() < MAX_VALUE + 200, "{}", text.len());
        assert!(text.ends_with(&format!("ä... ({} bytes cut) n=1\n", 200_000 - MAX_VALUE)), "{text}");
        let fits = "x".repeat(MAX_VALUE);
        assert!(!written(false, || tracing::info!(path = %fits, "m")).contains("cut"));
    }

    #[test]
    fn described_error_is_one_line_without_repeats() {
        let error = io::Error::other(HOSTILE);
        let text = describe(&anyhow::Error::new(error).context(format!("cannot read {HOSTILE}")));
        assert_one_plain_line(&format!("{text}\n"));
        assert_eq!(text.matches("forged").count(), 1, "the cause is part of the context: {text}");
        let error = anyhow!("cause").context("outer");
        assert_eq!(describe(&error), "outer: cause");
    }

    #[test]
    fn described_list_keeps_its_lines_off_the_margin() {
        let error = toml::from_str::<toml::Table>("a = 1\nb = \u{1b}[31m\n").unwrap_err();
        let text = describe(&anyhow::Error::new(error).context("in the file"));
        assert!(text.lines().count() > 2, "{text:?}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("  ")), "{text:?}");
        assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
    }
}
