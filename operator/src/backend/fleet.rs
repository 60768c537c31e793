//! What the nodes have: accelerators by what is allocatable, never by labels alone (a driver that crashed
//! leaves its labels), and their memory by the labels of each maker. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use mesh_crds::in_cluster::Vendor;

pub(crate) const NVIDIA: &str = "nvidia.com/gpu";
pub(crate) const AMD: &str = "amd.com/gpu";
/// Intel's two drivers, the newer first.
pub(crate) const INTEL: [&str; 2] = ["gpu.intel.com/xe", "gpu.intel.com/i915"];
/// Memory of an accelerator in MiB.
pub(crate) const NVIDIA_MEMORY: &str = "nvidia.com/gpu.memory";
/// Memory of an accelerator as a number of GiB and `G`: both spellings are in use.
pub(crate) const AMD_MEMORY: [&str; 2] = ["amd.com/gpu.vram", "beta.amd.com/gpu.vram"];

/// What is known of all nodes together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    nodes: Vec<Machine>,
}

/// One node.
#[derive(Debug, Clone)]
struct Machine {
    /// Accelerators that pods may have, by resource.
    allocatable: BTreeMap<String, u64>,
    /// Memory of each in GiB, by label; NVIDIA's in MiB.
    memory: BTreeMap<String, u64>,
}

impl Fleet {
    pub(crate) fn new(nodes: &[Arc<Node>]) -> Self {
        Self {
            nodes: nodes.iter().map(|node| machine(node)).collect(),
        }
    }

    /// The resource of a maker's accelerators, as the nodes of this cluster offer it. Of Intel's two that which running
    /// pods have (`held`), as long as any node offers it or none offers the other.
    pub(crate) fn resource(
        &self,
        vendor: Vendor,
        held: Option<&'static str>,
    ) -> Option<&'static str> {
        match vendor {
            Vendor::Cpu => None,
            Vendor::Nvidia => Some(NVIDIA),
            Vendor::Amd => Some(AMD),
            Vendor::Intel => {
                let mut preferred = held.into_iter().chain(INTEL);
                let offered = preferred.find(|name| self.having(name, 1) > 0);
                offered.or(held).or(Some(INTEL[0]))
            }
        }
    }

    /// How many nodes have at least so many of a resource.
    fn having(&self, resource: &str, count: u64) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.has(resource) >= count)
            .count()
    }

    /// Values of a label of AMD's that stand for at least so many GiB.
    pub(crate) fn large_enough(&self, label: &str, gib: u64) -> BTreeSet<String> {
        let sizes = self.nodes.iter().filter_map(|node| node.memory.get(label));
        sizes
            .filter(|size| **size >= gib)
            .map(|size| format!("{size}G"))
            .collect()
    }

    /// What the nodes have of what is wanted, in words.
    pub(crate) fn told(&self, resource: &str, count: u64, memory: Option<u64>) -> String {
        let (all, any) = (self.nodes.len(), self.having(resource, 1));
        if all == 0 {
            return format!("what the nodes have of {resource} is not seen from here");
        }
        if any == 0 {
            return format!("no node has {resource}: 0 of {all} nodes");
        }
        let enough = self.having(resource, count);
        let mut text = format!("{any} of {all} nodes have {resource}");
        if count > 1 {
            text = format!("{text}, {enough} of them {count} or more");
        }
        if let Some(bytes) = memory {
            let large = self
                .nodes
                .iter()
                .filter(|node| node.has(resource) >= count && node.bytes(resource) >= bytes)
                .count();
            let gib = bytes.div_ceil(1 << 30);
            text = format!("{text}, {large} of them with {gib}Gi of memory each");
        }
        text
    }
}

impl Machine {
    fn has(&self, resource: &str) -> u64 {
        self.allocatable.get(resource).copied().unwrap_or_default()
    }

    /// Memory of each accelerator of a resource, as far as labels say.
    fn bytes(&self, resource: &str) -> u64 {
        let label = |name: &str| self.memory.get(name).copied().unwrap_or_default();
        if resource == NVIDIA {
            return label(NVIDIA_MEMORY) << 20;
        }
        AMD_MEMORY
            .iter()
            .map(|name| label(name) << 30)
            .max()
            .unwrap_or_default()
    }
}

fn machine(node: &Node) -> Machine {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    let count = |name: &str| -> u64 {
        let quantity = allocatable.and_then(|all| all.get(name));
        quantity
            .and_then(|quantity| quantity.0.parse().ok())
            .unwrap_or_default()
    };
    let mut machine = Machine {
        allocatable: [NVIDIA, AMD, INTEL[0], INTEL[1]]
            .into_iter()
            .map(|name| (name.to_owned(), count(name)))
            .collect(),
        memory: BTreeMap::new(),
    };
    for (key, value) in node.labels() {
        let gib = value.strip_suffix('G').and_then(|gib| gib.parse().ok());
        let size = match key.as_str() {
            NVIDIA_MEMORY => value.parse().ok(),
            key if AMD_MEMORY.contains(&key) => gib,
            _ => None,
        };
        if let Some(size) = size {
            machine.memory.insert(key.clone(), size);
        }
    }
    machine
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;
    use mesh_crds::in_cluster::Vendor;
    use serde_json::{Value, json};

    use super::Fleet;

    /// Nodes with these labels and allocatable resources.
    pub(crate) fn fleet(nodes: &[(Value, Value)]) -> Fleet {
        let node = |(labels, allocatable): &(Value, Value)| -> Arc<Node> {
            let node = json!({"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": allocatable}});
            Arc::new(serde_json::from_value(node).expect("a node"))
        };
        Fleet::new(&nodes.iter().map(node).collect::<Vec<_>>())
    }

    #[test]
    fn intels_newer_driver_is_preferred_where_a_node_offers_it() {
        let old = (json!({}), json!({"gpu.intel.com/i915": "1"}));
        let new = (json!({}), json!({"gpu.intel.com/xe": "1"}));
        let broken = (json!({}), json!({"gpu.intel.com/xe": "0"}));
        let named = |nodes: &[(Value, Value)]| fleet(nodes).resource(Vendor::Intel, None);
        assert_eq!(named(&[old.clone(), new]), Some("gpu.intel.com/xe"));
        assert_eq!(named(&[old, broken]), Some("gpu.intel.com/i915"));
        assert_eq!(named(&[]), Some("gpu.intel.com/xe"));
    }

    #[test]
    fn what_running_pods_have_of_intel_stays_while_any_node_offers_it() {
        let old = (json!({}), json!({"gpu.intel.com/i915": "1"}));
        let new = (json!({}), json!({"gpu.intel.com/xe": "1"}));
        let named =
            |nodes: &[(Value, Value)], held| fleet(nodes).resource(Vendor::Intel, Some(held));
        let (i915, xe) = ("gpu.intel.com/i915", "gpu.intel.com/xe");
        assert_eq!(
            named(&[old.clone(), new.clone()], i915),
            Some(i915),
            "a node joined"
        );
        assert_eq!(named(&[old.clone(), new.clone()], xe), Some(xe));
        assert_eq!(named(&[], i915), Some(i915), "all nodes are away");
        assert_eq!(named(&[new], i915), Some(xe), "nobody offers it any more");
        assert_eq!(named(&[old], xe), Some(i915));
        assert_eq!(
            fleet(&[]).resource(Vendor::Nvidia, Some(i915)),
            Some("nvidia.com/gpu")
        );
    }

    #[test]
    fn what_the_nodes_lack_is_said_in_numbers() {
        let gpu = (
            json!({"nvidia.com/gpu.memory": "81559"}),
            json!({"nvidia.com/gpu": "8"}),
        );
        let crashed = (
            json!({"nvidia.com/gpu.memory": "81559"}),
            json!({"nvidia.com/gpu": "0"}),
        );
        let fleet = fleet(&[gpu, crashed.clone(), crashed]);
        let told = |count, memory| fleet.told("nvidia.com/gpu", count, memory);
        assert_eq!(told(1, None), "1 of 3 nodes have nvidia.com/gpu");
        assert_eq!(
            told(16, None),
            "1 of 3 nodes have nvidia.com/gpu, 0 of them 16 or more"
        );
        assert_eq!(
            told(1, Some(500 << 30)),
            "1 of 3 nodes have nvidia.com/gpu, 0 of them with 500Gi of memory each"
        );
        assert_eq!(
            fleet.told("amd.com/gpu", 1, None),
            "no node has amd.com/gpu: 0 of 3 nodes"
        );
    }
}
