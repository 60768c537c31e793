//! From facts and snapshot to a [`Decision`] and a [`Plan`]. Same input, same output: what explains
//! a request and what serves it are one function.
//!
//! ```text
//! names ──► admit ──► score ──► sort ──► plan: available ones, at most maxAttempts, then the floor
//! ```

mod consider;
mod order;
mod verdict;

use std::time::Duration;

use mesh_core::decision::DECISION_VERSION;
use mesh_core::{Candidate, Decision, DecisionId, Degradation, Facts, PlanEntry, Snapshot};

use crate::candidate::{Asked, find_floor, select};
use crate::health::HealthView;
use crate::plan::{Attempt, Plan};
use crate::policy::EffectivePolicy;
use consider::Considered;

/// What deciding looks at.
#[derive(Clone, Copy)]
pub struct DecideInput<'a> {
    /// Everything declared.
    pub snapshot: &'a Snapshot,
    /// Joined from `snapshot` for the caller.
    pub policy: &'a EffectivePolicy,
    /// What classification found.
    pub facts: &'a Facts,
    /// Model that the caller named: a served name, an alias, `auto` or `local`.
    pub model: &'a str,
    /// Health, known or assumed.
    pub health: &'a dyn HealthView,
    /// Now; claims expire.
    pub now: jiff::Timestamp,
    /// Identity that the decision gets.
    pub id: &'a DecisionId,
}

/// A decision and what can be done about it.
#[derive(Debug)]
pub struct Decided {
    /// The record: headers, `explain`, `mesh why`, receipts.
    pub decision: Decision,
    /// The attempts. Not empty exactly if the verdict is `Planned`.
    pub plan: Plan,
    /// If nothing is planned because everything admitted rests: when the first may be asked again.
    pub retry_after: Option<Duration>,
}

/// Decides one request.
pub fn decide(input: &DecideInput<'_>) -> Decided {
    let asked = Asked::new(input.model);
    let floor = find_floor(input.snapshot, input.policy, input.now);
    let Some(pairs) = select(input.snapshot, input.policy, asked, floor) else {
        return finish(input, Vec::new(), Plan::default(), None);
    };
    let considered = consider::consider(input, asked, pairs, floor);
    let (considered, ordered) = order::order(input, asked, considered);
    let candidates = considered.iter().map(Considered::candidate).collect();
    let verdict = verdict::of(input, &considered, &ordered);
    let retry_after = if ordered.is_empty() {
        considered.iter().filter_map(Considered::retry_in).min()
    } else {
        None
    };
    let plan = order::plan(input, asked, considered, &ordered);
    finish(input, candidates, plan, Some((verdict, retry_after)))
}

/// Degradations of an answer by attempt number `served`, as known at the moment of the decision;
/// add what showed while serving. Empty for a number that is not in the plan.
pub fn degradations(decided: &Decided, served: usize) -> Vec<Degradation> {
    decided
        .plan
        .attempts
        .get(served)
        .map(|attempt| attempt.degradations.clone())
        .unwrap_or_default()
}

fn finish(
    input: &DecideInput<'_>,
    candidates: Vec<Candidate>,
    plan: Plan,
    outcome: Option<(mesh_core::Verdict, Option<Duration>)>,
) -> Decided {
    let (verdict, retry_after) = outcome.unwrap_or_else(|| (verdict::model_not_found(input), None));
    let facts = input.facts;
    let decision = Decision {
        version: DECISION_VERSION,
        decision: input.id.clone(),
        time: input.now,
        snapshot: input.snapshot.generation,
        model: input.model.to_owned(),
        privacy: facts.level.max(input.policy.base_level()),
        task: facts.task,
        complexity: facts.complexity,
        latency: facts.latency,
        verdict,
        facts: facts.entries.clone(),
        candidates,
        plan: plan.attempts.iter().map(entry).collect(),
        policies: input.policy.policies().to_vec(),
        health_assumed: input.health.assumed(),
    };
    Decided {
        decision,
        plan,
        retry_after,
    }
}

fn entry(attempt: &Attempt) -> PlanEntry {
    PlanEntry {
        backend: attempt.admitted.backend().id.clone(),
        model: attempt.admitted.model().name.clone(),
        class: attempt.admitted.class(),
    }
}
