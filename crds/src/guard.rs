//! The groups of a policy that read, hide, limit and record: classification, redaction, overrides,
//! budgets, egress, concentration, audit. Most of their behavior comes later; their shape is a
//! promise already.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{KeyRef, NamespacedRef};
use crate::sovereignty_policy::Network;
use crate::value::{Date, Decimal, Fraction, LabelSelector, ObjectName};
use crate::vocabulary::{Privacy, Task};

/// How requests are read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Classification {
    /// Level of what could not be read. Absent = Restricted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete_level: Option<Privacy>,
    /// Words of the organization that raise the level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub dictionaries: Vec<Dictionary>,
    /// When the base level may be lower.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub lowering: Vec<Lowering>,
}

/// Words of the organization that raise the level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dictionary {
    /// Its name, for `explain`.
    pub name: ObjectName,
    /// Level of a request that holds one of the words.
    pub level: Privacy,
    /// Where the words are, one a line.
    #[schemars(length(min = 1, max = 16))]
    pub terms: Vec<Terms>,
}

/// Where words are: exactly one of `secretRef` and `file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.file)").message("give exactly one of secretRef and file"))]
pub struct Terms {
    /// A Secret of the policy's namespace (cluster only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// A file (one machine only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub file: Option<String>,
}

/// A base level that may be lower. Never undoes a detector or a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lowering {
    /// What must hold.
    pub when: LoweringCondition,
    /// The lower base level.
    pub to: Privacy,
    /// How sure classification must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<Fraction>,
}

/// What must hold for a lower base level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.taskIn) || has(self.detectorsSilent)").message("give taskIn or detectorsSilent"))]
pub struct LoweringCondition {
    /// The task is one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 9))]
    pub task_in: Option<Vec<Task>>,
    /// No detector found anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectors_silent: Option<bool>,
}

/// What happens to sensitive text of a level that would have to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redaction {
    /// For internal requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<RedactionAction>,
    /// For confidential requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidential: Option<RedactionAction>,
    /// For restricted requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restricted: Option<RedactionAction>,
}

/// What happens to sensitive text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum RedactionAction {
    /// It does not leave: only admitted backends are asked.
    RouteLocal,
    /// Names are replaced and put back.
    Pseudonymize,
    /// It is blacked out.
    Mask,
    /// The request is refused.
    Block,
}

/// Somebody who may go below the base level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// Who.
    #[schemars(length(min = 1, max = 32))]
    pub subjects: Vec<Subject>,
    /// How far down.
    pub may_lower_to: Privacy,
    /// Why, for the audit.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Last day on which this holds (UTC).
    pub expires: Date,
}

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// A ServiceAccount.
    pub service_account: NamespacedRef,
}

/// Limits of use. Absent = unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.tokensPerDay) || has(self.costPerMonth)").message("give tokensPerDay or costPerMonth"))]
pub struct Budget {
    /// Who shares it.
    pub per: BudgetScope,
    /// Tokens in a day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_day: Option<i64>,
    /// Cost in a month, in the currency of `references`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_month: Option<Decimal>,
}

/// Who shares a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum BudgetScope {
    /// Every caller has one.
    Subject,
    /// Every namespace has one.
    Namespace,
}

/// Whether pods can get out other than through the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Pods of the selected namespaces that are labeled `inferencemesh.dev/confine: enabled` reach the mesh
    /// only.
    #[serde(default)]
    pub confine: bool,
    /// What they may reach besides. Only policies of the mesh namespace may say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<EgressRule>,
    /// How names are resolved there. Only policies of the mesh namespace may say. Absent = by the pods
    /// labeled `k8s-app: kube-dns` of kube-system, on port 53.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
}

/// How confined pods resolve names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Also by the node's own cache, at its usual address 169.254.20.10.
    #[serde(default)]
    pub node_local: bool,
    /// Ports of the DNS pods. Empty = 53; OpenShift's listen on 5353.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
    /// Namespace of the DNS pods. Absent = kube-system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The DNS pods. Absent = labeled `k8s-app: kube-dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// What confined pods may reach besides: `cidr`, or pods by labels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cidr) != (has(self.namespaceSelector) || has(self.podSelector))")
    .message("give either cidr, or namespaceSelector and podSelector"))]
pub struct EgressRule {
    /// A network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Network>,
    /// Namespaces of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// TCP ports. Empty = all ports, of every protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
}

/// How much may depend on one company: a limit that is told and alerted about, never a reason to refuse. Tokens are
/// counted for all callers together, so only policies of the mesh namespace that select everything may say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Concentration {
    /// Largest share of all tokens that one provider should have; of several policies the lowest counts.
    pub max_share: Fraction,
}

/// From which level on what is decided, and to whom it is about to be sent, must be on disk before anything is sent. Where
/// it cannot be written, the floor alone answers. Of several policies the lowest level counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Lowest level for which it must be.
    pub durable_from: Privacy,
}
