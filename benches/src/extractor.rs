//! CPU and memory of the eBPF extractor under a load that it has to take without loss.

use anyhow::Result;
use peer_observer_testkit::standin::{Config, Pace, Source};

use crate::measure::{median, memory_mb, smallest};
use crate::report::Report;
use crate::rig::{Rig, Way};
use crate::tour;

const PACE: f64 = 100_000.0;
const ROUNDS: usize = 5;
const HITS: u64 = 400_000;
/// Hits of the tour without its large messages.
const TOUR: u64 = 1_640;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let pings = Config { pace: Pace::PerSecond(PACE), ..Config::pings(HITS) };
    let tour = Config {
        pace: Pace::PerSecond(PACE),
        repeat: HITS / TOUR,
        max_payload: Some(tour::MAX_PAYLOAD),
        ..Config::new(Source::Recording(tour::recording()?))
    };
    for way in Way::ALL {
        for (name, load) in [("tour mix", &tour), ("pings", &pings)] {
            let mut rig = Rig::start(way, load)?;
            let mut cpu = Vec::new();
            let (mut fired, mut delivered, mut lost, mut rate) = (0, 0, 0, Vec::new());
            for _ in 0..ROUNDS {
                let firing = rig.fire()?;
                cpu.push(firing.us_per_hit());
                rate.push(firing.report.fired as f64 / firing.report.seconds);
                fired += firing.report.fired;
                delivered += firing.delivered;
                lost += firing.lost;
            }
            let limit = if way == Way::InProcess { 1.5 } else { 3.0 };
            let beside = format!(
                "smallest of {ROUNDS} rounds, median {:.2}; {fired} hits at {:.0}/s, {delivered} delivered, {lost} lost",
                median(&mut cpu),
                median(&mut rate)
            );
            let what = format!("extractor: CPU of an event, {name}, {}", way.name());
            // What else the machine does only adds to a round.
            report.add_at_most(&what, smallest(&cpu), "us", limit, beside);
            if let Some(pid) = rig.extractor_pid() {
                let (now, peak) = (memory_mb(pid, "VmRSS")?, memory_mb(pid, "VmHWM")?);
                let what = format!("extractor: resident memory after that, {name}");
                report.add_at_most(&what, now, "MB", 64.0, format!("peak {peak:.1} MB"));
            }
            rig.stop()?;
        }
    }
    Ok(())
}
