//! What a node was told, by its command line and its bitcoin.conf, read as Bitcoin Core reads them (common/settings.cpp,
//! common/config.cpp, common/args.cpp).
//!
//! It matters which of several values counts: on a command line the last, in a file the first, and before both of them that of the
//! section of the node's network.

use std::fmt;

use crate::access::MAX_PATH;
use crate::p2p::Network;

/// Options that count in the section of a network only, unless it is the main one (`ArgsManager::NETWORK_ONLY`).
const NETWORK_ONLY: [&str; 7] = ["addnode", "bind", "connect", "port", "rpcbind", "rpcport", "wallet"];

/// Options that anything here asks for. Whoever starts a process chooses how many others there are, so those are not kept.
const USED: [&str; 20] = [
    "addnode",
    "chain",
    "conf",
    "connect",
    "datadir",
    "debug",
    "debuglogfile",
    "includeconf",
    "ipcbind",
    "regtest",
    "rpcallowip",
    "rpcbind",
    "rpccookiefile",
    "rpcpassword",
    "rpcport",
    "rpcuser",
    "server",
    "signet",
    "testnet",
    "testnet4",
];
/// Values of these options that are kept of a command line, and of all files together.
const MAX_VALUES: usize = 1000;

/// Settings that are not those of a node that anybody runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// A value is longer than any path.
    #[error("its -{0} is longer than {MAX_PATH} bytes")]
    Value(&'static str),
    /// There are too many values.
    #[error("it has more than {MAX_VALUES} settings")]
    Count,
    /// Its command line or its files are too long to be read.
    #[error("its {0} is longer than {1} bytes")]
    Length(&'static str, u64),
}

/// Options of a node. Values can be secrets, so they are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    command_line: Vec<Setting>,
    file: Vec<Setting>,
    excess: Option<Excess>,
}

#[derive(Clone, PartialEq, Eq)]
struct Setting {
    /// Of a file: the network's; empty where there is none.
    section: &'static str,
    name: &'static str,
    /// Nothing when it is negated: `-noNAME`, `noNAME=1`.
    value: Option<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({} on the command line, {} in files)", self.command_line.len(), self.file.len())
    }
}

impl Settings {
    /// Those of a command line as /proc/PID/cmdline has it: words that end with NUL, the program first.
    pub fn of_command_line(cmdline: &[u8]) -> Self {
        let mut settings = Settings::default();
        for word in cmdline.split(|b| *b == 0).skip(1) {
            let word = String::from_utf8_lossy(word);
            let Some(option) = word.strip_prefix('-') else { continue };
            let option = option.strip_prefix('-').unwrap_or(option);
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if let Some(setting) = settings.used("", name, value) {
                settings.command_line.push(setting);
            }
        }
        settings
    }

    /// Why these settings cannot be those of a node, if they cannot: some are missing here.
    pub fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// Notes that some settings could not be read.
    pub fn exceed(&mut self, excess: Excess) {
        self.excess.get_or_insert(excess);
    }

    /// A setting that is worth keeping. Notes what does not fit.
    fn used(&mut self, section: &str, name: &str, value: &str) -> Option<Setting> {
        let networks = Network::ALL.map(section_of);
        let section = [""].into_iter().chain(networks).find(|known| *known == section)?;
        let (name, is_negated) = interpret(name, value);
        let name = USED.into_iter().find(|used| *used == name)?;
        let value = match is_negated {
            Negation::None => Some(value),
            Negation::Off => None,
            // -noNAME=0 is -NAME=1.
            Negation::On => Some("1"),
        };
        if value.is_some_and(|value| value.len() > MAX_PATH) {
            self.exceed(Excess::Value(name));
            return None;
        }
        if self.command_line.len().max(self.file.len()) >= MAX_VALUES {
            self.exceed(Excess::Count);
            return None;
        }
        Some(Setting { section, name, value: value.map(str::to_owned) })
    }

    /// Adds those of a file. What was added before counts first.
    pub fn add_file(&mut self, text: &str) {
        let mut section = "";
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("").trim();
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name;
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim();
            // Within a section the name is all of it, else it can have its section in front: regtest.rpcport=1.
            let (section, name) = match name.split_once('.') {
                Some((own, name)) if section.is_empty() => (own, name),
                _ => (section, name),
            };
            if let Some(setting) = self.used(section, name, value.trim()) {
                self.file.push(setting);
            }
        }
    }

    /// The value of an option that has one; nothing when it is not set, or negated.
    pub fn get(&self, name: &str, network: Network) -> Option<&str> {
        self.decide(name, network).flatten()
    }

    /// The option is negated: `-noNAME`.
    pub fn is_negated(&self, name: &str, network: Network) -> bool {
        self.decide(name, network) == Some(None)
    }

    /// Whether a switch is on; nothing when it is not set.
    pub fn switch(&self, name: &str, network: Network) -> Option<bool> {
        self.decide(name, network).map(is_on)
    }

    /// All values of an option that can be given several times, those that count most first.
    pub fn all(&self, name: &str, network: Network) -> Vec<&str> {
        let mut all = Vec::new();
        for (values, _) in self.sources(name, network) {
            let begin = after_negation(&values);
            all.extend(values[begin..].iter().flatten());
            // What is negated hides what counts less.
            if begin > 0 {
                break;
            }
        }
        all
    }

    /// The data directory that was asked for, if one was. It does not depend on a network.
    pub fn datadir(&self) -> Option<&str> {
        let in_file = self.file.iter().find(|s| s.section.is_empty() && s.name == "datadir");
        let on_line = self.command_line.iter().rev().find(|s| s.name == "datadir");
        on_line.or(in_file)?.value.as_deref()
    }

    /// The configuration file that was asked for on the command line.
    pub fn conf(&self) -> Option<&str> {
        self.command_line.iter().rev().find(|s| s.name == "conf")?.value.as_deref()
    }

    /// The network that was chosen: on the command line, or in a file in front of its sections.
    pub fn network(&self) -> Option<Network> {
        let in_file: Vec<&Setting> = self.file.iter().filter(|s| s.section.is_empty()).collect();
        let on_line: Vec<&Setting> = self.command_line.iter().collect();
        [on_line, in_file].iter().find_map(|settings| chosen_network(settings))
    }

    fn decide(&self, name: &str, network: Network) -> Option<Option<&str>> {
        for (values, last_counts) in self.sources(name, network) {
            let left = &values[after_negation(&values)..];
            match (left, last_counts) {
                ([], _) if values.is_empty() => {}
                ([], _) => return Some(None),
                ([.., last], true) => return Some(*last),
                ([first, ..], false) => return Some(*first),
            }
        }
        None
    }

    /// Values of an option by where they come from, what counts most first, and whether the last of them counts.
    fn sources(&self, name: &str, network: Network) -> [(Vec<Option<&str>>, bool); 3] {
        let in_section = |section: &str| {
            let of_section = self.file.iter().filter(|s| s.section == section && s.name == name);
            of_section.map(|s| s.value.as_deref()).collect::<Vec<_>>()
        };
        let on_line = self.command_line.iter().filter(|s| s.name == name);
        let anywhere = match network != Network::Mainnet && NETWORK_ONLY.contains(&name) {
            true => Vec::new(),
            false => in_section(""),
        };
        [
            (on_line.map(|s| s.value.as_deref()).collect(), true),
            (in_section(section_of(network)), false),
            (anywhere, false),
        ]
    }
}

/// Where values begin that are not taken back by a negation behind them.
fn after_negation(values: &[Option<&str>]) -> usize {
    values.iter().rposition(Option::is_none).map_or(0, |i| i + 1)
}

/// Whether an option was negated.
enum Negation {
    None,
    /// `-noNAME`
    Off,
    /// `-noNAME=0`
    On,
}

/// Name of an option, where `noNAME` negates NAME (`InterpretKey`, `InterpretValue`).
fn interpret<'a>(name: &'a str, value: &str) -> (&'a str, Negation) {
    match name.strip_prefix("no") {
        Some(name) if is_on(Some(value)) => (name, Negation::Off),
        Some(name) => (name, Negation::On),
        None => (name, Negation::None),
    }
}

/// A switch without a value is on, else it is a number that is not 0 (`InterpretBool`).
fn is_on(value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    let digits: String =
        value.trim_start_matches(['-', '+']).chars().take_while(char::is_ascii_digit).collect();
    value.is_empty() || digits.bytes().any(|digit| digit != b'0')
}

fn chosen_network(settings: &[&Setting]) -> Option<Network> {
    let last = |name: &str| settings.iter().rev().find(|s| s.name == name);
    if let Some(chain) = last("chain").and_then(|s| s.value.as_deref()) {
        return Network::ALL.into_iter().find(|network| section_of(*network) == chain);
    }
    [
        ("regtest", Network::Regtest),
        ("signet", Network::Signet),
        ("testnet4", Network::Testnet4),
        ("testnet", Network::Testnet3),
    ]
    .into_iter()
    .find(|(name, _)| last(name).is_some_and(|s| is_on(s.value.as_deref())))
    .map(|(_, network)| network)
}

/// The section of a network in bitcoin.conf, and its name for `-chain` (util/chaintype.cpp).
pub const fn section_of(network: Network) -> &'static str {
    match network {
        Network::Mainnet => "main",
        Network::Testnet3 => "test",
        Network::Testnet4 => "testnet4",
        Network::Signet => "signet",
        Network::Regtest => "regtest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cmdline: &str, file: &str) -> Settings {
        let mut settings = Settings::of_command_line(cmdline.as_bytes());
        settings.add_file(file);
        settings
    }

    #[test]
    fn the_network_comes_from_the_command_line_or_the_file_before_its_sections() {
        let network = |cmdline: &str| settings(cmdline, "").network();
        assert_eq!(network("bitcoind\0-regtest"), Some(Network::Regtest));
        assert_eq!(network("bitcoind\0--signet=1"), Some(Network::Signet));
        assert_eq!(network("bitcoind\0-chain=testnet4"), Some(Network::Testnet4));
        assert_eq!(network("bitcoind\0-testnet=0"), None);
        assert_eq!(network("bitcoind\0-noregtest"), None);
        assert_eq!(network("bitcoind\0-noregtest=0"), Some(Network::Regtest));
        assert_eq!(network("bitcoind"), None);
        let file = "# chain=test\nsignet = 1 # yes\n[regtest]\nchain=regtest\n";
        assert_eq!(settings("bitcoind", file).network(), Some(Network::Signet));
        assert_eq!(settings("bitcoind\0-regtest", file).network(), Some(Network::Regtest));
    }

    #[test]
    fn values_count_in_the_order_of_bitcoin_core() {
        let file = "rpcport=1\nrpcuser=first\nrpcuser=second\nregtest.rpcport=2\n[regtest]\nrpcport=3\nrpcuser=mine\n";
        let cases = [
            ("bitcoind", "rpcport", Network::Mainnet, Some("1")),
            ("bitcoind", "rpcport", Network::Regtest, Some("2")),
            ("bitcoind", "rpcport", Network::Signet, None),
            ("bitcoind\0-rpcport=4\0-rpcport=5", "rpcport", Network::Regtest, Some("5")),
            ("bitcoind", "rpcuser", Network::Signet, Some("first")),
            ("bitcoind", "rpcuser", Network::Regtest, Some("mine")),
            ("bitcoind\0-norpcuser", "rpcuser", Network::Regtest, None),
            ("bitcoind\0-norpcuser\0-rpcuser=x", "rpcuser", Network::Regtest, Some("x")),
        ];
        for (cmdline, name, network, expected) in cases {
            assert_eq!(settings(cmdline, file).get(name, network), expected, "{cmdline} {name} {network}");
        }
    }

    #[test]
    fn lists_are_collected_until_they_are_negated() {
        let all = |cmdline: &str, file: &str| -> Vec<String> {
            let settings = settings(cmdline, file);
            settings.all("debug", Network::Regtest).into_iter().map(Into::into).collect()
        };
        let file = "debug=net\n[regtest]\ndebug=validation\n";
        assert_eq!(all("bitcoind\0-debug=mempool", file), ["mempool", "validation", "net"]);
        assert_eq!(all("bitcoind\0-debug=mempool\0-nodebug\0-debug=addrman", file), ["addrman"]);
        assert_eq!(all("bitcoind", "debug=net\n[regtest]\nnodebug=1\n"), [""; 0]);
    }

    #[test]
    fn switches_are_read_as_numbers() {
        let cases = [
            ("-server", Some(true)),
            ("-server=0", Some(false)),
            ("-server=01", Some(true)),
            ("-server=yes", Some(false)),
            ("-noserver", Some(false)),
            ("-x", None),
        ];
        for (word, expected) in cases {
            let settings = settings(&format!("bitcoind\0{word}"), "");
            assert_eq!(settings.switch("server", Network::Mainnet), expected, "{word}");
        }
        assert!(settings("bitcoind\0-nodebuglogfile", "").is_negated("debuglogfile", Network::Mainnet));
        assert!(!settings("bitcoind", "").is_negated("debuglogfile", Network::Mainnet));
    }

    #[test]
    fn only_used_settings_are_kept() {
        let file = "=\n".repeat(100_000) + &"x=1\nnettype.rpcport=1\n[other]\nrpcport=5\n".repeat(1000);
        let settings = settings("bitcoind\0-x\0-y=1\0-rpcport=3", &file);
        assert_eq!((settings.command_line.len(), settings.file.len()), (1, 0));
        assert_eq!((settings.excess(), settings.get("rpcport", Network::Mainnet)), (None, Some("3")));
    }

    #[test]
    fn excessive_settings_are_named_and_bounded() {
        let many = settings("", &"debug=net\n".repeat(100_000));
        assert_eq!((many.file.len(), many.excess()), (MAX_VALUES, Some(Excess::Count)));
        let many = settings(&"bitcoind\0-debug=net\0".repeat(10_000), "");
        assert_eq!((many.command_line.len(), many.excess()), (MAX_VALUES, Some(Excess::Count)));
        let path = "x".repeat(MAX_PATH + 1);
        let long = settings(&format!("bitcoind\0-datadir={path}"), "");
        assert_eq!((long.datadir(), long.excess()), (None, Some(Excess::Value("datadir"))));
        assert!(long.excess().unwrap().to_string().contains("-datadir is longer than 4096"));
        let long = settings("", &format!("rpccookiefile={}", &path[1..]));
        assert_eq!(long.excess(), None, "the longest path");
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = settings("bitcoind\0-rpcpassword=secret", "rpcpassword=secret\n");
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
