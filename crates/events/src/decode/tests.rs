//! Payloads by hand: what decodes to what, what is wrong with the others, and what hostile lengths do.

use super::*;
use crate::proto::bitcoin_primitives::UnknownAddress;
use crate::proto::bitcoin_primitives::address::Address as Host;
use crate::proto::bitcoin_primitives::inventory_item::Item;
use crate::proto::ebpf_extractor::message::reject::RejectReason;
use crate::proto::ebpf_extractor::message::{GetBlockTxn, Reject, SendCompact};

/// A payload from hexadecimal text; spaces separate what belongs together.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn zeros(count: usize) -> String {
    "00".repeat(count)
}

/// A `version` up to and with the length of the user agent.
fn version(user_agent_length: &str) -> String {
    format!("80110100 {} {} {} {} {user_agent_length}", zeros(16), zeros(26), zeros(26), zeros(8))
}

#[test]
fn what_is_wrong_is_said_in_a_few_words() {
    let input = format!("01 {} 00 ffffffff", zeros(36));
    let output = format!("01 {} 00", zeros(8));
    let cases = [
        ("inv", "c8".to_owned() + &"01000000".repeat(9), "inv: entry 2 of 200: payload ends at byte 37"),
        (
            "inv",
            "ffffffffffffffffff".to_owned(),
            "inv: entry 1 of 18446744073709551615: payload ends at byte 9",
        ),
        ("inv", "fd0100".to_owned(), "inv: compact size at byte 0 is not in its shortest form"),
        ("inv", "fe00ff0000".to_owned(), "inv: compact size at byte 0 is not in its shortest form"),
        ("inv", "ff00000000ffffff00".to_owned(), "inv: entry 1 of 72057589742960640: payload ends at byte 9"),
        ("ping", "01".to_owned(), "ping: payload ends at byte 1"),
        ("version", version("fd0101"), "version: user agent of 257 bytes, more than 256"),
        (
            "addrv2",
            format!("01 {} 00 01 05", zeros(4)),
            "addrv2: address 1 of 1: IPv4 address of 5 bytes instead of 4",
        ),
        (
            "addrv2",
            format!("01 {} 00 04 0a", zeros(4)),
            "addrv2: address 1 of 1: Tor v3 address of 10 bytes instead of 32",
        ),
        (
            "merkleblock",
            format!("{} 00 fd4a10", zeros(84)),
            "merkleblock: flags of 4170 bytes, more than 4169",
        ),
        ("reject", "00 99".to_owned(), "reject: reject code 153 is not one of BIP 61"),
        ("filterload", format!("00 {} 03", zeros(8)), "filterload: flags 3 is not one of 0, 1, 2"),
        ("tx", "01000000 00 02".to_owned(), "tx: transaction flag 2 is not 0 or 1"),
        (
            "tx",
            format!("01000000 00 01 {input} {output} 00 {}", zeros(4)),
            "tx: transaction says it has witnesses but has none",
        ),
        (
            "block",
            format!("{} 02 01000000 {input} {output} 00000000 01000000 02 {}", zeros(80), zeros(41)),
            "block: transaction 2 of 2: input 2 of 2: payload ends at byte 187",
        ),
        (
            "getblocktxn",
            format!("{} 02 fdffff 00", zeros(32)),
            "getblocktxn: index 2 of 2: transaction index 65536 is not at most 65535",
        ),
        (
            "getblocktxn",
            format!("{} 02 00 ffffffffffffffffff", zeros(32)),
            "getblocktxn: index 2 of 2: transaction index 18446744073709551615 is not at most 65535",
        ),
    ];
    for (command, payload, error) in cases {
        let payload = hex(&payload);
        let decoded = decode(command, payload.clone());
        assert_eq!(decoded.error.as_deref(), Some(error));
        assert_eq!(decoded.msg, Msg::Unknown(Unknown { command: command.to_owned(), payload }));
    }
}

#[test]
fn a_payload_is_read_as_core_reads_it() {
    let cases = [
        ("addrv2", String::new(), Msg::Emptyaddrv2(true)),
        ("ping", String::new(), Msg::Oldping(true)),
        (
            "sendcmpct",
            format!("02 {}", zeros(8)),
            Msg::Sendcompact(SendCompact { send_compact: true, version: 0 }),
        ),
        (
            "getblocktxn",
            format!("{} 03 01 00 fdfafe", zeros(32)),
            Msg::Getblocktxn(GetBlockTxn { block_hash: hex(&zeros(32)), tx_indexes: vec![1, 2, 65_277] }),
        ),
        (
            "reject",
            "02 7478 40 00".to_owned(),
            Msg::Reject(Reject {
                rejected_command: "tx".to_owned(),
                reason: RejectReason::Nonstandard.into(),
                reason_details: String::new(),
                hash: hex(&zeros(32)),
            }),
        ),
    ];
    for (command, payload, msg) in cases {
        assert_eq!(decode(command, hex(&payload)), Decoded { msg, error: None });
    }
}

#[test]
fn bytes_after_a_message_are_counted() {
    let cases = [
        ("verack", "00", Some("1 byte left over after the message")),
        ("pong", "0100000000000000 abcd", Some("2 bytes left over after the message")),
        ("pong", "0100000000000000", None),
        ("sendtxrcncl", "0100000000", None),
    ];
    for (command, payload, error) in cases {
        assert_eq!(decode(command, hex(payload)).error.as_deref(), error, "{command}");
    }
}

#[test]
fn an_unknown_command_keeps_its_payload() {
    let payload = hex("abcd");
    let unknown = Unknown { command: "hello".to_owned(), payload: payload.clone() };
    assert_eq!(decode("hello", payload), Decoded { msg: Msg::Unknown(unknown), error: None });
}

#[test]
fn a_version_may_lack_its_last_byte_and_be_no_utf8() {
    for (relay, expected) in [("", true), ("00", false), ("01", true)] {
        let decoded = decode("version", hex(&format!("{} ff61 07000000 {relay}", version("02"))));
        assert_eq!(decoded.error, None);
        let Msg::Version(version) = decoded.msg else { panic!("{decoded:?}") };
        assert_eq!((version.version, version.start_height, version.relay), (70016, 7, expected));
        assert_eq!(version.user_agent, "\u{fffd}a");
    }
}

/// The one address of an `addrv2` with that network, length and address.
fn addrv2(host: &str) -> Host {
    let decoded = decode("addrv2", hex(&format!("01 {} fd0904 {host} 208d", zeros(4))));
    let Msg::Addrv2(mut addrv2) = decoded.msg else { panic!("{decoded:?}") };
    let address = addrv2.addresses.remove(0);
    assert_eq!((addrv2.addresses.len(), address.services, address.port), (0, 1033, 8333));
    address.address.expect("an address")
}

#[test]
fn addresses_of_bip_155_are_written_as_text() {
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
    let key = "79bcc625184b05194975c28b66b66b0469f7f6556fb1ac3189a79b40dda32f1f";
    let cases = [
        ("01 04 01020304".to_owned(), Host::Ipv4("1.2.3.4".to_owned())),
        (format!("02 10 2a0104f8 {} 02", zeros(11)), Host::Ipv6("2a01:4f8::2".to_owned())),
        ("03 0a f1f2f3f4f5f6f7f8f9fa".to_owned(), Host::Torv2("6hzph5hv6337r6p2.onion".to_owned())),
        // Without the checksum and the version, which the name ends with: the last digit of the key stands alone.
        (format!("04 20 {key}"), Host::Torv3(format!("{}q.onion", &onion[..51]))),
        (
            "05 20 a2894dabaec08c0051a481a6dac88b64f98232ae42d4b6fd2fa81952dfe36a87".to_owned(),
            Host::I2p("ukeu3k5oycgaauneqgtnvselmt4yemvoilkln7jpvamvfx7dnkdq.b32.i2p".to_owned()),
        ),
        (format!("06 10 fc00 {} 01", zeros(13)), Host::Cjdns("fc00::1".to_owned())),
    ];
    for (host, text) in cases {
        assert_eq!(addrv2(&host), text);
    }
}

#[test]
fn addresses_that_core_reads_and_ignores_are_kept_as_they_came() {
    let cases = [
        (2, format!("{} ffff 01020304", zeros(10))),
        (2, format!("fd87d87eeb43 {}", zeros(10))),
        (3, "010203".to_owned()),
        (6, format!("fd00 {} 01", zeros(13))),
        (7, String::new()),
        (255, "01".repeat(60)),
    ];
    for (id, address) in cases {
        let address = hex(&address);
        let text: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        let host = addrv2(&format!("{id:02x} {:02x} {text}", address.len()));
        assert_eq!(host, Host::Unknown(UnknownAddress { id, address }));
    }
}

#[test]
fn addresses_before_bip_155_may_hide_ipv4_and_tor() {
    let cases = [
        (format!("{} ffff 01020304", zeros(10)), Host::Ipv4("1.2.3.4".to_owned())),
        // An address that nobody has set; existing readers know it like this.
        (zeros(16), Host::Ipv4("0.0.0.0".to_owned())),
        ("fd87d87eeb43 f1f2f3f4f5f6f7f8f9fa".to_owned(), Host::Torv2("6hzph5hv6337r6p2.onion".to_owned())),
        (format!("fd87d87eeb44 {}", zeros(10)), Host::Ipv6("fd87:d87e:eb44::".to_owned())),
    ];
    for (address, host) in cases {
        let decoded = decode("addr", hex(&format!("01 05000000 {} {address} 208d", zeros(8))));
        let Msg::Addr(addr) = decoded.msg else { panic!("{decoded:?}") };
        assert_eq!((addr.addresses[0].timestamp, addr.addresses[0].port), (5, 8333));
        assert_eq!(addr.addresses[0].address, Some(host));
    }
}

#[test]
fn a_transaction_without_inputs_and_outputs_is_one() {
    let decoded = decode("tx", hex("01000000 00 00 00000000"));
    assert!(matches!(decoded.msg, Msg::Tx(_)), "{decoded:?}");
}

#[test]
fn a_compact_block_has_at_most_as_many_transactions_as_indexes() {
    for (prefilled, error) in [
        ("00", None),
        ("01 00 01000000 00 00 00000000", Some("cmpctblock: transaction index 65536 is not at most 65535")),
    ] {
        let payload = format!("{} fdffff {} {prefilled}", zeros(88), zeros(6 * 65_535));
        assert_eq!(decode("cmpctblock", hex(&payload)).error.as_deref(), error);
    }
}

#[test]
fn hashes_and_transactions_are_parts_of_the_payload_and_not_copies() {
    let payload = hex(&format!("02 01000000 {} 05000000 {}", "11".repeat(32), "22".repeat(32)));
    let within = |part: &Bytes| payload.as_ptr_range().contains(&part.as_ptr());
    let decoded = decode("inv", payload.clone());
    let Msg::Inv(inv) = decoded.msg else { panic!("{decoded:?}") };
    for item in inv.items {
        let Some(Item::Transaction(hash) | Item::Wtx(hash)) = item.item else { panic!("{item:?}") };
        assert!(within(&hash));
    }

    let payload = hex("01000000 00 00 00000000");
    let within = |part: &Bytes| payload.as_ptr_range().contains(&part.as_ptr());
    let decoded = decode("tx", payload.clone());
    let Msg::Tx(tx) = decoded.msg else { panic!("{decoded:?}") };
    assert!(within(&tx.tx.raw.expect("a raw transaction")));
}
