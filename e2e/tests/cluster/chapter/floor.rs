//! The last floor holds.

use std::time::Duration;

use serde_json::json;

use crate::world::{HOME, TEAM, World, until};

const REFUSED: [&str; 4] = [
    "delete inferencebackend/floor --wait=false",
    "delete inferencebackends --all --wait=false",
    "scale inferencebackend/floor --replicas=0",
    r#"patch inferencebackend/floor --type=merge -p {"spec":{"inCluster":{"replicas":0}}}"#,
];

/// Alerts about a floor without pods and a mesh without an operator.
const GONE: [(&str, &[(&str, &str)]); 3] = [
    ("MeshOperatorNotLeading", &[]),
    ("MeshFloorNotReady", &[("namespace", HOME)]),
    ("MeshBackendDown", &[("backend", "floor")]),
];

fn attempts(world: &World) {
    // An API server that has just started refuses every change until it has found the kind that the
    // policy takes its parameters from: closed, and for everybody.
    let label = [
        "label",
        "inferencebackend/floor",
        "tried=yes",
        "--overwrite",
        "-n",
        HOME,
    ];
    let known = || world.try_kubectl(&label).ok();
    until(
        "the API server knows its policies",
        Duration::from_mins(2),
        known,
    );
    for line in REFUSED {
        let args: Vec<&str> = line.split(' ').chain(["-n", HOME]).collect();
        let said = world.try_kubectl(&args).expect_err(line);
        assert!(said.contains("is the last that answers"), "{said}");
    }
    let floor = world.get(&["-n", HOME, "inferencebackend/floor"]);
    assert!(floor["metadata"]["deletionTimestamp"].is_null());
    let replicas = &floor["spec"]["inCluster"]["replicas"];
    assert!(replicas.as_i64().unwrap_or(1) >= 1);
    let fine = [
        "scale inferencebackend/floor --replicas=2",
        "scale inferencebackend/floor --replicas=1",
    ];
    for line in fine {
        let args: Vec<&str> = line.split(' ').chain(["-n", HOME]).collect();
        world.kubectl(&args);
    }
}

pub(crate) fn protected(world: &World) {
    attempts(world);
}

pub(crate) fn protected_alone(world: &World) {
    world.kubectl(&[
        "scale",
        "-n",
        HOME,
        "deployment/mesh-operator",
        "--replicas=0",
    ]);
    until("the operator is gone", Duration::from_mins(1), || {
        let pods = world.get(&[
            "pods",
            "-n",
            HOME,
            "-l",
            "app.kubernetes.io/component=operator",
        ]);
        pods["items"].as_array()?.is_empty().then_some(())
    });
    attempts(world);
    told(world);
    world.kubectl(&[
        "scale",
        "-n",
        HOME,
        "deployment/mesh-operator",
        "--replicas=2",
    ]);
    world.kubectl(&[
        "rollout",
        "status",
        "-n",
        HOME,
        "deployment/mesh-operator",
        "--timeout=90s",
    ]);
    for (alert, of) in GONE {
        world.silent(alert, of);
    }
    world.silent("MeshRestrictedUnserved", &[("namespace", HOME)]);
}

/// What nobody protects is told: the pods of the floor go, with nobody there who would make them again.
fn told(world: &World) {
    let here = ("MeshFloorNotReady", &[("namespace", HOME)]);
    world.silent(here.0, here.1);
    let scale = [
        "scale",
        "-n",
        HOME,
        "deployment/floor-worker",
        "--replicas=0",
    ];
    world.kubectl(&scale);
    for (alert, of) in GONE {
        world.fires(alert, of);
    }
    let request =
        json!({"model": "smollm2", "text": "Charge 4111 1111 1111 1111", "max_tokens": 1});
    let unserved = ("MeshRestrictedUnserved", &[("namespace", HOME)][..]);
    world.prometheus().fires(world, unserved, || {
        let said = world.ask(TEAM, &request);
        assert_eq!(said.status(), 503, "{said:?}");
    });
}

pub(crate) fn namespace(world: &World) {
    let name = "doomed";
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"namespace": name, "name": "m"},
        "spec": {"artifacts": [{"path": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}], "sources": [{"builtin": {}}]}}));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": name, "name": "b"},
        "spec": {"inCluster": {"modelRef": {"name": "m"}}, "models": [{"name": "own"}]}}));
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": name, "name": "p"},
        "spec": {"floor": {"backendRef": {"name": "b"}, "protect": true}}}));
    until("the worker is made", Duration::from_secs(30), || {
        world
            .try_kubectl(&["get", "-n", name, "deployment/b-worker"])
            .ok()
    });
    world.kubectl(&["delete", "namespace", name, "--timeout=60s"]);
}
