//! The parts that every event goes through: decoding, beside the `bitcoin` crate; encoding; the bus.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bitcoin::consensus::encode::{Decodable, deserialize};
use bitcoin::p2p::address::{AddrV2Message, Address};
use bitcoin::p2p::message_blockdata::{GetHeadersMessage, Inventory};
use bitcoin::p2p::message_compact_blocks::CmpctBlock;
use bitcoin::p2p::message_network::VersionMessage;
use bitcoin::{Block, Transaction};
use bytes::Bytes;
use peer_observer_bus::{Bus, Limits};
use peer_observer_events::decode::decode;
use peer_observer_events::peek::Origin;
use peer_observer_events::proto::observer::Source;
use peer_observer_events::{Event, GapTracker, PeerObserverEvent, Subject};
use peer_observer_extractors::convert;
use prost::Message;
use tokio::runtime::Runtime;

use crate::measure::{median, smallest};
use crate::report::Report;
use crate::tour::{self, Numbering};

const ROUNDS: usize = 25;
/// A round goes on at least so long, ns: the clock must not matter.
const ROUND_NS: u128 = 4_000_000;

type Foreign = fn(&[u8]) -> bool;

fn foreign<T: Decodable>(payload: &[u8]) -> bool {
    black_box(deserialize::<T>(payload)).is_ok()
}

// The schema has the ids of transactions and headers, which are most of the work.

fn foreign_tx(payload: &[u8]) -> bool {
    deserialize::<Transaction>(payload).map(|tx| hash_tx(&tx)).is_ok()
}

fn foreign_block(payload: &[u8]) -> bool {
    let block = deserialize::<Block>(payload);
    block.map(|block| (black_box(block.block_hash()), block.txdata.iter().for_each(hash_tx))).is_ok()
}

fn foreign_compact_block(payload: &[u8]) -> bool {
    let block = deserialize::<CmpctBlock>(payload).map(|message| message.compact_block);
    block
        .map(|block| {
            black_box(block.header.block_hash());
            block.prefilled_txs.iter().for_each(|prefilled| hash_tx(&prefilled.tx));
        })
        .is_ok()
}

fn hash_tx(tx: &Transaction) {
    black_box((tx.compute_txid(), tx.compute_wtxid()));
}

/// How the `bitcoin` crate reads a message.
const FOREIGN: [(&str, Foreign); 10] = [
    ("inv", foreign::<Vec<Inventory>>),
    ("tx", foreign_tx),
    ("block", foreign_block),
    ("cmpctblock", foreign_compact_block),
    ("getheaders", foreign::<GetHeadersMessage>),
    ("getdata", foreign::<Vec<Inventory>>),
    ("addr", foreign::<Vec<(u32, Address)>>),
    ("addrv2", foreign::<Vec<AddrV2Message>>),
    ("version", foreign::<VersionMessage>),
    ("ping", foreign::<u64>),
];

pub(crate) fn measure(report: &mut Report, runtime: &Runtime) -> Result<()> {
    decoding(report)?;
    converting(report)?;
    encoding(report)?;
    gaps(report);
    bus(report, runtime)
}

/// ns for each of `n` things that one call of `work` does: the smallest of several rounds, in turns with a baseline.
fn compare(n: usize, mut ours: impl FnMut(), mut baseline: impl FnMut()) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(time(&mut ours) / n as f64);
        b.push(time(&mut baseline) / n as f64);
    }
    (smallest(&a), smallest(&b))
}

/// ns that one call takes.
fn time(work: &mut impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut calls = 0u32;
    while begin.elapsed().as_nanos() < ROUND_NS {
        work();
        calls += 1;
    }
    begin.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn decoding(report: &mut Report) -> Result<()> {
    let mut by_type: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    for (kind, payload) in tour::payloads()? {
        by_type.entry(kind).or_default().push(payload);
    }
    for (kind, read) in FOREIGN {
        // Malformed messages would compare how fast either gives up.
        let payloads: Vec<&Bytes> =
            by_type.get(kind).into_iter().flatten().filter(|payload| read(payload)).collect();
        let bytes: usize = payloads.iter().map(|payload| payload.len()).sum();
        let (ours, theirs) = compare(
            payloads.len(),
            || {
                for payload in &payloads {
                    black_box(decode(kind, (*payload).clone()));
                }
            },
            || {
                for payload in &payloads {
                    read(payload);
                }
            },
        );
        let beside = format!(
            "crate bitcoin, ids included = 1.00; {ours:.0} ns against {theirs:.0}; {} messages, {} B on average",
            payloads.len(),
            bytes / payloads.len().max(1)
        );
        report.add(&format!("decode {kind}"), format!("{:.2} x", ours / theirs), beside);
    }
    Ok(())
}

/// From a hit to an event, everything included but stamping.
fn converting(report: &mut Report) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut n, mut ns) = (0, 0);
        let mut kept = Vec::with_capacity(4096);
        tour::each_hit(|_, hit| {
            let begin = Instant::now();
            let event = convert::event(hit);
            ns += begin.elapsed().as_nanos();
            kept.push(event);
            n += 1;
        })?;
        rounds.push(ns as f64 / f64::from(n));
    }
    report.add(
        "convert a hit to an event, tour mix",
        format!("{:.0} ns", median(&mut rounds)),
        "clock included".into(),
    );
    Ok(())
}

fn encoding(report: &mut Report) -> Result<()> {
    let encoded = tour::encoded(1, 1)?;
    let events =
        encoded.iter().map(|(_, bytes)| Event::decode(bytes.clone())).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = Vec::with_capacity(1 << 20);
    let (encode, copy) = compare(
        events.len(),
        || {
            for event in &events {
                black_box(event.encode_to_vec());
            }
        },
        || {
            for (_, bytes) in &encoded {
                buffer.clear();
                buffer.extend_from_slice(black_box(bytes));
            }
        },
    );
    report.add(
        "encode an event, tour mix",
        format!("{encode:.0} ns"),
        format!("copying its bytes: {copy:.0} ns"),
    );
    let (decode, peek) = compare(
        events.len(),
        || {
            for (_, bytes) in &encoded {
                black_box(Event::decode(bytes.clone()).is_ok());
            }
        },
        || {
            for (_, bytes) in &encoded {
                black_box(peer_observer_events::peek::origin(bytes).is_ok());
            }
        },
    );
    report.add(
        "decode an event, tour mix",
        format!("{decode:.0} ns"),
        format!("its origin alone: {peek:.0} ns"),
    );
    Ok(())
}

/// Looking for gaps, with all streams that a subscriber remembers.
fn gaps(report: &mut Report) {
    const STREAMS: u64 = 16_384;
    const LISTENING: Duration = Duration::from_secs(3600);
    let origin =
        |session, sequence| Origin { node: "bench", extractor: 1, session, sequence, stream_age_s: Some(1) };
    let full = || {
        let mut tracker = GapTracker::new(STREAMS as usize);
        for session in 0..STREAMS {
            tracker.see(Subject::NetMsg, &origin(session, 1), LISTENING);
        }
        tracker
    };
    let (mut known, mut sequence) = (full(), 1);
    let (mut flooded, mut session) = (full(), STREAMS);
    let (of_known, of_new) = compare(
        STREAMS as usize,
        || {
            sequence += 1;
            for session in 0..STREAMS {
                black_box(known.see(Subject::NetMsg, &origin(session, sequence), LISTENING));
            }
        },
        || {
            for _ in 0..STREAMS {
                session += 1;
                black_box(flooded.see(Subject::NetMsg, &origin(session, 1), LISTENING));
            }
        },
    );
    report.add(
        "look for a gap, 16,384 streams in turn",
        format!("{of_known:.0} ns"),
        format!("each event a new stream, of which as many are remembered: {of_new:.0} ns"),
    );
}

fn bus(report: &mut Report, runtime: &Runtime) -> Result<()> {
    let contents = tour::contents()?;
    let node: Arc<str> = "bench".into();
    let bus = Bus::in_process();
    let mut publisher = bus.publisher(Source::Ebpf, "bench");
    let mut subscriber = bus.subscriber("bench", Subject::ALL, Limits::default());
    let mut out = Vec::new();
    // What a bus has to do at the least: number the event, and put it where another thread can take it.
    let mut numbering = Numbering::new(1);
    let mut through_bus = || {
        {
            let mut batch = publisher.batch();
            for (time_ns, content) in &contents {
                batch.publish(&node, *time_ns, content.clone());
            }
        }
        let mut left = contents.len();
        while left > 0 {
            left -= runtime.block_on(subscriber.recv_many(&mut out, 1024));
            out.clear();
        }
    };
    let (ours, floor) = compare(contents.len(), &mut through_bus, || {
        for (time_ns, content) in &contents {
            let _ = black_box(numbering.delivery(*time_ns, content.clone()));
        }
    });
    let (clone, _) = compare(
        contents.len(),
        || {
            for (_, content) in &contents {
                let _: PeerObserverEvent = black_box(content.clone());
            }
        },
        || (),
    );
    report.add(
        "in-process bus: publish and receive an event, tour mix",
        format!("{:.0} ns", ours - clone),
        format!(
            "numbering it without a bus: {:.0} ns; cloning it, not counted: {clone:.0} ns",
            floor - clone
        ),
    );
    Ok(())
}
