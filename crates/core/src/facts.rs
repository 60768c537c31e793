//! What classification found out about one request.

use serde::Serialize;
use serde_json::Value;

use crate::{Complexity, LatencyClass, PrivacyLevel, TaskType};

/// Result of classification. Holds no text of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
    /// Level of the request: the highest that anything said.
    pub level: PrivacyLevel,
    /// Kind of work.
    pub task: TaskType,
    /// How hard it is.
    pub complexity: Complexity,
    /// How long the caller can wait.
    pub latency: LatencyClass,
    /// What a backend must be able to do.
    pub needs: Needs,
    /// Whether everything was read.
    pub scan: Scan,
    /// What the detectors found.
    pub findings: Vec<Finding>,
    /// Every fact with who spoke and why, for `explain`.
    pub entries: Vec<Fact>,
}

/// One line of `explain`: who said what, and why. `evidence` names rules and places, never text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// For example `privacy`, `task`.
    pub name: &'static str,
    /// The value, for example `restricted`.
    pub value: Value,
    /// Who spoke: `policy:default`, `header`, `rules/card`.
    pub detector: String,
    /// Why: a rule and a place in the request.
    pub evidence: String,
}

/// One sensitive thing in the request. The text itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// JSON pointer of the part, for example `/messages/0/content`.
    pub part: String,
    /// First byte within the part's text.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// Type of entity, for example `payment_card`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Identity of the rule, for example `card/luhn`.
    pub rule: &'static str,
    /// Level that it asks for.
    pub level: PrivacyLevel,
}

/// Whether every part of the request was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Scan {
    /// True if nothing was left unread.
    pub complete: bool,
    /// Parts read.
    pub parts: u32,
    /// Bytes read.
    pub bytes: u64,
    /// What was not read, by place and cause; empty if complete.
    pub unread: Vec<String>,
}

/// How much a request needs tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolNeed {
    /// No tools in the request.
    #[default]
    None,
    /// `tools` with `tool_choice` auto or none: an answer without them is a degradation.
    Soft,
    /// `tool_choice` required or named: refused where tools are not enforced.
    Hard,
}

/// What a backend must be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a need of its own")]
pub struct Needs {
    /// Estimated prompt tokens.
    pub prompt_tokens: u32,
    /// Answer tokens asked for; absent = not said.
    pub max_output_tokens: Option<u32>,
    /// Tool calls.
    pub tools: ToolNeed,
    /// `response_format` json_object or json_schema.
    pub json: bool,
    /// Images.
    pub vision: bool,
    /// Audio, files and other media.
    pub other_media: bool,
    /// Embedding vectors.
    pub embeddings: bool,
    /// Declared dimensions of the embedding asked for.
    pub dimensions: Option<u32>,
    /// The caller wants a stream.
    pub stream: bool,
    /// Tools that the provider would run: web search, code interpreter and the like.
    pub hosted_tools: Vec<String>,
    /// The request holds addresses that somebody would have to fetch.
    pub remote_urls: bool,
    /// Top-level fields we do not know, by name.
    pub unknown_fields: Vec<String>,
}
