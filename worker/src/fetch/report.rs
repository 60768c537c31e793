//! What `fetch` says: progress while it works, then the result, on a port for the operator and in a file
//! of limited length for the kubelet.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use mesh_models::{Failed, Progress, Resolved, Tried};
use mesh_runtime::{Shutdown, listen, serve};
use serde::Serialize;

/// Kubernetes keeps no longer last words of a container (`pkg/kubelet`: 4096 bytes).
const LONGEST_RESULT: usize = 4096;
/// The reason of a disk that has no room.
const FULL: &str = "DiskFull";
/// Lengths to which messages are cut, one after the other, until the result fits.
const CUTS: [usize; 3] = [512, 160, 48];

/// Everything there is to say, shared with whoever serves it.
#[derive(Debug, Clone, Default)]
pub(super) struct Report(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    progress: Now,
    outcome: Outcome,
    done: bool,
}

/// How far the current file is.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Now {
    artifact: String,
    source: String,
    bytes_done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_total: Option<u64>,
    bytes_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<u64>,
}

/// The result.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    artifacts: Vec<Proven>,
    failures: Vec<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Entries left out of a result that would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
}

/// A file that is here and has the wanted digest.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proven {
    path: String,
    sha256: String,
    size_bytes: u64,
    source: String,
    verified_at: String,
}

/// A source that was tried in vain.
#[derive(Debug, Clone, Serialize)]
struct Failure {
    artifact: String,
    source: String,
    reason: &'static str,
    message: String,
    quarantined: bool,
}

impl Report {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self, progress: &Progress) {
        let mut said = self.lock();
        let before = quarter(&said.progress);
        let another = said.progress.artifact != progress.artifact;
        said.progress = Now {
            artifact: progress.artifact.clone(),
            source: progress.source.clone(),
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            bytes_per_second: progress.bytes_per_second,
            eta_seconds: progress.eta.map(|left| left.as_secs()),
        };
        // A line for every quarter, not for every block.
        if another || quarter(&said.progress) != before {
            tracing::info!(
                artifact = progress.artifact,
                source = progress.source,
                bytes = progress.bytes_done,
                total = progress.bytes_total,
                "fetching"
            );
        }
    }

    pub(super) fn failed(&self, failed: &Failed<'_>) {
        let (reason, message) = (failed.error.status_reason(), failed.error.to_string());
        tracing::warn!(
            artifact = failed.artifact,
            source = failed.source,
            reason,
            message,
            "a source did not serve"
        );
        self.lock().outcome.failures.push(Failure {
            artifact: failed.artifact.to_owned(),
            source: failed.source.to_owned(),
            reason,
            message,
            quarantined: failed.error.quarantined(),
        });
    }

    pub(super) fn proven(&self, file: &Resolved) {
        tracing::info!(
            artifact = file.artifact,
            source = file.source,
            bytes = file.size,
            "verified"
        );
        self.lock().outcome.artifacts.push(Proven {
            path: file.artifact.clone(),
            sha256: file.sha256.to_string(),
            size_bytes: file.size,
            source: file.source.clone(),
            verified_at: file.verified_at.to_string(),
        });
    }

    /// The disk had no room for what was tried; where nobody knows, for the current file. It is why the fetch ended, so
    /// it is told last, and once.
    pub(super) fn disk_full(&self, tried: Option<&Tried>, message: &str) {
        let mut said = self.lock();
        let now = &said.progress;
        let (artifact, source) = match tried {
            Some(tried) => (tried.artifact.clone(), tried.source.clone()),
            None => (now.artifact.clone(), now.source.clone()),
        };
        let failure = Failure {
            artifact,
            source,
            reason: FULL,
            message: message.to_owned(),
            quarantined: false,
        };
        let same = |one: &Failure| {
            (&one.artifact, &one.source, one.reason) == (&failure.artifact, &failure.source, FULL)
        };
        said.outcome.failures.retain(|one| !same(one));
        said.outcome.failures.push(failure);
    }

    /// Nothing more will be said.
    pub(super) fn finish(&self, error: Option<String>) {
        let mut said = self.lock();
        said.outcome.error = error;
        said.done = true;
    }

    /// Writes the result, shortened as far as it must be.
    pub(super) fn write(&self, path: &Path) {
        let outcome = self.lock().outcome.clone();
        if let Err(error) = fs::write(path, short(outcome)) {
            tracing::warn!(%error, "the result could not be written");
        }
    }

    /// Serves progress and result until the end.
    pub(super) async fn serve(
        &self,
        address: SocketAddr,
        shutdown: &Shutdown,
    ) -> anyhow::Result<SocketAddr> {
        let listener = listen::bind(address, "--progress-listen").await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/progress", get(progress))
            .route("/result", get(result))
            .route("/healthz", get(|| async { "ok\n" }))
            .with_state(self.clone());
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            serve::serve(listener, router, serve::Limits::default(), &ending).await;
        });
        Ok(address)
    }
}

async fn progress(State(report): State<Report>) -> Response {
    Json(report.lock().progress.clone()).into_response()
}

async fn result(State(report): State<Report>) -> Response {
    let said = report.lock();
    if said.done {
        return Json(said.outcome.clone()).into_response();
    }
    (StatusCode::NOT_FOUND, "there is no result yet\n").into_response()
}

fn quarter(now: &Now) -> u64 {
    now.bytes_total
        .map_or(0, |total| now.bytes_done.saturating_mul(4) / total.max(1))
}

/// As JSON of at most [`LONGEST_RESULT`] bytes: first messages are cut, then failures and artifacts are
/// left out, and how many is said. The last failure, which says why it ended, is the last to go.
fn short(mut outcome: Outcome) -> String {
    let text = |outcome: &Outcome| serde_json::to_string(outcome).unwrap_or_default();
    let fits = |text: &String| text.len() <= LONGEST_RESULT;
    let whole = text(&outcome);
    if fits(&whole) {
        return whole;
    }
    for length in CUTS {
        let messages = outcome
            .failures
            .iter_mut()
            .map(|failure| &mut failure.message);
        for message in messages.chain(outcome.error.as_mut()) {
            cut(message, length);
        }
        let shorter = text(&outcome);
        if fits(&shorter) {
            return shorter;
        }
    }
    let all = outcome.artifacts.len() + outcome.failures.len();
    loop {
        if !outcome.failures.is_empty() {
            outcome.failures.remove(0);
        } else if outcome.artifacts.pop().is_none() {
            return text(&outcome);
        }
        outcome.more = Some(all - outcome.artifacts.len() - outcome.failures.len());
        let shorter = text(&outcome);
        if fits(&shorter) {
            return shorter;
        }
    }
}

fn cut(text: &mut String, length: usize) {
    if text.len() > length {
        text.truncate(text.floor_char_boundary(length));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_result_is_cut_to_what_kubernetes_keeps_and_says_what_is_missing() {
        let failure = Failure {
            artifact: "m.bin".into(),
            source: "http https://e.example/".into(),
            reason: "HttpError",
            message: "é".repeat(3000),
            quarantined: false,
        };
        let few = short(Outcome {
            failures: vec![failure.clone(); 3],
            error: Some("x".repeat(9000)),
            ..Outcome::default()
        });
        assert!(
            few.len() <= LONGEST_RESULT && !few.contains("more"),
            "{few}"
        );
        let mut failures = vec![failure; 300];
        failures[299].reason = FULL;
        let many = short(Outcome {
            failures,
            ..Outcome::default()
        });
        assert!(many.len() <= LONGEST_RESULT);
        let many: serde_json::Value = serde_json::from_str(&many).expect("JSON");
        let left = many["failures"].as_array().map_or(0, Vec::len);
        assert_eq!(many["more"], 300 - left);
        assert_eq!(many["failures"][left - 1]["reason"], FULL, "why it ended");
        assert!(left > 5);
    }
}
