//! Before and after, and what is told of it.

use serde_json::{Value, json};

use super::{of_backend, of_policy};
use crate::events::Story;

fn status(conditions: &[(&str, &str, &str, &str)], rest: &Value) -> Value {
    let one = |(type_, status, reason, message): &(&str, &str, &str, &str)| json!({"type": type_, "status": status, "reason": reason, "message": message});
    let mut whole = rest.clone();
    whole["conditions"] = conditions.iter().map(one).collect();
    whole
}

fn backend(ready: &str, reason: &str, message: &str, class: &str) -> Value {
    let stalled = if reason == "NameTaken" {
        "True"
    } else {
        "False"
    };
    status(
        &[
            ("Ready", ready, reason, message),
            ("Stalled", stalled, reason, message),
        ],
        &json!({"sovereignty": {"class": class, "evidence": ["node x"]}}),
    )
}

#[test]
fn a_backend_is_told_of_when_it_becomes_ready_or_no_longer_is_and_why() {
    let at_work = backend("False", "Progressing", "0 of 1", "OwnHardware");
    let ready = backend("True", "Succeeded", "1 of 1", "OwnHardware");
    let broken = backend("False", "ImagePullBackOff", "no such image", "OwnHardware");
    let more = backend(
        "False",
        "ImagePullBackOff",
        "no such image: 2",
        "OwnHardware",
    );
    let taken = backend("False", "NameTaken", "somebody has it", "OwnHardware");
    let tell = |old: &Value, new: &Value| of_backend(old, new);

    assert_eq!(tell(&Value::Null, &at_work), [], "that is nobody's news");
    let story = Story::normal("Ready", "Reconcile", "1 of 1").change();
    for old in [&at_work, &Value::Null] {
        assert_eq!(tell(old, &ready), std::slice::from_ref(&story));
    }
    let story = Story::normal("Progressing", "Reconcile", "0 of 1").change();
    assert_eq!(tell(&ready, &at_work), [story]);
    let story = Story::warning("ImagePullBackOff", "Reconcile", "no such image").change();
    assert_eq!(tell(&at_work, &broken), [story]);
    let story = Story::warning("NameTaken", "Reconcile", "somebody has it").change();
    assert_eq!(tell(&Value::Null, &taken), [story]);
    for (old, new) in [(&ready, &ready), (&broken, &more), (&taken, &taken)] {
        assert_eq!(tell(old, new), [], "it says the same: {old} {new}");
    }
}

#[test]
fn another_class_is_told_and_a_worse_one_is_a_warning() {
    let own = backend("True", "Succeeded", "", "OwnHardware");
    let rented = backend("True", "Succeeded", "", "RentedHardware");
    let mut unknown = own.clone();
    unknown["sovereignty"] = Value::Null;
    let note = "from OwnHardware to RentedHardware: node x";
    let story = Story::warning("ClassChanged", "Classify", note).change();
    assert_eq!(of_backend(&own, &rented), [story]);
    let note = "from RentedHardware to OwnHardware: node x";
    let story = Story::normal("ClassChanged", "Classify", note).change();
    assert_eq!(of_backend(&rented, &own), [story]);
    assert_eq!(of_backend(&unknown, &own), []);
    assert_eq!(of_backend(&own, &unknown), []);
}

/// Accepted, tests, floor; digest and names of failed tests.
fn policy(accepted: bool, floor: bool, digest: &str, failed: &[&str]) -> Value {
    let word = |good: bool| if good { "True" } else { "False" };
    let failed: Vec<Value> = failed.iter().map(|name| json!({"name": name})).collect();
    let first = failed.first().map(|one| format!("fails `{}`", one["name"]));
    let message = first.unwrap_or_else(|| String::from("decides"));
    let reason = if failed.is_empty() {
        "Succeeded"
    } else {
        "TestsFailed"
    };
    let tests = word(failed.is_empty());
    let there = if floor { "Succeeded" } else { "FloorNotReady" };
    status(
        &[
            ("Accepted", word(accepted), reason, &message),
            ("TestsPassing", tests, reason, &message),
            ("FloorAvailable", word(floor), there, "floor"),
        ],
        &json!({"digest": digest, "tests": {"failed": failed}}),
    )
}

#[test]
fn a_policy_is_told_of_when_it_is_accepted_or_not_and_its_failed_tests_are_named() {
    let good = policy(true, true, "0123456789abcdef", &[]);
    let bad = policy(false, true, "1", &["cards", "names"]);
    let later = policy(true, true, "0123456789abcdef", &["cards"]);
    let reasons = |old: &Value, new: &Value| -> Vec<String> {
        let all = of_policy(old, new);
        all.iter().map(|story| format!("{story:?}")).collect()
    };
    let first = reasons(&Value::Null, &good).join("\n");
    assert!(first.contains("spec 0123456789: decides") && first.contains("Accepted"));
    let refused = reasons(&good, &bad).join("\n");
    assert!(
        refused.contains("TestsFailed") && refused.contains("all that fail: cards, names"),
        "{refused}"
    );
    assert!(refused.contains("warning: true"), "{refused}");
    let failing = reasons(&good, &later);
    assert!(
        failing.len() == 1 && failing[0].contains("TestsFailed"),
        "{failing:?}"
    );
    assert!(!failing[0].contains("not accepted"), "{failing:?}");
    let passing = reasons(&later, &good);
    assert!(
        passing.len() == 1 && passing[0].contains("TestsPassing"),
        "{passing:?}"
    );
    let next = policy(true, true, "2", &[]);
    assert!(reasons(&good, &next).join("\n").contains("spec 2"));
    for same in [&good, &bad, &later] {
        assert_eq!(of_policy(same, same), []);
    }
}

#[test]
fn a_floor_that_cannot_answer_is_told_and_that_it_can_again() {
    let good = policy(true, true, "1", &[]);
    let gone = policy(true, false, "1", &[]);
    let story = Story::warning("FloorNotReady", "Observe", "floor").change();
    assert_eq!(of_policy(&good, &gone), [story]);
    let story = Story::normal("FloorAvailable", "Observe", "floor").change();
    assert_eq!(of_policy(&gone, &good), [story]);
    assert_eq!(of_policy(&gone, &gone), []);
}

#[test]
fn that_the_gateways_cannot_use_a_backend_is_told_and_that_they_can_again() {
    let health = |state: &str, reason: Value| {
        let mut status = backend("True", "Succeeded", "", "CloudForeign");
        status["health"] = json!({"state": state, "reason": reason, "since": "x"});
        status
    };
    let before = backend("True", "Succeeded", "", "CloudForeign");
    let well = health("Healthy", Value::Null);
    let down = health("Unhealthy", json!("Failures"));
    let other = health("Unhealthy", json!("RateLimited"));
    assert_eq!(of_backend(&before, &well), [], "that is nobody's news");
    let note = "the gateways leave it alone: Failures";
    let story = Story::warning("Unhealthy", "Observe", note).change();
    assert_eq!(of_backend(&well, &down), [story]);
    assert_eq!(of_backend(&down, &other), []);
    let story = Story::normal("Healthy", "Observe", "the gateways are answered").change();
    assert_eq!(of_backend(&down, &well), [story]);
}

#[test]
fn a_record_that_nobody_keeps_is_told_of_once() {
    let good = policy(true, true, "1", &[]);
    let mut asks = good.clone();
    asks["conflicts"] = json!(["something else", crate::policy::NO_LEDGER]);
    let story = Story::warning("LedgerMissing", "Judge", crate::policy::NO_LEDGER).change();
    assert_eq!(of_policy(&good, &asks), [story]);
    assert_eq!(of_policy(&asks, &asks), []);
    assert_eq!(of_policy(&asks, &good), []);
}
