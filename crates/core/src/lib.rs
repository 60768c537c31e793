//! Vocabulary of Inference Mesh: levels, classes, identities, backends, policies, facts, decisions.
//!
//! Level 0 of the workspace: no I/O, no async, no clock and no randomness of its own. Everything
//! here is a value that can be built in a test with three lines. Formats of other people (OpenAI,
//! Kubernetes) live elsewhere; what they say is translated into these types at the door.

pub mod address;
pub mod backend;
pub mod caller;
pub mod class;
pub mod decision;
pub mod degradation;
pub mod facts;
pub mod hex;
pub mod id;
pub mod jurisdiction;
pub mod level;
pub mod model;
pub mod policy;
pub mod policy_test;
pub mod pushed;
pub mod reason;
pub mod sensitive;
pub mod snapshot;
pub mod task;

pub use address::own_machine;
pub use backend::{
    Authority, Backend, Claims, Cloud, Credential, Endpoint, Kept, Limits, Node, Peer, Place, Pod,
    Pods, Protocol, Proxy, Trust,
};
pub use caller::{Caller, NamespaceSelector};
pub use class::SovereigntyClass;
pub use decision::{Candidate, Decision, PlanEntry, PolicyRef, Refusal, Score, Verdict};
pub use degradation::Degradation;
pub use facts::{Fact, Facts, Finding, Needs, Scan, ToolNeed};
pub use hex::hex;
pub use id::{BackendId, DecisionId, ObjectId, PolicyId};
pub use jurisdiction::{Jurisdiction, JurisdictionSet};
pub use level::PrivacyLevel;
pub use model::{Capabilities, EmbeddingSpec, Feature, License, Price, ServedModel, TaskQuality};
pub use policy::Policy;
pub use reason::{Constraint, Reason};
pub use sensitive::Sensitive;
pub use snapshot::Snapshot;
pub use task::{Complexity, LatencyClass, TaskType};
