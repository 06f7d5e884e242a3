//! A program that calls itself a node: whoever runs it wrote every byte of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::probes::Probes;

fuzz_target!(|input: &[u8]| {
    let Ok(probes) = Probes::of_bytes(input) else { return };
    assert!(probes.any() || probes.known().count() == 0);
    assert!(probes.known().all(|tracepoint| probes.has(tracepoint)));
});
