//! SovereigntyPolicy: judged as a whole with everything else that is declared, and kept as a
//! ControllerRevision once accepted. The gateways decide from those, never from a spec that was not.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use kube::api::{DynamicObject, ObjectMeta};
use mesh_classify::Inputs;
use mesh_core::policy_test::TestRequest;
use mesh_core::{Facts, LatencyClass, ObjectId, Policy, Snapshot};
use mesh_crds::condition;
use mesh_crds::label;
use mesh_routing::check::{self, check};
use mesh_routing::policy_test::TestOutcome;
use mesh_routing::{EffectivePolicy, policy_test};
use serde_json::{Value, json};

use crate::cache;
use crate::status::{Fact, conditions, summary};
use crate::world::{MANAGED, Read};

/// Accepted versions that are kept of a policy.
pub(crate) const KEPT: usize = 5;

/// The newest accepted spec of a policy, which is what gateways decide by; none if it was never accepted.
pub(crate) fn newest(
    revisions: &[Arc<ControllerRevision>],
    policy: &DynamicObject,
) -> Option<Value> {
    let uid = policy.metadata.uid.as_deref()?;
    let own = |revision: &&Arc<ControllerRevision>| {
        let mut owners = revision.metadata.owner_references.iter().flatten();
        revision.metadata.namespace == policy.metadata.namespace
            && owners.any(|owner| owner.uid == uid)
    };
    let newest = revisions.iter().filter(own);
    let newest = newest.max_by_key(|revision| revision.revision)?;
    newest.data.as_ref()?.0.get("spec").cloned()
}

/// What was found of all policies together.
pub(crate) struct Judged {
    problems: Vec<check::Problem>,
    outcomes: Vec<TestOutcome>,
}

/// Judges all policies of a snapshot. Declared backends are taken as healthy.
pub(crate) fn judge(snapshot: &Snapshot, now: Timestamp) -> Judged {
    Judged {
        problems: check(snapshot, now),
        outcomes: policy_test::run(snapshot, &[], &facts, now),
    }
}

/// The facts of a test's request: classified by the very same code as a caller's.
fn facts(test: &TestRequest, policy: &EffectivePolicy) -> Facts {
    let request = mesh_classify::test_request(test);
    let source = policy.base_source().map(|id| format!("policy {id}"));
    let source = source.as_deref().unwrap_or("built-in default");
    mesh_classify::classify(
        &request,
        &Inputs {
            incomplete_level: policy.incomplete_level(),
            default_latency: policy
                .default_latency()
                .unwrap_or(LatencyClass::Interactive),
            header_privacy: test.privacy,
            header_task: test.task,
            ..Inputs::new(policy.base_level(), source)
        },
    )
}

/// What came out for one policy.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// What keeps it from being accepted: reason and message.
    pub(crate) fault: Option<(String, String)>,
    passed: usize,
    failed: Vec<(String, String)>,
    conflicts: Vec<String>,
    digest: Option<String>,
    floor: Option<(String, String)>,
}

/// The verdict on one policy.
pub(crate) fn verdict(
    fault: Option<(String, String)>,
    policy: Option<&Policy>,
    judged: &Judged,
    id: &ObjectId,
) -> Verdict {
    let Some(policy) = policy else {
        let unreadable = || {
            (
                condition::REASON_INVALID_SPEC.to_owned(),
                String::from("it cannot be read"),
            )
        };
        return Verdict {
            fault: Some(fault.unwrap_or_else(unreadable)),
            ..Verdict::default()
        };
    };
    let own = judged
        .problems
        .iter()
        .filter(|problem| problem.policy.as_ref() == Some(id));
    let (blocking, notes): (Vec<_>, Vec<_>) = own.partition(|problem| problem.kind.blocking());
    let outcomes: Vec<&TestOutcome> = judged
        .outcomes
        .iter()
        .filter(|outcome| outcome.policy == *id)
        .collect();
    let failed: Vec<(String, String)> = outcomes
        .iter()
        .filter(|outcome| !outcome.passed)
        .map(|outcome| (outcome.name.clone(), outcome.message.clone()))
        .collect();
    let fault = blocking
        .first()
        .map(|problem| (problem.kind.reason().to_owned(), problem.message.clone()))
        .or_else(|| {
            let (name, message) = failed.first()?;
            Some((
                condition::REASON_TESTS_FAILED.to_owned(),
                format!("the policy fails its own test `{name}`: {message}"),
            ))
        });
    Verdict {
        fault,
        passed: outcomes.len() - failed.len(),
        failed,
        conflicts: notes
            .iter()
            .map(|problem| problem.message.clone())
            .collect(),
        digest: Some(policy.digest.clone()),
        floor: policy.floor.as_ref().map(|floor| floor.backend.clone()),
    }
}

/// What to tell of a policy that asks for a durable audit where none is installed.
pub(crate) const NO_LEDGER: &str = "audit.durableFrom asks for a durable record and no ledger is installed (ledger.enabled of the chart): from that level on only the floor answers";

impl Verdict {
    /// Notes whether a policy asks for what is not installed.
    pub(crate) fn look_for_ledger(&mut self, policy: Option<&Policy>, installed: bool) {
        let asks = policy.is_some_and(|policy| policy.durable_from.is_some());
        if asks && !installed {
            self.conflicts.push(NO_LEDGER.to_owned());
        }
    }
}

/// What a status is made from.
pub(crate) struct Found<'a> {
    pub(crate) verdict: &'a Verdict,
    /// Versions accepted before.
    pub(crate) kept: &'a [ControllerRevision],
    /// Whether a backend is Ready.
    pub(crate) floor_ready: &'a dyn Fn(&(String, String)) -> bool,
    /// Condition `Enforced`.
    pub(crate) enforced: Fact,
}

/// The status.
pub(crate) fn status(read: &Read, found: Found<'_>, now: Timestamp) -> Value {
    let verdict = found.verdict;
    let facts = facts_of(found);
    let failed: Vec<Value> = verdict
        .failed
        .iter()
        .map(|(name, message)| json!({"name": name, "message": message}))
        .collect();
    let mut tests = json!({"passed": verdict.passed});
    if !failed.is_empty() {
        tests["failed"] = json!(failed);
    }
    let mut status = json!({
        "observedGeneration": read.raw.metadata.generation,
        "tests": tests,
        "conditions": conditions(&read.raw, facts, now),
    });
    if let Some(digest) = &verdict.digest {
        status["digest"] = json!(digest);
    }
    if !verdict.conflicts.is_empty() {
        status["conflicts"] = json!(verdict.conflicts);
    }
    status
}

fn facts_of(found: Found<'_>) -> Vec<Fact> {
    let Found {
        verdict,
        kept,
        floor_ready,
        enforced,
    } = found;
    let digest = verdict.digest.as_ref();
    // The gateways decide by the newest: an older one that comes back must be accepted anew.
    let known = digest.is_some() && kept.last().and_then(revision_digest) == digest;
    // Once accepted it stays so: what changed around it must not take a policy out of force.
    let accepted = match &verdict.fault {
        Some((reason, message)) if !known => Fact::no(condition::ACCEPTED, reason, message.clone()),
        _ => Fact::yes(condition::ACCEPTED, "the gateways decide by it"),
    };
    let tests = match verdict.failed.first() {
        Some((name, message)) => Fact::no(
            condition::TESTS_PASSING,
            condition::REASON_TESTS_FAILED,
            format!("{name}: {message}"),
        ),
        None => Fact::yes(
            condition::TESTS_PASSING,
            format!("{} tests", verdict.passed),
        ),
    };
    let floor = floor_fact(verdict, floor_ready);
    let stalled = !accepted.holds();
    let ready = if stalled {
        accepted.clone().named(condition::READY)
    } else if verdict.floor.is_some() && !floor.holds() {
        floor.clone().named(condition::READY)
    } else {
        Fact::yes(condition::READY, "accepted, and its floor can answer")
    };
    let mut facts = summary(ready, stalled).to_vec();
    facts.extend([accepted, tests, floor, enforced]);
    facts
}

fn floor_fact(verdict: &Verdict, floor_ready: &dyn Fn(&(String, String)) -> bool) -> Fact {
    let fact = condition::FLOOR_AVAILABLE;
    match &verdict.floor {
        None => Fact::no(fact, "NoFloor", "it names no floor; another policy may"),
        Some(id) if floor_ready(id) => Fact::yes(fact, format!("{}/{} is ready", id.0, id.1)),
        Some(id) => Fact::no(
            fact,
            "FloorNotReady",
            format!("{}/{} is not ready", id.0, id.1),
        ),
    }
}

/// Digest of the spec that a revision keeps.
pub(crate) fn revision_digest(revision: &ControllerRevision) -> Option<&String> {
    revision.annotations().get(DIGEST)
}

const DIGEST: &str = "inferencemesh.dev/digest";

/// The revision that keeps an accepted spec; none if it is the newest already. `kept`: oldest first.
pub(crate) fn revision(
    read: &Read,
    verdict: &Verdict,
    kept: &[ControllerRevision],
) -> Option<ControllerRevision> {
    let digest = verdict
        .digest
        .as_ref()
        .filter(|_| verdict.fault.is_none())?;
    let newest = kept.last();
    if newest.and_then(revision_digest) == Some(digest) {
        return None;
    }
    let (name, number) = (
        read.name(),
        newest.map_or(0, |revision| revision.revision) + 1,
    );
    let uid = read.raw.metadata.uid.clone().unwrap_or_default();
    // One name per number: whoever has not seen the newest yet cannot make a second one of its number. A policy that
    // had this name had another uid.
    let ending = format!("{}-{number}", uid.chars().take(8).collect::<String>());
    Some(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(cache::child(&name, &ending)),
            namespace: read.raw.namespace(),
            labels: Some(BTreeMap::from([
                (label::POLICY.to_owned(), cache::label_value(&name)),
                (MANAGED.0.to_owned(), MANAGED.1.to_owned()),
            ])),
            annotations: Some(BTreeMap::from([(DIGEST.to_owned(), digest.clone())])),
            owner_references: Some(vec![OwnerReference {
                api_version: label::API_VERSION.to_owned(),
                kind: String::from("SovereigntyPolicy"),
                name,
                uid,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": read.raw.data.get("spec")}))),
        revision: number,
    })
}

#[cfg(test)]
mod tests;
