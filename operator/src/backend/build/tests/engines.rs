//! What each engine is told, and what its pods ask for, by maker of the accelerator.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Case, DIGEST, amounts, args, pod};
use crate::backend::fleet::tests::fleet;

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
    assert!(args.starts_with("/models/big --host=127.0.0.1 --port=8000 --served-model-name a c --max-model-len=32768 --tensor-parallel-size=4 --max-num-seqs=8 --kv-cache-memory-bytes=21474836480"), "{args}");
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
        (&json!("/engine"), &json!(1800))
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
fn what_listens_beyond_loopback_speaks_tls_or_tells_of_health_only() {
    for spec in [json!({"engine": "LlamaCpp"}), json!({})] {
        let pod = Case::new(&spec).pod();
        let foreign = spec["engine"] == "LlamaCpp";
        let containers = pod.containers.iter();
        let containers = containers.chain(pod.init_containers.iter().flatten());
        let mut tls = 0;
        for container in containers {
            let told = args(container);
            tls += usize::from(told.contains("--tls-listen=0.0.0.0:8444"));
            for port in container.ports.iter().flatten() {
                assert!([8444, 8081].contains(&port.container_port), "{port:?}");
            }
        }
        assert_eq!(tls, 1, "one speaks for the pod");
        let told = args(&pod.containers[0]);
        assert_eq!(told.contains("--tls-listen"), !foreign, "{told}");
        let mounts = json!(pod.containers[0].volume_mounts).to_string();
        assert_eq!(
            mounts.contains("mesh-identity"),
            !foreign,
            "no engine but ours sees the key"
        );
    }
}

#[test]
fn llama_cpp_on_a_processor_gets_the_context_of_all_its_slots() {
    let of = |replicas| {
        let spec = json!({"engine": "LlamaCpp", "contextTokens": 4096, "replicas": replicas});
        Case::new(&spec).engine()
    };
    let engine = of(2);
    assert_eq!(
        args(&engine),
        args(&of(1)),
        "one more pod does not make the others anew"
    );
    assert_eq!(engine.image.as_deref(), Some("r/llamacpp-cpu:1"));
    assert_eq!(
        args(&engine),
        "--model /models/dir/m.gguf --alias a --host 127.0.0.1 --port 8000 --parallel 8 --metrics --jinja --offline --ctx-size 32768"
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
    // The guard begins when all files are there.
    assert_eq!(
        (names.len(), names.last()),
        (3, Some(&"guard")),
        "{names:?}"
    );
    let llama = Case::new(&json!({"engine": "LlamaCpp", "adapters": [{"name": "legal"}]})).adapter(
        "legal",
        "lora.gguf",
        DIGEST,
    );
    assert!(args(&llama.engine()).ends_with("--lora /adapters/legal/lora.gguf"));
    let files = ["law/adapter_config.json", "law/adapter_model.safetensors"];
    let mut own =
        Case::new(&json!({"adapters": [{"name": "legal"}]})).adapter_of("legal", &files, DIGEST);
    own.models = json!([{"name": "a"}, {"name": "law", "target": "legal"}]);
    let told = args(&own.engine());
    assert!(told.contains("--served-name=a --listen"), "{told}");
    assert!(
        told.contains("--adapter=legal=/adapters/legal/law"),
        "{told}"
    );
}

#[test]
fn a_name_sent_upstream_is_no_argument_and_no_second_name() {
    for engine in ["Candle", "Vllm", "LlamaCpp"] {
        for target in ["--trust-remote-code", "-x", "a b", "a,b", "a=b", "", "ä"] {
            let spec = json!({"engine": engine, "accelerator": {"vendor": "Nvidia"}});
            let mut case = Case::new(&spec).folder();
            case.models = json!([{"name": "a"}, {"name": "b", "target": target}]);
            let Err(refused) = case.made() else {
                panic!("{engine} {target}");
            };
            assert_eq!(refused.reason, "NotServable", "{engine} {target}");
        }
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
