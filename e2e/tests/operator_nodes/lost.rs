//! A node that falls silent: what ran there is told by name, goes elsewhere where it may, and nothing is there
//! twice, also when the node comes back.

use std::time::Duration;

use mesh_e2e::stage::{Stage, backend, children};
use serde_json::{Value, json};

use super::{SOON, lead, room};

const ROOM: &str = "lost";
/// Fake nodes count as lost after a minute of silence.
const SILENCE: Duration = Duration::from_mins(3);
/// What marks the node that falls silent.
const MARK: &str = "silent=yes";

/// Of two nodes that may run it: it goes to the other one soon after its own is lost.
fn moves() -> Value {
    let mut moves = backend(ROOM, "moves", "model", 1);
    let tolerates = |taint: &str| json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1});
    moves["spec"]["inCluster"]["nodeSelector"] = json!({"pair": "yes"});
    moves["spec"]["inCluster"]["tolerations"] =
        json!([tolerates("unreachable"), tolerates("not-ready")]);
    moves
}

/// On the same node; it waits there for five minutes, as Kubernetes has it where nothing is said.
fn stays(node: &str) -> Value {
    let mut stays = backend(ROOM, "stays", "model", 1);
    stays["spec"]["inCluster"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    stays
}

/// Its only pod that is not being deleted: name and node.
fn pod(stage: &Stage, backend: &str) -> anyhow::Result<[String; 2]> {
    let label = format!("inferencemesh.dev/backend={backend}");
    let found = stage.get(&["-n", ROOM, "pods", "-l", &label])?;
    let all = found["items"].as_array().into_iter().flatten();
    let alive: Vec<&Value> = all
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .collect();
    anyhow::ensure!(alive.len() == 1, "{backend} has {} pods", alive.len());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok([
        word(&alive[0]["metadata"]["name"]),
        word(&alive[0]["spec"]["nodeName"]),
    ])
}

fn ready(stage: &Stage, backend: &str) {
    let object = [ROOM, "inferencebackend", backend];
    stage.condition(object, "Ready", "True", SOON).unwrap();
}

/// Takes a node from those that are played.
pub(crate) fn falls_silent(stage: &Stage) {
    let operator = lead(stage);
    room(stage, ROOM);
    stage
        .kubectl(&["label", "node", "cpu-2", "cpu-3", "pair=yes"])
        .unwrap();
    stage.apply(&moves()).unwrap();
    ready(stage, "moves");
    let [_, node] = pod(stage, "moves").unwrap();
    stage.apply(&stays(&node)).unwrap();
    ready(stage, "stays");
    stage.settled(&operator, SOON).unwrap();
    assert!(operator.terminate().unwrap().success());
    // Until it counts as lost the scheduler would send it the pods of other chapters.
    stage.kubectl(&["cordon", &node]).unwrap();
    stage
        .kubectl(&["label", "node", &node, MARK, "type-"])
        .unwrap();
}

/// The name of the node that was taken.
fn silent(stage: &Stage) -> Option<String> {
    let found = stage.get(&["nodes", "-l", MARK]).unwrap();
    let name = found["items"][0]["metadata"]["name"].as_str();
    name.map(str::to_owned)
}

/// What stays on the lost node says so; what may move does.
fn told(stage: &Stage, node: &str) {
    let [pod_there, on] = pod(stage, "stays").unwrap();
    assert_eq!(on, node);
    let object = [ROOM, "inferencebackend", "stays"];
    let lost = || {
        let ready = stage.condition(object, "Ready", "False", Duration::from_secs(1))?;
        Ok((ready["reason"] == "NodeNotReady").then_some(ready))
    };
    let ready_condition = stage.until("the lost node is told", SILENCE, lost).unwrap();
    let message = ready_condition["message"].as_str().unwrap();
    for part in ["0 of 1 pods serve", &pod_there, &format!("node {node}")] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let status = stage
        .get(&["-n", ROOM, "inferencebackend", "stays"])
        .unwrap();
    assert_eq!(status["status"]["endpoints"], 0);

    let elsewhere = || {
        let [_, now] = pod(stage, "moves")?;
        Ok((now != node && !now.is_empty()).then_some(()))
    };
    stage.until("it runs elsewhere", SOON, elsewhere).unwrap();
    ready(stage, "moves");
}

pub(crate) fn converges(stage: &Stage) {
    let node = silent(stage).unwrap_or_else(|| {
        falls_silent(stage);
        silent(stage).unwrap()
    });
    let operator = lead(stage);
    told(stage, &node);
    let mut all = [children("moves"), children("stays")].concat();
    all.sort();
    assert_eq!(stage.made(ROOM).unwrap(), all, "nothing is there twice");
    let [stayed, _] = pod(stage, "stays").unwrap();

    stage.kubectl(&["uncordon", &node]).unwrap();
    stage
        .kubectl(&["label", "node", &node, "type=kwok"])
        .unwrap();
    let back = [
        "wait",
        "node",
        &node,
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    stage.kubectl(&back).unwrap();
    // What a kubelet says when it is back; kwok says it only once in the life of a pod.
    let serves = r#"{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}"#;
    let patch = [
        "patch",
        "pod",
        &stayed,
        "-n",
        ROOM,
        "--subresource=status",
        "-p",
        serves,
    ];
    stage.kubectl(&patch).unwrap();
    ready(stage, "stays");
    assert_eq!(
        pod(stage, "stays").unwrap()[0],
        stayed,
        "it is the same pod"
    );
    let gone = || {
        let pods = stage.get(&["-n", ROOM, "pods"])?;
        let count = pods["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(count == 2, "{count} pods");
        Ok(Some(()))
    };
    stage.until("only two pods are left", SOON, gone).unwrap();
    ready(stage, "moves");
    stage.settled(&operator, SOON).unwrap();
    assert_eq!(stage.made(ROOM).unwrap(), all, "nothing is there twice");
    assert!(operator.terminate().unwrap().success());
}
