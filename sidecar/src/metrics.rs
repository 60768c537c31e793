//! The metrics of a sidecar (`docs/reference/metrics.md`; the names are an API, and those of the gateway where
//! they mean the same). Labels are closed words of ours and names of declared backends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Degradation, PrivacyLevel, SovereigntyClass, TaskType};
use mesh_protocol::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    privacy_level: &'static str,
    task: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    backend: String,
    sovereignty_class: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    backend: String,
    sovereignty_class: &'static str,
    privacy_level: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    surface: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DegradedLabels {
    reason: &'static str,
}

/// Name of the gateway where a backend's name stands.
pub(crate) const GATEWAY: &str = "gateway";

/// Counters and histograms. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    failovers: Family<PhaseLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    requests: Family<RequestLabels, Histogram>,
    degraded: Family<DegradedLabels, Counter>,
    classify: Histogram,
    rejected: Counter,
}

/// 5 ms to about 160 s, as at the gateway.
fn request_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 16))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            decisions: Family::default(),
            attempts: Family::default(),
            failovers: Family::default(),
            tokens: Family::default(),
            requests: Family::new_with_constructor(request_buckets),
            degraded: Family::default(),
            classify: Histogram::new(exponential_buckets(0.000_01, 2.0, 16)),
            rejected: Counter::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("decisions", "Requests classified", self.decisions.clone());
        let help = "Attempts at the gateway or the floor, and how they ended";
        registry.register("attempts", help, self.attempts.clone());
        let help = "Requests that went to the floor because no gateway answered";
        registry.register("failovers", help, self.failovers.clone());
        let help =
            "Tokens of answers of the floor in place of the gateway's, as counted by the floor";
        registry.register("tokens", help, self.tokens.clone());
        registry.register_with_unit(
            "request_duration",
            "From the request's head to the last byte of the answer",
            Unit::Seconds,
            self.requests.clone(),
        );
        let help = "Answers of the floor in place of the gateway's";
        registry.register("degraded_requests", help, self.degraded.clone());
        registry.register_with_unit(
            "classify_duration",
            "Classification of one request",
            Unit::Seconds,
            self.classify.clone(),
        );
        let help = "Snapshots that were not accepted";
        registry.register("snapshots_rejected", help, self.rejected.clone());
    }

    pub(crate) fn decided(&self, level: PrivacyLevel, task: Option<TaskType>, took: Duration) {
        let labels = DecisionLabels {
            privacy_level: level.as_str(),
            task: task.map_or("unknown", TaskType::as_str),
        };
        self.decisions.get_or_create(&labels).inc();
        self.classify.observe(took.as_secs_f64());
    }

    /// An attempt ended. `outcome` is `ok` or a word of a closed set.
    pub(crate) fn attempted(
        &self,
        backend: &str,
        class: Option<SovereigntyClass>,
        outcome: &'static str,
    ) {
        let labels = AttemptLabels {
            backend: backend.to_owned(),
            sovereignty_class: class.map_or("unknown", SovereigntyClass::label),
            outcome,
        };
        self.attempts.get_or_create(&labels).inc();
    }

    pub(crate) fn failed_over(&self) {
        let phase = "before_first_token";
        self.failovers.get_or_create(&PhaseLabels { phase }).inc();
    }

    /// Tokens of one answer of a floor; no gateway counts these.
    pub(crate) fn used(
        &self,
        backend: &str,
        class: SovereigntyClass,
        level: PrivacyLevel,
        usage: &Usage,
    ) {
        let counts = [
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
        ];
        for (direction, count) in counts {
            let labels = TokenLabels {
                backend: backend.to_owned(),
                sovereignty_class: class.label(),
                privacy_level: level.as_str(),
                direction,
            };
            self.tokens.get_or_create(&labels).inc_by(count);
        }
    }

    /// All that may be counted of a floor is there at zero: a rise from nothing could not be told from none.
    fn may_use(&self, backend: &str, class: SovereigntyClass) {
        for level in PrivacyLevel::ALL {
            self.used(backend, class, level, &Usage::default());
        }
    }

    pub(crate) fn answered(
        &self,
        surface: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        self.requests
            .get_or_create(&RequestLabels { surface, outcome })
            .observe(duration.as_secs_f64());
    }

    pub(crate) fn degraded(&self, reasons: &[Degradation]) {
        for reason in reasons {
            let reason = reason.as_str();
            self.degraded
                .get_or_create(&DegradedLabels { reason })
                .inc();
        }
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }
}

/// What is read at every scrape.
pub(crate) trait Standing: Send + Sync + 'static {
    /// Age of what is known of policies; `None` while nothing is.
    fn age(&self) -> Option<Duration>;
    /// Whether the gateway answered when it was last asked.
    fn gateway(&self) -> bool;
    /// The floor that is known, and its class.
    fn floor(&self) -> Option<(String, SovereigntyClass)>;
}

/// Enters the gauges.
pub(crate) fn watch(registry: &mut Registry, metrics: &Metrics, standing: Arc<dyn Standing>) {
    let metrics = metrics.clone();
    registry.register_collector(Box::new(Gauges { standing, metrics }));
}

struct Gauges {
    standing: Arc<dyn Standing>,
    metrics: Metrics,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = MetricType::Gauge;
        let help = "Whether the gateway answered when it was last asked";
        let metric = encoder.encode_descriptor("gateway_up", help, None, gauge)?;
        ConstGauge::new(i64::from(self.standing.gateway())).encode(metric)?;
        let help = "Whether a floor is known";
        let metric = encoder.encode_descriptor("floor_known", help, None, gauge)?;
        let floor = self.standing.floor();
        ConstGauge::new(i64::from(floor.is_some())).encode(metric)?;
        if let Some((backend, class)) = floor {
            self.metrics.may_use(&backend, class);
        }
        if let Some(age) = self.standing.age() {
            let help = "Time since the snapshot in use was last confirmed";
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor("snapshot_age", help, unit, gauge)?;
            ConstGauge::new(age.as_secs_f64()).encode(metric)?;
        }
        Ok(())
    }
}
