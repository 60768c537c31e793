//! Who is calling, and whom a rule selects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The authenticated caller of a request; goes through every call of the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Caller {
    /// Namespace of the caller. On one machine: `default`.
    pub tenant: String,
    /// Labels of that namespace, for selectors.
    pub tenant_labels: BTreeMap<String, String>,
    /// Who exactly: `local`, an API key's name, or `serviceaccount:<namespace>:<name>`.
    pub subject: String,
    /// The Kubernetes ServiceAccount behind the subject, if there is one.
    pub service_account: Option<String>,
    /// Rights beyond asking models, for example `admin`.
    pub scopes: Vec<String>,
}

impl Caller {
    /// The caller of a machine without keys: subject `local` in `namespace`.
    pub fn local(namespace: impl Into<String>) -> Self {
        Self {
            tenant: namespace.into(),
            tenant_labels: BTreeMap::new(),
            subject: String::from("local"),
            service_account: None,
            scopes: Vec::new(),
        }
    }
}

/// Which namespaces a rule is about. Empty = all in the rule's reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceSelector {
    /// Labels a namespace must have, all of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

impl NamespaceSelector {
    /// True if it selects every namespace.
    pub fn everything(&self) -> bool {
        self.match_labels.is_empty()
    }

    /// True if the namespace of `caller` is selected. `kubernetes.io/metadata.name` is understood
    /// as the namespace's name even where labels are unknown.
    pub fn matches(&self, caller: &Caller) -> bool {
        self.match_labels.iter().all(|(key, value)| {
            caller.tenant_labels.get(key) == Some(value)
                || (key == "kubernetes.io/metadata.name" && *value == caller.tenant)
        })
    }
}
