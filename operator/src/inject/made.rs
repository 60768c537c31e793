//! Whether a pod that is labeled as the operator's was made of what the operator made. The label alone says nothing:
//! whoever may make pods may write it.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::world::{MANAGED, World};

/// Label by which a pod's ReplicaSet is told from its Deployment.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What the operator made that makes pods, and for what.
pub(super) struct Made {
    deployments: Vec<Arc<Deployment>>,
    stateful_sets: Vec<Arc<StatefulSet>>,
    jobs: Vec<Arc<Job>>,
    /// Objects for which things are made, by their uid.
    owners: BTreeSet<String>,
}

/// True for a pod that says it is the operator's.
pub(super) fn says_so(pod: &Pod) -> bool {
    pod.labels().get(MANAGED.0).map(String::as_str) == Some(MANAGED.1)
}

impl Made {
    pub(super) fn of(world: &World) -> Self {
        let (caches, backends) = (world.caches.state(), world.backends.state());
        let objects = caches.iter().chain(&backends).filter_map(|one| one.uid());
        let networks = world.networks.state();
        let confined = networks.iter().filter(|one| crate::confine::ours(one));
        Self {
            owners: objects
                .chain(confined.filter_map(|one| one.uid()))
                .collect(),
            deployments: world.deployments.state(),
            stateful_sets: world.stateful_sets.state(),
            jobs: world.jobs.state(),
        }
    }

    /// True if what controls the pod was made for an object that there is.
    pub(super) fn makes(&self, pod: &Pod) -> bool {
        let owners = pod.owner_references();
        let Some(owner) = owners.iter().find(|one| one.controller == Some(true)) else {
            return false;
        };
        let namespace = pod.namespace();
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let hash = pod.labels().get(TEMPLATE_HASH);
                let name = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
                let mut all = self.deployments.iter();
                name.is_some_and(|name| {
                    all.any(|one| {
                        one.namespace() == namespace
                            && one.name_any() == name
                            && self.for_one(&**one)
                    })
                })
            }
            "StatefulSet" => self.controls(&self.stateful_sets, owner),
            "Job" => self.controls(&self.jobs, owner),
            _ => false,
        }
    }

    fn controls<K: ResourceExt>(&self, all: &[Arc<K>], owner: &OwnerReference) -> bool {
        let mut own = all
            .iter()
            .filter(|one| one.uid().as_ref() == Some(&owner.uid));
        own.any(|one| self.for_one(&**one))
    }

    fn for_one(&self, object: &impl ResourceExt) -> bool {
        let owners = object.owner_references();
        owners.iter().any(|owner| self.owners.contains(&owner.uid))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::{Made, says_so};

    fn read<K: DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn made() -> Made {
        let meta = |name: &str, uid: &str, owner: &str| {
            json!({"metadata": {"namespace": "team", "name": name, "uid": uid, "ownerReferences":
                [{"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "name": "b", "uid": owner}]}})
        };
        Made {
            deployments: vec![
                read(meta("floor-worker", "d", "backend")),
                read(meta("theirs", "t", "nobody")),
            ],
            stateful_sets: vec![read(meta("big-worker", "s", "backend"))],
            jobs: vec![read(meta("fetch", "j", "backend"))],
            owners: [String::from("backend")].into(),
        }
    }

    fn pod(kind: &str, name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "team", "name": "p",
            "labels": {"pod-template-hash": "7f", "app.kubernetes.io/managed-by": "mesh-operator"},
            "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]}}))
        .expect("a pod")
    }

    #[test]
    fn only_what_is_made_of_the_operators_own_is_its_own() {
        let made = made();
        for (kind, name, uid) in [
            ("ReplicaSet", "floor-worker-7f", "r"),
            ("StatefulSet", "big-worker", "s"),
            ("Job", "fetch", "j"),
        ] {
            let pod = pod(kind, name, uid);
            assert!(says_so(&pod) && made.makes(&pod), "{kind}");
        }
        for (kind, name, uid) in [
            ("ReplicaSet", "theirs-7f", "r"),
            ("ReplicaSet", "floor-worker-8a", "r"),
            ("ReplicaSet", "floor-worker", "r"),
            ("StatefulSet", "big-worker", "other"),
            ("Job", "fetch", "other"),
            ("DaemonSet", "floor-worker", "d"),
        ] {
            assert!(!made.makes(&pod(kind, name, uid)), "{kind} {name}");
        }
        let mut elsewhere = pod("ReplicaSet", "floor-worker-7f", "r");
        elsewhere.metadata.namespace = Some(String::from("other"));
        assert!(!made.makes(&elsewhere));
        let mut alone = pod("Job", "fetch", "j");
        alone.metadata.owner_references = None;
        assert!(!made.makes(&alone));
    }
}
