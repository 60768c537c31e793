//! `mesh status`: the state of a running mesh.

use std::io::Write;

use serde_json::Value;

use crate::args::{Output, Remote};
use crate::{Answer, output, remote};

pub(crate) async fn run(options: &Remote, format: Output) -> anyhow::Result<Answer> {
    let control = remote::connect(options)?;
    let state = control.get("/mesh/v1/backends").await?;
    output::result(format, &state, |out| {
        show(out, control.base().as_str(), &state)
    })?;
    Ok(Answer::Yes)
}

fn show(out: &mut dyn Write, base: &str, state: &Value) -> std::io::Result<()> {
    let text = |value: &Value, name: &str| value.get(name).map(plain).unwrap_or_default();
    writeln!(out, "mesh at {base}, snapshot {}", text(state, "snapshot"))?;
    let mut table = output::table(["backend", "class", "health", "models", "why"]);
    for backend in state
        .get("backends")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let models: Vec<String> = backend
            .get("models")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|model| model.get("name").map_or_else(|| plain(model), plain))
            .collect();
        let health = backend.get("health");
        let state = health
            .and_then(|health| health.get("state"))
            .map(plain)
            .unwrap_or_default();
        let reason = health
            .and_then(|health| health.get("reason"))
            .map(plain)
            .unwrap_or_default();
        table.add_row([
            text(backend, "name"),
            text(backend, "class"),
            state,
            models.join(", "),
            reason,
        ]);
    }
    writeln!(out, "{table}")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
