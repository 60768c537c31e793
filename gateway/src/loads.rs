//! How busy pods are by their own word, so that the choice among them knows what other gateways send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_backends::Backends;
use mesh_core::{Place, Snapshot};
use mesh_dataplane::SnapshotStore;
use mesh_runtime::Shutdown;
use tokio::time::MissedTickBehavior;

use crate::pods::ADMIN;

/// How often pods are asked.
const LOOK: Duration = Duration::from_secs(2);
/// Most pods asked in one round.
const MOST: usize = 512;

/// Asks until the end.
pub(crate) fn keep(snapshots: SnapshotStore, backends: Arc<Backends>, shutdown: &Shutdown) {
    let token = shutdown.token.clone();
    shutdown.spawn(async move {
        let mut beat = tokio::time::interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = async {
            loop {
                beat.tick().await;
                let pods = choices(&snapshots.current());
                backends.observe(&pods, ADMIN).await;
            }
        };
        token.run_until_cancelled(look).await;
    });
}

/// Pods among which there is a choice.
fn choices(snapshot: &Snapshot) -> Vec<SocketAddr> {
    let lists = snapshot
        .backends
        .iter()
        .filter_map(|backend| match &backend.place {
            Place::Pods(pods) if pods.pods.len() > 1 => Some(&pods.pods),
            _ => None,
        });
    lists.flatten().map(|pod| pod.address).take(MOST).collect()
}
