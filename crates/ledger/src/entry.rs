//! What is written: one JSON object on one line for each event, with a version and an instant.
//!
//! A reader takes entries of its own version or older, and unknown fields of those; it refuses newer versions. An
//! entry may stand there twice, where the answer of a ledger was lost: a decision's id, number of the attempt and kind
//! of the event say which are the same. An entry `sending` says that something was about to be sent, not that it was.

use std::sync::Arc;

use jiff::Timestamp;
use mesh_core::{Caller, Decision, DecisionId, PrivacyLevel, SovereigntyClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the serialized form.
pub const ENTRY_VERSION: u32 = 1;
/// Longest line of one entry in bytes, without its end.
pub const LARGEST_ENTRY: usize = 1 << 20;

/// One event of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this form.
    pub v: u32,
    /// When it happened, by the clock of who writes.
    pub time: Timestamp,
    /// Who writes: the name of a gateway's pod, or `mesh` on one machine.
    pub gateway: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A request was decided. Before anything of it is sent.
    Decided {
        /// The whole record, as `explain` shows it.
        decision: Value,
        /// Who asked.
        caller: Who,
        /// How: `openai_chat`, `embeddings` and so on.
        surface: String,
        /// Bytes of the request's body.
        bytes: u64,
    },
    /// It is about to be sent to a backend. Before every attempt.
    Sending(Sending),
    /// An attempt has ended.
    Ended(Ended),
    /// Entries were lost, since the ledger was away for longer than memory lasts.
    Lost {
        /// How many.
        count: u64,
        /// Since when.
        since: Timestamp,
    },
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Namespace.
    pub namespace: String,
    /// `local`, the name of an API key, or `serviceaccount:<namespace>:<name>`.
    pub subject: String,
}

/// An attempt that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Of which decision.
    pub decision: DecisionId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// To whom.
    pub backend: String,
    /// Name of the model there.
    pub model: String,
    /// Class of the backend when it was admitted.
    pub class: SovereigntyClass,
    /// Bytes that will be sent, as far as known beforehand.
    pub bytes: u64,
    /// Level of the request.
    pub level: PrivacyLevel,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Of which decision.
    pub decision: DecisionId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Who was asked.
    pub backend: String,
    /// The label `outcome` of `attempts_total`.
    pub outcome: String,
    /// Tokens, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How long it took.
    pub milliseconds: u64,
}

/// Tokens of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of the request.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

/// Why something is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Longer than a line may be.
    #[error("the entry has {0} bytes, more than {LARGEST_ENTRY}")]
    Large(usize),
    /// Not one line.
    #[error("the entry is not one line of text")]
    Line,
    /// Not an entry that is known here.
    #[error("not an entry: {0}")]
    Form(String),
    /// Of a later release.
    #[error("not supported yet: version {0} of entries")]
    Version(u32),
}

impl Entry {
    /// An event that happens now.
    pub fn new(gateway: impl Into<String>, time: Timestamp, event: Event) -> Self {
        Self {
            v: ENTRY_VERSION,
            time,
            gateway: gateway.into(),
            event,
        }
    }

    /// The decision that this is about, if it is about one.
    pub fn decision(&self) -> Option<&str> {
        match &self.event {
            Event::Decided { decision, .. } => decision.get("decision").and_then(Value::as_str),
            Event::Sending(sending) => Some(&sending.decision.0),
            Event::Ended(ended) => Some(&ended.decision.0),
            Event::Lost { .. } => None,
        }
    }
}

impl Event {
    /// A request was decided.
    pub fn decided(decision: &Decision, caller: &Caller, surface: &str, bytes: u64) -> Self {
        Self::Decided {
            // A decision is a tree of names and numbers; should that ever fail, the id is what must not be lost.
            decision: serde_json::to_value(decision)
                .unwrap_or_else(|_| serde_json::json!({"decision": decision.decision})),
            caller: Who {
                namespace: caller.tenant.clone(),
                subject: caller.subject.clone(),
            },
            surface: surface.to_owned(),
            bytes,
        }
    }
}

/// One entry as it is written, sent and hashed: JSON on one line, without its end. The bytes are never made again from
/// what was read, since another program's spelling of the same entry would be another leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line(Arc<[u8]>);

impl Line {
    /// Takes bytes that hold one entry.
    ///
    /// # Errors
    /// If they do not.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Entry), EntryError> {
        if bytes.len() > LARGEST_ENTRY {
            return Err(EntryError::Large(bytes.len()));
        }
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
            return Err(EntryError::Line);
        }
        let text = str::from_utf8(bytes).map_err(|_| EntryError::Line)?;
        let entry: Entry = match serde_json::from_str(text) {
            Ok(entry) => entry,
            Err(error) => {
                return Err(match later(text) {
                    Some(version) => EntryError::Version(version),
                    None => EntryError::Form(error.to_string()),
                });
            }
        };
        match entry.v {
            1..=ENTRY_VERSION => Ok((Self(bytes.into()), entry)),
            version => Err(EntryError::Version(version)),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&Entry> for Line {
    type Error = EntryError;

    fn try_from(entry: &Entry) -> Result<Self, EntryError> {
        let bytes =
            serde_json::to_vec(entry).map_err(|error| EntryError::Form(error.to_string()))?;
        if bytes.len() > LARGEST_ENTRY {
            return Err(EntryError::Large(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }
}

/// The version of an entry that is not understood, if it is a later one.
fn later(text: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let version: Version = serde_json::from_str(text).ok()?;
    (version.v > ENTRY_VERSION).then_some(version.v)
}

#[cfg(test)]
pub(crate) mod tests;
