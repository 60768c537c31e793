//! `mesh status`: the state of a running mesh, and in a cluster that of all its objects.

use std::io::Write;

use serde_json::{Value, json};

use crate::args::{Output, Remote};
use crate::cluster::{self, Cluster, Gateway, Row};
use crate::{Answer, output, remote};

pub(crate) async fn run(options: &Remote, format: Output) -> anyhow::Result<Answer> {
    if options.cluster {
        return of_cluster(options, format).await;
    }
    let reached = remote::connect(options).await?;
    let control = reached.control();
    let state = control.get("/mesh/v1/backends").await?;
    let place = format!("mesh at {}", control.base());
    output::result(format, &state, |out| show(out, &place, &state))?;
    Ok(Answer::Yes)
}

/// What is declared in a cluster, and, where the caller may ask it, what a gateway makes of it.
async fn of_cluster(options: &Remote, format: Output) -> anyhow::Result<Answer> {
    let cluster = Cluster::connect(options.context.as_deref()).await?;
    let (objects, everywhere) = cluster::objects(&cluster).await?;
    let rows = cluster::rows(&objects);
    let seen = match seen(&cluster, options).await {
        Ok((gateway, state)) => Ok((
            format!("gateway {} as {}", gateway.pod, gateway.caller),
            state,
        )),
        Err(error) => Err(format!("{error:#}")),
    };
    let state = seen.as_ref().map(|(_, state)| state).ok();
    let whole = json!({"objects": rows, "gateway": state, "gatewayError": seen.as_ref().err()});
    output::result(format, &whole, |out| {
        if !everywhere {
            let own = &cluster.namespace;
            writeln!(out, "only namespace {own}: you may not list others")?;
        }
        declared(out, &rows)?;
        match &seen {
            Ok((place, state)) => show(out, place, state),
            Err(error) => writeln!(out, "no gateway was asked: {error}"),
        }
    })?;
    Ok(Answer::Yes)
}

async fn seen(cluster: &Cluster, options: &Remote) -> anyhow::Result<(Gateway, Value)> {
    let gateway = cluster.gateway(options).await?;
    let state = gateway.control.get("/mesh/v1/backends").await?;
    Ok((gateway, state))
}

fn declared(out: &mut dyn Write, rows: &[Row]) -> std::io::Result<()> {
    let mut table = output::table(["kind", "name", "ready", "class", "health", "why"]);
    for row in rows {
        let name = format!("{}/{}", row.namespace, row.name);
        table.add_row([
            row.kind,
            &name,
            &row.ready,
            &row.class,
            &row.health,
            &row.why,
        ]);
    }
    writeln!(out, "{table}\n")
}

fn show(out: &mut dyn Write, place: &str, state: &Value) -> std::io::Result<()> {
    let text = |value: &Value, name: &str| value.get(name).map(plain).unwrap_or_default();
    let list = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    writeln!(out, "{place}, snapshot {}", text(state, "snapshot"))?;
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
