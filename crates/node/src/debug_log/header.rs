//! What stands in front of the message of a line. Bitcoin Core src/logging.cpp `FormatLogStrInPlace`, `GetLogPrefix`:
//!
//! ```text
//! [*] TIME (mocktime: TIME) [thread] [file:line] [function] [category:level] message
//! ```
//!
//! Every part can be missing, and each has its own option, so that nearly all combinations occur.

use super::kind::Kind;
use super::time;
use super::wording;

/// How many empty lines Bitcoin Core writes when it opens its log (logging.cpp `StartLogging`).
const EMPTY_LINES_AT_START: u32 = 5;

/// How urgent a line is (Bitcoin Core src/logging.h `BCLog::Level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Finest.
    Trace,
    /// What lines of a category have when they do not say.
    Debug,
    /// What all other lines have when they do not say.
    Info,
    /// Something that may need the operator.
    Warning,
    /// Something is wrong with the node.
    Error,
}

impl Level {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "trace" => Level::Trace,
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warning" => Level::Warning,
            "error" => Level::Error,
            _ => return None,
        })
    }
}

/// A line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Time, us since the UNIX epoch. Under `-mocktime` it is the clock's, not the mocked one.
    pub time_us: Option<u64>,
    /// It continues the record of a line before: the message is all there is.
    pub continued: bool,
    /// Some lines are left out of the log at this time (`[*]`, from Core 30).
    pub suppressing: bool,
    /// Thread that wrote it (`-logthreadnames`).
    pub thread: Option<&'a str>,
    /// Where in the source (`-logsourcelocations`): `net.cpp:123`.
    pub location: Option<&'a str>,
    /// Function there, as the compiler names it.
    pub function: Option<&'a str>,
    /// Debug category.
    pub category: Option<&'a str>,
    /// Level.
    pub level: Level,
    /// The message, without spaces in front.
    pub message: &'a str,
}

impl<'a> Line<'a> {
    fn plain(message: &'a str) -> Self {
        Line {
            time_us: None,
            continued: false,
            suppressing: false,
            thread: None,
            location: None,
            function: None,
            category: None,
            level: Level::Info,
            message,
        }
    }

    /// What the message means, if it is one of those that mean something to us.
    pub fn kind(&self) -> Option<Kind<'a>> {
        if self.continued { None } else { wording::kind(self.category, self.message) }
    }
}

/// Takes lines of one log apart, one after the other, and remembers how the node is set.
#[derive(Debug, Clone, Default)]
pub struct Parser {
    /// Lines of this run of the node have times: those without continue another.
    timed: bool,
    /// Lines of this run have thread names, as far as is known.
    threads: Option<bool>,
    empty_lines: u32,
}

impl Parser {
    /// Takes a line apart, which comes without its newline.
    pub fn parse<'a>(&mut self, text: &'a str) -> Line<'a> {
        if text.is_empty() {
            self.empty_lines += 1;
            if self.empty_lines == EMPTY_LINES_AT_START {
                // The node was started, maybe with other options.
                *self = Parser::default();
            }
            return Line { continued: self.timed, ..Line::plain(text) };
        }
        self.empty_lines = 0;

        let (suppressing, rest) = match text.strip_prefix("[*] ") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (time_us, rest) = match timestamp(rest) {
            Some((time_us, rest)) => {
                self.timed = true;
                (Some(time_us), rest)
            }
            None if self.timed => return Line { continued: true, ..Line::plain(text) },
            None => (None, rest),
        };
        let mut line = Line { time_us, suppressing, ..Line::plain(rest) };
        self.fields(&mut line);
        line.message = line.message.trim_start_matches(' ');
        line
    }

    /// Moves what stands in brackets from the front of the message to where it belongs.
    fn fields<'a>(&mut self, line: &mut Line<'a>) {
        let Some((first, rest)) = bracket(line.message) else {
            if line.time_us.is_some() {
                self.threads = Some(false);
            }
            return;
        };
        if self.is_thread(first, rest) {
            line.thread = Some(first);
            line.message = rest;
        }
        if let Some((location, rest)) = bracket(line.message).filter(|(word, _)| is_location(word)) {
            line.location = Some(location);
            line.message = rest;
            if let Some((function, rest)) = nested_bracket(rest) {
                line.function = Some(function);
                line.message = rest;
            }
        }
        if let Some((category, level, rest)) = category(line.message) {
            line.category = category;
            line.level = level;
            line.message = rest;
        }
    }

    /// Whether the first word in brackets is a thread. Threads `net` and `http` are called like categories, and wallets, whose
    /// names are anybody's choice, stand in brackets, too.
    fn is_thread(&mut self, first: &str, rest: &str) -> bool {
        if is_location(first) {
            return false;
        }
        if is_thread_only(first) || bracket(rest).is_some_and(|(word, _)| is_location(word)) {
            self.threads = Some(true);
            return true;
        }
        match self.threads {
            Some(known) => known,
            None => matches!(first, "net" | "http") && category(rest).is_some(),
        }
    }
}

/// The time in front of a line, and the mocked one, which is passed over.
fn timestamp(text: &str) -> Option<(u64, &str)> {
    let (time_us, rest) = time::parse(text)?;
    if rest.is_empty() {
        return Some((time_us, rest));
    }
    let rest = rest.strip_prefix(' ')?;
    let mocked = rest.strip_prefix("(mocktime: ").and_then(time::parse);
    let rest = mocked.and_then(|(_, rest)| rest.strip_prefix(')')).unwrap_or(rest);
    Some((time_us, rest.strip_prefix(' ').unwrap_or(rest)))
}

/// A text in brackets, and what follows it and a space.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.strip_prefix('[')?.split_once(']')?;
    behind_space(rest).map(|rest| (word, rest))
}

/// The same for a text with brackets in it, as functions have: `T f() [with T = int]`.
fn nested_bracket(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('[')?;
    let mut open = 1_u32;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'[' => open += 1,
            b']' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return behind_space(&inner[at + 1..]).map(|rest| (&inner[..at], rest));
        }
    }
    None
}

fn behind_space(text: &str) -> Option<&str> {
    if text.is_empty() { Some(text) } else { text.strip_prefix(' ') }
}

/// `net.cpp:123`
fn is_location(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else { return false };
    !line.is_empty()
        && line.bytes().all(|b| b.is_ascii_digit())
        && file.contains('.')
        && !file.contains(char::is_whitespace)
}

/// `[net]`, `[net:trace]` or `[warning]`: category, level, and what follows.
fn category(text: &str) -> Option<(Option<&str>, Level, &str)> {
    let (word, rest) = bracket(text)?;
    if let Some((category, level)) = word.split_once(':') {
        // With a level behind it, it is a category even if it is none that is known.
        return Level::of(level).map(|level| (Some(category), level, rest));
    }
    if let Some(level) = Level::of(word) {
        return Some((None, level, rest));
    }
    is_category(word).then_some((Some(word), Level::Debug, rest))
}

/// Names of categories: Bitcoin Core src/logging.cpp `LOG_CATEGORIES_BY_STR`, and those of other releases.
fn is_category(word: &str) -> bool {
    matches!(
        word,
        "net"
            | "validation"
            | "mempool"
            | "bench"
            | "txpackages"
            | "addrman"
            | "all"
            | "blockstorage"
            | "cmpctblock"
            | "coindb"
            | "db"
            | "estimatefee"
            | "http"
            | "i2p"
            | "ipc"
            | "kernel"
            | "leveldb"
            | "libevent"
            | "lock"
            | "mempoolrej"
            | "privatebroadcast"
            | "proxy"
            | "prune"
            | "qt"
            | "rand"
            | "reindex"
            | "rpc"
            | "scan"
            | "selectcoins"
            | "tor"
            | "txreconciliation"
            | "util"
            | "walletdb"
            | "zmq"
    )
}

/// Names that Bitcoin Core gives to threads (`util::ThreadRename`, `util::TraceThread`) and to nothing else.
fn is_thread_only(word: &str) -> bool {
    matches!(
        word,
        "msghand"
            | "scheduler"
            | "init"
            | "initload"
            | "opencon"
            | "addcon"
            | "dnsseed"
            | "i2paccept"
            | "torcontrol"
            | "mapport"
            | "loadblk"
            | "shutoff"
            | "capnp-loop"
            | "txindex"
            | "coinstatsindex"
            | "txospenderindex"
            | "basic block filter index"
    ) || word.starts_with("httpworker.")
        || word.starts_with("scriptch.")
        || word.starts_with("qt-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2025-10-02T02:31:14Z";
    const TIME_US: u64 = 1_759_372_274_000_000;

    /// What a fresh parser makes of a line behind a time.
    fn fields(text: &str) -> String {
        let text = format!("{TIME} {text}");
        let line = Parser::default().parse(&text);
        assert_eq!(line.time_us, Some(TIME_US));
        shown(&line)
    }

    fn shown(line: &Line<'_>) -> String {
        let word = |word: Option<&str>| word.unwrap_or("-").to_owned();
        format!(
            "{}|{}|{}|{}|{:?}|{}",
            word(line.thread),
            word(line.location),
            word(line.function),
            word(line.category),
            line.level,
            line.message
        )
    }

    #[test]
    fn fields_are_found_in_every_combination() {
        let threads = ["", "msghand", "httpworker.12", "basic block filter index"];
        let locations = [
            ("", ""),
            ("net.cpp:12", "void f(int)"),
            ("./util/x.h:1", "T get(const T&) [with T = std::array<int, 3>; A = char [4]]"),
            ("kernel/context.cpp:20", "kernel::Context::Context()::<lambda()>"),
            ("a.cpp:7", "int& X::operator[](size_t)"),
            ("node/net.cpp:5", "ThreadSocketHandler"),
        ];
        let categories = [
            ("", "-", Level::Info),
            ("net", "net", Level::Debug),
            ("net:trace", "net", Level::Trace),
            ("net:warning", "net", Level::Warning),
            ("all:info", "all", Level::Info),
            ("warning", "-", Level::Warning),
            ("error", "-", Level::Error),
            ("future:debug", "future", Level::Debug),
        ];
        for time in
            ["", "2025-10-02T02:31:14.123456Z ", "2025-10-02T02:31:14Z (mocktime: 2030-01-01T00:00:00Z) "]
        {
            for suppressing in ["", "[*] "] {
                for thread in threads {
                    for (location, function) in locations {
                        for (category, name, level) in categories {
                            let bracket =
                                |s: &str| if s.is_empty() { String::new() } else { format!("[{s}] ") };
                            let text = format!(
                                "{suppressing}{time}{}{}{}{}message: [x] y",
                                bracket(thread),
                                bracket(location),
                                bracket(function),
                                bracket(category)
                            );
                            let or_none = |s: &str| if s.is_empty() { "-".into() } else { s.to_owned() };
                            let expected = format!(
                                "{}|{}|{}|{name}|{level:?}|message: [x] y",
                                or_none(thread),
                                or_none(location),
                                or_none(function)
                            );
                            let line = Parser::default().parse(&text);
                            assert_eq!(shown(&line), expected, "{text}");
                            assert_eq!(line.suppressing, !suppressing.is_empty(), "{text}");
                            assert_eq!(line.time_us.is_some(), !time.is_empty(), "{text}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn odd_lines_lose_nothing_of_their_message() {
        let cases = [
            ("", "-|-|-|-|Info|"),
            ("[", "-|-|-|-|Info|["),
            ("[]", "-|-|-|-|Info|[]"),
            ("[net]", "-|-|-|net|Debug|"),
            ("[net]x", "-|-|-|-|Info|[net]x"),
            ("[my wallet] AddToWallet", "-|-|-|-|Info|[my wallet] AddToWallet"),
            ("[0%]...[10%]...", "-|-|-|-|Info|[0%]...[10%]..."),
            ("[net] [net] both", "net|-|-|net|Debug|both"),
            ("[net] [net.cpp:1] [f] x", "net|net.cpp:1|f|-|Info|x"),
            ("[net.cpp:1] [f [ x", "-|net.cpp:1|-|-|Info|[f [ x"),
            ("[txpackages]    indented", "-|-|-|txpackages|Debug|indented"),
            ("(mocktime: never) x", "-|-|-|-|Info|(mocktime: never) x"),
        ];
        for (text, expected) in cases {
            assert_eq!(fields(text), expected, "{text}");
        }
    }

    #[test]
    fn whether_there_are_thread_names_is_learned_from_the_log() {
        let mut parser = Parser::default();
        let mut parse = |text: &str| shown(&parser.parse(&format!("{TIME} {text}")));
        assert_eq!(parse("[http] x"), "-|-|-|http|Debug|x");
        assert_eq!(parse("[w] x"), "-|-|-|-|Info|[w] x");
        assert_eq!(parse("[init] with names"), "init|-|-|-|Info|with names");
        assert_eq!(parse("[http] x"), "http|-|-|-|Info|x");
        assert_eq!(parse("[newthread] [w] x"), "newthread|-|-|-|Info|[w] x");
        assert_eq!(parse("without any"), "-|-|-|-|Info|without any");
        assert_eq!(parse("[http] x"), "-|-|-|http|Debug|x");
        assert_eq!(parse("[net] [net] x"), "-|-|-|net|Debug|[net] x");
    }

    #[test]
    fn lines_without_time_continue_others_where_lines_have_times() {
        let mut parser = Parser::default();
        assert!(!parser.parse("[net] no times yet").continued);
        assert!(!parser.parse(&format!("{TIME} a record")).continued);
        let more = parser.parse("[net] sending x");
        assert_eq!((more.continued, more.message, more.category), (true, "[net] sending x", None));
        assert_eq!(parser.parse("UpdateTip: spoofed").kind(), None);
        for _ in 0..EMPTY_LINES_AT_START {
            parser.parse("");
        }
        let line = parser.parse("[net] the node was started without times");
        assert_eq!((line.continued, line.category), (false, Some("net")));
    }
}
