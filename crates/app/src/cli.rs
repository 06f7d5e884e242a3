//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use peer_observer_bus::NatsConfig;
use peer_observer_bus::nats::DEFAULT_ADDRESS;
use peer_observer_extractors::ebpf;

use crate::components::{Extractor, ExtractorKind, Sections, Tool};
use crate::log::single_line;
use crate::{config, demo, demo_node, doctor, faults, run};

const EXAMPLES: &str = "\
Examples:
  peer-observer demo               see what there is to see, without a node
  sudo peer-observer run           watch the nodes on this machine
  sudo peer-observer run --quiet   the same, without a line for each event
  peer-observer doctor             what this machine can do, and what is missing

With a NATS server, the parts run apart, on one machine or many:
  sudo peer-observer extract ebpf -a nats.example:4222
  peer-observer metrics -a nats.example:4222 -m 127.0.0.1:8282
  peer-observer logger -a nats.example:4222 --connections --json

Events go to standard output, everything else to standard error.
Exit status: 0 after SIGINT or SIGTERM, 1 after a fatal error, 2 when the
command line cannot be understood.";

/// Watches Bitcoin Core nodes from the inside: every P2P message, connection, mempool change and block, live
#[derive(Debug, Parser)]
#[command(name = "peer-observer", version, after_long_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    /// How much to log: error, warn, info, debug or trace
    #[arg(
        short = 'l',
        long,
        global = true,
        help_heading = "General",
        default_value = "info",
        value_name = "LEVEL",
        value_parser = ["error", "warn", "info", "debug", "trace"],
        hide_possible_values = true,
        ignore_case = true
    )]
    pub(crate) log_level: String,
    /// Configuration file; `peer-observer config print` shows one
    #[arg(short = 'c', long = "config", global = true, help_heading = "General", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one value of the configuration; may be repeated
    #[arg(long, global = true, help_heading = "General", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the nodes on this machine: finds them, follows their restarts, shows what they do
    Run {
        #[command(flatten)]
        run: run::Config,
        #[command(flatten)]
        nats: Box<NatsConfig>,
    },
    /// Show what there is to see, with a recording instead of a node
    Demo(demo::Config),
    /// Run one extractor, publishing to NATS
    #[command(subcommand)]
    Extract(Extractor),
    #[command(flatten)]
    Tool(Tool),
    /// Say what this machine can do, and what is missing
    Doctor,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The node of the demo: fires a recording through probes of its own
    #[command(hide = true)]
    DemoNode(demo_node::Config),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force, as a file
    Print,
    /// Say whether the configuration can be used, and if not, which keys
    Check,
}

/// Reads the command line; ends the program when it cannot be understood, or asks for help.
pub(crate) fn parse() -> (Cli, ArgMatches) {
    let matches = command().try_get_matches().unwrap_or_else(|error| refuse(error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    (cli, matches)
}

/// Prints the help or the error, and ends the program. Errors quote arguments, so the command line is parsed again with its
/// arguments escaped.
fn refuse(error: clap::Error) -> ! {
    let escaped = std::env::args_os().map(|argument| single_line(&argument.to_string_lossy()));
    command().try_get_matches_from(escaped).err().unwrap_or(error).exit()
}

/// The command line, with the flags of NATS where extractors and tools run alone.
fn command() -> clap::Command {
    let mut command = Cli::command();
    for tool in names::<Tool>() {
        command = command.mut_subcommand(tool, with_nats);
    }
    command.mut_subcommand("extract", |mut extract| {
        for extractor in names::<Extractor>() {
            extract = extract.mut_subcommand(extractor, with_nats);
        }
        extract
    })
}

fn names<S: Subcommand>() -> Vec<String> {
    S::augment_subcommands(clap::Command::new("names"))
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect()
}

fn with_nats(command: clap::Command) -> clap::Command {
    let about = command.get_about().cloned();
    // Adding arguments also sets what the command is about.
    let command = <NatsConfig as clap::Args>::augment_args(command);
    command.about(about.unwrap_or_default()).long_about(None)
}

/// Does what the command line asks for.
pub(crate) fn execute(cli: Cli, matches: &ArgMatches) -> Result<()> {
    let mut sections = config::read(cli.config.as_deref(), &cli.set)?;
    let (_, matches) = matches.subcommand().context("no command")?;
    match cli.command {
        Command::Run { run, nats } => {
            sections.run = config::overlay(&sections.run, &run, matches)?;
            sections.nats = config::overlay(&sections.nats, &*nats, matches)?;
            sections.run.clone().apply(&mut sections);
            give_up_rights()?;
            run::block_on(run::everything(sections))
        }
        Command::Demo(demo) => {
            give_up_rights()?;
            run::block_on(demo::run(demo, sections))
        }
        Command::DemoNode(config) => demo_node::run(&config),
        Command::Extract(extractor) => {
            let (_, matches) = matches.subcommand().context("no extractor")?;
            use_nats(&mut sections, matches)?;
            let extractor = extractor.merge(&mut sections, matches)?;
            if extractor == ExtractorKind::Ebpf {
                give_up_rights()?;
            }
            run::block_on(run::extractor(extractor, sections))
        }
        Command::Tool(tool) => {
            use_nats(&mut sections, matches)?;
            let tool = tool.merge(&mut sections, matches)?;
            run::block_on(run::tool(tool, sections))
        }
        Command::Doctor => doctor::run(&sections),
        Command::Config(ConfigCommand::Print) => doctor::print(&config::print(&sections)?),
        Command::Config(ConfigCommand::Check) => {
            faults::check(&sections)?;
            doctor::print("the configuration can be used\n")
        }
    }
}

/// Puts the flags of NATS over the file. What runs alone always has a server.
fn use_nats(sections: &mut Sections, matches: &ArgMatches) -> Result<()> {
    let nats = NatsConfig::from_arg_matches(matches)?;
    sections.nats = config::overlay(&sections.nats, &nats, matches)?;
    sections.nats.nats_address.get_or_insert_with(|| DEFAULT_ADDRESS.into());
    Ok(())
}

/// Keeps only the capabilities that are needed later. Threads inherit them, so this comes before there are any.
fn give_up_rights() -> Result<()> {
    ebpf::drop_capabilities().context("cannot give up rights that are not needed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_says_where_events_go_without_an_address() {
        let said = format!("what runs alone looks for one at {DEFAULT_ADDRESS}");
        for line in ["run --help", "extract rpc --help", "extract ebpf --help", "metrics --help"] {
            let args = std::iter::once("peer-observer").chain(line.split(' '));
            let help = command().term_width(0).try_get_matches_from(args).unwrap_err().to_string();
            assert!(help.contains(&said), "{line}: {help}");
        }
        let file = config::print(&Sections::default()).unwrap();
        assert!(file.contains(&said), "{file}");

        let args = ["peer-observer", "metrics"];
        let matches = command().try_get_matches_from(args).unwrap();
        let mut sections = Sections::default();
        use_nats(&mut sections, matches.subcommand().unwrap().1).unwrap();
        assert_eq!(sections.nats.nats_address.as_deref(), Some(DEFAULT_ADDRESS));
    }

    #[test]
    fn only_flags_that_were_given_go_over_the_file() {
        let args = ["peer-observer", "metrics", "-a", "127.0.0.1:9", "--max-label-values", "5"];
        let matches = command().try_get_matches_from(args).unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        let set = ["metrics.metrics_address=127.0.0.1:7".into(), "metrics.max_label_values=6".into()];
        let mut sections = config::read(None, &set).unwrap();
        let tool = Tool::from_arg_matches(command().try_get_matches_from(args).as_ref().unwrap()).unwrap();
        tool.merge(&mut sections, matches).unwrap();
        assert_eq!(sections.metrics.metrics_address, "127.0.0.1:7");
        assert_eq!(sections.metrics.max_label_values, 5, "a flag goes over --set");
        let nats = NatsConfig::from_arg_matches(matches).unwrap();
        sections.nats = config::overlay(&sections.nats, &nats, matches).unwrap();
        assert_eq!(sections.nats.nats_address.as_deref(), Some("127.0.0.1:9"));
    }

    #[test]
    fn public_flags_are_understood() {
        for line in [
            "extract ebpf -a 1.2.3.4:4222 -u user -p pass -b /bin/true --bitcoind-pid 1 --no-p2pmsg-tracepoints -i",
            "extract ebpf --bitcoind-path /bin/true --bitcoind-pid-file /x --libbpf-debug --no-idle-exit",
            "extract ipc -a 1.2.3.4:4222 -i /node.sock --query-interval 10 --prometheus-address 127.0.0.1:8285",
            "logger --messages --connections --mempool --validation --rpc --p2p-extractor --log-extractor -l DEBUG",
            "metrics -m 127.0.0.1:8282 -f /password -u user",
            "connectivity -a 1.2.3.4:4222 -m 127.0.0.1:18282",
        ] {
            let args = std::iter::once("peer-observer").chain(line.split(' '));
            command().try_get_matches_from(args).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
