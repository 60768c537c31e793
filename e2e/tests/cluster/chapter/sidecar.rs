//! An application with a sidecar in its pod: answered through the gateway with the pod's own credential, by the
//! floor while there is no gateway, and a Job ends.

use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::install::text;
use crate::world::{APP, HOME, World, until};

const LIMIT: Duration = Duration::from_mins(2);
const BESIDE: &str = "beside";
/// More than this is more than is promised.
const MOST: u64 = 20 << 20;
const FOLDER: &str = "/var/run/inferencemesh.dev";

fn container() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "name": "mesh-sidecar", "image": format!("inferencemesh.local/sidecar:{version}"), "imagePullPolicy": "Never",
        "restartPolicy": "Always",
        "env": [
            {"name": "MESH_GATEWAY_URL", "value": format!("https://mesh-gateway.{HOME}.svc:8443")},
            {"name": "MESH_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "startupProbe": {"httpGet": {"path": "/healthz", "port": 14142}, "periodSeconds": 1, "failureThreshold": 60},
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [
            {"name": "mesh-token", "mountPath": format!("{FOLDER}/token"), "readOnly": true},
            {"name": "mesh-trust", "mountPath": format!("{FOLDER}/trust"), "readOnly": true},
            {"name": "mesh-snapshot", "mountPath": format!("{FOLDER}/snapshot")},
        ],
    })
}

/// The pod of an application with a sidecar, as a person would write it.
fn pod(world: &World, name: &str, args: &[&str]) -> Value {
    let mut pod = world.python.pod(BESIDE, name, Cluster::PAUSE_IMAGE, args);
    pod["metadata"]["labels"]["inferencemesh.dev/injected"] = json!("true");
    pod["spec"]["serviceAccountName"] = json!(APP);
    pod["spec"]["securityContext"] = json!({"fsGroup": 65532});
    pod["spec"]["initContainers"] = json!([container()]);
    let more = json!([
        {"name": "mesh-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": "inferencemesh.dev", "expirationSeconds": 3600, "path": "token"}}]}},
        {"name": "mesh-trust", "configMap": {"name": "mesh-trust", "optional": true}},
        {"name": "mesh-snapshot", "emptyDir": {}},
    ]);
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.extend(more.as_array().unwrap().clone());
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:14141/v1"}));
    pod
}

fn ask(world: &World, words: &str) -> Said {
    world.ask(BESIDE, &json!({"model": "smollm2", "text": words, "max_tokens": 4, "token": "sk-of-the-application"}))
}

fn gateways(world: &World, replicas: u64) {
    let wanted = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", HOME, "deployment/mesh-gateway", &wanted]);
}

pub(crate) fn beside(world: &World) {
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BESIDE}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": BESIDE, "name": APP}}));
    // The operator tells it where pods are injected; this one was written by hand.
    let told = world.get(&["-n", HOME, "configmap/mesh-trust"]);
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": BESIDE, "name": "mesh-trust"}, "data": told["data"]}));
    world.apply(&pod(world, APP, &["-c", "import signal; signal.pause()"]));
    world.wait(BESIDE, &format!("pod/{APP}"), "Ready", LIMIT);
    let said = until("a gateway answers through the sidecar", LIMIT, || {
        let said = ask(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        said.header("mesh-degraded").is_empty().then_some(said)
    });
    assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
    let said = ask(world, "Charge 4111 1111 1111 1111");
    assert_eq!(
        (said.status(), said.header("mesh-privacy")),
        (200, "restricted"),
        "{said:?}"
    );
    small(world);
}

/// As the kubelet counts it, after it has served.
fn small(world: &World) {
    let bytes = until("the kubelet has counted", Duration::from_mins(1), || {
        let raw = world.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary"]);
        let summary: Value = serde_json::from_str(&raw).unwrap_or_default();
        let pods = summary["pods"].as_array()?.iter();
        let mut containers = pods
            .filter(|pod| pod["podRef"]["namespace"] == BESIDE)
            .flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
        let found = containers.find(|container| text(&container["name"]) == "mesh-sidecar")?;
        found["memory"]["workingSetBytes"]
            .as_u64()
            .filter(|bytes| *bytes > 0)
    });
    println!("  mesh-sidecar: {} KiB", bytes >> 10);
    assert!(bytes <= MOST, "it uses {} KiB", bytes >> 10);
}

pub(crate) fn without_gateways(world: &World) {
    let before = world.get(&["-n", HOME, "deployment/mesh-gateway"]);
    let before = before["spec"]["replicas"].as_u64().unwrap_or(1);
    gateways(world, 0);
    // From now on every request is answered, by whomever.
    let said = until("the floor answers in place of the gateways", LIMIT, || {
        let said = ask(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        (said.header("mesh-degraded") == "floor_only").then_some(said)
    });
    assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
    assert_eq!(
        said.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{said:?}"
    );
    gateways(world, before);
    until("a gateway answers again", LIMIT, || {
        let said = ask(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        said.header("mesh-degraded").is_empty().then_some(())
    });
    world.wait(HOME, "deployment/mesh-gateway", "Available", LIMIT);
}

pub(crate) fn job(world: &World) {
    let asked =
        json!({"model": "smollm2", "text": "Hello", "max_tokens": 4, "token": "any"}).to_string();
    let pod = pod(world, "once", &[&world.python.script("ask.py"), &asked]);
    let mut template =
        json!({"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]});
    template["spec"]["restartPolicy"] = json!("Never");
    // As long as most pods get, so that an end that waits for it would be seen.
    template["spec"]["terminationGracePeriodSeconds"] = json!(30);
    world.apply(&json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": BESIDE, "name": "once"},
        "spec": {"backoffLimit": 0, "template": template}}));
    world.wait(BESIDE, "job/once", "Complete", LIMIT);
    world.kubectl(&["delete", "namespace", BESIDE, "--wait=false"]);
}
