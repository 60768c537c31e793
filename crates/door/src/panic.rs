//! A panic costs one request, not the process. What it said is not repeated: it may quote a prompt.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use crate::Error;

/// Answers with an error object where `next` panics.
pub async fn rescue(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        tracing::error!("a request handler panicked");
        Error::Internal.into_response()
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn;
    use axum::routing::get;
    use http::Request;
    use tower::ServiceExt;

    use super::rescue;

    async fn broken() -> &'static str {
        panic!("canary words of a prompt")
    }

    #[tokio::test]
    async fn a_panic_is_an_error_object_and_what_it_said_is_not_repeated() {
        let app = Router::new().route("/", get(broken)).layer(from_fn(rescue));
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let response = app.oneshot(request).await.expect("an answer");
        assert_eq!(response.status().as_u16(), 500);
        assert_eq!(response.headers()["mesh-reason"], "internal");
        let body = to_bytes(response.into_body(), 1000).await.expect("a body");
        assert!(!String::from_utf8_lossy(&body).contains("canary"));
    }
}
