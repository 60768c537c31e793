//! Asks backends that rest after failures whether they can be reached. A probe carries no prompt and
//! closes no breaker: `GET /models` may work where every request fails. One that could not be reached
//! and now can gets its trial call before its time; what closes the breaker is that call.

use std::sync::Arc;

use futures::StreamExt;
use mesh_backends::{AttemptError, ProxyCause};
use mesh_core::{Backend, Place};
use mesh_routing::health::{Admission, HealthStatus, OpenCause};
use tokio::time::MissedTickBehavior;

use crate::Dataplane;

/// Probes at the same time.
const AT_ONCE: usize = 4;

/// Runs until it is dropped.
pub(crate) async fn run(plane: Dataplane) {
    let mut changes = plane.snapshots().subscribe();
    let mut beat = tokio::time::interval(plane.config().probe_interval);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            swapped = changes.changed() => {
                if swapped.is_err() {
                    return;
                }
                plane.health().retain(&plane.snapshots().current());
            }
            _ = beat.tick() => round(&plane).await,
        }
    }
}

async fn round(plane: &Dataplane) {
    let snapshot = plane.snapshots().current();
    let resting = snapshot
        .backends
        .iter()
        .filter(|backend| rests(plane, backend))
        .map(Arc::clone);
    futures::stream::iter(resting)
        .for_each_concurrent(AT_ONCE, |backend| async move {
            let probed = plane.backends().probe(&backend).await;
            if probed == Err(AttemptError::Proxy(ProxyCause::Unauthorized)) {
                plane.health().probe_refused(&backend.id);
            } else {
                plane.health().probed(&backend.id, probed.is_ok());
            }
            let reason = probed.err().map(|error| error.reason());
            tracing::debug!(backend = %backend.id, reason, "resting backend probed");
        })
        .await;
}

/// Only what failed is asked: who named a time (429) or refused us (401, a proxy 407) is left alone.
fn rests(plane: &Dataplane, backend: &Backend) -> bool {
    if matches!(backend.place, Place::InProcess { .. } | Place::Peer(_)) {
        return false;
    }
    let models = backend.models.iter();
    let all: Vec<HealthStatus> = models
        .map(|model| plane.health().status(&backend.id, &model.name))
        .collect();
    // The password is the same for all models, and saying a wrong one again may lock an account.
    let refused = |status: &HealthStatus| status.cause == Some(OpenCause::Marked(407));
    if plane.health().left_alone(&backend.id) || all.iter().any(refused) {
        return false;
    }
    all.iter().any(|status| {
        matches!(
            status.admission,
            Admission::No {
                cause: OpenCause::Failures,
                ..
            }
        )
    })
}
