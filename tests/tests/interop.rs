//! Our tools on the public extractor's events: the same counts as on our own of the same messages.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;

use bytes::Bytes;
use peer_observer_bus::{Bus, NatsConfig};
use peer_observer_e2e::extractor::{Extractor, only};
use peer_observer_e2e::page::{Samples, sum};
use peer_observer_e2e::plain::{Listener, Published, connect};
use peer_observer_e2e::{LONG, program, recorded, until};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::standin::{Config, Source, StandIn, Variant};
use peer_observer_testkit::{need, recorded_hits, require};

/// What counts by the time of events: ours are from now, those of the public extractor from when the tour was recorded.
const BY_TIME: [&str; 2] = ["timestamp_offset", "closed_age"];

/// Counts messages with a metrics tool of their own.
async fn count(messages: &[Published]) -> Samples {
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    let (metrics, address) = program::start_metrics(&server.url(), &client).await;
    for Published { subject, payload } in messages {
        client.publish(subject.clone(), payload.clone()).await.unwrap();
    }
    client.flush().await.unwrap();
    let of_tour = |page: &Samples| {
        ["netmsg", "netconn", "mempool", "validation"]
            .map(|subject| sum(page, "pipeline_events", &[&format!("subject=\"{subject}\"")]))
            .iter()
            .sum::<f64>()
    };
    let page = program::wait_for_page(address, |page| of_tour(page) == messages.len() as f64);
    assert!(program::terminate(metrics));
    page
}

/// The series that say the same of events of both extractors, summed where only a label that is excused tells them apart.
fn comparable(page: &Samples) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    for (name, value) in page {
        let family = name.trim_start_matches("peerobserver_");
        let is_ours = ["p2p_", "conn_", "mempool_", "validation_"].iter().any(|f| family.starts_with(f));
        if !is_ours || BY_TIME.iter().any(|by_time| name.contains(by_time)) {
            continue;
        }
        let mut name = name.clone();
        for ours in [4, 5, 6, 7] {
            let public = recorded::public_conn_type(ours);
            let label = |value: i32| format!("connection_type=\"{value}\"");
            name = name.replace(&label(ours), &label(public));
        }
        for (ours, public) in [("getcfheaders", "getcfheader"), ("getcfcheckpt", "getcfcheckp")] {
            name = name.replace(&format!("\"{ours}\""), &format!("\"{public}\""));
        }
        *series.entry(name).or_default() += value;
    }
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_extractors_events_count_as_our_own_of_the_same_messages() {
    require!(need::root(), need::nats_server());
    let server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), "*").await;
    let bus = Bus::nats(NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() }).unwrap();
    let recording = recorded_hits("regtest-tour").unwrap();
    let mut standin = StandIn::start(Variant::Core30, &Config::new(Source::Recording(recording))).unwrap();
    let mut extractor = Extractor::start(only(standin.binary()), &bus);
    extractor.watched().await;
    standin.go().unwrap();
    let fired = standin.report(LONG).unwrap().fired as usize;
    extractor.stop().await;
    assert_eq!(bus.close(LONG).await, 0);
    until("all events are on nats", || listener.messages().len() >= fired).await;

    // Ours in the order of theirs: of what says how things stand now, the last one counts.
    let mut ours: BTreeMap<Vec<u8>, Vec<Bytes>> = BTreeMap::new();
    for published in listener.messages().iter().rev() {
        let (_, event) = published.event();
        assert!(event.origin.is_some());
        let content = recorded::in_common(event.peer_observer_event.as_ref().unwrap());
        ours.entry(content).or_default().push(published.payload.clone());
    }
    let public = recorded::public();
    let same: Vec<Published> = public
        .iter()
        .map(|published| {
            let (_, event) = published.event();
            assert!(event.origin.is_none());
            let content = recorded::in_common(event.peer_observer_event.as_ref().unwrap());
            let payload = ours.get_mut(&content).and_then(Vec::pop);
            let payload = payload.unwrap_or_else(|| panic!("not among ours: {event:?}"));
            Published { subject: published.subject.clone(), payload }
        })
        .collect();
    assert_eq!(same.len(), 1_646);

    let (of_public, of_ours) = (count(&public).await, count(&same).await);
    assert_eq!(sum(&of_public, "pipeline_events_without_origin", &[]), 1_646.0);
    assert_eq!(sum(&of_ours, "pipeline_events_without_origin", &[]), 0.0);
    let (of_public, of_ours) = (comparable(&of_public), comparable(&of_ours));
    assert!(of_public.len() > 300, "the tour is full of everything: {}", of_public.len());
    let different: Vec<_> = of_public
        .keys()
        .chain(of_ours.keys())
        .filter(|series| of_public.get(*series) != of_ours.get(*series))
        .map(|series| (series, of_public.get(series), of_ours.get(series)))
        .collect();
    assert!(different.is_empty(), "series, public, ours: {different:#?}");
}
