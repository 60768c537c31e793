//! Kind SovereigntyPolicy: what counts as ours, what may leave, what is preferred, what must always
//! answer, and the policy's own tests.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::guard::{Audit, Budget, Classification, Concentration, Egress, Override, Redaction};
use crate::policy_rule::{Constraints, Failover, Floor, PreferLocal, References, Weights};
use crate::policy_test::PolicyTest;
use crate::reference::NamespacedRef;
use crate::value::{JurisdictionCode, LabelSelector, ObjectName};
use crate::vocabulary::{Latency, Privacy};

/// What may leave, what is preferred, what must always answer. Absent groups say nothing.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "inferencemesh.dev",
    version = "v1alpha1",
    kind = "SovereigntyPolicy",
    plural = "sovereigntypolicies",
    namespaced,
    cel,
    status = "SovereigntyPolicyStatus",
    derive = "PartialEq",
    shortname = "sp",
    category = "mesh",
    doc = "What may leave, what is preferred and what must always answer; all policies that match a request are joined, the strictest wins.",
    selectable = ".spec.floor.backendRef.name",
    printcolumn(
        name = "Privacy",
        type_ = "string",
        json_path = ".spec.defaults.privacy"
    ),
    printcolumn(
        name = "Floor",
        type_ = "string",
        json_path = ".spec.floor.backendRef.name"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Tests",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"TestsPassing\")].status"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.digest",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.ownership) || !has(self.selector) || ((!has(self.selector.namespaceSelector) || ((!has(self.selector.namespaceSelector.matchLabels) || self.selector.namespaceSelector.matchLabels.size() == 0) && (!has(self.selector.namespaceSelector.matchExpressions) || self.selector.namespaceSelector.matchExpressions.size() == 0))) && (!has(self.selector.serviceAccounts) || self.selector.serviceAccounts.size() == 0))")
    .message("ownership is for policies that select everything: move it to one with an empty selector").field_path(".ownership"))]
#[x_kube(validation = Rule::new("!has(self.concentration) || !has(self.selector) || ((!has(self.selector.namespaceSelector) || ((!has(self.selector.namespaceSelector.matchLabels) || self.selector.namespaceSelector.matchLabels.size() == 0) && (!has(self.selector.namespaceSelector.matchExpressions) || self.selector.namespaceSelector.matchExpressions.size() == 0))) && (!has(self.selector.serviceAccounts) || self.selector.serviceAccounts.size() == 0))")
    .message("concentration is for policies that select everything: move it to one with an empty selector").field_path(".concentration"))]
pub struct SovereigntyPolicySpec {
    /// Whose requests. Absent or empty = everything in the policy's reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// What counts as ours; only in policies of the mesh namespace that select everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
    /// What holds where nobody says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,
    /// How much each term of the score counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Whether privacy is a rule alone, or a preference on top. Absent = Hard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_weight: Option<PrivacyWeight>,
    /// What counts as 1.0 in the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<References>,
    /// How far owned backends are preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer_local: Option<PreferLocal>,
    /// Hard rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// How requests are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// What happens to sensitive text that would have to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redaction: Option<Redaction>,
    /// Who may go below the base level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub overrides: Vec<Override>,
    /// Limits of use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["per".into()]))]
    pub budgets: Vec<Budget>,
    /// Attempts and their limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// The backend that always answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Whether pods can get out other than through the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// How much may depend on one company; only in policies of the mesh namespace that select everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concentration: Option<Concentration>,
    /// What must be written down durably before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// Promises: a policy that fails its own tests is not accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tests: Vec<PolicyTest>,
}

/// Whose requests a policy governs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels of namespaces; reaches beyond its own namespace only from the mesh namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Names of ServiceAccounts. Empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub service_accounts: Vec<ObjectName>,
}

/// What counts as the organization's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// Labels of owned nodes; empty = all nodes, absent = none. No effect on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Networks whose addresses are owned, for `external` backends; loopback only if listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub networks: Vec<Network>,
    /// External backends that are owned whatever their address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub external: Vec<NamespacedRef>,
    /// Jurisdictions that are home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub home_jurisdictions: Vec<JurisdictionCode>,
}

/// A network in CIDR notation: `192.168.20.0/24`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend(
    "maxLength" = 49,
    "x-kubernetes-validations" = [
        {"rule": "isCIDR(self)", "message": "not a network: use CIDR notation, for example 192.168.20.0/24"},
        {"rule": "!isCIDR(self) || cidr(self).prefixLength() > 0", "message": "a network of all addresses would make the whole Internet owned"}
    ]
))]
pub struct Network(pub String);

/// What holds where nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Base level of requests. Without any: Confidential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// How long callers can wait. Without any: Interactive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// Whether privacy is a rule alone, or a preference on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum PrivacyWeight {
    /// The privacy term is out of the score.
    Hard,
    /// The privacy term is scored too. It never replaces a rule.
    Weighted,
}

/// What was observed of a SovereigntyPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SovereigntyPolicyStatus {
    /// Generation of the spec that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// sha256 of the spec that the data plane uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Result of the policy's own tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestStatus>,
    /// Policies that say something else about the same, and which of them wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Ready, Reconciling, Stalled, Accepted, TestsPassing, Enforced, FloorAvailable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Result of a policy's own tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestStatus {
    /// Tests that pass.
    pub passed: i32,
    /// Tests that fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedTest>,
}

/// A test that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedTest {
    /// Its name.
    pub name: String,
    /// What came out instead.
    pub message: String,
}
