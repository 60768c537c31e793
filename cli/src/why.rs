//! `mesh why`: how a request would be served, and why. Asks a running mesh, or decides from files
//! with the very same code.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use mesh_core::Caller;
use mesh_dataplane::source::FileSource;
use mesh_dataplane::{Decider, Hints, Question, SnapshotStore, clock, surface_of};
use serde_json::{Value, json};

use crate::args::{Output, Why};
use crate::catalog::NAMESPACE;
use crate::{Answer, classify, output, remote};

pub(crate) async fn run(options: Why, format: Output) -> anyhow::Result<Answer> {
    let body = body(&options)?;
    let decision = if let Some(dir) = &options.dir {
        from_files(dir, &body, &headers(&options)?)?
    } else {
        let reached = remote::connect(&options.remote).await?;
        reached
            .control()
            .post("/mesh/v1/explain", &body, &hints(&options))
            .await?
    };
    output::result(format, &decision, |out| show(out, &decision))?;
    let planned = decision.get("verdict").and_then(Value::as_str) == Some("planned");
    Ok(if planned { Answer::Yes } else { Answer::No })
}

/// The request: a whole body if the file holds one, else a chat request with the text.
fn body(options: &Why) -> anyhow::Result<Value> {
    let text = match (&options.text, &options.file) {
        (Some(text), _) => text.clone(),
        (None, file) => classify::read(file.as_deref())?,
    };
    if options.file.is_some()
        && let Ok(Value::Object(mut whole)) = serde_json::from_str(&text)
        && ["messages", "prompt", "input"]
            .iter()
            .any(|field| whole.contains_key(*field))
    {
        whole.entry("model").or_insert_with(|| json!(options.model));
        return Ok(Value::Object(whole));
    }
    Ok(json!({"model": options.model, "messages": [{"role": "user", "content": text}]}))
}

fn hints(options: &Why) -> Vec<(&'static str, &str)> {
    let all = [
        ("mesh-privacy", &options.privacy),
        ("mesh-task", &options.task),
        ("mesh-latency", &options.latency),
    ];
    all.into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        .collect()
}

fn headers(options: &Why) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in hints(options) {
        let value =
            HeaderValue::from_str(value).with_context(|| format!("{name}: not a header value"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn from_files(dir: &Path, body: &Value, headers: &HeaderMap) -> anyhow::Result<Value> {
    let loaded = FileSource::new(dir, NAMESPACE).load(Timestamp::now())?;
    let decider = Decider::from_files(
        SnapshotStore::new(loaded.snapshot),
        64,
        clock::system_clock(),
    );
    let body = body.to_string();
    let job = decider.decide(Question {
        surface: surface_of(body.as_bytes()),
        body: body.into(),
        hints: Hints::read(headers)?,
        caller: Caller::local(NAMESPACE),
    })?;
    Ok(serde_json::to_value(&job.decided.decision)?)
}

fn show(out: &mut dyn Write, decision: &Value) -> std::io::Result<()> {
    let word = |value: &Value, name: &str| value.get(name).map(plain).unwrap_or_default();
    let rows = |name: &str| {
        decision
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let (level, task) = (word(decision, "privacy"), word(decision, "task"));
    writeln!(
        out,
        "{level} {task}, complexity {}, {}",
        word(decision, "complexity"),
        word(decision, "latency")
    )?;
    writeln!(
        out,
        "verdict: {}",
        verdict(decision.get("verdict").unwrap_or(&Value::Null))
    )?;
    if decision.get("health_assumed") == Some(&Value::Bool(true)) {
        writeln!(out, "decided from files: health is assumed")?;
    }
    writeln!(out, "\nfacts")?;
    let mut facts = output::table(["fact", "value", "detector", "evidence"]);
    for fact in rows("facts") {
        facts.add_row(["name", "value", "detector", "evidence"].map(|name| word(&fact, name)));
    }
    writeln!(out, "{facts}\n\ncandidates")?;
    let mut candidates = output::table(["backend", "model", "class", "score", "why"]);
    for candidate in rows("candidates") {
        let score = candidate.pointer("/score/total").and_then(Value::as_f64);
        let why = candidate
            .pointer("/refusal/message")
            .map_or_else(|| standing(&candidate), plain);
        let score = score.map(|score| format!("{score:.3}")).unwrap_or_default();
        let [backend, model, class] =
            ["backend", "model", "class"].map(|name| word(&candidate, name));
        candidates.add_row([backend, model, class, score, why]);
    }
    writeln!(out, "{candidates}\n")?;
    let plan: Vec<String> = rows("plan")
        .iter()
        .map(|entry| word(entry, "backend"))
        .collect();
    let plan = if plan.is_empty() {
        String::from("nothing")
    } else {
        plan.join(" → ")
    };
    writeln!(out, "plan: {plan}")
}

fn standing(candidate: &Value) -> String {
    let true_of = |name: &str| candidate.get(name) == Some(&Value::Bool(true));
    match (true_of("unavailable"), true_of("floor")) {
        (true, _) => String::from("admitted, but resting"),
        (false, true) => String::from("the floor: ends the plan"),
        (false, false) => String::new(),
    }
}

fn verdict(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let shown = fields.iter().map(|(name, detail)| match detail {
                Value::Object(inner) => format!(
                    "{name} ({})",
                    inner.values().map(plain).collect::<Vec<_>>().join(", ")
                ),
                other => format!("{name} ({})", plain(other)),
            });
            shown.collect::<Vec<_>>().join(", ")
        }
        other => plain(other),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}
