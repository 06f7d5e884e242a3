//! Counts events by other means, to compare with.

use std::collections::BTreeSet;

use super::*;

/// Counts the slow and plain way, by series as text.
#[derive(Default)]
pub(super) struct Reference(pub(super) Samples);

impl Reference {
    fn add(&mut self, series: String, amount: f64) {
        *self.0.entry(format!("peerobserver_{series}")).or_default() += amount;
    }

    fn observe(&mut self, name: &str, labels: &str, edges: &[f64], value: f64) {
        for edge in edges {
            let inside = if value <= *edge { 1.0 } else { 0.0 };
            self.add(format!("{name}_bucket{{{labels},le=\"{edge}\"}}"), inside);
        }
        self.add(format!("{name}_bucket{{{labels},le=\"+Inf\"}}"), 1.0);
        self.add(format!("{name}_sum{{{labels}}}"), value);
        self.add(format!("{name}_count{{{labels}}}"), 1.0);
    }

    /// Counts an event.
    pub(super) fn event(&mut self, event: &Event) {
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = &event.peer_observer_event else { return };
        match ebpf.ebpf_event.as_ref().unwrap() {
            EbpfEvent::Message(m) => self.message(m, event.timestamp / 1000),
            EbpfEvent::Connection(c) => self.connection(c.event.as_ref().unwrap(), event.timestamp / 1000),
            EbpfEvent::Mempool(m) => match m.event.as_ref().unwrap() {
                mempool_event::Event::Added(a) => {
                    self.add("mempool_added".into(), 1.0);
                    self.add("mempool_added_vbytes".into(), a.vsize.into());
                }
                mempool_event::Event::Replaced(r) => {
                    self.add("mempool_replaced".into(), 1.0);
                    self.add("mempool_replaced_vbytes".into(), r.replaced_vsize.into());
                }
                mempool_event::Event::Removed(r) => {
                    self.add(format!("mempool_removed{{reason=\"{}\"}}", r.reason), 1.0);
                }
                mempool_event::Event::Rejected(r) => {
                    self.add(format!("mempool_rejected{{reason=\"{}\"}}", r.reason), 1.0);
                }
            },
            _ => {}
        }
    }

    fn message(&mut self, m: &MessageEvent, now: u64) {
        let meta = &m.meta;
        let direction = if meta.inbound { "inbound" } else { "outbound" };
        let labels = format!(
            "message=\"{}\",connection_type=\"{}\",direction=\"{direction}\"",
            meta.command, meta.conn_type
        );
        self.add(format!("p2p_message_count{{{labels}}}"), 1.0);
        self.add(format!("p2p_message_bytes{{{labels}}}"), meta.size as f64);
        let direction = format!("direction=\"{direction}\"");
        match m.msg.as_ref().unwrap() {
            Msg::Addr(a) => self.addresses("addr", &a.addresses, &direction, now),
            Msg::Addrv2(a) => self.addresses("addrv2", &a.addresses, &direction, now),
            Msg::Inv(inv) => {
                let mut types = BTreeSet::new();
                for item in &inv.items {
                    let inv_type = match item.item.as_ref().unwrap() {
                        Item::Transaction(_) => "Tx",
                        Item::Block(_) => "Block",
                        Item::Wtx(_) => "WTx",
                        Item::WitnessTransaction(_) => "WitnessTx",
                        Item::WitnessBlock(_) => "WitnessBlock",
                        Item::CompactBlock(_) => "CompactBlock",
                        Item::Unknown(_) => "Unknown",
                        Item::Error(_) => "Error",
                    };
                    self.add(format!("p2p_inv_entries{{{direction},inv_type=\"{inv_type}\"}}"), 1.0);
                    types.insert(inv_type);
                }
                let mut edges: Vec<f64> = ADDRESS_EDGES.to_vec();
                edges.extend((2..=10).map(|k| f64::from(k) * 1000.0));
                edges.extend((4..=10).map(|k| f64::from(k) * 5000.0));
                self.observe("p2p_inv_entries_histogram", &direction, &edges, inv.items.len() as f64);
                let kind = if types.len() == 1 { "homogeneous" } else { "heterogeneous" };
                self.add(format!("p2p_invs_{kind}{{{direction}}}"), 1.0);
            }
            Msg::Feefilter(f) => {
                self.add(format!("p2p_feefilter_feerate{{feerate=\"{}\",{direction}}}", f.fee), 1.0);
            }
            Msg::Ping(p) if meta.inbound => {
                let bytes = (64 - p.value.leading_zeros()).div_ceil(8);
                let width = match bytes {
                    0 => "0",
                    1 => "u8",
                    2 => "u16",
                    3..=4 => "u32",
                    _ => "u64",
                };
                self.add(format!("p2p_ping_inbound_value{{value=\"{width}\"}}"), 1.0);
            }
            Msg::Oldping(_) if meta.inbound => {
                self.add("p2p_oldping_subnet{subnet=\"127.0.0.0\"}".into(), 1.0);
            }
            Msg::Emptyaddrv2(_) => {
                self.add(format!("p2p_addrv2_empty{{addr=\"127.0.0.1\",{direction}}}"), 1.0);
            }
            Msg::Version(v) if meta.inbound => {
                self.add(format!("p2p_version_useragent{{useragent=\"{}\"}}", v.user_agent), 1.0);
            }
            Msg::Reject(r) if meta.inbound => {
                let reason = r.reason().as_str_name().to_lowercase();
                let reason = reason[..1].to_uppercase() + &reason[1..];
                let reason = if reason == "Nonstandard" { "NonStandard" } else { &reason };
                let labels = format!("rejectcommand=\"{}\",rejectreason=\"{reason}\"", r.rejected_command);
                self.add(format!("p2p_reject_message{{{labels}}}"), 1.0);
            }
            _ => {}
        }
    }

    fn addresses(&mut self, kind: &str, entries: &[Address], direction: &str, now: u64) {
        self.observe(&format!("p2p_{kind}_addresses"), direction, &ADDRESS_EDGES, entries.len() as f64);
        let offset_edges: Vec<f64> = [0.0].into_iter().chain((0..25).map(|k| f64::powi(2.0, k))).collect();
        for entry in entries {
            let offset = now as i64 - i64::from(entry.timestamp);
            let side = if offset >= 0 { "past" } else { "future" };
            let labels = format!("{direction},timestamp_offset=\"{side}\"");
            let name = format!("p2p_{kind}_timestamp_offset_seconds");
            self.observe(&name, &labels, &offset_edges, offset.abs() as f64);
            let bits: Vec<f64> = (0..64).map(f64::from).collect();
            for bit in (0..64).filter(|bit| entry.services >> bit & 1 == 1) {
                self.observe(&format!("p2p_{kind}_services_bits"), direction, &bits, f64::from(bit));
            }
            let services = entry.services;
            self.add(format!("p2p_{kind}_services{{services=\"{services}\",{direction}}}"), 1.0);
        }
    }

    fn connection(&mut self, event: &connection_event::Event, now: u64) {
        match event {
            connection_event::Event::Inbound(c) => {
                self.add("conn_inbound".into(), 1.0);
                self.add(format!("conn_inbound_network{{network=\"{}\"}}", c.conn.network), 1.0);
            }
            connection_event::Event::Outbound(c) => {
                self.add("conn_outbound".into(), 1.0);
                self.add(format!("conn_outbound_network{{network=\"{}\"}}", c.conn.network), 1.0);
            }
            connection_event::Event::Closed(c) => {
                self.add("conn_closed".into(), 1.0);
                self.add("conn_closed_age".into(), (now - c.time_established) as f64);
                self.add(format!("conn_closed_network{{network=\"{}\"}}", c.conn.network), 1.0);
            }
            connection_event::Event::InboundEvicted(_) => self.add("conn_evicted_inbound".into(), 1.0),
            connection_event::Event::Misbehaving(m) => {
                let text = &m.message;
                self.add(format!("conn_misbehaving{{id=\"{}\",misbehavingmessage=\"{text}\"}}", m.id), 1.0);
                self.add(format!("conn_misbehaving_reason{{misbehavingmessage=\"{text}\"}}"), 1.0);
            }
        }
    }
}

const ADDRESS_EDGES: [f64; 30] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 75.0, 100.0, 150.0,
    200.0, 250.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0, 999.0, 1000.0,
];
