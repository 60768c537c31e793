//! Numbers of the injection. Labels are words of ours.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    outcome: &'static str,
    reason: &'static str,
}

/// All clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    answers: Family<Answer, Counter>,
    seconds: Histogram,
    foreign: Counter<u64, AtomicU64>,
    uninjected: Gauge,
    outdated: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.0001, 3.0, 10)),
            foreign: Counter::default(),
            uninjected: Gauge::default(),
            outdated: Gauge::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "injections",
            "Pods that the webhook was asked about, by outcome and reason",
            self.answers.clone(),
        );
        registry.register(
            "injection_duration_seconds",
            "Time of one answer of the webhook",
            self.seconds.clone(),
        );
        registry.register(
            "foreign_base_urls",
            "Injected pods with a container whose own base URL leads past the mesh",
            self.foreign.clone(),
        );
        registry.register(
            "pods_uninjected",
            "Pods that should carry the sidecar and do not; known to the leader",
            self.uninjected.clone(),
        );
        registry.register(
            "pods_outdated",
            "Pods with a sidecar of another template than pods get now; known to the leader",
            self.outdated.clone(),
        );
    }

    /// A dry run makes no pod.
    pub(crate) fn answered(&self, outcome: &'static str, reason: &'static str, dry_run: bool) {
        let outcome = if dry_run { "dry_run" } else { outcome };
        let answer = Answer { outcome, reason };
        self.answers.get_or_create(&answer).inc();
    }

    pub(crate) fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn foreign(&self) {
        self.foreign.inc();
    }

    /// What the last look found.
    pub(crate) fn found(&self, uninjected: usize, outdated: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.uninjected.set(number(uninjected));
        self.outdated.set(number(outdated));
    }
}
