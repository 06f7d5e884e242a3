//! Nodes come, go, crash and are upgraded; several run at once; some are older or built without tracepoints.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::process::Command;
use std::time::Duration;

use peer_observer_bus::{Bus, Delivery, Limits};
use peer_observer_e2e::account::{Account, Kept};
use peer_observer_e2e::extractor::{Extractor, only};
use peer_observer_e2e::{LONG, program, recorded, until};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::addrman::addrman_event;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::ebpf_extractor::validation::validation_event;
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_events::{PeerObserverEvent, Subject};
use peer_observer_extractors::ebpf;
use peer_observer_node::hit::{Connection, Hit, Message, Tracepoint};
use peer_observer_node::recording::{Records, write_record};
use peer_observer_testkit::process::Process;
use peer_observer_testkit::standin::{Binary, Config, Source, StandIn, Start, Variant};
use peer_observer_testkit::{need, recorded_hits, require};

fn name_of(standin: &StandIn) -> String {
    standin.datadir().file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_followed_when_it_is_started_again_and_keeps_its_name() {
    require!(need::root());
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    // More than can be fired before it is killed.
    let mut standin = StandIn::start(Variant::Core30, &Config::pings(u64::from(u32::MAX))).unwrap();
    let mut extractor = Extractor::start(only(standin.binary()), &bus);
    let first = extractor.watched().await;
    assert_eq!((first.pid, &*first.node), (standin.pid(), name_of(&standin).as_str()));
    standin.go().unwrap();
    until("hits are seen", || kept.look(Account::total) > 1_000).await;
    standin.kill().unwrap();

    for _ in 0..2 {
        standin.restart().unwrap();
        let again = extractor.watched().await;
        assert_eq!((again.pid, &again.node), (standin.pid(), &first.node));
        let before = kept.look(Account::total);
        standin.go().unwrap();
        until("hits are seen again", || kept.look(Account::total) > before + 1_000).await;
        standin.kill().unwrap();
    }
    extractor.stop().await;
    let account = kept.close(&bus).await;
    assert_eq!(account.total() + account.total_lost(), account.hits());
    account.assert_books_are_even();
    assert_eq!(account.delivered.keys().collect::<Vec<_>>(), [&*first.node]);
    assert_eq!(account.books.len(), 3, "each process has books of its own");
    assert_eq!(account.out_of_order, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_is_seen_from_its_first_hit_under_its_name() {
    require!(need::root());
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    let binary = Binary::install(Variant::Core30).unwrap();
    // What runs before says when the binary is attached to, and ends.
    let mut before = binary.start(&Config::pings(1)).unwrap();
    let mut extractor = Extractor::start(only(&binary), &bus);
    extractor.watched().await;
    before.kill().unwrap();

    let config = Config { start: Start::AtOnce, ..Config::pings(1_000) };
    let mut standin = binary.start(&config).unwrap();
    let report = standin.report(LONG).unwrap();
    assert_eq!((report.fired, report.not_attached), (1_000, 0));
    until("all hits are seen", || kept.look(Account::total) == 1_000).await;
    assert_eq!(extractor.watched().await.pid, standin.pid());
    extractor.stop().await;
    let account = kept.close(&bus).await;
    assert_eq!(account.delivered.get(&name_of(&standin)), Some(&1_000), "{:?}", account.delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_node_is_followed_and_has_what_the_new_program_has() {
    require!(need::root());
    let bus = Bus::in_process();
    let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let mut recording = Vec::new();
    let added = Hit::AddrmanAttemptAdd {
        inserted: true,
        bucket: 7,
        position: 63,
        addr: b"[2001:db8::1]:8333",
        addr_as: 64_496,
        source: b"192.0.2.1:8333",
        source_as: 64_511,
    };
    let moved = Hit::AddrmanMoveToGood {
        bucket: 255,
        position: 0,
        addr: b"192.0.2.2:18444",
        addr_as: 0,
        source: b"192.0.2.1:8333",
        source_as: 64_511,
    };
    let flushed =
        Hit::UtxoCacheFlush { duration_us: 12, mode: 3, coins: 4, bytes: 5_000_000_000, for_prune: true };
    for hit in [added, moved, flushed] {
        write_record(&mut recording, 0, &hit).unwrap();
    }
    let expected = recorded::events(&recording);
    let mut standin = StandIn::start(Variant::Core30, &Config::new(Source::Recording(recording))).unwrap();
    let mut extractor = Extractor::start(only(standin.binary()), &bus);
    let first = extractor.watched().await;
    standin.go().unwrap();
    let report = standin.report(LONG).unwrap();
    assert_eq!((report.fired, report.no_probe), (1, 2), "this version has no addrman tracepoints");

    standin.binary().replace(Variant::Patched).unwrap();
    // The old program goes on until somebody starts the new one.
    standin.go().unwrap();
    assert_eq!(standin.report(LONG).unwrap().fired, 1);
    standin.restart().unwrap();
    let second = extractor.watched().await;
    assert_eq!((second.pid, &second.node), (standin.pid(), &first.node));
    standin.go().unwrap();
    assert_eq!(standin.report(LONG).unwrap().fired, 3);
    extractor.stop().await;
    bus.close(Duration::ZERO).await;

    let mut received: Vec<Delivery> = Vec::new();
    while subscriber.recv_many(&mut received, 1024).await > 0 {}
    let seen: Vec<(Subject, PeerObserverEvent)> = received
        .into_iter()
        .filter(|d| d.subject != Subject::Books)
        .map(|d| (d.subject, d.event.peer_observer_event.clone().unwrap()))
        .collect();
    let [added, moved, flushed] = expected.try_into().unwrap();
    let flush = (Subject::UtxoCache, flushed);
    let expected =
        [flush.clone(), flush.clone(), (Subject::Addrman, added), (Subject::Addrman, moved), flush];
    assert_eq!(seen, expected);
    let PeerObserverEvent::EbpfExtractor(ebpf) = &seen[2].1 else { panic!("{:?}", seen[2]) };
    let Some(EbpfEvent::Addrman(addrman)) = &ebpf.ebpf_event else { panic!("{ebpf:?}") };
    let Some(addrman_event::Event::New(new)) = &addrman.event else { panic!("{addrman:?}") };
    assert_eq!((new.addr.as_str(), new.addr_as, new.bucket_pos), ("[2001:db8::1]:8333", 64_496, 63));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_are_named_as_asked_for() {
    require!(need::root());
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    let binary = Binary::install(Variant::Core30).unwrap();
    let other_binary = Binary::install(Variant::Patched).unwrap();
    let mut standins = [
        binary.start(&Config::pings(100)).unwrap(),
        binary.start(&Config::pings(200)).unwrap(),
        binary.start(&Config::pings(400)).unwrap(),
        other_binary.start(&Config::pings(800)).unwrap(),
    ];
    let config = ebpf::Config {
        bitcoind_path: vec![binary.path().to_path_buf(), other_binary.path().to_path_buf()],
        node: vec![
            format!("{}=alice", standins[0].datadir().display()).parse().unwrap(),
            format!("{}=bob", standins[1].pid()).parse().unwrap(),
            format!("{}/=dave", standins[3].datadir().display()).parse().unwrap(),
        ],
        ..ebpf::Config::default()
    };
    let mut extractor = Extractor::start(config, &bus);
    for _ in &standins {
        extractor.watched().await;
    }
    for standin in &mut standins {
        standin.go().unwrap();
        standin.report(LONG).unwrap();
    }
    until("all hits are seen", || kept.look(Account::total) == 1_500).await;
    extractor.stop().await;
    let unnamed = name_of(&standins[2]);
    let expected = [("alice", 100), ("bob", 200), (&unnamed, 400), ("dave", 800)];
    let expected = expected.map(|(name, hits)| (name.to_owned(), hits)).into();
    assert_eq!(kept.close(&bus).await.delivered, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_process_asked_for_is_watched() {
    require!(need::root());
    let binary = Binary::install(Variant::Core30).unwrap();
    let mut wanted = binary.start(&Config::pings(300)).unwrap();
    let mut other = binary.start(&Config::pings(500)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("bitcoind.pid");
    std::fs::write(&pid_file, format!("{}\n", wanted.pid())).unwrap();
    let by_pid = ebpf::Config { bitcoind_pid: Some(wanted.pid()), ..ebpf::Config::default() };
    let by_file = ebpf::Config { bitcoind_pid_file: Some(pid_file.clone()), ..ebpf::Config::default() };
    for config in [by_pid, by_file] {
        let bus = Bus::in_process();
        let kept = Kept::of(&bus);
        let mut extractor = Extractor::start(config, &bus);
        assert_eq!(extractor.watched().await.pid, wanted.pid());
        for standin in [&mut other, &mut wanted] {
            standin.go().unwrap();
            standin.report(LONG).unwrap();
        }
        until("all hits are seen", || kept.look(Account::total) >= 300).await;
        extractor.stop().await;
        let account = kept.close(&bus).await;
        assert_eq!((account.total(), account.hits()), (300, 300));
    }

    // A pid file that changes is followed.
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    let by_file = ebpf::Config { bitcoind_pid_file: Some(pid_file.clone()), ..ebpf::Config::default() };
    let mut extractor = Extractor::start(by_file, &bus);
    extractor.watched().await;
    std::fs::write(&pid_file, other.pid().to_string()).unwrap();
    assert_eq!(extractor.watched().await.pid, other.pid());
    other.go().unwrap();
    other.report(LONG).unwrap();
    until("all hits are seen", || kept.look(Account::total) == 500).await;
    extractor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_times_of_an_older_node_are_told_in_nanoseconds() {
    require!(need::root());
    let recording = recorded_hits("regtest-tour").unwrap();
    let times = |micros: bool| -> Vec<u64> {
        let hits = Records::new(&recording).map(|record| record.unwrap().hit);
        hits.filter_map(|hit| match hit {
            Hit::BlockConnected { duration, .. } if micros => Some(duration / 1_000 * 1_000),
            Hit::BlockConnected { duration, .. } => Some(duration),
            _ => None,
        })
        .collect()
    };
    for (variant, micros) in [(Variant::Core24, true), (Variant::Core30, false)] {
        let expected = times(micros);
        assert!(!expected.is_empty());
        let bus = Bus::in_process();
        let mut subscriber = bus.subscriber("test", &[Subject::Validation], Limits::default());
        let mut standin =
            StandIn::start(variant, &Config::new(Source::Recording(recording.clone()))).unwrap();
        let mut extractor = Extractor::start(only(standin.binary()), &bus);
        extractor.watched().await;
        standin.go().unwrap();
        let report = standin.report(LONG).unwrap();
        assert_eq!(report.by.get(Tracepoint::BlockConnected.as_str()), Some(&(expected.len() as u64)));
        extractor.stop().await;
        bus.close(Duration::ZERO).await;
        let mut received: Vec<Delivery> = Vec::new();
        while subscriber.recv_many(&mut received, 1024).await > 0 {}
        let told: Vec<u64> = received
            .iter()
            .map(|delivery| {
                let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &delivery.event.peer_observer_event else {
                    panic!("{delivery:?}")
                };
                let Some(EbpfEvent::Validation(validation)) = &ebpf.ebpf_event else { panic!("{ebpf:?}") };
                let Some(validation_event::Event::BlockConnected(block)) = &validation.event else {
                    panic!("{validation:?}")
                };
                block.connection_time
            })
            .collect();
        assert_eq!(told, expected, "{variant:?}");
    }
}

/// A hit of every tracepoint.
fn one_of_each() -> Vec<Hit<'static>> {
    let conn = Connection { peer_id: 1, addr: b"192.0.2.1:8333", conn_type: b"inbound", network: 1 };
    let message = |inbound, msg_type, payload: &'static [u8]| {
        let (addr, conn_type, size) = (conn.addr, conn.conn_type, payload.len() as u64);
        Hit::Message(Message { inbound, peer_id: 1, addr, conn_type, msg_type, size, payload })
    };
    let (txid, reason) = ([7; 32], &b"a reason"[..]);
    vec![
        message(true, b"block", &[1; 1_000]),
        message(false, b"tx", &[2; 300]),
        Hit::InboundConnection { conn, existing: 2 },
        Hit::OutboundConnection { conn, existing: 2 },
        Hit::ClosedConnection { conn, established: 3 },
        Hit::EvictedInboundConnection { conn, established: 3 },
        Hit::MisbehavingConnection { peer_id: 1, reason },
        Hit::MempoolAdded { txid, vsize: 1, fee: 2 },
        Hit::MempoolRemoved { txid, reason, vsize: 1, fee: 2, entry_time: 3 },
        Hit::MempoolReplaced {
            replaced_txid: txid,
            replaced_vsize: 1,
            replaced_fee: 2,
            replaced_entry_time: 3,
            replacement_id: txid,
            replacement_vsize: 4,
            replacement_fee: 5,
            by_transaction: true,
        },
        Hit::MempoolRejected { txid, reason },
        Hit::BlockConnected { hash: txid, height: 1, transactions: 2, inputs: 3, sigops: 4, duration: 5 },
        Hit::UtxoCacheFlush { duration_us: 1, mode: 3, coins: 4, bytes: 5, for_prune: true },
        Hit::AddrmanAttemptAdd {
            inserted: true,
            bucket: 1,
            position: 2,
            addr: conn.addr,
            addr_as: 3,
            source: conn.addr,
            source_as: 4,
        },
        Hit::AddrmanMoveToGood {
            bucket: 1,
            position: 2,
            addr: conn.addr,
            addr_as: 3,
            source: conn.addr,
            source_as: 4,
        },
    ]
}

/// Fires one hit of each tracepoint at an extractor with these settings; what is on the bus then, and how many were fired.
async fn fire_one_of_each(unreadable: bool, settings: ebpf::Config) -> (Vec<Delivery>, u64) {
    let mut recording = Vec::new();
    for hit in one_of_each() {
        write_record(&mut recording, 0, &hit).unwrap();
    }
    let bus = Bus::in_process();
    let mut subscriber = bus.subscriber("test", Subject::ALL, Limits::default());
    let config = Config { unreadable, ..Config::new(Source::Recording(recording)) };
    let mut standin = StandIn::start(Variant::Patched, &config).unwrap();
    let bitcoind_path = vec![standin.binary().path().to_path_buf()];
    let mut extractor = Extractor::start(ebpf::Config { bitcoind_path, ..settings }, &bus);
    extractor.watched().await;
    standin.go().unwrap();
    let fired = standin.report(LONG).unwrap().fired;
    extractor.stop().await;
    bus.close(Duration::ZERO).await;
    let mut received = Vec::new();
    while subscriber.recv_many(&mut received, 1024).await > 0 {}
    (received, fired)
}

fn messages(deliveries: &[Delivery]) -> Vec<&MessageEvent> {
    let events = deliveries.iter().filter_map(|d| d.event.peer_observer_event.as_ref());
    events
        .filter_map(|event| match event {
            PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(m)) }) => Some(m),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_has_where_it_cannot_be_read_is_marked_or_told_as_lost() {
    require!(need::root());
    let (all, fired) = fire_one_of_each(true, ebpf::Config::default()).await;
    assert_eq!(fired, 15);
    let messages = messages(&all);
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert!(
            message.decode_error.as_ref().is_some_and(|e| e.contains("could not be read")),
            "{message:?}"
        );
    }
    let events: Vec<Subject> = all.iter().map(|d| d.subject).collect();
    let count = |subject| events.iter().filter(|s| **s == subject).count();
    // A flush points at nothing.
    assert_eq!((count(Subject::NetMsg), count(Subject::UtxoCache)), (2, 1));
    for subject in [Subject::NetConn, Subject::Mempool, Subject::Validation, Subject::Addrman] {
        assert_eq!(count(subject), 0, "{subject:?}");
    }
    let mut account = Account::default();
    for delivery in &all {
        account.add(delivery.subject, &delivery.event);
    }
    assert_eq!(account.lost, [((Stage::Decode, "unread".to_owned()), 12)].into());
    let published: u64 = account.books.values().map(|book| book.published).sum();
    let unread: u64 = account.books.values().map(|book| book.unread).sum();
    assert_eq!((account.hits(), published, unread), (15, 3, 14));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_say_which_tracepoints_are_seen_and_how_much_of_a_message() {
    require!(need::root());
    let limit = |text: &str| vec![text.parse().unwrap()];
    let all = ebpf::Config::default();
    // With what is captured of the block of 1,000 bytes and of the transaction of 300, and how many events there are.
    let cases = [
        (ebpf::Config { max_payload_of: limit("block=80"), ..all.clone() }, Some((80, 300)), 15),
        (ebpf::Config { max_payload_of: limit("tx=0"), max_payload: 600, ..all.clone() }, Some((600, 0)), 15),
        (ebpf::Config { max_payload: 0, no_connection_tracepoints: true, ..all.clone() }, Some((0, 0)), 10),
        (ebpf::Config { no_mempool_tracepoints: true, ..all.clone() }, Some((1_000, 300)), 11),
        (
            ebpf::Config { no_p2pmsg_tracepoints: true, max_payload_of: limit("tx=9"), ..all.clone() },
            None,
            13,
        ),
        (
            ebpf::Config {
                no_validation_tracepoints: true,
                no_utxocache_tracepoints: true,
                max_payload: 299,
                ..all.clone()
            },
            Some((299, 299)),
            13,
        ),
    ];
    for (settings, captured, events) in cases {
        let (received, fired) = fire_one_of_each(false, settings.clone()).await;
        assert_eq!(fired, events, "{settings:?}");
        let told = received.iter().filter(|d| d.subject != Subject::Books).count() as u64;
        assert_eq!(told, events, "{settings:?}");
        let of_messages: Vec<u64> =
            messages(&received).iter().map(|m| m.captured.unwrap_or(m.meta.size)).collect();
        let expected = captured.map_or_else(Vec::new, |(block, tx)| vec![block, tx]);
        assert_eq!(of_messages, expected, "{settings:?}");
    }
}

/// What is where a probe is, until something is attached to it.
const NO_OPERATION: &[u8] = if cfg!(target_arch = "x86_64") { &[0x90] } else { &[0x1f, 0x20, 0x03, 0xd5] };

/// Asserts that the code of a node is what its file says, but for breakpoints where its own probes are.
fn assert_code_is_its_own(standin: &StandIn) {
    let changed = standin.changed_code().unwrap();
    assert!(
        changed.iter().all(|byte| NO_OPERATION.contains(byte)),
        "breakpoints in its instructions: {changed:x?}"
    );
}

/// What is written over the program before each start.
const OVERWRITTEN: [Variant; 4] = [Variant::Core30, Variant::Core24, Variant::Patched, Variant::Core24];

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_overwritten_between_two_starts_is_never_hit_by_probes_of_the_one_before() {
    require!(need::root());
    let bus = Bus::in_process();
    let kept = Kept::of(&bus);
    let binary = Binary::install(Variant::Patched).unwrap();
    let mut extractor = Extractor::start(only(&binary), &bus);
    let rounds = OVERWRITTEN.iter().cycle().take(12);
    let mut fired = 0;
    for variant in rounds {
        binary.overwrite(*variant).unwrap();
        // At once: nobody has looked at the new program.
        let mut standin = binary.start(&Config::pings(100)).unwrap();
        assert_code_is_its_own(&standin);
        assert_eq!(extractor.watched().await.pid, standin.pid());
        assert_code_is_its_own(&standin);
        assert!(!standin.changed_code().unwrap().is_empty(), "it is attached to");
        standin.go().unwrap();
        let report = standin.report(LONG).unwrap();
        assert_eq!((report.fired, report.not_attached), (100, 0), "{variant:?}");
        fired += report.fired;
        standin.kill().unwrap();
    }
    until("all hits are seen", || kept.look(Account::total) == fired).await;
    extractor.stop().await;
    let account = kept.close(&bus).await;
    assert_eq!((account.total(), account.total_lost()), (fired, 0));
    account.assert_books_are_even();
}

#[test]
fn a_program_of_another_user_is_attached_to_process_by_process() {
    require!(need::root());
    const NOBODY: u32 = 65_534;
    let binary = Binary::install(Variant::Patched).unwrap();
    // A lease on it would need a capability that is given up.
    std::os::unix::fs::chown(binary.path(), Some(NOBODY), None).unwrap();
    let mut program =
        program::start(&["run", "--no-metrics", "--no-web", "-b", &binary.path().display().to_string()]);
    program.wait_for_line(|line| line.contains("waiting for one to start"), LONG).unwrap();
    for variant in OVERWRITTEN {
        binary.overwrite(variant).unwrap();
        let mut standins = [(); 2].map(|()| binary.start(&Config::pings(3)).unwrap());
        for standin in &standins {
            assert_code_is_its_own(standin);
        }
        for _ in &standins {
            program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
        }
        for standin in &mut standins {
            standin.go().unwrap();
            assert_eq!(standin.report(LONG).unwrap().fired, 3);
        }
        for _ in 0..6 {
            program.wait_for_line(|line| line.contains("<--") && line.contains("Ping"), LONG).unwrap();
        }
        for mut standin in standins {
            assert_code_is_its_own(&standin);
            standin.kill().unwrap();
        }
    }
    assert!(!program.take_lines().iter().any(|line| line.contains("<--")), "each hit is seen once");
    assert!(program::terminate(program));
}

/// Starts and stops stand-ins in containers of one image, by what it reads, beside a program that looks for nodes where there are no
/// others. $1: the folder with the image's node in it; $2: the program.
const CONTAINERS: &str = r#"
    set -e
    cd "$1"
    mkdir image image/data layers
    for library in $(ldd bitcoind | grep -o '/[^ ]*'); do
        mkdir -p "image$(dirname "$library")"
        cp "$library" "image$library"
    done
    cp bitcoind image/
    mount -t tmpfs tmpfs layers
    for n in 1 2; do
        mkdir layers/upper$n layers/work$n layers/root$n
        mount -t overlay overlay -o lowerdir=image,upperdir=layers/upper$n,workdir=layers/work$n layers/root$n
        mkfifo go$n
    done
    "$2" run --no-metrics --no-web --no-rpc --no-log &
    while read -r what n; do
        case $what in
        start)
            chroot layers/root$n /bitcoind -regtest -datadir=/data \
                --synthetic ping --count 3 --wait-for-go <>go$n &
            echo $! >pid$n ;;
        stop) kill -9 $(cat pid$n) ;;
        esac
    done
"#;

fn overlay() -> Result<(), need::Missing> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known = known.lines().any(|line| line.ends_with("\toverlay"));
    is_known
        .then_some(())
        .ok_or_else(|| need::Missing::new("this kernel knows no overlays; modprobe overlay"))
}

#[test]
fn nodes_in_containers_of_one_image_are_seen_once_and_followed_over_restarts() {
    require!(need::root(), overlay());
    let binary = Binary::install(Variant::Core30).unwrap();
    let folder = binary.path().parent().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
        "sh",
        "-c",
        CONTAINERS,
        "sh",
    ]);
    command.arg(folder).arg(program::path());
    let mut containers = Process::spawn(command).unwrap();
    containers.wait_for_line(|line| line.contains("waiting for one to start"), LONG).unwrap();
    for n in [1, 2] {
        containers.send_line(&format!("start {n}")).unwrap();
        containers.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    }
    for (round, n) in [1, 2, 1].into_iter().enumerate() {
        if round == 2 {
            containers.send_line("stop 1").unwrap();
            containers.wait_for_line(|line| line.contains("node is gone"), LONG).unwrap();
            containers.send_line("start 1").unwrap();
            containers.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
        }
        std::fs::write(folder.join(format!("go{n}")), "go\n").unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(containers.wait_for_line(|line| line.contains("<--"), LONG).unwrap());
        }
        for (number, line) in seen.iter().enumerate() {
            assert!(line.contains(&format!("Ping({number})")), "{round}: {seen:?}");
        }
    }
}

/// Starts `run` for one program.
fn run(standin: &StandIn) -> Process {
    let binary = standin.binary().path().display().to_string();
    program::start(&["run", "--quiet", "--no-metrics", "--no-web", "-b", &binary])
}

#[test]
fn a_node_without_tracepoints_is_named_with_what_to_do() {
    require!(need::root());
    let standin = StandIn::start(Variant::Bare, &Config::pings(1)).unwrap();
    let mut program = run(&standin);
    let line = program.wait_for_line(|line| line.contains("no tracepoints"), LONG).unwrap();
    assert!(line.contains(&standin.binary().path().display().to_string()), "{line}");
    assert!(line.contains("WITH_USDT"), "{line}");
    assert!(program::terminate(program), "it goes on: a node with tracepoints may come");
}

#[test]
fn what_an_older_node_lacks_is_named_once() {
    require!(need::root());
    let standin = StandIn::start(Variant::Core24, &Config::pings(1)).unwrap();
    let mut program = run(&standin);
    let line = program.wait_for_line(|line| line.contains("lacks tracepoints"), LONG).unwrap();
    for missing in ["net:inbound_connection", "mempool:added", "mempool:rejected", "23 or 24"] {
        assert!(line.contains(missing), "{missing}: {line}");
    }
    for there in ["net:inbound_message", "validation:block_connected", "utxocache:flush", "addrman"] {
        assert!(!line.contains(there), "{there}: {line}");
    }
    program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    assert!(program::terminate(program));
}

#[test]
fn a_program_that_waits_for_a_node_says_so_and_finds_it() {
    require!(need::root());
    let binary = Binary::install(Variant::Core30).unwrap();
    let path = binary.path().display().to_string();
    let mut program = program::start(&["run", "--no-metrics", "--no-web", "-b", &path]);
    program.wait_for_line(|line| line.contains("waiting for one to start"), LONG).unwrap();
    let mut standin = binary.start(&Config::pings(3)).unwrap();
    program.wait_for_line(|line| line.contains("watching"), LONG).unwrap();
    standin.go().unwrap();
    assert_eq!(standin.report(LONG).unwrap().fired, 3);
    for _ in 0..3 {
        let line = program.wait_for_line(|line| line.contains("<--"), LONG).unwrap();
        assert!(line.contains("Ping"), "{line}");
    }
    standin.kill().unwrap();
    program.wait_for_line(|line| line.contains("node is gone"), LONG).unwrap();
    assert!(program::terminate(program));
}
