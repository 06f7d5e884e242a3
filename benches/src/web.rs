//! The live page under the storm that it was designed for: 10,000 messages a second, 125 peers. Beside it a plain page, which is sent every
//! event, as pages of the public websocket are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use peer_observer_bus::{Bus, Limits, Publisher, now_ns};
use peer_observer_e2e::browser::Browser;
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::{InventoryItem, inventory_item::Item};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{Inv, MessageEvent, Metadata, Ping};
use peer_observer_events::proto::observer::Source;
use peer_observer_testkit::need;
use peer_observer_tools::web;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use crate::measure::{cpu, quantile};
use crate::report::Report;

const RATE: u64 = 10_000;
const PEERS: u64 = 125;
const CLIENTS: usize = 200;
/// Time that each figure is measured over.
const MEASURE: Duration = Duration::from_secs(10);
/// Time for what was started to come to rest.
const SETTLE: Duration = Duration::from_secs(3);
/// History that is there before, s, and messages of each of its seconds.
const HISTORY_S: u64 = 3_600;
const HISTORY_RATE: u64 = 1_000;
/// Events that may wait for the server while the history is told.
const WAITING: usize = 10_000;
/// Threads of the server, as they are named; the kernel keeps 15 letters.
const SERVER: &str = "web-server";
/// Every so many events the time they were published at is kept.
const SAMPLE: u64 = 1_000;

/// Percent of a core that one client may cost the server: the node is on the same machine.
const MAX_CPU: f64 = 5.0;
/// From an event to the page, ms: what is later is no live page.
const MAX_DELAY: f64 = 500.0;
/// What a page may keep a browser's main thread busy, ms/s: with more, what is clicked waits.
const MAX_BUSY: f64 = 200.0;
/// What a page may hold in the browser, MB, however long it is open.
const MAX_HEAP: f64 = 300.0;

/// What our page has open on its overview, and what a plain page asks for.
const OWN: [&str; 3] = [
    r#"{"open":1,"topic":"overview","every":1000}"#,
    r#"{"open":2,"topic":"health","every":2000}"#,
    r#"{"open":3,"topic":"nodes","every":1000}"#,
];
const PLAIN: [&str; 1] =
    [r#"{"ebpf":{"messages":true,"connections":true,"mempool":true,"validation":true}}"#];

/// A plain page: counts what it is sent, peer by peer, and writes it down.
const PLAIN_PAGE: &str = r#"(() => {
  const rows = new Map();
  const table = document.body.appendChild(document.createElement("table"));
  const socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onopen = () => socket.send('{"ebpf":{"messages":true,"connections":true,"mempool":true,"validation":true}}');
  socket.onmessage = ({ data }) => {
    const meta = JSON.parse(data).EbpfExtractor?.ebpf_event?.Message?.meta;
    if (!meta) return;
    let row = rows.get(meta.peer_id);
    if (!row) rows.set(meta.peer_id, row = { n: 0, element: table.appendChild(document.createElement("tr")) });
    row.n += 1;
    row.element.textContent = `${meta.peer_id} ${meta.addr} ${row.n} ${meta.command}`;
  };
})()"#;

/// The server, and a node that never rests.
struct Storm {
    address: SocketAddr,
    samples: Arc<Mutex<Vec<(u64, Instant)>>>,
    stop: CancellationToken,
    quiet: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
    server: Option<Runtime>,
}

fn message(number: u64) -> PeerObserverEvent {
    let peer_id = number % PEERS;
    let inbound = !number.is_multiple_of(3);
    let (command, msg) = if number.is_multiple_of(5) {
        ("ping", Msg::Ping(Ping { value: number }))
    } else {
        let items = (0..5).map(|i| {
            let mut hash = [0; 32];
            // Each transaction is announced by several peers.
            hash[..8].copy_from_slice(&(number / 40 * 5 + i).to_le_bytes());
            InventoryItem { item: Some(Item::Wtx(hash.to_vec().into())) }
        });
        ("inv", Msg::Inv(Inv { items: items.collect() }))
    };
    let meta = Metadata {
        peer_id,
        addr: format!("192.0.2.{peer_id}:8333"),
        conn_type: 1 + i32::from(peer_id.is_multiple_of(11)),
        command: command.into(),
        inbound,
        size: 181,
    };
    let event = MessageEvent { meta, decode_error: None, captured: None, msg: Some(msg) };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(event)) })
}

/// Publishes at the rate, until it shall be quiet.
fn feed(mut publisher: Publisher, quiet: &AtomicBool, samples: &Mutex<Vec<(u64, Instant)>>, mut sent: u64) {
    let node: Arc<str> = "storm".into();
    let begin = Instant::now();
    let first = sent;
    while !quiet.load(Ordering::Relaxed) {
        let due = first + (begin.elapsed().as_secs_f64() * RATE as f64) as u64;
        let mut batch = publisher.batch();
        while sent < due {
            sent += 1;
            batch.publish(&node, now_ns(), message(sent));
            if sent.is_multiple_of(SAMPLE) {
                samples.lock().unwrap_or_else(PoisonError::into_inner).push((sent, Instant::now()));
            }
        }
        drop(batch);
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Storm {
    fn start() -> Result<Self> {
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(SERVER)
            .enable_all()
            .build()
            .context("starting threads")?;
        let stop = CancellationToken::new();
        let (address, mut publisher, depth) = server.block_on(async {
            let bus = Bus::in_process();
            let config = web::Config::default();
            let subscriber = bus.subscriber("web", &web::subjects(&config), Limits::default());
            let depth = subscriber.depth();
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let publisher = bus.publisher(Source::Ebpf, "ebpf");
            let stop = stop.clone();
            tokio::spawn(async move {
                // The bus lives as long as its subscriber is served.
                let _bus = bus;
                web::serve(listener, &config, subscriber, stop).await
            });
            anyhow::Ok((address, publisher, depth))
        })?;
        let node: Arc<str> = "storm".into();
        let now = now_ns();
        let mut sent = 0;
        for second in (0..HISTORY_S).rev() {
            while depth().0 > WAITING {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut batch = publisher.batch();
            for _ in 0..HISTORY_RATE {
                sent += 1;
                batch.publish(&node, now - second * 1_000_000_000, message(sent));
            }
        }
        let (quiet, samples) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let feeder = std::thread::spawn({
            let (quiet, samples) = (quiet.clone(), samples.clone());
            move || feed(publisher, &quiet, &samples, sent)
        });
        Ok(Storm { address, samples, stop, quiet, feeder: Some(feeder), server: Some(server) })
    }

    /// Percent of a core that the server takes, over the time of a measurement.
    fn server_cpu(&self) -> Result<f64> {
        std::thread::sleep(SETTLE);
        let before = cpu(std::process::id(), SERVER)?;
        std::thread::sleep(MEASURE);
        let spent = cpu(std::process::id(), SERVER)?.saturating_sub(before);
        Ok(100.0 * spent.as_secs_f64() / MEASURE.as_secs_f64())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.quiet.store(true, Ordering::Relaxed);
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(address: SocketAddr, path: &str, requests: &[&str]) -> Result<Socket> {
    let url = format!("ws://{address}{path}");
    let (mut socket, _) =
        tokio_tungstenite::connect_async(url).await.context("connecting to the live page")?;
    for request in requests {
        socket.send(Message::text(*request)).await.context("asking the live page")?;
    }
    Ok(socket)
}

/// A client that reads and throws away. Counts bytes.
fn reader(runtime: &Runtime, mut socket: Socket, bytes: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    runtime.spawn(async move {
        while let Some(Ok(message)) = socket.next().await {
            bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        }
    })
}

pub(crate) fn measure(report: &mut Report, runtime: &Runtime) -> Result<()> {
    let storm = Storm::start()?;
    let alone = storm.server_cpu()?;
    let mut results = Vec::new();
    for (path, requests) in [("/api/v1/stream", &OWN[..]), ("/ws", &PLAIN[..])] {
        let bytes = Arc::<AtomicU64>::default();
        let socket = runtime.block_on(connect(storm.address, path, requests))?;
        let client = reader(runtime, socket, bytes.clone());
        let begin = Instant::now();
        let spent = storm.server_cpu()?;
        let rate = bytes.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64() / 1e6;
        client.abort();
        results.push((spent, rate));
    }
    let (own, plain) = (results[0], results[1]);
    let beside = format!(
        "without clients {alone:.2} %; it is sent {:.3} MB/s; one client of a plain page: {:.2} %, {:.1} MB/s",
        own.1, plain.0, plain.1
    );
    let what = "live page, 10,000 messages/s, 125 peers: the server's CPU for one client, beyond none";
    report.add_at_most(what, own.0 - alone, "% of a core", MAX_CPU, beside);
    let (_, alone, _) = many(runtime, &storm)?;
    let stalled = runtime.block_on(connect(storm.address, "/ws", &PLAIN))?;
    let (median, late, cpu) = many(runtime, &storm)?;
    drop(stalled);
    let beside = format!(
        "median {median:.0} ms; the server takes {cpu:.1} % of a core; one more client takes nothing; without that one {alone:.0} ms"
    );
    let what =
        format!("live page, {CLIENTS} clients: 99th percentile of the delay from an event to its update");
    report.add_at_most(&what, late, "ms", MAX_DELAY, beside);
    browsers(report, runtime, &storm)
}

/// How late many clients hear of what happens: median and 99th percentile, ms; and what it costs the server, percent of a core.
fn many(runtime: &Runtime, storm: &Storm) -> Result<(f64, f64, f64)> {
    const REQUEST: &str = r#"{"open":4,"topic":"health","every":200}"#;
    let delays = Arc::<Mutex<Vec<f64>>>::default();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut socket = runtime.block_on(connect(storm.address, "/api/v1/stream", &[OWN[0], REQUEST]))?;
        let (samples, delays) = (storm.samples.clone(), delays.clone());
        let mut next = samples.lock().unwrap_or_else(PoisonError::into_inner).len();
        clients.push(runtime.spawn(async move {
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let arrived = Instant::now();
                if !text.starts_with("{\"sub\":4,") {
                    continue;
                }
                let Ok(update) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
                let Some(events) = update["data"]["events"].as_u64() else { continue };
                let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                let heard =
                    samples[next.min(samples.len())..].iter().take_while(|(number, _)| *number <= events);
                let late: Vec<_> =
                    heard.map(|(_, at)| arrived.duration_since(*at).as_secs_f64() * 1e3).collect();
                next += late.len();
                delays.lock().unwrap_or_else(PoisonError::into_inner).extend(late);
            }
        }));
    }
    std::thread::sleep(SETTLE);
    delays.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let spent = storm.server_cpu()?;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    let mut delays = std::mem::take(&mut *delays.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(!delays.is_empty(), "no client heard of an event");
    Ok((quantile(&mut delays, 0.5), quantile(&mut delays, 0.99), spent))
}

/// What the pages cost a browser.
fn browsers(report: &mut Report, runtime: &Runtime, storm: &Storm) -> Result<()> {
    if let Err(missing) = need::chromium() {
        report.add("live page in a browser", "not measured".into(), missing.to_string());
        return Ok(());
    }
    let busy = |view: &str, script: Option<&str>| {
        runtime.block_on(async {
            let mut browser = Browser::start(1360, 850).await;
            browser.go(&format!("http://{}/{view}", storm.address)).await;
            browser.until("document.body").await;
            if let Some(script) = script {
                browser.eval(script).await;
            }
            tokio::time::sleep(SETTLE).await;
            let (before, _) = browser.cost().await;
            tokio::time::sleep(MEASURE).await;
            let (after, heap) = browser.cost().await;
            ((after - before) * 1e3 / MEASURE.as_secs_f64(), heap / 1e6)
        })
    };
    // Both at our address, because of the check of the origin.
    let (idle, _) = busy("login.html", None);
    let plain = busy("api/v1/health", Some(PLAIN_PAGE));
    for view in ["overview", "peers", "circle"] {
        let (ms, heap) = busy(&format!("#/{view}"), None);
        let beside = format!(
            "a plain page {:.0} ms/s and {:.0} MB, a page that stands still {idle:.0} ms/s",
            plain.0, plain.1
        );
        report.add_at_most(&format!("live page, {view}: main thread busy"), ms, "ms/s", MAX_BUSY, beside);
        report.add_at_most(&format!("live page, {view}: heap"), heap, "MB", MAX_HEAP, String::new());
    }
    Ok(())
}
