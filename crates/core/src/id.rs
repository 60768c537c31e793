//! Names of things: objects, backends, policies, decisions.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Namespace and name of an object. On one machine the namespace is `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct ObjectId {
    /// Namespace of the object.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// True if the namespace is the mesh's own: then the name is shown bare.
    #[serde(default)]
    pub home: bool,
}

impl ObjectId {
    /// An object of the mesh namespace, shown by its bare name.
    pub fn home(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            home: true,
        }
    }

    /// An object of any other namespace, shown as `namespace/name`.
    pub fn foreign(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            home: false,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.home {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Identity of an InferenceBackend.
pub type BackendId = ObjectId;
/// Identity of a SovereigntyPolicy.
pub type PolicyId = ObjectId;

/// Identity of one decision: a ULID in its 26-character text form, given by the data plane (this
/// crate has no clock and no randomness).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DecisionId(pub String);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
