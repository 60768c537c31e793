//! What floor drills showed; read at every scrape, so that one that is no longer wanted is no longer shown.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::gauge::family;
use super::label::{BackendLabels, DrillLabels};
use crate::drill::Shown;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, drills: &[Shown]) -> fmt::Result {
    let labels = |drill: &Shown| BackendLabels {
        backend: drill.backend.to_string(),
    };
    let unit = Some(&Unit::Seconds);
    family(
        encoder,
        (
            "floor_drill",
            "Time since the floor last answered a drill, or since it is drilled",
            unit,
        ),
        drills
            .iter()
            .map(|drill| (labels(drill), drill.age.as_secs_f64())),
    )?;
    family(
        encoder,
        (
            "floor_drill_interval",
            "Time between two drills that succeed",
            unit,
        ),
        drills
            .iter()
            .map(|drill| (labels(drill), drill.interval.as_secs_f64())),
    )?;
    family(
        encoder,
        (
            "floor_drill_duration",
            "Time of the last drill that succeeded",
            unit,
        ),
        drills.iter().filter_map(|drill| {
            let took = drill.took?.as_secs_f64();
            Some((labels(drill), took))
        }),
    )?;
    family(
        encoder,
        (
            "floor_drill_succeeded",
            "Whether the floor answered when it was last asked and not busy",
            None,
        ),
        drills
            .iter()
            .filter_map(|drill| Some((labels(drill), i64::from(drill.answered?)))),
    )?;
    counts(encoder, drills)
}

fn counts(encoder: &mut DescriptorEncoder<'_>, drills: &[Shown]) -> fmt::Result {
    let help = "Drills of floors, and how they ended";
    let mut encoder = encoder.encode_descriptor("floor_drills", help, None, MetricType::Counter)?;
    for drill in drills {
        for (outcome, count) in drill.counts {
            let labels = DrillLabels {
                backend: drill.backend.to_string(),
                outcome: outcome.as_str(),
            };
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
