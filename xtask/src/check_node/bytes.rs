//! Bytes by peer and message type: as the node counts them, and as our events say.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
use peer_observer_events::{Event, PeerObserverEvent};
use peer_observer_node::p2p::v2::has_short_id;
use serde_json::Value;

/// Name under which the node counts types that it does not know (Bitcoin Core net.h, `NET_MESSAGE_TYPE_OTHER`).
const OTHER: &str = "*other*";
/// Header of a message: magic, type, length, checksum.
const V1_OVERHEAD: u64 = 24;
/// Length, header, short type, tag (BIP 324).
const V2_OVERHEAD: u64 = 21;
/// The same with a type in 12 bytes behind a short one of 0 (BIP 324).
const V2_OVERHEAD_LONG: u64 = 33;

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    V1,
    V2,
}

impl Transport {
    fn of_peer(peer: &Value) -> Result<Self> {
        match peer["transport_protocol_type"].as_str() {
            Some("v1") => Ok(Transport::V1),
            Some("v2") => Ok(Transport::V2),
            other => bail!("getpeerinfo: unknown transport {other:?}"),
        }
    }

    /// What a message takes on the wire, bytes.
    fn size(self, message_type: &str, payload: u64) -> u64 {
        payload
            + match self {
                Transport::V1 => V1_OVERHEAD,
                Transport::V2 if has_short_id(message_type) => V2_OVERHEAD,
                Transport::V2 => V2_OVERHEAD_LONG,
            }
    }
}

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Live peers by transport.
    pub(super) peers: BTreeMap<String, u64>,
    /// Sums that were compared: a peer, a direction, a message type.
    pub(super) sums: u64,
    /// Messages in them.
    pub(super) messages: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// One line for each sum that is not the same.
    pub(super) differences: Vec<String>,
}

/// Compares our sums with those of `getpeerinfo`, for every peer in it.
///
/// `unknown_types` are message types that the node does not know; `unseen` are bytes by peer address that the node counts
/// as `*other*` and refuses before there is a message for the tracepoint.
pub(super) fn compare(
    peerinfo: &Value,
    events: &[Arc<Event>],
    unknown_types: &[&str],
    unseen: &BTreeMap<String, u64>,
) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for peer in peerinfo.as_array().context("getpeerinfo: no list")? {
        let id = peer["id"].as_u64().context("getpeerinfo: no id")?;
        let transport = Transport::of_peer(peer)?;
        *comparison
            .peers
            .entry(peer["transport_protocol_type"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
        for (inbound, key) in [(true, "bytesrecv_per_msg"), (false, "bytessent_per_msg")] {
            let mut ours: BTreeMap<&str, u64> = BTreeMap::new();
            if inbound && let Some(bytes) = unseen.get(peer["addr"].as_str().unwrap_or_default()) {
                ours.insert(OTHER, *bytes);
            }
            for meta in events.iter().filter_map(|event| meta(event)) {
                if meta.peer_id != id || meta.inbound != inbound {
                    continue;
                }
                let known = !unknown_types.contains(&meta.command.as_str());
                *ours.entry(if known { &meta.command } else { OTHER }).or_default() +=
                    transport.size(&meta.command, meta.size);
                comparison.messages += 1;
            }
            let theirs: BTreeMap<&str, u64> = peer[key]
                .as_object()
                .with_context(|| format!("getpeerinfo: no {key}"))?
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.as_u64().unwrap_or_default()))
                .collect();
            comparison.sums += theirs.len() as u64;
            comparison.bytes += theirs.values().sum::<u64>();
            let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let (ours, theirs) = (ours.get(name), theirs.get(name));
                if ours != theirs {
                    comparison
                        .differences
                        .push(format!("peer {id} {key} {name}: node {theirs:?}, events {ours:?}"));
                }
            }
        }
    }
    Ok(comparison)
}

fn meta(event: &Event) -> Option<&peer_observer_events::proto::ebpf_extractor::message::Metadata> {
    match event.peer_observer_event.as_ref()? {
        PeerObserverEvent::EbpfExtractor(ebpf) => match ebpf.ebpf_event.as_ref()? {
            EbpfEvent::Message(message) => Some(&message.meta),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::ebpf_extractor::Ebpf;
    use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Metadata};
    use serde_json::json;

    use super::*;

    fn message(peer_id: u64, inbound: bool, command: &str, size: u64) -> Arc<Event> {
        let meta = Metadata { peer_id, inbound, command: command.into(), size, ..Metadata::default() };
        let message = MessageEvent { meta, ..MessageEvent::default() };
        let ebpf = Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) };
        Arc::new(Event {
            peer_observer_event: Some(PeerObserverEvent::EbpfExtractor(ebpf)),
            ..Event::default()
        })
    }

    fn peer(id: u64, transport: &str, received: Value, sent: Value) -> Value {
        json!({
            "id": id, "addr": format!("127.0.0.1:{id}"), "transport_protocol_type": transport,
            "bytesrecv_per_msg": received, "bytessent_per_msg": sent,
        })
    }

    #[test]
    fn sums_agree_with_what_each_transport_adds() {
        let events = [
            message(1, true, "version", 103),
            message(1, false, "ping", 8),
            message(2, true, "version", 103),
            message(2, true, "ping", 8),
            message(2, true, "ping", 8),
            message(1, true, "hello", 1),
            message(3, true, "ping", 8),
        ];
        let peers = json!([
            peer(1, "v1", json!({"version": 127, "*other*": 25 + 30}), json!({"ping": 32})),
            peer(2, "v2", json!({"version": 136, "ping": 58}), json!({})),
        ]);
        let unseen = BTreeMap::from([("127.0.0.1:1".to_owned(), 30)]);
        let same = compare(&peers, &events, &["hello"], &unseen).unwrap();
        assert_eq!(same.differences, Vec::<String>::new());
        assert_eq!((same.sums, same.messages, same.bytes), (5, 6, 127 + 55 + 32 + 136 + 58));
    }

    #[test]
    fn a_message_too_few_or_too_many_is_a_difference() {
        let peers = json!([peer(1, "v1", json!({"ping": 64}), json!({}))]);
        for (events, differences) in [
            (vec![message(1, true, "ping", 8), message(1, true, "ping", 8)], 0),
            (vec![message(1, true, "ping", 8)], 1),
            (vec![], 1),
            (vec![message(1, true, "ping", 8), message(1, true, "ping", 8), message(1, false, "tx", 9)], 1),
        ] {
            let result = compare(&peers, &events, &[], &BTreeMap::new()).unwrap();
            assert_eq!(result.differences.len(), differences, "{result:?}");
        }
    }
}
