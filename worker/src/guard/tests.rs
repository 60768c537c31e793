//! The guard before a model server that is not ours.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt;
use mesh_runtime::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{BODY_LIMIT, Guarded, router, watch};
use crate::transport::tests::{Mesh, gateway, request, serving};

/// A model server on loopback while `work` runs.
async fn engine<T>(router: Router, work: impl AsyncFnOnce(Guarded) -> T) -> T {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let guarded = Guarded::new(listener.local_addr().expect("an address")).expect("a client");
    tokio::select! {
        served = axum::serve(listener, router) => unreachable!("{served:?}"),
        done = work(guarded) => done,
    }
}

fn ask(path: &str, body: Body) -> Request<Body> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-secret", "canary")
        .header(header::COOKIE, "canary");
    request.body(body).expect("a request")
}

async fn text(response: Response) -> String {
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn an_answer_streams_through_piece_by_piece() {
    let (sender, receiver) = mpsc::channel::<&'static str>(1);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let stream = move || {
        let receiver = Arc::clone(&receiver);
        async move {
            let pieces = futures::stream::unfold(receiver, |receiver| async move {
                let piece = receiver.lock().await.recv().await?;
                Some((Ok::<_, Infallible>(Bytes::from(piece)), receiver))
            });
            (
                [
                    (header::CONTENT_TYPE, "text/event-stream"),
                    (header::SET_COOKIE, "no"),
                ],
                Body::from_stream(pieces),
            )
        }
    };
    let server = Router::new().route("/v1/chat/completions", post(stream));
    engine(server, async |guarded| {
        let asked = ask("/v1/chat/completions", Body::from("{}"));
        let response = router(guarded).oneshot(asked).await.expect("an answer");
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/event-stream"
        );
        assert!(!response.headers().contains_key(header::SET_COOKIE));
        let mut body = response.into_body();
        for piece in ["one", "two"] {
            sender.send(piece).await.expect("taken");
            // The next is not sent before this one has come.
            let frame = body.frame().await.expect("a piece").expect("whole");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        drop(sender);
        assert!(body.frame().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn only_the_api_goes_through_and_few_headers_with_it() {
    let echo = |headers: HeaderMap, body: Bytes| async move {
        let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
        names.sort_unstable();
        format!("{} {}", names.join(","), body.len())
    };
    let server = Router::new()
        .route("/v1/completions", post(echo))
        .fallback(|| async { "administration" });
    engine(server, async |guarded| {
        let guard = router(guarded);
        let asked = ask("/v1/completions?debug=1", Body::from("{}"));
        let answered = text(guard.clone().oneshot(asked).await.expect("an answer")).await;
        assert_eq!(answered, "content-length,content-type,host 2");
        for hidden in [
            "/metrics",
            "/v1/load_lora_adapter",
            "/sleep",
            "/",
            "/v1/chat/completions/../x",
        ] {
            let response = guard.clone().oneshot(ask(hidden, Body::empty())).await;
            let response = response.expect("an answer");
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{hidden}");
            assert!(!text(response).await.contains("administration"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let server = Router::new().route("/v1/completions", post(|_: Bytes| async { "taken" }));
    let server = server.layer(axum::extract::DefaultBodyLimit::disable());
    engine(server, async |guarded| {
        let guard = router(guarded);
        let large = vec![b'x'; BODY_LIMIT + 1];
        let asked = ask("/v1/completions", Body::from(large.clone()));
        let response = guard.clone().oneshot(asked).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let pieces = futures::stream::iter(
            large
                .chunks(1 << 20)
                .map(Bytes::copy_from_slice)
                .map(Ok::<_, Infallible>)
                .collect::<Vec<_>>(),
        );
        let response = guard
            .oneshot(ask("/v1/completions", Body::from_stream(pieces)))
            .await;
        assert_eq!(
            response.expect("an answer").status(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
    })
    .await;
}

/// Waits until it is seen.
async fn becomes(well: &AtomicBool, state: bool) {
    let seen = async {
        while well.load(Ordering::Relaxed) != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
    seen.expect("seen");
}

#[tokio::test]
async fn a_model_server_that_is_gone_is_said_and_health_follows_it() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let guarded = Guarded::new(address).expect("a client");
    let asked = ask("/v1/completions", Body::from("{}"));
    let response = router(guarded.clone())
        .oneshot(asked)
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("engine_unavailable"));

    let up = Arc::new(AtomicBool::new(false));
    let health = {
        let up = Arc::clone(&up);
        move || {
            let status = if up.load(Ordering::Relaxed) {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            async move { status.into_response() }
        }
    };
    engine(
        Router::new().route("/health", get(health)),
        async |guarded| {
            let (well, shutdown) = (Arc::new(AtomicBool::new(true)), Shutdown::new());
            watch(&guarded, "/health", &well, &shutdown).expect("watched");
            for state in [false, true, false] {
                up.store(state, Ordering::Relaxed);
                becomes(&well, state).await;
            }
            assert!(shutdown.finish(Duration::from_secs(5)).await);
        },
    )
    .await;
}

#[tokio::test]
async fn behind_tls_only_gateways_and_tokens_reach_it() {
    let mesh = Mesh::new();
    let server = Router::new().route("/v1/models", get(|| async { "models" }));
    engine(server, async |guarded| {
        serving(mesh.front(), router(guarded), async |address| {
            let asked = mesh
                .ask(address, Some(&gateway()), request("/v1/models", None))
                .await;
            assert_eq!(asked, Ok((StatusCode::OK, String::from("models"))));
            let refused = mesh.ask(address, None, request("/v1/models", None)).await;
            assert_eq!(refused.expect("an answer").0, StatusCode::UNAUTHORIZED);
        })
        .await;
    })
    .await;
}
