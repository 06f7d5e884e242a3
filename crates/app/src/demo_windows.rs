//! What the demo's node tells besides its tracepoints: the recorded lines of its log, in time with the recording, and what its address
//! manager had at the end.
//!
//! The log extractor takes the times of lines from the lines, and these are of long ago; so lines become events here as they do there,
//! but of now.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use peer_observer_bus::{Bus, Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors::{log, rpc};
use peer_observer_node::debug_log::Parser;
use peer_observer_node::recording::{self, Records};

use crate::demo;

/// Logs that go with the recordings; data/regtest-tour/README.md and data/regtest-busy/README.md tell more.
const TOUR_LOG: &[u8] = include_bytes!("../../../data/regtest-tour/debug.log.zst");
const BUSY_LOG: &[u8] = include_bytes!("../../../data/regtest-busy/debug.log.zst");
/// Address managers at the ends of the recordings.
const TOUR_ADDRMAN: &str = include_str!("../../../data/regtest-tour/rpc/getrawaddrman.json");
const BUSY_ADDRMAN: &str = include_str!("../../../data/regtest-busy/getrawaddrman.json");
/// What a log takes when decompressed, at most.
const LOG_LIMIT: usize = 16 << 20;
/// Recordings that may begin before the first of them is taken note of.
const WAITING: usize = 4;

/// Which recording begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Tour,
    Busy,
}

/// The windows of the demo's node. They close with this.
#[derive(Debug)]
pub(crate) struct Windows {
    rounds: SyncSender<Round>,
}

impl Windows {
    /// Opens them, for recordings that are played `speed` times faster than they were recorded.
    ///
    /// # Errors
    /// When what was recorded is broken.
    pub(crate) fn open(bus: &Bus, speed: f64) -> Result<Self> {
        let recorded = [
            Recorded::read(&demo::recording()?, TOUR_LOG, TOUR_ADDRMAN)?,
            Recorded::read(&demo::busy()?, BUSY_LOG, BUSY_ADDRMAN)?,
        ];
        let mut player = Player {
            node: demo::NODE.into(),
            log: bus.publisher(Source::Log, "log"),
            rpc: bus.publisher(Source::Rpc, "rpc"),
            speed,
        };
        let (rounds, begun) = sync_channel(WAITING);
        let play = move || {
            let mut round = begun.recv().ok();
            while let Some(now) = round {
                round = player.play(&recorded[now as usize], &begun);
            }
        };
        std::thread::Builder::new().name("demo-windows".into()).spawn(play).context("starting a thread")?;
        Ok(Windows { rounds })
    }

    /// A recording begins now. What the one before has not told yet is left out.
    pub(crate) fn begins(&self, round: Round) {
        // Lines that nobody sees are no reason to end the demo.
        let _ = self.rounds.try_send(round);
    }
}

/// What was recorded of a node.
struct Recorded {
    /// When the recording of its tracepoints begins, ns since the UNIX epoch.
    first_ns: u64,
    log: String,
    addrman: PeerObserverEvent,
}

impl Recorded {
    fn read(tracepoints: &[u8], log: &[u8], addrman: &str) -> Result<Self> {
        let broken = "the demo's recording is broken";
        let first = Records::new(tracepoints).next().context(broken)?.context(broken)?;
        let log = recording::decompress(log, LOG_LIMIT).context(broken)?;
        let addrman = rpc::recorded_addrman(addrman).context(broken)?;
        Ok(Recorded { first_ns: first.time_ns, log: String::from_utf8(log).context(broken)?, addrman })
    }
}

struct Player {
    node: Arc<str>,
    log: Publisher,
    rpc: Publisher,
    speed: f64,
}

impl Player {
    /// Tells what was recorded, as if it began now, until another recording begins. Returns which; nothing when none will.
    fn play(&mut self, recorded: &Recorded, begun: &Receiver<Round>) -> Option<Round> {
        let (begin, begin_ns) = (Instant::now(), now_ns());
        self.rpc.publish(&self.node, begin_ns, recorded.addrman.clone());
        let mut parser = Parser::default();
        let mut after = Duration::ZERO;
        for text in recorded.log.lines() {
            let line = parser.parse(text);
            // A line that continues another belongs to its time. What was written before the recording began comes at once.
            if let Some(time_us) = line.time_us {
                let since_ns = time_us.saturating_mul(1000).saturating_sub(recorded.first_ns);
                after = Duration::from_nanos((since_ns as f64 / self.speed) as u64);
            }
            match begun.recv_timeout(after.saturating_sub(begin.elapsed())) {
                Ok(round) => return Some(round),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let time_ns = begin_ns.saturating_add(after.as_nanos() as u64);
            let mut event = log::log(&line, text.len() as u64);
            event.log_timestamp = time_ns / 1000;
            self.log.publish(&self.node, time_ns, PeerObserverEvent::LogExtractor(event));
        }
        begun.recv().ok()
    }
}
