//! What metrics say of confinement: of each confined namespace the age of its proof, and of policies why what they
//! promise is not so. Read at every scrape, by every replica, from what is in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use mesh_crds::condition;
use serde_json::Value;

use super::canaries::{Canaries, confined};
use crate::world::World;

/// Reasons of a condition `Enforced` that is False; told from the start, at zero.
pub(crate) const REASONS: [&str; 8] = [
    "NotEnforceable",
    "WriteRefused",
    "EgressWidened",
    "HostNetworkPods",
    "PodsUnrestricted",
    "NotEnforced",
    "AllowedUnreachable",
    "NotProved",
];

/// Seconds since all pools of each confined namespace were proved good, or since it was confined.
pub(crate) fn ages(world: &World, canaries: &Canaries) -> BTreeMap<String, f64> {
    let now = Timestamp::now();
    let age = |policy: &Arc<NetworkPolicy>| {
        let proved = canaries.standing(world, policy).proved;
        let since = proved.or_else(|| Some(policy.creation_timestamp()?.0))?;
        let age = now.duration_since(since).as_secs_f64().max(0.0);
        Some((policy.namespace()?, age))
    };
    confined(world).iter().filter_map(age).collect()
}

/// Policies by the reason why what they confine is not enforced.
pub(crate) fn unenforced(world: &World) -> BTreeMap<String, i64> {
    let policies = world.policies.state();
    count(policies.iter().map(|policy| &policy.data))
}

fn count<'a>(policies: impl Iterator<Item = &'a Value>) -> BTreeMap<String, i64> {
    let mut counted: BTreeMap<String, i64> = REASONS
        .into_iter()
        .map(|reason| (reason.to_owned(), 0))
        .collect();
    for policy in policies {
        let conditions = policy.pointer("/status/conditions");
        let conditions = conditions.and_then(Value::as_array).into_iter().flatten();
        let mut conditions =
            conditions.filter(|one| one["type"] == condition::ENFORCED && one["status"] == "False");
        if let Some(reason) = conditions.find_map(|one| one["reason"].as_str()) {
            *counted.entry(reason.to_owned()).or_default() += 1;
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{REASONS, count};

    #[test]
    fn policies_that_are_not_enforced_are_counted_by_reason_and_others_are_not() {
        let policy = |kind: &str, status: &str, reason: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": "False", "reason": "Other"},
                {"type": kind, "status": status, "reason": reason},
            ]}})
        };
        let all = [
            policy("Enforced", "False", "EgressWidened"),
            policy("Enforced", "False", "EgressWidened"),
            policy("Enforced", "False", "NotProved"),
            policy("Enforced", "True", "Succeeded"),
            policy("Enforced", "Unknown", "NotConfined"),
            policy("Accepted", "False", "WriteRefused"),
            json!({}),
        ];
        let counted = count(all.iter());
        assert_eq!(counted.len(), REASONS.len());
        assert_eq!(counted["EgressWidened"], 2);
        assert_eq!(counted["NotProved"], 1);
        assert_eq!(counted.values().sum::<i64>(), 3);
        assert!(
            count(std::iter::empty())
                .values()
                .all(|number| *number == 0)
        );
    }
}
