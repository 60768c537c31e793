//! `GET /mesh/v1/snapshot`: what a sidecar must know of the policies of its pod's ServiceAccount, at once and
//! whenever it changes, with a sign of life between. A line of JSON each; see [`mesh_core::pushed`].
//!
//! Refuses API keys (a sidecar has a token), says nothing of other callers, and ends when the token does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, header};
use mesh_core::policy::{Overflow, Substitution};
use mesh_core::pushed::{BEAT, Floor, Line, PATH, Pushed, PushedPolicy, VERSION};
use mesh_core::{Caller, Place, PrivacyLevel, Snapshot};
use mesh_crds::child_name;
use mesh_door::Error;
use mesh_routing::{EffectivePolicy, derive, in_reach};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::{Dataplane, auth};

/// Sidecars that one gateway tells.
const STREAMS: usize = 8192;
/// Changes that come in a burst are told once.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Port of a model server's TLS.
const TLS: u16 = 8444;
/// Longest deadline that is told, in milliseconds.
const LONGEST: u128 = 3_600_000;

/// The route, for the listener on which callers show tokens.
pub(crate) fn router(plane: Dataplane) -> Router {
    let streams = Arc::new(Semaphore::new(STREAMS));
    Router::new()
        .route(PATH, get(snapshot))
        .layer(Extension(streams))
        .with_state(plane)
}

async fn snapshot(
    State(plane): State<Dataplane>,
    Extension(streams): Extension<Arc<Semaphore>>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let bearer = auth::bearer(&headers).ok_or(Error::InvalidApiKey)?;
    let telling = Telling {
        bearer: bearer.to_vec().into(),
        changed: plane.snapshots().subscribe(),
        last: None,
        beat: Instant::now(),
        _place: streams.try_acquire_owned().map_err(|_| Error::Overloaded)?,
        plane,
    };
    telling.caller().await?;
    if telling.plane.snapshots().current().generation == 0 {
        // What is declared has not been read: nothing is known that could be told.
        return Err(Error::NoBackend {
            message: String::from("this gateway knows no policies yet"),
            tried: Vec::new(),
            retry_after: Duration::from_secs(1),
        });
    }
    let lines = stream::unfold(telling, |mut telling| async move {
        let line = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line.write())), telling))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// One stream.
struct Telling {
    plane: Dataplane,
    bearer: mesh_core::Sensitive<Vec<u8>>,
    changed: watch::Receiver<u64>,
    last: Option<Pushed>,
    beat: Instant,
    _place: OwnedSemaphorePermit,
}

impl Telling {
    /// Whose stream it is, as it is known now: a token ends or is taken back, labels of a namespace change.
    async fn caller(&self) -> Result<Caller, Error> {
        let callers = self.plane.config().callers.as_ref();
        let callers = callers.ok_or(Error::NotFound)?;
        let caller = auth::recognized(&**callers, self.bearer.expose())
            .await
            .map_err(crate::layer::auth::refusal)?;
        // An API key is no pod's.
        caller
            .service_account
            .is_some()
            .then_some(caller)
            .ok_or(Error::NotFound)
    }

    async fn next(&mut self) -> Option<Line> {
        loop {
            let caller = self.caller().await.ok()?;
            let now = pushed(&self.plane, &caller);
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                self.beat = Instant::now() + BEAT;
                return Some(Line::Snapshot(Box::new(now)));
            }
            if Instant::now() >= self.beat {
                self.beat = Instant::now() + BEAT;
                return Some(Line::Alive);
            }
            tokio::select! {
                () = self.plane.ending().cancelled() => return None,
                changed = self.changed.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(DEBOUNCE).await;
                }
                () = tokio::time::sleep_until(self.beat) => {}
            }
        }
    }
}

fn pushed(plane: &Dataplane, caller: &Caller) -> Pushed {
    let snapshot = plane.snapshots().current();
    let policy = mesh_routing::join(&snapshot, caller);
    let failover = policy.failover();
    let deadline = failover.deadline.as_millis().clamp(1, LONGEST);
    Pushed {
        version: VERSION,
        policies: policy
            .policies()
            .iter()
            .map(|policy| PushedPolicy {
                name: policy.name.to_string(),
                digest: policy.digest.clone(),
            })
            .collect(),
        base_level: policy.base_level(),
        incomplete_level: policy.incomplete_level(),
        default_latency: policy.default_latency(),
        minimum_class: PrivacyLevel::ALL.map(|level| policy.minimum_class(level)),
        deadline_ms: u64::try_from(deadline).unwrap_or_default(),
        substitution: failover.substitution != Substitution::Never,
        floor: floor(plane, &snapshot, &policy),
    }
}

/// The floor, where it is pods of ours: others are reached through a gateway only.
fn floor(plane: &Dataplane, snapshot: &Snapshot, policy: &EffectivePolicy) -> Option<Floor> {
    let wanted = policy.floor()?;
    let (namespace, name) = &wanted.backend;
    let backend = snapshot
        .backends
        .iter()
        .find(|backend| backend.id.namespace == *namespace && backend.id.name == *name)?;
    let pods = matches!(backend.place, Place::Pods(_));
    if !pods || !in_reach(policy, backend) {
        return None;
    }
    let names = backend.models.iter().flat_map(|model| {
        let aliases = model.aliases.iter().filter(|alias| *alias != "*");
        std::iter::once(&model.name).chain(aliases)
    });
    let child = child_name(name);
    let derived = derive(
        backend,
        policy.ownership(),
        policy.mesh_namespace(),
        plane.now(),
    );
    Some(Floor {
        backend: backend.id.to_string(),
        url: format!("https://{child}.{namespace}.svc:{TLS}")
            .parse()
            .ok()?,
        account: format!("{namespace}/{child}"),
        model: backend.models.first()?.upstream_name().to_owned(),
        names: names.cloned().collect(),
        class: derived.class,
        max_privacy: backend.max_privacy,
        trim: wanted.overflow == Overflow::TrimHistory,
    })
}
