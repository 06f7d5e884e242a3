//! Metrics of P2P messages.

use std::fmt::Write;

use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Reject};
use peer_observer_exporter::labels::OTHER;
use peer_observer_exporter::registry::{Column, Counter, CounterVec, Label, Registry, TableId};

use super::addresses::{Addresses, Sender, ip_of, write_subnet};
use super::invs::Invs;
use crate::MESSAGE_TYPES;
use crate::known::lists::is_linking_lion;

/// Which way a message went, as the node sees it.
pub(crate) const DIRECTION: Label = Label { name: "direction", values: &["inbound", "outbound"] };
const INBOUND: usize = 0;
pub(crate) const OUTBOUND: usize = 1;

/// ConnType of proto/bitcoin_primitives.proto as integers.
const CONNECTION_TYPE: Label =
    Label { name: "connection_type", values: &["0", "1", "2", "3", "4", "5", "6", "7", OTHER] };

const PING_WIDTH: Label = Label { name: "value", values: &["0", "u8", "u16", "u32", "u64"] };

/// By code of the former BIP 61 as the schema numbers it.
const REJECT_REASON: Label = Label {
    name: "rejectreason",
    values: &[
        "Malformed",
        "Invalid",
        "Obsolete",
        "Duplicate",
        "NonStandard",
        "Dust",
        "Fee",
        "Checkpoint",
        "unknown",
    ],
};

/// Names of messages as the public extractor cuts them; they have series of their own, as those of MESSAGE_TYPES.
const CUT_BY_THE_PUBLIC_EXTRACTOR: [&str; 2] = ["getcfheader", "getcfcheckp"];

/// Stands for all user agents of LinkingLion, which makes them up.
const LINKING_LION_AGENT: &str = "LinkingLion";

/// User agent of a connection over which Bitcoin Core sends a private transaction (`-privatebroadcast`, src/net_processing.cpp).
const PRIVATE_BROADCAST_AGENT: &str = "/pynode:0.0.1/";

/// Counts P2P messages.
#[derive(Debug)]
pub(crate) struct NetMsg {
    messages: TableId,
    count: Column,
    bytes: Column,
    linking_lion_messages: TableId,
    linking_lion_count: Column,
    linking_lion_bytes: Column,
    addresses: Addresses,
    ping_inbound_value: CounterVec,
    empty_addrv2_peers: TableId,
    empty_addrv2: Column,
    invs: Invs,
    oldping_subnets: TableId,
    oldping_subnet: Column,
    user_agents: TableId,
    user_agent: Column,
    private_broadcast: Counter,
    feerates: TableId,
    feerate: Column,
    rejects: TableId,
    reject: Column,
    scratch: String,
}

impl NetMsg {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        let known_messages = [&MESSAGE_TYPES[..], &CUT_BY_THE_PUBLIC_EXTRACTOR].concat();
        let messages = r.table(&known_messages);
        let linking_lion_messages = r.table(&known_messages);
        let empty_addrv2_peers = r.table(&[]);
        let oldping_subnets = r.table(&[]);
        let user_agents = r.table(&[LINKING_LION_AGENT]);
        let feerates = r.table(&[]);
        let rejects = r.table(&known_messages);
        NetMsg {
            count: r.column(
                messages,
                "peerobserver_p2p_message_count",
                "P2P messages sent and received.",
                &["message"],
                &[CONNECTION_TYPE, DIRECTION],
            ),
            bytes: r.column(
                messages,
                "peerobserver_p2p_message_bytes",
                "Payload bytes of P2P messages sent and received.",
                &["message"],
                &[CONNECTION_TYPE, DIRECTION],
            ),
            linking_lion_bytes: r.column(
                linking_lion_messages,
                "peerobserver_p2p_message_bytes_linkinglion",
                "Payload bytes of P2P messages sent to and received from LinkingLion.",
                &["message"],
                &[DIRECTION],
            ),
            linking_lion_count: r.column(
                linking_lion_messages,
                "peerobserver_p2p_message_count_linkinglion",
                "P2P messages sent to and received from LinkingLion.",
                &["message"],
                &[DIRECTION],
            ),
            addresses: Addresses::new(r),
            ping_inbound_value: r.counter_vec(
                "peerobserver_p2p_ping_inbound_value",
                "Pings received, by the smallest integer type that the nonce fits in.",
                &[PING_WIDTH],
            ),
            empty_addrv2: r.column(
                empty_addrv2_peers,
                "peerobserver_p2p_addrv2_empty",
                "Addrv2 messages without any address, by address of the peer.",
                &["addr"],
                &[DIRECTION],
            ),
            invs: Invs::new(r),
            oldping_subnet: r.column(
                oldping_subnets,
                "peerobserver_p2p_oldping_subnet",
                "Pings received without a nonce (from before BIP 31), by the peer's /24 (IPv4) or /64 (IPv6).",
                &["subnet"],
                &[],
            ),
            user_agent: r.column(
                user_agents,
                "peerobserver_p2p_version_useragent",
                "Version messages received, by user agent.",
                &["useragent"],
                &[],
            ),
            private_broadcast: r.counter(
                "peerobserver_conn_private_transaction_broadcast",
                "Inbound connections with the user agent of Bitcoin Core's private transaction broadcast.",
            ),
            feerate: r.column(
                feerates,
                "peerobserver_p2p_feefilter_feerate",
                "Feefilter messages, by fee rate (sat/kvB).",
                &["feerate"],
                &[DIRECTION],
            ),
            reject: r.column(
                rejects,
                "peerobserver_p2p_reject_message",
                "Reject messages received, by message that was rejected and reason.",
                &["rejectcommand"],
                &[REJECT_REASON],
            ),
            messages,
            linking_lion_messages,
            empty_addrv2_peers,
            oldping_subnets,
            user_agents,
            feerates,
            rejects,
            scratch: String::new(),
        }
    }

    /// Counts a message of that time, ms since the UNIX epoch.
    pub(crate) fn observe(&mut self, r: &mut Registry, event: &MessageEvent, timestamp_ms: u64) {
        let meta = &event.meta;
        let direction = if meta.inbound { INBOUND } else { OUTBOUND };
        let other = CONNECTION_TYPE.values.len() - 1;
        let conn_type = usize::try_from(meta.conn_type).map_or(other, |n| n.min(other));
        let ip = ip_of(&meta.addr);

        let row = r.row(self.messages, &meta.command);
        r.add_cell(row, self.count.at2(conn_type, direction), 1);
        r.add_cell(row, self.bytes.at2(conn_type, direction), meta.size);
        let linking_lion = is_linking_lion(ip);
        if linking_lion {
            let row = r.row(self.linking_lion_messages, &meta.command);
            r.add_cell(row, self.linking_lion_count.at(direction), 1);
            r.add_cell(row, self.linking_lion_bytes.at(direction), meta.size);
        }

        let sender = Sender { ip, direction };
        match &event.msg {
            Some(Msg::Inv(inv)) => self.invs.observe(r, inv, direction),
            Some(Msg::Addr(addr)) => {
                self.addresses.observe_addr(r, &addr.addresses, &sender, timestamp_ms);
            }
            Some(Msg::Addrv2(addr)) => {
                self.addresses.observe_addrv2(r, &addr.addresses, &sender, timestamp_ms);
            }
            Some(Msg::Emptyaddrv2(_)) => {
                let row = r.row(self.empty_addrv2_peers, ip);
                r.add_cell(row, self.empty_addrv2.at(direction), 1);
            }
            Some(Msg::Feefilter(filter)) => {
                self.scratch.clear();
                let _ = write!(self.scratch, "{}", filter.fee);
                let row = r.row(self.feerates, &self.scratch);
                r.add_cell(row, self.feerate.at(direction), 1);
            }
            Some(Msg::Ping(ping)) if meta.inbound => {
                r.inc(self.ping_inbound_value.at(ping_width(ping.value)));
            }
            Some(Msg::Oldping(_)) if meta.inbound => {
                self.scratch.clear();
                write_subnet(&mut self.scratch, ip);
                let row = r.row(self.oldping_subnets, &self.scratch);
                r.add_cell(row, self.oldping_subnet.only(), 1);
            }
            Some(Msg::Version(version)) if meta.inbound => {
                let agent = if linking_lion { LINKING_LION_AGENT } else { &version.user_agent };
                let row = r.row(self.user_agents, agent);
                r.add_cell(row, self.user_agent.only(), 1);
                if version.user_agent == PRIVATE_BROADCAST_AGENT {
                    r.inc(self.private_broadcast);
                }
            }
            Some(Msg::Reject(reject)) if meta.inbound => self.observe_reject(r, reject),
            _ => {}
        }
    }

    fn observe_reject(&self, r: &mut Registry, reject: &Reject) {
        let unknown = REJECT_REASON.values.len() - 1;
        let reason = usize::try_from(reject.reason).map_or(unknown, |n| n.min(unknown));
        let row = r.row(self.rejects, &reject.rejected_command);
        r.add_cell(row, self.reject.at(reason), 1);
    }
}

fn ping_width(nonce: u64) -> usize {
    match nonce {
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 3,
        _ => 4,
    }
}
