//! What is made for a backend.

use mesh_crds::{InferenceBackend, ModelCache};
use serde_json::{Value, json};

use super::{Children, Images, child_name, children};

fn made(replicas: i32, sources: &Value) -> Children {
    let backend: InferenceBackend = serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": {"name": "small", "namespace": "team", "uid": "1"},
        "spec": {"inCluster": {"modelRef": {"name": "m"}, "replicas": replicas, "kvMemory": "1Gi"}, "models": [{"name": "a"}, {"name": "b", "target": "c"}]},
    }))
    .expect("a backend");
    let cache: ModelCache = serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "m", "namespace": "team"},
        "spec": {"artifacts": [{"path": "dir/m.gguf", "sha256": "00"}], "sources": sources},
    }))
    .expect("a cache");
    let images = Images {
        worker: String::from("r/worker:1"),
        worker_floor: String::from("r/worker-floor:1"),
        pull_policy: String::from("IfNotPresent"),
        pull_secrets: Vec::new(),
    };
    let spec = backend.spec.in_cluster.clone().expect("inCluster");
    children(&backend, &spec, &cache, &images, "mesh-system").expect("children")
}

#[test]
fn a_backend_becomes_pods_that_may_do_nothing_but_serve() {
    let made = made(1, &json!([{"builtin": {}}]));
    insta::assert_yaml_snapshot!("deployment", made.deployment);
    insta::assert_yaml_snapshot!("network", made.network);
    assert!(
        made.budget.is_none(),
        "with one replica a budget keeps nodes from being drained"
    );
}

#[test]
fn files_from_outside_open_the_way_out_and_use_the_image_without_a_model() {
    let made = made(
        2,
        &json!([{"http": {"url": "https://models.example/m.gguf"}}]),
    );
    let egress = made
        .network
        .spec
        .and_then(|spec| spec.egress)
        .expect("egress");
    assert_eq!(egress.len(), 1);
    let pod = made
        .deployment
        .spec
        .and_then(|spec| spec.template.spec)
        .expect("a pod");
    assert_eq!(pod.containers[0].image.as_deref(), Some("r/worker:1"));
    assert!(made.budget.is_some());
}

#[test]
fn names_of_children_fit_and_differ() {
    assert_eq!(child_name("floor"), "floor-worker");
    let (a, b) = (
        child_name(&format!("{}a", "x".repeat(80))),
        child_name(&format!("{}b", "x".repeat(80))),
    );
    assert!(a.len() <= 63 && b.len() <= 63 && a != b, "{a} {b}");
}
