//! What runs the pods of a backend now. Where another sort of workload takes the place of the one that there is, both stand
//! side by side for a while: the new one has to serve before the old one goes.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;

use super::build::child_name;
use super::fleet::INTEL;
use super::status::Rollout;
use crate::world::{Id, World};

/// The workloads of one backend; usually one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    deployment: Option<Arc<Deployment>>,
    set: Option<Arc<StatefulSet>>,
}

/// As many serve as are wanted, all of them of the newest spec.
fn complete(
    wanted: Option<i32>,
    looked: bool,
    updated: Option<i32>,
    available: Option<i32>,
) -> bool {
    let wanted = wanted.unwrap_or(1);
    looked && updated.unwrap_or_default() >= wanted && available.unwrap_or_default() >= wanted
}

impl Live {
    pub(super) fn of(world: &World, id: &Id) -> Self {
        let child = child_name(&id.1);
        Self {
            deployment: world.deployments.get(&ObjectRef::new(&child).within(&id.0)),
            set: world
                .stateful_sets
                .get(&ObjectRef::new(&child).within(&id.0)),
        }
    }

    /// How far it is; of two the younger, which the other one waits for.
    pub(super) fn rollout(&self) -> Option<Rollout> {
        let of_deployment = || self.deployment.as_deref().map(Rollout::from);
        let of_set = || self.set.as_deref().map(Rollout::from);
        let found = if self.set_is_younger() {
            of_set()
        } else {
            of_deployment().or_else(of_set)
        };
        let both = self.deployment.is_some() && self.set.is_some();
        found.map(|found| if both { found.beside() } else { found })
    }

    fn set_is_younger(&self) -> bool {
        let (Some(deployment), Some(set)) = (&self.deployment, &self.set) else {
            return false;
        };
        let made = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            meta.creation_timestamp.as_ref().map(|time| time.0)
        };
        made(set.meta()) >= made(deployment.meta())
    }

    /// True once the Deployment serves.
    pub(super) fn deployment_serves(&self) -> bool {
        self.deployment.as_deref().is_some_and(|deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            let looked = status.observed_generation == deployment.metadata.generation;
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            complete(
                wanted,
                looked,
                status.updated_replicas,
                status.available_replicas,
            )
        })
    }

    /// True once the StatefulSet serves.
    pub(super) fn set_serves(&self) -> bool {
        self.set.as_deref().is_some_and(|set| {
            let status = set.status.clone().unwrap_or_default();
            let looked = status.observed_generation == set.metadata.generation;
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
            complete(
                wanted,
                looked,
                status.updated_replicas,
                status.available_replicas,
            )
        })
    }

    /// Which of Intel's resources its pods have: nodes that come and go must not change what running pods ask for.
    pub(super) fn intel(&self) -> Option<&'static str> {
        let of_deployment = self.deployment.iter().filter_map(|one| one.spec.as_ref());
        let of_set = self.set.iter().filter_map(|one| one.spec.as_ref());
        let templates = of_deployment
            .map(|spec| &spec.template)
            .chain(of_set.map(|spec| &spec.template));
        templates.into_iter().find_map(asks)
    }
}

fn asks(template: &PodTemplateSpec) -> Option<&'static str> {
    let containers = template.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|one| one.resources.as_ref()?.limits.as_ref());
    limits
        .into_iter()
        .find_map(|limits| INTEL.into_iter().find(|name| limits.contains_key(*name)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::Live;

    fn deployment(made: &str, spec: &Value, status: &Value) -> Live {
        let object = json!({"metadata": {"name": "a", "generation": 2, "creationTimestamp": made}, "spec": spec, "status": status});
        Live {
            deployment: Some(Arc::new(serde_json::from_value(object).unwrap())),
            set: None,
        }
    }

    fn set(made: &str, spec: &Value, status: &Value) -> Live {
        let object = json!({"metadata": {"name": "a", "generation": 2, "creationTimestamp": made}, "spec": spec, "status": status});
        Live {
            deployment: None,
            set: Some(Arc::new(serde_json::from_value(object).unwrap())),
        }
    }

    fn spec(resource: &str) -> Value {
        json!({"replicas": 2, "selector": {}, "serviceName": "a", "template": {"spec": {"containers": [
            {"name": "guard"}, {"name": "worker", "resources": {"limits": {resource: "1"}}}]}}})
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn a_workload_serves_once_all_of_its_pods_do_and_are_of_its_newest_spec() {
        let spec = spec("cpu");
        let whole = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(deployment(EARLY, &spec, &whole).deployment_serves());
        assert!(set(EARLY, &spec, &whole).set_serves());
        for (field, value) in [
            ("observedGeneration", 1),
            ("updatedReplicas", 1),
            ("availableReplicas", 1),
        ] {
            let mut less = whole.clone();
            less[field] = json!(value);
            assert!(
                !deployment(EARLY, &spec, &less).deployment_serves(),
                "{field}"
            );
            assert!(!set(EARLY, &spec, &less).set_serves(), "{field}");
        }
        assert!(!Live::default().deployment_serves() && !Live::default().set_serves());
    }

    #[test]
    fn of_two_the_younger_says_how_far_it_is() {
        let (old, new) = (json!({"replicas": 5}), json!({"replicas": 1}));
        let replicas = |live: &Live| format!("{:?}", live.rollout().expect("one"));
        let mut both = deployment(EARLY, &spec("cpu"), &old);
        assert!(replicas(&both).contains("replicas: 5"));
        both.set = set(LATE, &spec("cpu"), &new).set;
        assert!(replicas(&both).contains("replicas: 1"));
        both.deployment = deployment(LATE, &spec("cpu"), &old).deployment;
        both.set = set(EARLY, &spec("cpu"), &new).set;
        assert!(replicas(&both).contains("replicas: 5"));
    }

    #[test]
    fn pods_that_do_not_serve_yet_are_not_counted_beside_those_whose_place_they_take() {
        let pending = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2});
        let updated = |live: &Live| format!("{:?}", live.rollout().expect("one"));
        let mut both = set(LATE, &spec("cpu"), &pending);
        assert!(updated(&both).contains("updated: Some(2)"), "alone");
        both.deployment = deployment(EARLY, &spec("cpu"), &pending).deployment;
        assert!(updated(&both).contains("updated: Some(0)"));
    }

    #[test]
    fn what_running_pods_have_of_intels_resources_is_found() {
        let none = json!({});
        assert_eq!(
            deployment(EARLY, &spec("gpu.intel.com/i915"), &none).intel(),
            Some("gpu.intel.com/i915")
        );
        assert_eq!(
            set(EARLY, &spec("gpu.intel.com/xe"), &none).intel(),
            Some("gpu.intel.com/xe")
        );
        assert_eq!(
            deployment(EARLY, &spec("nvidia.com/gpu"), &none).intel(),
            None
        );
        assert_eq!(Live::default().intel(), None);
    }
}
