//! What is made for a backend, by engine and by maker of the accelerator.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use mesh_crds::{InferenceBackend, ModelCache};
use serde_json::{Value, json};

use super::{Children, Input, Refusal, Workload, child_name, children, plan};
use crate::args::EngineImages;
use crate::backend::fleet::tests::fleet;
use crate::backend::{Fleet, Images};

const DIGEST: &str = "00";

/// A backend of namespace `team`, of the mesh namespace unless another is given.
struct Case {
    spec: Value,
    models: Value,
    caches: Vec<ModelCache>,
    fleet: Fleet,
    owned: BTreeMap<String, String>,
    mesh_namespace: &'static str,
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

    fn adapter(mut self, name: &str, file: &str, digest: &str) -> Self {
        let base = json!({"type": "Adapter", "base": {"name": "m", "sha256": digest}});
        self.caches.push(cache(name, &[file], &base));
        self
    }

    fn made(&self) -> Result<Children, Refusal> {
        let backend: InferenceBackend = serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": {"name": "small", "namespace": "team", "uid": "1"},
            "spec": {"inCluster": self.spec, "models": self.models, "limits": {"concurrentRequests": 8}},
        }))
        .expect("a backend");
        let spec = backend.spec.in_cluster.clone().expect("inCluster");
        let find = |name: &str| {
            let found = self
                .caches
                .iter()
                .find(|cache| cache.metadata.name.as_deref() == Some(name));
            found.ok_or_else(|| Refusal::new("ReferenceNotFound", name))
        };
        let images = images();
        let plan = plan(Input {
            backend: &backend,
            spec: &spec,
            cache: &find,
            images: &images,
            fleet: &self.fleet,
            mesh_namespace: self.mesh_namespace,
            owned: self.owned.clone(),
        })?;
        Ok(children(&plan).expect("children"))
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
fn files_from_outside_open_the_way_out_and_use_the_image_without_a_model() {
    let mut case = Case::new(&json!({"replicas": 2}));
    let outside = json!({"sources": [{"http": {"url": "https://models.example/m.gguf"}}]});
    case.caches = vec![cache("m", &["m.gguf"], &outside)];
    let made = case.made().expect("it can work");
    let egress = made.network.spec.clone().and_then(|spec| spec.egress);
    assert_eq!(egress.expect("egress").len(), 1);
    assert_eq!(
        pod(&made).containers[0].image.as_deref(),
        Some("r/worker:1")
    );
    assert!(made.budget.is_some());
}

#[test]
fn vllm_on_nvidia_is_told_everything_and_asks_nobody() {
    let spec = json!({
        "engine": "Vllm", "accelerator": {"vendor": "Nvidia", "count": 4, "memory": "80Gi"},
        "contextTokens": 32768, "kvMemory": "20Gi", "resources": {"limits": {"memory": "65536Mi", "cpu": "8000m"}},
    });
    let case = Case::new(&spec).folder();
    let pod = case.pod();
    let engine = &pod.containers[0];
    assert_eq!(engine.image.as_deref(), Some("r/vllm-nvidia:1"));
    assert_eq!(
        engine.command.clone().unwrap_or_default(),
        ["vllm", "serve"]
    );
    let args = args(engine);
    assert!(args.starts_with("/models/big --host=0.0.0.0 --port=8000 --served-model-name a c --max-model-len=32768 --tensor-parallel-size=4 --max-num-seqs=8 --kv-cache-memory-bytes=21474836480"), "{args}");
    assert_eq!(
        amounts(engine),
        json!({"limits": {"memory": "64Gi", "cpu": "8", "nvidia.com/gpu": "4"}, "requests": {"nvidia.com/gpu": "4"}})
    );
    let env: BTreeMap<String, String> = engine
        .env
        .iter()
        .flatten()
        .map(|one| (one.name.clone(), one.value.clone().unwrap_or_default()))
        .collect();
    assert_eq!(
        (
            env["HF_HUB_OFFLINE"].as_str(),
            env["VLLM_NO_USAGE_STATS"].as_str()
        ),
        ("1", "1")
    );
    let volumes = json!(pod.volumes);
    assert!(
        volumes
            .to_string()
            .contains(r#"{"emptyDir":{"medium":"Memory","sizeLimit":"2Gi"},"name":"shm"}"#),
        "{volumes}"
    );
    let mounts = json!(engine.volume_mounts).to_string();
    assert!(
        mounts.contains("/dev/shm") && mounts.contains(env["HOME"].as_str()),
        "{mounts}"
    );
    let probe = json!(engine.startup_probe);
    assert_eq!(
        (&probe["httpGet"]["path"], &probe["failureThreshold"]),
        (&json!("/health"), &json!(1800))
    );
    let required = json!(pod.affinity).pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0").cloned();
    assert_eq!(
        required,
        Some(json!({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["81919"]}))
    );
    assert_eq!(
        json!(pod.tolerations),
        json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
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
fn llama_cpp_on_a_processor_gets_the_context_of_all_its_slots() {
    let engine =
        Case::new(&json!({"engine": "LlamaCpp", "contextTokens": 4096, "replicas": 2})).engine();
    assert_eq!(engine.image.as_deref(), Some("r/llamacpp-cpu:1"));
    assert_eq!(
        args(&engine),
        "--model /models/dir/m.gguf --alias a --host 0.0.0.0 --port 8000 --parallel 4 --metrics --jinja --offline --ctx-size 16384"
    );
    assert_eq!(
        amounts(&engine),
        json!({"requests": {"cpu": "1", "memory": "2Gi"}})
    );
}

#[test]
fn intels_resource_is_the_one_that_nodes_offer() {
    let mut case = Case::new(&json!({"engine": "LlamaCpp", "accelerator": {"vendor": "Intel"}}));
    case.fleet = fleet(&[(json!({}), json!({"gpu.intel.com/i915": "1"}))]);
    let engine = case.engine();
    assert_eq!(engine.image.as_deref(), Some("r/llamacpp-intel:1"));
    assert_eq!(
        amounts(&engine)["limits"],
        json!({"gpu.intel.com/i915": "1"})
    );
    assert!(args(&engine).contains("--n-gpu-layers 999"));
}

#[test]
fn amds_memory_is_chosen_by_the_labels_in_use_and_a_new_node_changes_nothing() {
    let spec = json!({"engine": "Vllm", "accelerator": {"vendor": "Amd", "memory": "100Gi"}});
    let mut case = Case::new(&spec).folder();
    let terms = |case: &Case| {
        json!(case.pod().affinity)["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"]
            .clone()
    };
    let before = terms(&case);
    let keys: Vec<&Value> = before
        .as_array()
        .expect("alternatives")
        .iter()
        .map(|term| &term["matchExpressions"][0]["key"])
        .collect();
    assert_eq!(keys, ["amd.com/gpu.vram", "beta.amd.com/gpu.vram"]);
    let sizes = before[0]["matchExpressions"][0]["values"].to_string();
    assert!(
        sizes.contains("192G") && !sizes.contains("\"64G\""),
        "{sizes}"
    );
    case.fleet = fleet(&[(
        json!({"amd.com/gpu.vram": "192G"}),
        json!({"amd.com/gpu": "8"}),
    )]);
    assert_eq!(terms(&case), before);
}

#[test]
fn a_device_class_becomes_a_claim_of_every_pod() {
    let spec = json!({"engine": "Vllm", "accelerator": {"vendor": "Nvidia", "count": 2, "memory": "81920Mi", "deviceClassName": "gpu.nvidia.com"}});
    let case = Case::new(&spec).folder();
    let made = case.made().expect("it can work");
    let template = made.claims.clone().expect("a template");
    let request = &template["spec"]["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!(
        (&request["deviceClassName"], &request["count"]),
        (&json!("gpu.nvidia.com"), &json!(2))
    );
    let rule = request["selectors"][0]["cel"]["expression"]
        .as_str()
        .expect("a rule");
    assert!(rule.contains("quantity('80Gi')"), "{rule}");
    let pod = pod(&made);
    assert_eq!(
        json!(pod.resource_claims),
        json!([{"name": "accelerator", "resourceClaimTemplateName": template["metadata"]["name"]}])
    );
    assert_eq!(
        amounts(&pod.containers[0])["claims"],
        json!([{"name": "accelerator"}])
    );
    assert!(
        amounts(&pod.containers[0])["limits"].is_null(),
        "nothing is asked for twice"
    );
    assert!(
        pod.affinity.is_none(),
        "devices tell their memory, not labels"
    );
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

#[test]
fn adapters_are_mounted_beside_their_model_and_named_to_the_engine() {
    let mut case = Case::new(&json!({"engine": "Vllm", "accelerator": {"vendor": "Nvidia"}, "adapters": [{"name": "legal"}]}))
        .folder()
        .adapter("legal", "lora/adapter_config.json", DIGEST);
    case.models = json!([{"name": "a"}, {"name": "law", "target": "legal"}]);
    let pod = case.pod();
    let told = args(&pod.containers[0]);
    assert!(
        told.contains("--served-model-name a --tensor")
            || told.contains("--served-model-name a --max-num-seqs"),
        "{told}"
    );
    assert!(
        told.ends_with("--enable-lora --max-loras=1 --lora-modules legal=/adapters/legal/lora"),
        "{told}"
    );
    let names: Vec<&str> = pod
        .init_containers
        .iter()
        .flatten()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let llama = Case::new(&json!({"engine": "LlamaCpp", "adapters": [{"name": "legal"}]})).adapter(
        "legal",
        "lora.gguf",
        DIGEST,
    );
    assert!(args(&llama.engine()).ends_with("--lora /adapters/legal/lora.gguf"));
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let nvidia = json!({"vendor": "Nvidia"});
    let cases = [
        (
            Case::new(&json!({"engine": "Vllm", "accelerator": nvidia})),
            "FormatNotServed",
            "m.gguf",
        ),
        (Case::new(&json!({})).folder(), "FormatNotServed", "GGUF"),
        (
            Case::new(&json!({"engine": "LlamaCpp"})).folder(),
            "FormatNotServed",
            "GGUF",
        ),
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
        (
            Case::new(&json!({"engine": "LlamaCpp", "accelerator": nvidia})),
            "NoImage",
            "engines.llamaCpp.nvidia",
        ),
        (
            Case::new(
                &json!({"engine": "LlamaCpp", "accelerator": {"vendor": "Intel", "memory": "8Gi"}}),
            ),
            "MemoryNotKnown",
            "deviceClassName",
        ),
        (
            Case::new(&json!({"engine": "LlamaCpp", "kvMemory": "1Gi"})),
            "NotServable",
            "contextTokens",
        ),
        (
            Case::new(&json!({"engine": "Vllm", "tensorParallel": 4, "accelerator": nvidia}))
                .folder(),
            "NotServable",
            "count",
        ),
        (
            Case::new(&json!({"tensorParallel": 2})),
            "NotSupportedYet",
            "tensorParallel",
        ),
        (
            Case::new(&json!({"adapters": [{"name": "x"}]})).adapter("x", "x.gguf", DIGEST),
            "NotSupportedYet",
            "adapters",
        ),
        (
            Case::new(&json!({"engine": "LlamaCpp", "adapters": [{"name": "x"}]}))
                .adapter("x", "x.gguf", "11"),
            "AdapterDoesNotFit",
            "digest",
        ),
        (
            Case::new(&json!({"engine": "LlamaCpp", "adapters": [{"name": "m"}]})),
            "AdapterDoesNotFit",
            "not an adapter",
        ),
        (
            Case::new(&json!({"modelRef": {"name": "x"}})).adapter("x", "x.gguf", DIGEST),
            "NotAModel",
            "base model",
        ),
        (
            Case::new(&json!({"modelRef": {"name": "nowhere"}})),
            "ReferenceNotFound",
            "nowhere",
        ),
    ];
    for (case, reason, words) in cases {
        let (found, message) = case.refused();
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(words), "{message}");
    }
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
fn the_authors_environment_wins_and_no_name_is_there_twice() {
    let spec = json!({"engine": "Vllm", "accelerator": {"vendor": "Nvidia"}, "env": [{"name": "HOME", "value": "/elsewhere"}]});
    let env = Case::new(&spec).folder().engine().env.unwrap_or_default();
    let homes: Vec<_> = env.iter().filter(|one| one.name == "HOME").collect();
    assert_eq!(homes.len(), 1);
    assert_eq!(homes[0].value.as_deref(), Some("/elsewhere"));
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
