//! More hits than anything can take: what is not delivered is counted, to the last hit.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use peer_observer_bus::{Bus, NatsConfig};
use peer_observer_e2e::account::{Account, Kept};
use peer_observer_e2e::extractor::{Extractor, only};
use peer_observer_e2e::plain::{connect, knock};
use peer_observer_e2e::{LONG, turn, until};
use peer_observer_events::proto::observer::loss::Stage;
use peer_observer_extractors::ebpf;
use peer_observer_testkit::nats::NatsServer;
use peer_observer_testkit::standin::{
    Config, Pace, Report, Source, StandIn, Synthetic, SyntheticMessage, Variant,
};
use peer_observer_testkit::{need, recorded_hits, require};

/// What a build without optimisation holds on two busy processors, hits a second. What the program is built for is ten times as
/// much, and is measured in benches/.
const SUSTAINED: f64 = 10_000.0;
/// Enough of it to fill every buffer on the way if something were too slow, s.
const SUSTAINED_FOR: u64 = 3;

/// Which bus lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Between {
    Process,
    Nats,
}

/// Fires what `config` says, each stand-in with the same binary, and keeps the account.
async fn storm(configs: &[Config], between: Between) -> (Vec<(u32, Report)>, Account) {
    storm_with(configs, between, ebpf::Config::default().ring_buffer_bytes).await
}

/// [`storm`], with a ring of this size.
async fn storm_with(
    configs: &[Config],
    between: Between,
    ring_buffer_bytes: u32,
) -> (Vec<(u32, Report)>, Account) {
    let server = (between == Between::Nats).then(|| NatsServer::start().unwrap());
    let bus = match &server {
        None => Bus::in_process(),
        Some(server) => {
            Bus::nats(NatsConfig { nats_address: Some(server.url()), ..NatsConfig::default() }).unwrap()
        }
    };
    let kept = Kept::of(&bus);
    if let Some(server) = &server {
        knock(&connect(&server.url()).await, || kept.look(|account| account.knocks) > 0).await;
    }
    let mut first = StandIn::start(Variant::Core30, &configs[0]).unwrap();
    let mut others: Vec<StandIn> =
        configs[1..].iter().map(|config| first.binary().start(config).unwrap()).collect();
    let settings = ebpf::Config { ring_buffer_bytes, ..only(first.binary()) };
    let mut extractor = Extractor::start(settings, &bus);
    for _ in configs {
        extractor.watched().await;
    }
    let mut standins: Vec<&mut StandIn> = std::iter::once(&mut first).chain(&mut others).collect();
    for standin in &mut standins {
        standin.go().unwrap();
    }
    let reports: Vec<(u32, Report)> =
        standins.iter_mut().map(|standin| (standin.pid(), standin.report(LONG * 3).unwrap())).collect();
    let fired: u64 = reports.iter().map(|(_, report)| report.fired).sum();
    extractor.stop().await;
    // What is told as lost before the end may still be on its way.
    until("the account is closed", || kept.look(Account::hits) >= fired).await;
    let account = kept.close(&bus).await;
    (reports, account)
}

fn synthetic(message: SyntheticMessage, count: u64, size: usize) -> Config {
    Config::new(Source::Synthetic(Synthetic { message, count, size, threads: 1 }))
}

/// Asserts that no hit is without an account.
fn assert_accounted(reports: &[(u32, Report)], account: &Account) {
    let fired: u64 = reports.iter().map(|(_, report)| report.fired).sum();
    assert_eq!(account.hits(), fired, "the books know every hit");
    account.assert_books_are_even();
    assert_eq!(account.total() + account.total_lost(), fired, "{:?}", account.lost);
    assert_eq!((account.out_of_order, account.nonces_out_of_order), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_hits_as_fast_as_they_can_be_fired_are_delivered_or_counted() {
    require!(need::root());
    let _turn = turn();
    let (reports, account) = storm(&[Config::pings(1_000_000)], Between::Process).await;
    assert_eq!(reports[0].1.fired, 1_000_000);
    assert_accounted(&reports, &account);
    println!("delivered {}, lost {:?}", account.total(), account.lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_small_ring_has_no_room_for_is_counted_to_the_last_hit() {
    require!(need::root(), need::nats_server());
    let _turn = turn();
    for between in [Between::Process, Between::Nats] {
        let configs = [Config::pings(100_000), synthetic(SyntheticMessage::Tx, 50_000, 400)];
        let (reports, account) = storm_with(&configs, between, 64 << 10).await;
        assert_accounted(&reports, &account);
        let dropped = account.lost.get(&(Stage::RingBuffer, "full".to_owned())).copied().unwrap_or(0);
        assert!(dropped > 0 && account.total() > 0, "{between:?}: {:?}", account.lost);
        println!("{between:?}: delivered {}, dropped {dropped}", account.total());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_busy_node_does_is_delivered_to_the_last_hit() {
    require!(need::root(), need::nats_server());
    let _turn = turn();
    let total = SUSTAINED as u64 * SUSTAINED_FOR;
    let pings = Config::pings(total);
    let tour = Config {
        max_payload: Some(20_000),
        repeat: total.div_ceil(1_600),
        ..Config::new(Source::Recording(recorded_hits("regtest-tour").unwrap()))
    };
    for (name, config) in [("pings", pings), ("tour", tour)] {
        for between in [Between::Process, Between::Nats] {
            let config = Config { pace: Pace::PerSecond(SUSTAINED), ..config.clone() };
            let (reports, account) = storm(&[config], between).await;
            let lost = &account.lost;
            assert!(reports[0].1.fired >= total, "{name}, {between:?}");
            assert_eq!(
                (account.total(), account.total_lost()),
                (reports[0].1.fired, 0),
                "{name}, {between:?}: {lost:?}"
            );
            account.assert_books_are_even();
            assert_eq!(account.out_of_order, 0, "{name}, {between:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_megabytes_are_delivered_or_counted() {
    require!(need::root());
    let _turn = turn();
    for (count, size) in [(200, 1_000_000), (50, 4_000_000)] {
        let (reports, account) =
            storm(&[synthetic(SyntheticMessage::Block, count, size)], Between::Process).await;
        assert_eq!(reports[0].1.fired, count);
        assert_accounted(&reports, &account);
        assert!(account.total() > 0, "some of them get through");
        println!("blocks of {size} bytes: {} delivered, {} lost", account.total(), account.total_lost());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_binary_are_told_apart() {
    require!(need::root());
    let _turn = turn();
    let configs = [Config::pings(60_000), synthetic(SyntheticMessage::Tx, 40_000, 400)];
    let (reports, account) = storm(&configs, Between::Process).await;
    assert_accounted(&reports, &account);
    assert_eq!(account.delivered.len(), 2, "each has a name of its own: {:?}", account.delivered);
    for (pid, report) in &reports {
        let of_process = account.books.iter().filter(|((p, _), _)| p == pid);
        assert_eq!(of_process.map(|(_, book)| book.hits).sum::<u64>(), report.fired, "{pid}");
    }
    let mut published: Vec<u64> = account.books.values().map(|book| book.published).collect();
    let mut delivered: Vec<u64> = account.delivered.values().copied().collect();
    published.sort_unstable();
    delivered.sort_unstable();
    assert_eq!(published, delivered, "events say which of the two they are of");
}
