//! Runs the tests that policies carry: the very decision that a request would get, with everything
//! declared assumed to be well. Classification is passed in, since it is another room's.
//!
//! Nothing is sent to other meshes yet, so no test finds itself served by one. What a policy keeps away
//! (`lowestClass`, `denied`) is judged as if they served: a promise must not break on the day they do.

use mesh_core::policy_test::{PolicyTest, TestRequest};
use mesh_core::{
    Caller, Candidate, Constraint, Decision, DecisionId, Facts, Policy, PolicyId, Snapshot, Verdict,
};
use serde::Serialize;

use crate::candidate::AUTO;
use crate::decide::{DecideInput, decide};
use crate::health::AssumedHealth;
use crate::policy::{EffectivePolicy, join};

/// Label under which Kubernetes tells a namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What came of one test of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// The policy that carries the test.
    pub policy: PolicyId,
    /// Name of the test.
    pub name: String,
    /// True if everything expected held.
    pub passed: bool,
    /// What did not hold, for a person; empty if it passed. No text of the request.
    pub message: String,
}

/// Runs the tests of `policies` (empty = of all policies in the snapshot), in order.
///
/// `classify` makes the facts of a test's request under the policy that holds for its caller.
pub fn run(
    snapshot: &Snapshot,
    policies: &[PolicyId],
    classify: &dyn Fn(&TestRequest, &EffectivePolicy) -> Facts,
    now: jiff::Timestamp,
) -> Vec<TestOutcome> {
    snapshot
        .policies
        .iter()
        .filter(|policy| policies.is_empty() || policies.contains(&policy.id))
        .flat_map(|policy| policy.tests.iter().map(move |test| (policy, test)))
        .map(|(policy, test)| {
            let failures = run_one(snapshot, policy, test, classify, now);
            TestOutcome {
                policy: policy.id.clone(),
                name: test.name.clone(),
                passed: failures.is_empty(),
                message: failures.join("; "),
            }
        })
        .collect()
}

/// A caller that `policy` selects: its ServiceAccount if the test names one, else one in the
/// policy's own reach. Labels that the selector asks for are assumed, a namespace's name is not.
pub fn caller_for(
    policy: &Policy,
    mesh_namespace: &str,
    service_account: Option<&(String, String)>,
) -> Caller {
    let labels = &policy.namespaces.match_labels;
    let own = if policy.id.namespace == mesh_namespace {
        labels
            .get(NAME_LABEL)
            .map_or(mesh_namespace, String::as_str)
    } else {
        &policy.id.namespace
    };
    let (tenant, account) = match service_account {
        Some((namespace, name)) => (namespace.as_str(), Some(name.clone())),
        None => (own, policy.service_accounts.first().cloned()),
    };
    let mut caller = Caller::local(tenant);
    caller.tenant_labels.clone_from(labels);
    caller
        .tenant_labels
        .insert(NAME_LABEL.to_owned(), tenant.to_owned());
    if let Some(account) = &account {
        caller.subject = format!("serviceaccount:{tenant}:{account}");
    }
    caller.service_account = account;
    caller
}

fn run_one(
    snapshot: &Snapshot,
    policy: &Policy,
    test: &PolicyTest,
    classify: &dyn Fn(&TestRequest, &EffectivePolicy) -> Facts,
    now: jiff::Timestamp,
) -> Vec<String> {
    let account = test.request.service_account.as_ref();
    let caller = caller_for(policy, &snapshot.mesh_namespace, account);
    let effective = join(snapshot, &caller);
    let facts = classify(&test.request, &effective);
    let id = DecisionId(String::from("policy-test"));
    let decided = decide(&DecideInput {
        snapshot,
        policy: &effective,
        facts: &facts,
        model: test.request.model.as_deref().unwrap_or(AUTO),
        health: &AssumedHealth::without(test.unavailable.iter().cloned()),
        now,
        id: &id,
    });
    failures(test, &decided.decision)
}

fn failures(test: &PolicyTest, decision: &Decision) -> Vec<String> {
    let expect = &test.expect;
    let mut failures = Vec::new();
    if let Some(level) = expect.privacy
        && level != decision.privacy
    {
        failures.push(format!("privacy is {}, expected {level}", decision.privacy));
    }
    if let Some(lowest) = expect.lowest_class {
        failures.extend(
            decision
                .plan
                .iter()
                .filter(|entry| entry.class < lowest)
                .map(|entry| {
                    format!(
                        "the plan holds {} of class {}, expected nothing below {lowest}",
                        entry.backend, entry.class
                    )
                }),
        );
    }
    if let Some(lowest) = expect.lowest_class {
        failures.extend(
            waiting(decision)
                .filter(|peer| peer.class < lowest && !down(test, peer))
                .map(|peer| {
                    format!(
                        "the policy allows the other mesh {} of class {}, expected nothing below {lowest}",
                        peer.backend, peer.class
                    )
                }),
        );
    }
    if let Some(expected) = &expect.served_by {
        let serves = decision.plan.first();
        if !serves.is_some_and(|entry| {
            entry.backend.name == *expected || entry.backend.to_string() == *expected
        }) {
            let instead = serves.map_or_else(
                || format!("nobody ({})", told(&decision.verdict)),
                |entry| entry.backend.to_string(),
            );
            failures.push(format!("served by {instead}, expected {expected}"));
        }
    }
    if let Some(denied) = expect.denied {
        failures.extend(denial(decision, denied));
    }
    failures
}

/// True if the test takes it as unavailable.
fn down(test: &PolicyTest, candidate: &Candidate) -> bool {
    let id = &candidate.backend;
    let mut names = test.unavailable.iter();
    names.any(|name| *name == id.name || *name == id.to_string())
}

/// Other meshes that policy allows and that nothing is sent to yet.
fn waiting(decision: &Decision) -> impl Iterator<Item = &Candidate> {
    let candidates = decision.candidates.iter();
    candidates.filter(|candidate| {
        let refusal = candidate.refusal.as_ref();
        refusal.is_some_and(|refusal| refusal.constraint == Constraint::PeerTraffic)
    })
}

/// `denied: true` = backends were considered and policy refused all of them.
fn denial(decision: &Decision, expected: bool) -> Option<String> {
    let admitted: Vec<String> = decision
        .candidates
        .iter()
        .filter(|candidate| candidate.refusal.is_none())
        .map(|candidate| candidate.backend.to_string())
        .collect();
    if let Verdict::ModelNotFound { .. } = decision.verdict {
        return Some(told(&decision.verdict));
    }
    if expected && let Some(peer) = waiting(decision).next() {
        return Some(format!(
            "expected a denial, but the policy allows the other mesh {}",
            peer.backend
        ));
    }
    match (expected, admitted.is_empty()) {
        (true, false) => Some(format!(
            "expected a denial, but admitted: {}",
            admitted.join(", ")
        )),
        (false, true) => Some(format!(
            "expected an answer, but {}",
            told(&decision.verdict)
        )),
        _ => None,
    }
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Planned => String::from("there is a plan"),
        Verdict::PolicyDenied { constraints } => {
            let words: Vec<&str> = constraints.iter().map(|one| one.as_str()).collect();
            format!("policy denied: {}", words.join(", "))
        }
        Verdict::NoBackend { message } => format!("no backend: {message}"),
        Verdict::ModelNotFound { usable } => {
            format!("no such model; usable: {}", usable.join(", "))
        }
        Verdict::ContextLengthExceeded { largest } => {
            format!("larger than every admitted window (largest {largest})")
        }
        Verdict::UnsupportedParameter { fields } => {
            format!("unsupported parameter: {}", fields.join(", "))
        }
    }
}
