//! The recordings, fired through real probes: every hit is an event, in order, with everything that it says.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use peer_observer_bus::{Bus, Delivery, Limits};
use peer_observer_e2e::account::Account;
use peer_observer_e2e::extractor::{Extractor, only};
use peer_observer_e2e::plain::{Listener, Published};
use peer_observer_e2e::strict::Schema;
use peer_observer_e2e::{LONG, program, recorded, until};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::standin::{Config, Source as Fires, StandIn, Variant};
use peer_observer_testkit::{need, recorded_hits, require};
use prost::Message;

const RECORDINGS: [(&str, usize); 2] = [("regtest-tour", 1_653), ("regtest-busy", 9_832)];

/// What an extractor published while a stand-in fired a recording.
struct Fired {
    /// The events that tell of hits, in order.
    hits: Vec<(Subject, Event)>,
    /// All of it.
    account: Account,
    /// Name of the node.
    node: String,
}

/// Fires a recording while an extractor in this process watches.
async fn fire(recording: Vec<u8>) -> Fired {
    let expected = recorded::events(&recording).len();
    let bus = Bus::in_process();
    let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let mut standin =
        StandIn::start(Variant::Core30, &Config::new(Fires::Recording(recording.clone()))).unwrap();
    let mut extractor = Extractor::start(only(standin.binary()), &bus);
    let watched = extractor.watched().await;
    assert_eq!(watched.pid, standin.pid());
    standin.go().unwrap();
    let report = standin.report(LONG).unwrap();
    assert_eq!(report.by, recorded::hits(&recording), "the stand-in fires what was recorded");

    let mut received: Vec<Delivery> = Vec::new();
    let all = async {
        while received.iter().filter(|d| d.subject != Subject::Books).count() < expected {
            assert_ne!(subscriber.recv_many(&mut received, 1024).await, 0);
        }
    };
    tokio::time::timeout(LONG, all).await.expect("every hit becomes an event");
    extractor.stop().await;
    bus.close(Duration::ZERO).await;
    while subscriber.recv_many(&mut received, 1024).await > 0 {}

    let mut fired = Fired { hits: Vec::new(), account: Account::default(), node: watched.node.to_string() };
    for Delivery { subject, event } in received {
        fired.account.add(subject, &event);
        if !matches!(subject, Subject::Books | Subject::Loss) {
            fired.hits.push((subject, event.as_ref().clone()));
        }
    }
    fired
}

fn message(event: &Event) -> Option<&MessageEvent> {
    match &event.peer_observer_event {
        Some(PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })) => {
            Some(message)
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_hit_is_an_event_with_the_same_content_in_the_same_order() {
    require!(need::root());
    for (name, count) in RECORDINGS {
        let recording = recorded_hits(name).unwrap();
        let expected = recorded::events(&recording);
        assert_eq!(expected.len(), count);
        let before = peer_observer_bus::now_ns();
        let fired = fire(recording.clone()).await;

        assert_eq!(fired.hits.len(), count, "{name}");
        let mut last_ns = before;
        for (i, ((subject, event), expected)) in fired.hits.iter().zip(&expected).enumerate() {
            assert_eq!(event.peer_observer_event.as_ref(), Some(expected), "{name}: hit {i}");
            assert_eq!(Some(*subject), Subject::of(expected), "{name}: hit {i}");
            let origin = event.origin.as_ref().unwrap();
            assert_eq!((origin.node.as_str(), origin.extractor()), (fired.node.as_str(), Source::Ebpf));
            assert_eq!(event.timestamp, origin.time_ns / 1_000_000);
            // The offset between the clocks is sampled every second and can step back a little.
            assert!(origin.time_ns + 1_000_000 >= last_ns, "{name}: hit {i} was before the one before it");
            last_ns = origin.time_ns;
        }
        assert!(last_ns < peer_observer_bus::now_ns());

        fired.account.assert_books_are_even();
        assert_eq!(fired.account.total_lost(), 0);
        assert_eq!(fired.account.out_of_order, 0);
        let books: BTreeMap<String, u64> = fired
            .account
            .books
            .iter()
            .map(|((_, tracepoint), b)| (tracepoint.clone(), b.published))
            .collect();
        assert_eq!(books, recorded::hits(&recording), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_odd_messages_of_the_tour_are_events_that_say_what_is_wrong() {
    require!(need::root());
    let fired = fire(recorded_hits("regtest-tour").unwrap()).await;
    let messages: Vec<&MessageEvent> = fired.hits.iter().filter_map(|(_, event)| message(event)).collect();

    let mut malformed: Vec<(&str, u64)> = Vec::new();
    let mut odd: Vec<&str> = Vec::new();
    for message in messages {
        let Some(msg) = &message.msg else { panic!("a message without content: {message:?}") };
        assert_eq!(message.captured, None, "nothing was cut");
        match (msg, &message.decode_error) {
            (Msg::Unknown(unknown), Some(error)) => {
                assert!(!error.is_empty());
                assert_eq!(unknown.payload.len() as u64, message.meta.size, "the payload is all there");
                malformed.push((&message.meta.command, message.meta.size));
            }
            (Msg::Alert(_), Some(error)) => {
                assert!(error.contains("59"), "an alert carries 59 bytes too much: {error}");
                odd.push("alert");
            }
            (Msg::Oldping(_), None) => odd.push("oldping"),
            (Msg::Emptyaddrv2(_), None) => odd.push("emptyaddrv2"),
            (Msg::Unknown(unknown), None) => {
                assert_eq!(unknown.payload.len() as u64, message.meta.size);
                assert!(["hello", "sendtxrcncl"].contains(&unknown.command.as_str()), "{unknown:?}");
            }
            (_, None) => {}
            (_, Some(error)) => panic!("{}: {error}", message.meta.command),
        }
    }
    malformed.sort_unstable();
    odd.sort_unstable();
    assert_eq!(malformed, [("addr", 3), ("addrv2", 525), ("inv", 37), ("sendcmpct", 1), ("tx", 2)]);
    assert_eq!(odd, ["alert", "emptyaddrv2", "oldping"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_public_extractor_published_of_the_tour_is_what_we_publish() {
    require!(need::root());
    let fired = fire(recorded_hits("regtest-tour").unwrap()).await;
    let mut public: BTreeMap<Vec<u8>, Vec<(Subject, Event)>> = BTreeMap::new();
    for published in recorded::public() {
        let (subject, event) = published.event();
        let content = recorded::in_common(event.peer_observer_event.as_ref().unwrap());
        public.entry(content).or_default().push((subject, event));
    }
    let mut only_ours = Vec::new();
    for (subject, event) in &fired.hits {
        let event = event.peer_observer_event.as_ref().unwrap();
        let same = public.get_mut(&recorded::in_common(event)).and_then(Vec::pop);
        match same {
            Some((same_subject, _)) => assert_eq!(same_subject, *subject),
            None => only_ours.push((*subject, event.clone())),
        }
    }
    let only_public: Vec<_> = public.values().flatten().collect();
    assert!(only_public.is_empty(), "{only_public:?}");
    // Five malformed messages and two connections.
    let messages = only_ours.iter().filter(|(subject, _)| *subject == Subject::NetMsg).count();
    let connections = only_ours.iter().filter(|(subject, _)| *subject == Subject::NetConn).count();
    assert_eq!((only_ours.len(), messages, connections), (7, 5, 2), "{only_ours:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_publishes_every_hit_on_nats_in_order_and_public_tools_can_read_it() {
    require!(need::root(), need::nats_server());
    let schema = Schema::public();
    let server = NatsServer::start().unwrap();
    for (name, count) in RECORDINGS {
        let recording = recorded_hits(name).unwrap();
        let expected = recorded::events(&recording);
        let listener = Listener::start(&server.url(), ">").await;
        let mut standin = StandIn::start(Variant::Core30, &Config::new(Fires::Recording(recording))).unwrap();
        let binary = standin.binary().path().display().to_string();
        let mut extractor = program::start(&["extract", "ebpf", "-a", &server.url(), "-b", &binary]);
        extractor.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
        standin.go().unwrap();
        assert_eq!(standin.report(LONG).unwrap().fired, count as u64);
        let about_hits = |subject: &str| !["observer.books", "observer.loss"].contains(&subject);
        let arrived = || listener.messages().iter().filter(|m| about_hits(&m.subject)).count();
        until("every hit is on nats", || arrived() >= count).await;
        assert!(program::terminate(extractor));
        let has_books = || listener.messages().iter().any(Published::is_books);
        until("the last books are on nats", has_books).await;

        let published = listener.messages().clone();
        let mut account = Account::default();
        let mut next = expected.iter();
        for message in &published {
            let (subject, event) = message.event();
            account.add(subject, &event);
            if !message.subject.contains('.') {
                assert_eq!(schema.check_event(&message.payload), Ok(()), "{name}: {event:?}");
            }
            if about_hits(&message.subject) {
                assert_eq!(event.peer_observer_event.as_ref(), next.next(), "{name}");
                assert_eq!(event.encode_to_vec(), message.payload, "{name}: nothing is lost in decoding");
            }
        }
        assert!(next.next().is_none());
        assert_eq!((account.total(), account.total_lost(), account.out_of_order), (count as u64, 0, 0));
    }
}
