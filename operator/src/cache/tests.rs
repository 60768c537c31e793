//! What is told of a ModelCache, and how much of it.

use std::sync::{Arc, Mutex};

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::outcome::Phase;
use super::report::{Failure, LISTED};
use super::stories::{STORIES, say, stories};
use super::testing::state;
use super::{State, mounts};
use crate::apply::Writer;
use crate::events::{Events, Story};
use crate::metrics::Metrics;
use crate::pages::testing::server;
use crate::world::Read;

const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

fn spec() -> Value {
    let artifacts: Vec<Value> = (0..100)
        .map(|one| json!({"path": format!("m-{one}")}))
        .collect();
    json!({"artifacts": artifacts, "sources": [{"http": {"url": "https://a.example/"}}]})
}

fn told(state: &State, status: &Value) -> Vec<Story> {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache",
        "metadata": {"name": "m", "namespace": "team"}, "spec": spec(), "status": status,
    }))
    .expect("an object");
    stories(&Read::new(Arc::new(object)), state)
}

fn failures(number: usize) -> Vec<Failure> {
    let failure = |number| Failure {
        artifact: format!("m-{number}"),
        source: format!("https://a.example/{}", "p".repeat(600)),
        reason: String::from("NotFound"),
        message: String::from("it is not there"),
        quarantined: false,
    };
    (0..number).map(failure).collect()
}

#[test]
fn however_much_happens_few_events_are_written_in_one_pass() {
    let known = |one| json!({"path": format!("m-{one}"), "sha256": DIGEST, "sizeBytes": 1, "source": "s", "verifiedAt": "2026-01-01T00:00:00Z"});
    let status = json!({"artifacts": (0..100).map(known).collect::<Vec<_>>()});
    let mut state = state(&spec(), &status);
    state.failures = failures(60);
    let told = told(&state, &json!({}));
    assert_eq!(told.len(), STORIES + 1);
    let text = format!("{told:?}");
    assert_eq!(text.matches("SourceFailed").count(), LISTED, "{text}");
    let more = LISTED + 100 - STORIES;
    assert!(text.contains(&format!("{more} more")), "{text}");
}

#[test]
fn what_the_condition_names_is_not_told_again() {
    let mut state = state(&spec(), &json!({}));
    state.failures = failures(60);
    let doing = state.fetch.as_mut().expect("a fetch");
    doing.outcome.phase = Phase::Running;
    assert_eq!(told(&state, &json!({})).len(), LISTED);
    let read = Read::new(Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "m"}}))
        .expect("an object"),
    ));
    let status = super::status::status(&read, &state, None, jiff::Timestamp::UNIX_EPOCH);
    assert!(told(&state, &status).is_empty(), "{status}");
}

#[tokio::test]
async fn a_status_that_is_refused_keeps_no_event_back() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let client = server(move |path| {
        seen.lock().expect("a lock").push(path);
        // No object, so whatever is written has failed.
        Box::pin(async { json!("no") })
    });
    let writer = Writer::new(client.clone(), Metrics::default());
    let events = Events::new(client, "a");
    let object = json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "m", "namespace": "team"}});
    let read = Read::new(Arc::new(serde_json::from_value(object).expect("an object")));
    let story = Story::warning("SourceFailed", "Fetch", "it is not there");
    let said = say(
        &read,
        &json!({"a": 1}),
        [story].into_iter(),
        (&writer, &events),
    )
    .await;
    assert!(said.is_err());
    let asked = asked.lock().expect("a lock");
    assert!(asked[0].contains("/modelcaches/m/status"), "{asked:?}");
    assert!(asked[1].contains("/namespaces/team/events"), "{asked:?}");
}

#[test]
fn a_claim_is_kept_for_pods_that_have_it() {
    let claim = json!({"metadata": {"name": "m-model", "namespace": "team"}});
    let claim = serde_json::from_value(claim).expect("a claim");
    let volumes = json!([{"name": "cache", "emptyDir": {}}, {"name": "model", "persistentVolumeClaim": {"claimName": "m-model"}}]);
    let spec = json!({"containers": [], "volumes": volumes});
    let spec = serde_json::from_value(spec).expect("a pod");
    let (home, other) = (String::from("team"), String::from("other"));
    assert!(mounts(Some(&home), Some(&spec), &claim));
    assert!(!mounts(Some(&other), Some(&spec), &claim));
    let without = serde_json::from_value(json!({"containers": []})).expect("a pod");
    assert!(!mounts(Some(&home), Some(&without), &claim));
}
