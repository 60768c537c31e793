//! Words of the contract that YAML writes in PascalCase, and their way into the vocabulary of the
//! data plane. Refuses nothing: an unknown word never gets past the schema.
//!
//! Here and elsewhere enums have an empty schema description: kube's rewriting of `Option<Enum>`
//! would put it in the place of the field's own text.

use mesh_core as core;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How sensitive a request is, from the least to the most.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(description = "")]
pub enum Privacy {
    /// May go anywhere.
    Public,
    /// Stays with those who keep nothing.
    Internal,
    /// Stays on owned or rented hardware, unless policy says otherwise.
    Confidential,
    /// Never leaves owned hardware, unless policy says otherwise.
    Restricted,
}

impl From<Privacy> for core::PrivacyLevel {
    fn from(word: Privacy) -> Self {
        match word {
            Privacy::Public => Self::Public,
            Privacy::Internal => Self::Internal,
            Privacy::Confidential => Self::Confidential,
            Privacy::Restricted => Self::Restricted,
        }
    }
}

/// Who owns the hardware, and under which law it stands; from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Class {
    /// Hardware the organization owns.
    OwnHardware,
    /// Hardware rented out to the organization.
    RentedHardware,
    /// A peer with pinned identity and invitation.
    TrustedSwarm,
    /// Any peer.
    OpenSwarm,
    /// Cloud without retention, wholly inside the home jurisdictions.
    CloudDomestic,
    /// Cloud without retention, partly or wholly abroad.
    CloudForeign,
    /// Cloud that keeps or trains on data, or of which nothing is known.
    CloudRetained,
}

impl From<Class> for core::SovereigntyClass {
    fn from(word: Class) -> Self {
        match word {
            Class::OwnHardware => Self::OwnHardware,
            Class::RentedHardware => Self::RentedHardware,
            Class::TrustedSwarm => Self::TrustedSwarm,
            Class::OpenSwarm => Self::OpenSwarm,
            Class::CloudDomestic => Self::CloudDomestic,
            Class::CloudForeign => Self::CloudForeign,
            Class::CloudRetained => Self::CloudRetained,
        }
    }
}

/// Kind of work a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Task {
    /// Conversation and everything not recognized as something else.
    Chat,
    /// Multi-step argument, mathematics, planning.
    Reasoning,
    /// Program code.
    Code,
    /// A long text made short.
    Summarize,
    /// From one language to another.
    Translate,
    /// Facts or fields out of a text.
    Extract,
    /// One label out of several.
    Classify,
    /// Vectors for texts.
    Embed,
    /// Work of a declared specialty.
    Domain,
}

impl From<Task> for core::TaskType {
    fn from(word: Task) -> Self {
        match word {
            Task::Chat => Self::Chat,
            Task::Reasoning => Self::Reasoning,
            Task::Code => Self::Code,
            Task::Summarize => Self::Summarize,
            Task::Translate => Self::Translate,
            Task::Extract => Self::Extract,
            Task::Classify => Self::Classify,
            Task::Embed => Self::Embed,
            Task::Domain => Self::Domain,
        }
    }
}

/// How long a caller can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Latency {
    /// A person is waiting.
    Interactive,
    /// A program is waiting.
    Standard,
    /// Nobody is waiting.
    Batch,
}

impl From<Latency> for core::LatencyClass {
    fn from(word: Latency) -> Self {
        match word {
            Latency::Interactive => Self::Interactive,
            Latency::Standard => Self::Standard,
            Latency::Batch => Self::Batch,
        }
    }
}

/// Something that an engine enforces, not merely tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum EngineFeature {
    /// Tool calls.
    Tools,
    /// Output that matches a JSON schema.
    JsonSchema,
    /// Images in the prompt.
    Vision,
    /// Embedding vectors.
    Embeddings,
}

impl From<EngineFeature> for core::Feature {
    fn from(word: EngineFeature) -> Self {
        match word {
            EngineFeature::Tools => Self::Tools,
            EngineFeature::JsonSchema => Self::JsonSchema,
            EngineFeature::Vision => Self::Vision,
            EngineFeature::Embeddings => Self::Embeddings,
        }
    }
}

/// Every enum of the contract with what its words mean, for the reference pages: choices in the order
/// of the schema, and one text for each.
pub(crate) fn words() -> Vec<Vec<(String, String)>> {
    let schemas = [
        schemars::schema_for!(Privacy),
        schemars::schema_for!(Class),
        schemars::schema_for!(Task),
        schemars::schema_for!(Latency),
        schemars::schema_for!(EngineFeature),
        schemars::schema_for!(crate::condition::ConditionStatus),
        schemars::schema_for!(crate::model_cache::ModelType),
        schemars::schema_for!(crate::model_cache::Quantization),
        schemars::schema_for!(crate::model_cache::AccessMode),
        schemars::schema_for!(crate::inference_backend::HealthState),
        schemars::schema_for!(crate::endpoint::Protocol),
        schemars::schema_for!(crate::peer::Trust),
        schemars::schema_for!(crate::in_cluster::Engine),
        schemars::schema_for!(crate::in_cluster::Vendor),
        schemars::schema_for!(crate::in_cluster::Unsatisfiable),
        schemars::schema_for!(crate::sovereignty_policy::PrivacyWeight),
        schemars::schema_for!(crate::policy_rule::ClaimField),
        schemars::schema_for!(crate::policy_rule::MidStream),
        schemars::schema_for!(crate::policy_rule::SafetyRefusals),
        schemars::schema_for!(crate::policy_rule::Substitution),
        schemars::schema_for!(crate::policy_rule::Overflow),
        schemars::schema_for!(crate::guard::RedactionAction),
        schemars::schema_for!(crate::guard::BudgetScope),
        schemars::schema_for!(crate::value::LabelOperator),
    ];
    schemas
        .iter()
        .map(|schema| variants(schema.as_value()))
        .collect()
}

fn variants(schema: &serde_json::Value) -> Vec<(String, String)> {
    let text = |variant: &serde_json::Value, key: &str| {
        variant
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let variants = schema.get("oneOf").and_then(serde_json::Value::as_array);
    variants
        .into_iter()
        .flatten()
        .map(|variant| (text(variant, "const"), text(variant, "description")))
        .collect()
}
