//! Reads the body of a POST: JSON by its content type, bounded in size and time. Runs after the
//! caller is known, so that nobody unknown makes us hold bytes.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use mesh_door::Error;
use mesh_door::body::{Limits, json, take};

use crate::Dataplane;

/// The whole body of a request. Never printed.
#[derive(Clone)]
pub(crate) struct Read(pub(crate) Bytes);

pub(crate) async fn read(
    State(plane): State<Dataplane>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    // Another method gets its 405 further in, whatever it carries.
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    if !json(request.headers()) {
        return Err(Error::UnsupportedMediaType);
    }
    let config = plane.config();
    let (mut parts, body) = request.into_parts();
    let limits = Limits {
        bytes: config.body_limit,
        memory: plane.memory(),
        within: config.body_timeout,
    };
    // Held until the answer begins.
    let taken = take(&parts.headers, body, limits).await?;
    parts.extensions.insert(Read(taken.bytes.clone()));
    Ok(next.run(Request::from_parts(parts, Body::empty())).await)
}
