//! Which keys of the configuration cannot be used. Components say what they refuse, for people who gave a flag; here is found out which
//! keys they mean: those without which they would not say it.

use std::fmt::{self, Display};

use anyhow::Result;
use peer_observer_events::display::SingleLine;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::components::{self, Sections};

/// Something that is refused.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    section: &'static str,
    /// Each would do to change it.
    keys: Vec<String>,
    why: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(|key| format!("{}.{key}", self.section)).collect();
        // Whoever wrote no key at fault is told the section.
        let place = if keys.is_empty() { self.section.to_owned() } else { keys.join(", ") };
        write!(f, "{place}: {}", SingleLine(&self.why))
    }
}

/// Error of a configuration that cannot be used: one fault per line.
#[derive(Debug)]
pub(crate) struct Refused(Vec<Fault>);

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n{fault}"))
    }
}

impl std::error::Error for Refused {}

/// Fails with every fault of the configuration, a line each.
pub(crate) fn check(sections: &Sections) -> Result<()> {
    let mut faults = components::refused(sections);
    if faults.is_empty() {
        // What `run` is told goes over the other sections, so it can be at fault only if they are not.
        faults = of("run", &sections.run, |run| {
            let mut over = sections.clone();
            run.clone().apply(&mut over);
            components::refused(&over).first().map_or(Ok(()), |fault| Err(fault.why.clone()))
        });
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Refused(faults).into())
}

/// What `validate` refuses of a section: key by key is given its default until nothing is refused any more.
pub(crate) fn of<T, E>(name: &'static str, section: &T, validate: impl Fn(&T) -> Result<(), E>) -> Vec<Fault>
where
    T: Serialize + DeserializeOwned + Default,
    E: Display,
{
    let refused = |table: &Table| {
        let section = table.clone().try_into::<T>().map_err(|e| e.message().trim().to_owned());
        section.and_then(|section| validate(&section).map_err(|e| e.to_string())).err()
    };
    let table = |section: &T| Table::try_from(section).unwrap_or_default();
    let defaults = table(&T::default());
    let mut now = table(section);
    let mut faults: Vec<Fault> = Vec::new();
    let mut first = validate(section).err().map(|e| e.to_string());
    while let Some(why) = first {
        let changed: Vec<String> = now
            .iter()
            .filter(|(key, value)| defaults.get(*key) != Some(*value))
            .map(|(key, _)| key.clone())
            .collect();
        let mut keys = Vec::new();
        for key in &changed {
            let mut without = now.clone();
            reset(&mut without, &defaults, key);
            match refused(&without) {
                // Without this nothing is wrong any more, so what else changes what is said only hides it.
                None => keys.push((true, key.clone())),
                Some(other) if other != why => keys.push((false, key.clone())),
                Some(_) => {}
            }
        }
        let settles = keys.iter().any(|(settles, _)| *settles);
        let mut keys: Vec<String> =
            keys.into_iter().filter(|key| key.0 == settles).map(|(_, key)| key).collect();
        if keys.is_empty() {
            // Several are wrong in the same way: the one with which the last of them is gone.
            let mut without = now.clone();
            keys.extend(changed.into_iter().find(|key| {
                reset(&mut without, &defaults, key);
                refused(&without).as_ref() != Some(&why)
            }));
        }
        faults.push(Fault { section: name, keys, why });
        let Some(next) = faults.last().and_then(|fault| fault.keys.first()) else { break };
        reset(&mut now, &defaults, next);
        first = refused(&now);
    }
    faults
}

fn reset(table: &mut Table, defaults: &Table, key: &str) {
    match defaults.get(key) {
        Some(default) => table.insert(key.to_owned(), Value::clone(default)),
        None => table.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use peer_observer_node::names::{BadName, MAX_NAME};

    use super::*;
    use crate::config;

    /// What is said of a configuration that has these keys.
    fn said(set: &[&str]) -> Vec<String> {
        let set: Vec<String> = set.iter().map(|&key| key.to_owned()).collect();
        let error = check(&config::read(None, &set).unwrap()).map_err(|error| error.to_string());
        error
            .err()
            .map(|text| text.lines().skip(1).map(|line| line.trim().to_owned()).collect())
            .unwrap_or_default()
    }

    #[test]
    fn every_key_that_is_refused_is_named_with_its_section() {
        let cases: &[(&str, &str, &str)] = &[
            ("rpc.rpc_host=localhost", "rpc.rpc_host", "HOST:PORT"),
            ("rpc.rpc_user=alice", "rpc.rpc_user", "--rpc-cookie-file"),
            ("rpc.rpc_timeout=0", "rpc.rpc_timeout", "at least one second"),
            ("connectivity.rate=0", "connectivity.rate", "1 to 1000"),
            (
                "connectivity.tor_exit_list=/nonexistent/exits",
                "connectivity.tor_exit_list",
                "/nonexistent/exits",
            ),
            ("ebpf.ring_buffer_bytes=5000", "ebpf.ring_buffer_bytes", "power of two"),
            ("ebpf.bitcoind_path=[\"/nonexistent/bitcoind\"]", "ebpf.bitcoind_path", "/nonexistent/bitcoind"),
            ("p2p.p2p_max_connections=0", "p2p.p2p_max_connections", "at least 1"),
            ("ipc.ipc_timeout=0", "ipc.ipc_timeout", "at least one second"),
            ("capture.speed=-1.0", "capture.speed", "positive"),
            ("log.log_file=/", "log.log_file", "not a regular file"),
            ("nats.nats_username=alice", "nats.nats_username", "--nats-password"),
            ("nats.nats_address=nats://alice:secret@x", "nats.nats_address", "--nats-password-file"),
            ("nats.nats_tls_key=Cargo.toml", "nats.nats_tls_key", "--nats-tls-cert"),
            ("metrics.metrics_address=127.0.0.1", "metrics.metrics_address", "127.0.0.1"),
            ("metrics.asmap_file=/nonexistent/asmap", "metrics.asmap_file", "/nonexistent/asmap"),
            ("web.web_token=short", "web.web_token", "token"),
            ("web.web_max_clients=0", "web.web_max_clients", "1 to 65536"),
            ("web.web_address=0.0.0.0:1", "web.web_address", "0.0.0.0:1"),
            ("run.web_address=0.0.0.0:1", "run.web_address", "0.0.0.0:1"),
        ];
        for (set, key, why) in cases {
            let said = said(&[set]);
            let [line] = &said[..] else { panic!("{set}: {said:?}") };
            assert!(line.starts_with(&format!("{key}: ")) && line.contains(why), "{set}: {line}");
        }
        let all: Vec<&str> = cases.iter().map(|case| case.0).filter(|set| !set.starts_with("run.")).collect();
        let said = said(&all);
        for (set, key, _) in cases.iter().filter(|case| all.contains(&case.0)) {
            assert!(said.iter().any(|line| line.contains(key)), "{set} is not among {said:#?}");
        }
        assert!(said.len() <= cases.len(), "{said:#?}");
    }

    #[test]
    fn one_rule_for_names_of_nodes_holds_for_every_key_that_has_one() {
        // Where the name is in the value of each key.
        let keys = [
            ("ebpf.node", "[\"1=NAME\"]"),
            ("run.node", "[\"/data=NAME\"]"),
            ("rpc.rpc_node", "\"NAME\""),
            ("log.log_node", "\"NAME\""),
            ("ipc.ipc_node", "\"NAME\""),
            ("capture.capture_node", "\"NAME\""),
            ("p2p.p2p_node", "\"NAME\""),
            ("p2p.p2p_address", "[\"NAME=127.0.0.1:9333\"]"),
            ("p2p.p2p_allow", "[\"NAME=127.0.0.1\"]"),
        ];
        for (key, value) in keys {
            let checked = |name: &str| {
                let sections = config::read(None, &[format!("{key}={}", value.replace("NAME", name))])?;
                check(&sections)
            };
            for bad in ["", &"n".repeat(MAX_NAME + 1)] {
                let error = checked(bad).err().map(|error| error.to_string()).unwrap_or_default();
                assert!(error.contains(&BadName.to_string()), "{key}, {} bytes: {error:?}", bad.len());
            }
            checked(&"n".repeat(MAX_NAME)).unwrap_or_else(|error| panic!("{key}: {error}"));
        }
    }

    #[test]
    fn keys_that_do_not_go_together_are_both_named() {
        let said = said(&["log.log_file=/nonexistent/a", "log.bitcoind_pipe=/nonexistent/b"]);
        assert_eq!(
            said,
            ["log.bitcoind_pipe, log.log_file: both log_file and bitcoind_pipe are set: name only one log"]
        );
    }

    #[test]
    fn keys_that_are_wrong_in_the_same_way_are_found() {
        let said =
            said(&["rpc.query_interval=0", "rpc.rpc_timeout=0", "rpc.rpc_user=a", "rpc.rpc_password=b"]);
        assert!(said.iter().all(|line| line.contains("at least one second")), "{said:?}");
        let keys: Vec<&str> = said.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys, ["rpc.rpc_timeout", "rpc.query_interval"]);
    }

    #[test]
    fn what_can_be_used_is_not_refused() {
        for set in [
            &[][..],
            &[
                "rpc.rpc_user=a",
                "rpc.rpc_password=b",
                "log.log_file=/nonexistent/debug.log",
                "capture.speed=2.0",
            ],
            &["web.web_address=0.0.0.0:1", "web.web_token=01234567890123456789012345678901"],
            &[
                "connectivity.connect=true",
                "ipc.ipc_socket_path=/nonexistent/node.sock",
                "nats.nats_address=x:4222",
            ],
        ] {
            assert_eq!(said(set), Vec::<String>::new(), "{set:?}");
        }
    }
}
