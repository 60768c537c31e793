//! What a model can do and what it costs, as declared in a ModelCache or beside a served name.

use kube::KubeSchema;
use mesh_core as core;
use serde::{Deserialize, Serialize};

use crate::value::{Currency, Decimal, Error, Fraction};
use crate::vocabulary::{EngineFeature, Task};

/// What a model can do. Declared values override what the file states.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.embedding) == (has(self.features) && self.features.exists(f, f == 'Embeddings'))")
    .message("feature Embeddings and `embedding` belong together: give both or neither"))]
pub struct Capabilities {
    /// Languages the model is good at, as BCP 47 tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub languages: Vec<LanguageTag>,
    /// Prompt and answer together, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub context_tokens: Option<i32>,
    /// Largest answer in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_output_tokens: Option<i32>,
    /// Quality per task. A task that is not listed counts like Chat, and without Chat 0.3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tasks: Vec<TaskQuality>,
    /// What the engine enforces, not merely tries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub features: Vec<EngineFeature>,
    /// Which vectors it makes; only equal declarations stand in for each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
}

/// A BCP 47 language tag: `en`, `de-CH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", "maxLength" = 35))]
pub struct LanguageTag(pub String);

/// Quality of a model for one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskQuality {
    /// The task.
    pub name: Task,
    /// From 0 to 1.
    pub quality: Fraction,
    /// Who says so.
    #[schemars(length(min = 1, max = 256))]
    pub source: String,
}

/// Which vectors a model makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Embedding {
    /// Name of the embedding model.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// Its revision.
    #[schemars(length(min = 1, max = 253))]
    pub revision: String,
    /// Length of a vector.
    #[schemars(range(min = 1, max = 65536))]
    pub dimensions: i32,
}

/// What tokens cost. Unknown prices are left out, not zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// Per million prompt tokens.
    pub input_per_million: Decimal,
    /// Per million generated tokens.
    pub output_per_million: Decimal,
    /// Currency of both.
    pub currency: Currency,
}

impl TryFrom<&Capabilities> for core::Capabilities {
    type Error = Error;

    fn try_from(spec: &Capabilities) -> Result<Self, Error> {
        let tasks = spec.tasks.iter().map(|task| {
            Ok(core::TaskQuality {
                task: task.name.into(),
                quality: task.quality.read()?,
                source: task.source.clone(),
            })
        });
        Ok(Self {
            context_tokens: spec.context_tokens.and_then(|n| u32::try_from(n).ok()),
            max_output_tokens: spec.max_output_tokens.and_then(|n| u32::try_from(n).ok()),
            languages: spec.languages.iter().map(|tag| tag.0.clone()).collect(),
            tasks: tasks.collect::<Result<_, Error>>()?,
            features: spec
                .features
                .iter()
                .map(|&feature| feature.into())
                .collect(),
            embedding: spec
                .embedding
                .as_ref()
                .map(|embedding| core::EmbeddingSpec {
                    model: embedding.model.clone(),
                    revision: embedding.revision.clone(),
                    dimensions: u32::try_from(embedding.dimensions).unwrap_or_default(),
                }),
        })
    }
}

impl TryFrom<&Price> for core::Price {
    type Error = Error;

    fn try_from(spec: &Price) -> Result<Self, Error> {
        Ok(Self {
            input_per_million: spec.input_per_million.read()?,
            output_per_million: spec.output_per_million.read()?,
            currency: spec.currency.0.clone(),
        })
    }
}
