//! Losses, incidents, UTXO set flushes, RPC answers and P2P announcements of our own.

use std::fmt;

use super::EMPTY;
use super::text::{Escaped, Fields, Hash, List, Name};
use crate::proto::observer::block_announced::Via;
use crate::proto::observer::incident::{Severity, State};
use crate::proto::observer::loss::Stage;
use crate::proto::observer::p2p_extra::P2pEvent;
use crate::proto::observer::peer_info::Transport;
use crate::proto::observer::rpc_extra::RpcEvent;
use crate::proto::observer::{
    AddrmanPart, Banned, BannedSubnet, BlockAnnounced, Books, ChainTip, ChainTips, Evidence, Incident, Loss,
    P2pExtra, PeerInfo, RpcExtra, StreamPosition, StreamPositions, TracepointBook, UtxoCache, UtxoCacheFlush,
    utxo_cache,
};

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = Stage::try_from(self.stage).ok().map(|stage| stage.as_str_name());
        Fields::new(f, "Loss")
            .field("component", Escaped(&self.component))
            .field("stage", Name(stage, self.stage))
            .field("cause", Escaped(&self.cause))
            .field("count", self.count)
            .some_text("tracepoint", self.tracepoint.as_ref())
            .some_text("subject", self.subject.as_ref())
            .some("session", self.session)
            .some("first", self.first)
            .some("last", self.last)
            .some("from_ns", self.from_ns)
            .some("until_ns", self.until_ns)
            .end()
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = State::try_from(self.state).ok().map(|state| state.as_str_name());
        let severity = Severity::try_from(self.severity).ok().map(|severity| severity.as_str_name());
        Fields::new(f, "Incident")
            .field("detector", Escaped(&self.detector))
            .field("id", Escaped(&self.id))
            .field("state", Name(state, self.state))
            .field("severity", Name(severity, self.severity))
            .some_text("subject", self.subject.as_ref())
            .some("observed", self.observed)
            .some("threshold", self.threshold)
            .some("window_from_ns", self.window_from_ns)
            .some("window_until_ns", self.window_until_ns)
            .some("lost_in_window", self.lost_in_window)
            .field("evidence", format_args!("[{}]", List(&self.evidence)))
            .field("summary", Escaped(&self.summary))
            .end()
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Evidence(subject={}, session={}, first_sequence={}, last_sequence={})",
            Escaped(&self.subject),
            self.session,
            self.first_sequence,
            self.last_sequence
        )
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "Books")
            .field("pid", self.pid)
            .field("tracepoints", format_args!("[{}]", List(&self.tracepoints)))
            .end()
    }
}

impl fmt::Display for TracepointBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "TracepointBook")
            .field("tracepoint", Escaped(&self.tracepoint))
            .field("hits", self.hits)
            .field("dropped", self.dropped)
            .field("unread", self.unread)
            .field("published", self.published)
            .end()
    }
}

impl fmt::Display for StreamPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fields::new(f, "StreamPositions")
            .field("leaving", self.leaving)
            .field("streams", format_args!("[{}]", List(&self.streams)))
            .end()
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StreamPosition(subject={}, last_sequence={}, stream_age_s={})",
            Escaped(&self.subject),
            self.last_sequence,
            self.stream_age_s
        )
    }
}

impl fmt::Display for UtxoCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event {
            Some(utxo_cache::Event::Flush(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for UtxoCacheFlush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Flush(duration={}us, mode={}, coins={}, bytes={}B, for_prune={})",
            self.duration_us, self.mode, self.coins, self.bytes, self.for_prune
        )
    }
}

impl fmt::Display for RpcExtra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rpc_event {
            Some(RpcEvent::ChainTips(event)) => event.fmt(f),
            Some(RpcEvent::Banned(event)) => event.fmt(f),
            Some(RpcEvent::AddrmanPart(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for ChainTips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainTips([{}])", List(&self.tips))
    }
}

impl fmt::Display for ChainTip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ChainTip(height={}, hash={}, branch_length={}, status={})",
            self.height,
            Escaped(&self.hash),
            self.branch_length,
            Escaped(&self.status)
        )
    }
}

impl fmt::Display for Banned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Banned([{}])", List(&self.subnets))
    }
}

impl fmt::Display for BannedSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BannedSubnet(address={}, ban_created={}, banned_until={})",
            Escaped(&self.address),
            self.ban_created,
            self.banned_until
        )
    }
}

impl fmt::Display for AddrmanPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AddrmanPart(snapshot={}, part={}, parts={}, addrman={})",
            self.snapshot, self.part, self.parts, self.addrman
        )
    }
}

impl fmt::Display for P2pExtra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.p2p_event {
            Some(P2pEvent::BlockAnnounced(event)) => event.fmt(f),
            Some(P2pEvent::PeerInfo(event)) => event.fmt(f),
            None => f.write_str(EMPTY),
        }
    }
}

impl fmt::Display for BlockAnnounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let via = Via::try_from(self.via).ok().map(|via| via.as_str_name());
        write!(f, "BlockAnnounced(hash={}, via={})", Hash(&self.hash), Name(via, self.via))
    }
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = Transport::try_from(self.transport).ok().map(|transport| transport.as_str_name());
        Fields::new(f, "PeerInfo")
            .field("version", self.version)
            .field("services", self.services)
            .field("user_agent", Escaped(&self.user_agent))
            .field("start_height", self.start_height)
            .field("transport", Name(transport, self.transport))
            .end()
    }
}
