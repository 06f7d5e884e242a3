//! What a hit costs the node, beside a program that does nothing: the floor of what any tracing costs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use peer_observer_extractors::ebpf::kernel::{Kernel, LoadOptions, MAX_PAYLOAD};
use peer_observer_node::hit::Tracepoint;
use peer_observer_testkit::standin::{Config, Source, StandIn, Synthetic, SyntheticMessage, Variant};

use crate::measure::{median, smallest};
use crate::report::Report;
use crate::rig::{Rig, Way};

const ROUNDS: usize = 15;
/// Hits of a round, flat out: fewer than the ring holds, so that none is dropped, which would be cheaper.
const HITS: u64 = 10_000;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for size in [40, 100, 1000] {
        let costs = compare(size)?;
        let what = format!("node: cost of a hit of {size} B, flat out");
        let beside = format!(
            "empty program = 1.00; {:.0} ns against {:.0}, the smallest of {ROUNDS} rounds each (medians: {:.0}, {:.0}; {:.0} while nobody reads the ring); {} lost",
            costs.smallest_ours,
            costs.smallest_empty,
            costs.ours,
            costs.empty,
            costs.smallest_unread,
            costs.lost
        );
        // What else the machine does only adds to a round.
        add(report, &what, size, costs.smallest_ours / costs.smallest_empty, beside);
    }
    Ok(())
}

fn add(report: &mut Report, what: &str, size: usize, ratio: f64, beside: String) {
    if size == 100 {
        report.add_at_most(what, ratio, "x", 2.2, beside);
    } else {
        report.add(what, format!("{ratio:.2} x"), beside);
    }
}

/// CPU time of the firing thread for a hit, ns.
struct Costs {
    ours: f64,
    smallest_ours: f64,
    /// Ours, with the ring read between the rounds instead of meanwhile by another CPU.
    smallest_unread: f64,
    empty: f64,
    smallest_empty: f64,
    lost: u64,
}

fn compare(size: usize) -> Result<Costs> {
    let message = Synthetic { message: SyntheticMessage::Ping, count: HITS, size, threads: 1 };
    let load = Config::new(Source::Synthetic(message));
    let mut rig = Rig::start(Way::InProcess, &load)?;
    let mut traced_by_nothing = StandIn::start(Variant::Core30, &load)?;
    let mut read_later = StandIn::start(Variant::Core30, &load)?;
    let options = LoadOptions {
        ring_bytes: 16 << 20,
        max_payload: MAX_PAYLOAD,
        type_limits: BTreeMap::new(),
        watches_signals: false,
    };
    let kernel = Kernel::load(&options)?;
    let probe = Tracepoint::InboundMessage;
    let _nothing = kernel.attach_nothing(traced_by_nothing.binary().path(), probe)?;
    let _ours = kernel.attach(read_later.binary().path(), None, probe)?;
    let ring = kernel.ring()?;
    let reader = ring.reader(|_| ())?;

    let (mut ours, mut empty, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    let mut lost = 0;
    // The first round finds cold caches.
    for round in 0..=ROUNDS {
        let fire = |standin: &mut StandIn| -> Result<f64> {
            standin.go()?;
            Ok(standin.report(Duration::from_secs(60))?.cpu_ns_per_hit)
        };
        let of_nothing = fire(&mut traced_by_nothing)?;
        let of_ours_unread = fire(&mut read_later)?;
        reader.consume()?;
        let firing = rig.fire()?;
        lost += firing.lost;
        if round > 0 {
            empty.push(of_nothing);
            unread.push(of_ours_unread);
            ours.push(firing.report.cpu_ns_per_hit);
        }
    }
    rig.stop()?;
    Ok(Costs {
        ours: median(&mut ours),
        smallest_ours: smallest(&ours),
        smallest_unread: smallest(&unread),
        empty: median(&mut empty),
        smallest_empty: smallest(&empty),
        lost,
    })
}
