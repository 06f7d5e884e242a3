//! Bitcoin Core's debug.log: what its lines say, and following it while it is written, rotated and cut.
//!
//! A line can be set to look very different: with or without time, fractions of seconds, thread name, source location, category
//! and level; and wallets put names in brackets where others put categories. So whether lines have a thread name is
//! learned from the log itself ([`Parser`]) instead of guessed anew for each line.
//!
//! | file | what it is for |
//! |---|---|
//! | time.rs | times as Bitcoin Core prints them |
//! | header.rs | what stands in front of the message |
//! | kind.rs | what messages mean, for those that mean something to us |
//! | wording.rs, scan.rs | from the wording of a message to what it means |
//! | lines.rs | bytes to lines, with bounded memory |
//! | follow.rs | a file that is written, rotated, cut |
//! | recorded.rs | tests with real logs |
//!
//! All but follow.rs is free of I/O. Wordings are those of Bitcoin Core 22 to 30 and of its master branch (September 2025).

mod follow;
mod header;
mod kind;
mod lines;
#[cfg(test)]
mod recorded;
mod scan;
mod time;
mod wording;

pub use follow::{Begin, Break, Follower, Position, Step};
pub use header::{Level, Line, Parser};
pub use kind::{DownloadOf, Kind, Outcome, Presync};
pub use lines::{Lines, RawLine};
pub use wording::kind;
