//! How a model's files come into a pod: volumes, what puts them there and proves them, and where the engine
//! finds them. Knows no engine. Whatever the storage, nothing is served that was not proven in this pod.

use mesh_crds::model_cache::{AccessMode, Artifact, Quantization};
use serde_json::{Value, json};

use super::security;
use crate::cache::{BUILTIN, Fetching, Keep, State, derived, fetching, format, outside, quantize};

/// Which files are wanted, and where.
pub(super) struct Wanted<'a> {
    pub(super) model: &'a State,
    /// The derived version to serve; none = the files as they are.
    pub(super) quantization: Option<Quantization>,
    /// Name of the volume; tells several models of one pod apart.
    pub(super) volume: &'a str,
    /// Folder in which the engine sees them.
    pub(super) at: &'a str,
    /// Image that has `fetch`.
    pub(super) image: &'a str,
    /// The engine runs the same image, so that its built-in files need not be copied.
    pub(super) same_image: bool,
    pub(super) pull_policy: &'a str,
}

/// What a pod needs to have them.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Volumes of the pod.
    pub(super) volumes: Vec<Value>,
    /// Init containers, in order.
    pub(super) init: Vec<Value>,
    /// Mounts of the engine's container.
    pub(super) mounts: Vec<Value>,
    /// Claims that every pod has for itself: not empty makes the workload a StatefulSet.
    pub(super) claims: Vec<Value>,
    /// Files in the engine's container, in the order of the artifacts.
    pub(super) files: Vec<String>,
    /// The pod itself asks places outside of the cluster, until its files are there.
    pub(super) fetches: bool,
}

/// How they come into a pod.
pub(super) fn weights(wanted: &Wanted<'_>) -> Weights {
    match &wanted.model.keep {
        Keep::Claim(storage) => {
            let once = storage.access_mode != AccessMode::ReadOnlyMany;
            wanted.shared(if once {
                json!({})
            } else {
                json!({"readOnly": true})
            })
        }
        Keep::Pod => {
            let mut own = wanted.own();
            own.volumes
                .push(json!({"name": wanted.volume, "emptyDir": {}}));
            own
        }
        Keep::Node(storage) => {
            let mut own = wanted.own();
            own.claims.push(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": wanted.volume},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": storage.storage_class_name.0,
                    "resources": {"requests": {"storage": storage.disk_budget}},
                },
            }));
            own
        }
    }
}

impl Wanted<'_> {
    /// What the engine gets.
    fn served(&self) -> Vec<Artifact> {
        let state = self.model;
        let Some(to) = self.quantization else {
            return state.artifacts.clone();
        };
        let made = state.derived.iter().find(|one| one.to == to);
        let made = made.and_then(|one| one.made.as_ref());
        vec![Artifact {
            path: derived(self.parent(), to),
            sha256: made.map(|made| made.sha256.clone()),
        }]
    }

    fn parent(&self) -> &str {
        let first = self.model.artifacts.first();
        first.map_or("", |artifact| artifact.path.as_str())
    }

    /// Names of containers are known to whoever reads what they say.
    fn called(&self, name: &str) -> String {
        if self.volume == "models" {
            name.to_owned()
        } else {
            format!("{name}-{}", self.volume)
        }
    }

    fn container(&self, name: &str, args: &Value, env: &Value, mounts: &[Value]) -> Value {
        json!({
            "name": self.called(name),
            "image": self.image,
            "imagePullPolicy": self.pull_policy,
            "args": args,
            "env": env,
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            "securityContext": security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        })
    }

    fn files(&self) -> Vec<String> {
        let served = self.served();
        let path = |artifact: &Artifact| format!("{}/{}", self.at, artifact.path);
        served.iter().map(path).collect()
    }

    fn mount(&self) -> Value {
        json!({"name": self.volume, "mountPath": self.at, "readOnly": true})
    }

    /// One volume for all pods: filled by a Job, proven by every pod.
    fn shared(&self, mut claim: Value) -> Weights {
        claim["claimName"] = json!(self.model.claim());
        let order = json!({"artifacts": self.served()}).to_string();
        let prove = self.container(
            "prove",
            &json!(["prove", "--folder", self.at]),
            &json!([{"name": "MESH_PROVE", "value": order}]),
            &[self.mount()],
        );
        Weights {
            volumes: vec![json!({"name": self.volume, "persistentVolumeClaim": claim})],
            init: vec![prove],
            mounts: vec![self.mount()],
            files: self.files(),
            ..Weights::default()
        }
    }

    /// A volume for this pod alone: it fetches, proves and quantizes for itself.
    fn own(&self) -> Weights {
        let cache = &self.model.cache;
        let Fetching {
            order,
            volumes,
            mut mounts,
        } = fetching(cache, &self.model.artifacts, self.volume);
        let writable = [
            json!({"name": self.volume, "mountPath": self.at}),
            json!({"name": "tmp", "mountPath": "/tmp"}),
        ];
        mounts.extend(writable.clone());
        let mut args = vec!["fetch", "--into", self.at, "--builtin", BUILTIN];
        if self.same_image && self.model.keep == Keep::Pod {
            args.push("--link-builtin");
        }
        args.extend(["--result", "/dev/termination-log"]);
        let mut init = vec![self.container(
            "fetch",
            &json!(args),
            &json!([{"name": "MESH_FETCH", "value": order}]),
            &mounts,
        )];
        if let Some(to) = self.quantization {
            let name = format!("quantize-{}", format(to).to_lowercase().replace('_', "-"));
            let args = json!(quantize(self.parent(), to, self.at));
            init.push(self.container(&name, &args, &json!([]), &writable));
        }
        Weights {
            volumes,
            init,
            mounts: vec![self.mount()],
            claims: Vec::new(),
            files: self.files(),
            fetches: outside(cache),
        }
    }
}

#[cfg(test)]
mod tests;
