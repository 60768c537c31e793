//! An engine that is not ours, as its authors build it: only where a program is named, since building one takes longer
//! than all of this (`docs/development/engines.md`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_cluster::{Image, build_image};
use serde_json::json;

use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World};

/// A `llama-server` that is linked statically.
const PROGRAM: &str = "MESH_LLAMACPP";
const NAME: &str = "llama";
const IMAGE: &str = "inferencemesh.local/llama-server:test";

/// The program to try, if somebody named one.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).map(PathBuf::from)
}

pub(crate) fn llama(world: &World) {
    let program = program().unwrap();
    let archive = Path::new(&world.scratch("engine")).join("llama.tar");
    let image = Image {
        name: IMAGE.to_owned(),
        files: vec![(program, "/llama-server".to_owned(), "0555".to_owned())],
        entrypoint: "/llama-server".to_owned(),
        labels: Vec::new(),
    };
    build_image(&image, &archive).unwrap();
    world.cluster.import_image(&archive).unwrap();

    // The files of the sample, for another engine. What the spec says becomes its arguments.
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": {"namespace": HOME, "name": NAME},
        "spec": {"inCluster": {"engine": "LlamaCpp", "image": IMAGE, "modelRef": {"name": "floor"}, "contextTokens": 1024,
                "resources": {"requests": {"cpu": "100m", "memory": "384Mi"}, "limits": {"memory": "2Gi"}}},
            "limits": {"concurrentRequests": 2}, "models": [{"name": "by-llama"}]}}));
    let backend = format!("inferencebackend/{NAME}");
    world.wait(HOME, &backend, "Ready", Duration::from_mins(3));

    let ask = |stream: bool| {
        let request = json!({"model": "by-llama", "text": "What is the capital of France?", "max_tokens": 24, "stream": stream});
        let said = world.ask(TEAM, &request);
        assert_eq!(said.status(), 200, "{said:?}");
        assert_eq!(said.header("mesh-backend"), NAME, "{said:?}");
        said.text().to_owned()
    };
    let (whole, streamed) = (ask(false), ask(true));
    assert!(!whole.is_empty());
    assert_eq!(whole, streamed, "a stream says the same");
    // Its pod is reached through our guard alone: what the engine serves beside the API is nobody's.
    let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=llama"]);
    let containers = pods["items"][0]["spec"]["containers"].as_array().unwrap();
    let engine = containers.iter().find(|one| one["image"] == IMAGE).unwrap();
    let args: Vec<&str> = engine["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    let host = args.iter().position(|arg| *arg == "--host").unwrap();
    assert_eq!(args[host + 1], "127.0.0.1", "{args:?}");

    world.kubectl(&["delete", "-n", HOME, &backend]);
}
