//! P2P payloads, whatever the command: nothing panics, memory stays in proportion, what cannot be read is kept whole.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use peer_observer_events::decode::decode;
use peer_observer_events::proto::ebpf_extractor::message::MessageEvent;
use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
use prost::Message as _;

/// The first byte of an input is the place of the command in this list. Append only: seeds depend on it.
const COMMANDS: [&str; 39] = [
    "version",
    "verack",
    "addr",
    "addrv2",
    "inv",
    "getdata",
    "notfound",
    "getblocks",
    "getheaders",
    "headers",
    "tx",
    "block",
    "cmpctblock",
    "getblocktxn",
    "blocktxn",
    "sendcmpct",
    "ping",
    "pong",
    "feefilter",
    "reject",
    "alert",
    "merkleblock",
    "filteradd",
    "filterload",
    "filterclear",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "sendheaders",
    "getaddr",
    "mempool",
    "wtxidrelay",
    "sendaddrv2",
    "sendtxrcncl",
    "hello",
    "",
];

fuzz_target!(|input: &[u8]| {
    let Some((&choice, payload)) = input.split_first() else { return };
    let command = COMMANDS[usize::from(choice) % COMMANDS.len()];
    let payload = Bytes::copy_from_slice(payload);

    let decoded = decode(command, payload.clone());
    if let Some(error) = &decoded.error {
        assert!(error.len() < 300, "{error}");
    }
    if let Msg::Unknown(unknown) = &decoded.msg {
        assert_eq!(unknown.command, command);
        assert_eq!(unknown.payload, payload);
    }

    let event =
        MessageEvent { msg: Some(decoded.msg), decode_error: decoded.error, ..MessageEvent::default() };
    let encoded = event.encode_to_vec();
    // The worst is a flag bit of a merkle block, which becomes two bytes.
    assert!(encoded.len() <= 16 * payload.len() + 1_000, "{} from {}", encoded.len(), payload.len());
    assert_eq!(MessageEvent::decode(encoded.as_slice()).expect("what was encoded"), event);
});
