//! The command line and the bitcoin.conf of a process that calls itself a node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::p2p::Network;
use peer_observer_node::settings::Settings;

const NAMES: [&str; 6] = ["rpcport", "rpcuser", "debug", "server", "datadir", "debuglogfile"];

// The first line is the command line, the others are the file.
fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (command_line, file) = input.split_at(end);
    let mut settings = Settings::of_command_line(command_line);
    settings.add_file(&String::from_utf8_lossy(file));
    let _ = (settings.network(), settings.datadir(), settings.conf());
    for network in Network::ALL {
        for name in NAMES {
            let all = settings.all(name, network);
            match settings.get(name, network) {
                Some(value) => assert!(all.contains(&value) && !settings.is_negated(name, network)),
                None => assert_ne!(settings.switch(name, network), Some(true)),
            }
        }
    }
});
