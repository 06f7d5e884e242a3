//! Files of /proc/PID, or something that looks like them: status, stat, mountinfo and cmdline are read without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::settings::Settings;

fuzz_target!(|input: &[u8]| {
    peer_observer_node::process::parse_everything(&String::from_utf8_lossy(input));
    let settings = Settings::of_command_line(input);
    let _ = (settings.excess(), settings.network(), settings.datadir(), settings.conf());
});
