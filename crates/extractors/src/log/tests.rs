//! From lines in files, pipes and logs of real nodes to events on the bus, also when logs are rotated, cut and damaged.

use std::io::{Cursor, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use peer_observer_bus::{Bus, Limits, NatsConfig, PublisherStats, Subscriber};
use peer_observer_events::proto::log_extractor::Log;
use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::observer::log::log_detail::Kind as Detail;
use peer_observer_events::proto::observer::{Loss, Source as EventSource, UtxoCache};
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_node::debug_log::Position;
use peer_observer_testkit::bitcoind::RealNode;
use peer_observer_testkit::log_writer::{LogWriter, Play, Rotation, recorded_log};
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::{LONG as PATIENCE, STOP, need, require};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::*;

/// An extractor that runs, and who reads what it publishes.
struct Running {
    subscriber: Subscriber,
    bus: Bus,
    stop: CancellationToken,
    /// The runtime waits for its threads, also when a test fails.
    _stopper: DropGuard,
    task: JoinHandle<Result<(), Error>>,
    published: Arc<PublisherStats>,
    events: Vec<(u64, Log)>,
    losses: Vec<Loss>,
}

impl Running {
    fn start(config: Config) -> Self {
        let bus = Bus::in_process();
        let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
        Running::start_on(bus, subscriber, config)
    }

    fn of(
        subscriber: Subscriber,
        bus: Bus,
        stop: CancellationToken,
        task: JoinHandle<Result<(), Error>>,
    ) -> Self {
        let _stopper = stop.clone().drop_guard();
        let (published, events, losses) = (Arc::default(), Vec::new(), Vec::new());
        Running { subscriber, bus, stop, _stopper, task, published, events, losses }
    }

    /// The same, and waits until it has looked at the log, which must be there: then it keeps its place.
    async fn start_and_look(config: Config) -> Self {
        let state = config.log_state.clone().unwrap();
        let running = Running::start(config);
        let looked = async {
            while !state.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looked).await.expect("it keeps the place");
        running
    }

    /// The same on this bus, read by this subscriber.
    fn start_on(bus: Bus, subscriber: Subscriber, config: Config) -> Self {
        let stop = CancellationToken::new();
        let publisher = bus.publisher(EventSource::Log, "log");
        let published = publisher.stats();
        let task = tokio::spawn(run(config, publisher, stop.clone()));
        Running { published, ..Running::of(subscriber, bus, stop, task) }
    }

    /// Waits until it has given so many events to the bus.
    async fn until_published(&self, events: u64) {
        let published = async {
            while self.published.published.load(Ordering::Relaxed) < events {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, published).await.expect("it reads the log");
    }

    async fn take(&mut self) -> usize {
        let mut deliveries = Vec::new();
        let n = self.subscriber.recv_many(&mut deliveries, 1000).await;
        for delivery in deliveries {
            let origin = delivery.event.origin.clone().unwrap();
            assert_eq!(origin.node, "alice");
            match delivery.event.peer_observer_event.clone().unwrap() {
                PeerObserverEvent::LogExtractor(log) => self.events.push((origin.time_ns, log)),
                PeerObserverEvent::Loss(loss) => self.losses.push(loss),
                // Of `connected`.
                PeerObserverEvent::Utxocache(_) => {}
                other => panic!("{other:?}"),
            }
        }
        n
    }

    /// Waits until so many lines have come.
    async fn until(&mut self, lines: usize) {
        let wait = async {
            while self.events.len() < lines {
                self.take().await;
            }
        };
        let result = tokio::time::timeout(PATIENCE, wait).await;
        assert!(result.is_ok(), "{} of {lines} lines after {PATIENCE:?}", self.events.len());
    }

    /// Stops it, and takes what is left.
    async fn end(mut self) -> (Vec<(u64, Log)>, Vec<Loss>) {
        self.stop.cancel();
        let result = tokio::time::timeout(STOP, &mut self.task).await;
        result.expect("ends in time").unwrap().unwrap();
        self.bus.close(Duration::ZERO).await;
        while self.take().await > 0 {}
        (self.events, self.losses)
    }
}

/// A bus over this server, and a subscriber that it knows of.
async fn connected(server: &NatsServer) -> (Bus, Subscriber) {
    let config = NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() };
    let bus = Bus::nats(config).unwrap();
    let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let mut publisher = bus.publisher(EventSource::Ebpf, "knock");
    let knock = async {
        loop {
            publisher.publish(&"alice".into(), 1, PeerObserverEvent::Utxocache(UtxoCache::default()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut heard = Vec::new();
    let meet = async {
        tokio::select! {
            _ = subscriber.recv_many(&mut heard, 1) => {}
            () = knock => {}
        }
    };
    tokio::time::timeout(PATIENCE, meet).await.expect("the server knows the subscriber");
    (bus, subscriber)
}

fn config(folder: &TempDir) -> Config {
    Config {
        log_file: Some(folder.path().join("debug.log")),
        log_node: "alice".into(),
        log_state: Some(folder.path().join("state/log.json")),
        ..Config::default()
    }
}

/// All of these bytes, as if they came on standard input.
async fn read_to_its_end(bytes: Vec<u8>) -> (Vec<(u64, Log)>, Vec<Loss>) {
    let bus = Bus::in_process();
    let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let source = Source::Stdin(Stdin::start(Cursor::new(bytes)).unwrap());
    let worker = Worker::new("alice".into(), source, None, bus.publisher(EventSource::Log, "log"));
    let stop = CancellationToken::new();
    let task = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || {
            worker.run(&stop);
            Ok(())
        }
    });
    let mut running = Running::of(subscriber, bus, stop, task);
    (&mut running.task).await.unwrap().unwrap();
    running.bus.close(Duration::ZERO).await;
    while running.take().await > 0 {}
    (running.events, running.losses)
}

fn text(log: &Log) -> &str {
    match &log.log_event {
        Some(LogEvent::UnknownLogMessage(message)) => &message.raw_message,
        other => panic!("{other:?}"),
    }
}

/// What the lines of a log become when nothing happens to it.
fn expected(log: &[u8]) -> Vec<Log> {
    let mut parser = Parser::default();
    let text = String::from_utf8(log.to_vec()).unwrap();
    text.lines().map(|line| super::log(&parser.parse(line), line.len() as u64)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_log_arrives_whole_through_every_kind_of_rotation() {
    let recorded = recorded_log("regtest-tour/debug.log.zst").unwrap();
    let expected = expected(&recorded);
    for rotate in [None, Some((20, Rotation::Rename)), Some((20, Rotation::CopyTruncate))] {
        let folder = TempDir::new().unwrap();
        let mut writer = LogWriter::open(folder.path().join("debug.log")).unwrap();
        let mut running = Running::start_and_look(config(&folder)).await;
        let played = recorded.clone();
        let writer = std::thread::spawn(move || {
            writer
                .play(&played, Play { lines_at_once: 97, pause: Duration::from_millis(10), rotate })
                .unwrap();
        });
        running.until(expected.len()).await;
        writer.join().unwrap();
        let (events, losses) = running.end().await;
        let events: Vec<Log> = events.into_iter().map(|(_, log)| log).collect();
        assert!(events == expected, "{rotate:?}");
        assert_eq!(losses, [], "{rotate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_lines_become_the_public_kinds_and_ours() {
    let (events, _) = read_to_its_end(recorded_log("regtest-tour/debug-threadnames.log.zst").unwrap()).await;
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (time_ns, log) in &events {
        let kind = match (log.log_event.as_ref().unwrap(), &log.detail) {
            (LogEvent::BlockConnectedLog(_), None) => "connected",
            (LogEvent::BlockCheckedLog(_), None) => "checked",
            (LogEvent::SawNewHeaderLog(header), None) if header.is_cmpctblock => "compact header",
            (LogEvent::SawNewHeaderLog(_), None) => "header",
            (LogEvent::CompactBlockReconstructedLog(_), None) => "reconstructed",
            (LogEvent::UnknownLogMessage(_), Some(detail)) => match detail.kind.as_ref().unwrap() {
                Detail::UpdateTip(_) => "tip",
                Detail::NodeStarted(_) => "started",
                Detail::Disconnect(_) => "disconnect",
                other => panic!("{other:?}"),
            },
            (LogEvent::UnknownLogMessage(_), None) => "unknown",
            other => panic!("{other:?}"),
        };
        *counts.entry(kind).or_default() += 1;
        if log.log_timestamp > 0 {
            assert_eq!(*time_ns, log.log_timestamp * 1000);
            assert!(!log.threadname.is_empty());
        }
    }
    let unknown = 5047 - 310 - 155 - 5 - 117 - 117 - 156 - 1 - 1;
    let wanted = [
        ("checked", 155),
        ("compact header", 117),
        ("connected", 310),
        ("disconnect", 1),
        ("header", 5),
        ("reconstructed", 117),
        ("started", 1),
        ("tip", 156),
        ("unknown", unknown),
    ];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_restarts_lose_and_double_no_line() {
    let folder = TempDir::new().unwrap();
    let mut log = LogWriter::open(folder.path().join("debug.log")).unwrap();
    log.write(b"2026-01-01T00:00:00Z was there before\n").unwrap();
    let mut written = 0;
    let mut write = |log: &mut LogWriter, lines: usize| {
        for _ in 0..lines {
            log.write(format!("2026-01-01T00:00:00Z line {written}\n").as_bytes()).unwrap();
            written += 1;
        }
        written
    };
    let mut read = Vec::new();
    for round in 0..6 {
        // Only the first one finds no place that was kept.
        let mut running = match round {
            0 => Running::start_and_look(config(&folder)).await,
            _ => Running::start(config(&folder)),
        };
        let all = write(&mut log, 10);
        running.until(all - read.len()).await;
        let (events, losses) = running.end().await;
        assert_eq!(losses, []);
        read.extend(events.iter().map(|(_, log)| text(log).to_owned()));
        write(&mut log, 10);
        match round {
            1 => log.rotate(Rotation::Rename).unwrap(),
            3 => log.rotate(Rotation::CopyTruncate).unwrap(),
            _ => {}
        }
        write(&mut log, 10);
    }
    let mut running = Running::start(config(&folder));
    running.until(written - read.len()).await;
    read.extend(running.end().await.0.iter().map(|(_, log)| text(log).to_owned()));
    assert_eq!(read, (0..written).map(|i| format!("line {i}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_never_reached_the_server_come_after_a_restart() {
    require!(need::nats_server());
    let folder = TempDir::new().unwrap();
    let mut log = LogWriter::open(folder.path().join("debug.log")).unwrap();
    let mut written = 0;
    let mut write = || {
        for i in written..written + 10 {
            log.write(format!("2026-01-01T00:00:00Z line {i}\n").as_bytes()).unwrap();
        }
        written += 10;
        written
    };
    let mut server = NatsServer::start().unwrap();
    Running::start_and_look(config(&folder)).await.end().await;
    let mut read = Vec::new();
    for is_there in [true, false, true, false, false, true] {
        if !is_there {
            server.stop().unwrap();
            let bus = Bus::nats(NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() });
            let bus = bus.unwrap();
            let subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
            let running = Running::start_on(bus, subscriber, config(&folder));
            write();
            running.until_published(10).await;
            assert!(running.end().await.0.is_empty());
            server.restart().unwrap();
            continue;
        }
        let (bus, subscriber) = connected(&server).await;
        let mut running = Running::start_on(bus, subscriber, config(&folder));
        let all = write();
        running.until(all - read.len()).await;
        let (events, losses) = running.end().await;
        assert_eq!(losses, []);
        read.extend(events.iter().map(|(_, log)| text(log).to_owned()));
    }
    assert_eq!(read, (0..60).map(|i| format!("line {i}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_missing_while_we_were_away_is_told() {
    let folder = TempDir::new().unwrap();
    let mut log = LogWriter::open(folder.path().join("debug.log")).unwrap();
    let mut running = Running::start_and_look(config(&folder)).await;
    log.write(b"2026-01-01T00:00:00Z one\n").unwrap();
    running.until(1).await;
    running.end().await;
    std::fs::remove_file(log.path()).unwrap();
    let mut log = LogWriter::open(log.path()).unwrap();
    log.write(b"2026-01-01T00:00:01Z two\n").unwrap();
    let mut running = Running::start(config(&folder));
    running.until(1).await;
    let (events, losses) = running.end().await;
    assert_eq!(text(&events[0].1), "two");
    let told: Vec<_> =
        losses.iter().map(|l| (l.stage(), l.cause.as_str(), l.count, l.component.as_str())).collect();
    assert_eq!(told, [(Stage::Probe, "gap", 1, "log")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_too_long_or_not_text_are_kept_as_far_as_they_can_be() {
    let mut bytes = b"2026-01-01T00:00:01Z [net] before\n".to_vec();
    bytes.extend(b"2026-01-01T00:00:02Z \xff\xfe not UTF-8\n");
    bytes.extend([0; 5000]);
    bytes.extend(b"2026-01-01T00:00:03Z after a hole\n");
    bytes.extend(b"2026-01-01T00:00:04Z ");
    bytes.extend(vec![b'x'; 12_000_000]);
    bytes.extend(b"\n2026-01-01T00:00:05Z record\n  goes on\n\n2026-01-01T00:00:06Z no newline");
    let (events, losses) = read_to_its_end(bytes).await;
    let texts: Vec<&str> = events.iter().map(|(_, log)| text(log)).map(|t| &t[..t.len().min(20)]).collect();
    assert_eq!(
        texts,
        [
            "before",
            "\u{fffd}\u{fffd} not UTF-8",
            "after a hole",
            "xxxxxxxxxxxxxxxxxxxx",
            "record",
            "  goes on",
            "",
            "no newline"
        ]
    );
    let lengths: Vec<u64> = events.iter().map(|(_, log)| log.log_line_bytes).collect();
    assert_eq!(lengths, [33, 33, 5033, 12_000_021, 27, 9, 0, 31]);
    assert_eq!(text(&events[3].1).len(), MAX_LINE - 21);
    // Lines without a time happened when the line before did.
    assert_eq!(events[5].0, events[4].0);
    assert_eq!((events[5].1.log_timestamp, events[4].1.log_timestamp), (0, 1_767_225_605_000_000));
    let mut told: Vec<_> = losses.iter().map(|l| (l.cause.as_str(), l.stage(), l.count)).collect();
    told.sort_unstable();
    assert_eq!(told, ["cut", "not_utf8", "nul_bytes"].map(|cause| (cause, Stage::Decode, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_pipe_is_read_whoever_writes_to_it_and_whenever() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    let config = Config { bitcoind_pipe: Some(pipe.clone()), log_node: "alice".into(), ..Config::default() };
    let mut running = Running::start(config.clone());
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let open = |pipe: PathBuf| {
        tokio::task::spawn_blocking(move || fs::File::options().write(true).open(pipe).unwrap())
    };
    let mut writer = open(pipe.clone()).await.unwrap();
    writer.write_all(b"2026-01-01T00:00:00Z one\n2026-01-01T00:00:00Z tw").unwrap();
    running.until(1).await;
    writer.write_all(b"o\n2026-01-01T00:00:00Z cut").unwrap();
    drop(writer);
    running.until(3).await;
    let mut writer = open(pipe.clone()).await.unwrap();
    writer.write_all(b"2026-01-01T00:00:00Z four\n").unwrap();
    running.until(4).await;
    // A new pipe in its place.
    drop(writer);
    fs::remove_file(&pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut writer = open(pipe.clone()).await.unwrap();
    writer.write_all(b"2026-01-01T00:00:00Z five\n2026-01-01T00:00:00Z six").unwrap();
    running.until(5).await;
    let (events, losses) = running.end().await;
    let texts: Vec<&str> = events.iter().map(|(_, log)| text(log)).collect();
    assert_eq!(texts, ["one", "two", "cut", "four", "five", "six"]);
    assert_eq!(losses, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_real_node_is_understood() {
    require!(need::bitcoind());
    let options = ["-debug=all", "-logtimemicros", "-logthreadnames", "-logsourcelocations", "-logips"];
    let mut node = RealNode::start(&options).unwrap();
    let path = node.datadir().join("regtest/debug.log");
    let folder = TempDir::new().unwrap();
    let config = Config { log_file: Some(path.clone()), ..config(&folder) };
    let mut running = Running::start_and_look(config).await;
    let generate = |n: u32| node.rpc("generatetodescriptor", serde_json::json!([n, "raw(51)"])).unwrap();
    generate(20);
    fs::rename(&path, path.with_extension("log.1")).unwrap();
    // It asks the node to open its log again.
    let pid = node.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    generate(20);
    node.stop().unwrap();
    node.restart().unwrap();
    node.rpc("generatetodescriptor", serde_json::json!([20, "raw(51)"])).unwrap();
    node.stop().unwrap();

    let is_over = |log: &Log| {
        matches!(
            log.detail.as_ref().and_then(|d| d.kind.as_ref()),
            Some(Detail::NodeStopped(stopped)) if stopped.done
        )
    };
    let wait = async {
        while running.events.iter().filter(|(_, log)| is_over(log)).count() < 2 {
            running.take().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    let (events, losses) = running.end().await;
    assert_eq!(losses, []);
    let tips = events.iter().filter_map(|(_, log)| match log.detail.as_ref()?.kind.as_ref()? {
        Detail::UpdateTip(tip) => Some(tip.height),
        _ => None,
    });
    // Starting again connects nothing anew, but says where it is.
    let mut tips: Vec<u32> = tips.collect();
    tips.dedup();
    assert_eq!(tips, (1..=60).collect::<Vec<_>>());
    // Some of its records end with an empty line.
    let with_text: Vec<&Log> =
        events.iter().map(|(_, log)| log).filter(|log| log.log_line_bytes > 0).collect();
    assert!(with_text.len() > 1000, "{}", with_text.len());
    for log in with_text {
        assert!(log.log_timestamp > 0 && !log.threadname.is_empty(), "{log:?}");
        let Some(LogEvent::UnknownLogMessage(message)) = &log.log_event else { continue };
        assert!(!message.raw_message.starts_with('['), "{log:?}");
    }
}

#[test]
fn advice_says_who_may_not_read_the_log() {
    use peer_observer_node::access::Access;
    use peer_observer_node::process::User;
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("debug.log");
    let stranger = User::new(54_321, vec![54_321]);
    let found = || LogWindow {
        path: path.clone(),
        known_as: path.clone(),
        access: Access::new(stranger.clone(), "/".into()),
    };
    let advice = || check_found(&found()).fix.unwrap_or_default();
    assert!(advice().contains("it is waited for"), "{}", advice());
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(advice().contains("node's user"), "{}", advice());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(check_found(&found()).ok);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a-file");
    fs::write(&file, "").unwrap();
    let refused = |config: Config| async {
        let bus = Bus::in_process();
        let findings = check(&config);
        let publisher = bus.publisher(EventSource::Log, "log");
        (run(config, publisher, CancellationToken::new()).await.unwrap_err(), findings)
    };
    let (error, findings) = refused(Config::default()).await;
    assert!(matches!(error, Error::Nothing) && findings.is_empty());
    let both = Config { log_file: Some("x".into()), bitcoind_pipe: Some("y".into()), ..Config::default() };
    assert!(matches!(refused(both).await.0, Error::Both));
    let pipe = Config { bitcoind_pipe: Some(file.clone()), ..Config::default() };
    let (error, findings) = refused(pipe).await;
    assert!(matches!(error, Error::NotAPipe(_)));
    assert!(!findings[0].ok);
    let no_file = Config { log_file: Some(folder.path().into()), ..Config::default() };
    assert!(matches!(refused(no_file).await.0, Error::NotAFile(_)));

    let state = |path: &str| Config {
        log_file: Some(file.clone()),
        log_state: Some(folder.path().join(path)),
        ..Config::default()
    };
    assert!(check(&state("new/folder/state.json")).iter().all(|f| f.ok));
    let bad = check(&state("a-file/state.json"));
    assert_eq!(bad.iter().map(|f| f.ok).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn looking_whether_a_state_can_be_kept_disturbs_nobody_who_keeps_one() {
    let folder = TempDir::new().unwrap();
    let (file, log) = (folder.path().join("state.json"), folder.path().join("debug.log"));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                State::check(Some(&file), &log).unwrap();
            }
        });
        for offset in 1..300 {
            // A state of its own each time: one that was read says what was really written.
            let mut state = State::read(file.clone(), &log);
            let position = Position { offset, head: vec![1; 256], ..Position::default() };
            state.keep(position.clone());
            assert_eq!(State::read(file.clone(), &log).position(), Some(position));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_state_that_is_broken_or_of_another_log_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("state.json");
    let log = folder.path().join("debug.log");
    let mut state = State::open(Some(&file), &log).unwrap();
    assert_eq!(state.position(), None);
    let position = Position { offset: 7, head: vec![1, 255], ..Position::default() };
    let empty = Position { empty_since: Some(std::time::SystemTime::now()), ..Position::default() };
    for position in [empty, position] {
        state.keep(position.clone());
        assert_eq!(State::open(Some(&file), &log).unwrap().position(), Some(position));
    }
    assert_eq!(State::open(Some(&file), &folder.path().join("other.log")).unwrap().position(), None);
    // As of a version that did not know empty files.
    let before = serde_json::json!({ "log": &log, "offset": 0, "head": [], "tail": [] });
    fs::write(&file, before.to_string()).unwrap();
    assert_eq!(State::open(Some(&file), &log).unwrap().position(), Some(Position::default()));
    for broken in ["", "{", "{}", "[1]"] {
        fs::write(&file, broken).unwrap();
        assert_eq!(State::open(Some(&file), &log).unwrap().position(), None, "{broken}");
    }
}
