//! What the parts of NVIDIA, AMD and Intel say of their GPUs in a cluster: extended resources, labels of
//! nodes, device classes and the devices in ResourceSlices. Read from what their device plugins, label
//! makers and drivers for dynamic resource allocation publish; one model of GPU each.

use serde_json::{Value, json};

/// Who makes a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// H100 with 80 GB.
    Nvidia,
    /// Instinct MI300X.
    Amd,
    /// Arc Pro B60.
    Intel,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nvidia, Self::Amd, Self::Intel];

    /// The extended resource of its device plugin.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia.com/gpu",
            Self::Amd => "amd.com/gpu",
            Self::Intel => "gpu.intel.com/xe",
        }
    }

    /// Its driver for dynamic resource allocation, and the name of its device class.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Nvidia => "gpu.nvidia.com",
            Self::Amd => "gpu.amd.com",
            Self::Intel => "gpu.intel.com",
        }
    }

    /// The environment variable by which its device plugin tells a container its devices, if it does.
    pub(crate) fn variable(self) -> Option<&'static str> {
        (self == Self::Nvidia).then_some("NVIDIA_VISIBLE_DEVICES")
    }

    /// Labels of a node with so many of its GPUs.
    pub(crate) fn labels(self, count: u8) -> Value {
        let count = count.to_string();
        match self {
            Self::Nvidia => nvidia_labels(&count),
            Self::Amd => amd_labels(&count),
            Self::Intel => intel_labels(&count),
        }
    }

    /// The class that its chart installs.
    pub(crate) fn class(self) -> Value {
        let driver = self.driver();
        let selects = match self {
            Self::Nvidia => format!(
                "device.driver == '{driver}' && device.attributes['{driver}'].type == 'gpu'"
            ),
            Self::Amd | Self::Intel => format!("device.driver == '{driver}'"),
        };
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": driver},
            "spec": {"selectors": [{"cel": {"expression": selects}}]}})
    }

    /// The devices of a node, as its driver lists them.
    pub(crate) fn devices(self, count: u8) -> Vec<Value> {
        (0..count).map(|number| self.device(number)).collect()
    }

    fn device(self, number: u8) -> Value {
        let address = format!("0000:{:02x}:00.0", 16 + number);
        match self {
            Self::Nvidia => json!({"name": format!("gpu-{number}"),
                "attributes": {
                    "type": {"string": "gpu"},
                    "uuid": {"string": format!("GPU-00000000-0000-0000-0000-{number:012}")},
                    "productName": {"string": "NVIDIA H100 80GB HBM3"},
                    "brand": {"string": "Nvidia"},
                    "architecture": {"string": "Hopper"},
                    "cudaComputeCapability": {"version": "9.0.0"},
                    "driverVersion": {"version": "570.86.15"},
                    "cudaDriverVersion": {"version": "12.8.0"},
                    "resource.kubernetes.io/pciBusID": {"string": address},
                    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"}},
                "capacity": {"memory": {"value": "81559Mi"}}}),
            Self::Amd => json!({"name": format!("gpu-{number}-{}", 128 + u32::from(number)),
                "attributes": {
                    "type": {"string": "amdgpu"},
                    "deviceID": {"string": "0x74a1"},
                    "productName": {"string": "AMD_Instinct_MI300X_OAM"},
                    "driverVersion": {"version": "6.12.12"},
                    "partitionProfile": {"string": "spx_nps1"},
                    "numaNode": {"int": 0},
                    "resource.kubernetes.io/pciBusID": {"string": address},
                    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"}},
                "capacity": {"memory": {"value": "196592Mi"}, "computeUnits": {"value": "304"}, "simdUnits": {"value": "1216"}}}),
            Self::Intel => json!({"name": format!("0000-{:02x}-00-0-0xe211", 16 + number),
                "attributes": {
                    "family": {"string": "Arc Pro"},
                    "model": {"string": "B60"},
                    "driver": {"string": "xe"},
                    "health": {"string": "Healthy"},
                    "pciId": {"string": "0xe211"},
                    "pciAddress": {"string": address},
                    "sriov": {"bool": false},
                    "resource.kubernetes.io/pciBusID": {"string": address},
                    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"}},
                "capacity": {"memory": {"value": "24480Mi"}, "millicores": {"value": "1k"}}}),
        }
    }

    /// A slice as its driver publishes it for a node.
    pub(crate) fn slice(self, node: &str, count: u8) -> Value {
        let driver = self.driver();
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": format!("{node}-{driver}")},
            "spec": {"driver": driver, "nodeName": node, "devices": self.devices(count),
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}})
    }
}

/// GPU Feature Discovery, and node feature discovery's line for the PCI class.
fn nvidia_labels(count: &str) -> Value {
    json!({
        "nvidia.com/gpu.present": "true", "nvidia.com/gpu.count": count, "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.family": "hopper",
        "nvidia.com/gpu.compute.major": "9", "nvidia.com/gpu.compute.minor": "0", "nvidia.com/gpu.machine": "DGXH100",
        "nvidia.com/gpu.mode": "compute", "nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/mps.capable": "false",
        "nvidia.com/mig.capable": "true", "nvidia.com/mig.strategy": "single", "nvidia.com/vgpu.present": "false",
        "nvidia.com/gfd.timestamp": "1764284400",
        "nvidia.com/cuda.driver.major": "570", "nvidia.com/cuda.driver.minor": "86", "nvidia.com/cuda.driver.rev": "15",
        "nvidia.com/cuda.driver-version.full": "570.86.15", "nvidia.com/cuda.driver-version.major": "570",
        "nvidia.com/cuda.driver-version.minor": "86", "nvidia.com/cuda.driver-version.revision": "15",
        "nvidia.com/cuda.runtime.major": "12", "nvidia.com/cuda.runtime.minor": "8",
        "nvidia.com/cuda.runtime-version.full": "12.8", "nvidia.com/cuda.runtime-version.major": "12",
        "nvidia.com/cuda.runtime-version.minor": "8",
        "feature.node.kubernetes.io/pci-0302_10de.present": "true",
    })
}

/// AMD's node labeller: each value, and under `beta.` also how many devices have it.
fn amd_labels(count: &str) -> Value {
    let mut labels = json!({
        "amd.com/gpu.driver-version": "6.12.12",
        "amd.com/gpu.compute-memory-partition": "spx_nps1",
        "amd.com/compute-partitioning-supported": "true", "amd.com/memory-partitioning-supported": "true",
        "feature.node.kubernetes.io/pci-1200_1002.present": "true",
    });
    for (name, value) in [
        ("cu-count", "304"),
        ("device-id", "74a1"),
        ("family", "AI"),
        ("product-name", "AMD_Instinct_MI300X_OAM"),
        ("simd-count", "1216"),
        ("vram", "192G"),
    ] {
        labels[format!("amd.com/gpu.{name}")] = json!(value);
        labels[format!("beta.amd.com/gpu.{name}")] = json!(value);
        labels[format!("beta.amd.com/gpu.{name}.{value}")] = json!(count);
    }
    labels
}

/// The rules that Intel gives to node feature discovery.
fn intel_labels(count: &str) -> Value {
    json!({
        "intel.feature.node.kubernetes.io/gpu": "true",
        "gpu.intel.com/device-id.0300-e211.present": "true", "gpu.intel.com/device-id.0300-e211.count": count,
        "feature.node.kubernetes.io/pci-0300_8086.present": "true",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Kubernetes takes as a label: at most 63 characters a name and a value, plain ones.
    fn is_a_label(name: &str, value: &str) -> bool {
        let last = name.rsplit('/').next().unwrap_or_default();
        let plain = |text: &str| {
            text.len() <= 63
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        plain(last) && plain(value)
    }

    #[test]
    fn every_label_of_a_vendor_is_one_that_a_node_can_carry() {
        for vendor in Vendor::ALL {
            let labels = vendor.labels(8);
            let labels = labels.as_object().unwrap();
            assert!(labels.len() >= 4, "{vendor:?}");
            for (name, value) in labels {
                assert!(is_a_label(name, value.as_str().unwrap()), "{name}={value}");
            }
        }
    }

    #[test]
    fn devices_of_one_node_have_names_of_their_own() {
        for vendor in Vendor::ALL {
            let devices = vendor.devices(8);
            let names: std::collections::BTreeSet<_> = devices
                .iter()
                .map(|d| d["name"].as_str().unwrap())
                .collect();
            assert_eq!(names.len(), 8, "{vendor:?}");
        }
    }
}
