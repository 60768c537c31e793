//! OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`, all four keys present.

use serde::{Deserialize, Serialize};

/// The envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The object.
    pub error: ErrorObject,
}

/// The object. `param` and `code` are present and may be null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For a person.
    pub message: String,
    /// OpenAI's family, for example `invalid_request_error`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The field that is wrong.
    #[serde(default)]
    pub param: Option<String>,
    /// Our reason in snake_case.
    #[serde(default)]
    pub code: Option<String>,
    /// What else belongs to it, for example the constraints of a policy denial.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl ErrorBody {
    /// Builds the envelope.
    pub fn new(
        message: impl Into<String>,
        kind: impl Into<String>,
        param: Option<String>,
        code: &str,
    ) -> Self {
        Self {
            error: ErrorObject {
                message: message.into(),
                kind: kind.into(),
                param,
                code: Some(code.to_owned()),
                more: serde_json::Map::new(),
            },
        }
    }
}
