//! A result as a row: the columns of the public tool, in its order, and a few of ours behind them, which only Parquet files have.

use std::fmt::Write;

use peer_observer_events::display::Escaped;
use peer_observer_exporter::labels::bounded;

use super::gossip::{ADDR_VERSIONS, Heard};
use super::probe::Outcome;
use crate::metrics::addresses::NETWORK;

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Bool(bool),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Unsigned,
    Signed,
    Bool,
}

/// Name and kind of each column.
pub(super) const COLUMNS: [(&str, Kind); 26] = [
    ("result_timestamp", Kind::Unsigned),
    ("addr_address", Kind::Text),
    ("addr_port", Kind::Unsigned),
    ("addr_services", Kind::Unsigned),
    ("addr_timestamp", Kind::Unsigned),
    ("addr_network_type", Kind::Text),
    ("addr_version", Kind::Text),
    ("source_address", Kind::Text),
    ("source_id", Kind::Unsigned),
    ("source_tor_exit_node", Kind::Bool),
    ("result_success", Kind::Bool),
    ("result_cached", Kind::Bool),
    ("version", Kind::Bool),
    ("version_useragent", Kind::Text),
    ("version_relay", Kind::Bool),
    ("version_version", Kind::Unsigned),
    ("version_services", Kind::Unsigned),
    ("version_start_height", Kind::Signed),
    ("version_nonce", Kind::Unsigned),
    ("version_timestamp", Kind::Signed),
    ("version_sender_address", Kind::Text),
    ("version_sender_port", Kind::Unsigned),
    ("node", Kind::Text),
    ("result_transport", Kind::Text),
    ("result_failure", Kind::Text),
    ("result_milliseconds", Kind::Unsigned),
];

/// So many columns are those of the public tool.
pub(super) const PUBLIC: usize = 22;

/// A result, by column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row(pub(super) [Value; COLUMNS.len()]);

/// Whether a result comes from a connection for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was just tried.
    Fresh,
    /// It is remembered.
    Cached,
}

impl Row {
    /// The row of a result that is known since `time`, s since the UNIX epoch.
    pub(super) fn new(heard: &Heard, outcome: &Outcome, origin: Origin, time: u64) -> Self {
        let text = |text: &str| Value::Text(Escaped(bounded(text)).to_string());
        let entry = &heard.address;
        let answer = outcome.result.as_ref().ok();
        // As the public tool, which remembers success alone and not what was said.
        let version = answer.filter(|_| origin == Origin::Fresh).map(|answer| &answer.version);
        let sender = version.and_then(|version| version.sender.address.as_ref());
        let milliseconds = match origin {
            Origin::Fresh => u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
            Origin::Cached => 0,
        };
        Row([
            Value::Unsigned(time),
            Value::Text(entry.address.as_ref().map_or_else(String::new, ToString::to_string)),
            Value::Unsigned(entry.port.into()),
            Value::Unsigned(entry.services),
            Value::Unsigned(entry.timestamp.into()),
            text(NETWORK.values[heard.network()]),
            text(ADDR_VERSIONS[heard.addr_version]),
            text(&heard.source.ip),
            Value::Unsigned(heard.source.id),
            Value::Bool(heard.source.tor_exit),
            Value::Bool(answer.is_some()),
            Value::Bool(origin == Origin::Cached),
            Value::Bool(version.is_some()),
            text(version.map_or("", |version| &version.user_agent)),
            Value::Bool(version.is_some_and(|version| version.relay)),
            Value::Unsigned(version.map_or(0, |version| version.version.into())),
            Value::Unsigned(version.map_or(0, |version| version.services)),
            Value::Signed(version.map_or(-1, |version| version.start_height.into())),
            Value::Unsigned(version.map_or(0, |version| version.nonce)),
            Value::Signed(version.map_or(0, |version| version.timestamp)),
            text(
                sender.map_or("", |sender| crate::metrics::addresses::network_index(sender).1.unwrap_or("")),
            ),
            Value::Unsigned(version.map_or(0, |version| version.sender.port.into())),
            text(&heard.source.node),
            text(answer.map_or("", |answer| answer.transport.as_str())),
            text(outcome.result.as_ref().err().map_or("", |failure| failure.as_str())),
            Value::Unsigned(milliseconds),
        ])
    }

    /// Adds it to a CSV file (RFC 4180, but with `\n` at the end of lines).
    pub(super) fn write_csv(&self, out: &mut String) {
        for (i, value) in self.0[..PUBLIC].iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            // Writing into a `String` cannot fail.
            let _ = match value {
                Value::Text(text) if text.contains([',', '"']) => {
                    write!(out, "\"{}\"", text.replace('"', "\"\""))
                }
                Value::Text(text) => write!(out, "{text}"),
                Value::Unsigned(number) => write!(out, "{number}"),
                Value::Signed(number) => write!(out, "{number}"),
                Value::Bool(yes) => write!(out, "{yes}"),
            };
        }
        out.push('\n');
    }
}

/// The first line of a CSV file.
pub(super) fn csv_head() -> String {
    let names: Vec<&str> = COLUMNS[..PUBLIC].iter().map(|(name, _)| *name).collect();
    format!("{}\n", names.join(","))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use peer_observer_events::proto::bitcoin_primitives::Address;
    use peer_observer_events::proto::bitcoin_primitives::address::Address as Host;
    use peer_observer_events::proto::ebpf_extractor::message::Version;

    use super::super::gossip::Source;
    use super::super::probe::{Answer, Failure, Transport};
    use super::*;

    pub(in super::super) fn heard(text: &str) -> Heard {
        Heard {
            address: Address {
                timestamp: 1_700_000_000,
                services: 3081,
                port: 8333,
                address: Some(Host::Ipv4(text.into())),
            },
            addr_version: 1,
            source: Arc::new(Source {
                node: "alice".into(),
                ip: "11.22.33.44".into(),
                id: 7,
                tor_exit: true,
            }),
            time: 1_700_000_100,
        }
    }

    fn address(text: &str, port: u32) -> Address {
        Address { timestamp: 0, services: 0, port, address: Some(Host::Ipv4(text.into())) }
    }

    pub(in super::super) fn answered(user_agent: &str) -> Outcome {
        let version = Version {
            version: 70_016,
            services: 3081,
            timestamp: 1_700_000_200,
            receiver: address("0.0.0.0", 0),
            sender: address("5.6.7.8", 18_333),
            nonce: u64::MAX,
            user_agent: user_agent.into(),
            start_height: 840_000,
            relay: true,
        };
        let answer = Answer { version, transport: Transport::V2 };
        Outcome { result: Ok(answer), took: Duration::from_millis(123) }
    }

    fn csv(row: &Row) -> String {
        let mut line = String::new();
        row.write_csv(&mut line);
        line
    }

    #[test]
    fn a_row_has_the_public_columns_in_their_order() {
        let public = "result_timestamp,addr_address,addr_port,addr_services,addr_timestamp,addr_network_type,addr_version,\
                      source_address,source_id,source_tor_exit_node,result_success,result_cached,version,version_useragent,\
                      version_relay,version_version,version_services,version_start_height,version_nonce,version_timestamp,\
                      version_sender_address,version_sender_port\n";
        assert_eq!(csv_head(), public);
        let row =
            |outcome: &Outcome, origin| csv(&Row::new(&heard("1.2.3.4"), outcome, origin, 1_700_000_300));
        let begin = "1700000300,IPv4(1.2.3.4),8333,3081,1700000000,IPv4,addrv2,11.22.33.44,7,true";
        let ok = answered("/Satoshi:30.0.0/");
        assert_eq!(
            row(&ok, Origin::Fresh),
            format!(
                "{begin},true,false,true,/Satoshi:30.0.0/,true,70016,3081,840000,18446744073709551615,1700000200,5.6.7.8,18333\n"
            )
        );
        assert_eq!(row(&ok, Origin::Cached), format!("{begin},true,true,false,,false,0,0,-1,0,0,,0\n"));
        let refused = Outcome::failed(Failure::Refused);
        assert_eq!(row(&refused, Origin::Fresh), format!("{begin},false,false,false,,false,0,0,-1,0,0,,0\n"));
    }

    #[test]
    fn what_is_ours_stands_behind_the_public_columns() {
        let behind =
            |outcome: &Outcome, origin| Row::new(&heard("1.2.3.4"), outcome, origin, 0).0[PUBLIC..].to_vec();
        let text = |text: &str| Value::Text(text.into());
        let ok = answered("");
        let fresh = [text("alice"), text("v2"), text(""), Value::Unsigned(123)];
        assert_eq!(behind(&ok, Origin::Fresh), fresh);
        assert_eq!(behind(&ok, Origin::Cached)[3], Value::Unsigned(0));
        assert_eq!(behind(&Outcome::failed(Failure::Refused), Origin::Fresh)[2], text("refused"));
    }

    #[test]
    fn what_a_node_says_of_itself_cannot_end_its_line_or_field() {
        let agent = "/a,b\"c\nd\r\u{1b}[2J\u{202e}/";
        let line = csv(&Row::new(&heard("1.2.3.4"), &answered(agent), Origin::Fresh, 0));
        assert!(line.contains(r#","/a,b""c\nd\r\u{1b}[2J\u{202e}/","#), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        let long = csv(&Row::new(&heard("1.2.3.4"), &answered(&"x".repeat(60_000)), Origin::Fresh, 0));
        assert!(long.len() < 600, "{}", long.len());
    }
}
