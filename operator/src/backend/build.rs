//! From a plan to the objects that make it so. Pure.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use mesh_core::hex;
pub(crate) use mesh_crds::child_name;
use mesh_crds::in_cluster::Engine;
use mesh_crds::label;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::{FETCHING, label_value};
use crate::quantity::canonical;
use crate::world::MANAGED;

mod accelerator;
mod engine;
mod placement;
mod plan;
mod transport;
mod weights;

pub(crate) use accelerator::Accelerator;
pub(crate) use plan::{Input, Plan, Refusal, plan};
use transport::Transport;
pub(crate) use transport::worker_egress;

/// Port of an engine's API inside of its pod; from outside it is the TLS port.
const API: u16 = 8000;
/// Port of our worker's metrics and health.
const ADMIN: u16 = 8081;
/// Where engines that are not ours may write.
const CACHE: &str = "/var/cache/engine";
/// A user without a name that owns nothing.
const USER: i64 = 65532;
/// How long a new pod may take until it answers, where the spec says nothing.
const STARTUP_SECONDS: u64 = 600;
/// The same for engines that load tens of gigabytes and compile.
const LONG_STARTUP_SECONDS: u64 = 1800;

/// What runs the pods.
#[derive(Debug)]
pub(crate) enum Workload {
    Deployment(Box<Deployment>),
    /// Where every pod has a volume of its own.
    StatefulSet(Box<StatefulSet>),
}

/// Everything that belongs to one backend.
#[derive(Debug)]
pub(crate) struct Children {
    pub(crate) account: ServiceAccount,
    pub(crate) service: Service,
    pub(crate) workload: Workload,
    pub(crate) network: NetworkPolicy,
    /// Only from two replicas: with one it would keep a node from being drained.
    pub(crate) budget: Option<PodDisruptionBudget>,
    /// A ResourceClaimTemplate, where accelerators are claimed. Its types are newer than the oldest
    /// Kubernetes.
    pub(crate) claims: Option<Value>,
}

/// What no container may do.
fn security() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

/// What the children share.
struct Frame<'a> {
    plan: &'a Plan<'a>,
    name: String,
}

/// The children of a backend with pods.
pub(crate) fn children(plan: &Plan<'_>) -> Result<Children, serde_json::Error> {
    let name = child_name(plan.backend.metadata.name.as_deref().unwrap_or_default());
    let frame = Frame { plan, name };
    let budget = (plan.spec.replicas >= 2).then(|| frame.budget());
    let workload = if frame.claims_volumes() {
        Workload::StatefulSet(serde_json::from_value(frame.stateful_set())?)
    } else {
        Workload::Deployment(serde_json::from_value(frame.deployment())?)
    };
    Ok(Children {
        account: serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": frame.metadata(), "automountServiceAccountToken": false,
        }))?,
        service: serde_json::from_value(frame.service())?,
        workload,
        network: serde_json::from_value(frame.network())?,
        budget: budget.map(serde_json::from_value).transpose()?,
        claims: frame.claim_template(),
    })
}

impl Frame<'_> {
    fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "mesh-worker",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": "worker",
            "app.kubernetes.io/part-of": "inference-mesh",
            MANAGED.0: MANAGED.1,
            label::BACKEND: self.plan.backend.metadata.name,
            label::MODEL_CACHE: label_value(&self.plan.spec.model_ref.name.0),
        })
    }

    /// What selects the pods; never changes.
    fn selector(&self) -> Value {
        json!({"app.kubernetes.io/instance": self.name, label::BACKEND: self.plan.backend.metadata.name})
    }

    fn metadata(&self) -> Value {
        let metadata = &self.plan.backend.metadata;
        json!({
            "name": self.name,
            "namespace": metadata.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": label::API_VERSION, "kind": "InferenceBackend",
                "name": metadata.name, "uid": metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }

    /// Without an address of its own: gateways choose among the pods, and addresses of Services are few.
    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": self.metadata(),
            "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": self.selector(), "ports": [Transport::service_port()]},
        })
    }

    fn budget(&self) -> Value {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": self.metadata(),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": self.selector()}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        })
    }

    /// Prompts come from gateways and sidecars only, and nothing goes out but to the operator. Pods that fetch
    /// are let out by the policy of their ModelCache, until their files are there.
    fn network(&self) -> Value {
        let transport = self.plan.transport();
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": self.metadata(),
            "spec": {
                "podSelector": {"matchLabels": self.selector()},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": transport.ingress(),
                "egress": transport.egress(),
            },
        })
    }

    /// Of the model and of its adapters.
    fn all_weights(&self) -> impl Iterator<Item = &weights::Weights> {
        let adapters = self.plan.adapters.iter().map(|one| &one.weights);
        [&self.plan.weights].into_iter().chain(adapters)
    }

    fn claims_volumes(&self) -> bool {
        self.all_weights().any(|one| !one.claims.is_empty())
    }

    fn template(&self) -> Value {
        let mut labels = self.labels();
        if self.all_weights().any(|one| one.fetches) {
            labels[FETCHING] = json!("true");
        }
        json!({"metadata": {"labels": labels}, "spec": self.pod()})
    }

    fn deployment(&self) -> Value {
        // An accelerator to spare is rare: a new pod that waits for the old one's would wait for ever.
        let rolling = if self.plan.accelerator.is_some() {
            json!({"maxSurge": 0, "maxUnavailable": 1})
        } else {
            json!({"maxSurge": 1, "maxUnavailable": 0})
        };
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata(),
            "spec": {
                "replicas": self.plan.spec.replicas,
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": self.startup_seconds() + 60,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                "selector": {"matchLabels": self.selector()},
                "template": self.template(),
            },
        })
    }

    fn stateful_set(&self) -> Value {
        let claims: Vec<&Value> = self.all_weights().flat_map(|one| &one.claims).collect();
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": self.metadata(),
            "spec": {
                "replicas": self.plan.spec.replicas,
                "revisionHistoryLimit": 3,
                "serviceName": self.name,
                "podManagementPolicy": "Parallel",
                "updateStrategy": {"type": "RollingUpdate"},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
                "selector": {"matchLabels": self.selector()},
                "template": self.template(),
                "volumeClaimTemplates": claims,
            },
        })
    }

    fn startup_seconds(&self) -> u64 {
        let spec = self.plan.spec;
        let wanted = spec
            .startup_timeout
            .as_ref()
            .and_then(|text| text.read().ok());
        let otherwise = if spec.engine == Engine::Candle {
            STARTUP_SECONDS
        } else {
            LONG_STARTUP_SECONDS
        };
        wanted.map_or(otherwise, |limit| limit.as_secs().max(2))
    }

    fn pod(&self) -> Value {
        let (spec, images) = (self.plan.spec, self.plan.images);
        let own = spec.image_pull_secrets.iter().map(|secret| &secret.name.0);
        let pull = own.chain(&images.pull_secrets);
        let pull: Vec<Value> = pull.map(|name| json!({"name": name})).collect();
        let guard = self.guard();
        let init = self.all_weights().flat_map(|one| &one.init);
        let init: Vec<&Value> = init.chain(&guard).collect();
        let accelerator = self.plan.accelerator.as_ref();
        let claims = accelerator.and_then(|one| one.pod_claims(&self.claims_name()));
        json!({
            "serviceAccountName": self.name,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 60,
            "securityContext": {"runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
            "nodeSelector": spec.node_selector,
            "affinity": self.affinity(),
            "tolerations": self.tolerations(),
            "topologySpreadConstraints": self.spread(),
            "runtimeClassName": spec.runtime_class_name.as_ref().map(|name| &name.0),
            "priorityClassName": spec.priority_class_name.as_ref().map(|name| &name.0),
            "imagePullSecrets": pull,
            "resourceClaims": claims,
            "initContainers": init,
            "containers": [self.worker()],
            "volumes": self.volumes(),
        })
    }

    fn volumes(&self) -> Value {
        let mut volumes: Vec<Value> = self
            .all_weights()
            .flat_map(|one| one.volumes.iter().cloned())
            .collect();
        volumes.push(json!({"name": "tmp", "emptyDir": {}}));
        volumes.extend(Transport::volumes());
        if self.plan.foreign_engine() {
            volumes.push(json!({"name": "cache", "emptyDir": {}}));
        }
        if let Some(size) = self.plan.shared_memory() {
            volumes
                .push(json!({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}));
        }
        Value::Array(volumes)
    }

    fn mounts(&self) -> Value {
        let mut mounts: Vec<Value> = self
            .all_weights()
            .flat_map(|one| one.mounts.iter().cloned())
            .collect();
        mounts.push(json!({"name": "tmp", "mountPath": "/tmp"}));
        if self.plan.foreign_engine() {
            mounts.push(json!({"name": "cache", "mountPath": CACHE}));
        } else {
            mounts.extend(Transport::mounts());
        }
        if self.plan.shared_memory().is_some() {
            mounts.push(json!({"name": "shm", "mountPath": "/dev/shm"}));
        }
        Value::Array(mounts)
    }

    /// What stands before an engine that is not ours.
    fn guard(&self) -> Option<Value> {
        let images = self.plan.images;
        let guard = |transport: Transport<'_>| {
            transport.guard(&images.worker, &images.pull_policy, engine::HEALTH)
        };
        self.plan
            .foreign_engine()
            .then(|| guard(self.plan.transport()))
    }

    /// The container that computes. It listens on loopback: what comes from outside comes through TLS.
    fn worker(&self) -> Value {
        let (ready, alive) = self.plan.probes();
        let (ports, lifecycle) = if self.plan.foreign_engine() {
            (json!([]), Transport::lifecycle())
        } else {
            let admin = json!({"name": "admin", "containerPort": ADMIN});
            (json!([Transport::port(), admin]), Value::Null)
        };
        let probe = |path: &str, period: u64, failures: u64| json!({"httpGet": {"path": path, "port": ADMIN}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5});
        json!({
            "name": "worker",
            "image": self.plan.image,
            "imagePullPolicy": self.plan.images.pull_policy,
            "command": self.plan.command(),
            "args": self.plan.args("127.0.0.1"),
            "env": self.plan.env(),
            "ports": ports,
            "lifecycle": lifecycle,
            "resources": self.resources(),
            "startupProbe": probe(ready, 1, self.startup_seconds()),
            "readinessProbe": probe(ready, 2, 2),
            "livenessProbe": probe(alive, 10, 6),
            "securityContext": security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": self.mounts(),
        })
    }

    /// As the API server writes them back, so that they are found as they were applied.
    fn resources(&self) -> Value {
        let mut resources = match &self.plan.spec.resources {
            Some(own) => {
                let mut parts = json!({});
                for (name, amounts) in [("requests", &own.requests), ("limits", &own.limits)] {
                    for (resource, amount) in amounts {
                        parts[name][resource] = json!(canonical(amount));
                    }
                }
                parts
            }
            None if self.plan.foreign_engine() => {
                json!({"requests": {"cpu": "1", "memory": "2Gi"}})
            }
            None => json!({"requests": {"cpu": "250m", "memory": "512Mi"}}),
        };
        if let Some(accelerator) = &self.plan.accelerator {
            accelerator.add(&mut resources);
        }
        resources
    }

    /// A template cannot change, so its name tells what is in it.
    fn claims_name(&self) -> String {
        let accelerator = self.plan.accelerator.as_ref();
        let spec = accelerator.and_then(Accelerator::template);
        let digest = Sha256::digest(spec.unwrap_or_default().to_string().as_bytes());
        format!("{}-{}", self.name, hex(&digest[..4]))
    }

    fn claim_template(&self) -> Option<Value> {
        let spec = self.plan.accelerator.as_ref()?.template()?;
        let mut metadata = self.metadata();
        metadata["name"] = json!(self.claims_name());
        Some(json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": metadata, "spec": spec,
        }))
    }
}

#[cfg(test)]
mod tests;
