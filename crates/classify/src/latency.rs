//! How soon the caller needs an answer: the header, else what the request says about itself, else
//! the policy's default. Being asked for a stream means nothing here: many programs stream always.

use mesh_core::{Fact, LatencyClass};
use mesh_protocol::{ModelRequest, Surface};
use serde_json::Value;

use crate::corpus::{Corpus, Voice};
use crate::detect::lexicon::{Hit, Sense};
use crate::{Inputs, fact};

/// Phrases of system messages when nobody waits. A user may only ask what a batch job is.
pub(crate) const BATCH: &[&str] = &[
    "batch job",
    "nightly job",
    "nightly batch",
    "no hurry",
    "offline processing",
    "stapelverarbeitung",
    "keine eile",
];
/// Texts in one embedding request that make it a bulk load.
const BULK: usize = 64;

/// Decides the class.
pub(crate) fn latency(
    request: &ModelRequest,
    inputs: &Inputs<'_>,
    corpus: &Corpus,
    hits: &[Hit],
) -> (LatencyClass, Fact) {
    let (class, detector, evidence) = decide(request, inputs, corpus, hits);
    (class, fact("latency", class.as_str(), detector, evidence))
}

fn decide(
    request: &ModelRequest,
    inputs: &Inputs<'_>,
    corpus: &Corpus,
    hits: &[Hit],
) -> (LatencyClass, &'static str, &'static str) {
    if let Some(class) = inputs.header_latency {
        return (class, "header", "mesh-latency");
    }
    let many = request
        .body
        .get("input")
        .and_then(Value::as_array)
        .is_some_and(|texts| texts.len() >= BULK && !texts.iter().all(Value::is_number));
    if request.surface == Surface::Embeddings && many {
        return (
            LatencyClass::Batch,
            "rules/latency",
            "64 or more texts at /input",
        );
    }
    match request.body.get("service_tier").and_then(Value::as_str) {
        Some("flex") => {
            return (
                LatencyClass::Batch,
                "rules/latency",
                "flex at /service_tier",
            );
        }
        Some("priority") => {
            return (
                LatencyClass::Interactive,
                "rules/latency",
                "priority at /service_tier",
            );
        }
        _ => {}
    }
    let told = |hit: &Hit| {
        hit.sense() == Sense::BatchWord
            && corpus
                .segment_at(hit.start)
                .is_some_and(|segment| segment.voice == Voice::System)
    };
    if hits.iter().any(told) {
        return (
            LatencyClass::Batch,
            "rules/latency",
            "a phrase in a system message",
        );
    }
    (inputs.default_latency, "default", "nothing said otherwise")
}
