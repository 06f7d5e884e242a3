//! More hits than anyone can take: what is lost is counted, exactly. And how much large messages go through without loss.

use anyhow::{Result, ensure};
use peer_observer_testkit::standin::{Config, Pace, Source, Synthetic, SyntheticMessage};

use crate::report::{Report, thousands};
use crate::rig::{Rig, Way};

const PINGS: u64 = 1_000_000;
/// Each rate is held for so long, s.
const HOLD: f64 = 2.0;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for way in Way::ALL {
        let mut rig = Rig::start(way, &Config::pings(PINGS))?;
        let firing = rig.fire()?;
        let rate = firing.report.fired as f64 / firing.report.seconds;
        let what = format!("storm: {} pings flat out, {}", thousands(PINGS as f64), way.name());
        let result = format!("{} delivered, {} lost", thousands(firing.delivered as f64), firing.lost);
        let missing = firing.report.fired as i64 - (firing.delivered + firing.lost) as i64;
        ensure!(missing == 0, "{what}: {missing} hits are neither delivered nor told as lost");
        let beside = format!(
            "fired at {}/s, all accounted for, {} out of order, {}, all told after {:.1} s",
            thousands(rate),
            rig.out_of_order(),
            rig.losses(),
            firing.took.as_secs_f64()
        );
        report.add(&what, result, beside);
        rig.stop()?;
    }
    for way in Way::ALL {
        for megabytes in [1.0, 2.0, 3.9] {
            blocks(report, way, megabytes)?;
        }
    }
    Ok(())
}

/// Blocks at twice the rate until some are lost.
fn blocks(report: &mut Report, way: Way, megabytes: f64) -> Result<()> {
    let mut best = 0.0;
    let mut ended = String::from("no loss seen");
    let mut rate: f64 = 8.0;
    while rate <= 2048.0 {
        let message = Synthetic {
            message: SyntheticMessage::Block,
            count: (rate * HOLD) as u64,
            size: (megabytes * 1e6) as usize,
            threads: 1,
        };
        let load = Config { pace: Pace::PerSecond(rate), ..Config::new(Source::Synthetic(message)) };
        let mut rig = Rig::start(way, &load)?;
        let firing = rig.fire()?;
        let reached = firing.report.fired as f64 / firing.report.seconds * megabytes;
        let losses = rig.losses();
        rig.stop()?;
        if firing.lost > 0 {
            ended = format!("at {reached:.0} MB/s {} of {} lost: {losses}", firing.lost, firing.report.fired);
            break;
        }
        best = reached;
        // The stand-in itself is at its end.
        if reached < rate * megabytes * 0.8 {
            ended = "no loss, the stand-in fires no faster".into();
            break;
        }
        rate *= 1.5;
    }
    let what = format!("blocks of {megabytes} MB, {}: without loss", way.name());
    report.add(&what, format!("{best:.0} MB/s"), ended);
    Ok(())
}
