//! What `mesh up` tells at the start: what is declared, what is missing, and how to ask.

use std::fmt::Write;

use jiff::Timestamp;
use mesh_core::{Backend, Caller, Credential};
use mesh_dataplane::source::Loaded;
use mesh_routing::EffectivePolicy;
use tokio::net::TcpListener;

use crate::catalog::NAMESPACE;
use crate::up::floors::Floors;
use crate::up::shown;

/// Backends with classes, the floor, the policy, what is missing; then the addresses.
pub(crate) fn start(loaded: &Loaded, api: &TcpListener, admin: &TcpListener) -> String {
    let snapshot = &loaded.snapshot;
    let policy = mesh_routing::join(snapshot, &Caller::local(NAMESPACE));
    let mut text = String::new();
    for backend in &snapshot.backends {
        line(&mut text, &backend_line(backend, &policy));
    }
    line(&mut text, &floor_line(loaded, &policy));
    line(&mut text, &policy_line(&policy));
    for warning in &loaded.warnings {
        line(&mut text, &warning.to_string());
    }
    for missing in snapshot
        .backends
        .iter()
        .filter_map(|backend| missing(backend))
    {
        line(&mut text, &missing);
    }
    let address = |listener: &TcpListener| {
        listener.local_addr().map_or_else(
            |_| String::from("an unknown address"),
            |address| format!("http://{address}"),
        )
    };
    line(&mut text, &format!("listening on {}", address(api)));
    line(&mut text, &format!("admin on {}", address(admin)));
    text
}

/// How far the models of this process are.
pub(crate) fn ready(loaded: &Loaded, floors: &Floors) -> String {
    let mut text = String::new();
    let states = floors.states();
    let mut answers = loaded.snapshot.backends.len() > states.len();
    for (id, state) in states {
        match state {
            Ok(model) => {
                answers = true;
                line(&mut text, &format!("loaded   {id}: {model}"));
            }
            Err(why) => line(&mut text, &format!("missing  {id} does not answer: {why}")),
        }
    }
    line(
        &mut text,
        if answers {
            "ready"
        } else {
            "not ready: nothing can answer yet"
        },
    );
    text
}

fn line(text: &mut String, line: &str) {
    // Writing into a string does not fail.
    let _ = writeln!(text, "{line}");
}

fn backend_line(backend: &Backend, policy: &EffectivePolicy) -> String {
    let class =
        mesh_routing::derive(backend, policy.ownership(), NAMESPACE, Timestamp::now()).class;
    let names: Vec<&str> = backend
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    format!(
        "backend  {}: {class}, serves {}",
        backend.id,
        names.join(", ")
    )
}

fn floor_line(loaded: &Loaded, policy: &EffectivePolicy) -> String {
    match policy.floor() {
        Some(floor) => format!("floor    {}", floor.backend.1),
        None if loaded.snapshot.backends.is_empty() => {
            String::from("floor    none: no backend is declared")
        }
        None => {
            String::from("floor    none: name one in a SovereigntyPolicy (spec.floor.backendRef)")
        }
    }
}

fn policy_line(policy: &EffectivePolicy) -> String {
    let names: Vec<String> = policy
        .policies()
        .iter()
        .map(|policy| policy.name.to_string())
        .collect();
    if names.is_empty() {
        return format!(
            "policy   none: requests are {}, owned hardware only",
            policy.base_level()
        );
    }
    format!(
        "policy   {}: requests are {} unless something raises them",
        names.join(", "),
        policy.base_level()
    )
}

/// What a backend lacks on this machine.
fn missing(backend: &Backend) -> Option<String> {
    let credential = backend.endpoint()?.credentials.as_ref()?;
    let (found, what) = match credential {
        Credential::Env(name) => {
            let set = std::env::var_os(name).is_some_and(|value| !value.is_empty());
            (
                set,
                format!("set the environment variable {name} and start again"),
            )
        }
        // Refused at the door of one machine.
        Credential::Secret { .. } => (false, String::from("use env or file")),
        Credential::File(path) => (path.is_file(), format!("put its key into {}", shown(path))),
    };
    (!found).then(|| format!("missing  {} has no key: {what}", backend.id))
}
