//! What is made for a ModelCache.

use k8s_openapi::api::batch::v1::Job;
use mesh_crds::model_cache::Quantization;
use serde_json::{Value, json};

use super::{Builder, Task, Work, derived};
use crate::backend::Images;
use crate::cache::state::Keep;
use crate::cache::testing::cache;
use crate::cache::wanted::keep;

fn images() -> Images {
    Images {
        worker: String::from("r/worker:1"),
        worker_floor: String::from("r/worker-floor:1"),
        pull_policy: String::from("IfNotPresent"),
        pull_secrets: vec![String::from("pull")],
        ..Images::default()
    }
}

fn job(spec: &Value, task: Task) -> Job {
    let (cache, images) = (cache(spec), images());
    let builder = Builder {
        cache: &cache,
        images: &images,
        mesh_namespace: "mesh-system",
    };
    let work = Work {
        name: String::from("m-work"),
        task,
    };
    builder.job(&work, &cache.spec.artifacts).expect("a Job")
}

fn fetch() -> Task {
    Task::Fetch {
        claim: String::from("m-models"),
    }
}

fn spec(source: &Value) -> Value {
    json!({"artifacts": [{"path": "m.gguf"}], "sources": [source]})
}

#[test]
fn a_fetch_may_do_nothing_but_fetch() {
    let source = json!({"http": {"url": "https://a.example/", "credentials": {"secretRef": {"name": "s", "key": "k"}}}});
    insta::assert_yaml_snapshot!("fetch", job(&spec(&source), fetch()));
}

#[test]
fn a_quantization_talks_to_nobody() {
    let source = json!({"http": {"url": "https://a.example/"}});
    let task = Task::Quantize {
        claim: String::from("m-models"),
        to: Quantization::Q80,
    };
    insta::assert_yaml_snapshot!("quantize", job(&spec(&source), task));
    assert_eq!(derived("dir/a.gguf", Quantization::Q80), "dir/a.Q8_0.gguf");
}

#[test]
fn only_a_fetch_from_outside_is_let_out() {
    let label = |job: &Job| {
        let spec = job.spec.clone().expect("a spec");
        let labels = spec.template.metadata.and_then(|one| one.labels);
        labels.is_some_and(|labels| labels.contains_key("inferencemesh.dev/fetching"))
    };
    assert!(label(&job(
        &spec(&json!({"http": {"url": "https://a.example/"}})),
        Task::Pin
    )));
    assert!(!label(&job(&spec(&json!({"builtin": {}})), Task::Pin)));
    assert!(!label(&job(
        &spec(&json!({"pvc": {"claimName": "c"}})),
        fetch()
    )));
}

#[test]
fn built_in_files_are_fetched_with_the_image_that_has_them() {
    let image = |source: &Value, task| {
        let pod = job(&spec(source), task)
            .spec
            .and_then(|spec| spec.template.spec);
        pod.and_then(|pod| pod.containers[0].image.clone())
    };
    let built_in = json!({"builtin": {}});
    assert_eq!(
        image(&built_in, fetch()).as_deref(),
        Some("r/worker-floor:1")
    );
    let elsewhere = json!({"pvc": {"claimName": "c"}});
    assert_eq!(image(&elsewhere, fetch()).as_deref(), Some("r/worker:1"));
}

#[test]
fn many_files_wait_to_be_asked_for_their_result() {
    let many: Vec<Value> = (0..20)
        .map(|n| json!({"path": format!("{n}.bin")}))
        .collect();
    let job = job(
        &json!({"artifacts": many, "sources": [{"builtin": {}}]}),
        fetch(),
    );
    let pod = job.spec.and_then(|spec| spec.template.spec).expect("a pod");
    let args = pod.containers[0].args.clone().expect("arguments");
    assert!(args.contains(&String::from("--linger")), "{args:?}");
}

#[test]
fn a_volume_that_many_read_is_written_by_one() {
    for (mode, wanted) in [
        ("ReadWriteOnce", vec!["ReadWriteOnce"]),
        ("ReadOnlyMany", vec!["ReadWriteOnce", "ReadOnlyMany"]),
        ("ReadWriteMany", vec!["ReadWriteMany"]),
    ] {
        let mut spec = spec(&json!({"builtin": {}}));
        spec["storage"] = json!({"persistentVolumeClaim": {"size": "1Gi", "accessMode": mode, "storageClassName": "fast"}});
        let (cache, images) = (cache(&spec), images());
        let Keep::Claim(storage) = keep(&cache) else {
            panic!("a volume was asked for");
        };
        let builder = Builder {
            cache: &cache,
            images: &images,
            mesh_namespace: "mesh-system",
        };
        let claim = builder.claim(&storage).expect("a claim");
        assert_eq!(claim.metadata.name.as_deref(), Some("m-models"));
        let spec = claim.spec.expect("a spec");
        assert_eq!(spec.access_modes.expect("modes"), wanted);
        assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
    }
}

#[test]
fn two_policies_close_the_jobs_and_open_what_fetches() {
    let (cache, images) = (cache(&spec(&json!({"builtin": {}}))), images());
    let builder = Builder {
        cache: &cache,
        images: &images,
        mesh_namespace: "mesh-system",
    };
    let closed = builder.closed().expect("a policy").spec.expect("a spec");
    assert!(closed.egress.unwrap_or_default().is_empty());
    assert_eq!(
        closed.policy_types,
        Some(vec![String::from("Ingress"), String::from("Egress")])
    );
    let from = closed.ingress.expect("rules")[0]
        .from
        .clone()
        .expect("senders");
    let only = from[0]
        .pod_selector
        .clone()
        .and_then(|one| one.match_labels)
        .expect("labels");
    assert_eq!(only["app.kubernetes.io/component"], "operator");
    let open = builder.open().expect("a policy").spec.expect("a spec");
    let labels = open
        .pod_selector
        .and_then(|one| one.match_labels)
        .expect("labels");
    assert_eq!(labels["inferencemesh.dev/fetching"], "true");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "mesh-operator");
}
