//! A stand-in for a Bitcoin node: a process named `bitcoind` with Bitcoin Core's probes that fires exactly what it is told.
//!
//! A real node cannot be made to hit a probe exactly 300,000 times, nor to be of an older version. The program is
//! `standin/standin.c`; probes are attached to by file, so every [`Binary`] is a file of its own: tests that run at the
//! same time do not see each other's hits.
//!
//! A hit counts as fired only when something was attached to its probe, as in Core; the others are
//! [`Report::not_attached`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;
use thiserror::Error;

use crate::LONG;
use crate::process::{self, Process, Signal};

/// What can go wrong with a stand-in.
#[derive(Debug, Error)]
pub enum Error {
    /// Its files cannot be written.
    #[error("cannot set up the stand-in node in {path}: {source}")]
    Setup {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not run as it should.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// It said something that is no report.
    #[error("the stand-in node wrote {line:?}, which is no report: {source}")]
    Report {
        /// What it wrote.
        line: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Puts a program at `path` that runs with the rights of its owner, who is the user of this process, and changes all of its ids to
/// those, as su and sudo do. It waits then.
///
/// # Errors
/// When it cannot be written.
pub fn install_set_id_program(path: &Path) -> io::Result<()> {
    fs::write(path, include_bytes!(concat!(env!("OUT_DIR"), "/set-id")))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o6755))
}

/// Which node to stand in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Bitcoin Core 30.
    Core30,
    /// Bitcoin Core 30 with the two addrman tracepoints that some monitored nodes are patched with.
    Patched,
    /// Bitcoin Core 24: messages, `validation:block_connected` (in microseconds) and `utxocache:flush`, without semaphores.
    /// It cannot know whether something is attached, so every hit counts as fired.
    Core24,
    /// A node built without tracepoints.
    Bare,
    /// A program with `net:inbound_message` in 240 more places, each with another form of arguments.
    ManyForms,
}

impl Variant {
    fn program(self) -> &'static [u8] {
        match self {
            Variant::Core30 => include_bytes!(concat!(env!("OUT_DIR"), "/standin-core30")),
            Variant::Patched => include_bytes!(concat!(env!("OUT_DIR"), "/standin-patched")),
            Variant::Core24 => include_bytes!(concat!(env!("OUT_DIR"), "/standin-core24")),
            Variant::Bare => include_bytes!(concat!(env!("OUT_DIR"), "/standin-bare")),
            Variant::ManyForms => include_bytes!(concat!(env!("OUT_DIR"), "/standin-forms")),
        }
    }
}

/// What a stand-in fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Hits of a recording, uncompressed; see [`crate::recorded_hits`] and [`peer_observer_node::recording`].
    Recording(Vec<u8>),
    /// Inbound messages that are made up.
    Synthetic(Synthetic),
}

/// Inbound messages that are made up. Each thread is a peer, with its number (from 0) as peer id, and numbers its messages
/// from 0, also from one firing to the next: so a reader can tell what is missing or out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synthetic {
    /// What kind of message.
    pub message: SyntheticMessage,
    /// Messages of each thread.
    pub count: u64,
    /// Size of the payload, bytes.
    pub size: usize,
    /// Threads that fire at once.
    pub threads: u16,
}

/// Kind of a made-up message. All but a `ping` longer than 8 bytes decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntheticMessage {
    /// `ping`; the number is the nonce, in the first 8 bytes.
    Ping,
    /// `tx`; the number is the lock time, in the last 4 bytes.
    Tx,
    /// `block` with one transaction; the number is the nonce, in bytes 76 to 79.
    Block,
}

/// How fast hits are fired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// One after the other.
    FlatOut,
    /// So many a second, for each thread.
    PerSecond(f64),
    /// As they were recorded, so many times as fast.
    AsRecorded(f64),
}

/// What has to be before hits are fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: once, when the process starts.
    AtOnce,
    /// Something is attached to every probe that will be fired: then once. Not for [`Variant::Core24`].
    ///
    /// The kernel raises semaphores a little before a tracer sees its first hit, so some thousand hits can be fired that
    /// nobody sees. Where the exact number matters, use [`Start::OnGo`] once the tracer says that it is attached.
    WhenAttached,
    /// [`StandIn::go`] is called, as often as it is.
    OnGo,
}

/// What a stand-in does.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What it fires.
    pub source: Source,
    /// How fast.
    pub pace: Pace,
    /// How often it fires its source, each time.
    pub repeat: u64,
    /// Messages with more payload are left out, bytes.
    pub max_payload: Option<u64>,
    /// When.
    pub start: Start,
    /// Whatever its probes point at is at an address that nobody can read.
    pub unreadable: bool,
    /// Runs as this user and group, to whom its program and data directory belong. Needs root.
    pub user: Option<u32>,
}

impl Config {
    /// Fires `source` flat out, every time [`StandIn::go`] is called.
    pub fn new(source: Source) -> Self {
        Config {
            source,
            pace: Pace::FlatOut,
            repeat: 1,
            max_payload: None,
            start: Start::OnGo,
            unreadable: false,
            user: None,
        }
    }

    /// Fires `count` pings of 8 bytes from one peer, every time [`StandIn::go`] is called.
    pub fn pings(count: u64) -> Self {
        let message = SyntheticMessage::Ping;
        Config::new(Source::Synthetic(Synthetic { message, count, size: 8, threads: 1 }))
    }
}

/// What a stand-in did: where every hit of a firing went.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Report {
    /// Hits of probes that something was attached to.
    pub fired: u64,
    /// The same by tracepoint (`net:inbound_message`); none that are 0.
    pub by: BTreeMap<String, u64>,
    /// Hits that were not fired because nothing was attached.
    pub not_attached: u64,
    /// Hits that were not fired because this node has no such probe.
    pub no_probe: u64,
    /// Messages larger than [`Config::max_payload`].
    pub skipped: u64,
    /// Time it took, s.
    pub seconds: f64,
    /// CPU time of the firing threads for each hit fired, ns.
    pub cpu_ns_per_hit: f64,
}

/// A stand-in's program in a file of its own, named `bitcoind`.
#[derive(Debug)]
pub struct Binary {
    folder: TempDir,
    path: PathBuf,
}

impl Binary {
    /// Installs a stand-in in a temporary folder.
    pub fn install(variant: Variant) -> Result<Arc<Self>, Error> {
        let folder = TempDir::with_prefix("standin-")
            .map_err(|source| Error::Setup { path: std::env::temp_dir(), source })?;
        let path = folder.path().join("bitcoind");
        let binary = Binary { folder, path };
        binary.replace(variant)?;
        Ok(Arc::new(binary))
    }

    /// Puts another program in its place, as an upgrade does: processes that run go on with the old file.
    pub fn replace(&self, variant: Variant) -> Result<(), Error> {
        let new = self.folder.path().join("bitcoind.new");
        let write = || {
            fs::write(&new, variant.program())?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|source| Error::Setup { path: new.clone(), source })
    }

    /// Writes another program into its file, as `cp` does. No process may run it.
    pub fn overwrite(&self, variant: Variant) -> Result<(), Error> {
        fs::write(&self.path, variant.program())
            .map_err(|source| Error::Setup { path: self.path.clone(), source })
    }

    /// The file to attach to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a process of it; several can run at once.
    pub fn start(self: &Arc<Self>, config: &Config) -> Result<StandIn, Error> {
        StandIn::spawn(self.clone(), config)
    }
}

/// A running stand-in. It is killed when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    process: Process,
    binary: Arc<Binary>,
    args: Vec<OsString>,
    user: Option<u32>,
    // Its data directory, where the recording is too.
    folder: TempDir,
}

impl StandIn {
    /// Starts a stand-in with a binary of its own, and waits until it is ready.
    pub fn start(variant: Variant, config: &Config) -> Result<Self, Error> {
        Binary::install(variant)?.start(config)
    }

    fn spawn(binary: Arc<Binary>, config: &Config) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("standin-datadir-")
            .map_err(|source| Error::Setup { path: std::env::temp_dir(), source })?;
        let mut args: Vec<OsString> =
            vec!["-regtest".into(), format!("-datadir={}", folder.path().display()).into()];
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        match &config.source {
            Source::Recording(recording) => {
                let path = folder.path().join("hits.bin");
                fs::write(&path, recording).map_err(|source| Error::Setup { path: path.clone(), source })?;
                add(&["--recording", &path.to_string_lossy()]);
            }
            Source::Synthetic(Synthetic { message, count, size, threads }) => {
                let name = match message {
                    SyntheticMessage::Ping => "ping",
                    SyntheticMessage::Tx => "tx",
                    SyntheticMessage::Block => "block",
                };
                add(&["--synthetic", name, "--count", &count.to_string()]);
                add(&["--size", &size.to_string(), "--threads", &threads.to_string()]);
            }
        }
        match config.pace {
            Pace::FlatOut => add(&["--pace", "flat-out"]),
            Pace::PerSecond(rate) => add(&["--pace", &format!("{rate}/s")]),
            Pace::AsRecorded(speed) => add(&["--pace", "asrecorded", "--speed", &speed.to_string()]),
        };
        add(&["--repeat", &config.repeat.to_string()]);
        if let Some(max_payload) = config.max_payload {
            add(&["--max-payload", &max_payload.to_string()]);
        }
        if config.unreadable {
            add(&["--unreadable"]);
        }
        match config.start {
            Start::AtOnce => add(&["--stay"]),
            Start::WhenAttached => add(&["--wait-for-probes", "--stay"]),
            Start::OnGo => add(&["--wait-for-go"]),
        };
        if let Some(user) = config.user {
            let own = |path: &Path| {
                std::os::unix::fs::chown(path, Some(user), Some(user))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            };
            for path in [folder.path(), binary.folder.path(), &binary.path] {
                own(path).map_err(|source| Error::Setup { path: path.into(), source })?;
            }
        }
        let process = run(&binary, &args, config.user)?;
        Ok(StandIn { process, binary, args, user: config.user, folder })
    }

    /// Starts it again with its data directory, after it has ended or was killed: with the binary as it is now.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process.kill()?;
        self.process = run(&self.binary, &self.args, self.user)?;
        Ok(())
    }

    /// Its data directory.
    pub fn datadir(&self) -> &Path {
        self.folder.path()
    }

    /// Its binary.
    pub fn binary(&self) -> &Arc<Binary> {
        &self.binary
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where its code is not what its file says: the bytes that the file has there. Breakpoints of a tracer are such places.
    pub fn changed_code(&self) -> io::Result<Vec<u8>> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let file = fs::read(process.join("exe"))?;
        let memory = fs::File::open(process.join("mem"))?;
        let mut changed = Vec::new();
        for line in fs::read_to_string(process.join("maps"))?.lines() {
            // 55d0c0a01000-55d0c0a05000 r-xp 00001000 fe:00 1234    /path
            let words: Vec<&str> = line.split_whitespace().collect();
            let [range, "r-xp", offset, _, _, path] = words[..] else { continue };
            if Path::new(path) != self.binary.path() {
                continue;
            }
            let number = |hex: &str| u64::from_str_radix(hex, 16).map_err(io::Error::other);
            let (start, end) = range.split_once('-').ok_or(io::ErrorKind::InvalidData)?;
            let mut code = vec![0; (number(end)? - number(start)?) as usize];
            memory.read_exact_at(&mut code, number(start)?)?;
            let as_in_file = &file[number(offset)? as usize..];
            changed.extend(as_in_file.iter().zip(&code).filter(|(was, is)| was != is).map(|(was, _)| was));
        }
        Ok(changed)
    }

    /// Waits until something is attached to its probes, with [`Start::WhenAttached`].
    pub fn wait_attached(&mut self, timeout: Duration) -> Result<(), Error> {
        self.process.wait_for_line(|line| line == "{\"attached\":true}", timeout)?;
        Ok(())
    }

    /// Has it fire, with [`Start::OnGo`]; returns at once.
    pub fn go(&mut self) -> Result<(), Error> {
        Ok(self.process.send_line("go")?)
    }

    /// The report of the next firing that ends.
    pub fn report(&mut self, timeout: Duration) -> Result<Report, Error> {
        let line = self.process.wait_for_line(|line| line.starts_with("{\"fired\""), timeout)?;
        serde_json::from_str(&line).map_err(|source| Error::Report { line, source })
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        Ok(self.process.signal(signal)?)
    }

    /// Ends it in order.
    pub fn quit(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        self.process.close_stdin();
        Ok(self.process.wait(timeout)?)
    }

    /// Kills it, as `kill -9`.
    pub fn kill(&mut self) -> Result<(), Error> {
        Ok(self.process.kill()?)
    }
}

fn run(binary: &Binary, args: &[OsString], user: Option<u32>) -> Result<Process, Error> {
    let mut command = Command::new(binary.path());
    command.args(args);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut process = Process::spawn(command)?;
    process.wait_for_line(|line| line.starts_with("{\"ready\":true"), LONG)?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use object::{Object, ObjectSection};
    use peer_observer_node::hit::{Hit, Tracepoint};
    use peer_observer_node::recording::{Records, write_record};

    use super::*;
    use crate::{need, require};

    /// A probe as a tracer sees it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Probe {
        /// `net:inbound_message`
        name: String,
        /// `-8@%rax`
        args: Vec<String>,
        has_semaphore: bool,
    }

    impl Probe {
        /// Size and sign of the arguments: `-8`.
        fn types(&self) -> Vec<&str> {
            self.args.iter().map(|arg| arg.split('@').next().unwrap()).collect()
        }
    }

    /// Reads the notes that `sys/sdt.h` makes: a header of three u32, "stapsdt", three addresses, three strings.
    fn probes(program: &Path) -> BTreeMap<String, Probe> {
        let file = fs::read(program).unwrap();
        let elf = object::File::parse(&file[..]).unwrap();
        let mut notes = match elf.section_by_name(".note.stapsdt") {
            Some(section) => section.data().unwrap(),
            None => return BTreeMap::new(),
        };
        let mut probes = BTreeMap::new();
        while notes.len() > 12 {
            let length = u32::from_le_bytes(notes[4..8].try_into().unwrap()) as usize;
            let description = &notes[20..20 + length];
            let semaphore = u64::from_le_bytes(description[16..24].try_into().unwrap());
            let mut texts =
                description[24..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text));
            let name = format!("{}:{}", texts.next().unwrap(), texts.next().unwrap());
            let args = texts.next().unwrap().split(' ').map(str::to_owned).collect();
            probes.insert(name.clone(), Probe { name, args, has_semaphore: semaphore != 0 });
            notes = &notes[20 + length.next_multiple_of(4)..];
        }
        probes
    }

    /// Raises all semaphores of a stand-in, as the kernel does when something attaches.
    fn attach(standin: &StandIn) {
        let file = fs::read(standin.binary().path()).unwrap();
        let elf = object::File::parse(&file[..]).unwrap();
        let section = elf.section_by_name(".probes").unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", standin.pid())).unwrap();
        let base = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", standin.pid())).unwrap();
        let raised = [1, 0].repeat(section.size() as usize / 2);
        memory.write_all_at(&raised, base + section.address()).unwrap();
    }

    /// The tour, and the three kinds that it lacks.
    fn every_kind() -> Vec<u8> {
        let mut recording = crate::recorded_hits("regtest-tour").unwrap();
        let time_ns = Records::new(&recording).last().unwrap().unwrap().time_ns;
        for hit in [
            Hit::UtxoCacheFlush { duration_us: 1, mode: 2, coins: 3, bytes: 4, for_prune: true },
            Hit::AddrmanAttemptAdd {
                inserted: true,
                bucket: 1,
                position: 2,
                addr: b"1.2.3.4:8333",
                addr_as: 5,
                source: b"5.6.7.8:8333",
                source_as: 6,
            },
            Hit::AddrmanMoveToGood {
                bucket: 1,
                position: 2,
                addr: b"1.2.3.4:8333",
                addr_as: 5,
                source: b"5.6.7.8:8333",
                source_as: 6,
            },
        ] {
            write_record(&mut recording, time_ns, &hit).unwrap();
        }
        recording
    }

    fn count(recording: &[u8], wanted: impl Fn(Tracepoint) -> bool) -> BTreeMap<String, u64> {
        let mut by = BTreeMap::new();
        for record in Records::new(recording) {
            let tracepoint = record.unwrap().hit.tracepoint();
            if wanted(tracepoint) {
                *by.entry(tracepoint.as_str().to_owned()).or_default() += 1;
            }
        }
        by
    }

    fn names(tracepoints: impl IntoIterator<Item = Tracepoint>) -> BTreeSet<&'static str> {
        tracepoints.into_iter().map(Tracepoint::as_str).collect()
    }

    const PATCHED_ONLY: [Tracepoint; 2] = [Tracepoint::AddrmanAttemptAdd, Tracepoint::AddrmanMoveToGood];
    const CORE_24: [Tracepoint; 4] = [
        Tracepoint::InboundMessage,
        Tracepoint::OutboundMessage,
        Tracepoint::BlockConnected,
        Tracepoint::UtxoCacheFlush,
    ];

    #[test]
    fn each_variant_has_the_probes_of_its_version() {
        let all = names(Tracepoint::ALL.iter().copied());
        let unused = BTreeSet::from(["utxocache:add", "coin_selection:selected_coins"]);
        let core_30 = &(&all - &names(PATCHED_ONLY)) | &unused;
        let cases = [
            (Variant::Core30, core_30, true),
            (Variant::Patched, &all | &unused, true),
            (Variant::Core24, names(CORE_24), false),
            (Variant::Bare, BTreeSet::new(), false),
        ];
        for (variant, expected, semaphores) in cases {
            let binary = Binary::install(variant).unwrap();
            let probes = probes(binary.path());
            assert_eq!(probes.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{variant:?}");
            assert!(probes.values().all(|probe| probe.has_semaphore == semaphores), "{variant:?}");
        }
    }

    #[test]
    fn the_probes_are_those_of_a_real_node() {
        require!(need::bitcoind());
        let real = probes(&need::bitcoind().unwrap());
        let binary = Binary::install(Variant::Core30).unwrap();
        for (name, probe) in probes(binary.path()) {
            let Some(real) = real.get(&name) else {
                eprintln!("skipped: this bitcoind has no probe {name}");
                continue;
            };
            assert_eq!(probe.types(), real.types(), "{name}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_operands_have_all_forms_that_a_real_node_has() {
        let binary = Binary::install(Variant::Core30).unwrap();
        let args: Vec<_> = probes(binary.path()).into_values().flat_map(|probe| probe.args).collect();
        type Matches = fn(&str) -> bool;
        let forms: [(&str, Matches); 6] = [
            ("64-bit register", |arg| arg.starts_with("8@%r")),
            ("32-bit register", |arg| arg.starts_with("4@%")),
            ("8-bit register", |arg| arg.starts_with("1@%")),
            ("above the stack pointer", |arg| arg.ends_with("(%rsp)") && !arg.contains("@-")),
            ("below the frame pointer", |arg| arg.contains("@-") && arg.ends_with("(%rbp)")),
            ("a field of a struct", |arg| arg.ends_with(')') && !arg.contains("%rsp") && !arg.contains("@-")),
        ];
        for (form, matches) in forms {
            assert!(args.iter().any(|arg| matches(arg)), "no operand in a {form}: {args:?}");
        }
    }

    #[test]
    fn nothing_is_fired_while_nothing_is_attached() {
        let recording = every_kind();
        let mut standin =
            StandIn::start(Variant::Core30, &Config::new(Source::Recording(recording))).unwrap();
        standin.go().unwrap();
        let report = standin.report(LONG).unwrap();
        assert_eq!((report.fired, report.not_attached, report.no_probe, report.skipped), (0, 1_654, 2, 0));
        assert!(standin.quit(LONG).unwrap().success());
    }

    #[test]
    fn every_hit_is_fired_once_something_is_attached() {
        let recording = every_kind();
        let patched_only = |tracepoint| PATCHED_ONLY.contains(&tracepoint);
        for (variant, expected) in [
            (Variant::Patched, count(&recording, |_| true)),
            (Variant::Core30, count(&recording, |tracepoint| !patched_only(tracepoint))),
            (Variant::Core24, count(&recording, |tracepoint| CORE_24.contains(&tracepoint))),
            (Variant::Bare, BTreeMap::new()),
        ] {
            let mut standin =
                StandIn::start(variant, &Config::new(Source::Recording(recording.clone()))).unwrap();
            if matches!(variant, Variant::Core30 | Variant::Patched) {
                attach(&standin);
            }
            for _ in 0..2 {
                standin.go().unwrap();
                let report = standin.report(LONG).unwrap();
                assert_eq!(report.by, expected, "{variant:?}");
                assert_eq!(report.fired, expected.values().sum::<u64>());
                assert_eq!(report.fired + report.no_probe, 1_656);
            }
        }
    }

    #[test]
    fn synthetic_messages_are_counted_exactly_with_many_threads() {
        for (message, size) in
            [(SyntheticMessage::Ping, 8), (SyntheticMessage::Tx, 400), (SyntheticMessage::Block, 1_000_000)]
        {
            let source = Source::Synthetic(Synthetic { message, count: 5_000, size, threads: 3 });
            let config = Config { repeat: 2, ..Config::new(source) };
            let mut standin = StandIn::start(Variant::Core30, &config).unwrap();
            attach(&standin);
            standin.go().unwrap();
            let report = standin.report(LONG).unwrap();
            assert_eq!(report.by, BTreeMap::from([("net:inbound_message".to_owned(), 30_000)]));
            assert!(report.cpu_ns_per_hit > 0.0);
        }
    }

    #[test]
    fn messages_above_the_limit_are_skipped() {
        let recording = crate::recorded_hits("regtest-tour").unwrap();
        let config =
            Config { max_payload: Some(1_000_000), ..Config::new(Source::Recording(recording.clone())) };
        let large = Records::new(&recording)
            .filter(|record| matches!(record.as_ref().unwrap().hit, Hit::Message(message) if message.size > 1_000_000))
            .count() as u64;
        assert!(large > 0);
        let mut standin = StandIn::start(Variant::Core24, &config).unwrap();
        standin.go().unwrap();
        assert_eq!(standin.report(LONG).unwrap().skipped, large);
    }

    #[test]
    fn waits_until_something_is_attached_to_what_it_fires() {
        let config = Config { start: Start::WhenAttached, ..Config::pings(10) };
        let mut standin = StandIn::start(Variant::Core30, &config).unwrap();
        assert!(standin.wait_attached(Duration::from_millis(100)).is_err());
        attach(&standin);
        standin.wait_attached(LONG).unwrap();
        assert_eq!(standin.report(LONG).unwrap().fired, 10);
    }

    #[test]
    fn ends_when_its_starter_is_gone() {
        let config = Config { start: Start::WhenAttached, ..Config::pings(10) };
        let mut standin = StandIn::start(Variant::Core30, &config).unwrap();
        assert!(standin.quit(LONG).unwrap().success());
    }

    #[test]
    fn the_pace_is_kept() {
        let recording = crate::recorded_hits("regtest-tour").unwrap();
        let times: Vec<_> = Records::new(&recording).map(|record| record.unwrap().time_ns).collect();
        let recorded = (times[times.len() - 1] - times[0]) as f64 / 1e9;
        let at_rate = Config { pace: Pace::PerSecond(1_000.0), start: Start::AtOnce, ..Config::pings(201) };
        let as_recorded = Config {
            pace: Pace::AsRecorded(100.0),
            start: Start::AtOnce,
            ..Config::new(Source::Recording(recording))
        };
        for (config, seconds) in [(at_rate, 0.2), (as_recorded, recorded / 100.0)] {
            let mut standin = StandIn::start(Variant::Core24, &config).unwrap();
            let report = standin.report(LONG).unwrap();
            // It can be late on a busy machine, but never early.
            assert!(report.seconds >= seconds, "{} s, expected {seconds}", report.seconds);
        }
    }

    #[test]
    fn looks_like_bitcoind_and_can_be_upgraded_in_place() {
        use std::os::unix::fs::MetadataExt;
        let binary = Binary::install(Variant::Core24).unwrap();
        let old = binary.start(&Config::pings(1)).unwrap();
        let cmdline = fs::read_to_string(format!("/proc/{}/cmdline", old.pid())).unwrap();
        assert!(
            cmdline.starts_with(&format!("{}\0-regtest\0-datadir=/", binary.path().display())),
            "{cmdline:?}"
        );
        assert_eq!(fs::read_to_string(format!("/proc/{}/comm", old.pid())).unwrap(), "bitcoind\n");

        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = inode(binary.path());
        binary.replace(Variant::Core30).unwrap();
        assert_ne!(inode(binary.path()), before);
        let exe = format!("/proc/{}/exe", old.pid());
        assert!(fs::read_link(exe).unwrap().to_string_lossy().ends_with(" (deleted)"));
        let new = binary.start(&Config::pings(1)).unwrap();
        assert_ne!(new.pid(), old.pid());
    }

    #[test]
    fn a_killed_one_is_started_again_with_the_same_binary() {
        let mut first = StandIn::start(Variant::Core24, &Config::pings(5)).unwrap();
        first.kill().unwrap();
        assert!(first.go().is_err() || first.report(LONG).is_err());
        let mut second = first.binary().start(&Config::pings(7)).unwrap();
        second.go().unwrap();
        assert_eq!(second.report(LONG).unwrap().fired, 7);

        let (pid, datadir) = (first.pid(), first.datadir().to_path_buf());
        first.restart().unwrap();
        assert_ne!(first.pid(), pid);
        let cmdline = fs::read_to_string(format!("/proc/{}/cmdline", first.pid())).unwrap();
        assert!(cmdline.contains(&format!("-datadir={}", datadir.display())), "{cmdline:?}");
        first.go().unwrap();
        assert_eq!(first.report(LONG).unwrap().fired, 5);
    }

    #[test]
    fn a_broken_recording_is_refused_with_its_offset() {
        let mut recording = crate::recorded_hits("regtest-tour").unwrap();
        recording.truncate(recording.len() - 1);
        let err = StandIn::start(Variant::Core30, &Config::new(Source::Recording(recording))).unwrap_err();
        assert!(err.to_string().contains("in the middle of a record"), "{err}");
    }
}
