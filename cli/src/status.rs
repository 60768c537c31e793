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
    let list = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    writeln!(out, "mesh at {base}, snapshot {}", text(state, "snapshot"))?;
    let policies: Vec<String> = list(state, "policies")
        .iter()
        .map(|policy| text(policy, "name"))
        .collect();
    let policies = if policies.is_empty() {
        String::from("none")
    } else {
        policies.join(", ")
    };
    writeln!(out, "policies: {policies}")?;
    let mut table = output::table(["backend", "class", "model", "health", "why"]);
    for backend in list(state, "backends") {
        let floor = if backend.get("floor") == Some(&Value::Bool(true)) {
            " (floor)"
        } else {
            ""
        };
        let name = format!("{}{floor}", text(&backend, "backend"));
        for model in list(&backend, "models") {
            let health = model.get("health").cloned().unwrap_or_default();
            let (state, reason) = (text(&health, "state"), text(&health, "reason"));
            table.add_row([
                name.clone(),
                text(&backend, "class"),
                text(&model, "name"),
                state,
                reason,
            ]);
        }
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
