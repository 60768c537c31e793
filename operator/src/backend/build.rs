//! From a checked InferenceBackend to the objects that make it so. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use mesh_core::hex;
use mesh_crds::in_cluster::InCluster;
use mesh_crds::{InferenceBackend, ModelCache, label};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::Run;
use crate::world::MANAGED;

mod weights;

use weights::{Wanted, Weights, builtin, weights};

/// Port of the worker's API.
const API: u16 = 8000;
/// Port of its metrics and health.
const ADMIN: u16 = 8081;
/// Where the files are.
const MODELS: &str = "/models";
/// A user without a name that owns nothing.
const USER: i64 = 65532;
/// How long a new pod may take until it answers, where the spec says nothing.
const STARTUP_SECONDS: u64 = 600;
/// Longest name of a Service.
const LONGEST: usize = 63;

/// Images and how they are pulled.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    pub(crate) worker: String,
    pub(crate) worker_floor: String,
    pub(crate) pull_policy: String,
    pub(crate) pull_secrets: Vec<String>,
}

impl From<&Run> for Images {
    fn from(run: &Run) -> Self {
        Self {
            worker: run.worker_image.clone(),
            worker_floor: run.worker_floor_image.clone(),
            pull_policy: run.image_pull_policy.clone(),
            pull_secrets: run.image_pull_secrets.clone(),
        }
    }
}

/// Everything that belongs to one backend.
#[derive(Debug)]
pub(crate) struct Children {
    pub(crate) account: ServiceAccount,
    pub(crate) service: Service,
    pub(crate) deployment: Deployment,
    pub(crate) network: NetworkPolicy,
    /// Only from two replicas: with one it would keep a node from being drained.
    pub(crate) budget: Option<PodDisruptionBudget>,
}

/// Name of all children of a backend.
pub(crate) fn child_name(backend: &str) -> String {
    let name = format!("{backend}-worker");
    if name.len() <= LONGEST {
        return name;
    }
    let hash = hex(&Sha256::digest(backend.as_bytes())[..4]);
    let kept: String = backend
        .chars()
        .take(LONGEST - "-worker-".len() - hash.len())
        .collect();
    format!("{kept}-{hash}-worker")
}

/// What no container may do.
fn security() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

/// What the children share.
struct Frame<'a> {
    backend: &'a InferenceBackend,
    spec: &'a InCluster,
    cache: &'a ModelCache,
    images: &'a Images,
    mesh_namespace: &'a str,
    name: String,
    weights: Weights,
}

/// The children of a backend with pods.
pub(crate) fn children(
    backend: &InferenceBackend,
    spec: &InCluster,
    cache: &ModelCache,
    images: &Images,
    mesh_namespace: &str,
) -> Result<Children, serde_json::Error> {
    let name = child_name(backend.metadata.name.as_deref().unwrap_or_default());
    let image = if builtin(cache) {
        &images.worker_floor
    } else {
        &images.worker
    };
    let wanted = Wanted {
        cache,
        volume: "models",
        at: MODELS,
        image: spec.image.as_deref().unwrap_or(image),
        pull_policy: &images.pull_policy,
    };
    let frame = Frame {
        weights: weights(&wanted),
        backend,
        spec,
        cache,
        images,
        mesh_namespace,
        name,
    };
    let budget = (spec.replicas >= 2).then(|| frame.budget());
    Ok(Children {
        account: serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": frame.metadata(), "automountServiceAccountToken": false,
        }))?,
        service: serde_json::from_value(frame.service())?,
        deployment: serde_json::from_value(frame.deployment())?,
        network: serde_json::from_value(frame.network())?,
        budget: budget.map(serde_json::from_value).transpose()?,
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
            label::BACKEND: self.backend.metadata.name,
            label::MODEL_CACHE: self.spec.model_ref.name.0,
        })
    }

    /// What selects the pods; never changes.
    fn selector(&self) -> Value {
        json!({"app.kubernetes.io/instance": self.name, label::BACKEND: self.backend.metadata.name})
    }

    fn metadata(&self) -> Value {
        json!({
            "name": self.name,
            "namespace": self.backend.metadata.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": label::API_VERSION, "kind": "InferenceBackend",
                "name": self.backend.metadata.name, "uid": self.backend.metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }

    /// Without an address of its own: gateways choose among the pods, and addresses of Services are few.
    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": self.metadata(),
            "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": self.selector(), "ports": [
                {"name": "api", "port": API, "targetPort": "api", "protocol": "TCP"}]},
        })
    }

    fn budget(&self) -> Value {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": self.metadata(),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": self.selector()}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        })
    }

    /// Prompts come from gateways only; nothing goes out but, where files come from outside, the fetch.
    fn network(&self) -> Value {
        let gateway = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.mesh_namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/part-of": "inference-mesh"}},
        });
        let egress = if self.weights.fetches {
            json!([{}])
        } else {
            json!([])
        };
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": self.metadata(),
            "spec": {
                "podSelector": {"matchLabels": self.selector()},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"from": [gateway], "ports": [{"port": API, "protocol": "TCP"}]},
                    {"ports": [{"port": ADMIN, "protocol": "TCP"}]},
                ],
                "egress": egress,
            },
        })
    }

    fn image(&self) -> &str {
        let ours = if builtin(self.cache) {
            &self.images.worker_floor
        } else {
            &self.images.worker
        };
        self.spec.image.as_deref().unwrap_or(ours)
    }

    fn deployment(&self) -> Value {
        let pod = json!({"metadata": {"labels": self.labels()}, "spec": self.pod()});
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata(),
            "spec": {
                "replicas": self.spec.replicas,
                "revisionHistoryLimit": 3,
                "progressDeadlineSeconds": self.startup_seconds() + 60,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": self.selector()},
                "template": pod,
            },
        })
    }

    fn startup_seconds(&self) -> u64 {
        let wanted = self
            .spec
            .startup_timeout
            .as_ref()
            .and_then(|text| text.read().ok());
        wanted.map_or(STARTUP_SECONDS, |limit| limit.as_secs().max(2))
    }

    fn pod(&self) -> Value {
        let pull: Vec<Value> = self
            .spec
            .image_pull_secrets
            .iter()
            .map(|secret| json!({"name": secret.name.0}))
            .chain(
                self.images
                    .pull_secrets
                    .iter()
                    .map(|name| json!({"name": name})),
            )
            .collect();
        json!({
            "serviceAccountName": self.name,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 60,
            "securityContext": {"runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
            "nodeSelector": self.spec.node_selector,
            "tolerations": self.spec.tolerations,
            "topologySpreadConstraints": self.spread(),
            "runtimeClassName": self.spec.runtime_class_name.as_ref().map(|name| &name.0),
            "priorityClassName": self.spec.priority_class_name.as_ref().map(|name| &name.0),
            "imagePullSecrets": pull,
            "initContainers": self.weights.init,
            "containers": [self.worker()],
            "volumes": self.volumes(),
        })
    }

    fn volumes(&self) -> Value {
        let mut volumes = self.weights.volumes.clone();
        volumes.push(json!({"name": "tmp", "emptyDir": {}}));
        if let Some(size) = &self.spec.shared_memory {
            volumes
                .push(json!({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}));
        }
        Value::Array(volumes)
    }

    fn spread(&self) -> Value {
        let constraint = |key: &str, skew: i32, otherwise: &str| json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": otherwise, "labelSelector": {"matchLabels": self.selector()}});
        if self.spec.topology_spread.is_empty() {
            return json!([constraint("kubernetes.io/hostname", 1, "ScheduleAnyway")]);
        }
        let all = self.spec.topology_spread.iter().map(|spread| {
            let otherwise = json!(spread.when_unsatisfiable);
            constraint(
                &spread.topology_key,
                spread.max_skew,
                otherwise.as_str().unwrap_or("ScheduleAnyway"),
            )
        });
        all.collect()
    }

    fn worker(&self) -> Value {
        let mut mounts = self.weights.mounts.clone();
        mounts.push(json!({"name": "tmp", "mountPath": "/tmp"}));
        if self.spec.shared_memory.is_some() {
            mounts.push(json!({"name": "shm", "mountPath": "/dev/shm"}));
        }
        let probe = |path: &str, period: u64, failures: u64| json!({"httpGet": {"path": path, "port": "admin"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5});
        json!({
            "name": "worker",
            "image": self.image(),
            "imagePullPolicy": self.images.pull_policy,
            "args": self.args(),
            "env": self.spec.env,
            "ports": [{"name": "api", "containerPort": API}, {"name": "admin", "containerPort": ADMIN}],
            "resources": self.resources(),
            "startupProbe": probe("/readyz", 1, self.startup_seconds()),
            "readinessProbe": probe("/readyz", 2, 2),
            "livenessProbe": probe("/healthz", 10, 6),
            "securityContext": security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        })
    }

    fn resources(&self) -> Value {
        match &self.spec.resources {
            Some(resources) => json!(resources),
            None => json!({"requests": {"cpu": "250m", "memory": "512Mi"}}),
        }
    }

    /// Ours first, so that what the author adds cannot come before them; what is given twice is refused
    /// by the worker.
    fn args(&self) -> Vec<String> {
        let file = self.weights.files.first().map_or(MODELS, String::as_str);
        let names: Vec<&str> = self
            .backend
            .spec
            .models
            .iter()
            .map(|model| model.target.as_deref().unwrap_or(&model.name))
            .collect();
        let mut args = vec![
            String::from("serve"),
            format!("--model={file}"),
            format!("--served-name={}", names.join(",")),
            format!("--listen=0.0.0.0:{API}"),
            format!("--admin-listen=0.0.0.0:{ADMIN}"),
        ];
        if let Some(bytes) = self
            .spec
            .kv_memory
            .as_ref()
            .and_then(|memory| memory.read().ok())
        {
            args.push(format!("--kv-mib={}", (bytes >> 20).max(1)));
        }
        args.extend(self.spec.args.iter().cloned());
        args
    }
}

#[cfg(test)]
mod tests;
