//! Metrics of connections.

use std::fmt::Write;
use std::net::IpAddr;

use peer_observer_events::proto::ebpf_extractor::connection::ConnectionEvent;
use peer_observer_events::proto::ebpf_extractor::connection::connection_event::Event;
use peer_observer_events::proto::rpc_extractor::PeerInfo;
use peer_observer_exporter::labels::{OTHER, SEPARATOR, bounded};
use peer_observer_exporter::registry::{Column, Counter, CounterVec, Gauge, Label, Registry, TableId};

use super::addresses::ip_of;
use super::live::{Direction, Live};
use crate::known::Known;
use crate::known::lists::{GMAX, MONERO, TOR_EXIT, is_linking_lion};

/// Bitcoin Core's enum Network (src/netaddress.h) as integers; what it may grow is `other`.
const NETWORK: Label = Label { name: "network", values: &["0", "1", "2", "3", "4", "5", "6", OTHER] };

/// Counts connections.
#[derive(Debug)]
pub(crate) struct NetConn {
    inbound: Counter,
    inbound_network: CounterVec,
    inbound_monero: Counter,
    inbound_gmax: Counter,
    inbound_linking_lion: Counter,
    inbound_tor_exit: Counter,
    inbound_current: Gauge,
    outbound: Counter,
    outbound_current: Gauge,
    outbound_network: CounterVec,
    closed_network: CounterVec,
    closed: Counter,
    closed_age: Counter,
    evicted_inbound: Counter,
    misbehaving_peers: TableId,
    misbehaving: Column,
    misbehaving_reasons: TableId,
    misbehaving_reason: Column,
    lists: TableId,
    inbound_list: Column,
    inbound_systems: TableId,
    inbound_as: Column,
    outbound_systems: TableId,
    outbound_as: Column,
    closed_systems: TableId,
    closed_as: Column,
    live: Live,
    scratch: String,
}

impl NetConn {
    /// Registers the metrics.
    pub(crate) fn new(r: &mut Registry) -> Self {
        let misbehaving_peers = r.table(&[]);
        let misbehaving_reasons = r.table(&[]);
        let lists = r.table(&[]);
        let (inbound_systems, outbound_systems, closed_systems) = (r.table(&[]), r.table(&[]), r.table(&[]));
        NetConn {
            inbound: r.counter("peerobserver_conn_inbound", "Inbound connections that were opened."),
            inbound_network: r.counter_vec(
                "peerobserver_conn_inbound_network",
                "Inbound connections that were opened, by network (Bitcoin Core's number of it).",
                &[NETWORK],
            ),
            inbound_monero: r.counter(
                "peerobserver_conn_inbound_banlist_monero",
                "Inbound connections from addresses on Monero's ban list.",
            ),
            inbound_gmax: r.counter(
                "peerobserver_conn_inbound_banlist_gmax",
                "Inbound connections from addresses on the gmax ban list of 2018.",
            ),
            inbound_linking_lion: r.counter(
                "peerobserver_conn_inbound_list_linkinglion",
                "Inbound connections from networks of LinkingLion.",
            ),
            inbound_tor_exit: r.counter(
                "peerobserver_conn_inbound_tor_exit",
                "Inbound connections from exits of the Tor network.",
            ),
            inbound_current: r.gauge(
                "peerobserver_conn_inbound_current",
                "Inbound connections as the node counted them when the last one was opened.",
            ),
            outbound: r.counter("peerobserver_conn_outbound", "Outbound connections that were opened."),
            outbound_current: r.gauge(
                "peerobserver_conn_outbound_current",
                "Outbound connections as the node counted them when the last one was opened.",
            ),
            outbound_network: r.counter_vec(
                "peerobserver_conn_outbound_network",
                "Outbound connections that were opened, by network (Bitcoin Core's number of it).",
                &[NETWORK],
            ),
            closed_network: r.counter_vec(
                "peerobserver_conn_closed_network",
                "Connections that were closed, by network (Bitcoin Core's number of it).",
                &[NETWORK],
            ),
            closed: r.counter("peerobserver_conn_closed", "Connections that were closed."),
            closed_age: r.counter(
                "peerobserver_conn_closed_age",
                "Ages of the connections that were closed, added up, seconds.",
            ),
            evicted_inbound: r.counter(
                "peerobserver_conn_evicted_inbound",
                "Inbound connections that the node closed to make room for others.",
            ),
            misbehaving: r.column(
                misbehaving_peers,
                "peerobserver_conn_misbehaving",
                "Peers that broke the rules, by peer id and rule.",
                &["id", "misbehavingmessage"],
                &[],
            ),
            misbehaving_reason: r.column(
                misbehaving_reasons,
                "peerobserver_conn_misbehaving_reason",
                "Peers that broke the rules, by rule.",
                &["misbehavingmessage"],
                &[],
            ),
            inbound_list: r.column(
                lists,
                "peerobserver_conn_inbound_list",
                "Inbound connections from addresses on a list (--ip-list NAME=FILE), by name of the list.",
                &["list"],
                &[],
            ),
            inbound_as: r.column(
                inbound_systems,
                "peerobserver_conn_inbound_as",
                "Inbound connections that were opened, by AS as --asmap-file has it; 0 is none.",
                &["asn", "as_name"],
                &[],
            ),
            outbound_as: r.column(
                outbound_systems,
                "peerobserver_conn_outbound_as",
                "Outbound connections that were opened, by AS as --asmap-file has it; 0 is none.",
                &["asn", "as_name"],
                &[],
            ),
            closed_as: r.column(
                closed_systems,
                "peerobserver_conn_closed_as",
                "Connections that were closed, by AS as --asmap-file has it; 0 is none.",
                &["asn", "as_name"],
                &[],
            ),
            live: Live::new(r),
            misbehaving_peers,
            misbehaving_reasons,
            lists,
            inbound_systems,
            outbound_systems,
            closed_systems,
            scratch: String::new(),
        }
    }

    /// Counts an event of that time, ms since the UNIX epoch.
    pub(crate) fn observe(
        &mut self,
        r: &mut Registry,
        known: &Known,
        event: &ConnectionEvent,
        timestamp_ms: u64,
    ) {
        match &event.event {
            Some(Event::Inbound(opened)) => {
                r.inc(self.inbound);
                r.inc(self.inbound_network.at(network(opened.conn.network)));
                r.set(self.inbound_current, saturated(opened.existing_connections));
                let ip = ip_of(&opened.conn.addr);
                self.count_lists(r, known, ip);
                count_system(r, known, ip, self.inbound_systems, self.inbound_as);
                self.live.opened(r, &opened.conn, Direction::Inbound, timestamp_ms);
            }
            Some(Event::Outbound(opened)) => {
                r.inc(self.outbound);
                r.inc(self.outbound_network.at(network(opened.conn.network)));
                r.set(self.outbound_current, saturated(opened.existing_connections));
                let ip = ip_of(&opened.conn.addr);
                count_system(r, known, ip, self.outbound_systems, self.outbound_as);
                self.live.opened(r, &opened.conn, Direction::Outbound, timestamp_ms);
            }
            Some(Event::Closed(closed)) => {
                r.inc(self.closed);
                r.inc(self.closed_network.at(network(closed.conn.network)));
                // The node's clock can have been set back meanwhile.
                r.add(self.closed_age, (timestamp_ms / 1000).saturating_sub(closed.time_established));
                let ip = ip_of(&closed.conn.addr);
                count_system(r, known, ip, self.closed_systems, self.closed_as);
                self.live.closed(r, closed.conn.peer_id, timestamp_ms);
            }
            Some(Event::InboundEvicted(_)) => r.inc(self.evicted_inbound),
            Some(Event::Misbehaving(m)) => {
                self.scratch.clear();
                let _ = write!(self.scratch, "{}{SEPARATOR}{}", m.id, bounded(&m.message));
                let row = r.row(self.misbehaving_peers, &self.scratch);
                r.add_cell(row, self.misbehaving.only(), 1);
                let row = r.row(self.misbehaving_reasons, &m.message);
                r.add_cell(row, self.misbehaving_reason.only(), 1);
            }
            None => {}
        }
    }

    /// Puts the connections that are open right, with what the node says of its peers at that time, ms since the UNIX epoch.
    pub(crate) fn resynchronise(&mut self, r: &mut Registry, peers: &[PeerInfo], timestamp_ms: u64) {
        self.live.resynchronise(r, peers, timestamp_ms);
    }

    fn count_lists(&self, r: &mut Registry, known: &Known, ip: &str) {
        if is_linking_lion(ip) {
            r.inc(self.inbound_linking_lion);
        }
        let Ok(ip) = ip.parse::<IpAddr>() else { return };
        for list in known.lists.with(ip) {
            match list {
                GMAX => r.inc(self.inbound_gmax),
                MONERO => r.inc(self.inbound_monero),
                TOR_EXIT => r.inc(self.inbound_tor_exit),
                _ => {}
            }
            let row = r.row(self.lists, list);
            r.add_cell(row, self.inbound_list.only(), 1);
        }
    }
}

fn count_system(r: &mut Registry, known: &Known, ip: &str, systems: TableId, column: Column) {
    let Some(system) = known.system(ip) else { return };
    let row = r.row(systems, &system);
    r.add_cell(row, column.only(), 1);
}

fn network(number: u32) -> usize {
    let other = NETWORK.values.len() - 1;
    usize::try_from(number).map_or(other, |n| n.min(other))
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
