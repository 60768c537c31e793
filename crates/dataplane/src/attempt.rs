//! The attempts of one request, in the order of the plan, until somebody's first token is there.
//!
//! Before the first token a failure is silent: the next attempt follows at once. For a caller who
//! did not ask for a stream nothing has been sent until the answer is whole, so there the same holds
//! until its end. A caller who leaves drops all of this, and with it the work upstream.

mod failure;
mod flight;
mod send;

use std::sync::Arc;
use std::time::Duration;

use mesh_backends::{Action, Outbound};
use mesh_core::policy::Overflow;
use mesh_core::{Constraint, Degradation, Place, Refusal};
use mesh_protocol::openai::write::Whole;
use mesh_routing::health::{Event, Permit};
use mesh_routing::{Admitted, Attempt, EffectivePolicy, ReadmitInput, Role, readmit};
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

pub(crate) use flight::Flight;

use crate::health::{AttemptKind, NoLeave, Start};
use crate::limit::Slot;
use crate::record::{Record, Trail};
use crate::respond::{Error, Report};
use crate::{Dataplane, Job};
use failure::{Cause, Failures};
use send::{Limits, Opened};

/// Somebody answers.
pub(crate) struct Served {
    /// Who, and what is less than asked.
    pub(crate) report: Report,
    /// The attempt's bookkeeping.
    pub(crate) flight: Flight,
    /// What has come: everything up to the first token, or the whole answer.
    pub(crate) opened: Opened,
    /// The whole answer, for callers who did not ask for a stream.
    pub(crate) whole: Option<Whole>,
    /// Longest silence between tokens.
    pub(crate) limits: Limits,
}

/// Longest wait for the first token of a floor that is a server outside of this process.
const OUTSIDE_FLOOR: Duration = Duration::from_mins(5);

/// Runs the plan of `job`.
///
/// # Errors
/// If nobody could answer, or a backend found a fault in the request.
pub(crate) async fn run(plane: &Dataplane, job: &Job) -> Result<Served, Error> {
    let deadline = Instant::now() + job.policy.failover().deadline;
    let attempts = job.decided.plan.attempts();
    let mut failures = Failures::default();
    let trail = Trail::default();
    for (index, attempt) in attempts.iter().enumerate() {
        let rest = attempts.get(index + 1..).unwrap_or_default();
        let run = Run {
            plane,
            job,
            attempt,
            deadline,
            kind: failures.kind(),
            trail: &trail,
            unrecorded: failures.unrecorded(),
            others_left: rest.iter().filter(|attempt| !attempt.floor()).count(),
        };
        if let Some(phase) = failures.phase() {
            plane.metrics().failed_over(phase);
        }
        match Box::pin(run.run()).await {
            Ok(served) => return Ok(served),
            Err(Cause::Attempt { error, .. }) if error.action() == Action::ToCaller => {
                return Err(failure::to_caller(error));
            }
            Err(cause) => failures.push(attempt, cause),
        }
    }
    plane
        .recorder()
        .unsent(job, &trail, &plane.snapshots().current());
    Err(failures.into_error(resting(job)))
}

/// True if somebody was admitted who rests and was therefore not asked.
fn resting(job: &Job) -> bool {
    let mut candidates = job.decided.decision.candidates.iter();
    candidates.any(|candidate| candidate.refusal.is_none() && candidate.unavailable)
}

/// Whom an attempt may be sent to, by the newest snapshot.
struct Chosen {
    admitted: Admitted,
    limits: Limits,
    /// There must be a record of it.
    record: Option<Record>,
    /// Of that snapshot.
    generation: u64,
}

/// One attempt.
struct Run<'a> {
    plane: &'a Dataplane,
    job: &'a Job,
    attempt: &'a Attempt,
    deadline: Instant,
    kind: AttemptKind,
    trail: &'a Trail,
    /// Somebody before was not asked because no record could be written.
    unrecorded: bool,
    /// Attempts after this one that are not the floor.
    others_left: usize,
}

impl Run<'_> {
    async fn run(&self) -> Result<Served, Cause> {
        let planned = self.attempt.admitted();
        let span = tracing::info_span!(
            "attempt",
            mesh.backend = %planned.backend().id,
            mesh.sovereignty_class = planned.class().as_str(),
            gen_ai.provider.name = planned.backend().provider(),
            gen_ai.request.model = planned.model().name,
            error.type = Empty,
        );
        let result = self.send().instrument(span.clone()).await;
        if let Err(cause) = &result {
            span.record("error.type", cause.outcome());
            tracing::debug!(parent: &span, outcome = cause.outcome(), "attempt failed");
            if !matches!(cause, Cause::Attempt { .. }) {
                let metrics = self.plane.metrics();
                metrics.attempted(&planned.backend().id, planned.class(), cause.outcome());
            }
        }
        result
    }

    async fn send(&self) -> Result<Served, Cause> {
        if !self.attempt.floor() && Instant::now() >= self.deadline {
            return Err(Cause::Deadline);
        }
        let Chosen {
            mut admitted,
            mut limits,
            record,
            generation,
        } = self.admit(false)?;
        let permit = self.leave(&admitted)?;
        let slot = self.slot(&admitted, permit.as_ref())?;
        let mut flight = Flight::new(self.plane, &admitted, permit, slot);
        if let Some(record) = record {
            // The last thing before it is sent, so that what is written is what is sent.
            let recorded = self.record(record, &admitted, &mut flight).await;
            let again = recorded.and_then(|on_disk| self.admit_again(generation, on_disk));
            if let Some(chosen) = again.inspect_err(|cause| flight.withdraw(cause))? {
                (admitted, limits) = (chosen.admitted, chosen.limits);
            }
        }
        let limits = self.left(limits);
        let outbound = self.outbound(&limits);
        let mut report = self.report(&admitted);

        let opened = send::open(self.plane, &admitted, outbound, &limits, &mut flight).await;
        let mut opened = opened.map_err(|error| flight.failed(error))?;
        if opened.context_trimmed {
            report.degrade(Degradation::ContextTrimmed);
        }
        let whole = if self.job.request.stream {
            None
        } else {
            let limit = self.plane.config().answer_limit;
            let whole = send::collect(&mut opened, limit, &limits, &mut flight, &mut report).await;
            Some(whole.map_err(|error| flight.failed(error))?)
        };
        Ok(Served {
            report,
            flight,
            opened,
            whole,
            limits,
        })
    }

    /// Writes who is about to be asked, where a policy asks for it. False: it will be written, since this is the floor.
    async fn record(
        &self,
        record: Record,
        admitted: &Admitted,
        flight: &mut Flight,
    ) -> Result<bool, Cause> {
        let recorder = self.plane.recorder();
        let trace = flight.record(recorder.trace(self.job, self.trail, admitted));
        let snapshot = self.plane.snapshots().current();
        let written = recorder.before(self.job, (self.trail, trace), &snapshot, record);
        let on_disk = written.await.map_err(|_| {
            self.plane.metrics().refused(Constraint::Audit);
            Cause::Refused(Constraint::Audit)
        })?;
        if !self.attempt.floor() && Instant::now() >= self.deadline {
            return Err(Cause::Deadline);
        }
        flight.recorded();
        Ok(on_disk)
    }

    /// What is left of the time once the record is written.
    fn left(&self, limits: Limits) -> Limits {
        if self.attempt.floor() {
            return limits;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        Limits {
            first_token: limits.first_token.map(|time| time.min(left)),
            ..limits
        }
    }

    /// Admits once more if something else holds since the record was begun.
    fn admit_again(&self, before: u64, on_disk: bool) -> Result<Option<Chosen>, Cause> {
        if self.plane.snapshots().current().generation == before {
            return Ok(None);
        }
        self.admit(on_disk).map(Some)
    }

    /// Admits against the newest snapshot: policy may have changed, a claim may have expired. And says whether there
    /// must be a record; `on_disk`: there is one.
    fn admit(&self, on_disk: bool) -> Result<Chosen, Cause> {
        let snapshot = self.plane.snapshots().current();
        let newer: EffectivePolicy;
        let policy = if snapshot.generation == self.job.policy.generation() {
            &self.job.policy
        } else {
            newer = mesh_routing::join(&snapshot, &self.job.caller);
            &newer
        };
        let level = self.job.facts.level.max(policy.base_level());
        let asked = policy.durable(level);
        let input = ReadmitInput {
            snapshot: &snapshot,
            policy,
            facts: &self.job.facts,
            durable: !asked || on_disk || (!self.trail.failed() && self.plane.recorder().durable()),
            now: self.plane.now(),
        };
        let admitted = readmit(self.attempt, &input).map_err(|refusal| {
            self.plane.metrics().refused(refusal.constraint);
            Cause::Refused(refusal.constraint)
        })?;
        let limits = self.limits(policy, &admitted);
        let floor = self.attempt.floor() && policy.is_floor(&admitted.backend().id);
        let record = if floor {
            Record::OrLater
        } else {
            Record::First
        };
        Ok(Chosen {
            admitted,
            limits,
            record: asked.then_some(record),
            generation: snapshot.generation,
        })
    }

    fn limits(&self, policy: &EffectivePolicy, admitted: &Admitted) -> Limits {
        let failover = policy.failover();
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let first_token = if self.attempt.floor() {
            // The floor is exempt; one outside of this process may hang without our seeing why.
            let outside = !matches!(admitted.backend().place, Place::InProcess { .. });
            outside.then_some(OUTSIDE_FLOOR)
        } else if mesh_backends::streamed(&self.job.request, admitted.backend()) {
            Some(failover.time_to_first_token.min(remaining))
        } else {
            // The whole answer must come within it, so it gets its share of what is left.
            let shares = u32::try_from(self.others_left + 1).unwrap_or(u32::MAX);
            Some(remaining / shares)
        };
        let floor = policy.floor();
        // Old turns are left out only where somebody else could have taken all of them: a prompt too
        // large for everybody is the caller's to shorten.
        let trim = floor.is_some_and(|floor| floor.overflow == Overflow::TrimHistory)
            && (self.attempt.overflow()
                || self.others(|refusal| refusal.constraint == Constraint::Audit));
        Limits {
            first_token,
            between: failover.between_tokens,
            protect: floor.is_some_and(|floor| floor.protect),
            overflow: if trim {
                Overflow::TrimHistory
            } else {
                Overflow::Refuse
            },
        }
    }

    fn leave(&self, admitted: &Admitted) -> Result<Option<Permit>, Cause> {
        let floor = self.attempt.floor();
        let start = Start {
            attempt: self.kind,
            others_left: self.others_left > 0,
            last_resort: floor || self.attempt.last_resort(),
        };
        let backend = &admitted.backend().id;
        match self
            .plane
            .health()
            .start(backend, &admitted.model().name, start)
        {
            Ok(permit) => Ok(Some(permit)),
            // The floor is asked whatever its health says: nothing better is left.
            Err(_) if floor && self.attempt.role() != Role::Ranked => Ok(None),
            Err(NoLeave::Resting(_)) => Err(Cause::Resting),
            Err(NoLeave::RetryBudget) => Err(Cause::RetryBudget),
        }
    }

    /// A place within the backend's declared limits; the permit is given back if there is none.
    fn slot(&self, admitted: &Admitted, permit: Option<&Permit>) -> Result<Slot, Cause> {
        let backend = admitted.backend();
        self.plane.limits().take(backend).ok_or_else(|| {
            if let Some(permit) = permit {
                let (health, model) = (self.plane.health(), &admitted.model().name);
                health.note(&backend.id, model, *permit, Event::Neutral);
            }
            Cause::Limited
        })
    }

    /// True if nobody else was admitted.
    fn sole(&self) -> bool {
        !self.others(|_| false)
    }

    /// True if somebody else was admitted, or refused for nothing but what is `excused`.
    fn others(&self, excused: impl Fn(&Refusal) -> bool) -> bool {
        let own = &self.attempt.admitted().backend().id;
        let mut candidates = self.job.decided.decision.candidates.iter();
        candidates.any(|candidate| {
            let could = candidate.refusal.as_ref().is_none_or(&excused);
            could && candidate.backend != *own
        })
    }

    fn outbound(&self, limits: &Limits) -> Outbound {
        let job = self.job;
        let degradations = self.attempt.degradations();
        Outbound {
            request: Arc::clone(&job.request),
            tenant: job.caller.tenant.clone(),
            // What was decided, not what was admitted: the client compares the two.
            level: job.decided.decision.privacy,
            latency: job.facts.latency,
            sole: self.sole(),
            protect: limits.protect,
            overflow: limits.overflow,
            drop_tools: degradations.contains(&Degradation::ToolsDropped),
        }
    }

    fn report(&self, admitted: &Admitted) -> Report {
        let mut report = Report {
            decision: self.job.decided.decision.decision.clone(),
            backend: admitted.backend().id.clone(),
            model: admitted.model().name.clone(),
            class: admitted.class(),
            privacy: admitted.level(),
            degraded: self.attempt.degradations().to_vec(),
        };
        if self.unrecorded && self.attempt.floor() {
            report.degrade(Degradation::AuditNotDurable);
        }
        report
    }
}
