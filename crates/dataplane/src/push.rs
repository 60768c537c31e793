//! `GET /mesh/v1/snapshot`: what a sidecar must know of the policies of its pod's ServiceAccount, at once and
//! whenever it changes, with a sign of life between. A line of JSON each; see [`mesh_core::pushed`].
//!
//! Refuses API keys (a sidecar has a token), says nothing of other callers, and ends when the token does: at once when it
//! ends by itself, within a minute when it is taken back.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
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

use crate::auth::Callers;
use crate::{Dataplane, Unrecognized, auth};

/// Sidecars that one gateway tells.
const STREAMS: usize = 8192;
/// Changes that come in a burst are told once.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Longest time until somebody is asked again whether a token still holds; with a [`BEAT`], at which that is looked at,
/// within a minute.
const ASK: Duration = Duration::from_secs(50);
/// The same after asking in vain.
const AGAIN: Duration = Duration::from_secs(10);
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
    let callers = plane.config().callers.clone().ok_or(Error::NotFound)?;
    let permit = streams.try_acquire_owned().map_err(|_| Error::Overloaded)?;
    let standing = Standing::begin(callers, bearer)
        .await
        .map_err(crate::layer::auth::refusal)?
        .ok_or(Error::NotFound)?;
    let telling = Telling {
        standing,
        changed: plane.snapshots().subscribe(),
        last: None,
        beat: Instant::now(),
        _place: permit,
        plane,
    };
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

/// Whose stream it is, and whether they still are.
struct Standing {
    callers: Arc<dyn Callers>,
    bearer: mesh_core::Sensitive<Vec<u8>>,
    /// When somebody is asked again.
    due: Instant,
}

impl Standing {
    /// `None` for an API key, which is no pod's.
    async fn begin(callers: Arc<dyn Callers>, bearer: &[u8]) -> Result<Option<Self>, Unrecognized> {
        let caller = callers.caller(bearer)?;
        if caller.service_account.is_none() {
            return Ok(None);
        }
        if let Some(asking) = callers.confirm_stream(&caller, bearer) {
            asking.await?;
        }
        Ok(Some(Self {
            callers,
            bearer: bearer.to_vec().into(),
            due: Instant::now() + spread(ASK),
        }))
    }

    /// The caller as known now, since a token ends and labels of a namespace change; `None` once it is nobody. Whoever is
    /// asked in vain whether the token was taken back ends nothing: the stream serves no request, and its sidecar
    /// would only come back with the same question.
    async fn caller(&mut self) -> Option<Caller> {
        let bearer = self.bearer.expose();
        let caller = self.callers.caller(bearer).ok()?;
        if Instant::now() < self.due {
            return Some(caller);
        }
        let wait = match self.callers.confirm_stream(&caller, bearer) {
            None => ASK,
            Some(asking) => match asking.await {
                Ok(()) => ASK,
                Err(Unrecognized::Nobody) => return None,
                Err(Unrecognized::Unconfirmed | Unrecognized::NotYet) => AGAIN,
            },
        };
        self.due = Instant::now() + spread(wait);
        Some(caller)
    }
}

/// Between half of it and all: streams that began together need not go on so.
fn spread(longest: Duration) -> Duration {
    // A hasher's keys are random; no more is needed of chance here.
    let chance = RandomState::new().hash_one(()).to_le_bytes()[0];
    longest.mul_f64(1.0 - f64::from(chance) / 512.0)
}

/// One stream.
struct Telling {
    plane: Dataplane,
    standing: Standing,
    changed: watch::Receiver<u64>,
    last: Option<Pushed>,
    beat: Instant,
    _place: OwnedSemaphorePermit,
}

impl Telling {
    async fn next(&mut self) -> Option<Line> {
        loop {
            let caller = self.standing.caller().await?;
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

#[cfg(test)]
mod tests;
