//! The one list of extractors and tools. A line here gives a component its subcommand, its section in the configuration file, its
//! part in `config check` and in `doctor`, and the contract test. Its place in `run`, where it has one, is in run.rs.

use anyhow::Result;
use clap::{ArgMatches, Subcommand};
use peer_observer_bus::{Bus, Finding, Limits, NatsConfig, Publisher, Subscriber};
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors as extractors;
use peer_observer_tools as tools;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::faults::{self, Fault};

macro_rules! components {
    (
        extractors { $($(#[doc = $edoc:literal])* $extractor:ident: $Extractor:ident,)* }
        tools { $($(#[doc = $tdoc:literal])* $tool:ident: $Tool:ident,)* }
    ) => {
        /// The configuration file: a section for each component.
        #[derive(Debug, Clone, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Sections {
            pub(crate) run: crate::run::Config,
            pub(crate) nats: NatsConfig,
            $(pub(crate) $extractor: extractors::$extractor::Config,)*
            $(pub(crate) $tool: tools::$tool::Config,)*
        }

        impl Sections {
            /// The flags of every section: what its keys mean.
            pub(crate) fn flags() -> Vec<(&'static str, clap::Command)> {
                fn flags<A: clap::Args>() -> clap::Command {
                    A::augment_args(clap::Command::new("section"))
                }
                vec![
                    ("run", flags::<crate::run::Config>()),
                    ("nats", flags::<NatsConfig>()),
                    $((stringify!($extractor), flags::<extractors::$extractor::Config>()),)*
                    $((stringify!($tool), flags::<tools::$tool::Config>()),)*
                ]
            }
        }

        /// An extractor on its own.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Extractor {
            $(
                $(#[doc = $edoc])*
                $Extractor(extractors::$extractor::Config),
            )*
        }

        impl Extractor {
            /// Puts the flags over the section of the configuration file.
            pub(crate) fn merge(self, sections: &mut Sections, matches: &ArgMatches) -> Result<ExtractorKind> {
                Ok(match self {
                    $(Extractor::$Extractor(flags) => {
                        sections.$extractor = config::overlay(&sections.$extractor, &flags, matches)?;
                        ExtractorKind::$Extractor
                    })*
                })
            }
        }

        /// A tool on its own.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Tool {
            $(
                $(#[doc = $tdoc])*
                $Tool(tools::$tool::Config),
            )*
        }

        impl Tool {
            /// Puts the flags over the section of the configuration file.
            pub(crate) fn merge(self, sections: &mut Sections, matches: &ArgMatches) -> Result<ToolKind> {
                Ok(match self {
                    $(Tool::$Tool(flags) => {
                        sections.$tool = config::overlay(&sections.$tool, &flags, matches)?;
                        ToolKind::$Tool
                    })*
                })
            }
        }

        /// Which extractor.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ExtractorKind {
            $($Extractor,)*
        }

        impl ExtractorKind {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[ExtractorKind] = &[$(ExtractorKind::$Extractor,)*];

            /// Its name, as in the command line and the configuration file.
            pub(crate) fn name(self) -> &'static str {
                match self { $(ExtractorKind::$Extractor => stringify!($extractor),)* }
            }

            /// A publisher for it.
            pub(crate) fn publisher(self, bus: &Bus) -> Publisher {
                match self {
                    $(ExtractorKind::$Extractor => bus.publisher(Source::$Extractor, stringify!($extractor)),)*
                }
            }

            /// Runs it until `stop`.
            pub(crate) async fn run(self, sections: &Sections, publisher: Publisher, stop: CancellationToken) -> Result<()> {
                match self {
                    $(ExtractorKind::$Extractor => {
                        extractors::$extractor::run(sections.$extractor.clone(), publisher, stop).await?;
                    })*
                }
                Ok(())
            }
        }

        /// Which tool.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ToolKind {
            $($Tool,)*
        }

        impl ToolKind {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[ToolKind] = &[$(ToolKind::$Tool,)*];

            /// Its name, as in the command line and the configuration file.
            pub(crate) fn name(self) -> &'static str {
                match self { $(ToolKind::$Tool => stringify!($tool),)* }
            }

            /// A subscriber for it, from now on.
            pub(crate) fn subscriber(self, bus: &Bus, sections: &Sections) -> Subscriber {
                match self {
                    $(ToolKind::$Tool => {
                        let subjects = tools::$tool::subjects(&sections.$tool);
                        bus.subscriber(stringify!($tool), &subjects, Limits::default())
                    })*
                }
            }

            /// Runs it until `stop` or the end of the bus.
            pub(crate) async fn run(self, sections: &Sections, subscriber: Subscriber, stop: CancellationToken) -> Result<()> {
                match self {
                    $(ToolKind::$Tool => tools::$tool::run(sections.$tool.clone(), subscriber, stop).await?,)*
                }
                Ok(())
            }
        }

        /// What `run`, and components on their own, refuse of their sections.
        pub(crate) fn refused(sections: &Sections) -> Vec<Fault> {
            let mut all = faults::of("nats", &sections.nats, |nats| Bus::nats(nats.clone()).map(|_| ()));
            $(all.extend(faults::of(stringify!($extractor), &sections.$extractor, |section| section.validate()));)*
            $(all.extend(faults::of(stringify!($tool), &sections.$tool, |section| section.validate()));)*
            all
        }

        /// What `doctor` says of every component.
        pub(crate) fn check_all(sections: &Sections) -> Vec<(&'static str, Vec<Finding>)> {
            vec![
                $((stringify!($extractor), extractors::$extractor::check(&sections.$extractor)),)*
                $((stringify!($tool), tools::$tool::check(&sections.$tool)),)*
            ]
        }
    };
}

components! {
    extractors {
        /// Watch nodes on this machine through their tracepoints
        ebpf: Ebpf,
        /// Ask a node's RPC interface at intervals: peers, mempool, address manager, chain
        rpc: Rpc,
        /// Read a node's debug.log: every line, and what it means
        log: Log,
        /// Tell when the tip of a node's chain changes, over IPC (bitcoin-node -ipcbind=unix)
        ipc: Ipc,
        /// Listen to nodes that dial us as a peer of theirs: ping times, what they relay, when blocks become visible
        p2p: P2p,
        /// Play what was recorded: -capturemessages files, recordings of tracepoint hits
        capture: Capture,
    }
    tools {
        /// Print events, a line each
        logger: Logger,
        /// Count events for Prometheus
        metrics: Metrics,
        /// Show a live page: peers, messages, transactions, blocks
        web: Web,
        /// Dial the addresses that peers gossip, and say how many are real; off without --connect
        connectivity: Connectivity,
    }
}

/// What every component has to do, whatever else it does.
#[cfg(test)]
mod contract {
    use std::time::Duration;

    use super::*;
    use crate::run::Parts;

    /// In this time everything ends, however it is stopped.
    const END: Duration = Duration::from_secs(2);

    /// Settings with which every component can run on a machine that runs other tests, too.
    fn sections() -> Sections {
        let recording = format!("{}/../../data/regtest-tour/tracepoints.bin.zst", env!("CARGO_MANIFEST_DIR"));
        let set = [
            "metrics.metrics_address=127.0.0.1:0".to_owned(),
            "web.web_address=127.0.0.1:0".to_owned(),
            "connectivity.connect=true".to_owned(),
            "connectivity.metrics_address=127.0.0.1:0".to_owned(),
            format!("capture.recording=[\"{recording}\"]"),
            "capture.speed=1.0".to_owned(),
            "log.log_file=/nonexistent/debug.log".to_owned(),
            // Not even root can write there.
            "log.log_state=/proc/nonexistent/log.json".to_owned(),
            "ipc.ipc_socket_path=/nonexistent/node.sock".to_owned(),
            "ipc.prometheus_address=127.0.0.1:0".to_owned(),
            "p2p.p2p_address=[\"127.0.0.1:0\"]".to_owned(),
            "rpc.rpc_host=127.0.0.1:1".to_owned(),
            "rpc.rpc_cookie_file=/nonexistent/.cookie".to_owned(),
            "rpc.prometheus_address=127.0.0.1:0".to_owned(),
            // Nothing listens there.
            "nats.nats_address=127.0.0.1:1".to_owned(),
        ];
        config::read(None, &set).unwrap()
    }

    fn buses(sections: &Sections) -> [Bus; 2] {
        [Bus::in_process(), Bus::nats(sections.nats.clone()).unwrap()]
    }

    /// Runs a component for a moment and stops it; fails when it ends before, or does not end in time.
    async fn starts_and_stops(name: &str, bus: &Bus, parts: Parts) {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stopper.cancel();
        });
        let begin = std::time::Instant::now();
        parts.until_end(bus, stop).await.unwrap_or_else(|e| panic!("{name} failed: {e:#}"));
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(300), "{name} ended by itself after {took:?}");
        assert!(took <= END + Duration::from_millis(300), "{name} took {took:?} to end");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_tool_starts_and_stops_also_without_a_server() {
        let sections = sections();
        for tool in ToolKind::ALL {
            for bus in buses(&sections) {
                let parts = Parts::start_tools(&bus, &sections, &[*tool]);
                starts_and_stops(tool.name(), &bus, parts).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_extractor_starts_and_stops_also_without_a_server() {
        let sections = sections();
        for extractor in ExtractorKind::ALL {
            if *extractor == ExtractorKind::Ebpf && !extractors::ebpf::may_run() {
                eprintln!("skipped: the ebpf extractor needs root");
                continue;
            }
            if *extractor == ExtractorKind::Ipc && !extractors::ipc::IS_BUILT {
                eprintln!("skipped: the ipc extractor needs --features ipc");
                continue;
            }
            for bus in buses(&sections) {
                let mut parts = Parts::start_tools(&bus, &sections, &[]);
                parts.start_extractor(*extractor, &bus, &sections);
                starts_and_stops(extractor.name(), &bus, parts).await;
            }
        }
    }

    #[test]
    fn the_guide_to_a_new_component_names_all_that_the_list_asks_of_one() {
        let (list, guide) = (include_str!("components.rs"), include_str!("../../../CONTRIBUTING.md"));
        for asked in
            [concat!("tools::$", "tool::"), concat!("extractors::$", "extractor::"), "|section| section."]
        {
            let names: Vec<&str> = list
                .split(asked)
                .skip(1)
                .filter_map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next())
                .collect();
            assert!(!names.is_empty(), "{asked} is nowhere");
            for name in names.into_iter().filter(|name| !name.is_empty()) {
                let described = [
                    format!("pub struct {name} "),
                    format!("pub fn {name}("),
                    format!("pub async fn {name}("),
                ];
                assert!(
                    described.iter().any(|text| guide.contains(text)),
                    "CONTRIBUTING.md has no {asked}{name}"
                );
            }
        }
    }

    #[test]
    fn every_component_refuses_settings_it_does_not_know() {
        let names = ExtractorKind::ALL.iter().map(|e| e.name()).chain(ToolKind::ALL.iter().map(|t| t.name()));
        for name in names {
            let error = config::read(None, &[format!("{name}.no_such_key=1")]).unwrap_err();
            assert!(format!("{error:#}").contains("no_such_key"), "{name}: {error:#}");
        }
    }
}
