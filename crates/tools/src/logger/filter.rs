//! Which events are printed.

use peer_observer_bus::Delivery;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event as Conn;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::{PeerObserverEvent, Subject};

use super::Config;

/// What of all events the user asked for.
pub(super) struct Filter {
    wanted: [bool; Subject::ALL.len()],
    peers: Vec<u64>,
    commands: Vec<String>,
}

impl Filter {
    /// What these settings ask for. Who names peers or messages and no kind asks for the kinds that have these.
    pub(super) fn new(config: &Config) -> Self {
        let mut asked: Vec<Subject> = [
            (config.messages, Subject::NetMsg),
            (config.connections, Subject::NetConn),
            (config.mempool, Subject::Mempool),
            (config.validation, Subject::Validation),
            (config.rpc, Subject::Rpc),
            (config.rpc, Subject::RpcExtra),
            (config.p2p_extractor, Subject::P2pExtractor),
            (config.p2p_extractor, Subject::P2pExtra),
            (config.log_extractor, Subject::LogExtractor),
            (config.ipc_extractor, Subject::Ipc),
            (config.addrman, Subject::Addrman),
            (config.utxocache, Subject::UtxoCache),
            (config.loss, Subject::Loss),
            (config.books, Subject::Books),
            (config.incidents, Subject::Incident),
        ]
        .into_iter()
        .filter_map(|(asked, subject)| asked.then_some(subject))
        .collect();
        if asked.is_empty() {
            asked = match (config.commands.is_empty(), config.peers.is_empty()) {
                (false, _) => vec![Subject::NetMsg],
                (true, false) => vec![Subject::NetMsg, Subject::NetConn],
                // Books are the same numbers again every few seconds, and nothing that happened.
                (true, true) => Subject::ALL.iter().copied().filter(|s| *s != Subject::Books).collect(),
            };
        }
        let mut wanted = [false; Subject::ALL.len()];
        for subject in asked {
            wanted[subject as usize] = true;
        }
        Filter { wanted, peers: config.peers.clone(), commands: config.commands.clone() }
    }

    /// The subjects of the events that are asked for.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        Subject::ALL.iter().copied().filter(|subject| self.wanted[*subject as usize]).collect()
    }

    /// The event is to be printed.
    pub(super) fn wants(&self, delivery: &Delivery) -> bool {
        if !self.wanted[delivery.subject as usize] {
            return false;
        }
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &delivery.event.peer_observer_event else {
            return true;
        };
        match &ebpf.ebpf_event {
            Some(EbpfEvent::Message(message)) => {
                self.wants_peer(message.meta.peer_id) && self.wants_command(&message.meta.command)
            }
            Some(EbpfEvent::Connection(connection)) => match &connection.event {
                Some(Conn::Closed(c)) => self.wants_peer(c.conn.peer_id),
                Some(Conn::InboundEvicted(c)) => self.wants_peer(c.conn.peer_id),
                Some(Conn::Inbound(c)) => self.wants_peer(c.conn.peer_id),
                Some(Conn::Outbound(c)) => self.wants_peer(c.conn.peer_id),
                Some(Conn::Misbehaving(m)) => self.wants_peer(m.id),
                None => self.peers.is_empty(),
            },
            _ => true,
        }
    }

    fn wants_peer(&self, id: u64) -> bool {
        self.peers.is_empty() || self.peers.contains(&id)
    }

    fn wants_command(&self, command: &str) -> bool {
        self.commands.is_empty() || self.commands.iter().any(|wanted| wanted == command)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peer_observer_events::Event;
    use peer_observer_events::proto::ebpf_extractor::Ebpf;
    use peer_observer_events::proto::ebpf_extractor::connection::{ConnectionEvent, MisbehavingConnection};
    use peer_observer_events::proto::ebpf_extractor::mempool::MempoolEvent;
    use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Metadata};

    use super::*;

    fn delivery(event: EbpfEvent) -> Delivery {
        let event = PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(event) });
        let subject = Subject::of(&event).unwrap();
        let event = Event { timestamp: 0, origin: None, peer_observer_event: Some(event) };
        Delivery { subject, event: Arc::new(event) }
    }

    #[test]
    fn flags_choose_kinds_and_narrow_those_that_have_a_peer_or_a_name() {
        let message = |peer_id, command: &str| {
            let meta = Metadata { peer_id, command: command.into(), ..Default::default() };
            delivery(EbpfEvent::Message(MessageEvent { meta, ..Default::default() }))
        };
        let misbehaving = Conn::Misbehaving(MisbehavingConnection { id: 1, message: "x".into() });
        let events = [
            ("ping of 1", message(1, "ping")),
            ("inv of 1", message(1, "inv")),
            ("ping of 2", message(2, "ping")),
            ("conn of 1", delivery(EbpfEvent::Connection(ConnectionEvent { event: Some(misbehaving) }))),
            ("mempool", delivery(EbpfEvent::Mempool(MempoolEvent::default()))),
        ];
        let none = Config::default();
        let (peers, commands) = (vec![1, 7], vec!["ping".to_owned()]);
        let all = vec!["ping of 1", "inv of 1", "ping of 2", "conn of 1", "mempool"];
        let cases = [
            (none.clone(), all),
            (Config { messages: true, ..none.clone() }, vec!["ping of 1", "inv of 1", "ping of 2"]),
            (Config { peers: peers.clone(), ..none.clone() }, vec!["ping of 1", "inv of 1", "conn of 1"]),
            (Config { commands: commands.clone(), ..none.clone() }, vec!["ping of 1", "ping of 2"]),
            (Config { peers: peers.clone(), commands: commands.clone(), ..none.clone() }, vec!["ping of 1"]),
            (
                Config { messages: true, mempool: true, peers, commands, ..none.clone() },
                vec!["ping of 1", "mempool"],
            ),
        ];
        for (config, expected) in cases {
            let filter = Filter::new(&config);
            let found: Vec<_> =
                events.iter().filter(|(_, event)| filter.wants(event)).map(|(name, _)| *name).collect();
            assert_eq!(found, expected, "{config:?}");
        }
        let but_books: Vec<Subject> = Subject::ALL.iter().copied().filter(|s| *s != Subject::Books).collect();
        assert_eq!(Filter::new(&none).subjects(), but_books);
        let p2p = Config { p2p_extractor: true, ..none.clone() };
        assert_eq!(Filter::new(&p2p).subjects(), [Subject::P2pExtractor, Subject::P2pExtra]);
        let rpc = Config { rpc: true, loss: true, ..none };
        assert_eq!(Filter::new(&rpc).subjects(), [Subject::Rpc, Subject::Loss, Subject::RpcExtra]);
    }
}
