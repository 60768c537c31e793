//! What a ModelCache says of itself.

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{status, unreadable};
use crate::cache::outcome::Phase;
use crate::cache::report::{Failure, progress};
use crate::cache::state::State;
use crate::cache::testing::state;
use crate::world::Read;

const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

fn read(spec: &Value, status: &Value) -> Read {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache",
        "metadata": {"name": "m", "namespace": "team", "uid": "cache", "generation": 1}, "spec": spec, "status": status,
    }))
    .expect("an object");
    Read::new(Arc::new(object))
}

fn spec(sha256: Option<&str>) -> Value {
    json!({"artifacts": [{"path": "m.gguf", "sha256": sha256}], "sources": [{"builtin": {}}]})
}

fn said(state: &State) -> Value {
    status(
        &read(&spec(Some(DIGEST)), &json!({})),
        state,
        None,
        Timestamp::UNIX_EPOCH,
    )
}

fn condition<'v>(status: &'v Value, type_: &str) -> &'v Value {
    let all = status["conditions"].as_array().expect("conditions");
    all.iter().find(|one| one["type"] == type_).expect(type_)
}

#[test]
fn a_cache_that_pods_fetch_for_themselves_is_ready_and_claims_nothing_that_nobody_saw() {
    let said = said(&state(&spec(Some(DIGEST)), &json!({})));
    assert_eq!(condition(&said, "Ready")["status"], "True");
    for unseen in ["Fetched", "Verified", "Distributed"] {
        assert_eq!(condition(&said, unseen)["status"], "Unknown", "{unseen}");
    }
    assert!(said.get("progress").is_none() && said.get("nodes").is_none());
}

#[test]
fn progress_is_told_while_a_fetch_runs_and_its_numbers_are_in_no_message() {
    let mut state = state(&spec(None), &json!({}));
    let doing = state.fetch.as_mut().expect("a fetch");
    doing.outcome.phase = Phase::Running;
    doing.outcome.progress = progress(
        r#"{"source": "s", "bytesDone": 4711, "bytesTotal": 9999, "bytesPerSecond": 5, "etaSeconds": 7}"#,
    );
    let said = said(&state);
    assert_eq!(said["progress"]["bytesDone"], 4711);
    assert_eq!(condition(&said, "Reconciling")["status"], "True");
    assert!(!said["conditions"].to_string().contains("4711"));
}

#[test]
fn a_bad_source_is_told_also_where_the_next_one_had_the_file() {
    let known = json!({"artifacts": [{"path": "m.gguf", "sha256": DIGEST, "sizeBytes": 1, "source": "https://b", "verifiedAt": "2026-01-01T00:00:00Z"}]});
    let mut state = state(&spec(Some(DIGEST)), &known);
    state.failures.push(Failure {
        artifact: String::from("m.gguf"),
        source: String::from("https://a"),
        reason: String::from("Truncated"),
        message: String::from("it ended early"),
        quarantined: true,
    });
    let said = said(&state);
    let resolved = condition(&said, "SourceResolved");
    assert_eq!(resolved["status"], "True");
    let message = resolved["message"].as_str().expect("a message");
    assert!(
        message.contains("from https://b; m.gguf from https://a: Truncated, quarantined"),
        "{message}"
    );
    assert_eq!(said["artifacts"], known["artifacts"]);
}

#[test]
fn a_failed_fetch_tells_its_last_reason() {
    let mut state = state(&spec(None), &json!({}));
    let doing = state.fetch.as_mut().expect("a fetch");
    doing.outcome.phase = Phase::Failed;
    doing.outcome.problem = Some((String::from("DiskFull"), String::from("no space left")));
    let said = said(&state);
    for type_ in ["Ready", "Fetched"] {
        assert_eq!(condition(&said, type_)["reason"], "DiskFull", "{type_}");
    }
    assert_eq!(
        condition(&said, "Stalled")["status"],
        "False",
        "it is tried again"
    );
}

#[test]
fn a_full_volume_is_not_blamed_on_its_source_and_says_when_it_is_tried_again() {
    let mut state = state(&spec(None), &json!({}));
    let full = Failure {
        artifact: String::from("m.gguf"),
        source: String::from("https://a"),
        reason: String::from("DiskFull"),
        message: String::from("no space left (it has 9 bytes, there is room for 7)"),
        quarantined: false,
    };
    let doing = state.fetch.as_mut().expect("a fetch");
    doing.outcome.phase = Phase::Failed;
    doing.outcome.failures.push(full.clone());
    state.failures.push(full);
    let told = said(&state);
    for type_ in ["Ready", "Fetched"] {
        let one = condition(&told, type_);
        assert_eq!(one["reason"], "DiskFull", "{type_}");
        let message = one["message"].as_str().expect("a message");
        for words in ["it has 9 bytes", "tried again once the volume has grown"] {
            assert!(message.contains(words), "{message}");
        }
    }
    let resolved = condition(&told, "SourceResolved");
    assert_eq!(resolved["status"], "True", "{resolved}");
    // Where a source failed as well, that is told.
    let mut gone = state.failures[0].clone();
    gone.reason = String::from("NotFound");
    state.failures.insert(0, gone);
    let resolved = condition(&said(&state), "SourceResolved").clone();
    assert_eq!(resolved["reason"], "NotFound", "{resolved}");
}

#[test]
fn a_pin_outlives_a_spec_that_cannot_be_read() {
    let pinned = json!({"artifacts": [{"path": "m.gguf", "sha256": DIGEST, "sizeBytes": 1, "source": "s", "verifiedAt": "2026-01-01T00:00:00Z"}]});
    let read = read(
        &json!({"artifacts": [], "sources": [{"peers": {}}]}),
        &pinned,
    );
    let said = unreadable(&read, Timestamp::UNIX_EPOCH);
    assert_eq!(said["artifacts"], pinned["artifacts"]);
    assert_eq!(condition(&said, "Stalled")["status"], "True");
}

#[test]
fn the_same_is_said_the_same_way() {
    let state = state(&spec(Some(DIGEST)), &json!({}));
    let first = said(&state);
    let again = status(
        &read(&spec(Some(DIGEST)), &first),
        &state,
        None,
        Timestamp::now(),
    );
    assert_eq!(first, again, "or it would be written for ever");
}

#[test]
fn many_files_that_a_bad_source_did_not_have_fit_into_a_status() {
    let mut state = state(&spec(None), &json!({}));
    let doing = state.fetch.as_mut().expect("a fetch");
    doing.outcome.phase = Phase::Failed;
    for number in 0..128 {
        doing.outcome.failures.push(Failure {
            artifact: format!("{number}-{}", "a".repeat(100)),
            source: format!("https://a.example/{}", "p".repeat(100)),
            reason: String::from("NotFound"),
            message: "m".repeat(300),
            quarantined: false,
        });
    }
    state.failures.clone_from(&doing.outcome.failures);
    let said = said(&state);
    for one in said["conditions"].as_array().expect("conditions") {
        let message = one["message"].as_str().expect("a message");
        assert!(message.len() < 8 * 1024, "{one}");
    }
    for type_ in ["Ready", "SourceResolved", "Fetched"] {
        let one = condition(&said, type_);
        assert_eq!(one["reason"], "NotFound", "{type_}");
        let message = one["message"].as_str().expect("a message");
        assert!(message.contains("0-aaa") && message.ends_with(" and 120 more"));
    }
}

#[test]
fn peers_as_a_source_are_refused_before_anything_is_made() {
    let read = read(
        &json!({"artifacts": [{"path": "m.gguf"}], "sources": [{"peers": {}}]}),
        &json!({}),
    );
    assert!(read.object().is_none(), "or a Job would be made of it");
    let said = unreadable(&read, Timestamp::UNIX_EPOCH);
    let ready = condition(&said, "Ready");
    assert_eq!(ready["reason"], "NotSupportedYet");
    let message = ready["message"].as_str().expect("a message");
    assert!(
        message.contains("not supported yet: spec.sources[0].peers (use builtin"),
        "{message}"
    );
}
