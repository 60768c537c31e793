//! From the bytes of a request to a decision: read, join the policies, classify, decide. Serving,
//! `explain` and `mesh why` all come through [`Decider::decide`], so they cannot disagree.

use std::sync::Arc;

use bytes::Bytes;
use mesh_classify::Inputs;
use mesh_core::{Caller, Facts, LatencyClass, PrivacyLevel, Snapshot, Verdict};
use mesh_protocol::{ModelRequest, Surface};
use mesh_routing::{AssumedHealth, DecideInput, Decided, EffectivePolicy, HealthView};
use tokio::time::Instant;

use crate::clock::{Clock, new_decision};
use crate::health::Health;
use crate::record::Recorder;
use crate::respond::{Error, Tried};
use crate::{Hints, Metrics, SnapshotStore};

/// Where no policy says one: a person may be waiting.
const DEFAULT_LATENCY: LatencyClass = LatencyClass::Interactive;

/// A request as it came.
#[derive(Clone)]
pub struct Question {
    /// Which endpoint.
    pub surface: Surface,
    /// The body.
    pub body: Bytes,
    /// What the headers say.
    pub hints: Hints,
    /// Who asks.
    pub caller: Caller,
}

/// A request that was understood and decided.
pub struct Job {
    /// The request.
    pub request: Arc<ModelRequest>,
    /// Who asks.
    pub caller: Caller,
    /// Bytes of the request's body.
    pub bytes: u64,
    /// What classification found.
    pub facts: Facts,
    /// The policy that was joined for the caller.
    pub policy: EffectivePolicy,
    /// The record and the plan.
    pub decided: Decided,
}

/// Decides requests from the newest snapshot.
#[derive(Clone)]
pub struct Decider {
    snapshots: SnapshotStore,
    health: Option<Arc<Health>>,
    json_depth: usize,
    metrics: Metrics,
    clock: Clock,
    recorder: Option<Recorder>,
}

impl Decider {
    /// Decides from a snapshot alone, without a running mesh: every backend is assumed to be well,
    /// and the decision says so. `json_depth` bounds the nesting of a body.
    pub fn from_files(snapshots: SnapshotStore, json_depth: usize, clock: Clock) -> Self {
        Self {
            snapshots,
            health: None,
            json_depth,
            metrics: Metrics::new(),
            clock,
            recorder: None,
        }
    }

    /// Decides with known health, and knowing whether what is decided can be written down.
    pub(crate) fn running(
        snapshots: SnapshotStore,
        (health, recorder): (Arc<Health>, Recorder),
        json_depth: usize,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            snapshots,
            health: Some(health),
            json_depth,
            metrics,
            clock,
            recorder: Some(recorder),
        }
    }

    /// Decides one request. Takes time in proportion to the body: see
    /// [`Dataplane::decide`](crate::Dataplane::decide) for large ones.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the body is not understood. A request that nobody may serve is
    /// not an error here: the verdict says so.
    pub fn decide(&self, question: Question) -> Result<Job, Error> {
        let snapshot = self.snapshots.current();
        let request = ModelRequest::parse(question.surface, &question.body, self.json_depth)
            .map_err(|error| Error::InvalidRequest {
                message: error.message,
                param: error.param,
            })?;
        let policy = mesh_routing::join(&snapshot, &question.caller);
        let facts = self.classify(&request, &policy, question.hints);
        let decided = self.route(&snapshot, &policy, &facts, &request.model);
        Ok(Job {
            request: Arc::new(request),
            caller: question.caller,
            bytes: u64::try_from(question.body.len()).unwrap_or(u64::MAX),
            facts,
            policy,
            decided,
        })
    }

    /// Asks only where a policy does, and once for a decision.
    fn durable(&self, policy: &EffectivePolicy, level: PrivacyLevel) -> bool {
        let recorder = self.recorder.as_ref();
        !policy.durable(level) || recorder.is_none_or(Recorder::durable)
    }

    fn classify(&self, request: &ModelRequest, policy: &EffectivePolicy, hints: Hints) -> Facts {
        let _span = tracing::info_span!("classify").entered();
        let started = Instant::now();
        let facts = facts(request, policy, hints);
        self.metrics.classified(started.elapsed());
        facts
    }

    fn route(
        &self,
        snapshot: &Snapshot,
        policy: &EffectivePolicy,
        facts: &Facts,
        model: &str,
    ) -> Decided {
        let span = tracing::info_span!("decide", mesh.privacy_level = facts.level.as_str());
        let _entered = span.entered();
        let now = (self.clock)();
        let id = new_decision(now);
        let decide = |health: &dyn HealthView| {
            mesh_routing::decide(&DecideInput {
                snapshot,
                policy,
                facts,
                model,
                health,
                now,
                id: &id,
            })
        };
        let level = facts.level.max(policy.base_level());
        match &self.health {
            Some(health) => health.view(snapshot, self.durable(policy, level), decide),
            None => decide(&AssumedHealth::well()),
        }
    }
}

/// The facts of a request under a policy: for callers and for the tests of policies alike.
pub(crate) fn facts(request: &ModelRequest, policy: &EffectivePolicy, hints: Hints) -> Facts {
    let source = policy.base_source().map(|id| format!("policy {id}"));
    let source = source.as_deref().unwrap_or("built-in default");
    mesh_classify::classify(
        request,
        &Inputs {
            incomplete_level: policy.incomplete_level(),
            default_latency: policy.default_latency().unwrap_or(DEFAULT_LATENCY),
            header_privacy: hints.privacy,
            header_task: hints.task,
            header_latency: hints.latency,
            ..Inputs::new(policy.base_level(), source)
        },
    )
}

impl Job {
    /// The error of a decision without a plan.
    pub(crate) fn denial(&self) -> Option<Error> {
        let decision = &self.decided.decision;
        match &decision.verdict {
            Verdict::Planned => None,
            Verdict::PolicyDenied { constraints } => Some(Error::PolicyDenied {
                constraints: constraints.clone(),
            }),
            Verdict::NoBackend { message } => Some(Error::NoBackend {
                message: message.clone(),
                tried: self.resting(),
                retry_after: self.decided.retry_after.unwrap_or_default(),
            }),
            Verdict::ModelNotFound { usable } => Some(Error::ModelNotFound {
                usable: usable.clone(),
            }),
            Verdict::ContextLengthExceeded { largest } => Some(Error::ContextLengthExceeded {
                // 0: no window was declared.
                largest: (*largest > 0).then_some(*largest),
            }),
            Verdict::UnsupportedParameter { fields } => Some(Error::UnsupportedParameter {
                fields: fields.clone(),
            }),
        }
    }

    fn resting(&self) -> Vec<Tried> {
        let candidates = self.decided.decision.candidates.iter();
        candidates
            .filter(|candidate| candidate.unavailable)
            .map(|candidate| Tried {
                backend: candidate.backend.clone(),
                message: String::from("rests"),
            })
            .collect()
    }
}
