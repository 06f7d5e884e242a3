//! Which tracepoints a binary has, from its ELF notes.
//!
//! A tracepoint (USDT) is a note in the section `.note.stapsdt`: where the probe is, where its semaphore is, its provider, name
//! and argument forms. Format: <https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation>

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf};

use crate::discover::NodeProcess;
use crate::hit::Tracepoint;
use crate::regular;

/// Notes of a binary are small; a larger section is not a node's.
const MAX_NOTES: u64 = 16 << 20;
/// So is its table of sections, bytes: a node has some forty, of 64 bytes.
const MAX_SECTION_TABLE: u64 = 1 << 20;

/// Why the tracepoints of a binary are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no ELF file, or a broken one.
    #[error("{path} is not a program that can be looked into: {reason}")]
    NotElf {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Places of one tracepoint in a program, at most. Bitcoin Core has one or two of each; the compiler may copy some.
pub const MAX_PLACES: usize = 32;

/// The tracepoints of a binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// With the number of places where each is.
    known: BTreeMap<Tracepoint, usize>,
    any: bool,
}

impl Probes {
    /// Reads the notes of a binary.
    ///
    /// # Errors
    /// When the file cannot be read or is no 64-bit ELF file.
    pub fn of_binary(path: &Path) -> Result<Self, Error> {
        let file =
            regular::open(path).map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        Probes::of_file(file, path)
    }

    /// Reads the notes of the program that a node runs.
    ///
    /// # Errors
    /// When it cannot be read or is no 64-bit ELF file.
    pub fn of_node(node: &NodeProcess) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: node.exe.display().to_string(), source };
        Probes::of_file(node.open_program().map_err(failed)?, &node.exe)
    }

    /// Reads the notes of a binary that is open. `path` is for people.
    ///
    /// # Errors
    /// When it is no 64-bit ELF file.
    pub fn of_file(file: File, path: &Path) -> Result<Self, Error> {
        let cache = object::ReadCache::new(std::io::BufReader::new(file));
        read(&cache).map_err(|reason| Error::NotElf { path: path.display().to_string(), reason })
    }

    /// Reads the notes of a binary that is in memory.
    ///
    /// # Errors
    /// Why it is no 64-bit ELF file.
    pub fn of_bytes(binary: &[u8]) -> Result<Self, String> {
        read(binary)
    }

    /// The binary has this tracepoint.
    pub fn has(&self, tracepoint: Tracepoint) -> bool {
        self.known.contains_key(&tracepoint)
    }

    /// Tracepoints that we know and the binary has.
    pub fn known(&self) -> impl Iterator<Item = Tracepoint> + '_ {
        self.known.keys().copied()
    }

    /// In how many places of the binary this tracepoint is. A place may have another form of arguments than any other, and the
    /// kernel's programs have room for a number of forms.
    pub fn places(&self, tracepoint: Tracepoint) -> usize {
        self.known.get(&tracepoint).copied().unwrap_or(0)
    }

    /// A tracepoint that is in more places than any node has.
    pub fn excessive(&self) -> Option<Tracepoint> {
        self.known.iter().find(|(_, places)| **places > MAX_PLACES).map(|(tracepoint, _)| *tracepoint)
    }

    /// The binary has tracepoints, known to us or not.
    pub fn any(&self) -> bool {
        self.any
    }

    /// `validation:block_connected` tells the time in us and not in ns. It did before Core 25, the release that brought the
    /// mempool tracepoints.
    pub fn block_time_in_us(&self) -> bool {
        self.has(Tracepoint::BlockConnected) && !self.has(Tracepoint::MempoolAdded)
    }

    /// The Core releases that have such a set of tracepoints. Core 22: messages and blocks; 23: UTXO set; 25: mempool; 29:
    /// connections.
    pub fn release(&self) -> &'static str {
        if self.has(Tracepoint::InboundConnection) {
            "29 or later"
        } else if self.has(Tracepoint::MempoolAdded) {
            "25 to 28"
        } else if self.has(Tracepoint::UtxoCacheFlush) {
            "23 or 24"
        } else if self.has(Tracepoint::InboundMessage) {
            "22"
        } else {
            "unknown"
        }
    }
}

fn read<'a, R: object::ReadRef<'a>>(data: R) -> Result<Probes, String> {
    if section_table_bytes(data).map_err(|e| e.to_string())? > MAX_SECTION_TABLE {
        return Err("its table of sections is too large".into());
    }
    parse(data).map_err(|e| e.to_string())
}

/// Length of the table of sections. Whoever wrote the file says how much of it is read: in a header without a number of sections, it is
/// any number of 32 bits.
fn section_table_bytes<'a, R: object::ReadRef<'a>>(data: R) -> object::Result<u64> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let sections = header.shnum(header.endian()?, data)?;
    Ok(u64::from(sections) * size_of::<elf::SectionHeader64<Endianness>>() as u64)
}

fn parse<'a, R: object::ReadRef<'a>>(data: R) -> object::Result<Probes> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut probes = Probes::default();
    // One section has them all, but there can be any number of that name.
    let mut notes_left = MAX_NOTES;
    for section in sections.iter() {
        if section.sh_type(endian) != elf::SHT_NOTE
            || sections.section_name(endian, section)? != b".note.stapsdt"
            || section.sh_size(endian) > notes_left
        {
            continue;
        }
        notes_left -= section.sh_size(endian);
        let Some(mut notes) = section.notes(endian, data)? else { continue };
        while let Some(note) = notes.next()? {
            // Three addresses (probe, base, semaphore), then provider, name and arguments, each ended by a NUL.
            let Some(text) = note.desc().get(24..) else { continue };
            let mut words = text.split(|b| *b == 0);
            let (Some(provider), Some(name)) = (words.next(), words.next()) else { continue };
            probes.any = true;
            let found = Tracepoint::ALL
                .iter()
                .find(|t| t.provider().as_bytes() == provider && t.name().as_bytes() == name);
            if let Some(found) = found {
                *probes.known.entry(*found).or_default() += 1;
            }
        }
    }
    Ok(probes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_probes_has_none() {
        let probes = Probes::of_binary(Path::new("/bin/true")).unwrap();
        assert_eq!(probes.known().count(), 0);
        assert_eq!(probes.release(), "unknown");
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        assert!(matches!(Probes::of_binary(Path::new("/etc/passwd")), Err(Error::NotElf { .. })));
        assert!(matches!(Probes::of_binary(Path::new("/nonexistent")), Err(Error::Read { .. })));
    }

    /// A file of 8 GiB that takes no room, whose header says that its table of sections is almost all of it.
    #[test]
    fn a_table_of_sections_that_is_too_large_is_not_read() {
        use std::os::unix::fs::FileExt;
        const FILE: u64 = 8 << 30;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(FILE).unwrap();
        let mut header = std::fs::read("/bin/true").unwrap();
        header.truncate(64);
        // e_shoff, and no e_shnum: then it is sh_size of the first section.
        header[40..48].copy_from_slice(&4096u64.to_le_bytes());
        header[60..62].fill(0);
        file.as_file().write_all_at(&header, 0).unwrap();
        file.as_file().write_all_at(&(FILE / 64 - 4096).to_le_bytes(), 4096 + 32).unwrap();
        let error = Probes::of_binary(file.path()).unwrap_err();
        assert!(error.to_string().contains("table of sections is too large"), "{error}");
    }

    /// The smallest ELF file with tracepoints: a header, their notes, the names of sections, and the table of sections.
    fn elf_with_notes(tracepoints: &[Tracepoint]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.note.stapsdt\0.shstrtab\0";
        let mut notes = Vec::new();
        for tracepoint in tracepoints {
            let text = format!("{}\0{}\0-8@%rax 8@-16(%rbp)\0", tracepoint.provider(), tracepoint.name());
            let desc = [&[0x11; 24], text.as_bytes()].concat();
            for number in [8, desc.len() as u32, 3] {
                notes.extend(number.to_le_bytes());
            }
            notes.extend(b"stapsdt\0");
            notes.extend(&desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let names_at = 64 + notes.len() as u64;
        let table_at = (names_at + NAMES.len() as u64).next_multiple_of(8);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        // Kind (program), machine (x86-64), version.
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for number in [0, 0, table_at] {
            file.extend(number.to_le_bytes());
        }
        // Flags, then sizes and numbers: header, program headers, three sections, the last of which has their names.
        file.extend([0; 4]);
        for number in [64_u16, 56, 0, 64, 3, 2] {
            file.extend(number.to_le_bytes());
        }
        file.extend(&notes);
        file.extend(NAMES);
        file.resize(table_at as usize + 64, 0);
        for (name, kind, at, size) in [
            (1_u32, elf::SHT_NOTE.0, 64, notes.len() as u64),
            (15, elf::SHT_STRTAB.0, names_at, NAMES.len() as u64),
        ] {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            // Flags, address, offset, size, link and information, alignment, size of an entry.
            for number in [0, 0, at, size, 0, 4, 0] {
                file.extend(number.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn fuzz_seeds_are_binaries_with_probes() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/elf_notes");
        for (name, tracepoints) in [("one", &[Tracepoint::InboundMessage][..]), ("all", Tracepoint::ALL)] {
            let file = elf_with_notes(tracepoints);
            let probes = Probes::of_bytes(&file).unwrap();
            assert_eq!(probes.known().count(), tracepoints.len());
            assert!(
                std::fs::read(seeds.join(name)).unwrap() == file,
                "{name} is not what the generator makes"
            );
        }
    }

    #[test]
    fn truncated_and_mutated_binaries_are_read_or_refused() {
        let whole = elf_with_notes(Tracepoint::ALL);
        for length in 0..whole.len() {
            let _ = Probes::of_bytes(&whole[..length]);
        }
        // A fixed generator (xorshift), so that a failure can be seen again.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize
        };
        // Numbers that are wrong are mostly in the header, in the table of sections, and in the headers of notes.
        for _ in 0..50_000 {
            let mut mutant = whole.clone();
            for _ in 0..=next() % 3 {
                let at = match next() % 3 {
                    0 => next() % 64,
                    1 => whole.len() - 1 - next() % 192,
                    _ => next() % whole.len(),
                };
                mutant[at] = [0, 0xff, 0x80, next() as u8][next() % 4];
            }
            if let Ok(probes) = Probes::of_bytes(&mutant) {
                assert!(probes.known().count() <= Tracepoint::ALL.len());
            }
        }
    }
}
