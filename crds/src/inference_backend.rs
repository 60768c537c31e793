//! Kind InferenceBackend: one place that can serve models, what callers may name there, and what is
//! claimed of it. Refuses to say its own class: that is derived from evidence.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capability::{Capabilities, Price};
use crate::condition::Condition;
use crate::endpoint::{Cloud, External};
use crate::in_cluster::InCluster;
use crate::peer::Peer;
use crate::value::{LabelSelector, LicenseId};
use crate::vocabulary::{Class, Privacy};

/// A place that can serve models: exactly one of `inCluster`, `cloud`, `peer` and `external`.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "inferencemesh.dev",
    version = "v1alpha1",
    kind = "InferenceBackend",
    plural = "inferencebackends",
    namespaced,
    cel,
    status = "InferenceBackendStatus",
    derive = "PartialEq",
    shortname = "ib",
    category = "mesh",
    doc = "A place that can serve models: in the cluster (or in this process), a cloud, a peer, or any model server the organization points at.",
    scale(
        spec_replicas_path = ".spec.inCluster.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    selectable = ".spec.inCluster.modelRef.name",
    selectable = ".spec.cloud.provider",
    printcolumn(
        name = "Class",
        type_ = "string",
        json_path = ".status.sovereignty.class"
    ),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health.state"),
    printcolumn(name = "Models", type_ = "string", json_path = ".spec.models[*].name"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Provider",
        type_ = "string",
        json_path = ".spec.cloud.provider",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.inCluster), has(self.cloud), has(self.peer), has(self.external)].filter(x, x).size() == 1")
    .message("give exactly one of inCluster, cloud, peer and external"))]
#[x_kube(validation = Rule::new("!(has(self.hardwareVendor) && has(self.inCluster))")
    .message("the vendor of an inCluster backend is inCluster.accelerator.vendor: remove hardwareVendor"))]
pub struct InferenceBackendSpec {
    /// Model servers of this cluster; on one machine: the engine inside this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_cluster: Option<InCluster>,
    /// A company's API. Always one of the cloud classes, whatever its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
    /// Another mesh. Its class is at most TrustedSwarm, whatever a policy says of ownership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// A model server that the organization points at: vLLM, llama-server, ollama, TGI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// What callers may name.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.all(m, !has(m.aliases) || m.aliases.all(a, !self.exists(n, n.name == a)))")
        .message("an alias must differ from every model name of this backend"))]
    #[x_kube(validation = Rule::new("self.all(m, !has(m.aliases) || m.aliases.all(a, self.exists_one(n, has(n.aliases) && a in n.aliases)))")
        .message("two models of one backend cannot share an alias"))]
    pub models: Vec<Model>,
    /// Highest level it may see. May only lower what its class gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_privacy: Option<Privacy>,
    /// Limits. Absent = unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Who makes the hardware that computes there, for concentration: `nvidia`, `google`. Absent = unknown; for
    /// `inCluster` it is the accelerator's vendor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub hardware_vendor: Option<String>,
    /// Which namespaces it serves, for a backend of the mesh namespace. Absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_to: Option<AvailableTo>,
}

/// One name under which the backend serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The name callers use.
    #[schemars(
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"),
        length(min = 1, max = 128)
    )]
    #[x_kube(validation = Rule::new("!(self in ['auto', 'local'])")
        .message("`auto` and `local` are reserved: the mesh chooses for them"))]
    pub name: String,
    /// The name sent upstream. Absent = `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub target: Option<String>,
    /// Other names callers may use; `*` catches names that nobody serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<Alias>,
    /// What it costs. Absent = unknown, which scores like the reference cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// License; absent = the ModelCache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<LicenseId>,
    /// Family of the model, for concentration: `llama`, `qwen`. Absent = the ModelCache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub family: Option<String>,
    /// What it can do; absent = what the ModelCache says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// Another name of a model, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend(
    "pattern" = r"^([*]|[A-Za-z0-9][A-Za-z0-9._:/@+-]*)$",
    "maxLength" = 128,
    "x-kubernetes-validations" = [{
        "rule": "!(self in ['auto', 'local'])",
        "message": "`auto` and `local` are reserved: the mesh chooses for them"
    }]
))]
pub struct Alias(pub String);

/// Limits of a backend. Absent = unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrent_requests: Option<i32>,
    /// Requests in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<i32>,
    /// Tokens in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<i64>,
}

/// Which namespaces a backend serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AvailableTo {
    /// Labels of the namespaces. Empty = all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
}

/// What was observed of an InferenceBackend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceBackendStatus {
    /// Generation of the spec that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Class and score, with the evidence for them; the worst of all endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sovereignty: Option<SovereigntyStatus>,
    /// Whether it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// Addresses that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<i32>,
    /// Pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Ready, Reconciling, Stalled, WeightsAvailable, AcceleratorsBound, EngineReady, AdaptersLoaded,
    /// EgressConfined, CredentialsReadable, AuthorityReadable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Class and score with the evidence for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SovereigntyStatus {
    /// Kind of ownership and place.
    pub class: Class,
    /// Score of the class, 0 to 1, as text.
    pub score: String,
    /// Why, one fact an entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// Whether a backend answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// State of the breaker.
    pub state: HealthState,
    /// Since when, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// Why, as one PascalCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// State of a backend's breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum HealthState {
    /// It answers.
    Healthy,
    /// It answers, with failures.
    Degraded,
    /// It is left alone until a probe succeeds.
    Unhealthy,
    /// Nobody has asked it yet.
    Unknown,
}
