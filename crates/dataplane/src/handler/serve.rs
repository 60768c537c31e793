//! The surfaces: decide, attempt, answer.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use mesh_core::Caller;
use mesh_protocol::Surface;
use mesh_protocol::openai::write::{Encoding, Head, Whole, embeddings};
use serde_json::Value;

use crate::attempt::{self, Served};
use crate::clock::new_id;
use crate::layer::body::Read;
use crate::record::Trail;
use crate::respond::{Answer, Error, sse};
use crate::{Dataplane, Job};

pub(crate) async fn chat(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
    Extension(body): Extension<Read>,
    headers: HeaderMap,
) -> Response {
    serve(&plane, Surface::Chat, body, &headers, caller).await
}

pub(crate) async fn completions(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
    Extension(body): Extension<Read>,
    headers: HeaderMap,
) -> Response {
    serve(&plane, Surface::Completions, body, &headers, caller).await
}

pub(crate) async fn embeddings_of(
    State(plane): State<Dataplane>,
    Extension(caller): Extension<Caller>,
    Extension(body): Extension<Read>,
    headers: HeaderMap,
) -> Response {
    serve(&plane, Surface::Embeddings, body, &headers, caller).await
}

async fn serve(
    plane: &Dataplane,
    surface: Surface,
    Read(body): Read,
    headers: &HeaderMap,
    caller: Caller,
) -> Response {
    let job = match plane.decide(surface, body, headers, caller).await {
        Ok(job) => job,
        Err(error) => return error.into_response(),
    };
    count(plane, &job);
    let failed = match job.denial() {
        Some(denial) => {
            let snapshot = plane.snapshots().current();
            plane.recorder().unsent(&job, &Trail::default(), &snapshot);
            denial
        }
        None => match attempt::run(plane, &job).await {
            Ok(served) => return answer(plane, &job, served).await,
            Err(error) => error,
        },
    };
    let decision = &job.decided.decision;
    plane.metrics().unserved(decision.privacy, failed.reason());
    failed.respond(Some(&decision.decision))
}

fn count(plane: &Dataplane, job: &Job) {
    let decision = &job.decided.decision;
    let span = tracing::Span::current();
    span.record("mesh.decision", decision.decision.0.as_str());
    span.record("mesh.privacy_level", decision.privacy.as_str());
    plane.metrics().decided(decision.privacy, decision.task);
    for candidate in &decision.candidates {
        if let Some(refusal) = &candidate.refusal {
            plane.metrics().refused(refusal.constraint);
        }
    }
}

async fn answer(plane: &Dataplane, job: &Job, served: Served) -> Response {
    let head = head(plane, job, &served);
    let headers = served.opened.headers.clone();
    let mut response = match served.whole {
        None => sse(Answer {
            head,
            report: served.report,
            first: served.opened.first,
            events: served.opened.events,
            flight: served.flight,
            between: served.limits.between,
            include_usage: job.request.include_usage,
        }),
        Some(_) => whole(plane, job, head, served).await,
    };
    for (name, value) in headers {
        // Ours count: an upstream cannot overwrite what the mesh says.
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

fn head(plane: &Dataplane, job: &Job, served: &Served) -> Head {
    let now = plane.now();
    let surface = job.request.surface;
    let prefix = match surface {
        Surface::Chat => "chatcmpl",
        Surface::Completions => "cmpl",
        Surface::Embeddings => "embd",
    };
    // Upstreams rarely say one; who serves is what a fingerprint is about.
    let fingerprint = served.opened.system_fingerprint.clone();
    let fingerprint = fingerprint.unwrap_or_else(|| format!("mesh_{}", served.report.backend));
    Head {
        surface,
        id: format!("{prefix}-{}", new_id(now)),
        created: now.as_second(),
        model: served.report.model.clone(),
        system_fingerprint: Some(fingerprint),
    }
}

async fn whole(plane: &Dataplane, job: &Job, head: Head, mut served: Served) -> Response {
    let Some(whole) = served.whole.take() else {
        return Error::Internal.into_response();
    };
    served.flight.succeed();
    served.flight.degraded(&served.report.degraded);
    let mesh = served.report.object();
    let encoding = Encoding::of(&job.request.body);
    let write = move || bytes(whole, &head, mesh, encoding);
    // Many vectors take longer to write than a thread of the connections may be held.
    let body = if job.request.surface == Surface::Embeddings {
        plane.blocking(write).await
    } else {
        Ok(write())
    };
    let Ok(body) = body else {
        return Error::Internal.into_response();
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    served.report.write(headers);
    response
}

fn bytes(mut whole: Whole, head: &Head, mesh: Value, encoding: Encoding) -> Vec<u8> {
    let body = if head.surface == Surface::Embeddings {
        let vectors = whole.take_vectors();
        embeddings(head, vectors, whole.usage(), encoding, mesh)
    } else {
        whole.body(head, mesh)
    };
    // A tree of strings, numbers and lists can always be written.
    serde_json::to_vec(&body).unwrap_or_default()
}
