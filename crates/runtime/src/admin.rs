//! The admin port: `/metrics` (OpenMetrics text), `/healthz` (the process lives), `/readyz` (it
//! can answer requests; otherwise 503 and what is missing, a line each). Never on the API port.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Shutdown;

/// Answers whether the process is ready: an empty list, or what is missing.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Called before every scrape, for gauges that are read rather than kept.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// The admin port's parts.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<RwLock<Registry>>,
    readiness: Readiness,
    refresh: Refresh,
}

impl Admin {
    /// Around a registry, a readiness check and a refresh before scrapes.
    pub fn new(registry: Registry, readiness: Readiness, refresh: Refresh) -> Self {
        Self {
            registry: Arc::new(RwLock::new(registry)),
            readiness,
            refresh,
        }
    }

    /// The routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self.clone())
    }

    /// Serves in the background until the shutdown begins.
    pub fn start(self, listener: TcpListener, shutdown: &Shutdown) {
        let ended = shutdown.token.clone().cancelled_owned();
        let serving = axum::serve(listener, self.router()).with_graceful_shutdown(ended);
        shutdown.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the admin port ended");
            }
        });
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    (admin.refresh)();
    let mut text = String::with_capacity(16 * 1024);
    let registry = admin
        .registry
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let missing = (admin.readiness)();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{}\n", missing.join("\n")),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use prometheus_client::registry::Registry;
    use tower::ServiceExt;

    use super::Admin;

    async fn status(admin: &Admin, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        admin
            .router()
            .oneshot(request)
            .await
            .expect("an answer")
            .status()
    }

    #[tokio::test]
    async fn a_process_that_misses_something_lives_but_is_not_ready() {
        let missing = Admin::new(
            Registry::default(),
            Arc::new(|| vec![String::from("no floor")]),
            Arc::new(|| ()),
        );
        assert_eq!(status(&missing, "/healthz").await, StatusCode::OK);
        assert_eq!(
            status(&missing, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        let ready = Admin::new(Registry::default(), Arc::new(Vec::new), Arc::new(|| ()));
        assert_eq!(status(&ready, "/readyz").await, StatusCode::OK);
        assert_eq!(status(&ready, "/metrics").await, StatusCode::OK);
    }
}
