//! How a model's files come into a pod: volumes, what puts them there and proves them, and where the engine
//! finds them. Knows no engine.

use mesh_crds::ModelCache;
use serde_json::{Value, json};

use super::security;

/// Where worker-floor has its files.
const BUILTIN: &str = "/builtin";

/// Which files are wanted, and where.
pub(super) struct Wanted<'a> {
    pub(super) cache: &'a ModelCache,
    /// Name of the volume; tells several models of one pod apart.
    pub(super) volume: &'a str,
    /// Folder in which the engine sees them.
    pub(super) at: &'a str,
    /// Image that has `fetch`.
    pub(super) image: &'a str,
    /// The engine runs the same image, so that its built-in files need not be copied.
    pub(super) same_image: bool,
    pub(super) pull_policy: &'a str,
}

/// What a pod needs to have them.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Volumes of the pod.
    pub(super) volumes: Vec<Value>,
    /// Init containers, in order.
    pub(super) init: Vec<Value>,
    /// Mounts of the engine's container.
    pub(super) mounts: Vec<Value>,
    /// Claims that every pod has for itself: not empty makes the workload a StatefulSet.
    pub(super) claims: Vec<Value>,
    /// Files in the engine's container, in the order of the artifacts.
    pub(super) files: Vec<String>,
    /// The pod itself asks places outside of the cluster.
    pub(super) fetches: bool,
}

/// True if the image with the built-in model has files of it.
pub(super) fn builtin(cache: &ModelCache) -> bool {
    cache
        .spec
        .sources
        .iter()
        .any(|source| source.builtin.is_some())
}

/// Fetched anew by every pod into a folder of its own, and proven there.
pub(super) fn weights(wanted: &Wanted<'_>) -> Weights {
    let spec = &wanted.cache.spec;
    let order = json!({"artifacts": spec.artifacts, "sources": spec.sources});
    let mut args = vec!["fetch", "--into", wanted.at, "--builtin", BUILTIN];
    if wanted.same_image {
        args.push("--link-builtin");
    }
    args.extend(["--result", "/dev/termination-log"]);
    let fetch = json!({
        "name": if wanted.volume == "models" { String::from("fetch") } else { format!("fetch-{}", wanted.volume) },
        "image": wanted.image,
        "imagePullPolicy": wanted.pull_policy,
        "args": args,
        "env": [{"name": "MESH_FETCH", "value": order.to_string()}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": wanted.volume, "mountPath": wanted.at}, {"name": "tmp", "mountPath": "/tmp"}],
    });
    Weights {
        volumes: vec![json!({"name": wanted.volume, "emptyDir": {}})],
        init: vec![fetch],
        mounts: vec![json!({"name": wanted.volume, "mountPath": wanted.at, "readOnly": true})],
        claims: Vec::new(),
        files: spec
            .artifacts
            .iter()
            .map(|artifact| format!("{}/{}", wanted.at, artifact.path))
            .collect(),
        fetches: spec.sources.iter().any(|source| source.builtin.is_none()),
    }
}
