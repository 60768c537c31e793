//! References to what lives elsewhere: keys, certificates, proxies, other objects. Never the secret
//! itself: a spec holds names only, so that it may be shown, logged and committed.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::value::{HttpUrl, ObjectName};

/// Where a key is found: exactly one of `secretRef`, `env` and `file`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.secretRef), has(self.env), has(self.file)].filter(x, x).size() == 1")
    .message("give exactly one of secretRef, env and file"))]
pub struct Credentials {
    /// A Secret in the object's namespace (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// An environment variable of this process (one machine only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 128))]
    pub env: Option<String>,
    /// A file whose trimmed content is the key (one machine only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
}

/// One entry of a Secret or ConfigMap in the object's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    pub name: ObjectName,
    /// The entry.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// An object of the same namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    pub name: ObjectName,
}

/// An object by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedRef {
    /// Namespace of the object.
    pub namespace: ObjectName,
    /// Name of the object.
    pub name: ObjectName,
}

/// Trust in an organization's own certificate authority, and in no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Where the authority's certificates are (PEM, one or more). What the system trusts does not count then.
    pub ca_ref: CaRef,
}

/// Where certificates are: exactly one of `secret`, `configMap` and `file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.secret), has(self.configMap), has(self.file)].filter(x, x).size() == 1")
    .message("give exactly one of secret, configMap and file"))]
pub struct CaRef {
    /// An entry of a Secret (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeyRef>,
    /// An entry of a ConfigMap (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeyRef>,
    /// A file (one machine only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
}

/// An explicit proxy, asked by HTTP CONNECT. It sees which place is asked, and how much is said, so it counts in the sovereignty
/// class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Address of the proxy.
    pub url: HttpUrl,
    /// `user:password` for the proxy, by reference. Sent to it and to nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}
