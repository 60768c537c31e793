//! What is made for a backend, by engine and by maker of the accelerator.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use mesh_crds::{InferenceBackend, ModelCache};
use serde_json::{Value, json};

use super::{Children, Input, Refusal, Workload, child_name, children, plan};
use crate::args::EngineImages;
use crate::backend::{Fleet, Images};
use crate::cache::{State, testing};

mod engines;

const DIGEST: &str = "00";

/// A backend of namespace `team`, of the mesh namespace unless another is given.
struct Case {
    spec: Value,
    models: Value,
    caches: Vec<ModelCache>,
    fleet: Fleet,
    owned: BTreeMap<String, String>,
    mesh_namespace: &'static str,
    images: Images,
}

fn cache(name: &str, files: &[&str], more: &Value) -> ModelCache {
    let artifacts: Vec<Value> = files
        .iter()
        .map(|path| json!({"path": path, "sha256": DIGEST}))
        .collect();
    let mut spec = json!({"artifacts": artifacts, "sources": [{"builtin": {}}]});
    for (key, value) in more.as_object().expect("a mapping") {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": name, "namespace": "team"}, "spec": spec,
    }))
    .expect("a cache")
}

fn images() -> Images {
    let image = |name: &str| Some(format!("r/{name}:1"));
    Images {
        worker: String::from("r/worker:1"),
        worker_floor: String::from("r/worker-floor:1"),
        worker_cuda: None,
        engines: EngineImages {
            vllm_nvidia_image: image("vllm-nvidia"),
            vllm_amd_image: image("vllm-amd"),
            llamacpp_intel_image: image("llamacpp-intel"),
            llamacpp_cpu_image: image("llamacpp-cpu"),
            ..EngineImages::default()
        },
        pull_policy: String::from("IfNotPresent"),
        pull_secrets: Vec::new(),
    }
}

impl Case {
    fn new(spec: &Value) -> Self {
        let mut whole = json!({"modelRef": {"name": "m"}});
        for (key, value) in spec.as_object().expect("a mapping") {
            whole[key] = value.clone();
        }
        Self {
            spec: whole,
            models: json!([{"name": "a"}, {"name": "b", "target": "c"}]),
            caches: vec![cache("m", &["dir/m.gguf"], &json!({}))],
            fleet: Fleet::default(),
            owned: BTreeMap::new(),
            mesh_namespace: "team",
            images: images(),
        }
    }

    /// The model is a folder as vLLM serves it.
    fn folder(mut self) -> Self {
        let files = [
            "big/config.json",
            "big/model.safetensors",
            "big/tokenizer.json",
        ];
        self.caches = vec![cache("m", &files, &json!({}))];
        self
    }

    fn adapter(self, name: &str, file: &str, digest: &str) -> Self {
        self.adapter_of(name, &[file], digest)
    }

    fn adapter_of(mut self, name: &str, files: &[&str], digest: &str) -> Self {
        let base = json!({"type": "Adapter", "base": {"name": "m", "sha256": digest}});
        self.caches.push(cache(name, files, &base));
        self
    }

    fn backend(&self) -> InferenceBackend {
        serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": {"name": "small", "namespace": "team", "uid": "1"},
            "spec": {"inCluster": self.spec, "models": self.models, "limits": {"concurrentRequests": 8}},
        }))
        .expect("a backend")
    }

    fn made(&self) -> Result<Children, Refusal> {
        let backend = self.backend();
        let spec = backend.spec.in_cluster.clone();
        let spec = spec.ok_or_else(|| Refusal::new("Test", "it has no inCluster"))?;
        let states: Vec<State> = self.caches.iter().map(testing::of).collect();
        let find = |name: &str| {
            let found = states
                .iter()
                .find(|state| state.cache.metadata.name.as_deref() == Some(name));
            found.ok_or_else(|| Refusal::new("ReferenceNotFound", name))
        };
        let plan = plan(Input {
            backend: &backend,
            spec: &spec,
            cache: &find,
            images: &self.images,
            fleet: &self.fleet,
            mesh_namespace: self.mesh_namespace,
            owned: self.owned.clone(),
            intel: None,
        })?;
        children(&plan).map_err(|error| Refusal::new("Test", error.to_string()))
    }

    fn pod(&self) -> PodSpec {
        let made = self.made().expect("it can work");
        pod(&made)
    }

    fn engine(&self) -> Container {
        self.pod().containers.swap_remove(0)
    }

    fn refused(&self) -> (String, String) {
        let refusal = self.made().expect_err("it cannot work");
        (refusal.reason, refusal.message)
    }
}

fn pod(made: &Children) -> PodSpec {
    let spec = match &made.workload {
        Workload::Deployment(one) => one.spec.clone().map(|spec| spec.template),
        Workload::StatefulSet(one) => one.spec.clone().map(|spec| spec.template),
    };
    spec.and_then(|template| template.spec).expect("a pod")
}

fn args(container: &Container) -> String {
    container.args.clone().unwrap_or_default().join(" ")
}

fn amounts(container: &Container) -> Value {
    json!(container.resources)
}

#[test]
fn a_backend_becomes_pods_that_may_do_nothing_but_serve() {
    let made = Case::new(&json!({"kvMemory": "1Gi"}))
        .made()
        .expect("it can work");
    let Workload::Deployment(deployment) = &made.workload else {
        panic!("volumes of its own are not wanted")
    };
    insta::assert_yaml_snapshot!("deployment", deployment);
    insta::assert_yaml_snapshot!("network", made.network);
    assert!(
        made.budget.is_none(),
        "with one replica a budget keeps nodes from being drained"
    );
}

#[test]
fn files_from_outside_mark_the_pod_and_use_the_image_without_a_model() {
    let mut case = Case::new(&json!({"replicas": 2}));
    let outside = json!({"sources": [{"http": {"url": "https://models.example/m.gguf"}}]});
    case.caches = vec![cache("m", &["m.gguf"], &outside)];
    let made = case.made().expect("it can work");
    let egress = made.network.spec.clone().and_then(|spec| spec.egress);
    let egress = egress.unwrap_or_default();
    // To the operator and to DNS; the policy of the ModelCache lets it out further.
    let narrow = egress.iter().all(|rule| {
        let to = rule.to.as_ref();
        to.is_some_and(|to| !to.is_empty()) && rule.ports.is_some()
    });
    assert!(narrow, "{egress:?}");
    let Workload::Deployment(deployment) = &made.workload else {
        panic!("volumes of its own are not wanted")
    };
    let template = deployment.spec.clone().expect("a spec").template;
    let labels = template.metadata.and_then(|metadata| metadata.labels);
    assert!(labels.is_some_and(|labels| labels.contains_key("inferencemesh.dev/fetching")));
    assert_eq!(
        pod(&made).containers[0].image.as_deref(),
        Some("r/worker:1")
    );
    assert!(made.budget.is_some());
}

#[test]
fn our_worker_computes_on_nvidia_where_the_platform_team_built_an_image() {
    let mut case = Case::new(&json!({"accelerator": {"vendor": "Nvidia"}}));
    case.images.worker_cuda = Some(String::from("r/worker-cuda:1"));
    let engine = case.engine();
    assert_eq!(engine.image.as_deref(), Some("r/worker-cuda:1"));
    let args = engine.args.unwrap_or_default();
    assert!(args.contains(&String::from("--device=cuda")), "{args:?}");
    let args = Case::new(&json!({})).engine().args.unwrap_or_default();
    assert!(
        !args.iter().any(|arg| arg.starts_with("--device")),
        "{args:?}"
    );
}

#[test]
fn every_container_of_every_engine_is_restricted() {
    for spec in [
        json!({"engine": "Vllm", "accelerator": {"vendor": "Nvidia"}}),
        json!({"engine": "Vllm", "accelerator": {"vendor": "Amd"}}),
        json!({"engine": "LlamaCpp", "accelerator": {"vendor": "Intel"}}),
        json!({"engine": "LlamaCpp"}),
        json!({}),
    ] {
        let mut case = Case::new(&spec);
        if spec["engine"] == "Vllm" {
            case = case.folder();
        }
        let pod = case.pod();
        let whole = json!(pod.security_context);
        assert_eq!(
            (&whole["runAsNonRoot"], &whole["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        for container in pod
            .containers
            .iter()
            .chain(pod.init_containers.iter().flatten())
        {
            let security = json!(container.security_context);
            assert_eq!(
                security,
                json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
            );
        }
        assert_eq!(pod.automount_service_account_token, Some(false));
    }
}

#[test]
fn a_floor_would_rather_be_on_owned_nodes_and_others_do_not_mind() {
    let mut case = Case::new(&json!({}));
    assert!(case.pod().affinity.is_none());
    case.owned
        .insert(String::from("owned"), String::from("true"));
    let affinity = json!(case.pod().affinity);
    let preferred = &affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(
        preferred["preference"]["matchExpressions"],
        json!([{"key": "owned", "operator": "In", "values": ["true"]}])
    );
    assert!(affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].is_null());
}

/// A case, the reason of its refusal, and a word of the message.
type Wrong = (Case, &'static str, &'static str);

fn refused(cases: Vec<Wrong>) {
    for (case, reason, words) in cases {
        let (found, message) = case.refused();
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn what_an_engine_cannot_serve_is_refused_with_the_reason() {
    let nvidia = json!({"vendor": "Nvidia"});
    let llama =
        |accelerator: Value| Case::new(&json!({"engine": "LlamaCpp", "accelerator": accelerator}));
    let vllm = |more: Value| {
        let mut case = Case::new(&json!({"engine": "Vllm", "accelerator": {"vendor": "Nvidia"}}));
        case.spec["tensorParallel"] = more;
        case
    };
    refused(vec![
        (vllm(Value::Null), "FormatNotServed", "m.gguf"),
        (Case::new(&json!({})).folder(), "FormatNotServed", "GGUF"),
        (llama(Value::Null).folder(), "FormatNotServed", "GGUF"),
        (
            Case::new(&json!({"accelerator": nvidia})),
            "NoImage",
            "workerCuda",
        ),
        (
            Case::new(&json!({"accelerator": {"vendor": "Amd"}})),
            "NoImage",
            "Vllm or LlamaCpp",
        ),
        (llama(nvidia), "NoImage", "engines.llamaCpp.nvidia"),
        (
            llama(json!({"vendor": "Intel", "memory": "8Gi"})),
            "MemoryNotKnown",
            "deviceClassName",
        ),
        (
            Case::new(&json!({"engine": "LlamaCpp", "kvMemory": "1Gi"})),
            "NotServable",
            "contextTokens",
        ),
        (vllm(json!(4)).folder(), "NotServable", "count"),
        (
            Case::new(&json!({"tensorParallel": 2})),
            "NotSupportedYet",
            "tensorParallel",
        ),
    ]);
}

#[test]
fn references_that_do_not_fit_are_refused_with_the_reason() {
    let adapter = |engine: &str, name: &str| {
        Case::new(&json!({"engine": engine, "adapters": [{"name": name}]}))
    };
    let model = |name: &str| Case::new(&json!({"modelRef": {"name": name}}));
    refused(vec![
        (
            adapter("Candle", "x").adapter("x", "x.gguf", DIGEST),
            "FormatNotServed",
            "adapter_model.safetensors",
        ),
        (
            adapter("Candle", "x").adapter("x", "x/adapter_config.json", DIGEST),
            "FormatNotServed",
            "adapter_model.safetensors",
        ),
        (
            adapter("LlamaCpp", "x").adapter("x", "x.gguf", "11"),
            "AdapterDoesNotFit",
            "digest",
        ),
        (
            adapter("LlamaCpp", "m"),
            "AdapterDoesNotFit",
            "not an adapter",
        ),
        (
            model("x").adapter("x", "x.gguf", DIGEST),
            "NotAModel",
            "base model",
        ),
        (model("nowhere"), "ReferenceNotFound", "nowhere"),
    ]);
}

#[test]
fn a_program_of_ones_own_is_for_the_mesh_namespace() {
    for used in [
        json!({"image": "r/evil:1"}),
        json!({"args": ["--serve-else"]}),
        json!({"env": [{"name": "LD_PRELOAD", "value": "/x"}]}),
        json!({"runtimeClassName": "mine"}),
    ] {
        let mut case = Case::new(&used);
        assert!(case.made().is_ok(), "{used}");
        case.mesh_namespace = "mesh-system";
        let refusal = case.made().expect_err("refused");
        assert!(refusal.forbidden, "its pods must go");
        assert_eq!(refusal.reason, "OnlyInMeshNamespace");
        let name = used
            .as_object()
            .and_then(|all| all.keys().next().cloned())
            .expect("a name");
        assert!(
            refusal.message.contains(&name) && refusal.message.contains("mesh-system"),
            "{}",
            refusal.message
        );
    }
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
