//! A policy's own tests: a request, what is assumed, what must come out.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::reference::NamespacedRef;
use crate::vocabulary::{Class, Privacy, Task};

/// A promise of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTest {
    /// What is promised, for the report.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The request.
    pub request: TestRequest,
    /// What is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// What must come out.
    pub expect: Expectation,
}

/// The request of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestRequest {
    /// Text of the only user message.
    #[schemars(length(max = 65536))]
    pub text: String,
    /// As if the header `mesh-privacy` said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// The named model. Absent = `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub model: Option<String>,
    /// As if the header `mesh-task` said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Who asks. Absent = somebody of the policy's namespace.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub as_: Option<TestCaller>,
}

/// Who asks in a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestCaller {
    /// A ServiceAccount.
    pub service_account: NamespacedRef,
}

/// What a test assumes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    /// Backends that are down, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub unavailable: Vec<String>,
}

/// What must come out. At least one of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.privacy) || has(self.lowestClass) || has(self.servedBy) || has(self.denied)")
    .message("a test without an expectation proves nothing: give privacy, lowestClass, servedBy or denied"))]
#[x_kube(validation = Rule::new("!(has(self.denied) && self.denied && (has(self.servedBy) || has(self.lowestClass)))")
    .message("a denied request is served by nobody: remove servedBy and lowestClass"))]
pub struct Expectation {
    /// Exactly this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// No backend of a class below this is in the plan, and policy allows no peer below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_class: Option<Class>,
    /// This backend is the first available one of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub served_by: Option<String>,
    /// Nothing is admitted, and policy allows no peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<bool>,
}
