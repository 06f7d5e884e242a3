//! What the live page is told in tests, and what it has to show then.

use std::path::PathBuf;
use std::time::Duration;

use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::bitcoin_primitives::{BlockHeader, ConnType};
use peer_observer_events::proto::ebpf_extractor::Ebpf;
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{
    BlockTxn, CompactBlock, GetBlockTxn, Headers, MessageEvent, Metadata,
};
use peer_observer_events::proto::ebpf_extractor::validation::validation_event::Event as ValidationKind;
use peer_observer_events::proto::ebpf_extractor::validation::{BlockConnected, ValidationEvent};
use peer_observer_events::proto::log_extractor::log::LogEvent;
use peer_observer_events::proto::log_extractor::{Log, LogDebugCategory, UnknownLogMessage};
use peer_observer_events::proto::observer::{Books, Loss, TracepointBook};

use crate::stage::Stage;

/// Views, and words that each shows only when it has something to show.
pub const VIEWS: [(&str, &[&str]); 11] = [
    ("overview", &["Messages in", "connected", "inbound", "ipv4"]),
    ("peers", &["/Satoshi:30.0.0/", "outbound-full-relay", "evicted", "watched"]),
    ("circle", &["Busiest peers", "peer 0"]),
    ("transactions", &["Accepted", "only takes"]),
    ("addresses", &["By age when received"]),
    ("blocks", &["first from", "transactions were missing"]),
    ("pings", &["Node took", "µs"]),
    ("addrman", &["102.18.0.0/16", "40.152.0.0/16", "71 new"]),
    ("log", &["Shutdown done", "[validation]"]),
    ("pipeline", &["net:inbound_message", "ring buffer"]),
    ("peer?id=0", &["Conversation", "verack", "/Satoshi:29.0.0/"]),
];

/// A line of debug.log.
pub fn log(text: &str) -> PeerObserverEvent {
    PeerObserverEvent::LogExtractor(Log {
        log_timestamp: 1,
        category: LogDebugCategory::Net as i32,
        threadname: "msghand".into(),
        log_level: 3,
        log_line_bytes: text.len() as u64,
        detail: None,
        log_event: Some(LogEvent::UnknownLogMessage(UnknownLogMessage { raw_message: text.into() })),
    })
}

/// A message that a peer sent.
pub fn message(peer_id: u64, command: &str, msg: Msg) -> PeerObserverEvent {
    let meta = Metadata {
        peer_id,
        addr: if peer_id < 900 { String::new() } else { format!("192.0.2.{peer_id}:8333") },
        conn_type: ConnType::Inbound as i32,
        command: command.into(),
        inbound: true,
        size: 8,
    };
    let event = MessageEvent { meta, decode_error: None, captured: None, msg: Some(msg) };
    PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(event)) })
}

/// The node connects a block.
pub fn connected(hash: [u8; 32], height: i32) -> PeerObserverEvent {
    let connected = BlockConnected {
        hash: prost::bytes::Bytes::copy_from_slice(&hash),
        height,
        transactions: 1_667 + i64::from(height),
        inputs: 4_200,
        sigops: 9_000,
        connection_time: 14_000_000,
    };
    PeerObserverEvent::EbpfExtractor(Ebpf {
        ebpf_event: Some(EbpfEvent::Validation(ValidationEvent {
            event: Some(ValidationKind::BlockConnected(connected)),
        })),
    })
}

/// How long before now the first of the blocks is told of, and how long before the next one.
const BLOCKS_BEGIN: Duration = Duration::from_secs(18);
const BLOCK_EVERY: Duration = Duration::from_secs(3);
/// How many times as long as the first each block takes.
const BLOCK_TAKES: [f64; 5] = [1.0, 2.6, 0.3, 12.0, 1.4];

/// Tells of blocks that come from peers: headers, a compact block with something missing, the chain.
fn tell_blocks(stage: &mut Stage) {
    for (i, takes) in (0..5_u8).zip(BLOCK_TAKES) {
        let hash = prost::bytes::Bytes::from(vec![i + 0xa0; 32]);
        let header = BlockHeader { hash: hash.clone(), ..BlockHeader::default() };
        let headers = || Msg::Headers(Headers { headers: vec![header.clone()] });
        let compact = CompactBlock {
            header: header.clone(),
            nonce: 1,
            short_ids: vec![prost::bytes::Bytes::from_static(&[0; 6]); 1_800 + usize::from(i)],
            transactions: vec![Default::default()],
        };
        let ask = GetBlockTxn { block_hash: hash.clone(), tx_indexes: vec![1, 2, 3] };
        let answer = BlockTxn { block_hash: hash.clone(), transactions: Vec::new() };
        let steps = [
            (0.0, message(u64::from(i) + 3, "headers", headers())),
            (3.1, message(u64::from(i) + 1, "cmpctblock", Msg::Compactblock(compact))),
            (4.0, sent(message(u64::from(i) + 1, "getblocktxn", Msg::Getblocktxn(ask)))),
            (9.4, message(7, "headers", headers())),
            (41.0, message(8, "headers", headers())),
            (78.0, message(u64::from(i) + 1, "blocktxn", Msg::Blocktxn(answer))),
            (95.0, connected([i + 0xa0; 32], 134 + i32::from(i))),
        ];
        let begin = BLOCKS_BEGIN - BLOCK_EVERY * u32::from(i);
        for (ms, event) in steps {
            stage.tell_earlier(begin - Duration::from_secs_f64(ms * takes / 1_000.0), event);
        }
    }
}

/// The same message, sent by the node.
pub fn sent(mut event: PeerObserverEvent) -> PeerObserverEvent {
    if let PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) }) =
        &mut event
    {
        message.meta.inbound = false;
    }
    event
}

/// Tells a bit of everything.
pub fn tell_all(stage: &mut Stage) {
    // Near its end, peers leave. What is told of next happens after it.
    stage.play_until(0.8, BLOCKS_BEGIN + Duration::from_secs(2));
    tell_blocks(stage);
    stage.open_windows();
    let tracepoints = ["net:inbound_message", "net:outbound_message"].map(|name| TracepointBook {
        tracepoint: name.into(),
        hits: 12_345,
        dropped: 7,
        unread: 0,
        published: 12_338,
    });
    stage.tell(PeerObserverEvent::Books(Books { pid: 4711, tracepoints: tracepoints.into() }));
}

/// Tells that something was lost: every view warns of it from then on.
pub fn tell_loss(stage: &mut Stage) {
    let loss = Loss { stage: 2, cause: "full".into(), count: 7, component: "ebpf".into(), ..Loss::default() };
    stage.tell(PeerObserverEvent::Loss(loss));
}

/// Tells messages that fly.
pub fn tell_chatter(stage: &mut Stage) {
    for i in 0..90 {
        let chat = match i % 3 {
            0 => message(i % 13 + 1, "inv", Msg::Inv(Default::default())),
            1 => sent(message(i % 12 + 1, "tx", Msg::Tx(Default::default()))),
            _ => message(i % 11 + 1, "getdata", Msg::Getdata(Default::default())),
        };
        stage.tell(chat);
    }
}

/// Where to keep pictures, if they are wanted: the folder in `WEB_PICTURES`.
pub fn pictures() -> Option<PathBuf> {
    let folder = std::env::var_os("WEB_PICTURES")?;
    Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(folder))
}
