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

/// Trust in a private certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Where the authority's certificate is.
    pub ca_ref: CaRef,
}

/// Where a certificate is: exactly one of `secret` and `configMap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.configMap)")
    .message("give exactly one of secret and configMap"))]
pub struct CaRef {
    /// An entry of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeyRef>,
    /// An entry of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeyRef>,
}

/// An explicit proxy. It sees which place is asked, so it counts in the sovereignty class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Address of the proxy.
    pub url: HttpUrl,
}
