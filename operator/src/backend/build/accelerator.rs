//! From `accelerator` to what a pod asks for: an extended resource of the maker's device plugin, or a claim
//! of dynamic resource allocation. Refuses what no label and no device can tell.

use mesh_crds::in_cluster::{InCluster, Vendor};
use mesh_crds::value::Quantity;
use serde_json::{Value, json};

use super::Refusal;
use crate::backend::fleet::{AMD_MEMORY, Fleet, NVIDIA_MEMORY};
use crate::quantity::canonical;

/// Name of the claim inside a pod.
const CLAIM: &str = "accelerator";
/// Memory of accelerators that AMD has made, in GiB. All that are large enough are named, so that a node
/// that joins does not change what running pods ask for.
const AMD_SIZES: [u64; 18] = [
    4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 144, 192, 256, 288, 384, 432, 512,
];

/// Accelerators of each pod.
#[derive(Debug, Clone)]
pub(crate) struct Accelerator {
    pub(crate) vendor: Vendor,
    pub(crate) count: u64,
    /// Bytes that each must have.
    pub(crate) memory: Option<u64>,
    /// The extended resource.
    pub(crate) resource: &'static str,
    /// The DeviceClass, where they are claimed.
    pub(crate) class: Option<String>,
    /// The memory as Kubernetes writes it.
    memory_text: Option<String>,
    /// Required node labels, one alternative an entry.
    terms: Vec<Value>,
}

/// What the spec asks for; `None` means the processor.
pub(super) fn accelerator(
    spec: &InCluster,
    fleet: &Fleet,
    intel: Option<&'static str>,
) -> Result<Option<Accelerator>, Refusal> {
    let Some(wanted) = &spec.accelerator else {
        return Ok(None);
    };
    let Some(resource) = fleet.resource(wanted.vendor, intel) else {
        return Ok(None);
    };
    let memory = wanted.memory.as_ref().map(Quantity::read).transpose();
    let memory = memory.map_err(|error| {
        Refusal::new(
            error.reason(),
            format!("spec.inCluster.accelerator.memory: {error}"),
        )
    })?;
    let class = wanted.device_class_name.as_ref().map(|name| name.0.clone());
    let terms = match (memory, &class) {
        (Some(bytes), None) => labels(wanted.vendor, bytes, fleet)?,
        _ => Vec::new(),
    };
    Ok(Some(Accelerator {
        vendor: wanted.vendor,
        count: wanted
            .count
            .map_or(1, |count| u64::try_from(count).unwrap_or(1)),
        memory,
        memory_text: wanted.memory.as_ref().map(canonical),
        resource,
        class,
        terms,
    }))
}

/// Nodes whose accelerators have so much memory, one alternative an entry.
fn labels(vendor: Vendor, bytes: u64, fleet: &Fleet) -> Result<Vec<Value>, Refusal> {
    match vendor {
        Vendor::Nvidia => {
            let mib = bytes.div_ceil(1 << 20).saturating_sub(1).to_string();
            Ok(vec![
                json!({"key": NVIDIA_MEMORY, "operator": "Gt", "values": [mib]}),
            ])
        }
        Vendor::Amd => {
            let gib = bytes.div_ceil(1 << 30);
            let sizes = |label: &str| {
                let mut sizes = fleet.large_enough(label, gib);
                // A list may not be empty; the size itself is right, whoever has it.
                let made = AMD_SIZES.iter().chain([&gib]);
                sizes.extend(
                    made.filter(|size| **size >= gib)
                        .map(|size| format!("{size}G")),
                );
                json!({"key": label, "operator": "In", "values": sizes})
            };
            Ok(AMD_MEMORY.iter().map(|label| sizes(label)).collect())
        }
        Vendor::Intel | Vendor::Cpu => Err(Refusal::new(
            "MemoryNotKnown",
            "spec.inCluster.accelerator.memory: Intel's device plugin does not say how much memory an accelerator has: claim it with deviceClassName, or choose nodes with nodeSelector",
        )),
    }
}

impl Accelerator {
    /// Alternatives of required node labels.
    pub(super) fn terms(&self) -> Vec<Value> {
        self.terms
            .iter()
            .map(|expression| json!({"matchExpressions": [expression]}))
            .collect()
    }

    /// The taint that keeps others away from such nodes.
    pub(super) fn toleration(&self) -> Value {
        json!({"key": self.resource, "operator": "Exists", "effect": "NoSchedule"})
    }

    /// Adds it to the resources of the container that computes. Of an extended resource a pod gets exactly
    /// what it asks for.
    pub(super) fn add(&self, resources: &mut Value) {
        if self.class.is_some() {
            resources["claims"] = json!([{"name": CLAIM}]);
            return;
        }
        let count = self.count.to_string();
        for part in ["requests", "limits"] {
            resources[part][self.resource] = json!(count);
        }
    }

    /// The pod's claims.
    pub(super) fn pod_claims(&self, template: &str) -> Option<Value> {
        self.class.as_ref()?;
        Some(json!([{"name": CLAIM, "resourceClaimTemplateName": template}]))
    }

    /// Spec of the ResourceClaimTemplate, where accelerators are claimed.
    pub(super) fn template(&self) -> Option<Value> {
        let class = self.class.as_ref()?;
        let selectors = self.memory_text.iter().map(|memory| {
            let expression = format!(
                "device.driver in device.capacity && 'memory' in device.capacity[device.driver] && \
                 device.capacity[device.driver]['memory'].compareTo(quantity('{memory}')) >= 0"
            );
            json!({"cel": {"expression": expression}})
        });
        let selectors: Vec<Value> = selectors.collect();
        let mut exactly =
            json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": self.count});
        if !selectors.is_empty() {
            exactly["selectors"] = json!(selectors);
        }
        Some(json!({"spec": {"devices": {"requests": [{"name": CLAIM, "exactly": exactly}]}}}))
    }

    /// What is asked for, in words.
    pub(crate) fn told(&self) -> String {
        match &self.class {
            Some(class) => format!("{} of DeviceClass {class}", self.count),
            None => format!("{} {}", self.count, self.resource),
        }
    }
}
