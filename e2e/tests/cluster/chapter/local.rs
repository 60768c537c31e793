//! Model files in a local volume of each pod: a StatefulSet, whose pods find them again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::chapter::install::text;
use crate::world::{World, until};

const PLACE: &str = "local-models";
const CLASS: &str = "mesh-test-node";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const LIMIT: Duration = Duration::from_mins(3);

/// A volume of the only node, made by hand; gives its folder.
fn volume(world: &World) -> String {
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}}));
    world.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    let folder = world.scratch("volume-of-the-node");
    world.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "mesh-test-node"}, "spec": {
        "capacity": {"storage": "512Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
        "persistentVolumeReclaimPolicy": "Retain", "local": {"path": folder},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}}));
    folder
}

pub(crate) fn found_again(world: &World) {
    let folder = volume(world);
    let kind = |kind: &str, spec: serde_json::Value| json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"namespace": PLACE, "name": "local"}, "spec": spec});
    world.apply(&kind(
        "ModelCache",
        json!({"artifacts": [{"path": FILE, "sha256": DIGEST}], "sources": [{"builtin": {}}],
            "storage": {"nodeLocal": {"storageClassName": CLASS, "diskBudget": "256Mi"}}}),
    ));
    world.apply(&kind(
        "InferenceBackend",
        json!({"inCluster": {"modelRef": {"name": "local"}}, "models": [{"name": "kept-here"}]}),
    ));
    let backend = "inferencebackend/local";
    world.wait(PLACE, backend, "Ready", LIMIT);
    world.wait(PLACE, "modelcache/local", "Ready", LIMIT);
    let made = world.kubectl(&["get", "deployments,statefulsets", "-n", PLACE, "-o", "name"]);
    assert_eq!(made.trim(), "statefulset.apps/local-worker");

    // The same file, not the same bytes once more.
    let inode = || {
        std::fs::metadata(Path::new(&folder).join(FILE))
            .unwrap()
            .ino()
    };
    let before = inode();
    let uid = || {
        let pod = world.get(&["pods", "-n", PLACE, "-l", "inferencemesh.dev/backend=local"]);
        text(&pod["items"][0]["metadata"]["uid"]).to_owned()
    };
    let first = uid();
    world.kubectl(&["delete", "pod", "-n", PLACE, "local-worker-0"]);
    until("there is another pod", LIMIT, || {
        (uid() != first).then_some(())
    });
    world.wait(PLACE, "pod/local-worker-0", "Ready", LIMIT);
    assert_eq!(inode(), before, "its files were there");
    world.wait(PLACE, backend, "Ready", LIMIT);

    world.kubectl(&["delete", "-n", PLACE, backend, "modelcache/local"]);
    until("its volume is given back", LIMIT, || {
        let left = world.kubectl(&["get", "pvc,pods,statefulsets", "-n", PLACE, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    world.kubectl(&["delete", "namespace", PLACE, "--timeout=120s"]);
    world.kubectl(&["delete", "pv", "mesh-test-node"]);
}
