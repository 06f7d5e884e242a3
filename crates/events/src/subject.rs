//! Where on the bus which event travels.
//!
//! Subjects of one token are the public ones: public tools subscribe to `*` and some of them stop at an event whose
//! oneof they do not know, so what is ours travels on subjects of two tokens.

use std::fmt;

use crate::PeerObserverEvent;
use crate::proto::ebpf_extractor::ebpf::EbpfEvent;

macro_rules! subjects {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A subject of the bus, without a prefix.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Subject {
            $($(#[$doc])* $variant,)*
        }

        impl Subject {
            /// All subjects, in a fixed order: `ALL[s as usize] == s`.
            pub const ALL: &'static [Subject] = &[$(Subject::$variant,)*];

            /// The subject as it stands on the bus, without a prefix.
            pub const fn as_str(self) -> &'static str {
                match self { $(Subject::$variant => $text,)* }
            }

            /// The subject of that text, or nothing when it is not one of ours.
            pub fn parse(text: &str) -> Option<Subject> {
                match text { $($text => Some(Subject::$variant),)* _ => None }
            }
        }
    };
}

subjects! {
    /// P2P messages.
    NetMsg = "netmsg",
    /// P2P connections opened, closed, evicted, misbehaving.
    NetConn = "netconn",
    /// Mempool changes.
    Mempool = "mempool",
    /// Blocks connected.
    Validation = "validation",
    /// Answers of RPC methods.
    Rpc = "rpc",
    /// What a node relays to our own P2P connection.
    P2pExtractor = "p2p-extractor",
    /// Lines of debug.log.
    LogExtractor = "log-extractor",
    /// The node's IPC interface.
    Ipc = "ipc",
    /// What was lost, and where.
    Loss = "observer.loss",
    /// Attacks and anomalies.
    Incident = "observer.incident",
    /// Flushes of the UTXO set.
    UtxoCache = "observer.utxocache",
    /// Hits of tracepoints and what became of them, and how far streams are.
    Books = "observer.books",
    /// RPC answers that the public schema lacks.
    RpcExtra = "observer.rpc",
    /// What a node tells our own P2P connection, beyond the public schema.
    P2pExtra = "observer.p2p",
    /// Address manager tracepoints of patched nodes.
    Addrman = "observer.addrman",
}

impl Subject {
    /// The subject an event belongs on. Nothing for an eBPF, RPC, P2P, log or IPC event that is empty inside.
    pub fn of(event: &PeerObserverEvent) -> Option<Subject> {
        Some(match event {
            PeerObserverEvent::EbpfExtractor(e) => match e.ebpf_event.as_ref()? {
                EbpfEvent::Message(_) => Subject::NetMsg,
                EbpfEvent::Connection(_) => Subject::NetConn,
                EbpfEvent::Addrman(_) => Subject::Addrman,
                EbpfEvent::Mempool(_) => Subject::Mempool,
                EbpfEvent::Validation(_) => Subject::Validation,
            },
            PeerObserverEvent::RpcExtractor(_) => Subject::Rpc,
            PeerObserverEvent::P2pExtractor(_) => Subject::P2pExtractor,
            PeerObserverEvent::LogExtractor(_) => Subject::LogExtractor,
            PeerObserverEvent::IpcExtractor(_) => Subject::Ipc,
            PeerObserverEvent::Loss(_) => Subject::Loss,
            PeerObserverEvent::Incident(_) => Subject::Incident,
            PeerObserverEvent::Utxocache(_) => Subject::UtxoCache,
            PeerObserverEvent::RpcExtra(_) => Subject::RpcExtra,
            PeerObserverEvent::Books(_) | PeerObserverEvent::StreamPositions(_) => Subject::Books,
            PeerObserverEvent::P2pExtra(_) => Subject::P2pExtra,
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_parses_back_and_indexes_itself() {
        for (i, subject) in Subject::ALL.iter().enumerate() {
            assert_eq!(Subject::parse(subject.as_str()), Some(*subject));
            assert_eq!(*subject as usize, i);
        }
        assert_eq!(Subject::parse("netmsg.x"), None);
    }

    #[test]
    fn what_public_tools_do_not_know_is_out_of_their_sight() {
        for subject in [
            Subject::Loss,
            Subject::Incident,
            Subject::UtxoCache,
            Subject::RpcExtra,
            Subject::P2pExtra,
            Subject::Books,
            Subject::Addrman,
        ] {
            assert!(subject.as_str().contains('.'), "{subject} has one token, so `*` matches it");
        }
    }
}
