//! Files that a node wrote with -capturemessages, or something that looks like them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_node::capture_file::{MAX_PAYLOAD, Reader, peer_of_folder};

fuzz_target!(|input: &[u8]| {
    if let Ok(name) = std::str::from_utf8(input) {
        let _ = peer_of_folder(name);
    }
    let mut reader = Reader::new(input);
    while let Ok(Some(message)) = reader.next_message() {
        assert!(message.payload.len() <= MAX_PAYLOAD as usize);
        assert!(reader.offset() <= input.len() as u64);
    }
});
