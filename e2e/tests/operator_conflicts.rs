//! The operator where others write too, and where kinds come and go: on a real API server, without nodes.
#![expect(
    clippy::unwrap_used,
    reason = "a chapter that cannot go on ends by a panic"
)]

use std::process::ExitCode;
use std::time::Duration;

use mesh_cluster::Tier;
use mesh_e2e::stage::{Stage, backend, cache, children, cloud, namespace, policy};
use mesh_e2e::{operator, rights, story};
use serde_json::{Value, json};

#[path = "operator_conflicts/peers.rs"]
mod peers;
#[path = "operator_conflicts/rarely.rs"]
mod rarely;

const SOON: Duration = Duration::from_secs(30);
const BACKENDS: &str = "crd/inferencebackends.inferencemesh.dev";

const CHAPTERS: &[story::Chapter<Stage>] = &[
    (
        "a_kind_that_is_not_installed_is_named_and_waited_for",
        absent,
    ),
    (
        "a_kind_that_is_removed_while_the_operator_runs_is_named_and_waited_for",
        removed,
    ),
    ("a_kind_of_another_version_is_not_mistaken_for_ours", older),
    (
        "what_a_second_manager_adds_stays_and_what_is_ours_comes_back",
        second_manager,
    ),
    ("what_somebody_edits_or_deletes_by_hand_comes_back", by_hand),
    (
        "what_is_no_longer_wanted_goes_also_from_what_was_only_created",
        unwanted,
    ),
    (
        "a_name_that_somebody_has_is_not_taken_over_and_the_backend_says_so",
        taken,
    ),
    (
        "what_a_backend_no_longer_is_goes_and_what_is_not_ours_stays",
        becomes_a_cloud,
    ),
    (
        "what_happens_to_an_object_is_told_of_it_once_and_a_pass_that_finds_nothing_new_is_silent",
        told,
    ),
    (
        "another_mesh_is_judged_and_shown_and_never_ready_and_says_why",
        peers::judged,
    ),
    (
        "names_that_pods_cannot_have_are_refused_and_long_ones_of_policies_are_fine",
        rarely::unusable,
    ),
    (
        "a_budget_that_somebody_changed_is_ours_again",
        rarely::budget,
    ),
    (
        "pods_get_volumes_of_their_own_and_give_them_up",
        rarely::own_volumes,
    ),
    (
        "a_volume_and_its_jobs_go_when_they_are_not_wanted",
        rarely::volume,
    ),
    (
        "of_a_policy_that_changes_often_the_last_accepted_specs_are_kept",
        rarely::often,
    ),
    (
        "an_authority_is_followed_by_another_before_it_ends",
        rarely::authority,
    ),
    ("no_right_was_missing_for_any_of_this", |stage| {
        assert_eq!(stage.refused().unwrap(), Vec::<String>::new());
    }),
    (
        "rights_that_no_other_story_needs_were_used_here",
        rights_used,
    ),
];

fn main() -> ExitCode {
    story::run(
        || Stage::start("conflicts", Tier::ControlPlane),
        CHAPTERS,
        Stage::diagnosis,
    )
}

fn room(stage: &Stage, name: &str) {
    stage.apply(&namespace(name)).unwrap();
    stage.apply(&cache(name, "model")).unwrap();
}

fn complete(stage: &Stage, namespace: &str, name: &str) {
    let all = || Ok((stage.made(namespace)? == children(name)).then_some(()));
    stage.until("all children are there", SOON, all).unwrap();
}

fn absent(stage: &Stage) {
    stage.kubectl(&["delete", BACKENDS]).unwrap();
    let operator = stage.begin(&stage.settings("absent").unwrap()).unwrap();
    let only = || {
        let text = operator.get("/readyz")?.text();
        let one = text.lines().count() == 1;
        Ok((one && text.contains("install the custom resource definitions")).then_some(text))
    };
    let text = stage.until("one kind is missing", SOON, only).unwrap();
    assert!(
        text.contains("InferenceBackend have not been listed yet"),
        "{text}"
    );
    operator::kinds(&stage.cluster).unwrap();
    operator.readiness(200, "ready", SOON).unwrap();
    room(stage, "absent");
    stage.apply(&backend("absent", "a", "model", 1)).unwrap();
    complete(stage, "absent", "a");
    assert!(operator.terminate().unwrap().success());
}

fn removed(stage: &Stage) {
    let operator = stage.lead("removed").unwrap();
    operator.readiness(200, "ready", SOON).unwrap();
    stage.kubectl(&["delete", BACKENDS]).unwrap();
    operator
        .readiness(503, "InferenceBackend can no longer be listed", SOON)
        .unwrap();
    operator::kinds(&stage.cluster).unwrap();
    operator.readiness(200, "ready", SOON).unwrap();
    room(stage, "removed");
    stage.apply(&backend("removed", "a", "model", 1)).unwrap();
    complete(stage, "removed", "a");
    assert!(operator.terminate().unwrap().success());
}

fn older(stage: &Stage) {
    stage.kubectl(&["delete", BACKENDS]).unwrap();
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let foreign = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "inferencebackends.inferencemesh.dev"},
        "spec": {"group": "inferencemesh.dev", "scope": "Namespaced",
            "names": {"plural": "inferencebackends", "singular": "inferencebackend", "kind": "InferenceBackend", "listKind": "InferenceBackendList"},
            "versions": [{"name": "v1alpha0", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}}]}});
    stage.apply(&foreign).unwrap();
    let operator = stage.begin(&stage.settings("older").unwrap()).unwrap();
    operator
        .readiness(503, "does not serve that kind", SOON)
        .unwrap();
    stage.kubectl(&["delete", BACKENDS]).unwrap();
    operator::kinds(&stage.cluster).unwrap();
    operator.readiness(200, "ready", SOON).unwrap();
    assert!(operator.terminate().unwrap().success());
}

/// Server-side apply by somebody who insists.
fn insist(stage: &Stage, object: &Value) {
    let file = stage.cluster.folder().join("insist.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let file = file.display().to_string();
    stage
        .kubectl(&[
            "apply",
            "--server-side",
            "--field-manager=other",
            "--force-conflicts",
            "-f",
            &file,
        ])
        .unwrap();
}

fn second_manager(stage: &Stage) {
    let operator = stage.lead("second").unwrap();
    room(stage, "second");
    stage.apply(&backend("second", "a", "model", 1)).unwrap();
    complete(stage, "second", "a");
    stage.settled(&operator, SOON).unwrap();
    insist(
        stage,
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "second", "name": "a-worker"},
            "spec": {"replicas": 5, "template": {"metadata": {"annotations": {"other": "stays"}}}}}),
    );
    let deployment = || stage.get(&["-n", "second", "deployment", "a-worker"]);
    stage
        .until("the number of replicas is ours again", SOON, || {
            Ok((deployment()?["spec"]["replicas"] == 1).then_some(()))
        })
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    let found = deployment().unwrap();
    assert_eq!(
        found["spec"]["template"]["metadata"]["annotations"]["other"],
        "stays"
    );
    // No fight: another pass over the same backend does not write what both can live with again.
    stage
        .kubectl(&[
            "annotate",
            "-n",
            "second",
            "inferencebackend/a",
            "look=again",
        ])
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(
        deployment().unwrap()["metadata"]["resourceVersion"],
        found["metadata"]["resourceVersion"]
    );
    assert!(operator.terminate().unwrap().success());
}

fn by_hand(stage: &Stage) {
    let operator = stage.lead("hand").unwrap();
    room(stage, "hand");
    stage.apply(&backend("hand", "a", "model", 1)).unwrap();
    complete(stage, "hand", "a");
    for kind in ["deployment", "service", "serviceaccount", "networkpolicy"] {
        stage
            .kubectl(&["delete", "-n", "hand", kind, "a-worker"])
            .unwrap();
    }
    complete(stage, "hand", "a");
    let open = r#"{"spec": {"egress": [{}], "ingress": [{}]}}"#;
    stage
        .kubectl(&[
            "patch",
            "-n",
            "hand",
            "networkpolicy",
            "a-worker",
            "--type=merge",
            "-p",
            open,
        ])
        .unwrap();
    stage
        .until("nothing goes out again", SOON, || {
            let policy = stage.get(&["-n", "hand", "networkpolicy", "a-worker"])?;
            // To the operator and to DNS, each by name of a place.
            let named = |rule: &Value| rule["to"].as_array().is_some_and(|to| !to.is_empty());
            let egress = policy["spec"]["egress"].as_array();
            let closed = egress.is_some_and(|rules| rules.len() == 2 && rules.iter().all(named));
            let ways = policy["spec"]["ingress"].as_array().map(Vec::len);
            Ok((closed && ways == Some(2)).then_some(()))
        })
        .unwrap();
    let ours = [
        "service/a-worker",
        "serviceaccount/a-worker",
        "configmap/mesh-trust",
    ];
    relabeled(stage, "hand", &ours);
    // Without its label it is out of sight, and still ours.
    stage
        .kubectl(&[
            "label",
            "-n",
            "hand",
            "deployment",
            "a-worker",
            "app.kubernetes.io/managed-by-",
        ])
        .unwrap();
    complete(stage, "hand", "a");
    assert!(operator.terminate().unwrap().success());
}

/// Labels that somebody changed are ours again.
fn relabeled(stage: &Stage, namespace: &str, ours: &[&str]) {
    let label = "app.kubernetes.io/part-of";
    for object in ours {
        let other = format!("{label}=other");
        stage
            .kubectl(&["label", "-n", namespace, object, &other, "--overwrite"])
            .unwrap();
    }
    for object in ours {
        let mended = || {
            let found = stage.get(&["-n", namespace, object])?;
            Ok((found["metadata"]["labels"][label] == "inference-mesh").then_some(()))
        };
        stage
            .until("its label is ours again", SOON, mended)
            .unwrap();
    }
}

fn unwanted(stage: &Stage) {
    let operator = stage.lead("unwanted").unwrap();
    room(stage, "unwanted");
    let plain = backend("unwanted", "a", "model", 1);
    let mut placed = plain.clone();
    placed["spec"]["inCluster"]["nodeSelector"] = json!({"disk": "fast"});
    stage.apply(&placed).unwrap();
    complete(stage, "unwanted", "a");
    let selector = || {
        let found = stage.get(&["-n", "unwanted", "deployment", "a-worker"])?;
        Ok::<Value, anyhow::Error>(found["spec"]["template"]["spec"]["nodeSelector"].clone())
    };
    assert_eq!(selector().unwrap(), json!({"disk": "fast"}));
    stage.settled(&operator, SOON).unwrap();
    let wrote = stage.wrote().unwrap();
    let again = |line: &&String| line.starts_with("patch deployments unwanted/");
    assert_eq!(wrote.iter().find(again), None, "it is as it was created");
    let before = stage.asked().unwrap().len();
    stage.apply(&plain).unwrap();
    stage
        .until("no node is selected", SOON, || {
            Ok(selector()?.is_null().then_some(()))
        })
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    let asked = stage.asked().unwrap();
    let lists = asked[before..].iter().filter(|one| one["verb"] == "list");
    assert_eq!(lists.count(), 1, "its books are read once");
    // From now on it is applied like anything else.
    stage.apply(&placed).unwrap();
    stage
        .until("a node is selected again", SOON, || {
            Ok((selector()? == json!({"disk": "fast"})).then_some(()))
        })
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    let asked = stage.asked().unwrap();
    let lists = asked[before..].iter().filter(|one| one["verb"] == "list");
    assert_eq!(lists.count(), 1, "and never again");
    assert!(operator.terminate().unwrap().success());
}

fn taken(stage: &Stage) {
    let operator = stage.lead("taken").unwrap();
    room(stage, "taken");
    // One that would merge without a conflict, and that would go with the backend if it were taken over.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "taken", "name": "a-worker", "labels": {"app": "theirs"}}});
    stage.apply(&account).unwrap();
    let theirs = || stage.get(&["-n", "taken", "serviceaccount", "a-worker"]);
    let before = theirs().unwrap();
    stage.apply(&backend("taken", "a", "model", 1)).unwrap();
    let object = ["taken", "inferencebackend", "a"];
    let ready = stage.condition(object, "Ready", "False", SOON).unwrap();
    let ready = stage
        .until("the reason is told", SOON, || {
            let ready = if ready["reason"] == "NameTaken" {
                ready.clone()
            } else {
                stage.condition(object, "Ready", "False", SOON)?
            };
            Ok((ready["reason"] == "NameTaken").then_some(ready))
        })
        .unwrap();
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.contains("ServiceAccount taken/a-worker"),
        "{message}"
    );
    stage.condition(object, "Stalled", "True", SOON).unwrap();
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(theirs().unwrap(), before);
    assert_eq!(stage.made("taken").unwrap(), Vec::<String>::new());
    stage
        .kubectl(&["delete", "-n", "taken", "serviceaccount", "a-worker"])
        .unwrap();
    complete(stage, "taken", "a");
    stage.condition(object, "Stalled", "False", SOON).unwrap();
    assert!(operator.terminate().unwrap().success());
}

fn becomes_a_cloud(stage: &Stage) {
    let operator = stage.lead("becomes").unwrap();
    room(stage, "becomes");
    stage.apply(&backend("becomes", "a", "model", 1)).unwrap();
    stage.apply(&backend("becomes", "b", "model", 1)).unwrap();
    let all = [children("a"), children("b")].concat();
    let both = || {
        let mut made = stage.made("becomes")?;
        made.sort_by_key(|name| name.split('/').next_back().map(str::to_owned));
        Ok((made == all).then_some(()))
    };
    stage.until("both have children", SOON, both).unwrap();
    // It looks like one of ours and is not.
    let theirs = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"namespace": "becomes", "name": "a-worker", "labels": {"app.kubernetes.io/managed-by": "mesh-operator"}},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "theirs"}}}});
    stage.apply(&theirs).unwrap();
    stage.apply(&cloud("becomes", "a")).unwrap();
    let mut left = children("b");
    left.insert(2, String::from("poddisruptionbudget.policy/a-worker"));
    let done = || Ok((stage.made("becomes")? == left).then_some(()));
    stage
        .until("only theirs and the other's are left", SOON, done)
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(stage.made("becomes").unwrap(), left);
    assert!(operator.terminate().unwrap().success());
}

fn rights_used(stage: &Stage) {
    let idle = rights::idle("operator_conflicts", &stage.cluster).unwrap();
    assert!(idle.is_empty(), "not used: {idle:?}");
}

/// Type, reason and note of the events of an object, oldest first.
fn events(stage: &Stage, namespace: &str, kind: &str) -> Vec<[String; 3]> {
    let all = stage
        .get(&["-n", namespace, "events.events.k8s.io"])
        .unwrap();
    let mut all: Vec<&Value> = all["items"].as_array().unwrap().iter().collect();
    all.retain(|one| one["regarding"]["kind"] == kind);
    all.sort_by_key(|one| one["eventTime"].as_str().unwrap().to_owned());
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    all.into_iter()
        .map(|one| ["type", "reason", "note"].map(|key| word(one, key)))
        .collect()
}

fn told(stage: &Stage) {
    let operator = stage.lead("told").unwrap();
    stage.floor().unwrap();
    // Else the story would also be of a floor that begins to answer in the middle of it.
    let answers = || {
        let floor = stage.get(&["-n", operator::HOME, "inferencebackend/floor"])?;
        Ok((floor["status"]["endpoints"] == 1).then_some(()))
    };
    stage.until("the floor answers", SOON, answers).unwrap();
    stage.apply(&namespace("told")).unwrap();
    stage.apply(&cloud("told", "a")).unwrap();
    let backend = ["told", "inferencebackend", "a"];
    stage.condition(backend, "Ready", "True", SOON).unwrap();
    let mut failing = policy("told", "p");
    failing["spec"]["tests"] = json!([{"name": "greetings stay home", "request": {"text": "Hello", "privacy": "Public"},
        "expect": {"privacy": "Restricted"}}]);
    stage.apply(&failing).unwrap();
    let judged = ["told", "sovereigntypolicy", "p"];
    stage.condition(judged, "Accepted", "False", SOON).unwrap();
    stage.settled(&operator, SOON).unwrap();
    stage.apply(&policy("told", "p")).unwrap();
    stage.condition(judged, "Accepted", "True", SOON).unwrap();
    stage.settled(&operator, SOON).unwrap();

    let of_backend = events(stage, "told", "InferenceBackend");
    let reasons: Vec<&str> = of_backend.iter().map(|one| one[1].as_str()).collect();
    assert_eq!(reasons, ["Ready"], "{of_backend:?}");
    let of_policy = events(stage, "told", "SovereigntyPolicy");
    // What is accepted has a floor, and that one answers.
    let (floor, judged): (Vec<_>, Vec<_>) =
        of_policy.iter().partition(|one| one[1] == "FloorAvailable");
    assert_eq!((floor.len(), judged.len()), (1, 2), "{of_policy:?}");
    let (refused, accepted) = (judged[0], judged[1]);
    assert_eq!([&refused[0], &refused[1]], ["Warning", "TestsFailed"]);
    assert!(refused[2].contains("greetings stay home"), "{refused:?}");
    assert_eq!([&accepted[0], &accepted[1]], ["Normal", "Accepted"]);

    for object in ["inferencebackend/a", "sovereigntypolicy/p"] {
        stage
            .kubectl(&["annotate", "-n", "told", object, "look=again"])
            .unwrap();
    }
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(events(stage, "told", "InferenceBackend"), of_backend);
    assert_eq!(events(stage, "told", "SovereigntyPolicy"), of_policy);
    assert!(operator.terminate().unwrap().success());
}
