//! `GET /mesh/v1/backends`: what the caller could be served by, its class and the evidence for it,
//! and its health. No credential, and of addresses only those that are evidence. And for the operator, how all of them do.

use axum::extract::State;
use axum::{Extension, Json};
use mesh_backends::AttemptError;
use mesh_core::{Backend, Caller};
use mesh_crds::inference_backend::HealthState;
use mesh_crds::{AuthorityState, Standing, Standings, condition};
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

/// Why no call is made of a backend whose pods or whose model are not there.
const NOT_READY: &str = "NotReady";

/// How every backend does, whoever may use it.
pub(crate) fn standings(plane: &Dataplane) -> Standings {
    let snapshot = plane.snapshots().current();
    let standing = |backend: &std::sync::Arc<Backend>| {
        let models = backend.models.iter();
        let all = models.map(|model| plane.health().status(&backend.id, &model.name));
        let (state, reason) = match plane.health().not_ready(backend) {
            Some(_) if backend.peer().is_some() => (
                HealthState::Unknown,
                Some(condition::REASON_PEER_TRAFFIC_NOT_SERVED),
            ),
            Some(_) => (HealthState::Unhealthy, Some(NOT_READY)),
            None => state(&all.collect::<Vec<HealthStatus>>()),
        };
        Standing {
            namespace: backend.id.namespace.clone(),
            name: backend.id.name.clone(),
            state,
            reason: reason.map(str::to_owned),
            authority: plane
                .backends()
                .authority(backend)
                .map(|read| of_authority(&read)),
        }
    };
    Standings {
        backends: snapshot.backends.iter().map(standing).collect(),
    }
}

const fn of_authority(read: &Result<(), AttemptError>) -> AuthorityState {
    match read {
        Ok(()) => AuthorityState::Readable,
        Err(AttemptError::Authority { missing: true, .. }) => AuthorityState::Missing,
        Err(_) => AuthorityState::Invalid,
    }
}

/// One word for all models of a backend. A breaker counts as open until a call has closed it, also while it
/// lets trials through: else the word would go to and fro with them.
fn state(models: &[HealthStatus]) -> (HealthState, Option<&'static str>) {
    let open = || models.iter().filter_map(|model| model.cause);
    let reason = open().next().map(mesh_routing::health::OpenCause::reason);
    let state = if reason.is_some() && open().count() == models.len() {
        HealthState::Unhealthy
    } else if reason.is_some() {
        HealthState::Degraded
    } else if models.iter().any(|model| model.asked) {
        HealthState::Healthy
    } else {
        HealthState::Unknown
    };
    (state, reason)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_crds::inference_backend::HealthState;
    use mesh_routing::health::{Admission, HealthStatus, OpenCause};

    use super::state;

    #[test]
    fn a_backend_is_as_well_as_its_models_and_nobody_guesses() {
        let never = HealthStatus {
            asked: false,
            admission: Admission::Yes,
            cause: None,
            time_to_first_token: None,
        };
        let well = HealthStatus {
            asked: true,
            ..never
        };
        let cause = OpenCause::Marked(401);
        let rests = HealthStatus {
            admission: Admission::No {
                retry_in: Duration::from_secs(1),
                cause,
            },
            cause: Some(cause),
            ..well
        };
        let trial = HealthStatus {
            admission: Admission::Probe,
            ..rests
        };
        let all = |models: &[&HealthStatus]| {
            state(&models.iter().map(|one| (*one).clone()).collect::<Vec<_>>())
        };
        let unauthorized = Some("Unauthorized");
        assert_eq!(all(&[&never, &never]), (HealthState::Unknown, None));
        assert_eq!(all(&[&never, &well]), (HealthState::Healthy, None));
        assert_eq!(all(&[&well, &rests]), (HealthState::Degraded, unauthorized));
        assert_eq!(
            all(&[&never, &trial]),
            (HealthState::Degraded, unauthorized)
        );
        assert_eq!(all(&[&rests]), (HealthState::Unhealthy, unauthorized));
        assert_eq!(all(&[&trial]), (HealthState::Unhealthy, unauthorized));
    }
}
