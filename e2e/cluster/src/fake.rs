//! Nodes that only seem to be: labels, taints and allocatable resources as the parts of NVIDIA, AMD and
//! Intel set them, and processors only. The last of each vendor offer their GPUs by dynamic resource
//! allocation instead of a device plugin, since no node runs both.

use serde_json::{Value, json};

use crate::vendor::Vendor;

/// The label of nodes that are played: one from which it is taken is lost.
pub(crate) const PLAYED: &str = "type=kwok";
/// Nodes of each sort.
const EACH: usize = 50;
/// Of each vendor's, those that offer GPUs to ResourceClaims.
const CLAIMED: usize = 5;

/// Two hundred nodes.
pub(crate) fn nodes() -> Value {
    let mut items: Vec<Value> = Vec::new();
    for number in 0..EACH {
        items.extend(Vendor::ALL.iter().map(|vendor| gpus(*vendor, number)));
        items.push(processors(number));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Device classes, and the slices of those nodes that offer GPUs to claims.
pub(crate) fn claims() -> Value {
    let mut items: Vec<Value> = Vec::new();
    for vendor in Vendor::ALL {
        items.push(vendor.class());
        items.extend(
            (EACH - CLAIMED..EACH).map(|number| vendor.slice(&name(vendor, number), count(vendor))),
        );
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn name(vendor: Vendor, number: usize) -> String {
    let sort = match vendor {
        Vendor::Nvidia => "nvidia",
        Vendor::Amd => "amd",
        Vendor::Intel => "intel",
    };
    format!("{sort}-{number}")
}

fn count(vendor: Vendor) -> u8 {
    match vendor {
        Vendor::Nvidia | Vendor::Amd => 8,
        Vendor::Intel => 4,
    }
}

fn node(name: &str, labels: &Value, resource: Option<(&str, u8)>, taint: Option<&str>) -> Value {
    let mut all = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok",
        "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true", "feature.node.kubernetes.io/cpu-cpuid.AVX512F": "true",
        "feature.node.kubernetes.io/cpu-model.vendor_id": "Intel"});
    if let (Some(all), Some(labels)) = (all.as_object_mut(), labels.as_object()) {
        all.extend(labels.clone());
    }
    let mut resources =
        json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"});
    if let Some((resource, count)) = resource {
        resources[resource] = json!(count.to_string());
    }
    // No plugin sets a taint; platforms do, with the resource as its key.
    let taints: Vec<Value> = taint
        .map(|key| json!({"key": key, "value": "present", "effect": "NoSchedule"}))
        .into_iter()
        .collect();
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": all, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": taints},
        "status": {"allocatable": resources, "capacity": resources}})
}

fn gpus(vendor: Vendor, number: usize) -> Value {
    let count = count(vendor);
    let plugin = number < EACH - CLAIMED;
    node(
        &name(vendor, number),
        &vendor.labels(count),
        plugin.then_some((vendor.resource(), count)),
        Some(vendor.resource()),
    )
}

/// Servers, the second half with matrix units.
fn processors(number: usize) -> Value {
    let mut labels = json!({"feature.node.kubernetes.io/cpu-cpuid.AVX512VNNI": "true"});
    if number >= EACH / 2 {
        for unit in ["AMXTILE", "AMXINT8", "AMXBF16"] {
            labels[format!("feature.node.kubernetes.io/cpu-cpuid.{unit}")] = json!("true");
        }
    }
    node(&format!("cpu-{number}"), &labels, None, None)
}
