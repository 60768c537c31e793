//! What a request wants done, how hard it is, and how soon.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Kind of work a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskType {
    /// Conversation and everything not recognized as something else.
    Chat,
    /// Multi-step argument, mathematics, planning.
    Reasoning,
    /// Writing, changing or explaining program code.
    Code,
    /// Making a long text short.
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

impl TaskType {
    /// All task types.
    pub const ALL: [Self; 9] = [
        Self::Chat,
        Self::Reasoning,
        Self::Code,
        Self::Summarize,
        Self::Translate,
        Self::Extract,
        Self::Classify,
        Self::Embed,
        Self::Domain,
    ];

    /// The lower-case word of headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Reasoning => "reasoning",
            Self::Code => "code",
            Self::Summarize => "summarize",
            Self::Translate => "translate",
            Self::Extract => "extract",
            Self::Classify => "classify",
            Self::Embed => "embed",
            Self::Domain => "domain",
        }
    }
}

impl fmt::Display for TaskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a known word of this enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown value: use one of {allowed}")]
pub struct UnknownWord {
    /// The words that would have been understood.
    pub allowed: &'static str,
}

impl FromStr for TaskType {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|task| task.as_str() == text).ok_or(UnknownWord {
            allowed: "chat, reasoning, code, summarize, translate, extract, classify, embed, domain",
        })
    }
}

/// How long a caller can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LatencyClass {
    /// A person is waiting.
    Interactive,
    /// A program is waiting.
    Standard,
    /// Nobody is waiting.
    Batch,
}

impl LatencyClass {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Batch];

    /// The lower-case word of headers and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }
}

impl fmt::Display for LatencyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LatencyClass {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or(UnknownWord {
                allowed: "interactive, standard, batch",
            })
    }
}

/// How hard a request is, 0 (trivial) to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize)]
pub struct Complexity(f64);

impl Complexity {
    /// Clamps into 0..=1; not-a-number counts as 1, the careful side.
    pub fn new(value: f64) -> Self {
        if value.is_nan() {
            Self(1.0)
        } else {
            Self(value.clamp(0.0, 1.0))
        }
    }

    /// The number, 0..=1.
    pub const fn value(self) -> f64 {
        self.0
    }
}
