//! The tool as it runs: a bus, a socket, files that change.

use std::time::Duration;

use peer_observer_bus::{Bus, Limits};
use peer_observer_testkit::{LONG, STOP};
use tokio::net::TcpStream;

use super::*;
use crate::scrape::scrape;

async fn scraped(address: std::net::SocketAddr) -> Samples {
    samples(&scrape(address).await)
}

#[tokio::test]
async fn what_was_published_is_what_is_scraped_by_many_at_once() {
    let bus = Bus::in_process();
    let config = Config::default();
    let subscriber = bus.subscriber("metrics", &subjects(&config), Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let stop = stop.clone();
        async move { run_at(listener, &config, subscriber, stop).await }
    });

    let _silent = TcpStream::connect(address).await.unwrap();
    let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
    let node: Arc<str> = "alice".into();
    {
        let mut batch = publisher.batch();
        for delivery in tour() {
            let event = Arc::unwrap_or_clone(delivery.event);
            let time_ns = event.timestamp * 1_000_000;
            batch.publish(&node, time_ns, event.peer_observer_event.unwrap());
        }
    }
    let deadline = tokio::time::Instant::now() + LONG;
    while sum(&scraped(address).await, "peerobserver_pipeline_events") < 1646.0 {
        assert!(tokio::time::Instant::now() < deadline, "the events do not arrive");
    }
    let scrapes: Vec<_> = (0..20).map(|_| tokio::spawn(scraped(address))).collect();
    for scrape in scrapes {
        let counted = scrape.await.unwrap();
        assert_eq!(sum(&counted, "peerobserver_pipeline_events"), 1646.0);
        assert_eq!(
            sum(&counted, "peerobserver_p2p_message_count"),
            sum(&after(&tour()), "peerobserver_p2p_message_count")
        );
        expect(&counted, &[("pipeline_events_without_origin", 0.0), ("pipeline_queue_events", 0.0)]);
    }
    stop.cancel();
    tokio::time::timeout(STOP, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_list_that_changes_counts_from_then_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let list = format!("gmax={}", file.path().display()).parse().unwrap();
    let config = Config { ip_lists: vec![list], ..Config::default() };
    let watch = Watch::new(config.files());
    let metrics = Arc::new(Mutex::new(Metrics::new(&config).unwrap()));
    let stop = CancellationToken::new();
    let counting = metrics.clone();
    let take = move |known| locked(&counting).known = known;
    let renewal = tokio::spawn(watch.follow(Duration::from_millis(5), stop.clone(), take));
    std::fs::write(file.path(), "192.0.2.1\n").unwrap();
    file.as_file().set_modified(std::time::UNIX_EPOCH).unwrap();

    let opened = connection(connection_event::Event::Inbound(InboundConnection {
        conn: conn("192.0.2.1:1", 1),
        existing_connections: 1,
    }));
    let deadline = tokio::time::Instant::now() + LONG;
    while samples(&locked(&metrics).render(Format::Text))["peerobserver_conn_inbound_banlist_gmax"] == 0.0 {
        assert!(tokio::time::Instant::now() < deadline, "the list is not read again");
        locked(&metrics).observe(&opened);
        tokio::task::yield_now().await;
    }
    stop.cancel();
    renewal.await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = Config { metrics_address: address.clone(), ..Config::default() };
    assert!(!check(&config)[0].ok);
    let subscriber = Bus::in_process().subscriber("metrics", Subject::ALL, Limits::default());
    let error = run(config, subscriber, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("--metrics-address"), "{error}");
}
