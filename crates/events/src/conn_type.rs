//! Names of connection types, as getpeerinfo and tracepoints have them (Bitcoin Core src/node/connection_types.cpp).

use crate::proto::bitcoin_primitives::ConnType;

/// Of a type that is not known.
pub const UNKNOWN: &str = NAMES[0];

/// The names, at the numbers that the schema gives them.
pub const NAMES: [&str; 8] = [
    "unknown",
    "inbound",
    "outbound-full-relay",
    "block-relay-only",
    "feeler",
    "manual",
    "addr-fetch",
    "private-broadcast",
];

/// The name of a number of the schema.
pub fn name(number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|n| NAMES.get(n)).copied().unwrap_or(UNKNOWN)
}

/// The type that has this name.
pub fn from_name(name: &[u8]) -> ConnType {
    let number = NAMES.iter().position(|known| known.as_bytes() == name).and_then(|n| i32::try_from(n).ok());
    number.and_then(|n| ConnType::try_from(n).ok()).unwrap_or(ConnType::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_the_schema_has_its_name() {
        let words = [
            "Unknown",
            "Inbound",
            "OutboundFullRelay",
            "BlockRelayOnly",
            "Feeler",
            "Manual",
            "AddrFetch",
            "PrivateBroadcast",
        ];
        for (number, word) in (0..).zip(words) {
            let conn_type = ConnType::from_str_name(word).unwrap();
            assert_eq!(conn_type as i32, number);
            assert_eq!(name(number).replace('-', ""), word.to_lowercase());
            assert_eq!(from_name(name(number).as_bytes()), conn_type);
        }
        assert!(ConnType::try_from(NAMES.len() as i32).is_err(), "a type has no name");
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        for odd in [-1, 8, i32::MIN, i32::MAX] {
            assert_eq!(name(odd), UNKNOWN);
        }
        for odd in [&b"something new"[..], b"", b"Inbound", b"inbound\xff"] {
            assert_eq!(from_name(odd), ConnType::Unknown, "{}", odd.escape_ascii());
        }
    }
}
