//! The data plane beside one application, in its pod: takes requests on loopback, finds out how sensitive they
//! are, and hands them to the gateway with the pod's own credential.
//!
//! ```text
//!  application ──► take in ─► judge ──► gateway (TLS, token) ──────────► answer, piece by piece
//!                               ▲          └─ none answers ─► floor ───►   "
//!                               │
//!                       snapshot (pushed, kept in a file)
//! ```
//!
//! Refuses: deciding who may serve (the gateway does, and checks everything again), lowering a level, passing on
//! a credential of the application, talking to the API server, and knowing a key of a cloud.

mod args;
mod ask;
mod breaker;
mod floor;
mod floors;
mod follow;
mod forward;
mod head;
mod judge;
mod meter;
mod metrics;
mod peer;
mod relay;
mod snapshot;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use mesh_core::{PrivacyLevel, SovereigntyClass};
use mesh_door::{Memory, Places};
use mesh_identity::Trust;
use mesh_runtime::Shutdown;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

pub use args::Args;
pub use peer::NotAnAddress;

use crate::breaker::Breaker;
use crate::floors::Below;
use crate::metrics::{Metrics, Standing};
use crate::peer::Peer;
use crate::snapshot::Snapshots;
use crate::token::Token;

/// Requests at once, streams included.
const PLACES: usize = 512;
/// Memory for all bodies that are being read or judged, in bytes.
const MEMORY: usize = 16 << 20;

/// A sidecar. Cheap to clone.
#[derive(Clone)]
pub struct Sidecar {
    shared: Arc<Shared>,
}

struct Shared {
    annotation: Option<PrivacyLevel>,
    patience: Duration,
    token: Token,
    gateway: Peer,
    breaker: Breaker,
    below: Below,
    snapshots: Snapshots,
    metrics: Metrics,
    places: Places,
    memory: Memory,
    tracker: TaskTracker,
}

impl Sidecar {
    /// Begins to follow what it is told; needs a runtime.
    ///
    /// # Errors
    /// If the gateway's address is none.
    pub fn start(args: &Args, shutdown: &Shutdown) -> Result<Self, NotAnAddress> {
        let trust = Trust::new();
        let shared = Arc::new(Shared {
            annotation: args.floor_level(),
            patience: args.answer_timeout,
            token: Token::new(args.token_file.clone()),
            gateway: Peer::new(&args.gateway_url, None, &trust)?,
            breaker: Breaker::default(),
            below: Below::new(Arc::clone(&trust)),
            snapshots: Snapshots::new(args.snapshot.clone()),
            metrics: Metrics::new(),
            places: Places::new(PLACES),
            memory: Memory::new(MEMORY),
            tracker: shutdown.tracker.clone(),
        });
        match shared.snapshots.load() {
            Ok(true) => {
                let pushed = shared.snapshots.current();
                shared
                    .below
                    .push(pushed.as_ref().and_then(|pushed| pushed.floor.as_ref()));
                tracing::info!("begins with the snapshot of the container before");
            }
            Ok(false) => {}
            Err(error) => {
                shared.metrics.rejected();
                tracing::warn!(reason = error.reason(), %error, "the kept snapshot is not used");
            }
        }
        // The first request should not pay for building the detectors.
        shared.tracker.spawn_blocking(mesh_classify::warm_up);
        let (own, folder, token) = (
            Arc::clone(&shared),
            args.trust.clone(),
            shutdown.token.clone(),
        );
        shutdown.spawn(async move {
            let work = async {
                tokio::join!(
                    trust.keep(folder.clone()),
                    own.below.keep(folder),
                    follow::follow(&own)
                )
            };
            token.run_until_cancelled(work).await;
        });
        Ok(Self { shared })
    }

    /// What the application talks to.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(forward::handle)
            .layer(from_fn_with_state(
                self.shared.places.clone(),
                mesh_door::limit,
            ))
            .layer(from_fn(mesh_door::panic::rescue))
            .with_state(self.clone())
    }

    /// Enters what is counted; the prefix should be `mesh_sidecar`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
        metrics::watch(registry, &self.shared.metrics, self.shared.clone());
    }

    /// How it stands, for a person: no names and no addresses.
    pub fn state(&self) -> Value {
        let shared = &self.shared;
        json!({
            "gateway": if shared.gateway() { "answers" } else { "rests" },
            "snapshotAgeSeconds": shared.age().map(|age| age.as_secs()),
            "floor": if shared.floor().is_some() { "known" } else { "unknown" },
        })
    }
}

impl Standing for Shared {
    fn age(&self) -> Option<Duration> {
        self.snapshots.age()
    }

    fn gateway(&self) -> bool {
        !self.breaker.resting()
    }

    fn floor(&self) -> Option<(String, SovereigntyClass)> {
        let known = self.below.current()?;
        Some((known.floor.backend.clone(), known.floor.class))
    }
}
