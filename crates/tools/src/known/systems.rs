//! Autonomous systems of addresses, from a map file as Bitcoin Core's `-asmap` takes it.
//!
//! Nodes without a map of their own do not tell the AS of their peers, and a fleet should be counted with one map. The file is a
//! program of bits that narrows an address down bit by bit (Bitcoin Core src/util/asmap.cpp). It is read here by a small decoder
//! that checks every step, because the crate for it has one release and no tests with damaged files.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use peer_observer_exporter::labels::joined;

/// Largest map that is read, bytes; Bitcoin Core takes 8 MiB (init.cpp).
const MAX_MAP: u64 = 8 << 20;
/// Largest file of names that is read, bytes.
const MAX_NAMES: u64 = 64 << 20;
/// Bits of an address.
const ADDRESS_BITS: u32 = 128;

/// Why a map or the names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; correct --asmap-file or --as-names-file, or leave it out")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too large to be what it should be.
    #[error("{path} is larger than {limit} bytes, so it is no file for --asmap-file or --as-names-file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, bytes.
        limit: u64,
    },
    /// The map is not what it should be.
    #[error("{path} is no map of AS as Bitcoin Core's -asmap takes it; is it a text file, or not complete?")]
    NoMap {
        /// The file.
        path: PathBuf,
    },
}

/// A map of AS and the names of them.
#[derive(Debug)]
pub(crate) struct Systems {
    map: Map,
    names: HashMap<u32, Box<str>>,
}

impl Systems {
    /// Reads a map, and names if there is a file with some.
    ///
    /// # Errors
    /// When a file cannot be read, or the map is none.
    pub(crate) fn read(map: &Path, names: Option<&Path>) -> Result<Self, Error> {
        let bytes = read(map, MAX_MAP)?;
        let names = match names {
            Some(names) => read(names, MAX_NAMES)?,
            None => Vec::new(),
        };
        let names = String::from_utf8_lossy(&names);
        let systems = Systems { map: Map(bytes), names: names.lines().filter_map(name).collect() };
        if !systems.map.is_whole() {
            return Err(Error::NoMap { path: map.into() });
        }
        Ok(systems)
    }

    /// Number of the AS of an address; 0 for one that the map does not know.
    pub(crate) fn of(&self, ip: IpAddr) -> u32 {
        self.map.find(ip).unwrap_or(0)
    }

    /// Name of an AS, if it has one.
    pub(crate) fn name(&self, number: u32) -> Option<&str> {
        self.names.get(&number).map(|name| &**name).filter(|name| !name.is_empty())
    }

    /// The label values of an AS: number and name. The name of one that has none is empty.
    pub(crate) fn key(&self, number: u32) -> String {
        joined(&[&number.to_string(), self.name(number).unwrap_or_default()])
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > limit {
        return Err(Error::TooLarge { path: path.into(), limit });
    }
    std::fs::read(path).map_err(failed)
}

/// `AS64496 Example`, with the `AS` or without, with a blank, a tab or a comma; after a comma, the name ends at the next one unless
/// it is in quotes. Other lines, as heads of tables, are left out.
fn name(line: &str) -> Option<(u32, Box<str>)> {
    let end = line.find([' ', '\t', ','])?;
    let (number, rest) = line.split_at(end);
    let number = number.strip_prefix("AS").unwrap_or(number).parse().ok()?;
    let comma = rest.starts_with(',');
    let rest = rest.trim_start_matches([' ', '\t', ',']);
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None if comma => rest.split(',').next()?,
        None => rest,
    };
    Some((number, name.trim().into()))
}

/// The bits of a map: the lowest of each byte comes first.
#[derive(Debug)]
struct Map(Vec<u8>);

/// Where in a map one is, in bits.
struct Position<'a> {
    map: &'a [u8],
    at: usize,
}

/// Numbers of variable length: the lowest value, and the bits of each class; all classes but the last say with a bit whether a longer
/// one follows. Values: src/util/asmap.cpp.
struct Code {
    lowest: u32,
    classes: std::ops::RangeInclusive<u32>,
}

const SYSTEM: Code = Code { lowest: 1, classes: 15..=24 };
const MATCH: Code = Code { lowest: 2, classes: 1..=8 };
const JUMP: Code = Code { lowest: 17, classes: 5..=30 };

impl Position<'_> {
    fn bit(&mut self) -> Option<u32> {
        let byte = *self.map.get(self.at / 8)?;
        let bit = u32::from(byte >> (self.at % 8) & 1);
        self.at += 1;
        Some(bit)
    }

    fn number(&mut self, code: &Code) -> Option<u32> {
        let mut lowest = code.lowest;
        for class in code.classes.clone() {
            let longer = class < *code.classes.end() && self.bit()? == 1;
            if longer {
                lowest = lowest.checked_add(1 << class)?;
                continue;
            }
            let mut number: u32 = 0;
            for _ in 0..class {
                number = number << 1 | self.bit()?;
            }
            return lowest.checked_add(number);
        }
        None
    }
}

impl Map {
    /// Every step of the map leads somewhere, and there is nothing else in it, as `SanityCheckASMap` (src/util/asmap.cpp) wants it.
    fn is_whole(&self) -> bool {
        self.walk().is_some()
    }

    fn walk(&self) -> Option<()> {
        let mut position = Position { map: &self.0, at: 0 };
        let mut left = ADDRESS_BITS;
        // Where jumps that were not taken lead to, the next one last, and the bits that are left there.
        let mut jumps: Vec<(usize, u32)> = Vec::new();
        loop {
            if jumps.last().is_some_and(|(to, _)| position.at >= *to) {
                return None;
            }
            if position.bit()? == 0 {
                position.number(&SYSTEM)?;
                let Some((to, bits)) = jumps.pop() else { break };
                if position.at != to {
                    return None;
                }
                left = bits;
            } else if position.bit()? == 0 {
                let far = usize::try_from(position.number(&JUMP)?).ok()?;
                left = left.checked_sub(1)?;
                let to = position.at.checked_add(far)?;
                if to > self.0.len() * 8 || jumps.last().is_some_and(|(before, _)| to >= *before) {
                    return None;
                }
                jumps.push((to, left));
            } else if position.bit()? == 1 {
                position.number(&SYSTEM)?;
            } else {
                left = left.checked_sub(position.number(&MATCH)?.ilog2())?;
            }
        }
        // Zeros up to the end of the byte.
        while let Some(bit) = position.bit() {
            if bit == 1 || position.at.div_ceil(8) != self.0.len() {
                return None;
            }
        }
        (position.at.div_ceil(8) == self.0.len()).then_some(())
    }

    /// Number of the AS, 0 for none; nothing when the map is damaged.
    fn find(&self, ip: IpAddr) -> Option<u32> {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let bits = ip.to_bits();
        let mut left = ADDRESS_BITS;
        let mut position = Position { map: &self.0, at: 0 };
        let mut default = 0;
        // Each round reads at least a bit and never goes back, so this ends.
        loop {
            // RETURN 0, JUMP 10, MATCH 110, DEFAULT 111
            if position.bit()? == 0 {
                return position.number(&SYSTEM);
            }
            if position.bit()? == 0 {
                let far = position.number(&JUMP)?;
                left = left.checked_sub(1)?;
                if bits >> left & 1 == 1 {
                    position.at = position.at.checked_add(usize::try_from(far).ok()?)?;
                }
                continue;
            }
            if position.bit()? == 1 {
                default = position.number(&SYSTEM)?;
                continue;
            }
            // A leading one, and then the bits that the address has to have.
            let pattern = position.number(&MATCH)?;
            let length = pattern.ilog2();
            left = left.checked_sub(length)?;
            let mask = (1 << length) - 1;
            if (bits >> left) as u32 & mask != pattern & mask {
                return Some(default);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes maps.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn bits(&mut self, bits: &str) {
            self.0.extend(bits.bytes().map(|b| b == b'1'));
        }

        fn number(&mut self, value: u32, code: &Code) {
            let mut lowest = code.lowest;
            for class in code.classes.clone() {
                if value - lowest < 1 << class {
                    if class < *code.classes.end() {
                        self.bits("0");
                    }
                    self.bits(&format!("{:0width$b}", value - lowest, width = class as usize));
                    return;
                }
                lowest += 1 << class;
                self.bits("1");
            }
        }

        fn bytes(&self) -> Vec<u8> {
            self.0.chunks(8).map(|c| c.iter().enumerate().map(|(i, b)| u8::from(*b) << i).sum()).collect()
        }
    }

    fn returned(system: u32) -> Writer {
        let mut w = Writer::default();
        w.bits("0");
        w.number(system, &SYSTEM);
        w
    }

    /// 192.0.2.0/24 is AS 64496, 192.0.3.0/24 AS 4200000001 & (1 << 24), other IPv4 addresses 7, IPv6 unknown.
    fn map() -> Vec<u8> {
        let mut w = Writer::default();
        // ::ffff:0:0/96 in pieces of eight bits at most.
        for byte in [0_u32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255] {
            w.bits("110");
            w.number(1 << 8 | byte, &MATCH);
        }
        w.bits("111");
        w.number(7, &SYSTEM);
        for (pattern, bits) in [(192_u32, 8), (0, 8), (1, 7)] {
            w.bits("110");
            w.number(1 << bits | pattern, &MATCH);
        }
        let (zero, one) = (returned(64496), returned(16_777_300));
        w.bits("10");
        w.number(zero.0.len() as u32, &JUMP);
        w.0.extend(zero.0);
        w.0.extend(one.0);
        w.bytes()
    }

    #[test]
    fn an_address_is_narrowed_down_to_its_system() {
        let map = Map(map());
        for (ip, system) in [
            ("192.0.2.0", 64496),
            ("192.0.2.255", 64496),
            ("192.0.3.1", 16_777_300),
            ("192.0.4.1", 7),
            ("193.0.2.1", 7),
            ("::ffff:192.0.2.9", 64496),
            ("2001:db8::1", 0),
        ] {
            assert_eq!(map.find(ip.parse().unwrap()), Some(system), "{ip}");
        }
    }

    #[test]
    fn a_damaged_map_finds_nothing_and_breaks_nothing() {
        let whole = map();
        for length in 0..whole.len() {
            Map(whole[..length].to_vec()).find("192.0.3.1".parse().unwrap());
        }
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[byte] ^= 1 << bit;
                let map = Map(damaged);
                map.is_whole();
                for ip in ["192.0.2.1", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
                    map.find(ip.parse().unwrap());
                }
            }
        }
        for fill in [0x00, 0xff, 0b0101_0101, 0b1001_0010] {
            Map(vec![fill; 10_000]).find("192.0.2.1".parse().unwrap());
        }
    }

    #[test]
    fn a_file_that_is_no_map_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), map()).unwrap();
        assert!(Systems::read(file.path(), None).is_ok());
        let mut longer = map();
        longer.push(0);
        let shorter = &map()[..map().len() - 1];
        for no_map in [&b""[..], &longer, shorter, b"192.0.2.0/24 AS64496\n192.0.3.0/24 AS64497\n"] {
            std::fs::write(file.path(), no_map).unwrap();
            let error = Systems::read(file.path(), None).unwrap_err();
            assert!(error.to_string().contains("-asmap"), "{error}");
        }
        assert!(Systems::read(Path::new("/nonexistent/map"), None).is_err());
    }

    #[test]
    fn names_come_in_the_forms_that_lists_of_them_have() {
        for (line, expected) in [
            ("AS64496 Example Net", Some((64496, "Example Net"))),
            ("64496\tExample, Inc.", Some((64496, "Example, Inc."))),
            ("AS64496,\"Example, Inc.\",Content,US", Some((64496, "Example, Inc."))),
            ("64496,Example,Content", Some((64496, "Example"))),
            ("AS64496 ", Some((64496, ""))),
            ("asn,name,class,cc", None),
            ("# comment", None),
            ("AS99999999999 x", None),
            ("", None),
        ] {
            let found = name(line);
            assert_eq!(found.as_ref().map(|(number, name)| (*number, &**name)), expected, "{line}");
        }
    }
}
