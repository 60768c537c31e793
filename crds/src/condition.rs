//! Conditions of every kind: the struct, the types, the reasons. One spelling for the operator, the
//! command line and dashboards.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One observed fact about an object, in Kubernetes' own shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which fact, for example `Ready`.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = "^[A-Z][A-Za-z0-9]*$"), length(max = 316))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one PascalCase word.
    #[schemars(regex(pattern = "^[A-Z][A-Za-z0-9]*$"), length(max = 1024))]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Generation of the spec that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can say.
    Unknown,
}

/// Every kind: it does what its spec says.
pub const READY: &str = "Ready";
/// Every kind: work is under way.
pub const RECONCILING: &str = "Reconciling";
/// Every kind: work cannot go on without help.
pub const STALLED: &str = "Stalled";

/// ModelCache: a source was found that has the artifacts.
pub const SOURCE_RESOLVED: &str = "SourceResolved";
/// ModelCache: all bytes are here.
pub const FETCHED: &str = "Fetched";
/// ModelCache: all digests agree.
pub const VERIFIED: &str = "Verified";
/// ModelCache: what `derive` asks for exists.
pub const QUANTIZED: &str = "Quantized";
/// ModelCache: the artifacts are where they are wanted.
pub const DISTRIBUTED: &str = "Distributed";

/// InferenceBackend: its weights are there.
pub const WEIGHTS_AVAILABLE: &str = "WeightsAvailable";
/// InferenceBackend: the accelerators it asks for are bound.
pub const ACCELERATORS_BOUND: &str = "AcceleratorsBound";
/// InferenceBackend: the engine answers.
pub const ENGINE_READY: &str = "EngineReady";
/// InferenceBackend: its adapters are loaded.
pub const ADAPTERS_LOADED: &str = "AdaptersLoaded";
/// InferenceBackend: the gateways may read the Secret with its key.
pub const CREDENTIALS_READABLE: &str = "CredentialsReadable";
/// InferenceBackend: the authority that it proves itself by can be read by the gateways, and is one.
pub const AUTHORITY_READABLE: &str = "AuthorityReadable";
/// InferenceBackend: its pods cannot talk to others.
pub const EGRESS_CONFINED: &str = "EgressConfined";

/// SovereigntyPolicy: the data plane uses this spec.
pub const ACCEPTED: &str = "Accepted";
/// SovereigntyPolicy: its own tests pass with what is there now.
pub const TESTS_PASSING: &str = "TestsPassing";
/// SovereigntyPolicy: confinement is proven.
pub const ENFORCED: &str = "Enforced";
/// SovereigntyPolicy: the floor can answer.
pub const FLOOR_AVAILABLE: &str = "FloorAvailable";

/// Reason: everything is as the spec says.
pub const REASON_SUCCEEDED: &str = "Succeeded";
/// Reason: work is under way.
pub const REASON_PROGRESSING: &str = "Progressing";
/// Reason: the spec says something that cannot be.
pub const REASON_INVALID_SPEC: &str = "InvalidSpec";
/// Reason: an object that the spec names does not exist.
pub const REASON_REFERENCE_NOT_FOUND: &str = "ReferenceNotFound";
/// Reason: a field of one machine was used in a cluster.
pub const REASON_NOT_IN_CLUSTER: &str = "NotInCluster";
/// Reason: the field's behavior comes with a later release.
pub const REASON_NOT_SUPPORTED_YET: &str = "NotSupportedYet";
/// Reason: it is another mesh, and requests are not sent to those yet.
pub const REASON_PEER_TRAFFIC_NOT_SERVED: &str = "PeerTrafficNotServed";
/// Reason: the policy's own tests fail.
pub const REASON_TESTS_FAILED: &str = "TestsFailed";
/// Reason: bytes and declared digest differ.
pub const REASON_DIGEST_MISMATCH: &str = "DigestMismatch";
/// Reason: the plain http address was declared to be wanted.
pub const REASON_INSECURE_PLAINTEXT: &str = "InsecurePlaintext";
