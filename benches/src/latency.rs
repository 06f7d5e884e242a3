//! Time from the probe to a tool.

use anyhow::Result;
use peer_observer_testkit::standin::{Config, Pace, Source};

use crate::measure::quantile;
use crate::report::Report;
use crate::rig::{Rig, Way};
use crate::tour;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let load = Config {
        pace: Pace::PerSecond(10_000.0),
        repeat: 40,
        max_payload: Some(tour::MAX_PAYLOAD),
        ..Config::new(Source::Recording(tour::recording()?))
    };
    for way in Way::ALL {
        let mut rig = Rig::start(way, &load)?;
        let firing = rig.fire()?;
        let mut ms: Vec<f64> = rig.take_latencies().into_iter().map(|ns| ns / 1e6).collect();
        let p99 = quantile(&mut ms, 0.99);
        let beside = format!(
            "median {:.2}, largest {:.2}; {} hits, {} lost",
            quantile(&mut ms, 0.5),
            quantile(&mut ms, 1.0),
            firing.report.fired,
            firing.lost
        );
        let what = format!("latency: probe to tool at 10,000/s, 99 of 100, {}", way.name());
        report.add_at_most(&what, p99, "ms", 20.0, beside);
        rig.stop()?;
    }
    Ok(())
}
