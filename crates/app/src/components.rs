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
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use peer_observer_bus::SubscriberStats;
    use peer_observer_events::proto::ebpf_extractor::Ebpf;
    use peer_observer_events::proto::ebpf_extractor::ebpf::EbpfEvent;
    use peer_observer_events::proto::ebpf_extractor::message::message_event::Msg;
    use peer_observer_events::proto::ebpf_extractor::message::{MessageEvent, Metadata, Unknown};
    use peer_observer_events::proto::observer::Loss;
    use peer_observer_events::{PeerObserverEvent, Subject};
    use peer_observer_testkit::nats::{self, NatsServer};
    use peer_observer_testkit::standin::{Binary, Variant};
    use peer_observer_testkit::{LONG, STOP, need, require};
    use tokio::task::JoinHandle;

    use super::*;

    /// Settings with which every component can run on a machine that runs other tests, too.
    fn sections() -> Sections {
        let recording = format!("{}/../../data/regtest-tour/tracepoints.bin.zst", env!("CARGO_MANIFEST_DIR"));
        let set = [
            "metrics.metrics_address=127.0.0.1:0".to_owned(),
            "web.web_address=127.0.0.1:0".to_owned(),
            "connectivity.connect=true".to_owned(),
            "connectivity.metrics_address=127.0.0.1:0".to_owned(),
            format!("capture.recording=[\"{recording}\"]"),
            // It takes longer than any test.
            "capture.speed=0.01".to_owned(),
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

    /// The same, for this node alone, which does not run: to leave the nodes of other tests takes as long as there are many.
    fn sections_for(node: &Binary) -> Sections {
        let mut sections = sections();
        sections.ebpf.bitcoind_path = vec![node.path().to_path_buf()];
        sections
    }

    fn buses(sections: &Sections) -> [Bus; 2] {
        [Bus::in_process(), Bus::nats(sections.nats.clone()).unwrap()]
    }

    /// The extractors that can run here.
    fn extractors() -> impl Iterator<Item = ExtractorKind> {
        ExtractorKind::ALL.iter().copied().filter(|extractor| match extractor {
            ExtractorKind::Ebpf if !extractors::ebpf::may_run() => {
                eprintln!("skipped: the ebpf extractor needs root");
                false
            }
            ExtractorKind::Ipc if !extractors::ipc::IS_BUILT => {
                eprintln!("skipped: the ipc extractor needs --features ipc");
                false
            }
            _ => true,
        })
    }

    /// A component that runs.
    struct Running {
        name: &'static str,
        task: JoinHandle<Result<()>>,
    }

    impl Running {
        fn extractor(kind: ExtractorKind, bus: &Bus, sections: &Sections, stop: &CancellationToken) -> Self {
            let (publisher, sections, stop) = (kind.publisher(bus), sections.clone(), stop.clone());
            let run = async move { kind.run(&sections, publisher, stop).await };
            Running { name: kind.name(), task: tokio::spawn(run) }
        }

        fn tool(
            kind: ToolKind,
            subscriber: Subscriber,
            sections: &Sections,
            stop: &CancellationToken,
        ) -> Self {
            let (sections, stop) = (sections.clone(), stop.clone());
            let run = async move { kind.run(&sections, subscriber, stop).await };
            Running { name: kind.name(), task: tokio::spawn(run) }
        }

        /// Gives it a moment: one that cannot work says so at once.
        async fn goes_on(&mut self) {
            let ended = tokio::time::timeout(Duration::from_millis(300), &mut self.task).await;
            assert!(ended.is_err(), "{} ended by itself: {ended:?}", self.name);
        }

        async fn ends(self) {
            // The kernel checks its programs before they run, and nothing can interrupt that.
            let limit = if self.name == ExtractorKind::Ebpf.name() { LONG } else { STOP };
            let ended = tokio::time::timeout(limit, self.task).await;
            let ended = ended.unwrap_or_else(|_| panic!("{} does not end", self.name));
            ended.unwrap().unwrap_or_else(|error| panic!("{} failed: {error:#}", self.name));
        }
    }

    /// A message that counts as so large in queues.
    fn message(size: u64) -> PeerObserverEvent {
        let meta = Metadata {
            peer_id: 1,
            addr: "1.2.3.4:8333".into(),
            conn_type: 1,
            command: "odd".into(),
            inbound: true,
            size,
        };
        let msg = Some(Msg::Unknown(Unknown::default()));
        let message = MessageEvent { meta, msg, decode_error: None, captured: None };
        PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) })
    }

    fn loss_of(delivery: &peer_observer_bus::Delivery, component: &str) -> Option<Loss> {
        match &delivery.event.peer_observer_event {
            Some(PeerObserverEvent::Loss(loss)) if loss.component == component => Some(loss.clone()),
            _ => None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_tool_starts_and_stops_also_without_a_server() {
        let sections = sections();
        for tool in ToolKind::ALL {
            for bus in buses(&sections) {
                let stop = CancellationToken::new();
                let start = || Running::tool(*tool, tool.subscriber(&bus, &sections), &sections, &stop);
                let (mut told, mut seen) = (start(), start());
                told.goes_on().await;
                seen.goes_on().await;
                bus.close(Duration::ZERO).await;
                seen.ends().await;
                stop.cancel();
                told.ends().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_extractor_starts_and_stops_also_without_a_server() {
        let node = Binary::install(Variant::Core30).unwrap();
        let sections = sections_for(&node);
        for extractor in extractors() {
            for bus in buses(&sections) {
                let stop = CancellationToken::new();
                let mut running = Running::extractor(extractor, &bus, &sections, &stop);
                running.goes_on().await;
                stop.cancel();
                running.ends().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_component_outlives_its_server_and_tools_hear_again() {
        require!(need::nats_server());
        let mut server = NatsServer::start().unwrap();
        let node = Binary::install(Variant::Core30).unwrap();
        let mut sections = sections_for(&node);
        sections.nats.nats_address = Some(server.url());
        let bus = Bus::nats(sections.nats.clone()).unwrap();
        // What extractors find on this machine, and what was recorded, is not for tools: one of them dials what it hears of.
        let prefix = Some("extractors".to_owned());
        let apart = Bus::nats(NatsConfig { subject_prefix: prefix, ..sections.nats.clone() }).unwrap();
        let stop = CancellationToken::new();
        let mut running: Vec<Running> =
            extractors().map(|kind| Running::extractor(kind, &apart, &sections, &stop)).collect();
        let mut tools = Vec::new();
        for tool in ToolKind::ALL {
            let subscriber = tool.subscriber(&bus, &sections);
            tools.push((tool.name(), subscriber.stats()));
            running.push(Running::tool(*tool, subscriber, &sections, &stop));
        }
        let mut publisher = ExtractorKind::Ebpf.publisher(&bus);
        all_hear(&mut publisher, &tools).await;
        server.kill().unwrap();
        server.restart().unwrap();
        all_hear(&mut publisher, &tools).await;
        for Running { name, task } in &running {
            assert!(!task.is_finished(), "{name} ended with its server");
        }
        stop.cancel();
        for component in running {
            component.ends().await;
        }
    }

    /// Publishes until every tool has heard something of it.
    async fn all_hear(publisher: &mut Publisher, tools: &[(&str, Arc<SubscriberStats>)]) {
        let received = |stats: &SubscriberStats| stats.received.load(Ordering::Relaxed);
        let before: Vec<u64> = tools.iter().map(|(_, stats)| received(stats)).collect();
        let deaf = || {
            let now = tools.iter().zip(&before).filter(|((_, stats), before)| received(stats) == **before);
            now.map(|((name, _), _)| *name).collect::<Vec<_>>()
        };
        let deadline = tokio::time::Instant::now() + LONG;
        while !deaf().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "{:?} hear nothing", deaf());
            publisher.publish(&"alice".into(), 1, message(8));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn what_a_tool_does_not_take_is_told_as_lost_by_it() {
        let sections = sections();
        for tool in ToolKind::ALL {
            let bus = Bus::in_process();
            let mut losses = bus.subscriber("test", &[Subject::Loss], Limits::default());
            let subscriber = tool.subscriber(&bus, &sections);
            let stats = subscriber.stats();
            let mut publisher = ExtractorKind::Ebpf.publisher(&bus);
            let (node, large) = ("alice".into(), message(4_000_000));
            for _ in 0..1_000 {
                publisher.publish(&node, 1, large.clone());
            }
            let lost = stats.lost_queue.load(Ordering::Relaxed);
            assert!(lost > 0, "{} keeps everything", tool.name());
            bus.close(Duration::ZERO).await;
            let mut told = Vec::new();
            while losses.recv_many(&mut told, 100).await > 0 {}
            let told: u64 = told.iter().filter_map(|d| loss_of(d, tool.name())).map(|loss| loss.count).sum();
            assert_eq!(told, lost, "{}", tool.name());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_extractor_cannot_send_is_told_as_lost_by_it() {
        require!(need::nats_server());
        let server = NatsServer::start_with(nats::Config { max_payload: 4_096, ..Default::default() });
        let server = server.unwrap();
        let mut sections = sections();
        sections.nats.nats_address = Some(server.url());
        let bus = Bus::nats(sections.nats.clone()).unwrap();
        let mut losses = bus.subscriber("test", &[Subject::Loss], Limits::default());
        let mut too_large = message(8);
        if let PeerObserverEvent::EbpfExtractor(Ebpf { ebpf_event: Some(EbpfEvent::Message(message)) }) =
            &mut too_large
        {
            message.meta.command = "x".repeat(10_000);
        }
        for extractor in ExtractorKind::ALL {
            let mut publisher = extractor.publisher(&bus);
            let deadline = tokio::time::Instant::now() + LONG;
            let mut told = Vec::new();
            while !told.iter().any(|delivery| loss_of(delivery, extractor.name()).is_some()) {
                assert!(tokio::time::Instant::now() < deadline, "{} tells no loss", extractor.name());
                // Again and again: the subscription is not there at once.
                publisher.publish(&"alice".into(), 1, too_large.clone());
                let some = losses.recv_many(&mut told, 100);
                let _ = tokio::time::timeout(Duration::from_millis(100), some).await;
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
