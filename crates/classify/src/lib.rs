//! From a request to facts: privacy level, task, complexity, latency class, and what a backend must
//! be able to do. Deterministic and pure: no I/O, no clock, no randomness; linear in the bytes.
//!
//! ```text
//! ModelRequest ─► walk ─► Corpus ─┬─► detect (raw)    ─┐
//!                                 └─► fold ─► detect  ─┴─► privacy ─┐
//!                 needs, task, complexity, latency ─────────────────┴─► Facts
//! ```
//! It refuses to guess downwards: nothing here lowers a level, what was not read makes the scan
//! incomplete, and an incomplete scan raises. Facts name rules and places and never hold text of
//! the request; a place names a member only if its name is vocabulary, else its position (`#3`).
//! A place may end in `~name` (the member's name itself) or `~json` (the inside of a string that
//! holds JSON or escapes; spans count in the decoded text).

mod complexity;
mod corpus;
mod cue;
mod detect;
mod fold;
mod latency;
mod needs;
mod privacy;
mod task;
mod walk;

use mesh_core::policy_test::TestRequest;
use mesh_core::{Fact, Facts, LatencyClass, PrivacyLevel, TaskType};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::{Map, Value, json};

/// Bytes of text that are read unless told otherwise: 4 MiB.
pub const DEFAULT_SCAN_LIMIT: usize = 4 << 20;

/// What policy and headers say before anything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs<'a> {
    /// Level that policy gives to requests of this caller.
    pub base: PrivacyLevel,
    /// Where the base comes from, for `explain`: `policy default`.
    pub base_source: &'a str,
    /// Level of a request that was not read completely.
    pub incomplete_level: PrivacyLevel,
    /// Latency class if nothing else says one.
    pub default_latency: LatencyClass,
    /// Header `mesh-privacy`. It only raises.
    pub header_privacy: Option<PrivacyLevel>,
    /// Header `mesh-task`.
    pub header_task: Option<TaskType>,
    /// Header `mesh-latency`.
    pub header_latency: Option<LatencyClass>,
    /// Bytes of text that are read; what is beyond makes the scan incomplete.
    pub scan_limit: usize,
}

impl<'a> Inputs<'a> {
    /// A base without headers: incomplete scans are restricted, callers are interactive.
    pub const fn new(base: PrivacyLevel, base_source: &'a str) -> Self {
        Self {
            base,
            base_source,
            incomplete_level: PrivacyLevel::Restricted,
            default_latency: LatencyClass::Interactive,
            header_privacy: None,
            header_task: None,
            header_latency: None,
            scan_limit: DEFAULT_SCAN_LIMIT,
        }
    }
}

impl Default for Inputs<'_> {
    /// Without any policy data is private until proven otherwise.
    fn default() -> Self {
        Self::new(PrivacyLevel::Confidential, "built-in default")
    }
}

/// Classifies a request. Never panics, whatever the body holds.
pub fn classify(request: &ModelRequest, inputs: &Inputs<'_>) -> Facts {
    let walk = walk::walk(request, inputs.scan_limit);
    let reading = privacy::read(&walk.corpus);
    let (level, mut entries) = privacy::level(inputs, &reading);
    let (task, task_fact) = task::task(request, inputs, &walk, &reading.hits);
    let (needs, need_facts) = needs::needs(request, &walk);
    let (complexity, complexity_fact) =
        complexity::complexity(request, &walk, &reading.hits, task, needs.prompt_tokens);
    let (latency, latency_fact) = latency::latency(request, inputs, &walk.corpus, &reading.hits);
    entries.extend([task_fact, complexity_fact, latency_fact]);
    entries.extend(need_facts);
    Facts {
        level,
        task,
        complexity,
        latency,
        needs,
        scan: reading.scan,
        findings: reading.findings,
        entries,
    }
}

/// Classifies a text as if it were the only user message of a chat request to `auto`.
pub fn classify_text(text: &str, inputs: &Inputs<'_>) -> Facts {
    classify(&text_request(text), inputs)
}

/// A chat request to `auto` with one user message.
pub fn text_request(text: &str) -> ModelRequest {
    let mut body = Map::new();
    body.insert("model".to_owned(), Value::from("auto"));
    body.insert(
        "messages".to_owned(),
        json!([{"role": "user", "content": text}]),
    );
    ModelRequest {
        surface: Surface::Chat,
        body,
        model: "auto".to_owned(),
        stream: false,
        include_usage: false,
        n: 1,
        max_tokens: None,
    }
}

/// The request of a policy's test.
pub fn test_request(test: &TestRequest) -> ModelRequest {
    let mut request = text_request(&test.text);
    if let Some(model) = &test.model {
        request.body.insert("model".to_owned(), json!(model));
        request.model.clone_from(model);
    }
    request
}

/// Builds the automata and patterns now instead of at the first request (tens of milliseconds).
pub fn warm_up() {
    classify_text("warm up: +49 30 1234567, my diabetes", &Inputs::default());
}

/// One line of `explain`.
fn fact(
    name: &'static str,
    value: impl Into<Value>,
    detector: impl Into<String>,
    evidence: impl Into<String>,
) -> Fact {
    Fact {
        name,
        value: value.into(),
        detector: detector.into(),
        evidence: evidence.into(),
    }
}
