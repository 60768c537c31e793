//! Files of a ModelCache in a volume: the claim, the Jobs that fill it, make a smaller version and prove it again, and
//! that all of it goes when the files are kept elsewhere. The test is the Job controller, the kubelet, and what protects
//! claims.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use mesh_e2e::lives::Act;
use mesh_e2e::stage::{Stage, backend, cache, namespace};
use serde_json::{Value, json};

use crate::room::Room;
use crate::{AFTER, around, settings, told};

const ROOM: &str = "files";
const RIGHT: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const SMALLER: &str = "0179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// A pod that has the claim, and is slow to go.
const OLD: &str = "old-0";

fn kept(storage: &Value) -> Value {
    let mut kept = cache(ROOM, "kept");
    kept["spec"]["artifacts"] = json!([{"path": "m.gguf", "sha256": RIGHT}]);
    kept["spec"]["sources"] = json!([{"http": {"url": "https://files.example/"}}, {"builtin": {}}]);
    kept["spec"]["derive"] = json!([{"quantization": "Q8_0"}]);
    kept["spec"]["storage"] = storage.clone();
    if !storage["persistentVolumeClaim"].is_null() {
        kept["spec"]["verification"] = json!({"interval": "24h"});
    }
    kept
}

/// What the pod of a Job says in the end. What was fetched two days ago has to be proven again.
fn words(job: &str) -> Value {
    if job.contains("-quantize-") {
        return json!({"sha256": SMALLER, "sizeBytes": 3, "parentSha256": RIGHT, "tool": "t", "quantization": "Q8_0"});
    }
    let now = Timestamp::now();
    let ago = SignedDuration::from_hours(if job.contains("-fetch-") { 48 } else { 0 });
    let proven = now.checked_sub(ago).unwrap().to_string();
    json!({"artifacts": [{"path": "m.gguf", "sha256": RIGHT, "sizeBytes": 7, "source": "builtin", "verifiedAt": proven}]})
}

fn pod(name: &str, labels: &Value, more: Value) -> Value {
    let mut spec = json!({"nodeName": "only", "containers": [{"name": "worker", "image": "none"}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": ROOM, "name": name, "labels": labels}, "spec": spec})
}

/// What the Job controller and the kubelet do with a Job.
fn finish(stage: &Stage, job: &Value) -> Result<()> {
    let name = job["metadata"]["name"].as_str().context("a name")?;
    let template = &job["spec"]["template"];
    let mut made = pod(
        &format!("{name}-1"),
        &template["metadata"]["labels"],
        json!({}),
    );
    made["spec"] = template["spec"].clone();
    made["spec"]["nodeName"] = json!("only");
    made["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name,
        "uid": job["metadata"]["uid"], "controller": true}]);
    stage.apply(&made)?;
    let container = &made["spec"]["containers"][0]["name"];
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": words(name).to_string()}});
    let said = json!({"phase": "Succeeded", "containerStatuses": [{"name": container, "image": "i", "imageID": "i",
        "ready": false, "restartCount": 0, "state": ended}]});
    stage.says(ROOM, &format!("pod/{name}-1"), &said)?;
    let at = Timestamp::now().to_string();
    let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": at, "lastProbeTime": at});
    let done = json!({"startTime": at, "completionTime": at, "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
    stage.says(ROOM, &format!("job/{name}"), &done)
}

fn jobs(stage: &Stage) -> Result<()> {
    let all = stage.get(&["-n", ROOM, "jobs"])?;
    let all = all["items"].as_array().context("a list")?;
    let waits = |job: &&Value| {
        job["status"]["completionTime"].is_null() && job["metadata"]["deletionTimestamp"].is_null()
    };
    all.iter()
        .filter(waits)
        .try_for_each(|job| finish(stage, job))
}

/// There is one Job of each sort.
fn one_each(room: &Room, sorts: &[&str]) -> Result<()> {
    let jobs = room.of("Job");
    ensure!(jobs.len() == sorts.len(), "{jobs:?}");
    for sort in sorts {
        ensure!(jobs.iter().any(|job| job.starts_with(sort)), "{jobs:?}");
    }
    Ok(())
}

fn mounts(spec: &Value) -> bool {
    let volumes = spec["volumes"].as_array();
    let mut claims = volumes.into_iter().flatten();
    claims.any(|volume| volume["persistentVolumeClaim"]["claimName"] == "kept-models")
}

fn filled(stage: &Stage) -> Result<()> {
    let room = Room::look(stage, ROOM)?;
    one_each(&room, &["kept-fetch-", "kept-quantize-", "kept-verify-"])?;
    for condition in ["Ready", "Fetched", "Verified", "Quantized"] {
        room.says(["ModelCache", "kept"], condition, "True")?;
    }
    let claims = room.of("PersistentVolumeClaim");
    ensure!(claims == ["kept-models"], "{claims:?}");
    let mut networks = room.of("NetworkPolicy");
    networks.sort_unstable();
    ensure!(networks == ["kept-jobs", "served-worker"], "{networks:?}");
    let deployment = room.one("Deployment", "served-worker")?;
    ensure!(mounts(&deployment["spec"]["template"]["spec"]), "no claim");
    room.generation("Deployment", "served-worker", 1)?;
    let status = &room.one("ModelCache", "kept")?["status"];
    ensure!(status["derived"][0]["sha256"] == SMALLER, "{status}");
    Ok(())
}

/// The claim is not going while a pod has it; and what protects claims lets it go then.
fn protected(stage: &Stage, looks: &Cell<u32>) -> Result<()> {
    let room = Room::look(stage, ROOM)?;
    let template = &room.one("Deployment", "served-worker")?["spec"]["template"]["spec"];
    let old = stage.get(&["-n", ROOM, "pod", OLD]).is_ok();
    let claim = room.one("PersistentVolumeClaim", "kept-models");
    let going = claim.is_ok_and(|claim| !claim["metadata"]["deletionTimestamp"].is_null());
    if mounts(template) || old {
        ensure!(!going, "a claim is taken from under its pods");
    }
    if old && !mounts(template) {
        // For a while two generations of pods are there.
        looks.set(looks.get() + 1);
        if looks.get() > 3 {
            let delete = [
                "delete",
                "pod",
                "-n",
                ROOM,
                OLD,
                "--force",
                "--grace-period=0",
            ];
            stage.kubectl(&delete)?;
        }
    }
    if going {
        let free = r#"{"metadata": {"finalizers": null}}"#;
        let patch = ["patch", "pvc", "kept-models", "-n", ROOM, "--type=merge"];
        stage.kubectl(&[&patch[..], &["-p", free]].concat())?;
    }
    Ok(())
}

fn emptied(stage: &Stage) -> Result<()> {
    let room = Room::look(stage, ROOM)?;
    one_each(&room, &[])?;
    let claims = room.of("PersistentVolumeClaim");
    ensure!(claims.is_empty(), "{claims:?}");
    let deployment = room.one("Deployment", "served-worker")?;
    ensure!(!mounts(&deployment["spec"]["template"]["spec"]), "a claim");
    room.generation("Deployment", "served-worker", 2)?;
    let serving = stage.get(&["-n", ROOM, "pod", "serving-0"])?;
    let open = &serving["metadata"]["labels"]["inferencemesh.dev/fetching"];
    ensure!(open.is_null(), "it may still go out");
    room.says(["ModelCache", "kept"], "Ready", "True")
}

/// Two pods of the backend: one that has the claim, and one that has fetched and may still go out.
fn pods(stage: &Stage) {
    let of = json!({"inferencemesh.dev/backend": "served"});
    let has = json!({"volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "kept-models"}}]});
    stage.apply(&pod(OLD, &of, has)).unwrap();
    let opened =
        json!({"inferencemesh.dev/backend": "served", "inferencemesh.dev/fetching": "true"});
    let fetches = json!({"initContainers": [{"name": "fetch", "image": "none"}]});
    stage.apply(&pod("serving-0", &opened, fetches)).unwrap();
    let ended = json!({"phase": "Running", "initContainerStatuses": [{"name": "fetch", "image": "i", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]});
    stage.says(ROOM, "pod/serving-0", &ended).unwrap();
}

pub(crate) fn volume(stage: &Stage) {
    around(stage);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": ROOM, "name": "default"}});
    let claim = json!({"persistentVolumeClaim": {"size": "1Gi"}});
    for object in [
        namespace(ROOM),
        account,
        kept(&claim),
        backend(ROOM, "served", "kept", 1),
    ] {
        stage.apply(&object).unwrap();
    }
    let act = |aside| Act {
        settings: settings(stage),
        moments: AFTER,
        aside,
        stage,
    };
    // As in an installation.
    let own = &[
        "POST service",
        "POST configmaps",
        "POST networkpolicies files/served",
    ];
    let played = act(own).play(|| jobs(stage), || filled(stage)).unwrap();
    told(&played);
    let steps = [
        "POST persistentvolumeclaims files/kept-models",
        "POST networkpolicies files/kept-jobs",
        "POST networkpolicies files/kept-fetching",
        "POST jobs files/kept-fetch-",
        "POST jobs files/kept-quantize-",
        "POST jobs files/kept-verify-",
        "DELETE networkpolicies files/kept-fetching",
        "POST deployments files/served-worker",
        "APPLY modelcaches/status files/kept",
    ];
    played.ended_at(&steps).unwrap();

    pods(stage);
    stage.apply(&kept(&json!({"emptyDir": {}}))).unwrap();
    let looks = Cell::new(0);
    let played = act(&[]).play(|| protected(stage, &looks), || emptied(stage));
    let played = played.unwrap();
    told(&played);
    let steps = [
        "DELETE jobs files/kept-fetch-",
        "DELETE jobs files/kept-quantize-",
        "DELETE jobs files/kept-verify-",
        "DELETE networkpolicies files/kept-jobs",
        "APPLY deployments files/served-worker",
        "DELETE persistentvolumeclaims files/kept-models",
        "PATCH pods files/serving-0",
    ];
    played.ended_at(&steps).unwrap();
}
