//! Events as bytes from a bus that anyone may publish on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_observer_events::{Event, json, peek};
use prost::Message as _;

fuzz_target!(|input: &[u8]| {
    // What is no event for the decoder may be one here, and the other way round, but neither may panic.
    let _ = peek::origin(input);
    let Ok(event) = peek::decode(input.to_vec().into()) else { return };

    let encoded = event.encode_to_vec();
    let again = Event::decode(encoded.as_slice()).expect("what was encoded");
    assert_eq!(again.encoded_len(), encoded.len());
    // A number that is not one differs from itself.
    if event == event.clone() {
        assert_eq!(again, event);
    }

    let peeked =
        peek::origin(&encoded).expect("an event").map(|o| (o.node, o.extractor, o.session, o.sequence));
    let origin = event.origin.as_ref().map(|o| (o.node.as_str(), o.extractor, o.session, o.sequence));
    assert_eq!(peeked, origin);

    // One line of text or JSON an event, whatever peers and publishers put into it.
    let line = event.to_string();
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
    let line = json::to_json_line(&event);
    assert!(line.starts_with('{') && !line.contains(|c| c < ' '), "{line:?}");
    assert_eq!(json::to_json(&event).is_some(), event.peer_observer_event.is_some());
});
