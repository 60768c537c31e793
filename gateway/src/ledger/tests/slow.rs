//! Ledgers that do not answer in time, or not as they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use jiff::Timestamp;
use mesh_ledger::{Ledger, NotDurable};
use mesh_runtime::Shutdown;

use super::{Mesh, PATIENCE, append, lost, until};
use crate::ledger::wire::LEDGER;

/// What is told who appends.
type Expected = fn(&NotDurable) -> bool;

/// Says that it is good, and answers entries with `status`, or never.
fn scripted(status: Option<StatusCode>) -> Router {
    let standing = serde_json::json!({"durable": true, "since": Timestamp::UNIX_EPOCH});
    let entries = move || async move {
        match status {
            Some(status) => (status, "no room\n"),
            None => std::future::pending().await,
        }
    };
    Router::new()
        .route("/v1/state", get(move || async move { Json(standing) }))
        .route("/v1/entries", post(entries))
}

#[tokio::test]
async fn one_that_does_not_answer_or_cannot_write_is_given_up_in_time() {
    let cases: [(_, Expected); 4] = [
        (None, |error| *error == NotDurable::Timeout),
        (Some(StatusCode::SERVICE_UNAVAILABLE), |error| {
            *error == NotDurable::Disk(String::from("no room"))
        }),
        (Some(StatusCode::TOO_MANY_REQUESTS), |error| {
            *error == NotDurable::Busy
        }),
        (Some(StatusCode::IM_A_TEAPOT), |error| {
            matches!(error, NotDurable::Unreachable(_))
        }),
    ];
    for (status, expected) in cases {
        let (mesh, shutdown) = (Mesh::new(), Shutdown::new());
        let address = mesh
            .serve(scripted(status), (LEDGER, None), &shutdown)
            .await;
        let limit = if status.is_none() {
            Duration::from_millis(50)
        } else {
            PATIENCE
        };
        let remote = mesh.remote(address, limit, &shutdown);
        until("it is there", || remote.state().durable).await;
        let refused = append(&remote, vec![lost(1)]).await.expect_err("refused");
        assert!(expected(&refused), "{status:?}: {refused:?}");
        remote.end();
        assert!(shutdown.finish(PATIENCE).await);
    }
}

#[tokio::test]
async fn what_was_not_answered_in_time_is_not_sent_again() {
    let (mesh, shutdown) = (Mesh::new(), Shutdown::new());
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    let hanging = post(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<StatusCode>()
    });
    let standing = serde_json::json!({"durable": true, "since": Timestamp::UNIX_EPOCH});
    let router = Router::new()
        .route("/v1/state", get(move || async move { Json(standing) }))
        .route("/v1/entries", hanging);
    let address = mesh.serve(router, (LEDGER, None), &shutdown).await;
    let remote = mesh.remote(address, Duration::from_millis(50), &shutdown);
    for round in 1..4 {
        until("it is there", || remote.state().durable).await;
        assert_eq!(
            append(&remote, vec![lost(1)]).await,
            Err(NotDurable::Timeout)
        );
        assert!(!remote.state().durable, "nobody waits for it now");
        // One that came too late was given up on both sides.
        assert!(heard.load(Ordering::SeqCst) <= round);
    }
    remote.end();
    assert!(shutdown.finish(PATIENCE).await);
}
