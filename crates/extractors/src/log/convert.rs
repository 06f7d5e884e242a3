//! A line of a log as an event: the public kinds where there is one, else the text, with the kinds that are ours set beside it.

use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::log_extractor::{
    BlockCheckedLog, BlockConnectedLog, CompactBlockReconstructedLog, Log, LogDebugCategory, LogLevel,
    SawNewHeaderLog, UnknownLogMessage,
};
use peer_observer_events::proto::observer::log::log_detail::Kind as Detail;
use peer_observer_events::proto::observer::log::{
    ConnectedToSelf, Disconnect, Discouraged, DownloadStalling, DownloadTimeout, Eviction, HeadersPresync,
    LogDetail, LogRateLimit, Misbehaving, NodeStarted, NodeStopped, OrphansRemoved, UpdateTip, discouraged,
    download_timeout, headers_presync,
};
use peer_observer_node::debug_log::{DownloadOf, Kind, Level, Line, Outcome, Presync};

/// The event that a line is; `length` is that of the whole line, bytes.
pub fn log(line: &Line<'_>, length: u64) -> Log {
    let kind = line.kind();
    let event = kind.as_ref().and_then(public).unwrap_or_else(|| unknown(line));
    let detail = kind.and_then(ours).map(|kind| LogDetail { kind: Some(kind) });
    Log {
        log_timestamp: line.time_us.unwrap_or(0),
        category: category(line.category) as i32,
        threadname: line.thread.unwrap_or_default().to_owned(),
        log_level: level(line.level) as i32,
        log_line_bytes: length,
        detail,
        log_event: Some(event),
    }
}

fn unknown(line: &Line<'_>) -> LogEvent {
    LogEvent::UnknownLogMessage(UnknownLogMessage { raw_message: line.message.to_owned() })
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warning => LogLevel::Warning,
        Level::Error => LogLevel::Error,
    }
}

fn category(name: Option<&str>) -> LogDebugCategory {
    let Some(name) = name else { return LogDebugCategory::Unknown };
    LogDebugCategory::from_str_name(&name.to_ascii_uppercase()).unwrap_or(LogDebugCategory::Unknown)
}

/// The event of a kind that the public schema has.
fn public(kind: &Kind<'_>) -> Option<LogEvent> {
    Some(match kind {
        Kind::BlockConnected { hash, height } => LogEvent::BlockConnectedLog(BlockConnectedLog {
            block_hash: (*hash).into(),
            block_height: *height,
        }),
        Kind::BlockChecked { hash, state, debug } => LogEvent::BlockCheckedLog(BlockCheckedLog {
            block_hash: (*hash).into(),
            state: (*state).into(),
            debug_message: (*debug).into(),
        }),
        Kind::SawNewHeader { hash, height, peer, compact } => LogEvent::SawNewHeaderLog(SawNewHeaderLog {
            block_hash: (*hash).into(),
            block_height: *height,
            peer_id: *peer,
            is_cmpctblock: *compact,
        }),
        Kind::Reconstructed { hash, prefilled, mempool, extra, requested, requested_bytes } => {
            LogEvent::CompactBlockReconstructedLog(CompactBlockReconstructedLog {
                block_hash: (*hash).into(),
                prefilled_txn_count: *prefilled,
                mempool_txn_count: *mempool,
                extra_pool_txn_count: *extra,
                requested_txn_count: *requested,
                requested_txn_bytes: *requested_bytes,
            })
        }
        _ => return None,
    })
}

/// The detail of a kind that is ours.
fn ours(kind: Kind<'_>) -> Option<Detail> {
    Some(match kind {
        Kind::BlockConnected { .. }
        | Kind::BlockChecked { .. }
        | Kind::SawNewHeader { .. }
        | Kind::Reconstructed { .. } => return None,
        Kind::UpdateTip {
            hash,
            height,
            version,
            log2_work,
            tx_count,
            time,
            progress,
            cache_mib,
            cache_coins,
            warning,
        } => Detail::UpdateTip(UpdateTip {
            block_hash: hash.into(),
            height,
            version,
            log2_work,
            tx_count,
            time,
            progress,
            cache_mib,
            cache_coins,
            warning: warning.map(Into::into),
        }),
        Kind::DownloadTimeout { what, peer, disconnecting } => {
            let (what, block_hash) = awaited(what);
            Detail::DownloadTimeout(DownloadTimeout {
                what: what as i32,
                block_hash,
                peer_id: peer,
                disconnecting,
            })
        }
        Kind::DownloadStalling { peer, disconnecting } => {
            Detail::DownloadStalling(DownloadStalling { peer_id: peer, disconnecting })
        }
        Kind::Disconnect { peer, addr, reason } => Detail::Disconnect(Disconnect {
            peer_id: Some(peer),
            addr: addr.map(Into::into),
            reason: reason.into_owned(),
        }),
        Kind::Misbehaving { peer, reason, score } => Detail::Misbehaving(Misbehaving {
            peer_id: peer,
            reason: reason.into(),
            score_before: score.map(|(before, _)| before),
            score_after: score.map(|(_, after)| after),
        }),
        Kind::Discouraged { peer, outcome } => {
            Detail::Discouraged(Discouraged { peer_id: peer, outcome: outcome_of(outcome) as i32 })
        }
        Kind::Eviction { peer, addr } => {
            Detail::Eviction(Eviction { peer_id: peer, addr: addr.map(Into::into) })
        }
        Kind::Presync { state, peer, height, reason } => Detail::HeadersPresync(HeadersPresync {
            state: state_of(state) as i32,
            peer_id: peer,
            height,
            reason: reason.map(Into::into),
        }),
        Kind::OrphansRemoved { count, announcements, cause, peer, wtxid } => {
            Detail::OrphansRemoved(OrphansRemoved {
                count,
                announcements,
                cause: cause.into(),
                peer_id: peer,
                wtxid: wtxid.map(Into::into),
            })
        }
        Kind::ConnectedToSelf { addr } => Detail::ConnectedToSelf(ConnectedToSelf { addr: addr.into() }),
        Kind::LogRateLimit { location, function, suppressing, dropped_bytes, window } => {
            Detail::LogRateLimit(LogRateLimit {
                location: location.into(),
                function: Some(function.into()),
                suppressing,
                dropped_bytes,
                window: Some(window),
            })
        }
        Kind::NodeStarted { version } => Detail::NodeStarted(NodeStarted { version: version.into() }),
        Kind::NodeStopped { done } => Detail::NodeStopped(NodeStopped { done }),
    })
}

fn awaited(what: DownloadOf<'_>) -> (download_timeout::What, Option<String>) {
    match what {
        DownloadOf::Block(hash) => (download_timeout::What::Block, Some(hash.into())),
        DownloadOf::Headers => (download_timeout::What::Headers, None),
    }
}

fn outcome_of(outcome: Outcome) -> discouraged::Outcome {
    match outcome {
        Outcome::Discouraged => discouraged::Outcome::Discouraged,
        Outcome::Disconnected => discouraged::Outcome::Disconnected,
        Outcome::Spared => discouraged::Outcome::Spared,
    }
}

fn state_of(state: Presync) -> headers_presync::State {
    match state {
        Presync::Started => headers_presync::State::Started,
        Presync::Progress => headers_presync::State::Progress,
        Presync::Redownloading => headers_presync::State::Redownloading,
        Presync::Aborted => headers_presync::State::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_node::debug_log::Parser;

    use super::*;

    fn of(text: &str) -> Log {
        log(&Parser::default().parse(text), text.len() as u64)
    }

    #[test]
    fn all_of_a_header_is_in_the_event() {
        let text = "2025-10-02T02:31:14.5Z [msghand] [net:warning] something new";
        assert_eq!(
            of(text),
            Log {
                log_timestamp: 1_759_372_274_500_000,
                category: LogDebugCategory::Net as i32,
                threadname: "msghand".into(),
                log_level: LogLevel::Warning as i32,
                log_line_bytes: 60,
                detail: None,
                log_event: Some(LogEvent::UnknownLogMessage(UnknownLogMessage {
                    raw_message: "something new".into()
                })),
            }
        );
    }

    #[test]
    fn every_category_of_the_schema_is_known_by_its_name() {
        let names: Vec<&str> =
            (1..=28).map(|i| LogDebugCategory::try_from(i).unwrap().as_str_name()).collect();
        for (i, name) in names.iter().enumerate() {
            let text = format!("2025-10-02T02:31:14Z [{}] x", name.to_lowercase());
            assert_eq!(of(&text).category, i as i32 + 1, "{text}");
        }
        assert_eq!(of("2025-10-02T02:31:14Z [kernel] x").category, LogDebugCategory::Unknown as i32);
    }

    #[test]
    fn a_kind_of_ours_stands_beside_the_text() {
        let event = of("2025-10-02T02:31:14Z [net] socket closed, disconnecting peer=3");
        let disconnect = Disconnect { peer_id: Some(3), addr: None, reason: "socket closed".into() };
        assert_eq!(event.detail, Some(LogDetail { kind: Some(Detail::Disconnect(disconnect)) }));
        let Some(LogEvent::UnknownLogMessage(text)) = event.log_event else { panic!("{event:?}") };
        assert_eq!(text.raw_message, "socket closed, disconnecting peer=3");
    }

    #[test]
    fn a_line_that_is_none_keeps_its_text() {
        let event = of("    CTxOut(nValue=1.0)");
        assert_eq!((event.log_timestamp, event.category, event.log_level), (0, 0, LogLevel::Info as i32));
        let Some(LogEvent::UnknownLogMessage(text)) = event.log_event else { panic!("{event:?}") };
        assert_eq!(text.raw_message, "CTxOut(nValue=1.0)");
    }
}
