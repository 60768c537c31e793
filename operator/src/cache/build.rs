//! From a checked ModelCache to the claim, the Jobs and the network policies that bring its files into the
//! cluster. Pure. Pods made here run `restricted`, hold no token, and only those that fetch from outside
//! have a way out.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use mesh_crds::model_cache::{AccessMode, Artifact, Quantization, VolumeStorage};
use mesh_crds::{ModelCache, label};
use serde_json::{Value, json};

use super::name;
use super::room;
use super::source::{BUILTIN, builtin, fetching, outside};
use crate::backend::Images;
use crate::world::MANAGED;

/// Where a volume of model files is.
pub(crate) const MODELS: &str = "/models";
/// Port on which a fetch tells how far it is.
pub(crate) const PROGRESS: u16 = 8082;
/// Label of pods that ask places outside of the cluster, while they do.
pub(crate) const FETCHING: &str = "inferencemesh.dev/fetching";
/// What a pod of a Job does.
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
/// A user without a name that owns nothing.
const USER: i64 = 65532;
/// Further attempts of a Job.
const ATTEMPTS: i32 = 3;
/// Longest time of a fetch: a model of a terabyte over a slow line.
const FETCH_SECONDS: i64 = 24 * 3600;
/// Longest time of a quantization.
const QUANTIZE_SECONDS: i64 = 6 * 3600;
/// As many results fit into a pod's status.
const FIT: usize = 10;
/// How long a fetch whose result fits nowhere else waits to be asked for it.
pub(crate) const LINGER: &str = "30";

/// What a Job is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Fill the volume.
    Fetch { claim: String },
    /// Only find out the digests.
    Pin,
    /// Prove again what is in the volume, and fetch anew what is damaged.
    Verify { claim: String },
    /// Make a smaller version beside the original.
    Quantize { claim: String, to: Quantization },
}

/// One Job that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// Its name, which says what it works on.
    pub(crate) name: String,
    pub(crate) task: Task,
}

impl Task {
    /// What its pods are called in labels, and their container.
    pub(crate) const fn component(&self) -> &'static str {
        match self {
            Self::Quantize { .. } => "quantize",
            Self::Fetch { .. } | Self::Pin | Self::Verify { .. } => "fetch",
        }
    }
}

/// The name of a format as the contract writes it.
pub(crate) fn format(quantization: Quantization) -> String {
    json!(quantization).as_str().unwrap_or_default().to_owned()
}

/// Where a derived file is, beside the original.
pub(crate) fn derived(parent: &str, to: Quantization) -> String {
    let stem = parent.strip_suffix(".gguf").unwrap_or(parent);
    format!("{stem}.{}.gguf", format(to))
}

/// What no container may do.
pub(crate) fn security() -> Value {
    json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
}

/// A container that quantizes `parent`, in a folder that it may write.
pub(crate) fn quantize(parent: &str, to: Quantization, at: &str) -> Vec<String> {
    vec![
        String::from("quantize"),
        format!("--model={at}/{parent}"),
        format!("--to={}", format(to)),
        format!("--out={at}/{}", derived(parent, to)),
        String::from("--result=/dev/termination-log"),
    ]
}

/// What the children of a cache share.
pub(crate) struct Builder<'a> {
    pub(crate) cache: &'a ModelCache,
    pub(crate) images: &'a Images,
    pub(crate) mesh_namespace: &'a str,
}

impl Builder<'_> {
    fn cache_name(&self) -> &str {
        self.cache.metadata.name.as_deref().unwrap_or_default()
    }

    fn labels(&self, component: &str) -> Value {
        json!({
            "app.kubernetes.io/name": "mesh-worker",
            COMPONENT: component,
            "app.kubernetes.io/part-of": "inference-mesh",
            MANAGED.0: MANAGED.1,
            label::MODEL_CACHE: name::label(self.cache_name()),
        })
    }

    fn metadata(&self, name: &str, component: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.cache.metadata.namespace,
            "labels": self.labels(component),
            "ownerReferences": [{
                "apiVersion": label::API_VERSION, "kind": "ModelCache",
                "name": self.cache_name(), "uid": self.cache.metadata.uid, "controller": true,
            }],
        })
    }

    /// A volume that only many nodes may read must be written once, by the fetch.
    pub(crate) fn claim(
        &self,
        storage: &VolumeStorage,
    ) -> Result<PersistentVolumeClaim, serde_json::Error> {
        let modes = match storage.access_mode {
            AccessMode::ReadWriteOnce => json!(["ReadWriteOnce"]),
            AccessMode::ReadOnlyMany => json!(["ReadWriteOnce", "ReadOnlyMany"]),
            AccessMode::ReadWriteMany => json!(["ReadWriteMany"]),
        };
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": self.metadata(&name::claim(self.cache_name()), "storage"),
            "spec": {
                "accessModes": modes,
                "storageClassName": storage.storage_class_name.as_ref().map(|class| &class.0),
                "resources": {"requests": {"storage": storage.size}},
            },
        }))
    }

    /// Who works on the files talks to nobody; the operator may ask how far it is.
    pub(crate) fn closed(&self) -> Result<NetworkPolicy, serde_json::Error> {
        let operator = json!({
            "namespaceSelector": {"matchLabels": {label::NAMESPACE_NAME: self.mesh_namespace}},
            "podSelector": {"matchLabels": {COMPONENT: "operator", "app.kubernetes.io/part-of": "inference-mesh"}},
        });
        let selector = json!({
            "matchLabels": {label::MODEL_CACHE: name::label(self.cache_name())},
            "matchExpressions": [{"key": COMPONENT, "operator": "In", "values": ["fetch", "quantize"]}],
        });
        serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata(&name::child(self.cache_name(), "jobs"), "network"),
            "spec": {
                "podSelector": selector,
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [operator], "ports": [{"port": PROGRESS, "protocol": "TCP"}]}],
            },
        }))
    }

    /// Who fetches from outside may go out: pods of Jobs, and pods of backends until their files are there.
    pub(crate) fn open(&self) -> Result<NetworkPolicy, serde_json::Error> {
        serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata(&name::child(self.cache_name(), "fetching"), "network"),
            "spec": {
                "podSelector": {"matchLabels": {MANAGED.0: MANAGED.1, FETCHING: "true"}},
                "policyTypes": ["Egress"],
                "egress": [{}],
            },
        }))
    }

    /// The Job for `work`; `artifacts` carry every digest that is known.
    pub(crate) fn job(
        &self,
        work: &Work,
        artifacts: &[Artifact],
    ) -> Result<Job, serde_json::Error> {
        let component = work.task.component();
        let mut labels = self.labels(component);
        let limit = if component == "fetch" {
            if outside(self.cache) {
                labels[FETCHING] = json!("true");
            }
            FETCH_SECONDS
        } else {
            QUANTIZE_SECONDS
        };
        serde_json::from_value(json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": self.metadata(&work.name, component),
            "spec": {
                "backoffLimit": ATTEMPTS,
                "podFailurePolicy": room::policy(component),
                "activeDeadlineSeconds": limit,
                "template": {"metadata": {"labels": labels}, "spec": self.pod(&work.task, artifacts)},
            },
        }))
    }

    /// The image that a Job runs.
    pub(crate) fn image(&self, task: &Task) -> &str {
        if builtin(self.cache) && task.component() == "fetch" {
            &self.images.worker_floor
        } else {
            &self.images.worker
        }
    }

    fn pod(&self, task: &Task, artifacts: &[Artifact]) -> Value {
        let volume = match task {
            Task::Pin => json!({"name": "models", "emptyDir": {}}),
            Task::Fetch { claim } | Task::Verify { claim } | Task::Quantize { claim, .. } => {
                json!({"name": "models", "persistentVolumeClaim": {"claimName": claim}})
            }
        };
        let mut volumes = vec![volume, json!({"name": "tmp", "emptyDir": {}})];
        let mut container = match task {
            Task::Quantize { to, .. } => self.quantizer(*to),
            Task::Fetch { .. } | Task::Pin | Task::Verify { .. } => {
                let fetching = fetching(self.cache, artifacts, "models");
                volumes.extend(fetching.volumes);
                let verify = matches!(task, Task::Verify { .. });
                Self::fetcher(
                    &fetching.order,
                    fetching.mounts,
                    verify,
                    artifacts.len() > FIT,
                )
            }
        };
        container["image"] = json!(self.image(task));
        container["imagePullPolicy"] = json!(self.images.pull_policy);
        let pull: Vec<Value> = self
            .images
            .pull_secrets
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 10,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": pull,
            "affinity": self.beside_workers(task),
            "containers": [container],
            "volumes": volumes,
        })
    }

    /// A volume of one node is where its users are.
    fn beside_workers(&self, task: &Task) -> Value {
        if *task == Task::Pin {
            return Value::Null;
        }
        let selector = json!({"matchLabels": {label::MODEL_CACHE: name::label(self.cache_name())}});
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": selector});
        json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}})
    }

    fn fetcher(order: &str, mut mounts: Vec<Value>, verify: bool, linger: bool) -> Value {
        let progress = format!("0.0.0.0:{PROGRESS}");
        let mut args = vec!["fetch", "--into", MODELS, "--builtin", BUILTIN];
        args.extend([
            "--result",
            "/dev/termination-log",
            "--progress-listen",
            &progress,
        ]);
        if verify {
            args.push("--verify");
        }
        if linger {
            args.extend(["--linger", LINGER]);
        }
        mounts.extend([
            json!({"name": "models", "mountPath": MODELS}),
            json!({"name": "tmp", "mountPath": "/tmp"}),
        ]);
        json!({
            "name": "fetch",
            "args": args,
            "env": [{"name": "MESH_FETCH", "value": order}],
            "ports": [{"name": "progress", "containerPort": PROGRESS}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            "securityContext": security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        })
    }

    fn quantizer(&self, to: Quantization) -> Value {
        let parent = self.cache.spec.artifacts.first();
        let parent = parent.map_or("", |artifact| artifact.path.as_str());
        json!({
            "name": "quantize",
            "args": quantize(parent, to, MODELS),
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
            "securityContext": security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "models", "mountPath": MODELS}, {"name": "tmp", "mountPath": "/tmp"}],
        })
    }
}

#[cfg(test)]
mod tests;
