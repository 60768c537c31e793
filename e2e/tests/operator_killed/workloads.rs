//! Pods that get volumes of their own and give them up: a StatefulSet in place of a Deployment and back, and one around
//! the pods of another. The test is the controllers: it says of a workload that it serves, and lets go what was released.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use mesh_e2e::lives::Act;
use mesh_e2e::stage::{Stage, backend, cache, namespace};
use serde_json::{Value, json};

use crate::room::Room;
use crate::{AFTER, around, settings, told};

const ROOM: &str = "moved";
const NAME: &str = "a-worker";
const KINDS: [&str; 2] = ["Deployment", "StatefulSet"];

fn stored(stage: &Stage, storage: &Value) {
    let mut cache = cache(ROOM, "model");
    cache["spec"]["storage"] = storage.clone();
    stage.apply(&cache).unwrap();
}

fn local(size: &str) -> Value {
    json!({"nodeLocal": {"storageClassName": "disks", "diskBudget": size}})
}

fn going(workload: &Value) -> bool {
    !workload["metadata"]["deletionTimestamp"].is_null()
}

/// Says of a workload what its controller would once its pod is ready.
fn serve(stage: &Stage, workload: &Value) -> Result<()> {
    let (status, generation) = (&workload["status"], &workload["metadata"]["generation"]);
    if status["observedGeneration"] == *generation || going(workload) {
        return Ok(());
    }
    let kind = workload["kind"].as_str().context("a kind")?.to_lowercase();
    stage.serves(ROOM, &format!("{kind}/{NAME}"))
}

/// What the collector of garbage does with what is deleted without what belongs to it.
fn let_go(stage: &Stage, workload: &Value) -> Result<()> {
    let finalizers = workload["metadata"]["finalizers"].as_array();
    let orphans = finalizers.is_some_and(|all| all.iter().any(|one| one == "orphan"));
    if !going(workload) || !orphans {
        return Ok(());
    }
    let free = r#"{"metadata": {"finalizers": null}}"#;
    let patch = ["patch", "statefulset", NAME, "-n", ROOM, "--type=merge"];
    stage
        .kubectl(&[&patch[..], &["-p", free]].concat())
        .map(drop)
}

/// Controllers at work. `released`: pods of the set that is made anew go on by themselves; else somebody always has them.
fn controllers(stage: &Stage, released: bool) -> Result<()> {
    let room = Room::look(stage, ROOM)?;
    let there = KINDS.map(|kind| room.one(kind, NAME).ok());
    let mut held = there.iter().flatten().filter(|one| !going(one));
    ensure!(released || held.next().is_some(), "no workload has pods");
    for workload in there.into_iter().flatten() {
        serve(stage, workload)?;
        let_go(stage, workload)?;
    }
    Ok(())
}

/// Only this one is there, with a volume of this size, if any.
fn alone(stage: &Stage, kind: &str, size: Option<&str>) -> Result<String> {
    let room = Room::look(stage, ROOM)?;
    for other in KINDS.iter().filter(|one| **one != kind) {
        ensure!(room.of(other).is_empty(), "{other}: {:?}", room.of(other));
    }
    let found = room.one(kind, NAME)?;
    ensure!(!going(found), "it is going");
    let claim = &found["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"];
    ensure!(claim["storage"].as_str() == size, "its volume: {claim}");
    room.generation(kind, NAME, 1)?;
    let uid = found["metadata"]["uid"].as_str().context("a uid")?;
    Ok(uid.to_owned())
}

pub(crate) fn moved(stage: &Stage) {
    around(stage);
    stage.apply(&namespace(ROOM)).unwrap();
    stored(stage, &json!({"emptyDir": {}}));
    stage.apply(&backend(ROOM, "a", "model", 1)).unwrap();
    let operator = stage.begin(&settings(stage)).unwrap();
    operator.leads(crate::SOON).unwrap();
    let there = || alone(stage, "Deployment", None).map(Some);
    stage.until("it is made", crate::SOON, there).unwrap();
    assert!(operator.terminate().unwrap().success());

    let last = RefCell::new(String::new());
    let play = |storage: Value, released: bool, kind: &str, size: Option<&str>, steps: &[&str]| {
        stored(stage, &storage);
        let before = last.borrow().clone();
        let done = || {
            let now = alone(stage, kind, size)?;
            ensure!(now != before, "it is the one from before");
            last.replace(now);
            Ok(())
        };
        let act = Act {
            settings: settings(stage),
            moments: AFTER,
            aside: &[],
            stage,
        };
        let played = act.play(|| controllers(stage, released), done).unwrap();
        told(&played);
        played.ended_at(steps).unwrap();
    };
    let (set, deployment) = ("StatefulSet", "Deployment");
    let comes = [
        "POST statefulsets moved/a-worker",
        "DELETE deployments moved/a-worker",
    ];
    play(local("1Gi"), false, set, Some("1Gi"), &comes);
    let anew = [
        "RELEASE statefulsets moved/a-worker",
        "POST statefulsets moved/a-worker",
    ];
    play(local("2Gi"), true, set, Some("2Gi"), &anew);
    let back = [
        "POST deployments moved/a-worker",
        "DELETE statefulsets moved/a-worker",
    ];
    play(json!({"emptyDir": {}}), false, deployment, None, &back);
}
