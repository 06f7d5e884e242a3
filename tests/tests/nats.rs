//! What goes wrong with NATS, and with those who read from it: what is lost is counted, and the rest goes on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use peer_observer_bus::{Bus, NatsConfig};
use peer_observer_e2e::account::{Account, Kept};
use peer_observer_e2e::extractor::{Extractor, only};
use peer_observer_e2e::page::{self, sum};
use peer_observer_e2e::plain::{Listener, Published, connect, knock};
use peer_observer_e2e::{LONG, program, recorded, turn, until};
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::proto::observer::{Origin, UtxoCache};
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use peer_observer_testkit::nats::{self, NatsServer, Transport};
use peer_observer_testkit::process::Signal;
use peer_observer_testkit::standin::{Config, Pace, Source, StandIn, Synthetic, SyntheticMessage, Variant};
use peer_observer_testkit::{data_dir, need, require};
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::time::sleep;

/// How long NATS is away where it matters how long: the buffers of clients and of the kernel's sockets fill in less.
const LONG_AWAY: Duration = Duration::from_secs(30);
/// How long it is away elsewhere: enough for every buffer but those under test to fill.
const AWAY: Duration = Duration::from_secs(5);
/// How long a tool is stopped.
const STOPPED: Duration = Duration::from_secs(10);
/// What a node does meanwhile, hits a second.
const RATE: f64 = 2_000.0;

/// Pings at [`RATE`] for `seconds`.
fn load(seconds: u64) -> Config {
    Config { pace: Pace::PerSecond(RATE), ..Config::pings(RATE as u64 * seconds) }
}

/// An extractor in this process that publishes on a server, with a stand-in.
struct Rig {
    bus: Bus,
    extractor: Extractor,
    standin: StandIn,
}

impl Rig {
    async fn start(server: &NatsServer, spool_bytes: Option<usize>, config: &Config) -> Self {
        let nats = NatsConfig {
            nats_address: Some(server.url()),
            nats_spool_bytes: spool_bytes,
            ..NatsConfig::default()
        };
        let bus = Bus::nats(nats).unwrap();
        let standin = StandIn::start(Variant::Core30, config).unwrap();
        let mut extractor = Extractor::start(only(standin.binary()), &bus);
        extractor.watched().await;
        Rig { bus, extractor, standin }
    }

    /// Has the stand-in fire, and waits until it has.
    async fn fire(&mut self) -> u64 {
        self.standin.go().unwrap();
        let report = tokio::task::block_in_place(|| self.standin.report(LONG).unwrap());
        report.fired
    }

    /// Ends the extractor; everything it has is handed over.
    async fn end(self) {
        self.extractor.stop().await;
        assert_eq!(self.bus.close(LONG).await, 0);
    }
}

/// The account of what a listener got.
fn account(listener: &Listener) -> Account {
    let mut account = Account::default();
    for message in listener.messages().iter() {
        let (subject, event) = message.event();
        account.add(subject, &event);
    }
    account
}

/// Waits until the last books have come.
async fn books_of(listener: &Listener, hits: u64) {
    until("the last books arrive", || {
        let messages = listener.messages();
        let books = messages.iter().rev().find(|m| m.is_books());
        books.is_some_and(|books| {
            let (subject, event) = books.event();
            let mut account = Account::default();
            account.add(subject, &event);
            account.hits() == hits && account.books.values().all(|b| b.hits == b.published + b.dropped)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_gets_everything_since_the_start() {
    require!(need::root(), need::nats_server());
    let mut server = NatsServer::start().unwrap();
    server.kill().unwrap();
    let mut rig = Rig::start(&server, None, &Config::pings(5_000)).await;
    assert_eq!(rig.fire().await, 5_000);
    // A subscriber cannot be there before the server, so what the spool gives first may find nobody; its numbers tell of it.
    server.restart().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    assert_eq!(rig.fire().await, 5_000);
    rig.end().await;
    books_of(&listener, 10_000).await;
    let account = account(&listener);
    account.assert_books_are_even();
    assert_eq!(account.last_message.values().collect::<Vec<_>>(), [&10_000], "all of them were published");
    assert_eq!((account.total_lost(), account.out_of_order), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_server_is_away_is_published_when_it_is_back() {
    require!(need::root(), need::nats_server());
    let mut server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    let mut rig = Rig::start(&server, None, &load(LONG_AWAY.as_secs())).await;
    let mut fired = rig.fire().await;
    // Quiet, so that nothing is under way when it is killed.
    until("all is there", || account(&listener).total() == fired).await;
    server.kill().unwrap();
    fired += rig.fire().await;
    server.restart().unwrap();
    rig.end().await;
    until("something arrives again", || account(&listener).total() > 0).await;
    books_of(&listener, fired).await;
    let account = account(&listener);
    account.assert_books_are_even();
    assert_eq!(account.last_message.values().collect::<Vec<_>>(), [&fired], "all of them were published");
    assert_eq!((account.total_lost(), account.out_of_order, account.nonces_out_of_order), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_spool_is_counted_and_the_rest_goes_on() {
    require!(need::root(), need::nats_server());
    let mut server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    // Room for some thousand pings.
    let mut rig = Rig::start(&server, Some(1 << 20), &load(AWAY.as_secs())).await;
    let mut fired = rig.fire().await;
    until("all is there", || account(&listener).total() == fired).await;
    server.kill().unwrap();
    fired += rig.fire().await;
    server.restart().unwrap();
    until("the loss is told", || account(&listener).total_lost() > 0).await;
    fired += rig.fire().await;
    rig.end().await;
    books_of(&listener, fired).await;
    let account = account(&listener);
    account.assert_books_are_even();
    let lost = account.lost.get(&(Stage::Publish, "full".to_owned())).copied().unwrap_or(0);
    assert!(lost > RATE as u64, "{:?}", account.lost);
    assert_eq!(account.total_lost(), lost, "{:?}", account.lost);
    // Books may not have fitted either.
    let published: u64 = account.last_message.values().sum();
    assert_eq!(published + account.lost_messages, fired, "published or counted, each once");
    assert_eq!((account.out_of_order, account.nonces_out_of_order), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_under_load_costs_only_what_is_counted() {
    require!(need::root(), need::nats_server());
    let mut server = NatsServer::start().unwrap();
    let mut rig = Rig::start(&server, None, &load(AWAY.as_secs() + 2)).await;
    let kept = Kept::of(&rig.bus);
    knock(&connect(&server.url()).await, || kept.look(|a| a.knocks) > 0).await;
    rig.standin.go().unwrap();
    until("hits are seen", || kept.look(Account::total) > 1_000).await;
    server.kill().unwrap();
    sleep(AWAY).await;
    server.restart().unwrap();
    let mut fired = tokio::task::block_in_place(|| rig.standin.report(LONG).unwrap()).fired;
    // Holes are seen by what comes after them.
    let before = kept.look(Account::total);
    fired += rig.fire().await;
    until("hits are seen again", || kept.look(Account::total) > before).await;
    rig.extractor.stop().await;
    until("the books are there", || kept.look(Account::hits) == fired).await;
    until("each is delivered or counted", || kept.look(|a| a.total() + a.total_lost()) >= fired).await;
    let account = kept.close(&rig.bus).await;
    account.assert_books_are_even();
    let allowed = [(Stage::Transport, "gap".to_owned())];
    assert!(account.lost.keys().all(|loss| allowed.contains(loss)), "{:?}", account.lost);
    assert_eq!(account.total() + account.total_lost(), fired, "{:?}", account.lost);
    assert_eq!(account.out_of_order, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_loses_nothing() {
    require!(need::root(), need::nats_server());
    let mut server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    let mut rig = Rig::start(&server, None, &load(AWAY.as_secs())).await;
    let mut fired = rig.fire().await;
    server.freeze().unwrap();
    fired += rig.fire().await;
    server.thaw().unwrap();
    fired += rig.fire().await;
    rig.end().await;
    books_of(&listener, fired).await;
    until("all is there", || account(&listener).total() == fired).await;
    let account = account(&listener);
    account.assert_books_are_even();
    assert_eq!((account.total_lost(), account.out_of_order, account.nonces_out_of_order), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_waits_for_room_on_the_way_to_the_server() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let listener = Listener::start(&server.url(), ">").await;
    let recording = data_dir().join("regtest-tour/tracepoints.bin.zst");
    let args = ["extract", "capture", "-a", &server.url(), "--nats-spool-bytes", "65536", "--recording"];
    let args: Vec<&str> = args.into_iter().chain(recording.to_str()).collect();
    let output = tokio::task::block_in_place(|| program::output(&args));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until("all is there", || account(&listener).total() + account(&listener).total_lost() >= 1653).await;
    assert_eq!(account(&listener).total_lost(), 0);
}

fn fetch(address: SocketAddr) -> page::Samples {
    page::fetch(address).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_tool_that_was_stopped_counts_what_it_missed() {
    require!(need::root(), need::nats_server());
    let _turn = turn();
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    // Little enough for the server to hold, and then so much that it gives the tool up.
    let pings = load(STOPPED.as_secs());
    let block = Synthetic { message: SyntheticMessage::Block, count: 28, size: 4_000_000, threads: 1 };
    let blocks = Config { pace: Pace::PerSecond(4.0), ..Config::new(Source::Synthetic(block)) };
    for (config, is_given_up) in [(pings, false), (blocks, true)] {
        let (mut metrics, address) = program::start_metrics(&server.url(), &client).await;
        let listener = Listener::start(&server.url(), ">").await;
        let mut rig = Rig::start(&server, None, &config).await;
        rig.standin.go().unwrap();
        // What comes before the first that is seen of a stream is not lost.
        let seen = |page: &page::Samples| sum(page, "pipeline_events", &["subject=\"netmsg\""]);
        until("the tool sees messages", || seen(&fetch(address)) > 0.0).await;
        metrics.signal(Signal::Stop).unwrap();
        let mut fired = tokio::task::block_in_place(|| rig.standin.report(LONG).unwrap()).fired;
        until("the messages are on nats", || account(&listener).total() == fired).await;
        metrics.signal(Signal::Continue).unwrap();
        if is_given_up {
            metrics.wait_for_line(|line| line.contains("nats is gone"), LONG).unwrap();
            metrics.wait_for_line(|line| line.contains("connected to nats"), LONG).unwrap();
        }
        let before = sum(&fetch(address), "pipeline_events", &[]);
        knock(&client, || sum(&fetch(address), "pipeline_events", &[]) > before).await;
        // Holes are seen by what comes after them.
        fired += rig.fire().await;
        rig.end().await;
        books_of(&listener, fired).await;
        assert_eq!(account(&listener).total(), fired, "the extractor loses nothing");

        let told = || missed_messages(&listener);
        until("what was missed is told", || seen(&fetch(address)) + told() >= fired as f64).await;
        let page = fetch(address);
        assert_eq!(seen(&page) + told(), fired as f64);
        assert_eq!(told() > 0.0, is_given_up);
        assert!(sum(&page, "pipeline_own_lost_transport", &[]) >= told());
        // It hears its own loss as everyone does: over the server.
        let labels = ["stage=\"transport\"", "component=\"metrics\""];
        program::wait_for_page(address, |page| sum(page, "pipeline_lost", &labels) >= told());
        assert!(program::terminate(metrics));
    }
}

/// Messages that the metrics tool told to have missed.
fn missed_messages(listener: &Listener) -> f64 {
    let of_messages = |(_, event): (Subject, Event)| match event.peer_observer_event {
        Some(PeerObserverEvent::Loss(loss)) if loss.subject.as_deref() == Some("netmsg") => {
            assert_eq!((loss.stage(), loss.component.as_str()), (Stage::Transport, "metrics"));
            loss.count as f64
        }
        _ => 0.0,
    };
    listener.messages().iter().map(Published::event).map(of_messages).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_publisher_is_reported_as_unknown() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    let (metrics, address) = program::start_metrics(&server.url(), &client).await;
    let listener = Listener::start(&server.url(), "observer.loss").await;
    let lines = tempfile::NamedTempFile::new().unwrap();
    let log = lines.path().display().to_string();
    let arguments = ["extract", "log", "-a", &server.url(), "--log-node", "alice", "--log-file", &log];
    // One leaves in order, one is killed; of both, the end of the stream is all there.
    for is_killed in [false, true] {
        let lines_of =
            |page: &page::Samples| sum(page, "pipeline_events", &["node=\"alice\"", "log-extractor"]);
        let before = lines_of(&fetch(address));
        let mut extractor = program::start(&arguments);
        let is_heard = peer_observer_testkit::wait_until(LONG, || {
            writeln!(lines.as_file(), "2026-01-01T00:00:00Z a line").unwrap();
            lines_of(&fetch(address)) > before
        });
        assert!(is_heard);
        if is_killed {
            extractor.kill().unwrap();
        } else {
            assert!(program::terminate(extractor));
        }
    }
    let silent = |page: &page::Samples| sum(page, "pipeline_own_sessions_silent", &[]);
    let page = program::wait_for_page(address, |page| silent(page) > 0.0);
    assert_eq!(silent(&page), 1.0);
    let unknown = || -> Vec<u64> {
        let events: Vec<_> = listener.messages().iter().map(|message| message.event().1).collect();
        let unknown = events.iter().filter_map(|event| match &event.peer_observer_event {
            Some(PeerObserverEvent::Loss(loss)) if loss.cause == "unknown" => {
                assert_eq!((loss.stage(), loss.component.as_str()), (Stage::Transport, "metrics"));
                assert_eq!(event.origin.as_ref().unwrap().node, "alice");
                Some(loss.count)
            }
            _ => None,
        });
        unknown.collect()
    };
    until("the unknown end is an event", || !unknown().is_empty()).await;
    assert_eq!(unknown(), [0]);
    assert!(program::terminate(metrics));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_gaps_is_few_log_lines() {
    require!(need::nats_server());
    const GAPS: u64 = 5_000;
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    let (mut metrics, address) = program::start_metrics(&server.url(), &client).await;
    for gap in 0..=GAPS {
        let origin = Origin {
            node: "alice".into(),
            extractor: 1,
            session: 7,
            sequence: 2 * gap + 1,
            ..Origin::default()
        };
        let content = PeerObserverEvent::Utxocache(UtxoCache::default());
        let event = Event { timestamp: 0, origin: Some(origin), peer_observer_event: Some(content) };
        client.publish(Subject::UtxoCache.as_str(), event.encode_to_vec().into()).await.unwrap();
    }
    let lost = |page: &page::Samples| sum(page, "pipeline_own_lost_transport", &[]);
    let page = program::wait_for_page(address, |page| lost(page) >= GAPS as f64);
    assert_eq!(lost(&page), GAPS as f64);
    metrics.signal(Signal::Terminate).unwrap();
    metrics.wait(LONG).unwrap();
    let lines = metrics.take_lines();
    let warnings = lines.iter().filter(|line| line.contains("events were lost on the way")).count();
    // One at once, and one every ten seconds.
    assert!((1..50).contains(&warnings), "{warnings} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_server_errors_is_few_log_lines() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut logger = program::start(&["logger", "-a", &address.to_string()]);
    let flooded = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio::io::BufStream::new(stream);
        let info = format!(
            "INFO {{\"server_id\":\"x\",\"version\":\"2.9.0\",\"proto\":1,\"go\":\"1\",\
             \"host\":\"127.0.0.1\",\"port\":{},\"headers\":true,\"max_payload\":1048576}}",
            address.port()
        );
        stream.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let (mut line, mut pings) = (String::new(), 0);
        // The second answer is to what is sent after all errors.
        while pings < 2 {
            line.clear();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "the connection ended");
            match line.trim_end() {
                "PING" => {
                    stream.write_all(b"PONG\r\n").await.unwrap();
                    for _ in 0..20_000 {
                        stream.write_all(b"-ERR 'Something Is Wrong'\r\n").await.unwrap();
                    }
                    stream.write_all(b"PING\r\n").await.unwrap();
                    stream.flush().await.unwrap();
                    pings += 1;
                }
                "PONG" => pings += 1,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LONG, flooded).await.expect("the errors are taken");
    logger.wait_for_line(|line| line.contains("the nats server refuses something"), LONG).unwrap();
    logger.signal(Signal::Terminate).unwrap();
    logger.wait(LONG).unwrap();
    let lines = logger.take_lines();
    let errors = lines.iter().filter(|line| line.contains("the nats server refuses something")).count();
    assert!(errors < 50, "{errors} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_counted_and_passed_over() {
    require!(need::nats_server());
    let server = NatsServer::start().unwrap();
    let client = connect(&server.url()).await;
    let (metrics, address) = program::start_metrics(&server.url(), &client).await;
    let mut logger = program::start(&["logger", "-a", &server.url(), "--messages"]);
    logger.wait_for_line(|line| line.contains("connected to nats"), LONG).unwrap();

    let good = recorded::public();
    let good: Vec<_> = good.iter().filter(|message| message.subject == "netmsg").take(50).collect();
    let mut garbage: Vec<Bytes> = vec![
        Bytes::from_static(b"\xff"),
        Bytes::from_static(b"not an event"),
        Bytes::from_static(b"\x0a\xff\xff\xff\xff\x0f"),
        Bytes::from(vec![0xff; 100_000]),
        // Nested without end.
        Bytes::from([0x0a, 0x7e].repeat(10_000)),
    ];
    // A whole event cut in its middle is in the midst of a field.
    garbage.extend(good.iter().map(|message| message.payload.slice(..message.payload.len() - 1)));
    for message in &garbage {
        client.publish("netmsg", message.clone()).await.unwrap();
        client.publish("no.subject.of-ours", message.clone()).await.unwrap();
    }
    // No event at all, but valid: an empty one.
    client.publish("netmsg", Bytes::new()).await.unwrap();
    for message in &good {
        client.publish(message.subject.clone(), message.payload.clone()).await.unwrap();
    }
    client.flush().await.unwrap();
    let page =
        program::wait_for_page(address, |page| sum(page, "p2p_message_count", &[]) >= good.len() as f64);
    assert_eq!(sum(&page, "pipeline_undecodable_events", &[]), garbage.len() as f64);
    assert_eq!(sum(&page, "p2p_message_count", &[]), good.len() as f64);
    let mut lines = 0;
    while lines < good.len() {
        logger.wait_for_line(|line| line.contains(" from id=") || line.contains(" to id="), LONG).unwrap();
        lines += 1;
    }
    assert!(program::terminate(metrics));
    assert!(program::terminate(logger));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_four_megabytes_needs_a_server_that_takes_it() {
    require!(need::root(), need::nats_server());
    let block = Synthetic { message: SyntheticMessage::Block, count: 1, size: 4_000_000, threads: 1 };
    // The server's own default.
    for (max_payload, is_taken) in [(nats::MAX_PAYLOAD, true), (1_048_576, false)] {
        let server = NatsServer::start_with(nats::Config { max_payload, ..nats::Config::default() }).unwrap();
        let listener = Listener::start(&server.url(), ">").await;
        let mut standin = StandIn::start(Variant::Core30, &Config::new(Source::Synthetic(block))).unwrap();
        let binary = standin.binary().path().display().to_string();
        let mut extractor = program::start(&["extract", "ebpf", "-a", &server.url(), "-b", &binary]);
        extractor.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
        standin.go().unwrap();
        assert_eq!(standin.report(LONG).unwrap().fired, 1);
        if !is_taken {
            let line = extractor.wait_for_line(|line| line.contains("max_payload"), LONG).unwrap();
            assert!(line.contains("5242880"), "{line}");
        }
        until("it is told of", || account(&listener).total() + account(&listener).total_lost() == 1).await;
        assert!(program::terminate(extractor));
        let account = account(&listener);
        match is_taken {
            true => assert_eq!((account.total(), account.total_lost()), (1, 0)),
            false => {
                let lost: Vec<_> = account.lost.into_iter().collect();
                assert_eq!(lost, [((Stage::Publish, "too_large".to_owned()), 1)]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_and_tls_are_what_the_server_asks_for() {
    require!(need::nats_server(), need::openssl());
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "secret word\n").unwrap();
    let password_file = password_file.display().to_string();
    let login = Some(("watcher".to_owned(), "secret word".to_owned()));
    let recording = data_dir().join("regtest-tour/tracepoints.bin.zst").display().to_string();
    for transport in [Transport::Plain, Transport::Tls] {
        let config = nats::Config { login: login.clone(), transport, ..nats::Config::default() };
        let server = NatsServer::start_with(config).unwrap();
        let url = server.url();
        let ca = server.ca_file().display().to_string();
        let by_password = ["-a", &url, "-u", "watcher", "-p", "secret word"];
        let by_file = ["-a", &url, "-u", "watcher", "-f", &password_file];
        for login in [&by_password[..], &by_file[..]] {
            let mut login = login.to_vec();
            if transport == Transport::Tls {
                login.extend(["--nats-tls", "--nats-tls-ca", &ca]);
            }
            let mut logger = program::start(&[&["logger", "--validation"], login.as_slice()].concat());
            logger.wait_for_line(|line| line.contains("connected to nats"), LONG).unwrap();
            let extract = ["extract", "capture", "--recording", &recording];
            // The logger may not be subscribed yet when it is connected: so again, until it has heard it.
            let played = peer_observer_testkit::wait_until(LONG, || {
                assert!(program::output(&[&extract[..], login.as_slice()].concat()).status.success());
                logger.wait_for_line(|line| line.contains("BlockConnected"), Duration::from_secs(2)).is_ok()
            });
            assert!(played, "{login:?}");
            assert!(program::terminate(logger));
        }
        let mut wrong = vec!["logger", "-a", &url, "-u", "watcher", "-p", "wrong"];
        if transport == Transport::Tls {
            wrong.extend(["--nats-tls-ca", &ca]);
        }
        let mut stranger = program::start(&wrong);
        let refused = stranger.wait_for_line(
            |line| line.contains("connected to nats") || line.to_lowercase().contains("authorization"),
            LONG,
        );
        assert!(!refused.unwrap().contains("connected to nats"));
    }
}
