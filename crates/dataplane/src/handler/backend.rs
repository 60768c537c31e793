//! `GET /mesh/v1/backends`: what the caller could be served by, its class and the evidence for it,
//! and its health. No address and no credential.

use axum::extract::State;
use axum::{Extension, Json};
use mesh_core::{Backend, Caller};
use mesh_routing::health::{Admission, HealthStatus};
use mesh_routing::{EffectivePolicy, derive, in_reach};
use serde_json::{Value, json};

use crate::Dataplane;

pub(crate) async fn list(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
) -> Json<Value> {
    let snapshot = plane.snapshots().current();
    let policy = mesh_routing::join(&snapshot, &caller);
    let backends: Vec<Value> = snapshot
        .backends
        .iter()
        .filter(|backend| in_reach(&policy, backend))
        .map(|backend| describe(&plane, &policy, backend))
        .collect();
    Json(json!({
        "snapshot": snapshot.generation,
        "created": snapshot.created,
        "policies": policy.policies(),
        "backends": backends,
    }))
}

fn describe(plane: &Dataplane, policy: &EffectivePolicy, backend: &Backend) -> Value {
    let now = plane.now();
    let derived = derive(backend, policy.ownership(), policy.mesh_namespace(), now);
    let floor = policy.floor().is_some_and(|floor| {
        floor.backend.0 == backend.id.namespace && floor.backend.1 == backend.id.name
    });
    let missing = plane.health().not_ready(backend);
    let models: Vec<Value> = backend
        .models
        .iter()
        .map(|model| {
            let status = plane.health().status(&backend.id, &model.name);
            json!({
                "name": model.name,
                "aliases": model.aliases,
                "health": health(&status, missing.as_deref()),
            })
        })
        .collect();
    json!({
        "backend": backend.id,
        "class": derived.class,
        "evidence": derived.evidence(backend),
        "provider": backend.provider(),
        "maxPrivacy": backend.max_privacy,
        "floor": floor,
        "available": plane.health().up(backend),
        "models": models,
    })
}

fn health(status: &HealthStatus, missing: Option<&str>) -> Value {
    let (state, retry_in) = match (missing, status.admission) {
        (Some(_), _) => ("not_ready", None),
        (None, Admission::Yes) => ("well", None),
        (None, Admission::Probe) => ("trial", None),
        (None, Admission::No { retry_in, .. }) => ("resting", Some(retry_in)),
    };
    let reason = missing
        .map(str::to_owned)
        .or_else(|| status.cause.map(|cause| cause.reason().to_owned()));
    json!({
        "state": state,
        "reason": reason,
        "retryInSeconds": retry_in.map(|time| time.as_secs_f64()),
        "timeToFirstTokenSeconds": status.time_to_first_token.map(|time| time.as_secs_f64()),
    })
}
