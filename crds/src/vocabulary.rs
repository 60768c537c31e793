//! Words of the contract that YAML writes in PascalCase, and their way into the vocabulary of the
//! data plane. Refuses nothing: an unknown word never gets past the schema.

use mesh_core as core;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How sensitive a request is, from the least to the most.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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
