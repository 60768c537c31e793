//! How files come into pods.

use mesh_crds::model_cache::Quantization;
use serde_json::{Value, json};

use super::{Wanted, Weights, weights};
use crate::cache::testing;

const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

fn made(more: &Value, quantization: Option<Quantization>) -> Weights {
    let mut spec = json!({"artifacts": [{"path": "dir/m.gguf", "sha256": DIGEST}], "sources": [{"builtin": {}}]});
    for (key, value) in more.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    let model = testing::state(&spec, &json!({}));
    weights(&Wanted {
        model: &model,
        quantization,
        volume: "models",
        at: "/models",
        image: "worker",
        same_image: true,
        pull_policy: "Always",
    })
}

#[test]
fn a_pod_with_its_own_volume_fetches_and_a_pod_with_a_shared_one_proves() {
    let own = made(&json!({}), None);
    assert_eq!(own.init[0]["args"][0], "fetch");
    assert_eq!(own.init[0]["args"][5], "--link-builtin");
    assert_eq!(own.volumes, [json!({"name": "models", "emptyDir": {}})]);
    assert!(!own.fetches && own.claims.is_empty());

    let volume = json!({"storage": {"persistentVolumeClaim": {"size": "1Gi", "accessMode": "ReadOnlyMany"}}, "sources": [{"http": {"url": "https://a.example/"}}]});
    let shared = made(&volume, None);
    assert_eq!(
        shared.init[0]["args"],
        json!(["prove", "--folder", "/models"])
    );
    assert_eq!(shared.init[0]["volumeMounts"][0]["readOnly"], true);
    assert!(
        shared.init[0]["env"][0]["value"]
            .as_str()
            .expect("an order")
            .contains(DIGEST)
    );
    let claim = json!({"readOnly": true, "claimName": "m-models"});
    assert_eq!(shared.volumes[0]["persistentVolumeClaim"], claim);
    assert!(!shared.fetches, "the Job went out, the pod need not");
    assert_eq!(shared.files, ["/models/dir/m.gguf"]);
    assert_eq!(shared.mounts[0]["readOnly"], true);
}

#[test]
fn a_pod_that_fetches_from_outside_says_so() {
    let own = made(
        &json!({"sources": [{"builtin": {}}, {"oci": {"reference": "r.example/m:1"}}]}),
        None,
    );
    assert!(own.fetches);
}

#[test]
fn a_smaller_version_is_made_after_the_fetch_and_served_alone() {
    let own = made(
        &json!({"derive": [{"quantization": "Q8_0"}]}),
        Some(Quantization::Q80),
    );
    assert_eq!(own.init[1]["name"], "quantize-q8-0");
    let args = own.init[1]["args"].to_string();
    assert!(args.contains("--out=/models/dir/m.Q8_0.gguf"), "{args}");
    assert_eq!(own.files, ["/models/dir/m.Q8_0.gguf"]);
}

#[test]
fn a_local_volume_is_a_claim_of_every_pod() {
    let own = made(
        &json!({"storage": {"nodeLocal": {"storageClassName": "local", "diskBudget": "2Gi"}}}),
        None,
    );
    assert_eq!(own.claims[0]["spec"]["storageClassName"], "local");
    assert_eq!(
        own.claims[0]["spec"]["resources"]["requests"]["storage"],
        "2Gi"
    );
    assert!(own.volumes.is_empty());
}
