//! The surfaces: decide, attempt, answer.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use mesh_core::Caller;
use mesh_protocol::Surface;
use mesh_protocol::openai::write::{Encoding, Head, embeddings};

use crate::attempt::{self, Served};
use crate::clock::new_id;
use crate::layer::body::Read;
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
    let id = &job.decided.decision.decision;
    if let Some(denial) = job.denial() {
        return denial.respond(Some(id));
    }
    match attempt::run(plane, &job).await {
        Ok(served) => answer(plane, &job, served),
        Err(error) => error.respond(Some(id)),
    }
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

fn answer(plane: &Dataplane, job: &Job, served: Served) -> Response {
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
        Some(_) => whole(job, &head, served),
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

fn whole(job: &Job, head: &Head, mut served: Served) -> Response {
    let Some(mut whole) = served.whole.take() else {
        return Error::Internal.into_response();
    };
    served.flight.succeed();
    served.flight.degraded(&served.report.degraded);
    let mesh = served.report.object();
    let body = if head.surface == Surface::Embeddings {
        let vectors = whole.take_vectors();
        let encoding = Encoding::of(&job.request.body);
        embeddings(head, vectors, whole.usage(), encoding, mesh)
    } else {
        whole.body(head, mesh)
    };
    let mut response = Json(body).into_response();
    served.report.write(response.headers_mut());
    response
}
