//! Judges a snapshot as a whole before anything is decided from it: every policy must pass its own
//! tests and admit something. The findings point into the files.

use jiff::Timestamp;
use mesh_core::policy_test::TestRequest;
use mesh_core::{Facts, ObjectId, Snapshot};
use mesh_crds::{Document, Kind, Position, Problem, ProblemKind, Severity};
use mesh_routing::check::ProblemKind as Finding;
use mesh_routing::policy_test::TestOutcome;
use mesh_routing::{EffectivePolicy, policy_test};

use crate::Hints;
use crate::decide::facts;

/// Everything that speaks against using this snapshot, and what somebody should look at.
pub fn judge(documents: &[Document], snapshot: &Snapshot, now: Timestamp) -> Vec<Problem> {
    let mut problems: Vec<Problem> = mesh_routing::check::check(snapshot, now)
        .into_iter()
        .map(|found| {
            let (kind, id, field) = match (&found.policy, &found.backend) {
                (Some(policy), _) => (Kind::SovereigntyPolicy, Some(policy), field_of(found.kind)),
                (None, Some(backend)) => (Kind::InferenceBackend, Some(backend), "spec.models"),
                (None, None) => (Kind::SovereigntyPolicy, None, ""),
            };
            let severity = if found.kind.blocking() {
                Severity::Error
            } else {
                Severity::Warning
            };
            problem(
                documents,
                snapshot,
                (kind, id),
                field,
                severity,
                found.message,
            )
        })
        .collect();
    for outcome in tests(snapshot, now)
        .into_iter()
        .filter(|outcome| !outcome.passed)
    {
        let field = test_field(snapshot, &outcome);
        let message = format!(
            "the policy fails its own test `{}`: {}",
            outcome.name, outcome.message
        );
        let about = (Kind::SovereigntyPolicy, Some(&outcome.policy));
        problems.push(problem(
            documents,
            snapshot,
            about,
            &field,
            Severity::Error,
            message,
        ));
    }
    problems
}

/// Runs the tests of all policies, in order. Declared backends are taken as healthy.
pub fn tests(snapshot: &Snapshot, now: Timestamp) -> Vec<TestOutcome> {
    policy_test::run(snapshot, &[], &facts_of, now)
}

/// The facts of a test's request: classified by the very same code as a caller's.
fn facts_of(test: &TestRequest, policy: &EffectivePolicy) -> Facts {
    let request = mesh_classify::test_request(test);
    facts(
        &request,
        policy,
        Hints {
            privacy: test.privacy,
            task: test.task,
            latency: None,
        },
    )
}

fn field_of(kind: Finding) -> &'static str {
    match kind {
        Finding::NoFloor
        | Finding::FloorMissing
        | Finding::FloorNotOwned
        | Finding::FloorRefused => "spec.floor.backendRef",
        Finding::OwnershipIgnored | Finding::OwnershipIntersected => "spec.ownership",
        Finding::AdmitsNothing | Finding::AdmitsNothingAtLevel => "spec.constraints",
        Finding::NoPolicy | Finding::EmbeddingConflict => "spec",
    }
}

fn test_field(snapshot: &Snapshot, outcome: &TestOutcome) -> String {
    let policy = snapshot
        .policies
        .iter()
        .find(|policy| policy.id == outcome.policy);
    let index = policy.and_then(|policy| {
        policy
            .tests
            .iter()
            .position(|test| test.name == outcome.name)
    });
    index.map_or_else(
        || String::from("spec.tests"),
        |index| format!("spec.tests[{index}]"),
    )
}

fn problem(
    documents: &[Document],
    snapshot: &Snapshot,
    (kind, id): (Kind, Option<&ObjectId>),
    field: &str,
    severity: Severity,
    message: String,
) -> Problem {
    let namespace = |document: &Document| {
        document
            .object
            .namespace()
            .unwrap_or(&snapshot.mesh_namespace)
            .to_owned()
    };
    let document = id.and_then(|id| {
        documents.iter().find(|document| {
            let object = &document.object;
            object.kind() == kind && object.name() == id.name && namespace(document) == id.namespace
        })
    });
    match document {
        Some(document) => Problem {
            severity,
            ..document.problem(ProblemKind::Rule, field, message)
        },
        None => Problem {
            file: documents
                .first()
                .map_or_else(|| String::from("."), |first| first.file().to_owned()),
            at: Position::START,
            field: String::new(),
            kind: ProblemKind::Rule,
            severity,
            message,
        },
    }
}
