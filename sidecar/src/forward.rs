//! One request of the application: taken in, judged, sent to the gateway, and if none answers to the floor.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use http_body::Body as _;
use jiff::Timestamp;
use mesh_core::pushed::{PATH, Pushed};
use mesh_core::{Degradation, PrivacyLevel};
use mesh_door::body::{Limits, json, take};
use mesh_door::{Error, Finished, Hints, Kept, Outcome, surface_asked};
use mesh_protocol::Surface;
use serde_json::json;
use tokio::time::Instant;

use crate::ask::{Ask, gateway};
use crate::floor::{Fallen, floor};
use crate::judge::{Judged, Raises, judge};
use crate::metrics::Metrics;
use crate::peer::Failure;
use crate::{Shared, Sidecar};

/// From this size on reading and classifying a body leaves the threads that serve connections.
const LARGE_BODY: usize = 32 << 10;
/// Largest body in bytes, as at the gateway.
const BODY_LIMIT: usize = 8 << 20;
/// Longest time that a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);
/// What a floor may take through the gateway until its first token.
const FLOOR_TIME: Duration = Duration::from_mins(2);
/// The same where no model is asked.
const OTHER_TIME: Duration = Duration::from_secs(30);
const NO_GATEWAY: &str = "no gateway answers";
const NO_SNAPSHOT: &str = "no gateway has told the policy yet";

/// What a path is to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A model is asked.
    Surface(Surface),
    /// It is asked what would be done.
    Explain,
    /// The names that may be asked.
    Models,
    /// Whatever else the mesh has; the gateway knows.
    Other,
    /// Nothing for applications.
    Nobodys,
}

impl Way {
    fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::Surface(Surface::Chat),
            "/v1/completions" => Self::Surface(Surface::Completions),
            "/v1/embeddings" => Self::Surface(Surface::Embeddings),
            "/v1/models" => Self::Models,
            "/mesh/v1/explain" => Self::Explain,
            PATH => Self::Nobodys,
            "/console" => Self::Other,
            _ if ["/v1/", "/mesh/v1/", "/console/"]
                .iter()
                .any(|room| path.starts_with(room)) =>
            {
                Self::Other
            }
            _ => Self::Nobodys,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Surface(surface) => surface.as_str(),
            Self::Explain | Self::Models | Self::Other | Self::Nobodys => "other",
        }
    }
}

/// Observes one request when it ends, however it ends.
struct Watch {
    metrics: Metrics,
    surface: &'static str,
    started: Instant,
    outcome: Option<Outcome>,
    noted: bool,
}

impl Watch {
    fn note(&mut self, otherwise: &'static str) {
        if std::mem::replace(&mut self.noted, true) {
            return;
        }
        let word = self.outcome.as_ref().and_then(Outcome::get);
        let outcome = word.unwrap_or(otherwise);
        self.metrics
            .answered(self.surface, outcome, self.started.elapsed());
    }
}

impl Finished for Watch {
    fn finished(&mut self) {
        self.note("ok");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.note("canceled");
    }
}

/// Every request.
pub(crate) async fn handle(State(sidecar): State<Sidecar>, request: Request) -> Response {
    let shared = &sidecar.shared;
    let way = Way::of(request.uri().path());
    let mut watch = Watch {
        metrics: shared.metrics.clone(),
        surface: way.label(),
        started: Instant::now(),
        outcome: None,
        noted: false,
    };
    let answered = answer(shared, way, request).await;
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    if !response.headers().contains_key("x-request-id")
        && let Ok(id) = HeaderValue::from_str(&mesh_door::id::new(Timestamp::now()))
    {
        response.headers_mut().insert("x-request-id", id);
    }
    watch.outcome = response.extensions().get::<Outcome>().cloned();
    response.map(|body| Kept::wrap(body, watch))
}

async fn answer(shared: &Arc<Shared>, way: Way, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    mesh_door::origin::examine(&parts.headers, parts.uri.authority(), &[])?;
    if way == Way::Nobodys {
        return Err(Error::NotFound);
    }
    let hints = Hints::read(&parts.headers)?;
    // Its part of the memory is held until the answer begins.
    let (body, _held) = taken(shared, way, &parts, body).await?;
    let bearer = shared.token.bearer().await.ok_or_else(no_token)?;
    let ask = Ask {
        method: parts.method,
        path: target(way, &parts.uri),
        headers: parts.headers,
        body,
    };
    match way {
        Way::Surface(surface) if ask.method == Method::POST => {
            serve(shared, surface, &ask, hints, &bearer).await
        }
        _ => pass(shared, way, &ask, hints, &bearer).await,
    }
}

type Held = Option<mesh_door::body::Taken>;

async fn taken(
    shared: &Shared,
    way: Way,
    parts: &Parts,
    body: Body,
) -> Result<(Bytes, Held), Error> {
    if body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    let known = matches!(way, Way::Surface(_) | Way::Explain);
    if known && parts.method == Method::POST && !json(&parts.headers) {
        return Err(Error::UnsupportedMediaType);
    }
    let limits = Limits {
        bytes: BODY_LIMIT,
        memory: &shared.memory,
        within: BODY_TIME,
    };
    let taken = take(&parts.headers, body, limits).await?;
    Ok((taken.bytes.clone(), Some(taken)))
}

/// Queries are read by the mesh's own endpoints only; elsewhere one could hold a key.
fn target(way: Way, uri: &Uri) -> Uri {
    let path = uri.path();
    let keep = way == Way::Explain || path.starts_with("/mesh/");
    let target = match uri.query() {
        Some(query) if keep => format!("{path}?{query}").parse(),
        _ => path.parse(),
    };
    target.unwrap_or_else(|_| Uri::from_static("/"))
}

fn no_token() -> Error {
    Error::NoBackend {
        message: String::from("the pod has no token to show to the mesh"),
        tried: Vec::new(),
        retry_after: Duration::from_secs(1),
    }
}

async fn serve(
    shared: &Arc<Shared>,
    surface: Surface,
    ask: &Ask,
    hints: Hints,
    bearer: &HeaderValue,
) -> Result<Response, Error> {
    let snapshot = shared.snapshots.first().await;
    let judged = judged(shared, surface, &ask.body, hints, snapshot.clone()).await?;
    let mut why = NO_SNAPSHOT;
    if let Some(pushed) = &snapshot {
        why = NO_GATEWAY;
        if shared.breaker.admits() {
            let limit = limit(&judged, pushed, shared.patience);
            match gateway(shared, ask, bearer, Some(judged.level), limit).await {
                Ok(response) => return Ok(response),
                // It may be at work still, for the application or for nobody.
                Err(Failure::Timeout) => return Err(late()),
                Err(_) => {}
            }
        }
    }
    let read = judged.read.map_err(|error| Error::InvalidRequest {
        message: error.message,
        param: error.param,
    })?;
    let (request, facts) = *read;
    let fallen = Fallen {
        ask,
        request: &request,
        facts: &facts,
        snapshot: snapshot.as_deref(),
        bearer,
        why,
    };
    floor(shared, &fallen).await
}

/// How long the gateway may take until its answer begins.
fn limit(judged: &Judged, pushed: &Pushed, whole: Duration) -> Duration {
    let attempts = Duration::from_millis(pushed.deadline_ms);
    match &judged.read {
        Ok(read) if read.0.stream => attempts + FLOOR_TIME.min(whole),
        Ok(_) => attempts + whole,
        Err(_) => OTHER_TIME,
    }
}

async fn judged(
    shared: &Arc<Shared>,
    surface: Surface,
    body: &Bytes,
    hints: Hints,
    snapshot: Option<Arc<Pushed>>,
) -> Result<Judged, Error> {
    let started = Instant::now();
    let (annotation, bytes) = (shared.annotation, body.clone());
    let work = move || {
        let raises = Raises {
            snapshot: snapshot.as_deref(),
            annotation,
        };
        judge(surface, &bytes, hints, raises)
    };
    let judged = if body.len() <= LARGE_BODY {
        work()
    } else {
        let working = shared.tracker.spawn_blocking(work).await;
        working.map_err(|_| Error::Internal)?
    };
    let task = judged.read.as_ref().ok().map(|read| read.1.task);
    shared
        .metrics
        .decided(judged.level, task, started.elapsed());
    Ok(judged)
}

/// What asks no model: only a gateway can answer.
async fn pass(
    shared: &Arc<Shared>,
    way: Way,
    ask: &Ask,
    hints: Hints,
    bearer: &HeaderValue,
) -> Result<Response, Error> {
    let level = level_of(shared, way, ask, hints).await?;
    if shared.breaker.admits()
        && let Ok(response) = gateway(shared, ask, bearer, level, OTHER_TIME).await
    {
        return Ok(response);
    }
    if way == Way::Models && ask.method == Method::GET {
        return models(shared).ok_or_else(nobody);
    }
    Err(nobody())
}

fn late() -> Error {
    Error::NoBackend {
        message: String::from(
            "a gateway took the request and did not answer in time; nobody else was asked, since it may be at work on it",
        ),
        tried: Vec::new(),
        retry_after: Duration::from_secs(2),
    }
}

fn nobody() -> Error {
    Error::NoBackend {
        message: NO_GATEWAY.to_owned(),
        tried: Vec::new(),
        retry_after: Duration::from_secs(2),
    }
}

/// Without a body there is nothing to raise.
async fn level_of(
    shared: &Arc<Shared>,
    way: Way,
    ask: &Ask,
    hints: Hints,
) -> Result<Option<PrivacyLevel>, Error> {
    if ask.body.is_empty() {
        return Ok(None);
    }
    let snapshot = shared.snapshots.first().await;
    if way == Way::Explain {
        let surface = surface_asked(ask.path.query(), &ask.body)?;
        let judged = judged(shared, surface, &ask.body, hints, snapshot).await?;
        return Ok(Some(judged.level));
    }
    let raises = Raises {
        snapshot: snapshot.as_deref(),
        annotation: shared.annotation,
    };
    Ok(Some(raises.unread(hints)))
}

/// What can be asked without a gateway.
fn models(shared: &Shared) -> Option<Response> {
    let known = shared.below.current()?;
    let names = ["auto", "local"].into_iter();
    let names = names.chain(known.floor.names.iter().map(String::as_str));
    let list: Vec<_> = names
        .map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "mesh"}))
        .collect();
    let mut response = Json(json!({"object": "list", "data": list})).into_response();
    let word = HeaderValue::from_static(Degradation::FloorOnly.as_str());
    response.headers_mut().insert("mesh-degraded", word);
    Some(response)
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use mesh_protocol::Surface;

    use super::{Way, target};

    #[test]
    fn paths_of_the_mesh_go_through_and_others_and_the_sidecars_own_do_not() {
        assert_eq!(
            Way::of("/v1/completions"),
            Way::Surface(Surface::Completions)
        );
        for through in [
            "/v1/messages",
            "/v1/models/a/b",
            "/mesh/v1/backends",
            "/console/x",
        ] {
            assert_eq!(Way::of(through), Way::Other, "{through}");
        }
        for closed in [
            "/",
            "/metrics",
            "/mesh/v1/snapshot",
            "/v1",
            "/v2/chat",
            "//v1/models",
        ] {
            assert_eq!(Way::of(closed), Way::Nobodys, "{closed}");
        }
    }

    #[test]
    fn a_query_goes_only_where_the_mesh_reads_it() {
        let of = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            target(Way::of(uri.path()), &uri).to_string()
        };
        assert_eq!(of("/v1/models?key=canary"), "/v1/models");
        assert_eq!(
            of("/mesh/v1/explain?surface=chat"),
            "/mesh/v1/explain?surface=chat"
        );
    }
}
