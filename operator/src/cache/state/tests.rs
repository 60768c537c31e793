//! What is done for a ModelCache, and what is refused.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use mesh_crds::model_cache::Quantization;
use serde_json::{Value, json};

use super::{Obstacle, State};
use crate::cache::build::Task;
use crate::cache::testing::{Around, see, state};

const RIGHT: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const OTHER: &str = "0179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const THEN: &str = "2026-01-01T00:00:00Z";

fn unpinned() -> Value {
    json!({"artifacts": [{"path": "m.gguf"}], "sources": [{"http": {"url": "https://a.example/"}}]})
}

fn volume(more: &Value) -> Value {
    let mut spec = json!({
        "artifacts": [{"path": "m.gguf", "sha256": RIGHT}], "sources": [{"builtin": {}}],
        "storage": {"persistentVolumeClaim": {"size": "1Gi"}},
    });
    for (key, value) in more.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    spec
}

fn claim() -> PersistentVolumeClaim {
    serde_json::from_value(json!({"metadata": {"name": "m-models", "uid": "claim"}}))
        .expect("a claim")
}

fn artifact(digest: &str, at: &str) -> Value {
    json!({"path": "m.gguf", "sha256": digest, "sizeBytes": 7, "source": "https://a", "verifiedAt": at})
}

/// A Job that succeeded and the pod that said so.
fn done(name: &str, words: &Value) -> (Job, Pod) {
    let job = json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    let pod = json!({
        "metadata": {"name": name, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": name}]},
        "status": {"containerStatuses": [{"name": "fetch", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": words.to_string()}}}]},
    });
    (
        serde_json::from_value(job).expect("a Job"),
        serde_json::from_value(pod).expect("a pod"),
    )
}

fn add(around: &mut Around, name: &str, words: &Value) {
    let (job, pod) = done(name, words);
    around.jobs.push(job);
    around.fetchers.push(pod);
}

fn fetch_name(state: &State) -> String {
    state.fetch.as_ref().expect("a fetch").work.name.clone()
}

#[test]
fn a_file_without_a_digest_is_fetched_once_to_pin_it() {
    let before = state(&unpinned(), &json!({}));
    let doing = before.fetch.as_ref().expect("a Job");
    assert_eq!(doing.work.task, Task::Pin);
    assert!(matches!(before.serves(None, 1), Err(Obstacle::Waiting(..))));

    let mut around = Around::default();
    add(
        &mut around,
        &fetch_name(&before),
        &json!({"artifacts": [artifact(RIGHT, THEN)]}),
    );
    let after = see(&unpinned(), &around);
    assert_eq!(
        after.artifacts[0].sha256.as_ref().map(|one| one.0.as_str()),
        Some(RIGHT)
    );
    assert_eq!(after.serves(None, 5), Ok(()));
}

#[test]
fn a_pin_is_never_changed_by_what_somebody_reports_later() {
    let mut around = Around {
        status: json!({"artifacts": [artifact(RIGHT, THEN)]}),
        ..Around::default()
    };
    let name = {
        let fresh = state(&unpinned(), &json!({}));
        fetch_name(&fresh)
    };
    add(
        &mut around,
        &name,
        &json!({"artifacts": [artifact(OTHER, "2027-01-01T00:00:00Z")]}),
    );
    let state = see(&unpinned(), &around);
    assert_eq!(
        state.artifacts[0].sha256.as_ref().map(|one| one.0.as_str()),
        Some(RIGHT)
    );
    assert_eq!(state.failures[0].reason, "DigestMismatch");
}

#[test]
fn a_pod_of_a_backend_cannot_pin() {
    let words = json!({"artifacts": [artifact(OTHER, THEN)]}).to_string();
    let worker: Pod = serde_json::from_value(json!({
        "metadata": {"name": "w"},
        "status": {"initContainerStatuses": [{"name": "fetch", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": words}}}]},
    }))
    .expect("a pod");
    let state = see(
        &unpinned(),
        &Around {
            workers: vec![worker],
            ..Around::default()
        },
    );
    assert!(state.known.is_empty() && !state.pinned());
}

#[test]
fn a_pinned_file_in_pods_needs_no_job() {
    let spec =
        json!({"artifacts": [{"path": "m.gguf", "sha256": RIGHT}], "sources": [{"builtin": {}}]});
    let state = state(&spec, &json!({}));
    assert_eq!(state.doings().count(), 0);
    assert_eq!(state.serves(None, 3), Ok(()));
}

#[test]
fn a_volume_is_filled_after_it_was_made_and_served_after_it_was_filled() {
    let nothing = state(&volume(&json!({})), &json!({}));
    assert_eq!(nothing.doings().count(), 0, "there is no claim to fill yet");
    let mut around = Around {
        claim: Some(claim()),
        ..Around::default()
    };
    let empty = see(&volume(&json!({})), &around);
    assert!(matches!(empty.serves(None, 1), Err(Obstacle::Waiting(..))));
    add(
        &mut around,
        &fetch_name(&empty),
        &json!({"artifacts": [artifact(RIGHT, THEN)]}),
    );
    let filled = see(&volume(&json!({})), &around);
    assert!(filled.fetched());
    assert_eq!(filled.serves(None, 1), Ok(()));
    let Err(Obstacle::Fault(reason, _)) = filled.serves(None, 2) else {
        panic!("one node's volume cannot serve two replicas");
    };
    assert_eq!(reason, "VolumeNotShared");
}

#[test]
fn another_spec_and_another_volume_are_other_work() {
    let around = |uid: &str| {
        let mut claim = claim();
        claim.metadata.uid = Some(uid.to_owned());
        Around {
            claim: Some(claim),
            ..Around::default()
        }
    };
    let one = fetch_name(&see(&volume(&json!({})), &around("a")));
    assert_eq!(one, fetch_name(&see(&volume(&json!({})), &around("a"))));
    assert_ne!(one, fetch_name(&see(&volume(&json!({})), &around("b"))));
    let sources = json!({"sources": [{"builtin": {}}, {"pvc": {"claimName": "c"}}]});
    assert_ne!(one, fetch_name(&see(&volume(&sources), &around("a"))));
}

#[test]
fn a_job_that_ended_without_a_word_is_made_again() {
    let mut around = Around {
        claim: Some(claim()),
        ..Around::default()
    };
    let name = fetch_name(&see(&volume(&json!({})), &around));
    add(&mut around, &name, &json!("panicked"));
    let state = see(&volume(&json!({})), &around);
    assert_eq!(state.again(Timestamp::UNIX_EPOCH), [name.as_str()]);
}

#[test]
fn a_failed_job_is_made_again_after_a_rest() {
    let mut around = Around {
        claim: Some(claim()),
        ..Around::default()
    };
    let name = fetch_name(&see(&volume(&json!({})), &around));
    let failed = json!({"metadata": {"name": name, "uid": "j"}, "status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": THEN}]}});
    around
        .jobs
        .push(serde_json::from_value(failed).expect("a Job"));
    let state = see(&volume(&json!({})), &around);
    let at = |text: &str| text.parse::<Timestamp>().expect("a time");
    assert!(state.again(at("2026-01-01T00:05:00Z")).is_empty());
    assert_eq!(state.again(at("2026-01-01T00:11:00Z")), [name.as_str()]);
}

fn filled(more: &Value, now: &str) -> (Value, Around) {
    let mut around = Around {
        claim: Some(claim()),
        now: now.parse().expect("a time"),
        ..Around::default()
    };
    let spec = volume(more);
    let name = fetch_name(&see(&spec, &around));
    add(
        &mut around,
        &name,
        &json!({"artifacts": [artifact(RIGHT, THEN)]}),
    );
    (spec, around)
}

#[test]
fn a_smaller_version_is_made_from_exactly_this_original() {
    let (spec, mut around) = filled(&json!({"derive": [{"quantization": "Q8_0"}]}), THEN);
    let to = Some(Quantization::Q80);
    let before = see(&spec, &around);
    let name = before.derived[0]
        .doing
        .as_ref()
        .expect("a Job")
        .work
        .name
        .clone();
    assert!(matches!(before.serves(to, 1), Err(Obstacle::Waiting(..))));
    assert_eq!(before.serves(None, 1), Ok(()), "the original is there");

    let made = |parent: &str| json!({"sha256": OTHER, "sizeBytes": 3, "parentSha256": parent, "tool": "t", "quantization": "Q8_0"});
    add(&mut around, &name, &made(OTHER));
    assert!(
        see(&spec, &around).derived[0].made.is_none(),
        "of another original"
    );
    around.jobs.pop();
    around.fetchers.pop();
    add(&mut around, &name, &made(RIGHT));
    let after = see(&spec, &around);
    assert_eq!(after.serves(to, 1), Ok(()));
    let (plain, around) = filled(&json!({}), THEN);
    assert!(matches!(
        see(&plain, &around).serves(to, 1),
        Err(Obstacle::Fault(..))
    ));
}

#[test]
fn files_are_proven_again_when_that_is_due_and_not_before() {
    let more = json!({"verification": {"interval": "24h"}});
    let (spec, around) = filled(&more, "2026-01-01T23:00:00Z");
    assert!(see(&spec, &around).verify.is_none());
    let (spec, mut around) = filled(&more, "2026-01-02T00:00:01Z");
    let due = see(&spec, &around).verify.expect("a proof is due").work;
    assert!(matches!(due.task, Task::Verify { .. }));
    // Proven: the record stays, and the next proof is due a day later.
    let later = "2026-01-02T00:00:05Z";
    add(
        &mut around,
        &due.name,
        &json!({"artifacts": [artifact(RIGHT, later)],
        "failures": [{"artifact": "m.gguf", "source": "the store", "reason": "DigestMismatch", "message": "w", "quarantined": true}]}),
    );
    let proven = see(&spec, &around);
    assert_eq!(proven.known[0].verified_at, later);
    assert_eq!(
        proven.verify.as_ref().map(|doing| doing.work.name.clone()),
        Some(due.name)
    );
    assert!(proven.failures[0].quarantined && proven.again(around.now).is_empty());
}

#[test]
fn a_proof_of_the_future_does_not_end_the_proofs() {
    const FAR: &str = "2100-01-01T00:00:00Z";
    let more = json!({"verification": {"interval": "24h"}});
    let (spec, mut around) = filled(&more, "2026-01-02T00:00:00Z");
    around.status = json!({"artifacts": [artifact(RIGHT, FAR)]});
    // The fetch is long gone, and nothing tells when it was.
    around.fetchers.clear();
    let due = see(&spec, &around).verify.expect("a proof is due").work;
    let (mut job, pod) = done(&due.name, &json!({"artifacts": [artifact(RIGHT, FAR)]}));
    let ended = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"}]});
    job.status = serde_json::from_value(ended).expect("a status");
    around.jobs.push(job);
    around.fetchers.push(pod);
    let proven = see(&spec, &around);
    assert_eq!(proven.known[0].verified_at, "2026-01-02T00:00:00Z");
    assert!(proven.again(around.now).is_empty());

    around.status = json!({"artifacts": proven.known});
    around.now = "2026-01-03T00:00:01Z".parse().expect("a time");
    let next = see(&spec, &around).verify.expect("a proof").work;
    assert_ne!(next.name, due.name, "the next is due a day later");
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let cases = [
        (
            json!({"verification": {"interval": "1h"}}),
            "NotSupportedYet",
            "use persistentVolumeClaim",
        ),
        (
            json!({"storage": {"nodeLocal": {"storageClassName": "l"}}}),
            "InvalidSpec",
            "diskBudget is needed",
        ),
        (
            json!({"sources": [{"pvc": {"claimName": "c", "path": "../x"}}]}),
            "InvalidSpec",
            "without `..`",
        ),
        (
            json!({"artifacts": [{"path": "m.safetensors", "sha256": RIGHT}], "derive": [{"quantization": "Q8_0"}]}),
            "InvalidSpec",
            "GGUF",
        ),
    ];
    for (more, reason, words) in cases {
        let mut spec = volume(&more);
        if more.get("storage").is_none() {
            spec["storage"] = json!({"emptyDir": {}});
        }
        let (found, message) = state(&spec, &json!({})).fault.expect(words);
        assert_eq!(found, reason);
        assert!(message.contains(words), "{message}");
    }
}
