//! Gives every request an identity of its own (`x-request-id`). What a caller sends under that name
//! is not taken over: it would be a text of the caller in our logs.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;

use crate::Dataplane;
use crate::clock::new_id;

/// The identity of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

pub(crate) async fn assign(
    State(plane): State<Dataplane>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = new_id(plane.now());
    let value = HeaderValue::from_str(&id);
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.run(request).await;
    if let Ok(value) = value {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
