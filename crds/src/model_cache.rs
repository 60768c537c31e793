//! Kind ModelCache: which files make a model, where they may come from, and how they are proven.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capability::Capabilities;
use crate::condition::Condition;
use crate::reference::{Credentials, LocalRef, Proxy, Tls};
use crate::value::{
    Decimal, DurationText, Fraction, HttpUrl, LicenseId, ObjectName, Quantity, Sha256,
};

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

/// One place that may have the files: exactly one of its fields. The digest decides, not the source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.builtin), has(self.file), has(self.huggingFace), has(self.http), has(self.s3), has(self.oci), has(self.pvc), has(self.peers)].filter(x, x).size() == 1")
    .message("give exactly one of builtin, file, huggingFace, http, s3, oci, pvc and peers"))]
pub struct Source {
    /// Files inside the worker-floor image (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Empty>,
    /// A folder or file of this machine (one machine only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// A repository of Hugging Face or of a mirror of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,
    /// Any web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A bucket of an S3-compatible store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,
    /// An OCI artifact in a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A PersistentVolumeClaim of the same namespace (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<PvcSource>,
    /// Other nodes and meshes that hold the same digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Empty>,
}

/// Nothing more to say: `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
pub struct Empty {}

/// A folder or file of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSource {
    /// Folder that holds the artifacts under their paths, or the one file itself. `~/` is the home
    /// folder; a relative path starts at the folder of the configuration. Never copied or changed.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

/// A repository of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// `owner/name`.
    #[schemars(
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"),
        length(max = 200)
    )]
    pub repo: String,
    /// A commit (best), a branch or a tag.
    #[serde(default = "main_branch")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), length(max = 100))]
    pub revision: String,
    /// A mirror that answers the same paths. Absent: the public hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(crate::rule::HTTPS_OR_LOOPBACK).message(crate::rule::HTTPS_OR_LOOPBACK_MESSAGE))]
    pub endpoint: Option<HttpUrl>,
    /// Where artifacts have other names in the repository: artifact path to path there.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub files: std::collections::BTreeMap<String, String>,
    /// Token for gated repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Trust in a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

fn main_branch() -> String {
    String::from("main")
}

/// A web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Ends in `/`: a folder to which the artifact's path is appended. Else: the file itself.
    #[x_kube(validation = Rule::new(crate::rule::HTTPS_OR_LOOPBACK).message(crate::rule::HTTPS_OR_LOOPBACK_MESSAGE))]
    pub url: HttpUrl,
    /// Bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Trust in a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// A bucket of an S3-compatible store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Source {
    /// Address of the store.
    #[x_kube(validation = Rule::new(crate::rule::HTTPS_OR_LOOPBACK).message(crate::rule::HTTPS_OR_LOOPBACK_MESSAGE))]
    pub endpoint: HttpUrl,
    /// Name of the bucket.
    #[schemars(
        regex(pattern = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"),
        length(max = 63)
    )]
    pub bucket: String,
    /// Put before the artifact's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// `<access key id>:<secret access key>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Trust in a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// An OCI artifact in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// Registry, repository, and tag or digest.
    #[schemars(
        regex(
            pattern = r"^[a-z0-9.-]+(:[0-9]+)?/[a-z0-9._/-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?$"
        ),
        length(max = 512)
    )]
    pub reference: String,
    /// `<user>:<password>` of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Trust in a private certificate authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// A PersistentVolumeClaim of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcSource {
    /// Name of the claim.
    pub claim_name: ObjectName,
    /// Folder inside the volume. Absent: its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub path: Option<String>,
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
pub enum Quantization {
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

impl Source {
    /// The adapter or model's base is a local name.
    pub fn name(&self) -> &'static str {
        match self {
            Self {
                builtin: Some(_), ..
            } => "builtin",
            Self { file: Some(_), .. } => "file",
            Self {
                hugging_face: Some(_),
                ..
            } => "huggingFace",
            Self { http: Some(_), .. } => "http",
            Self { s3: Some(_), .. } => "s3",
            Self { oci: Some(_), .. } => "oci",
            Self { pvc: Some(_), .. } => "pvc",
            _ => "peers",
        }
    }
}

/// Reference to a ModelCache of the same namespace.
pub type ModelRef = LocalRef;
