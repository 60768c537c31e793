//! What a backend offers under a name: license, price, capabilities.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::TaskType;

/// SPDX identifier or `LicenseRef-…` of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct License(pub String);

impl fmt::Display for License {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Price per million tokens in one currency. Unknown prices are absent, not zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// Per million prompt tokens.
    pub input_per_million: f64,
    /// Per million generated tokens.
    pub output_per_million: f64,
    /// ISO 4217 code.
    pub currency: String,
}

/// Quality of a model for one task, 0..=1, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskQuality {
    /// The task.
    pub task: TaskType,
    /// 0..=1.
    pub quality: f64,
    /// Origin of the figure.
    pub source: String,
}

/// Something that an engine enforces, not merely tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Feature {
    /// Tool calls.
    Tools,
    /// Output that matches a JSON schema.
    JsonSchema,
    /// Images in the prompt.
    Vision,
    /// Embedding vectors.
    Embeddings,
}

/// Which vectors a model makes; equal declarations are interchangeable, others never.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmbeddingSpec {
    /// Name of the embedding model.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// Length of a vector.
    pub dimensions: u32,
}

/// What a model can do, as declared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Prompt and answer together, in tokens. Absent = unknown, treated as unlimited.
    pub context_tokens: Option<u32>,
    /// Largest answer in tokens.
    pub max_output_tokens: Option<u32>,
    /// BCP 47 tags.
    pub languages: Vec<String>,
    /// Quality per task.
    pub tasks: Vec<TaskQuality>,
    /// What the engine enforces.
    pub features: Vec<Feature>,
    /// Declared embedding, if it makes vectors.
    pub embedding: Option<EmbeddingSpec>,
}

impl Capabilities {
    /// True if the engine enforces `feature`.
    pub fn enforces(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }
}

/// One name under which a backend serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedModel {
    /// The name callers use.
    pub name: String,
    /// The name sent upstream; absent = `name`.
    pub target: Option<String>,
    /// Other names callers may use; `*` catches unknown names.
    pub aliases: Vec<String>,
    /// License of the model.
    pub license: Option<License>,
    /// Family of the model, for concentration; absent = unknown.
    pub family: Option<String>,
    /// What it costs; absent = unknown.
    pub price: Option<Price>,
    /// What it can do.
    pub capabilities: Capabilities,
}

impl ServedModel {
    /// The name to send upstream.
    pub fn upstream_name(&self) -> &str {
        self.target.as_deref().unwrap_or(&self.name)
    }

    /// True if `asked` is the name or an alias (the catch-all `*` is not considered here).
    pub fn answers_to(&self, asked: &str) -> bool {
        self.name == asked
            || self
                .aliases
                .iter()
                .any(|alias| alias == asked && alias != "*")
    }

    /// True if it takes names nobody else serves.
    pub fn catches_all(&self) -> bool {
        self.aliases.iter().any(|alias| alias == "*")
    }
}
