//! A policy's own tests.

use mesh_core::policy_test::{Expectation, PolicyTest, TestRequest};
use mesh_core::{Facts, Policy, PrivacyLevel, SovereigntyClass};
use mesh_routing::EffectivePolicy;
use mesh_routing::policy_test::{TestOutcome, caller_for, run};

use crate::world::{World, cloud, facts, floor, now, policy, selector, silent, team_policy};

/// Stands for classification: "card" is restricted.
fn classify(request: &TestRequest, policy: &EffectivePolicy) -> Facts {
    let found = if request.text.contains("card") {
        PrivacyLevel::Restricted
    } else {
        PrivacyLevel::Public
    };
    let level = request.privacy.map_or(found, |header| header.max(found));
    facts(level.max(policy.base_level()))
}

fn test(text: &str, unavailable: &[&str], expect: Expectation) -> PolicyTest {
    PolicyTest {
        name: text.to_owned(),
        request: TestRequest {
            text: text.to_owned(),
            ..TestRequest::default()
        },
        unavailable: unavailable.iter().map(|&name| name.to_owned()).collect(),
        expect,
    }
}

fn outcomes(tests: Vec<PolicyTest>) -> Vec<TestOutcome> {
    let carrying = Policy { tests, ..policy() };
    let world = World::new([cloud("a", 0.9), floor()], [carrying]);
    run(&world.snapshot, &[], &classify, now())
}

fn served_by(name: &str) -> Expectation {
    Expectation {
        served_by: Some(name.to_owned()),
        ..Expectation::default()
    }
}

#[test]
fn the_three_promises_of_the_sample_policy_hold() {
    let passed = outcomes(vec![
        test(
            "my card",
            &[],
            Expectation {
                privacy: Some(PrivacyLevel::Restricted),
                lowest_class: Some(SovereigntyClass::OwnHardware),
                ..Expectation::default()
            },
        ),
        test("hello", &["a"], served_by("floor")),
        test("hello", &[], served_by("a")),
    ]);
    assert_eq!(passed.len(), 3);
    for outcome in passed {
        assert!(outcome.passed && outcome.message.is_empty(), "{outcome:?}");
    }
}

#[test]
fn what_does_not_hold_is_told_with_what_came_instead() {
    let failed = outcomes(vec![
        test("hello", &[], served_by("floor")),
        test(
            "hello",
            &[],
            Expectation {
                privacy: Some(PrivacyLevel::Restricted),
                lowest_class: Some(SovereigntyClass::OwnHardware),
                denied: Some(true),
                ..Expectation::default()
            },
        ),
    ]);
    assert_eq!(failed[0].message, "served by a, expected floor");
    let message = &failed[1].message;
    for part in [
        "privacy is public",
        "holds a of class CloudDomestic",
        "expected a denial",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(failed.iter().all(|outcome| !outcome.passed));
}

#[test]
fn denied_means_that_nothing_is_admitted() {
    let denied = |expected| Expectation {
        denied: Some(expected),
        ..Expectation::default()
    };
    let carrying = Policy {
        tests: vec![
            test("my card", &[], denied(true)),
            test("hello", &["a"], denied(false)),
        ],
        ..policy()
    };
    let world = World::new([cloud("a", 0.9)], [carrying]);
    let outcomes = run(&world.snapshot, &[], &classify, now());
    assert!(
        outcomes.iter().all(|outcome| outcome.passed),
        "{outcomes:?}"
    );
}

#[test]
fn a_model_that_nobody_serves_fails_a_test_of_denial() {
    let mut wrong = test(
        "hello",
        &[],
        Expectation {
            denied: Some(true),
            ..Expectation::default()
        },
    );
    wrong.request.model = Some(String::from("typo"));
    let outcomes = outcomes(vec![wrong]);
    assert!(!outcomes[0].passed && outcomes[0].message.contains("no such model"));
}

#[test]
fn only_the_named_policies_are_run() {
    let mut other = silent("other");
    other.tests = vec![test("hello", &[], served_by("floor"))];
    let carrying = Policy {
        tests: vec![test("hello", &[], served_by("a"))],
        ..policy()
    };
    let world = World::new([cloud("a", 0.9), floor()], [carrying, other]);
    let ids = [world.snapshot.policies[0].id.clone()];
    let outcomes = run(&world.snapshot, &ids, &classify, now());
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].policy.name, "other");
}

#[test]
fn a_test_speaks_for_a_caller_that_its_policy_selects() {
    let mut selecting = silent("s");
    selecting.namespaces = selector("team", "hr");
    selecting.service_accounts = vec![String::from("bot")];
    let caller = caller_for(&selecting, "default", None);
    assert_eq!(caller.tenant, "default");
    assert_eq!(caller.service_account.as_deref(), Some("bot"));
    assert!(mesh_routing::policy::matches(
        &selecting, "default", &caller
    ));

    selecting.namespaces = selector("kubernetes.io/metadata.name", "hr");
    let caller = caller_for(&selecting, "default", None);
    assert_eq!(caller.tenant, "hr");
    let account = (String::from("lab"), String::from("bot"));
    let stranger = caller_for(&selecting, "default", Some(&account));
    assert!(!mesh_routing::policy::matches(
        &selecting, "default", &stranger
    ));

    let team = team_policy("lab", "t");
    assert_eq!(caller_for(&team, "default", None).tenant, "lab");
}
