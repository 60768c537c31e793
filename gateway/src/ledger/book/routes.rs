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
use mesh_ledger::{Ledger, Line, Log, NotDurable};
use mesh_runtime::serve::PeerCertificate;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, Take};

use crate::ledger::wire::{ENTRIES, GATEWAY, Kept, LARGEST, LOG, STATE, Standing, status};

/// Longest time for a request's body.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Longest time for a write: nobody waits longer.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// For gateways of the mesh alone, known by their certificates. Only for a listener that verifies these.
pub(crate) fn written(log: Log, mesh_namespace: &str) -> Router {
    let gateway = Account::new(mesh_namespace, GATEWAY);
    Router::new()
        .route(ENTRIES, post(append))
        .route(STATE, get(state))
        .layer(from_fn_with_state(gateway, admit))
        .with_state(log)
}

/// For who reads. Only for a listener on loopback.
pub(crate) fn read(log: Log, folder: PathBuf) -> Router {
    let whole = log.clone();
    Router::new()
        .route(
            LOG,
            get(move || async move { everything(&whole, folder.clone()) }),
        )
        .route(STATE, get(state))
        .with_state(log)
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

async fn state(State(log): State<Log>) -> Json<Standing> {
    Json(log.state().into())
}

async fn append(State(log): State<Log>, request: Request) -> Response {
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
    let written = tokio::time::timeout(WRITE_TIME, log.append_lines(lines)).await;
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
fn everything(log: &Log, folder: PathBuf) -> Response {
    let segments = log.segments();
    let files = segments
        .into_iter()
        .map(move |segment| (folder.join(segment.file()), segment.bytes));
    let body = Body::from_stream(chunks(files.collect()));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
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
