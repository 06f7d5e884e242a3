//! The last lines of a node's debug.log.

use std::collections::VecDeque;

use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::log_extractor::{Log, LogDebugCategory, LogLevel};

/// Lines that are kept.
const MAX_LINES: usize = 4_000;
/// Bytes of a line that are kept.
const MAX_LINE: usize = 600;

/// A line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Counts the lines of the node, from 1.
    pub(crate) number: u64,
    pub(crate) time_ns: u64,
    pub(crate) category: &'static str,
    pub(crate) level: &'static str,
    pub(crate) thread: Box<str>,
    pub(crate) text: Box<str>,
}

/// The last lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: VecDeque<Line>,
    count: u64,
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LINE)]
}

/// The line in words. Of lines that the extractor understands, only what they say is known.
fn text(event: Option<&LogEvent>) -> String {
    match event {
        Some(LogEvent::UnknownLogMessage(line)) => cut(&line.raw_message).to_owned(),
        Some(LogEvent::BlockConnectedLog(line)) => {
            format!("BlockConnected: block hash={} block height={}", cut(&line.block_hash), line.block_height)
        }
        Some(LogEvent::BlockCheckedLog(line)) => {
            let (hash, state) = (cut(&line.block_hash), cut(&line.state));
            format!("BlockChecked: block hash={hash} state={state} {}", cut(&line.debug_message))
        }
        Some(LogEvent::SawNewHeaderLog(line)) => format!(
            "Saw new {}header hash={} height={} peer={}",
            if line.is_cmpctblock { "cmpctblock " } else { "" },
            cut(&line.block_hash),
            line.block_height,
            line.peer_id
        ),
        Some(LogEvent::CompactBlockReconstructedLog(line)) => format!(
            "Successfully reconstructed block {} with {} txn prefilled, {} txn from mempool (incl at least {} from extra \
             pool) and {} txn ({} bytes) requested",
            cut(&line.block_hash),
            line.prefilled_txn_count,
            line.mempool_txn_count,
            line.extra_pool_txn_count,
            line.requested_txn_count,
            line.requested_txn_bytes
        ),
        None => String::new(),
    }
}

impl Lines {
    /// Keeps a line.
    pub(crate) fn add(&mut self, log: &Log, time_ns: u64) {
        self.count += 1;
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        let category = LogDebugCategory::try_from(log.category).unwrap_or(LogDebugCategory::Unknown);
        self.lines.push_back(Line {
            number: self.count,
            time_ns,
            category: category.as_str_name(),
            level: LogLevel::try_from(log.log_level).unwrap_or(LogLevel::Info).as_str_name(),
            thread: cut(&log.threadname).into(),
            text: cut(&text(log.log_event.as_ref())).into(),
        });
    }

    /// The lines after that number, the first first.
    pub(crate) fn after(&self, number: u64) -> impl DoubleEndedIterator<Item = &Line> {
        let begin = self.lines.partition_point(|line| line.number <= number);
        self.lines.range(begin..)
    }

    /// How many lines there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
