//! How hard a request is, 0 to 1: a sum of bounded terms, each visible in the evidence.
//!
//! | term | full at | weight |
//! |---|---|---|
//! | length | 16,384 prompt tokens (logarithmic, from 64) | 0.25 |
//! | constraints on the answer | 8 words | 0.15 |
//! | questions in the last user message | 4 | 0.08 |
//! | program code | present | 0.12 |
//! | mathematics and argument | present | 0.15 |
//! | tools | 8 | 0.10 |
//! | depth of the answer's schema | 5 | 0.05 |
//! | turns | 20 | 0.05 |
//! | effort asked for | high | 0.05 |

use mesh_core::{Complexity, Fact, TaskType};
use mesh_protocol::ModelRequest;
use serde_json::Value;

use crate::corpus::Voice;
use crate::detect::lexicon::{Hit, Sense};
use crate::fact;
use crate::task::formula;
use crate::walk::Walk;

/// Adds up the terms.
pub(crate) fn complexity(
    request: &ModelRequest,
    walk: &Walk,
    hits: &[Hit],
    task: TaskType,
    prompt_tokens: u32,
) -> (Complexity, Fact) {
    let counts = count(walk, hits);
    let length = (f64::from(prompt_tokens.max(64)) / 64.0).log2() / 8.0;
    let schema = request
        .body
        .get("response_format")
        .and_then(|format| format.pointer("/json_schema/schema"));
    let effort = match request.body.get("reasoning_effort").and_then(Value::as_str) {
        Some("high" | "xhigh") => 1.0,
        Some("medium") => 0.5,
        _ => 0.0,
    };
    let reasoning = task == TaskType::Reasoning || counts.formula;
    let terms = [
        ("length", 0.25, length),
        ("constraints", 0.15, share(counts.limits, 8)),
        (
            "questions",
            0.08,
            share(counts.questions.saturating_sub(1), 3),
        ),
        ("code", 0.12, flag(counts.code || task == TaskType::Code)),
        ("argument", 0.15, flag(reasoning)),
        ("tools", 0.10, share(tools(request), 8)),
        (
            "schema",
            0.05,
            share(schema.map_or(0, |schema| depth(schema, 12)), 5),
        ),
        ("turns", 0.05, share(walk.turns.saturating_sub(1), 20)),
        ("effort", 0.05, effort),
    ];
    let mut sum = 0.0;
    let mut evidence = Vec::new();
    for (name, weight, value) in terms {
        let part = weight * value.clamp(0.0, 1.0);
        sum += part;
        if part >= 0.005 {
            evidence.push(format!("{name} {part:.2}"));
        }
    }
    let evidence = if evidence.is_empty() {
        "a short request".to_owned()
    } else {
        evidence.join(" + ")
    };
    let rounded = (sum * 1000.0).round() / 1000.0;
    let fact = fact("complexity", rounded, "rules/complexity", evidence);
    (Complexity::new(rounded), fact)
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn share(count: usize, full: u32) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (f64::from(count) / f64::from(full)).min(1.0)
}

struct Counts {
    limits: usize,
    questions: usize,
    code: bool,
    formula: bool,
}

fn count(walk: &Walk, hits: &[Hit]) -> Counts {
    let mut counts = Counts {
        limits: 0,
        questions: 0,
        code: false,
        formula: false,
    };
    let mut marks = 0;
    for hit in hits {
        let spoken = || {
            walk.corpus.segment_at(hit.start).is_some_and(|segment| {
                !segment.joined() && matches!(segment.voice, Voice::User | Voice::System)
            })
        };
        match hit.sense() {
            Sense::Limit if spoken() => counts.limits += 1,
            Sense::CodeMark if spoken() => marks += 1,
            _ => {}
        }
    }
    counts.code = marks >= 2;
    let asked = walk
        .corpus
        .originals()
        .filter(|segment| segment.voice == Voice::User && segment.message == walk.last_user);
    for segment in asked {
        let text = walk.corpus.read(segment);
        counts.questions += text.bytes().filter(|byte| *byte == b'?').count();
        counts.formula |= formula(text);
    }
    counts
}

fn tools(request: &ModelRequest) -> usize {
    ["tools", "functions"]
        .iter()
        .filter_map(|name| request.body.get(*name))
        .filter_map(Value::as_array)
        .map(Vec::len)
        .sum()
}

/// Nesting of a schema's properties and items, up to `limit`.
fn depth(schema: &Value, limit: usize) -> usize {
    if limit == 0 {
        return 0;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let below = properties
        .into_iter()
        .flat_map(|properties| properties.values())
        .chain(schema.get("items"))
        .map(|inner| depth(inner, limit - 1) + 1)
        .max();
    below.unwrap_or(0)
}
