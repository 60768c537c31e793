//! Pools of nodes: networks are set up per node, and nodes that differ may differ in this too. A pool is one
//! combination of values of the labels that the installation names, or that usual clouds give; without such labels all
//! nodes are one. Refuses nodes that a canary cannot run on, of other systems than Linux and virtual ones: they are of no
//! pool, and their number is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use mesh_core::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// More pools than this are a label that is not about pools.
pub(crate) const MOST: usize = 32;

/// Labels by which Karpenter and the usual clouds tell pools apart.
const USUAL: [&str; 4] = [
    "karpenter.sh/nodepool",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
];

/// Label of a node: its operating system, which every kubelet tells.
pub(crate) const OS: &str = "kubernetes.io/os";
/// What canaries are built for.
pub(crate) const LINUX: &str = "linux";
/// Labels of nodes that are none: each pod there is a machine of a cloud's own.
const VIRTUAL: [(&str, &str); 2] = [
    ("type", "virtual-kubelet"),
    ("eks.amazonaws.com/compute-type", "fargate"),
];

/// True if a canary can run there.
fn real(node: &Node) -> bool {
    let says = |key: &str, value: &str| node.labels().get(key).is_some_and(|one| one == value);
    let linux = node.labels().get(OS).is_none_or(|system| system == LINUX);
    linux && !VIRTUAL.iter().any(|(key, value)| says(key, value))
}

fn all_real(nodes: &[Arc<Node>]) -> Vec<Arc<Node>> {
    nodes.iter().filter(|node| real(node)).cloned().collect()
}

/// The labels that are named, or the usual ones that some node carries.
fn telling(named: &[String], nodes: &[Arc<Node>]) -> Vec<String> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let carried = |label: &&str| nodes.iter().any(|node| node.labels().contains_key(*label));
    let usual = USUAL.into_iter().filter(carried);
    usual.map(str::to_owned).collect()
}

/// Of how many nodes and pools a proof speaks, in words.
pub(crate) fn reach(named: &[String], nodes: &[Arc<Node>]) -> String {
    let counted = all_real(nodes);
    let besides = match nodes.len() - counted.len() {
        0 => String::new(),
        left => {
            format!("; not on {left} that are virtual or not of Linux, where no canary can run")
        }
    };
    format!("{}{besides}", reach_of(named, &counted))
}

fn reach_of(named: &[String], nodes: &[Arc<Node>]) -> String {
    let labels = telling(named, nodes);
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let all = count(nodes.len(), "node");
    if labels.is_empty() && nodes.len() > 1 {
        return format!(
            "on one node for all {all}, which no label of confine.canary.poolLabels tells apart"
        );
    }
    let number = pools(named, nodes).len();
    format!("in {} of {all}", count(number, "pool"))
}

/// Values of the labels, in their order; none where a node has no such label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pool(Vec<(String, Option<String>)>);

/// All pools that have a node. Without labels there is one, with or without nodes.
pub(crate) fn pools(named: &[String], nodes: &[Arc<Node>]) -> BTreeSet<Pool> {
    let nodes = all_real(nodes);
    let labels = telling(named, &nodes);
    let of = |node: &Node| {
        let value = |label: &String| (label.clone(), node.labels().get(label).cloned());
        Pool(labels.iter().map(value).collect())
    };
    if labels.is_empty() {
        return BTreeSet::from([Pool(Vec::new())]);
    }
    nodes.iter().map(|node| of(node)).collect()
}

impl Pool {
    /// A word for names and labels.
    pub(crate) fn id(&self) -> String {
        if self.0.is_empty() {
            return String::from("all");
        }
        hex(&Sha256::digest(self.to_string().as_bytes())[..4])
    }

    /// What makes a pod run there: affinity and tolerations.
    pub(crate) fn place(&self) -> (Value, Value) {
        let wanted = |(label, value): &(String, Option<String>)| match value {
            Some(value) => json!({"key": label, "operator": "In", "values": [value]}),
            None => json!({"key": label, "operator": "DoesNotExist"}),
        };
        let own = self.0.iter().map(wanted);
        let not = |(key, value)| json!({"key": key, "operator": "NotIn", "values": [value]});
        let wanted: Vec<Value> = own.chain(VIRTUAL.map(not)).collect();
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": wanted}]}}});
        let tolerations = if self.0.is_empty() {
            json!([])
        } else {
            json!([{"operator": "Exists", "effect": "NoSchedule"}])
        };
        (affinity, tolerations)
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all nodes");
        }
        let one = |(label, value): &(String, Option<String>)| {
            value
                .as_ref()
                .map_or_else(|| format!("no {label}"), |value| format!("{label}={value}"))
        };
        let all: Vec<String> = self.0.iter().map(one).collect();
        write!(f, "nodes with {}", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::{pools, reach};

    fn node(labels: &Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}}))
                .expect("a node"),
        )
    }

    #[test]
    fn nodes_are_one_pool_unless_labels_tell_them_apart() {
        let nodes = [
            node(&json!({"pool": "a", "zone": "1"})),
            node(&json!({"pool": "a", "zone": "2"})),
            node(&json!({"pool": "b"})),
            node(&json!({})),
        ];
        let one = pools(&[], &nodes);
        assert_eq!(one.len(), 1);
        assert_eq!(one.first().expect("one").id(), "all");
        assert_eq!(pools(&[], &[]).len(), 1);
        let by_pool = pools(&[String::from("pool")], &nodes);
        let said: Vec<String> = by_pool.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "nodes with no pool",
                "nodes with pool=a",
                "nodes with pool=b"
            ]
        );
        let ids: std::collections::BTreeSet<String> = by_pool.iter().map(super::Pool::id).collect();
        assert_eq!(ids.len(), 3);
        let both = pools(&[String::from("pool"), String::from("zone")], &nodes);
        assert_eq!(both.len(), 4);
        let (affinity, _) = both.first().expect("one").place();
        assert!(affinity.to_string().contains("DoesNotExist"), "{affinity}");
    }

    #[test]
    fn nodes_on_which_no_canary_can_run_are_of_no_pool_and_are_told() {
        let named = [String::from("pool")];
        let nodes = [
            node(&json!({"pool": "a", "kubernetes.io/os": "linux"})),
            node(&json!({"pool": "w", "kubernetes.io/os": "windows"})),
            node(&json!({"pool": "v", "type": "virtual-kubelet"})),
            node(&json!({"eks.amazonaws.com/compute-type": "fargate"})),
        ];
        let found = pools(&named, &nodes);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["nodes with pool=a"]);
        let told = reach(&named, &nodes);
        assert!(told.starts_with("in 1 pool of 1 node; not on 3"), "{told}");
        assert_eq!(reach(&named, &nodes[..1]), "in 1 pool of 1 node");
        for pool in pools(&[], &nodes[..1]).iter().chain(&found) {
            let (affinity, _) = pool.place();
            let text = affinity.to_string();
            assert!(
                text.contains("virtual-kubelet") && text.contains("fargate"),
                "{text}"
            );
        }
    }

    #[test]
    fn pools_of_the_usual_clouds_are_told_apart_without_being_named() {
        let nodes = [
            node(&json!({"cloud.google.com/gke-nodepool": "a", "pool": "x"})),
            node(&json!({"cloud.google.com/gke-nodepool": "b", "pool": "x"})),
            node(&json!({"pool": "x"})),
        ];
        let said: Vec<String> = pools(&[], &nodes).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "nodes with no cloud.google.com/gke-nodepool",
                "nodes with cloud.google.com/gke-nodepool=a",
                "nodes with cloud.google.com/gke-nodepool=b",
            ]
        );
        assert_eq!(reach(&[], &nodes), "in 3 pools of 3 nodes");
        let own = [String::from("pool")];
        assert_eq!(
            pools(&own, &nodes).len(),
            1,
            "what is named counts, and nothing else"
        );
        assert_eq!(reach(&own, &nodes), "in 1 pool of 3 nodes");
        assert!(
            reach(&[], &nodes[2..]).contains("in 1 pool of 1 node"),
            "{}",
            reach(&[], &nodes[2..])
        );
        let bare = [node(&json!({})), node(&json!({}))];
        assert!(
            reach(&[], &bare).starts_with("on one node for all 2 nodes"),
            "{}",
            reach(&[], &bare)
        );
    }
}
