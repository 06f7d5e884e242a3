//! What a node was told, by its command line and its bitcoin.conf, read as Bitcoin Core reads them (common/settings.cpp,
//! common/config.cpp, common/args.cpp).
//!
//! It matters which of several values counts: on a command line the last, in a file the first, and before both of them that of the
//! section of the node's network.

use std::fmt;

use crate::p2p::Network;

/// Options that count in the section of a network only, unless it is the main one (`ArgsManager::NETWORK_ONLY`).
const NETWORK_ONLY: [&str; 7] = ["addnode", "bind", "connect", "port", "rpcbind", "rpcport", "wallet"];

/// Options of a node. Values can be secrets, so they are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    command_line: Vec<Setting>,
    file: Vec<Setting>,
}

#[derive(Clone, PartialEq, Eq)]
struct Setting {
    /// Of a file: the network's; empty where there is none.
    section: String,
    name: String,
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
            let (name, value) = interpret(name, value);
            settings.command_line.push(Setting { section: String::new(), name, value });
        }
        settings
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
            let (name, value) = interpret(name, value.trim());
            self.file.push(Setting { section: section.to_owned(), name, value });
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

/// Name and value of an option, where `noNAME` negates NAME (`InterpretKey`, `InterpretValue`).
fn interpret(name: &str, value: &str) -> (String, Option<String>) {
    match name.strip_prefix("no") {
        Some(name) if is_on(Some(value)) => (name.to_owned(), None),
        // -noNAME=0 is -NAME=1.
        Some(name) => (name.to_owned(), Some("1".to_owned())),
        None => (name.to_owned(), Some(value.to_owned())),
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
    fn secrets_are_not_printed() {
        let settings = settings("bitcoind\0-rpcpassword=secret", "rpcpassword=secret\n");
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
