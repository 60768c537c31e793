//! The one record behind headers, `explain`, `mesh why` and receipts.

use serde::Serialize;

use crate::{
    BackendId, Complexity, Constraint, DecisionId, Fact, LatencyClass, PolicyId, PrivacyLevel,
    SovereigntyClass, TaskType,
};

/// Version of the serialized form.
pub const DECISION_VERSION: u32 = 1;

/// What was decided for one request, and why. Serializes to the answer of `explain`. Holds no text
/// of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Version of this form.
    pub version: u32,
    /// Identity, also in the header `mesh-decision`.
    #[expect(clippy::struct_field_names, reason = "the name is the contract's")]
    pub decision: DecisionId,
    /// Instant of the decision.
    pub time: jiff::Timestamp,
    /// Generation of the snapshot that was used.
    pub snapshot: u64,
    /// Model that the caller named.
    pub model: String,
    /// Level of the request.
    pub privacy: PrivacyLevel,
    /// Kind of work.
    pub task: TaskType,
    /// How hard.
    pub complexity: Complexity,
    /// How soon.
    pub latency: LatencyClass,
    /// What came out.
    pub verdict: Verdict,
    /// Who said what.
    pub facts: Vec<Fact>,
    /// Every backend that was considered.
    pub candidates: Vec<Candidate>,
    /// Attempts in order.
    pub plan: Vec<PlanEntry>,
    /// Policies that took part, with digests.
    pub policies: Vec<PolicyRef>,
    /// True if health was assumed rather than known (decided from files).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub health_assumed: bool,
}

/// What came out of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is a plan.
    Planned,
    /// Policy refused every candidate; the constraints that did.
    PolicyDenied {
        /// Distinct constraints, in order.
        constraints: Vec<Constraint>,
    },
    /// No admitted backend has a feature the request cannot do without, or all are down.
    NoBackend {
        /// What is missing, for the caller.
        message: String,
    },
    /// Nobody serves that name.
    ModelNotFound {
        /// Names the caller may use.
        usable: Vec<String>,
    },
    /// Larger than every declared admitted window.
    ContextLengthExceeded {
        /// Largest window in tokens.
        largest: u32,
    },
    /// A field that may not be sent to any backend that could serve it.
    UnsupportedParameter {
        /// Names of the fields.
        fields: Vec<String>,
    },
}

/// A backend that was considered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The backend.
    pub backend: BackendId,
    /// Model it would serve.
    pub model: String,
    /// Class derived from evidence.
    pub class: SovereigntyClass,
    /// Why it may not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// How good it is; absent if refused, and for the floor unless it competes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// True if its health keeps it out for now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unavailable: bool,
    /// True if it is the floor.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub floor: bool,
}

/// A backend ruled out by a hard constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Which constraint.
    pub constraint: Constraint,
    /// For a person: what was compared with what.
    pub message: String,
}

/// The terms of a score, each 0..=1, before weights; `total` after weights and `preferLocal`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// Quality for the task, less complexity's discount.
    pub quality: f64,
    /// Cost against the reference (1 = expensive).
    pub cost: f64,
    /// Latency against the reference (1 = slow).
    pub latency: f64,
    /// The class's score.
    pub sovereignty: f64,
    /// Privacy term.
    pub privacy: f64,
    /// What is sorted by.
    pub total: f64,
}

/// One attempt of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanEntry {
    /// The backend.
    pub backend: BackendId,
    /// Served name.
    pub model: String,
    /// Its class when planned.
    pub class: SovereigntyClass,
}

/// A policy that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRef {
    /// Which.
    pub name: PolicyId,
    /// Its digest.
    pub digest: String,
}
