//! What existing tools read is what they read before: our decoder gives what the public extractor published for the same
//! hits of the same node.

use std::collections::HashMap;

use peer_observer_events::decode::decode;
use peer_observer_events::proto::ebpf_extractor::message::Unknown;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;

use crate::recording;

/// What the public extractor could not decode and left out, and what is wrong with it.
const MALFORMED: [(&str, usize, &str); 5] = [
    ("sendcmpct", 1, "sendcmpct: payload ends at byte 1"),
    ("inv", 37, "inv: entry 2 of 2: payload ends at byte 37"),
    ("addr", 3, "addr: address 1 of 65535: payload ends at byte 3"),
    ("tx", 2, "tx: payload ends at byte 2"),
    ("addrv2", 525, "addrv2: address 1 of 1: address of 513 bytes, more than 512"),
];

#[test]
fn recorded_messages_decode_to_what_the_public_extractor_published() {
    // It publishes from many tasks at once: neighbours may have changed places, so they are matched by what they say.
    let mut published: HashMap<_, Vec<Msg>> = HashMap::new();
    for event in recording::published() {
        let meta = event.meta;
        let key = (meta.peer_id, meta.inbound, cut(&meta.command).to_owned(), meta.size);
        published.entry(key).or_default().push(event.msg.expect("a message in every event"));
    }

    let mut malformed = Vec::new();
    let mut left_over = Vec::new();
    let mut compared = 0;
    for hit in recording::messages("regtest-tour") {
        let size = hit.payload.len();
        let decoded = decode(&hit.command, hit.payload.clone());
        if let (Msg::Unknown(unknown), Some(error)) = (&decoded.msg, &decoded.error) {
            assert_eq!(unknown.command, hit.command);
            assert_eq!(unknown.payload, hit.payload);
            malformed.push((hit.command, size, error.clone()));
            continue;
        }
        if let Some(error) = decoded.error {
            left_over.push((hit.command.clone(), error));
        }

        let command = cut(&hit.command).to_owned();
        let ours = match decoded.msg {
            Msg::Getcfheaders(_) | Msg::Getcfcheckpt(_) => {
                Msg::Unknown(Unknown { command: command.clone(), payload: hit.payload })
            }
            msg => msg,
        };
        let candidates =
            published.get_mut(&(hit.peer_id, hit.inbound, command, size as u64)).expect("published, too");
        let Some(position) = candidates.iter().position(|theirs| *theirs == ours) else {
            panic!("{} of {size} bytes: ours {ours:?}, published {candidates:?}", hit.command);
        };
        candidates.swap_remove(position);
        compared += 1;
    }

    assert!(published.values().all(Vec::is_empty), "published but not recorded");
    assert!(compared > 1_000, "compared {compared}");
    assert_eq!(left_over, [("alert".to_owned(), "59 bytes left over after the message".to_owned())]);
    malformed.sort_by_key(|(command, ..)| MALFORMED.iter().position(|(known, ..)| known == command));
    assert_eq!(
        malformed,
        MALFORMED.map(|(command, size, error)| (command.to_owned(), size, error.to_owned()))
    );
}

/// The public extractor loses the last letter of commands of twelve, and so does not know `getcfheaders` and
/// `getcfcheckpt`.
fn cut(command: &str) -> &str {
    &command[..command.len().min(11)]
}
