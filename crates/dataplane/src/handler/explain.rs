//! `POST /mesh/v1/explain`: decides like serving does, sends nothing, and says why.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use mesh_core::Caller;
use mesh_protocol::Surface;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Dataplane;
use crate::layer::body::Read;
use crate::respond::{Error, decision_header};

pub(crate) async fn explain(
    State(plane): State<Dataplane>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    Extension(Read(body)): Extension<Read>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wanted = query.as_deref().and_then(|query| {
        let mut pairs = query.split('&');
        pairs.find_map(|pair| pair.strip_prefix("surface="))
    });
    let surface = match wanted {
        Some("chat") => Surface::Chat,
        Some("completions") => Surface::Completions,
        Some("embeddings") => Surface::Embeddings,
        Some(_) => {
            let message = "`surface` must be chat, completions or embeddings";
            return Err(Error::invalid("surface", message));
        }
        None => surface_of(&body),
    };
    let job = plane.decide(surface, body, &headers, caller).await?;
    let decision = &job.decided.decision;
    let mut response = Json(decision).into_response();
    decision_header(response.headers_mut(), &decision.decision);
    Ok(response)
}

/// What a body without an endpoint looks like, for `explain` and `mesh why`. Anything unclear counts
/// as chat: reading it will say what is missing.
pub fn surface_of(body: &[u8]) -> Surface {
    #[derive(Deserialize)]
    struct Shape {
        messages: Option<IgnoredAny>,
        prompt: Option<IgnoredAny>,
        input: Option<IgnoredAny>,
    }
    match serde_json::from_slice(body) {
        Ok(Shape {
            messages: None,
            prompt: Some(_),
            ..
        }) => Surface::Completions,
        Ok(Shape {
            messages: None,
            prompt: None,
            input: Some(_),
        }) => Surface::Embeddings,
        _ => Surface::Chat,
    }
}
