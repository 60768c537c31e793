//! A promise inside a policy: a request, what is assumed, what must come out.

use crate::{PrivacyLevel, SovereigntyClass, TaskType};

/// One entry of `tests:`.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyTest {
    /// Its name, for the report.
    pub name: String,
    /// The request.
    pub request: TestRequest,
    /// Backends assumed to be down, by name.
    pub unavailable: Vec<String>,
    /// What must hold.
    pub expect: Expectation,
}

/// The request of a policy test.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TestRequest {
    /// Text of the only user message.
    pub text: String,
    /// Header `mesh-privacy`.
    pub privacy: Option<PrivacyLevel>,
    /// Named model; absent = `auto`.
    pub model: Option<String>,
    /// Header `mesh-task`.
    pub task: Option<TaskType>,
    /// Calling ServiceAccount: namespace and name.
    pub service_account: Option<(String, String)>,
}

/// What a policy test expects. Absent = not asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expectation {
    /// The level must be exactly this.
    pub privacy: Option<PrivacyLevel>,
    /// No backend of a class below this may be in the plan, and policy may allow no other mesh below it.
    pub lowest_class: Option<SovereigntyClass>,
    /// The first available backend of the plan must be this.
    pub served_by: Option<String>,
    /// Nothing may be admitted, and policy may allow no other mesh.
    pub denied: Option<bool>,
}
