//! A panic costs one request, not the process. What it said is not repeated: it may quote a prompt.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use crate::respond::Error;

pub(crate) async fn rescue(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        tracing::error!("a request handler panicked");
        Error::Internal.into_response()
    })
}
