//! What is wrong with a file, where, and what to do about it.

use std::fmt;

use serde::Serialize;

/// A place in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// What sort of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProblemKind {
    /// Not YAML, not text, or larger than a configuration can be.
    Syntax,
    /// A word that older YAML readers take for a boolean or another number.
    Ambiguous,
    /// The same key twice in one mapping.
    DuplicateKey,
    /// A field that must be there is not.
    Missing,
    /// A kind or version that nobody knows.
    UnknownKind,
    /// A key that the kind does not have.
    UnknownKey,
    /// Type, pattern, length, range or choice.
    Schema,
    /// A validation rule of the kind.
    Rule,
    /// The field's behavior comes with a later release.
    NotSupportedYet,
    /// Something named that does not exist, or exists twice.
    Reference,
    /// A value that reads well and means nothing.
    Value,
    /// Means something on one machine and not in a cluster.
    NotInCluster,
    /// Read and left out on purpose.
    Ignored,
}

impl ProblemKind {
    /// PascalCase reason for conditions, logs and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Syntax => "InvalidSyntax",
            Self::Ambiguous => "AmbiguousValue",
            Self::DuplicateKey => "DuplicateKey",
            Self::Missing => "MissingField",
            Self::UnknownKind => "UnknownKind",
            Self::UnknownKey => "UnknownKey",
            Self::Schema => "InvalidField",
            Self::Rule => "RuleViolated",
            Self::NotSupportedYet => "NotSupportedYet",
            Self::Reference => "ReferenceNotFound",
            Self::Value => "InvalidValue",
            Self::NotInCluster => crate::condition::REASON_NOT_IN_CLUSTER,
            Self::Ignored => "Ignored",
        }
    }
}

/// Whether a problem keeps the file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file is used; somebody should look.
    Warning,
}

/// One problem. Shown as `policy.yaml:12:7: spec.floor.backendRef.name: message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as the caller named it.
    pub file: String,
    /// Where in the file.
    #[serde(flatten)]
    pub at: Position,
    /// Path of the field, for example `spec.models[0].name`; empty if it is about the file.
    pub field: String,
    /// What sort it is.
    pub kind: ProblemKind,
    /// Whether the file can be used.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// True if the file cannot be used.
    pub fn error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// PascalCase reason for conditions, logs and metric labels.
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.at.line, self.at.column)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Text from a file in a message: short, on one line, without control characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}
