//! Lines of debug.log: their time, category and kind, then what is ours.

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Fields, Name};
use crate::proto::log_extractor::log::LogEvent;
use crate::proto::log_extractor::{
    BlockCheckedLog, BlockConnectedLog, CompactBlockReconstructedLog, Log, LogDebugCategory, LogLevel,
    SawNewHeaderLog, UnknownLogMessage,
};
use crate::proto::observer::log::log_detail::Kind;
use crate::proto::observer::log::{
    ConnectedToSelf, Disconnect, Discouraged, DownloadStalling, DownloadTimeout, Eviction, HeadersPresync,
    LogDetail, LogRateLimit, Misbehaving, NodeStarted, NodeStopped, OrphansRemoved, UpdateTip, discouraged,
    download_timeout, headers_presync,
};

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let category = LogDebugCategory::try_from(self.category).unwrap_or(LogDebugCategory::Unknown);
        write!(f, "{} [{}", self.log_timestamp, category.as_str_name().to_lowercase())?;
        // Said only where it matters, so that lines of debug categories look as they do in the public tool.
        match LogLevel::try_from(self.log_level) {
            Ok(LogLevel::Warning) => f.write_str(":warning")?,
            Ok(LogLevel::Error) => f.write_str(":error")?,
            _ => {}
        }
        f.write_str("] ")?;
        match &self.log_event {
            Some(event) => event.fmt(f)?,
            None => f.write_str(EMPTY)?,
        }
        match &self.detail {
            Some(detail) => write!(f, " {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogEvent::UnknownLogMessage(event) => event.fmt(f),
            LogEvent::BlockConnectedLog(event) => event.fmt(f),
            LogEvent::BlockCheckedLog(event) => event.fmt(f),
            LogEvent::SawNewHeaderLog(event) => event.fmt(f),
            LogEvent::CompactBlockReconstructedLog(event) => event.fmt(f),
        }
    }
}

impl fmt::Display for UnknownLogMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnknownLogMessage({})", Escaped(&self.raw_message))
    }
}

impl fmt::Display for BlockConnectedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockConnected(hash={}, height={})", Escaped(&self.block_hash), self.block_height)
    }
}

impl fmt::Display for BlockCheckedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlockChecked(hash={}, state={}, debug_message={})",
            Escaped(&self.block_hash),
            Escaped(&self.state),
            Escaped(&self.debug_message)
        )
    }
}

impl fmt::Display for SawNewHeaderLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SawNewHeader(hash={}, height={}, peer_id={}, is_cmpctblock={})",
            Escaped(&self.block_hash),
            self.block_height,
            self.peer_id,
            self.is_cmpctblock
        )
    }
}

impl fmt::Display for CompactBlockReconstructedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CompactBlockReconstructed(hash={}, prefilled={}txn, mempool={}txn, extra_pool={}txn, requested={}txn, \
             requested_bytes={}B)",
            Escaped(&self.block_hash),
            self.prefilled_txn_count,
            self.mempool_txn_count,
            self.extra_pool_txn_count,
            self.requested_txn_count,
            self.requested_txn_bytes
        )
    }
}

impl fmt::Display for LogDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(Kind::UpdateTip(detail)) => detail.fmt(f),
            Some(Kind::DownloadTimeout(detail)) => detail.fmt(f),
            Some(Kind::DownloadStalling(detail)) => detail.fmt(f),
            Some(Kind::Disconnect(detail)) => detail.fmt(f),
            Some(Kind::Misbehaving(detail)) => detail.fmt(f),
            Some(Kind::Discouraged(detail)) => detail.fmt(f),
            Some(Kind::Eviction(detail)) => detail.fmt(f),
            Some(Kind::HeadersPresync(detail)) => detail.fmt(f),
            Some(Kind::OrphansRemoved(detail)) => detail.fmt(f),
            Some(Kind::ConnectedToSelf(detail)) => detail.fmt(f),
            Some(Kind::LogRateLimit(detail)) => detail.fmt(f),
            Some(Kind::NodeStarted(detail)) => detail.fmt(f),
            Some(Kind::NodeStopped(detail)) => detail.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for UpdateTip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "UpdateTip")
            .field("hash", Escaped(&self.block_hash))
            .field("height", self.height)
            .field("version", format_args!("{:#010x}", self.version))
            .field("log2_work", self.log2_work)
            .field("tx_count", self.tx_count)
            .field("time", self.time)
            .field("progress", self.progress)
            .field("cache", format_args!("{}MiB({}txo)", self.cache_mib, self.cache_coins))
            .some_text("warning", self.warning.as_ref())
            .end()
    }
}

impl fmt::Display for DownloadTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = download_timeout::What::try_from(self.what).ok().map(|what| what.as_str_name());
        Fields::new(f, "DownloadTimeout")
            .field("what", Name(what, self.what))
            .some_text("hash", self.block_hash.as_ref())
            .some("peer_id", self.peer_id)
            .field("disconnecting", self.disconnecting)
            .end()
    }
}

impl fmt::Display for DownloadStalling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "DownloadStalling")
            .some("peer_id", self.peer_id)
            .field("disconnecting", self.disconnecting)
            .end()
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "Disconnect")
            .some("peer_id", self.peer_id)
            .some_text("addr", self.addr.as_ref())
            .field("reason", Escaped(&self.reason))
            .end()
    }
}

impl fmt::Display for Misbehaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "Misbehaving")
            .field("peer_id", self.peer_id)
            .field("reason", Escaped(&self.reason))
            .some("score_before", self.score_before)
            .some("score_after", self.score_after)
            .end()
    }
}

impl fmt::Display for Discouraged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = discouraged::Outcome::try_from(self.outcome).ok().map(|outcome| outcome.as_str_name());
        write!(f, "Discouraged(peer_id={}, outcome={})", self.peer_id, Name(outcome, self.outcome))
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "Eviction").field("peer_id", self.peer_id).some_text("addr", self.addr.as_ref()).end()
    }
}

impl fmt::Display for HeadersPresync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = headers_presync::State::try_from(self.state).ok().map(|state| state.as_str_name());
        Fields::new(f, "HeadersPresync")
            .field("state", Name(state, self.state))
            .some("peer_id", self.peer_id)
            .some("height", self.height)
            .some_text("reason", self.reason.as_ref())
            .end()
    }
}

impl fmt::Display for OrphansRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "OrphansRemoved")
            .field("count", self.count)
            .some("announcements", self.announcements)
            .field("cause", Escaped(&self.cause))
            .some("peer_id", self.peer_id)
            .some_text("wtxid", self.wtxid.as_ref())
            .end()
    }
}

impl fmt::Display for ConnectedToSelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectedToSelf(addr={})", Escaped(&self.addr))
    }
}

impl fmt::Display for LogRateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "LogRateLimit")
            .field("location", Escaped(&self.location))
            .some_text("function", self.function.as_ref())
            .field("suppressing", self.suppressing)
            .some("dropped_bytes", self.dropped_bytes)
            .some("window", self.window)
            .end()
    }
}

impl fmt::Display for NodeStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeStarted(version={})", Escaped(&self.version))
    }
}

impl fmt::Display for NodeStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeStopped(done={})", self.done)
    }
}
