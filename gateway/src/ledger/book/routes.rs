//! What the ledger answers: gateways over TLS, and on loopback who reads.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::Stream;
use http::{StatusCode, header};
use mesh_identity::{Account, account_of, validity};
use mesh_ledger::{Line, NotDurable};
use mesh_runtime::serve::PeerCertificate;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, Take};

use super::keeper::Keeper;
use crate::ledger::wire::{ENTRIES, GATEWAY, Kept, LARGEST, LOG, STATE, Standing, status};

/// Longest time for a request's body.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Longest time for a write: nobody waits longer.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// For gateways of the mesh alone, known by their certificates. Only for a listener that verifies these.
pub(crate) fn written(keeper: Keeper, mesh_namespace: &str) -> Router {
    let gateway = Account::new(mesh_namespace, GATEWAY);
    Router::new()
        .route(ENTRIES, post(append))
        .route(STATE, get(state))
        .layer(from_fn_with_state(gateway, admit))
        .with_state(keeper)
}

/// For who reads. Only for a listener on loopback.
pub(crate) fn read(keeper: Keeper) -> Router {
    Router::new()
        .route(LOG, get(everything))
        .route(STATE, get(state))
        .with_state(keeper)
}

async fn admit(State(gateway): State<Account>, request: Request, next: Next) -> Response {
    let shown = request.extensions().get::<PeerCertificate>();
    let good = shown.is_some_and(|shown| {
        // A connection may live longer than the certificate that it began with.
        let lives = validity(&shown.0).is_ok_and(|(_, until)| SystemTime::now() < until);
        lives && account_of(&shown.0).as_ref() == Some(&gateway)
    });
    if good {
        return next.run(request).await;
    }
    tracing::info!("who is not a gateway was refused");
    (
        StatusCode::FORBIDDEN,
        "only gateways of this mesh, known by certificate, are served here\n",
    )
        .into_response()
}

async fn state(State(keeper): State<Keeper>) -> Json<Standing> {
    Json(keeper.state().into())
}

async fn append(State(keeper): State<Keeper>, request: Request) -> Response {
    let reading = to_bytes(request.into_body(), LARGEST);
    let body = match tokio::time::timeout(BODY_TIME, reading).await {
        Err(_) => {
            return (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response();
        }
        Ok(Err(_)) => {
            return (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n").into_response();
        }
        Ok(Ok(body)) => body,
    };
    let lines = match lines(&body) {
        Ok(lines) => lines,
        Err(message) => return (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response(),
    };
    let written = tokio::time::timeout(WRITE_TIME, keeper.append(lines)).await;
    match written.unwrap_or(Err(NotDurable::Timeout)) {
        Ok(receipt) => Json(Kept::from(receipt)).into_response(),
        Err(error) => (status(&error), format!("{error}\n")).into_response(),
    }
}

fn lines(body: &[u8]) -> Result<Vec<Line>, String> {
    let Some(body) = body.strip_suffix(b"\n") else {
        return Err(String::from("expected lines of JSON, each with its end"));
    };
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let taken = lines.map(|(number, line)| {
        Line::take(line).map_err(|error| format!("line {}: {error}", number + 1))
    });
    taken.collect()
}

/// The log as it is on disk now, to the end of the newest write.
async fn everything(State(keeper): State<Keeper>) -> Response {
    match keeper.files() {
        Ok(files) => {
            let body = Body::from_stream(chunks(files));
            ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
        }
        Err(error) => {
            let message = format!("the log cannot be read: {error}\n");
            (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
        }
    }
}

/// The first bytes of these files, one after the other. A file that has gone ends the answer before its end.
fn chunks(files: Vec<(PathBuf, u64)>) -> impl Stream<Item = std::io::Result<Bytes>> {
    let files = files.into_iter();
    futures::stream::try_unfold(
        (files, None::<Take<File>>),
        async |(mut files, mut open)| {
            loop {
                if let Some(file) = &mut open {
                    let mut chunk = Vec::with_capacity(CHUNK);
                    let mut part = file.take(CHUNK as u64);
                    if part.read_to_end(&mut chunk).await? > 0 {
                        return Ok(Some((Bytes::from(chunk), (files, open))));
                    }
                }
                let Some((path, length)) = files.next() else {
                    return Ok(None);
                };
                open = Some(File::open(path).await?.take(length));
            }
        },
    )
}
