//! Names of onion services. Gossip has their public keys alone; whoever dials one, or is one, is known by the name.

use sha3::{Digest, Sha3_256};

/// Length of an onion service's public key, bytes.
const ONION_KEY: usize = 32;
/// Version of onion services.
const ONION_VERSION: u8 = 3;

/// The name of an onion service by its public key: the schema has the key alone, in base32. Key, checksum and version make the name
/// (Tor's rend-spec-v3, `[ONIONADDRESS]`).
pub(crate) fn onion_name(text: &str) -> Option<String> {
    let mut bytes = from_base32(text.strip_suffix(".onion")?, ONION_KEY)?;
    let checksum = Sha3_256::new()
        .chain_update(b".onion checksum")
        .chain_update(&bytes)
        .chain_update([ONION_VERSION])
        .finalize();
    bytes.extend_from_slice(&checksum[..2]);
    bytes.push(ONION_VERSION);
    Some(format!("{}.onion", to_base32(&bytes)))
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// `length` bytes of base32 in small letters without padding (RFC 4648). Bits that are left over must be 0.
pub(crate) fn from_base32(text: &str, length: usize) -> Option<Vec<u8>> {
    if text.len() != (length * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = Vec::with_capacity(length);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes() {
        let digit = BASE32.iter().position(|known| *known == c)?;
        bits = bits << 5 | digit as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

pub(crate) fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(BASE32[(bits >> count) as usize & 31]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(BASE32[(bits << (5 - count)) as usize & 31]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_onion_service_follows_from_its_key() {
        // Tor's own.
        let full = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid";
        let bytes = from_base32(full, 35).unwrap();
        let key = format!("{}.onion", to_base32(&bytes[..32]));
        assert_eq!(onion_name(&key).unwrap(), format!("{full}.onion"));
        for wrong in ["", "x", &full[..52], &"A".repeat(52), &"1".repeat(52)] {
            assert_eq!(onion_name(&format!("{wrong}.onion")), None, "{wrong}");
        }
    }
}
