//! Served below what was asked, and said so. The list is closed.

use std::fmt;

use serde::Serialize;

/// One way in which an answer is less than what was asked for (header `mesh-degraded`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Degradation {
    /// Others were admitted but could not answer, or no gateway was there to ask them; the floor did.
    FloorOnly,
    /// The record of the decision could not be written durably, so only the floor was allowed to answer.
    AuditNotDurable,
    /// Another model than the named one answered.
    ModelSubstituted,
    /// The floor has no tools and answered without them.
    ToolsDropped,
    /// Old turns were left out so that the prompt fits the floor.
    ContextTrimmed,
    /// Parts of the request were redacted.
    Redacted,
    /// The floor's answer ran into a loop and was ended.
    FloorRepetition,
}

impl Degradation {
    /// All reasons, in the order in which they are listed in a header.
    pub const ALL: [Self; 7] = [
        Self::FloorOnly,
        Self::AuditNotDurable,
        Self::ModelSubstituted,
        Self::ToolsDropped,
        Self::ContextTrimmed,
        Self::Redacted,
        Self::FloorRepetition,
    ];

    /// The word used in the header and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FloorOnly => "floor_only",
            Self::AuditNotDurable => "audit_not_durable",
            Self::ModelSubstituted => "model_substituted",
            Self::ToolsDropped => "tools_dropped",
            Self::ContextTrimmed => "context_trimmed",
            Self::Redacted => "redacted",
            Self::FloorRepetition => "floor_repetition",
        }
    }
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Joins several reasons for the header: `floor_only, model_substituted`. `None` if there is none.
pub fn header_value(reasons: &[Degradation]) -> Option<String> {
    let mut sorted = reasons.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let words: Vec<&str> = sorted.into_iter().map(Degradation::as_str).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
