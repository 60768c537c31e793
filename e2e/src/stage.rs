//! A cluster with the kinds and the chart's rules in it, the operator's binary, and the hands of a test.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_cluster::{Cluster, Options, Tier};
use serde_json::{Value, json};

use crate::operator::{self, HOME, Operator, Settings};
use crate::rights::{self, line};
use crate::story;

const STEP: Duration = Duration::from_millis(100);

/// What a story is played on.
#[derive(Debug)]
pub struct Stage {
    /// The cluster; nothing of the mesh runs in it yet.
    pub cluster: Cluster,
    binary: PathBuf,
    /// The cluster is somebody else's.
    guest: bool,
}

/// Whether a given cluster can be played on: nothing runs in it, and nothing of the mesh is there that would be taken
/// for what the story made.
///
/// # Errors
/// What is there.
pub fn alone(cluster: &Cluster, tier: Tier) -> Result<()> {
    if tier != Tier::ControlPlane {
        bail!(
            "the cluster of KUBECONFIG has no fake nodes of ours, and daemons that cannot be asked to hurry"
        );
    }
    cluster.bare()?;
    let said = |args: &[&str]| cluster.kubectl(args).map_err(anyhow::Error::msg);
    let installed = ["get", "deployments", "-A", "-o", "name", "-l", OURS];
    let mut there = said(&installed)?;
    for kind in KINDS {
        let served = said(&[
            "get",
            "crd",
            &format!("{kind}.inferencemesh.dev"),
            "--ignore-not-found",
            "-o",
            "name",
        ])?;
        if !served.trim().is_empty() {
            there.push_str(&said(&["get", kind, "-A", "-o", "name"])?);
        }
    }
    if there.trim().is_empty() {
        return Ok(());
    }
    bail!(
        "the cluster of KUBECONFIG has a mesh, or objects of one: {}",
        there.trim().replace('\n', ", ")
    )
}

impl Stage {
    /// Nobody else is there who would let go of a claim.
    fn let_go(&self) {
        let claims = self
            .get(&["persistentvolumeclaims", "-A"])
            .unwrap_or_default();
        for claim in claims["items"].as_array().into_iter().flatten() {
            let word = |key: &str| claim["metadata"][key].as_str().unwrap_or_default();
            if !word("deletionTimestamp").is_empty() {
                let claim = format!("pvc/{}", word("name"));
                let free = r#"{"metadata": {"finalizers": null}}"#;
                let args = [
                    "patch",
                    &claim,
                    "-n",
                    word("namespace"),
                    "--type=merge",
                    "-p",
                    free,
                ];
                drop(self.cluster.kubectl(&args));
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.guest {
            return;
        }
        // The kinds stay; nobody collects what belonged to their objects, so it goes by its label. What fails is
        // found by the next start.
        let children = "deployments,statefulsets,jobs,services,serviceaccounts,configmaps,poddisruptionbudgets,networkpolicies,persistentvolumeclaims,controllerrevisions,resourceclaimtemplates";
        let delete = |kinds: &str, more: &[&str]| {
            let args = ["delete", kinds, "-A", "--ignore-not-found", "--wait=false"];
            drop(self.cluster.kubectl(&[&args[..], more].concat()));
        };
        delete(
            "validatingadmissionpolicybindings,validatingadmissionpolicies,mutatingwebhookconfigurations",
            &["-l", OURS],
        );
        delete(
            "clusterroles,clusterrolebindings,roles,rolebindings",
            &["-l", OURS],
        );
        delete(&KINDS.join(","), &["--all"]);
        delete(
            children,
            &["-l", "app.kubernetes.io/managed-by=mesh-operator"],
        );
        delete(
            "pods",
            &[
                "-l",
                "inferencemesh.dev/backend",
                "--force",
                "--grace-period=0",
            ],
        );
        self.let_go();
        // There was none.
        drop(
            self.cluster
                .kubectl(&["delete", "nodes", "--all", "--wait=false"]),
        );
        let own = [
            "delete",
            "-n",
            HOME,
            "secret/mesh-ca",
            "lease/mesh-operator",
            "--ignore-not-found",
        ];
        drop(self.cluster.kubectl(&own));
    }
}

/// Label of everything of the product.
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";
const KINDS: [&str; 3] = ["inferencebackends", "modelcaches", "sovereigntypolicies"];

impl Stage {
    /// Starts a cluster of this name. An error says what this machine lacks.
    pub fn start(name: &str, tier: Tier) -> Result<Self> {
        let binary = operator::binary().with_context(|| {
            format!(
                "{} is not set; `cargo xtask test` builds what it names and sets it",
                operator::BINARY
            )
        })?;
        let cluster = Cluster::start(&Options {
            tier,
            name: name.to_owned(),
            ..Options::default()
        })?;
        let guest = cluster.started_here().is_err();
        if guest {
            alone(&cluster, tier)?;
        }
        // From here on what was made is taken away again.
        let stage = Self {
            cluster,
            binary,
            guest,
        };
        operator::install(&stage.cluster)?;
        Ok(stage)
    }

    /// Ends a chapter that kills daemons where they are not ours.
    pub fn ours(&self) {
        if let Err(reason) = self.cluster.started_here() {
            story::skip(&reason.to_string());
        }
    }

    /// How an operator of this name is started: short lease, so that nothing has to be waited for long.
    pub fn settings(&self, identity: &str) -> Result<Settings> {
        Ok(Settings::new(&self.cluster, identity)?.env("MESH_LEASE_SECONDS", "6"))
    }

    /// Starts an operator.
    pub fn begin(&self, settings: &Settings) -> Result<Operator> {
        Operator::start(&self.binary, settings)
    }

    /// Starts an operator of this name and waits until it leads.
    pub fn lead(&self, identity: &str) -> Result<Operator> {
        let operator = self.begin(&self.settings(identity)?)?;
        operator.leads(Duration::from_secs(20))?;
        Ok(operator)
    }

    /// Where no node is: one, and a floor in the mesh namespace with a pod on it that says it serves. Policies
    /// that name it can be accepted.
    pub fn floor(&self) -> Result<()> {
        self.apply(&cache(HOME, "model"))?;
        self.apply(&backend(HOME, "floor", "model", 1))?;
        self.apply(&ownership(None))?;
        self.serving()
    }

    /// Of [`Stage::floor`] the node and the pod.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn serving(&self) -> Result<()> {
        let meta = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": HOME, "name": name}});
        self.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "only"}}))?;
        self.apply(&meta("ServiceAccount", "default"))?;
        let mut pod = meta("Pod", "floor-0");
        pod["metadata"]["labels"] = json!({"inferencemesh.dev/backend": "floor"});
        pod["spec"] =
            json!({"nodeName": "only", "containers": [{"name": "worker", "image": "none"}]});
        self.apply(&pod)?;
        let ready = json!({"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        self.says(HOME, "pod/floor-0", &ready)
    }

    /// Writes a status as a kubelet or a controller would.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn says(&self, namespace: &str, what: &str, status: &Value) -> Result<()> {
        let patch = json!({"status": status}).to_string();
        let whose = ["patch", "-n", namespace, what, "--subresource=status"];
        let args = [&whose[..], &["--type=merge", "-p", &patch]].concat();
        self.kubectl(&args).map(drop)
    }

    /// Says of a workload of one pod, as `kind/name`, what its controller would once that is ready.
    ///
    /// # Errors
    /// If it is not there.
    pub fn serves(&self, namespace: &str, workload: &str) -> Result<()> {
        let there = self.get(&["-n", namespace, workload])?;
        let status = json!({"observedGeneration": there["metadata"]["generation"], "replicas": 1, "readyReplicas": 1,
            "updatedReplicas": 1, "availableReplicas": 1});
        self.says(namespace, workload, &status)
    }

    /// The end of the API server's log, for a chapter that failed.
    pub fn diagnosis(&self) -> String {
        let log = self.cluster.folder().join("kube-apiserver.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n");
        format!("the API server wrote last:\n{last}")
    }

    /// kubectl's answer, or its refusal.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(args).map_err(anyhow::Error::msg)
    }

    /// Server-side apply by a user.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let done = self.cluster.apply(object, "user");
        done.map(drop).map_err(anyhow::Error::msg)
    }

    /// Objects as the API server has them.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Names of everything that the operator made in a namespace, sorted, as `kind/name`.
    pub fn made(&self, namespace: &str) -> Result<Vec<String>> {
        let kinds = "deployments,services,serviceaccounts,networkpolicies,poddisruptionbudgets,controllerrevisions";
        let selector = "app.kubernetes.io/managed-by=mesh-operator";
        let text = self.kubectl(&["get", kinds, "-n", namespace, "-l", selector, "-o", "name"])?;
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Looks until `found` gives something; what is wrong meanwhile is told if the time is over.
    #[expect(clippy::unused_self, reason = "read as: this stage, until")]
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut found: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let looked = found();
            if let Ok(Some(value)) = looked {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                looked.with_context(|| format!("{what}: not within {limit:?}"))?;
                bail!("{what}: not within {limit:?}");
            }
            std::thread::sleep(STEP);
        }
    }

    /// Waits until a condition of an object is so, for the spec that it has now; gives the condition.
    pub fn condition(
        &self,
        object: [&str; 3],
        condition: &str,
        status: &str,
        limit: Duration,
    ) -> Result<Value> {
        let [namespace, kind, name] = object;
        let mut last = Value::Null;
        let what = format!("{condition}={status} of {kind} {namespace}/{name}");
        let found = self.until(&what, limit, || {
            let object = self.get(&["-n", namespace, kind, name])?;
            last = object["status"].clone();
            let generation = &object["metadata"]["generation"];
            let conditions = object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            Ok(conditions
                .filter(|one| one["type"] == condition && one["status"] == status)
                .find(|one| one["observedGeneration"] == *generation)
                .cloned())
        });
        found.with_context(|| format!("its status is {last}"))
    }

    /// Requests of the operator that the API server has answered so far, oldest first. Ends the chapter where only the
    /// owner of the cluster knows.
    pub fn asked(&self) -> Result<Vec<Value>> {
        if let Err(reason) = self.cluster.recorded() {
            story::skip(&reason.to_string());
        }
        rights::asked(&self.cluster)
    }

    /// What it wrote, as `verb resource[/subresource] namespace/name`, but for its own Lease.
    pub fn wrote(&self) -> Result<Vec<String>> {
        let writes = ["create", "update", "patch", "delete", "deletecollection"];
        let events = self.asked()?;
        let wrote = events.iter().filter(|event| {
            event["verb"]
                .as_str()
                .is_some_and(|verb| writes.contains(&verb))
                && event["objectRef"]["resource"] != "leases"
        });
        Ok(wrote.map(line).collect())
    }

    /// What the API server refused it for lack of a right. One that has just started refuses what it has not
    /// read yet, so this is for stories in which it is not restarted.
    pub fn refused(&self) -> Result<Vec<String>> {
        let decision = "authorization.k8s.io/decision";
        let events = self.asked()?;
        let refused = events
            .iter()
            .filter(|event| event["annotations"][decision] == "forbid");
        Ok(refused.map(line).collect())
    }

    /// Waits until an operator has nothing left to do: a pass began after this was asked, and nothing has
    /// been written since.
    pub fn settled(&self, operator: &Operator, limit: Duration) -> Result<()> {
        let passes = |scope: &str| operator.metric(&format!("passes_total{{scope=\"{scope}\"}}"));
        let all = || Ok::<f64, anyhow::Error>(passes("changes")? + passes("everything")?);
        let mut seen = (0.0, usize::MAX);
        self.until("the operator is at rest", limit, || {
            // Who cannot see what was asked goes by what the operator counts.
            let wrote = match self.cluster.recorded() {
                Ok(()) => self.wrote()?.len(),
                Err(_) => operator.writes()?,
            };
            let now = (all()?, wrote);
            let rest = now.1 == seen.1 && (now.0 - seen.0).abs() < 0.5;
            seen = now;
            std::thread::sleep(4 * STEP);
            Ok(rest.then_some(()))
        })
    }
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn ours(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A ModelCache that needs nothing from outside.
pub fn cache(namespace: &str, name: &str) -> Value {
    let digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    ours(
        "ModelCache",
        namespace,
        name,
        &json!({"artifacts": [{"path": "model.gguf", "sha256": digest}], "sources": [{"builtin": {}}], "license": "Apache-2.0",
            "capabilities": {"contextTokens": 8192, "tasks": [{"name": "Chat", "quality": "0.20", "source": "test"}]}}),
    )
}

/// An InferenceBackend with pods.
pub fn backend(namespace: &str, name: &str, cache: &str, replicas: u32) -> Value {
    ours(
        "InferenceBackend",
        namespace,
        name,
        &json!({"inCluster": {"modelRef": {"name": cache}, "replicas": replicas, "resources": {"requests": {"cpu": "10m"}}},
            "models": [{"name": name}]}),
    )
}

/// An InferenceBackend without pods.
pub fn cloud(namespace: &str, name: &str) -> Value {
    ours(
        "InferenceBackend",
        namespace,
        name,
        &json!({"cloud": {"provider": "example", "url": "https://api.example.com/v1"}, "models": [{"name": name}]}),
    )
}

/// A policy whose floor is that of [`Stage::floor`].
pub fn policy(namespace: &str, name: &str) -> Value {
    ours(
        "SovereigntyPolicy",
        namespace,
        name,
        &json!({"floor": {"backendRef": {"name": "floor", "namespace": HOME}}}),
    )
}

/// The policy of the mesh namespace that claims every node with this label, or all for none.
pub fn ownership(label: Option<(&str, &str)>) -> Value {
    let selector = label.map_or_else(
        || json!({}),
        |(key, value)| json!({"matchLabels": {key: value}}),
    );
    ours(
        "SovereigntyPolicy",
        HOME,
        "default",
        &json!({"ownership": {"nodeSelector": selector}, "floor": {"backendRef": {"name": "floor"}}}),
    )
}

/// The children of a backend with one replica, as [`Stage::made`] names them.
pub fn children(backend: &str) -> Vec<String> {
    [
        "deployment.apps",
        "networkpolicy.networking.k8s.io",
        "service",
        "serviceaccount",
    ]
    .iter()
    .map(|kind| format!("{kind}/{backend}-worker"))
    .collect()
}
