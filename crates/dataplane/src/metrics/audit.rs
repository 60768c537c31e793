//! What is known of records: shown only while some policy asks for them, so that none is missed where nobody does.

use std::fmt;

use mesh_core::Snapshot;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::registry::Unit;

use super::gauge::{family, single};
use super::label::AskedLabels;
use crate::record::{Recorder, asking};

pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    recorder: &Recorder,
    snapshot: &Snapshot,
) -> fmt::Result {
    let mut asking = asking(snapshot).peekable();
    if asking.peek().is_none() {
        return Ok(());
    }
    let well = i64::from(recorder.well());
    family(
        encoder,
        (
            "audit_durable",
            "Whether what is decided can be written durably",
            None,
        ),
        asking.map(|asked_by| (AskedLabels { asked_by }, well)),
    )?;
    single(
        encoder,
        ("audit_waiting", "Records that wait to be written", None),
        i64::try_from(recorder.waiting()).unwrap_or(i64::MAX),
    )?;
    let numbers = recorder.numbers();
    let kept = "Records that are on disk";
    counted(encoder, ("audit_entries", kept, None), &numbers.entries)?;
    let lost = "Records that will never be on disk";
    counted(encoder, ("audit_lost", lost, None), &numbers.lost)?;
    let wait = "Time for which requests waited for their record";
    let unit = Some(&Unit::Seconds);
    counted(encoder, ("audit_wait", wait, unit), &numbers.wait)
}

fn counted(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let kind = metric.metric_type();
    metric.encode(encoder.encode_descriptor(name, help, unit, kind)?)
}
