//! The metrics of the data plane (`docs/reference/metrics.md`; the names are an API). Labels are
//! closed words of ours and names of declared backends; never a caller, a path, a model a caller
//! wrote, or text.

mod audit;
mod drill;
mod gauge;
mod label;

use std::time::Duration;

use mesh_core::{
    BackendId, Constraint, Degradation, PrivacyLevel, Reason, SovereigntyClass, TaskType,
};
use mesh_protocol::{Surface, Usage};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub(crate) use gauge::Gauges;
use label::{
    AttemptLabels, ClassLabels, ConstraintLabels, CostLabels, DecisionLabels, DegradedLabels,
    PhaseLabels, RequestLabels, TokenLabels, UnservedLabels,
};
pub(crate) use label::{EventLabels, Phase};

type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;

/// Counters and histograms of the data plane. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    refusals: Family<ConstraintLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    failovers: Family<PhaseLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    requests: Family<RequestLabels, Histogram>,
    first_token: Family<ClassLabels, Histogram>,
    degraded: Family<DegradedLabels, Counter>,
    unserved: Family<UnservedLabels, Counter>,
    classify: Histogram,
    cost: Family<CostLabels, FloatCounter>,
}

/// 5 ms to about 160 s.
fn request_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 16))
}

/// 5 ms to about 40 s.
fn first_token_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 14))
}

/// What leaves a request without an answer though its caller did nothing wrong.
const UNSERVED: [Reason; 3] = [Reason::PolicyDenied, Reason::NoBackend, Reason::FloorBusy];

/// All of them at zero: a rise from nothing to one could not be told from no rise.
fn unserved() -> Family<UnservedLabels, Counter> {
    let family = Family::default();
    for level in PrivacyLevel::ALL {
        for reason in UNSERVED {
            drop(family.get_or_create(&UnservedLabels {
                privacy_level: level.as_str(),
                reason: reason.as_str(),
            }));
        }
    }
    family
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            refusals: Family::default(),
            attempts: Family::default(),
            failovers: Family::default(),
            tokens: Family::default(),
            requests: Family::new_with_constructor(request_buckets),
            first_token: Family::new_with_constructor(first_token_buckets),
            degraded: Family::default(),
            unserved: unserved(),
            // 10 µs to about 0.3 s.
            classify: Histogram::new(exponential_buckets(0.000_01, 2.0, 16)),
            cost: Family::default(),
        }
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters all of them into `registry`, without a prefix of its own: the binary's prefix
    /// (`mesh_gateway`) is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("decisions", "Requests decided", self.decisions.clone());
        registry.register(
            "refusals",
            "Backends ruled out by a hard constraint, once per decision",
            self.refusals.clone(),
        );
        registry.register(
            "attempts",
            "Attempts at a backend, and how they ended",
            self.attempts.clone(),
        );
        registry.register(
            "failovers",
            "Attempts that followed a failed one of the same request",
            self.failovers.clone(),
        );
        registry.register(
            "tokens",
            "Tokens as counted by the backend that served",
            self.tokens.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From the request's head to the last byte of the answer",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register_with_unit(
            "time_to_first_token",
            "From the start of the attempt that served to its first token",
            Unit::Seconds,
            self.first_token.clone(),
        );
        registry.register(
            "degraded_requests",
            "Answers that were less than what was asked for",
            self.degraded.clone(),
        );
        registry.register(
            "unserved",
            "Requests that no backend answered though they were in order",
            self.unserved.clone(),
        );
        registry.register_with_unit(
            "classify_duration",
            "Classification of one request",
            Unit::Seconds,
            self.classify.clone(),
        );
        registry.register("cost", "Money spent by declared prices", self.cost.clone());
    }

    pub(crate) fn decided(&self, privacy: PrivacyLevel, task: TaskType) {
        let labels = DecisionLabels {
            privacy_level: privacy.as_str(),
            task: task.as_str(),
        };
        self.decisions.get_or_create(&labels).inc();
    }

    pub(crate) fn refused(&self, constraint: Constraint) {
        let constraint = constraint.as_str();
        self.refusals
            .get_or_create(&ConstraintLabels { constraint })
            .inc();
    }

    /// A request was not answered. Faults of the caller are not counted.
    pub(crate) fn unserved(&self, privacy: PrivacyLevel, reason: Reason) {
        if UNSERVED.contains(&reason) {
            let labels = UnservedLabels {
                privacy_level: privacy.as_str(),
                reason: reason.as_str(),
            };
            self.unserved.get_or_create(&labels).inc();
        }
    }

    /// An attempt ended. `outcome` is `ok` or a word of a closed set.
    pub(crate) fn attempted(
        &self,
        backend: &BackendId,
        class: SovereigntyClass,
        outcome: &'static str,
    ) {
        let labels = AttemptLabels {
            backend: backend.to_string(),
            sovereignty_class: class.label(),
            outcome,
        };
        self.attempts.get_or_create(&labels).inc();
    }

    pub(crate) fn failed_over(&self, phase: Phase) {
        let phase = phase.as_str();
        self.failovers.get_or_create(&PhaseLabels { phase }).inc();
    }

    pub(crate) fn used(
        &self,
        backend: &BackendId,
        class: SovereigntyClass,
        privacy: PrivacyLevel,
        usage: &Usage,
    ) {
        let counts = [
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
        ];
        for (direction, count) in counts {
            let labels = TokenLabels {
                backend: backend.to_string(),
                sovereignty_class: class.label(),
                privacy_level: privacy.as_str(),
                direction,
            };
            self.tokens.get_or_create(&labels).inc_by(count);
        }
    }

    pub(crate) fn spent(&self, backend: &BackendId, currency: &str, amount: f64) {
        let labels = CostLabels {
            backend: backend.to_string(),
            currency: currency.to_owned(),
        };
        self.cost.get_or_create(&labels).inc_by(amount);
    }

    pub(crate) fn answered(
        &self,
        surface: Option<Surface>,
        outcome: &'static str,
        duration: Duration,
    ) {
        let surface = surface.map_or("other", Surface::as_str);
        self.requests
            .get_or_create(&RequestLabels { surface, outcome })
            .observe(duration.as_secs_f64());
    }

    pub(crate) fn first_token(&self, class: SovereigntyClass, after: Duration) {
        let sovereignty_class = class.label();
        self.first_token
            .get_or_create(&ClassLabels { sovereignty_class })
            .observe(after.as_secs_f64());
    }

    pub(crate) fn degraded(&self, reason: Degradation) {
        let reason = reason.as_str();
        self.degraded
            .get_or_create(&DegradedLabels { reason })
            .inc();
    }

    pub(crate) fn classified(&self, duration: Duration) {
        self.classify.observe(duration.as_secs_f64());
    }
}
