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
    /// What became of reading the authority that it proves itself by, which only gateways may. Absent: it names none, as far as is
    /// known there, or nobody could be asked for it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityState>,
}

/// What became of reading an authority, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuthorityState {
    /// It is there, and can be trusted.
    Readable,
    /// It is not there, or may not be read.
    Missing,
    /// What is there is none, or a word of a newer gateway.
    #[serde(other)]
    Invalid,
}

/// One gateway's word on all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standings {
    /// In the order of its snapshot.
    pub backends: Vec<Standing>,
}
