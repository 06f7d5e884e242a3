//! The one list of extractors and tools. A line here gives a component its subcommand, its section in the configuration file, its
//! place in `run` where it has one, and its part in `doctor`.

use anyhow::Result;
use clap::{ArgMatches, Subcommand};
use peer_observer_bus::{Bus, Finding, Limits, NatsConfig, Publisher, Subscriber};
use peer_observer_events::proto::observer::Source;
use peer_observer_extractors as extractors;
use peer_observer_tools as tools;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config;

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
        /// Play what was recorded: -capturemessages files, recordings of tracepoint hits
        capture: Capture,
    }
    tools {
        /// Print events, a line each
        logger: Logger,
        /// Count events for Prometheus
        metrics: Metrics,
    }
}
