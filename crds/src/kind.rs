//! Which kinds there are.

use std::fmt;

/// A kind of `inferencemesh.dev/v1alpha1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A model's files.
    ModelCache,
    /// A place that can serve models.
    InferenceBackend,
    /// What may leave, what is preferred, what must answer.
    SovereigntyPolicy,
}

impl Kind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 3] = [
        Self::ModelCache,
        Self::InferenceBackend,
        Self::SovereigntyPolicy,
    ];

    /// The name as written in `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModelCache => "ModelCache",
            Self::InferenceBackend => "InferenceBackend",
            Self::SovereigntyPolicy => "SovereigntyPolicy",
        }
    }

    /// The name of the resource: lower case and plural.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ModelCache => "modelcaches",
            Self::InferenceBackend => "inferencebackends",
            Self::SovereigntyPolicy => "sovereigntypolicies",
        }
    }

    /// Name of the kind's files in `crds/manifests/` and `docs/reference/`, without ending.
    pub const fn file_stem(self) -> &'static str {
        match self {
            Self::ModelCache => "model-cache",
            Self::InferenceBackend => "inference-backend",
            Self::SovereigntyPolicy => "sovereignty-policy",
        }
    }

    /// The kind that `name` names.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
