//! How a backend does, as one gateway has seen it: what the operator is told and joins into
//! `status.health`. Knows nothing of how it is told.

use serde::{Deserialize, Serialize};

use crate::inference_backend::HealthState;

/// One gateway's word on one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Namespace of the backend.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it answers.
    pub state: HealthState,
    /// Why not, as one PascalCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One gateway's word on all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standings {
    /// In the order of its snapshot.
    pub backends: Vec<Standing>,
}
