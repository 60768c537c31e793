//! Nodes that only seem to be: labels, taints and allocatable resources as the device plugins of NVIDIA,
//! AMD and Intel set them, and processors only.

use serde_json::{Value, json};

/// Nodes of each sort.
const EACH: usize = 50;

/// Two hundred nodes.
pub(crate) fn nodes() -> Value {
    let items: Vec<Value> = (0..EACH)
        .flat_map(|number| [nvidia(number), amd(number), intel(number), cpu(number)])
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn node(name: &str, labels: &Value, resource: Option<(&str, u32)>) -> Value {
    let mut all = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok"});
    let mut allocatable =
        json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"});
    let mut taints = Vec::new();
    if let (Some(all), Some(labels)) = (all.as_object_mut(), labels.as_object()) {
        all.extend(labels.clone());
    }
    if let Some((resource, count)) = resource {
        allocatable[resource] = json!(count.to_string());
        taints.push(json!({"key": resource, "value": "present", "effect": "NoSchedule"}));
    }
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": all, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints},
        "status": {"allocatable": allocatable, "capacity": allocatable}})
}

fn nvidia(number: usize) -> Value {
    let labels = json!({"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.count": "8", "nvidia.com/gpu.family": "hopper", "feature.node.kubernetes.io/pci-0302_10de.present": "true"});
    node(
        &format!("nvidia-{number}"),
        &labels,
        Some(("nvidia.com/gpu", 8)),
    )
}

fn amd(number: usize) -> Value {
    let labels = json!({"amd.com/gpu.vram": "192G", "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.family": "AI",
        "feature.node.kubernetes.io/pci-1200_1002.present": "true"});
    node(&format!("amd-{number}"), &labels, Some(("amd.com/gpu", 8)))
}

fn intel(number: usize) -> Value {
    let labels = json!({"feature.node.kubernetes.io/pci-0300_8086.present": "true", "intel.feature.node.kubernetes.io/gpu": "true"});
    node(
        &format!("intel-{number}"),
        &labels,
        Some(("gpu.intel.com/xe", 4)),
    )
}

fn cpu(number: usize) -> Value {
    let labels = json!({"feature.node.kubernetes.io/cpu-cpuid.AVX512F": "true"});
    node(&format!("cpu-{number}"), &labels, None)
}
