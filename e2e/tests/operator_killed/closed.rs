//! A namespace is confined, proven, confined otherwise, and opened. The test is the pods of the canaries.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use mesh_e2e::lives::Act;
use mesh_e2e::operator::HOME;
use mesh_e2e::stage::{Stage, namespace};
use serde_json::{Value, json};

use crate::room::Room;
use crate::{AFTER, around, settings, told};

const ROOM: &str = "closed";
const POLICY: &str = "confined";

fn policy(allowed: &str) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": HOME, "name": POLICY},
        "spec": {"floor": {"backendRef": {"name": "floor"}}, "egress": {"confine": true, "allow": [{"cidr": allowed, "ports": [5432]}]}}})
}

/// What a canary says that stayed inside.
fn words(job: &Value) -> Result<Value> {
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    let args = args.context("arguments")?;
    let tried = |flag: &str, answer: &str| -> Vec<Value> {
        let own = args
            .iter()
            .filter_map(|arg| arg.as_str()?.strip_prefix(flag));
        let names = own.filter_map(|word| Some(word.split_once('=')?.0));
        names
            .map(|name| json!({"name": name, "answer": answer}))
            .collect()
    };
    let (out, home) = (tried("--forbidden=", "silent"), tried("--allowed=", "open"));
    Ok(json!({"canary": 1, "forbidden": out, "allowed": home, "openMillis": 0}))
}

/// The pod of every canary runs and ends; pods of Jobs that are gone go, too.
fn canaries(stage: &Stage) -> Result<()> {
    let found = stage.get(&["-n", ROOM, "jobs,pods"])?;
    let all = found["items"].as_array().context("a list")?;
    let of = |kind: &'static str| all.iter().filter(move |one| one["kind"] == kind);
    for job in of("Job") {
        let uid = &job["metadata"]["uid"];
        let own = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == *uid;
        if of("Pod").any(own) {
            continue;
        }
        let (name, template) = (&job["metadata"]["name"], &job["spec"]["template"]);
        let pod = format!("{}-x", name.as_str().context("a name")?);
        let mut spec = template["spec"].clone();
        spec["nodeName"] = json!("only");
        stage.apply(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": ROOM, "name": pod, "labels": template["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]},
            "spec": spec}))?;
        let ended = json!({"terminated": {"exitCode": 0, "finishedAt": Timestamp::now().to_string(), "message": words(job)?.to_string()}});
        let said = json!({"phase": "Succeeded", "containerStatuses": [{"name": "canary", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": ended}]});
        stage.says(ROOM, &format!("pod/{pod}"), &said)?;
    }
    Ok(())
}

/// One policy that lets out there, one canary that proved it, and it is told.
fn proven(stage: &Stage, allowed: &str) -> Result<()> {
    let room = Room::look(stage, ROOM)?;
    let network = room.one("NetworkPolicy", "mesh-confine")?;
    let rules = network["spec"]["egress"].to_string();
    ensure!(rules.contains(allowed), "{rules}");
    let networks = room.of("NetworkPolicy");
    ensure!(networks.len() == 1, "{networks:?}");
    let jobs = room.of("Job");
    ensure!(jobs.len() == 1, "{jobs:?}");
    let proves = &room.one("Job", jobs[0])?["metadata"]["annotations"]["inferencemesh.dev/confine-generation"];
    let generation = network["metadata"]["generation"].to_string();
    ensure!(*proves == generation, "{proves} and {generation}");
    let home = Room::look(stage, HOME)?;
    home.says(["SovereigntyPolicy", POLICY], "Enforced", "True")
}

pub(crate) fn confined(stage: &Stage) {
    around(stage);
    stage.floor().unwrap();
    let mut space = namespace(ROOM);
    space["metadata"]["labels"] = json!({"inferencemesh.dev/confine": "enabled"});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": ROOM, "name": "default"}});
    stage.apply(&space).unwrap();
    stage.apply(&account).unwrap();
    let play = |done: &dyn Fn() -> Result<()>, steps: &[&str]| {
        let act = Act {
            settings: settings(stage),
            moments: AFTER,
            aside: &[],
            stage,
        };
        let played = act.play(|| canaries(stage), done).unwrap();
        told(&played);
        played.ended_at(steps).unwrap();
    };
    let (one, other) = ("198.51.100.0/24", "203.0.113.0/24");
    stage.apply(&policy(one)).unwrap();
    let closes = [
        "POST controllerrevisions mesh-system/confined-",
        "POST networkpolicies closed/mesh-confine",
        "POST jobs closed/mesh-canary-all-1",
        "APPLY sovereigntypolicies/status mesh-system/confined",
    ];
    play(&|| proven(stage, one), &closes);
    stage.apply(&policy(other)).unwrap();
    let otherwise = [
        "PATCH networkpolicies closed/mesh-confine",
        "APPLY networkpolicies closed/mesh-confine",
        "POST jobs closed/mesh-canary-all-2",
        "DELETE jobs closed/mesh-canary-all-1",
    ];
    play(&|| proven(stage, other), &otherwise);
    let delete = ["delete", "sovereigntypolicy", "-n", HOME, POLICY];
    stage.kubectl(&delete).unwrap();
    let opens = [
        "DELETE networkpolicies closed/mesh-confine",
        "DELETE jobs closed/mesh-canary-all-2",
    ];
    play(&|| Room::look(stage, ROOM)?.holds(&[]), &opens);
}
