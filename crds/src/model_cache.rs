//! Kind ModelCache: which files make a model, where they may come from, and how they are proven.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capability::Capabilities;
use crate::condition::Condition;
use crate::source::{Empty, Source};
use crate::value::{Decimal, DurationText, Fraction, LicenseId, ObjectName, Quantity, Sha256};

/// A model's files, by digest.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "inferencemesh.dev",
    version = "v1alpha1",
    kind = "ModelCache",
    plural = "modelcaches",
    namespaced,
    cel,
    status = "ModelCacheStatus",
    derive = "PartialEq",
    shortname = "mc",
    category = "mesh",
    doc = "A model's files by digest: where they may come from, how they are proven, and what the model can do.",
    selectable = ".spec.type",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "License", type_ = "string", json_path = ".spec.license"),
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
        name = "Done",
        type_ = "integer",
        format = "int64",
        json_path = ".status.progress.bytesDone",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Adapter') == has(self.base)")
    .message("an Adapter names its base model in `base`; a Model has no `base`").field_path(".base"))]
#[x_kube(validation = Rule::new("self.type == 'Model' || !has(self.derive)")
    .message("only a Model can be quantized: remove `derive`").field_path(".derive"))]
pub struct ModelCacheSpec {
    /// Whether the files are a whole model or an adapter for one.
    #[serde(rename = "type", default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the type cannot change: make a new ModelCache"))]
    pub type_: ModelType,
    /// The model that an Adapter was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseModel>,
    /// License of the model; policies may deny it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<LicenseId>,
    /// Family of the model, for concentration: `llama`, `qwen`. Absent = unknown; on one machine, what the file states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub family: Option<String>,
    /// The files.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub artifacts: Vec<Artifact>,
    /// Sampling where the caller says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// Where the files may come from, tried in order. The digest decides, not the source.
    #[schemars(length(min = 1, max = 16))]
    pub sources: Vec<Source>,
    /// Smaller versions to make from the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["quantization".into()]))]
    pub derive: Vec<Derivation>,
    /// What the model can do. What the file states need not be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Where the files are kept in a cluster; on one machine they are kept in the mesh's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// How often the files are proven again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// How other nodes and meshes get the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
}

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum ModelType {
    /// A whole model.
    #[default]
    Model,
    /// A low-rank adapter for a model.
    Adapter,
}

/// The model that an adapter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseModel {
    /// ModelCache of the base model, in the same namespace.
    pub name: ObjectName,
    /// Digest of the base model's first artifact: an adapter fits exactly one model.
    pub sha256: Sha256,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Path inside a source, relative, with `/` between the parts.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._+ -]*(/[A-Za-z0-9_][A-Za-z0-9._+ -]*)*$') && !self.contains('..')")
        .message("the path must be relative, without `..`, backslashes or empty parts"))]
    pub path: String,
    /// What the bytes must hash to. Absent: pinned into the status by the first successful fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

/// Sampling where the caller says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// 0 to 2; 0 always takes the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("double(self) <= 2.0").message("temperature is from 0 to 2"))]
    pub temperature: Option<Decimal>,
    /// Share of the probability that is kept, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Fraction>,
}

/// A smaller version to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Derivation {
    /// The format to quantize to.
    pub quantization: Quantization,
}

/// A quantized weight format of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Quantization {
    /// 4-bit blocks with a scale.
    #[serde(rename = "Q4_0")]
    Q40,
    /// 4-bit blocks with a scale and a minimum.
    #[serde(rename = "Q4_1")]
    Q41,
    /// 5-bit blocks with a scale.
    #[serde(rename = "Q5_0")]
    Q50,
    /// 5-bit blocks with a scale and a minimum.
    #[serde(rename = "Q5_1")]
    Q51,
    /// 4-bit k-quants, medium.
    #[serde(rename = "Q4_K_M")]
    Q4KM,
    /// 5-bit k-quants, medium.
    #[serde(rename = "Q5_K_M")]
    Q5KM,
    /// 8-bit blocks.
    #[serde(rename = "Q8_0")]
    Q80,
}

/// Where files are kept: exactly one of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.nodeLocal)].filter(x, x).size() == 1")
    .message("give exactly one of emptyDir, persistentVolumeClaim and nodeLocal"))]
pub struct Storage {
    /// Fetched anew for every pod; works everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<Empty>,
    /// A volume for all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<VolumeStorage>,
    /// A local volume on every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_local: Option<NodeLocalStorage>,
}

/// A volume for all pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStorage {
    /// Absent: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<ObjectName>,
    /// Size of the volume.
    pub size: Quantity,
    /// How many nodes may use it; more than one replica needs ReadWriteMany or ReadOnlyMany.
    #[serde(default)]
    pub access_mode: AccessMode,
}

/// How many nodes may use a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
#[expect(clippy::enum_variant_names, reason = "Kubernetes' own words")]
pub enum AccessMode {
    /// One node.
    #[default]
    ReadWriteOnce,
    /// Many nodes, reading.
    ReadOnlyMany,
    /// Many nodes.
    ReadWriteMany,
}

/// A local volume on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLocalStorage {
    /// Class of local volumes.
    pub storage_class_name: ObjectName,
    /// Space that all models together may use on a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_budget: Option<Quantity>,
}

/// How often the files are proven again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Time between two proofs.
    pub interval: DurationText,
}

/// How others get the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// Nodes give the files to each other.
    pub peer_to_peer: bool,
}

/// What was observed of a ModelCache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelCacheStatus {
    /// Generation of the spec that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The files that are here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub artifacts: Vec<ArtifactStatus>,
    /// A fetch that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What was made from the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["quantization".into()]))]
    pub derived: Vec<DerivedStatus>,
    /// Nodes that should and do have the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCount>,
    /// Ready, Reconciling, Stalled, SourceResolved, Fetched, Verified, Quantized, Distributed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A file that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactStatus {
    /// Path of the artifact.
    pub path: String,
    /// What its bytes hash to; pins an artifact without a declared digest.
    pub sha256: Sha256,
    /// Its size.
    pub size_bytes: i64,
    /// Which source it came from.
    pub source: String,
    /// When its bytes were last proven, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub verified_at: String,
}

/// A fetch that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The source in use.
    pub source: String,
    /// Bytes that are here.
    pub bytes_done: i64,
    /// Bytes in all, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// Speed of the last seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// Estimated rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
}

/// Something made from the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DerivedStatus {
    /// Its format.
    pub quantization: Quantization,
    /// Its digest.
    pub sha256: Sha256,
    /// Digest of what it was made from.
    pub parent_sha256: Sha256,
    /// Its size.
    pub size_bytes: i64,
}

/// Nodes that should and do have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCount {
    /// Nodes that should have it.
    pub wanted: i32,
    /// Nodes that have it.
    pub ready: i32,
}
