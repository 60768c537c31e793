//! What is written: one JSON object on one line for each event, with a version and an instant.
//!
//! A reader takes entries of its own version or older, and unknown fields of those. A log keeps those of later versions
//! too, and shows them as they are. An entry may stand there twice, where the answer of a ledger was lost: a decision's id, number of the attempt and kind
//! of the event say which are the same. An entry `sending` says that something was about to be sent, not that it was.

use std::sync::Arc;

use jiff::Timestamp;
use mesh_core::{Caller, Decision, DecisionId, PrivacyLevel, SovereigntyClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tree::Hash;

/// Version of the serialized form.
pub const ENTRY_VERSION: u32 = 1;
/// Longest line of one entry in bytes, without its end.
pub const LARGEST_ENTRY: usize = 1 << 20;
/// What every line of an entry begins with; other lines of a log begin otherwise.
const BEGINNING: &str = r#"{"v":"#;
/// Who writes entries of the log itself.
pub(crate) const LEDGER: &str = "mesh-ledger";
/// Bytes of a line within which it says who writes.
const HEAD: usize = 128;

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
    /// The ledger is about to remove its oldest entries, as its retention says.
    Removed {
        /// Number of the first entry that stays.
        before: u64,
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
    #[error("the entry is not one line of JSON that begins with {BEGINNING}")]
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
            Event::Lost { .. } | Event::Removed { .. } => None,
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

/// What every entry has, whatever its version: the keeper of a log asks for nothing more, so that entries of later
/// releases are kept too.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    time: Timestamp,
    #[serde(rename = "gateway")]
    _gateway: String,
    #[serde(rename = "event")]
    _event: String,
}

impl Line {
    /// Takes bytes that hold one entry of this or a later version.
    ///
    /// # Errors
    /// If they do not.
    pub fn take(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > LARGEST_ENTRY {
            return Err(EntryError::Large(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|_| EntryError::Line)?;
        if text.contains(['\n', '\r']) || !text.starts_with(BEGINNING) {
            return Err(EntryError::Line);
        }
        let envelope: Envelope =
            serde_json::from_str(text).map_err(|error| EntryError::Form(error.to_string()))?;
        if envelope.v == 0 {
            return Err(EntryError::Version(0));
        }
        Ok(Self(bytes.into()))
    }

    /// What it says.
    ///
    /// # Errors
    /// If it is of a later release.
    pub fn entry(&self) -> Result<Entry, EntryError> {
        let form = |error: serde_json::Error| EntryError::Form(error.to_string());
        let envelope: Envelope = serde_json::from_slice(&self.0).map_err(form)?;
        if envelope.v > ENTRY_VERSION {
            return Err(EntryError::Version(envelope.v));
        }
        serde_json::from_slice(&self.0).map_err(form)
    }

    /// The entry, if a ledger itself has written it: cheaper than reading every entry whole.
    pub(crate) fn of_ledger(&self) -> Option<Entry> {
        let name = format!(r#""gateway":"{LEDGER}","#);
        let named = self
            .0
            .windows(name.len())
            .take(HEAD)
            .any(|part| part == name.as_bytes());
        named
            .then(|| self.entry().ok())
            .flatten()
            .filter(|entry| entry.gateway == LEDGER)
    }

    /// When it happened, if it is an entry that is known here.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        let envelope: Envelope = serde_json::from_slice(&self.0).ok()?;
        Some(envelope.time)
    }

    /// Its hash in the tree.
    pub fn leaf(&self) -> Hash {
        Hash::leaf(&self.0)
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

#[cfg(test)]
pub(crate) mod tests;
