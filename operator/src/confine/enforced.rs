//! Condition `Enforced` of a policy that confines: True with three proofs. The NetworkPolicies stand, and
//! canaries have met a network that keeps them; what NetworkPolicies of others open is inside; no pod gets out by
//! its node, where none of them holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use mesh_crds::condition::{self, ConditionStatus};
use mesh_crds::label;

use super::canaries::{Canaries, confined};
use super::proof::Verdict;
use super::{NAME, Plan, holds};
use crate::backend::worker_egress;
use crate::status::Fact;
use crate::world::World;

/// What is there beside what shall be.
pub(crate) struct Observed<'a> {
    pub(crate) mesh_namespace: &'a str,
    pub(crate) networks: &'a [Arc<NetworkPolicy>],
    /// Pods in their node's network, of any namespace.
    pub(crate) host_pods: &'a [Arc<Pod>],
    /// What canaries have proved, by namespace.
    pub(crate) proved: &'a BTreeMap<String, Verdict>,
    /// Of how much of the cluster they speak.
    pub(crate) reach: &'a str,
}

/// Condition `Enforced` of a policy, by its namespace and name.
pub(crate) fn enforced(
    plan: &Plan,
    (world, canaries): (&World, &Canaries),
    mesh_namespace: &str,
    id: &(String, String),
) -> Fact {
    let networks = confined(world);
    let proof = |policy: &Arc<NetworkPolicy>| {
        let verdict = canaries.standing(world, policy).verdict;
        Some((policy.namespace()?, verdict))
    };
    let own = |policy: &&Arc<NetworkPolicy>| {
        policy
            .namespace()
            .is_some_and(|one| plan.confines(id, &one))
    };
    let observed = Observed {
        mesh_namespace,
        networks: &world.networks.state(),
        host_pods: &world.host_pods.state(),
        proved: &networks.iter().filter(own).filter_map(proof).collect(),
        reach: &canaries.reach(world),
    };
    plan.enforced(id, &observed)
}

impl Plan {
    fn confines(&self, id: &(String, String), namespace: &str) -> bool {
        self.by_policy
            .get(id)
            .is_some_and(|all| all.contains(namespace))
    }

    /// Condition `Enforced` of a policy.
    pub(crate) fn enforced(&self, id: &(String, String), observed: &Observed<'_>) -> Fact {
        let unknown = |reason: &str, message: String| {
            Fact::new(
                condition::ENFORCED,
                ConditionStatus::Unknown,
                reason,
                message,
            )
        };
        let no = |reason: &str, message: String| Fact::no(condition::ENFORCED, reason, message);
        if !self.asking.contains(id) {
            let message = "it confines nothing: egress.confine is not set";
            return unknown("NotConfined", message.to_owned());
        }
        if let Some(message) = self.refused.get(id) {
            return no("NotEnforceable", message.clone());
        }
        let Some(namespaces) = self.by_policy.get(id) else {
            let (key, value) = (label::CONFINE, label::ENABLED);
            let message = format!("no namespace that it selects is labeled {key}: {value}");
            return unknown("NothingToConfine", message);
        };
        let mut failed = namespaces.iter().filter_map(|one| self.failed.get(one));
        if let Some(message) = failed.next() {
            return no("WriteRefused", message.clone());
        }
        if let Some(message) = self.widened(namespaces, observed) {
            return no("EgressWidened", message);
        }
        if let Some(message) = host_pod(namespaces, observed.host_pods) {
            return no("HostNetworkPods", message);
        }
        if let Some(message) = self.unrestricted(namespaces) {
            return no("PodsUnrestricted", message);
        }
        if let Some((reason, message)) = unproved(namespaces, observed.proved) {
            return no(reason, message);
        }
        if let Some(message) = self.not_looked_at(namespaces) {
            return no("NotProved", message);
        }
        let list: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        let list = list.join(", ");
        let reach = observed.reach;
        let excepted = self.excepted(namespaces);
        let message = format!(
            "canaries in {list} reached the mesh and nothing that is forbidden, {reach}{excepted}"
        );
        Fact::yes(condition::ENFORCED, message)
    }

    /// Pods that get out by their node.
    fn unrestricted(&self, namespaces: &BTreeSet<String>) -> Option<String> {
        let known = |namespace| Some((namespace, self.loose.get(namespace)?));
        let mut known = namespaces.iter().filter_map(known);
        known.find_map(|(namespace, loose)| loose.told(namespace))
    }

    /// What is not known is not good.
    fn not_looked_at(&self, namespaces: &BTreeSet<String>) -> Option<String> {
        let mut all = namespaces.iter();
        let namespace = all.find(|one| !self.loose.contains_key(*one))?;
        Some(format!(
            "nothing has proved that {namespace} is confined: its pods were not looked at yet"
        ))
    }

    /// Pods that read a folder of their node because the installation lets them, in words.
    fn excepted(&self, namespaces: &BTreeSet<String>) -> String {
        let known = namespaces
            .iter()
            .filter_map(|namespace| self.loose.get(namespace));
        match known.map(|one| one.excepted).sum::<usize>() {
            0 => String::new(),
            number => format!("; pods that read a folder of confine.hostPaths: {number}"),
        }
    }

    /// NetworkPolicies add up: one of anybody else that lets out more than ours, also one of a model cache
    /// or a backend, whose labels any pod may carry.
    fn widened(&self, namespaces: &BTreeSet<String>, observed: &Observed<'_>) -> Option<String> {
        let foreign = observed.networks.iter().find(|network| {
            let Some(namespace) = network.namespace().filter(|one| namespaces.contains(one)) else {
                return false;
            };
            let mut all = self.wanted.iter();
            let wanted = all.find(|one| one.metadata.namespace.as_deref() == Some(&*namespace));
            let Some(wanted) = wanted.filter(|_| network.name_any() != NAME) else {
                return false;
            };
            let mut wide = wanted.clone();
            if network.labels().contains_key(label::BACKEND) {
                let rules = worker_egress(observed.mesh_namespace, &namespace);
                let spec = wide.spec.get_or_insert_default();
                spec.egress.get_or_insert_default().extend(rules);
            }
            !holds::inside(network, &wide)
        })?;
        Some(format!(
            "NetworkPolicy {}/{} lets pods out beyond {NAME}: remove its egress rules, or have a policy of the mesh namespace allow them",
            foreign.namespace().unwrap_or_default(),
            foreign.name_any()
        ))
    }
}

fn host_pod(namespaces: &BTreeSet<String>, pods: &[Arc<Pod>]) -> Option<String> {
    let mut all = pods.iter();
    let pod = all.find(|pod| pod.namespace().is_some_and(|one| namespaces.contains(&one)))?;
    Some(format!(
        "pod {}/{} is in its node's network, where no NetworkPolicy holds",
        pod.namespace().unwrap_or_default(),
        pod.name_any()
    ))
}

/// The worst of what canaries found, with its reason.
fn unproved(
    namespaces: &BTreeSet<String>,
    proved: &BTreeMap<String, Verdict>,
) -> Option<(&'static str, String)> {
    let none = Verdict::None(String::from("its NetworkPolicy is being written"));
    let all = namespaces.iter().map(|namespace| {
        let verdict = proved.get(namespace).unwrap_or(&none);
        (namespace, verdict)
    });
    let (namespace, worst) = all.max_by_key(|(_, verdict)| verdict.worse())?;
    match worst {
        Verdict::Proved => None,
        Verdict::Leaks(what) => Some((
            "NotEnforced",
            format!(
                "this cluster's network does not enforce NetworkPolicies: in {namespace} {what}"
            ),
        )),
        Verdict::Unreached(what) => Some(("AllowedUnreachable", format!("in {namespace} {what}"))),
        Verdict::None(why) => Some((
            "NotProved",
            format!("nothing has proved that the network keeps {namespace} confined: {why}"),
        )),
    }
}
