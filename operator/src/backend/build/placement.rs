//! Where pods may run and where they would rather: accelerators, owned nodes for floors, spread.

use serde_json::{Value, json};

use super::Frame;

impl Frame<'_> {
    /// Node labels that must be there, and for a floor those that owned nodes have: it answers when nothing
    /// else may, so it should be where everything may go.
    pub(super) fn affinity(&self) -> Value {
        let mut node = json!({});
        let accelerator = self.plan.accelerator.as_ref();
        let terms = accelerator
            .map(super::Accelerator::terms)
            .unwrap_or_default();
        if !terms.is_empty() {
            node["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": terms});
        }
        if !self.plan.owned.is_empty() {
            let labels = self.plan.owned.iter();
            let labels: Vec<Value> = labels
                .map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}))
                .collect();
            node["preferredDuringSchedulingIgnoredDuringExecution"] =
                json!([{"weight": 100, "preference": {"matchExpressions": labels}}]);
        }
        if node == json!({}) {
            return Value::Null;
        }
        json!({"nodeAffinity": node})
    }

    /// The author's, and the taint that device plugins' nodes carry.
    pub(super) fn tolerations(&self) -> Value {
        let spec = &self.plan.spec.tolerations;
        let mut all: Vec<Value> = spec.iter().map(|one| json!(one)).collect();
        let own = self.plan.accelerator.as_ref();
        if let Some(own) = own.map(super::Accelerator::toleration)
            && !all.contains(&own)
        {
            all.push(own);
        }
        Value::Array(all)
    }

    pub(super) fn spread(&self) -> Value {
        let constraint = |key: &str, skew: i32, otherwise: &str| json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": otherwise, "labelSelector": {"matchLabels": self.selector()}});
        if self.plan.spec.topology_spread.is_empty() {
            return json!([constraint("kubernetes.io/hostname", 1, "ScheduleAnyway")]);
        }
        let all = self.plan.spec.topology_spread.iter().map(|spread| {
            let otherwise = json!(spread.when_unsatisfiable);
            constraint(
                &spread.topology_key,
                spread.max_skew,
                otherwise.as_str().unwrap_or("ScheduleAnyway"),
            )
        });
        all.collect()
    }
}
