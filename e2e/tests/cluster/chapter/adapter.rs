//! An adapter of our own worker: fetched like a model, loaded beside it, answering under its own name.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::world::{APP, World};

/// Name of its cache.
pub(crate) const NAME: &str = "legal";
/// ConfigMap with its files.
pub(crate) const FILES: &str = "files-adapter";

/// What peft saved, which the engine's own tests compare with peft.
pub(crate) fn files(namespace: &str) -> Value {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/engine/tests/golden/adapter");
    let file = |name: &str| STANDARD.encode(std::fs::read(folder.join(name)).unwrap());
    let (settings, weights) = ("adapter_config.json", "adapter_model.safetensors");
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": FILES},
        "binaryData": {settings: file(settings), weights: file(weights)}})
}

/// A cache of both files, whose digests are pinned on first use.
pub(crate) fn spec(base: &Value, source: &Value, storage: &Value) -> Value {
    json!({"type": "Adapter", "base": base, "sources": [source], "storage": storage,
        "artifacts": [{"path": "adapter_config.json"}, {"path": "adapter_model.safetensors"}]})
}

/// An application is answered by the model and by its adapter, in the same pod and not with the same words.
pub(crate) fn answers(world: &World, namespace: &str, (model, adapted): (&str, &str)) {
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": APP}}));
    let waits = ["-c", "import signal; signal.pause()"];
    let pod = world
        .python
        .pod(namespace, APP, Cluster::PAUSE_IMAGE, &waits);
    world.apply(&pod);
    let limit = std::time::Duration::from_mins(1);
    world.wait(namespace, &format!("pod/{APP}"), "Ready", limit);
    let ask = |model: &str| {
        let request =
            json!({"model": model, "text": "What is the capital of France?", "max_tokens": 24});
        let said = world.ask(namespace, &request);
        assert_eq!(said.status(), 200, "{said:?}");
        let backend = format!("{namespace}/kept");
        assert_eq!(said.header("mesh-backend"), backend, "{said:?}");
        said.text().to_owned()
    };
    let (plain, with) = (ask(model), ask(adapted));
    assert!(plain.contains("Paris"), "{plain}");
    assert!(!with.is_empty() && with != plain, "{with}");
}
