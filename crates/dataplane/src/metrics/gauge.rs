//! Gauges that are read at every scrape from the newest snapshot and the health of its backends,
//! so that a backend that is no longer declared is no longer shown.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mesh_core::{Backend, Jurisdiction, Place, ServedModel, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::label::{BackendInfoLabels, BackendLabels};
use crate::SnapshotStore;
use crate::clock::Clock;
use crate::drill::Drills;
use crate::health::Health;
use crate::record::Recorder;

/// What nobody declares. A label that is always there keeps queries simple.
const UNKNOWN: &str = "unknown";

/// Reads the gauges.
#[derive(Clone)]
pub(crate) struct Gauges {
    pub(crate) snapshots: SnapshotStore,
    pub(crate) health: Arc<Health>,
    pub(crate) drills: Arc<Drills>,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let snapshot = self.snapshots.current();
        let backends = &snapshot.backends;
        let now = (self.clock)();

        // Nobody asks another mesh, so whether it would answer is not known.
        let asked = backends.iter().filter(|backend| backend.peer().is_none());
        let up = asked.map(|backend| {
            let up = self.health.up(backend);
            (by_name(backend), i64::from(up))
        });
        family(
            &mut encoder,
            ("backend_up", "Whether the backend can be asked now", None),
            up,
        )?;
        family(
            &mut encoder,
            ("backend_info", "What is declared of a backend", None),
            backends
                .iter()
                .map(|backend| (info(backend, self.health.local_family(backend)), 1_i64)),
        )?;
        let left = backends.iter().filter_map(|backend| {
            let expires = expiry(backend)?;
            Some((by_name(backend), expires.duration_since(now).as_secs_f64()))
        });
        let unit = Some(&Unit::Seconds);
        family(
            &mut encoder,
            (
                "claim_expiry",
                "Time until the claims of a backend expire; negative if they have",
                unit,
            ),
            left,
        )?;

        self.floor(&mut encoder, &snapshot)?;
        super::drill::encode(&mut encoder, &self.drills.shown())?;
        super::audit::encode(&mut encoder, &self.recorder, &snapshot)?;
        limit(&mut encoder, &snapshot)?;
        let age = now.duration_since(snapshot.created).as_secs_f64();
        single(
            &mut encoder,
            ("snapshot_age", "Time since the snapshot was made", unit),
            age,
        )?;
        let counter = ConstCounter::new(self.snapshots.rejected());
        let help = "Snapshots that were not accepted";
        let metric =
            encoder.encode_descriptor("snapshots_rejected", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

impl Gauges {
    fn floor(&self, encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let floor = i64::from(self.health.floor_missing(snapshot).is_none());
        single(
            encoder,
            (
                "floor_ready",
                "Whether a floor is declared and can answer",
                None,
            ),
            floor,
        )?;
        let places = self.health.floor_endpoints(snapshot);
        single(
            encoder,
            (
                "floor_endpoints",
                "Places that can answer as a floor now",
                None,
            ),
            i64::try_from(places).unwrap_or(i64::MAX),
        )
    }
}

/// The lowest share that a policy names; nothing where none does.
fn limit(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let named = snapshot.policies.iter();
    let named = named.filter_map(|policy| policy.max_share);
    let Some(lowest) = named.reduce(f64::min) else {
        return Ok(());
    };
    let help = "Largest share of all tokens that one provider should have";
    single(encoder, ("concentration_limit", help, None), lowest)
}

/// One gauge without labels.
pub(super) fn single<V>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    value: V,
) -> fmt::Result
where
    ConstGauge<V>: EncodeMetric,
{
    let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(encoder)
}

/// One gauge with a value per label set.
pub(super) fn family<L, V>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    values: impl Iterator<Item = (L, V)>,
) -> fmt::Result
where
    L: EncodeLabelSet,
    ConstGauge<V>: EncodeMetric,
{
    let mut encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

fn by_name(backend: &Backend) -> BackendLabels {
    BackendLabels {
        backend: backend.id.to_string(),
    }
}

fn expiry(backend: &Backend) -> Option<jiff::Timestamp> {
    match &backend.place {
        Place::Cloud(cloud) => Some(cloud.claims.as_ref()?.expires),
        Place::InProcess { .. } | Place::Pods(_) | Place::External(_) | Place::Peer(_) => None,
    }
}

/// What dashboards compute shares from. `stated` is the family that the file of a model in this process states.
fn info(backend: &Backend, stated: Option<String>) -> BackendInfoLabels {
    let seats = match &backend.place {
        Place::Cloud(cloud) => cloud.claims.as_ref().map(|claims| &claims.seat),
        Place::InProcess { .. } | Place::Pods(_) | Place::External(_) | Place::Peer(_) => None,
    };
    let seats = seats.map(|seats| seats.0.iter().map(Jurisdiction::as_str));
    let unknown = || UNKNOWN.to_owned();
    let family = |model: &ServedModel| model.family.clone();
    let mut families: Vec<String> = backend.models.iter().filter_map(family).collect();
    if families.is_empty() {
        families.extend(stated);
    }
    BackendInfoLabels {
        backend: backend.id.to_string(),
        provider: backend.provider().unwrap_or(UNKNOWN).to_owned(),
        jurisdiction: seats.map_or_else(unknown, each_once),
        family: each_once(families.iter().map(String::as_str)),
        hardware_vendor: backend.hardware_vendor.clone().unwrap_or_else(unknown),
    }
}

/// Several words as one label: sorted, so that the same set is the same label.
fn each_once<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: BTreeSet<&str> = words.into_iter().collect();
    if words.is_empty() {
        return UNKNOWN.to_owned();
    }
    Vec::from_iter(words).join("+")
}
