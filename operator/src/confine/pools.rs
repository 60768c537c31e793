//! Pools of nodes: networks are set up per node, and nodes that differ may differ in this too. A pool is one
//! combination of values of the labels that the installation names; without such labels all nodes are one.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use mesh_core::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// More pools than this are a label that is not about pools.
pub(crate) const MOST: usize = 32;

/// Values of the labels, in their order; none where a node has no such label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pool(Vec<(String, Option<String>)>);

/// All pools that have a node. Without labels there is one, with or without nodes.
pub(crate) fn pools(labels: &[String], nodes: &[Arc<Node>]) -> BTreeSet<Pool> {
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
        if self.0.is_empty() {
            return (Value::Null, json!([]));
        }
        let wanted = |(label, value): &(String, Option<String>)| match value {
            Some(value) => json!({"key": label, "operator": "In", "values": [value]}),
            None => json!({"key": label, "operator": "DoesNotExist"}),
        };
        let wanted: Vec<Value> = self.0.iter().map(wanted).collect();
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": wanted}]}}});
        (
            affinity,
            json!([{"operator": "Exists", "effect": "NoSchedule"}]),
        )
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

    use super::pools;

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
}
