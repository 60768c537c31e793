use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use mesh_crds::condition;
use serde_json::json;

use super::{Found, Verdict, newest, revision, status};
use crate::status::Fact;
use crate::world::Read;

fn read(name: &str, uid: &str) -> Read {
    let object = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy",
        "metadata": {"namespace": "a", "name": name, "uid": uid, "generation": 1}, "spec": {"made": uid}});
    Read::new(Arc::new(serde_json::from_value(object).unwrap()))
}

fn good(digest: &str) -> Verdict {
    Verdict {
        digest: Some(digest.to_owned()),
        ..Verdict::default()
    }
}

fn bad(digest: &str) -> Verdict {
    Verdict {
        fault: Some((String::from("TestsFailed"), String::from("its own"))),
        ..good(digest)
    }
}

/// Status of its condition `Accepted`.
fn accepted(verdict: &Verdict, kept: &[ControllerRevision]) -> String {
    let found = Found {
        verdict,
        kept,
        floor_ready: &|_| true,
        enforced: Fact::yes("Enforced", ""),
    };
    let said = status(&read("p", "u"), found, jiff::Timestamp::UNIX_EPOCH);
    let conditions = said["conditions"].as_array().unwrap();
    let one = conditions
        .iter()
        .find(|one| one["type"] == condition::ACCEPTED);
    one.unwrap()["status"].as_str().unwrap().to_owned()
}

fn keep(kept: &mut Vec<ControllerRevision>, verdict: &Verdict) {
    kept.extend(revision(&read("p", "u"), verdict, kept));
}

#[test]
fn what_was_accepted_stays_so_and_an_older_spec_that_comes_back_must_be_accepted_anew() {
    let mut kept = Vec::new();
    assert_eq!(accepted(&bad("a"), &kept), "False");
    keep(&mut kept, &good("a"));
    assert_eq!(accepted(&good("a"), &kept), "True");
    assert_eq!(accepted(&bad("a"), &kept), "True", "it is in force");
    keep(&mut kept, &good("b"));
    assert_eq!(accepted(&bad("a"), &kept), "False", "b is in force");
    keep(&mut kept, &bad("a"));
    assert_eq!(kept.len(), 2);
    keep(&mut kept, &good("a"));
    assert_eq!(accepted(&bad("a"), &kept), "True");
    let numbers: Vec<i64> = kept.iter().map(|one| one.revision).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn the_version_of_a_policy_is_not_that_of_one_that_had_its_name() {
    let of =
        |name: &str, uid: &str| revision(&read(name, uid), &good("0123456789ab"), &[]).unwrap();
    let (old, new) = (of("p", "11111111-a"), of("p", "22222222-b"));
    assert_ne!(old.metadata.name, new.metadata.name);
    let kept = [Arc::new(old)];
    assert_eq!(newest(&kept, &read("p", "22222222-b").raw), None);
    assert_eq!(
        newest(&kept, &read("p", "11111111-a").raw),
        Some(json!({"made": "11111111-a"}))
    );
}

#[test]
fn a_long_name_of_a_policy_makes_a_name_and_a_label_that_can_be_written() {
    for name in [
        "x".repeat(253),
        format!("{}.{}", "y".repeat(62), "z".repeat(50)),
    ] {
        let made = revision(&read(&name, "0123456789"), &good("0123456789ab"), &[]).unwrap();
        let label = made.metadata.labels.unwrap()["inferencemesh.dev/policy"].clone();
        for text in [made.metadata.name.unwrap(), label] {
            assert!(text.len() <= 63, "{text}");
            assert!(
                text.ends_with(|c: char| c.is_ascii_alphanumeric()),
                "{text}"
            );
        }
    }
}
