//! Where a model's files may come from. The digest decides what is used, never the source.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{Credentials, Proxy, Tls};
use crate::value::{HttpUrl, ObjectName};

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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub files: BTreeMap<String, String>,
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
