//! The extractor against scripted nodes that dial it, and against real ones.
//!
//! | file | what it is about |
//! |---|---|
//! | `told.rs` | what nodes relay, and the events it becomes |
//! | `pings.rs` | how long pings take |
//! | `faults.rs` | peers that break the rules, do not keep up, or are too many |
//! | `start.rs` | where it listens, and what it says when it cannot |
//! | `real_node.rs` | a real node |

mod faults;
mod pings;
mod real_node;
mod start;
mod told;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use peer_observer_bus::{Bus, Delivery, Limits, Subscriber};
use peer_observer_events::proto::observer::block_announced::Via;
use peer_observer_events::proto::observer::p2p_extra::P2pEvent as ExtraEvent;
use peer_observer_events::proto::observer::peer_info::Transport as ToldTransport;
use peer_observer_events::proto::observer::{BlockAnnounced, PeerInfo, Source};
use peer_observer_events::proto::p2p_extractor::p2p::P2pEvent;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_node::p2p;
use peer_observer_testkit::p2p_peer::{NodePeer, Transport};
use peer_observer_testkit::{LONG, STOP};
use tokio::runtime::Runtime;

use super::*;

fn regtest() -> Config {
    Config { p2p_network: Network(p2p::Network::Regtest), ..Config::default() }
}

/// A running extractor, and what it publishes.
struct Extractor {
    runtime: Runtime,
    addrs: Vec<SocketAddr>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), Error>>,
    subscriber: Subscriber,
    received: std::collections::VecDeque<Delivery>,
}

impl Extractor {
    /// Listens on as many ports as there are names.
    fn start(config: Config, names: &[Option<&str>]) -> Self {
        Self::start_asking(config, names, Arc::new(|_, _| None))
    }

    /// The same, and `who` knows nodes that have no name in the settings.
    fn start_asking(config: Config, names: &[Option<&str>], who: WhoDials) -> Self {
        let runtime = Runtime::new().unwrap();
        let _inside = runtime.enter();
        let mut listeners = Vec::new();
        for name in names {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let addr = listener.local_addr().unwrap();
            listeners.push((listener, Listen { name: name.map(Into::into), addr }));
        }
        let addrs = listeners.iter().map(|(_, listen)| listen.addr).collect();
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
        let publisher = bus.publisher(Source::P2p, "p2p");
        let stop = CancellationToken::new();
        let ended = runtime.spawn(serve(listeners, config, who, publisher, stop.clone()));
        Extractor { addrs, stop, ended, subscriber, received: Default::default(), runtime }
    }

    fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// The next event of a node, with its name.
    fn next(&mut self) -> (String, PeerObserverEvent) {
        while self.received.is_empty() {
            let mut batch = Vec::new();
            self.runtime.block_on(async {
                let receive = self.subscriber.recv_many(&mut batch, 1_000);
                tokio::time::timeout(LONG, receive).await.expect("an event");
            });
            self.received.extend(batch);
        }
        let delivery = self.received.pop_front().unwrap();
        let event = &delivery.event;
        (event.origin.as_ref().unwrap().node.clone(), event.peer_observer_event.clone().unwrap())
    }

    /// The next event that `wanted` makes something of.
    fn wait_for<T>(&mut self, wanted: impl Fn(&PeerObserverEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().1) {
                return found;
            }
        }
    }

    fn stop(self) {
        let Extractor { runtime, stop, ended, .. } = self;
        stop.cancel();
        let stopped = runtime.block_on(async { tokio::time::timeout(STOP, ended).await });
        stopped.expect("it stops").unwrap().unwrap();
    }
}

fn public(event: &PeerObserverEvent) -> Option<P2pEvent> {
    match event {
        PeerObserverEvent::P2pExtractor(event) => event.p2p_event.clone(),
        _ => None,
    }
}

fn ping_duration(event: &PeerObserverEvent) -> Option<Duration> {
    match public(event)? {
        P2pEvent::PingDuration(ping) => Some(Duration::from_nanos(ping.duration)),
        _ => None,
    }
}

fn feefilter(event: &PeerObserverEvent) -> Option<i64> {
    match public(event)? {
        P2pEvent::FeefilterAnnouncement(fee) => Some(fee),
        _ => None,
    }
}

fn peer_info(event: &PeerObserverEvent) -> Option<PeerInfo> {
    match event {
        PeerObserverEvent::P2pExtra(extra) => match extra.p2p_event.clone()? {
            ExtraEvent::PeerInfo(info) => Some(info),
            ExtraEvent::BlockAnnounced(_) => None,
        },
        _ => None,
    }
}

fn block(event: &PeerObserverEvent) -> Option<BlockAnnounced> {
    match event {
        PeerObserverEvent::P2pExtra(extra) => match extra.p2p_event.clone()? {
            ExtraEvent::BlockAnnounced(block) => Some(block),
            ExtraEvent::PeerInfo(_) => None,
        },
        _ => None,
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// An inventory of that many entries of a type.
fn inventory(inv_type: u32, entries: u16) -> Vec<u8> {
    let mut payload = vec![0xfd];
    payload.extend_from_slice(&entries.to_le_bytes());
    if entries < 0xfd {
        payload = vec![entries as u8];
    }
    for entry in 0..entries {
        payload.extend_from_slice(&inv_type.to_le_bytes());
        payload.extend_from_slice(&[entry as u8; 32]);
    }
    payload
}
