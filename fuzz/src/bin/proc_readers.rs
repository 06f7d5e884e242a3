//! Files of /proc/PID, or something that looks like them: status, stat and mountinfo are read without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    peer_observer_node::process::parse_everything(&String::from_utf8_lossy(input));
});
