//! One span and one observation per request. The span has the request's identity and its surface,
//! never its path, its headers or its text.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use mesh_protocol::Surface;
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

use super::request_id::RequestId;
use crate::respond::{Finished, Kept, Outcome};
use crate::{Dataplane, Metrics};

/// A caller that left before the answer was sent.
const CANCELED: &str = "canceled";
const OK: &str = "ok";

/// Observes one request when it ends, however it ends.
struct Watch {
    metrics: Metrics,
    surface: Option<Surface>,
    started: Instant,
    outcome: Option<Outcome>,
    noted: bool,
    span: tracing::Span,
}

impl Watch {
    fn note(&mut self, otherwise: &'static str) {
        if std::mem::replace(&mut self.noted, true) {
            return;
        }
        let word = self.outcome.as_ref().and_then(Outcome::get);
        let outcome = word.unwrap_or(otherwise);
        let duration = self.started.elapsed();
        self.metrics.answered(self.surface, outcome, duration);
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(parent: &self.span, outcome, duration_ms = milliseconds, "request ended");
    }
}

impl Finished for Watch {
    fn finished(&mut self) {
        self.note(OK);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.note(CANCELED);
    }
}

pub(crate) async fn observe(
    State(plane): State<Dataplane>,
    request: Request,
    next: Next,
) -> Response {
    let surface = surface_of(request.uri().path());
    let id = request.extensions().get::<RequestId>();
    let span = tracing::info_span!(
        "request",
        request_id = id.map(|id| id.0.as_str()),
        surface = surface.map(Surface::as_str),
        mesh.decision = Empty,
        mesh.privacy_level = Empty,
        gen_ai.operation.name = surface.map(operation),
    );
    let mut watch = Watch {
        metrics: plane.metrics().clone(),
        surface,
        started: Instant::now(),
        outcome: None,
        noted: false,
        span: span.clone(),
    };
    let response = next.run(request).instrument(span).await;
    watch.outcome = response.extensions().get::<Outcome>().cloned();
    response.map(|body| Kept::wrap(body, watch))
}

fn surface_of(path: &str) -> Option<Surface> {
    match path {
        "/v1/chat/completions" => Some(Surface::Chat),
        "/v1/completions" => Some(Surface::Completions),
        "/v1/embeddings" => Some(Surface::Embeddings),
        _ => None,
    }
}

/// `gen_ai.operation.name` of the GenAI conventions.
const fn operation(surface: Surface) -> &'static str {
    match surface {
        Surface::Chat => "chat",
        Surface::Completions => "text_completion",
        Surface::Embeddings => "embeddings",
    }
}
