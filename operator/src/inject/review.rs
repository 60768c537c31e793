//! The webhook over HTTP: an AdmissionReview in, one with an answer out. Served by every replica; writes nothing,
//! so a dry run is answered like any other. No log and no answer holds more of a pod than its name and what a
//! refusal is about.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::response::StatusSummary;
use mesh_runtime::Shutdown;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::case::Case;
use super::metrics::Metrics;
use super::mutate::{Injected, Refused, Skipped, Verdict, inject};
use super::template::Template;

/// Longest time for a request's body; the API server waits for five seconds.
const BODY_TIME: Duration = Duration::from_secs(4);
/// Largest body. The API server takes no larger object, and a review of one that is made holds it once.
const LARGEST: usize = 4 << 20;
/// Parts of a pod that are changed.
const CHANGED: [&[&str]; 6] = [
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["spec", "initContainers"],
    &["spec", "containers"],
    &["spec", "volumes"],
    &["spec", "imagePullSecrets"],
];
/// The API server shows no longer warnings.
const LONGEST_WARNING: usize = 250;

/// What answers.
#[derive(Debug)]
pub(crate) struct Injector {
    pub(crate) template: Template,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

/// One path for each webhook of the chart.
pub(crate) fn router(injector: &Arc<Injector>) -> Router {
    Case::all()
        .fold(Router::new(), |router, case| {
            let answer = move |State(injector): State<Arc<Injector>>, request: Request| async move {
                injector.answer(case, request).await
            };
            router.route(&case.path(), post(answer))
        })
        .with_state(Arc::clone(injector))
}

type Asked = AdmissionRequest<DynamicObject>;

impl Injector {
    async fn answer(&self, case: Case, request: Request) -> Response {
        let begun = Instant::now();
        let body = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), LARGEST)).await;
        let asked = match body {
            Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request took too long")),
            Ok(Err(_)) => Err((StatusCode::PAYLOAD_TOO_LARGE, "the request is too large")),
            Ok(Ok(body)) => read(&body),
        };
        let mut answer = match asked {
            Ok(asked) => Json(self.review(case, &asked)).into_response(),
            Err((status, words)) => {
                self.metrics.answered("malformed", "", false);
                tracing::warn!(words, "a review could not be read");
                (status, format!("{words}\n")).into_response()
            }
        };
        if self.shutdown.draining() {
            // The API server keeps connections: the next question goes to another replica.
            let headers = answer.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.took(begun.elapsed());
        answer
    }

    fn review(&self, case: Case, asked: &Asked) -> Value {
        let response = AdmissionResponse::from(asked);
        let pod = asked.object.as_ref().and_then(of_a_pod);
        let verdict = match &pod {
            Some(pod) if asked.operation == Operation::Create => inject(pod, case, &self.template),
            _ => Verdict::Refuse(Refused::Unreadable("only pods that are made are looked at")),
        };
        let pod = pod.unwrap_or_default();
        let response = match verdict {
            Verdict::Inject(injected) => self.injected(response, (asked, &pod), &injected),
            Verdict::Skip(skipped) => self.skipped(response, asked, skipped),
            Verdict::Refuse(refused) => self.refused(response, asked, &refused),
        };
        written(response)
    }

    fn injected(
        &self,
        response: AdmissionResponse,
        (asked, pod): (&Asked, &Value),
        injected: &Injected,
    ) -> AdmissionResponse {
        let patch = patch(pod, &injected.pod);
        let outcome = if patch.0.is_empty() {
            "unchanged"
        } else {
            "injected"
        };
        if !injected.foreign.is_empty() && !asked.dry_run && outcome == "injected" {
            self.metrics.foreign();
        }
        self.told(asked, outcome, "");
        let mut response = if patch.0.is_empty() {
            response
        } else {
            match response.with_patch(patch) {
                Ok(response) => response,
                Err(error) => AdmissionResponse::invalid(error),
            }
        };
        response.uid.clone_from(&asked.uid);
        let warnings: Vec<String> = injected.warnings.iter().map(|text| cut(text)).collect();
        response.warnings = (!warnings.is_empty()).then_some(warnings);
        response
    }

    fn skipped(
        &self,
        mut response: AdmissionResponse,
        asked: &Asked,
        skipped: Skipped,
    ) -> AdmissionResponse {
        match skipped {
            Skipped::OptedOut => self.told(asked, "skipped", "OptedOut"),
            Skipped::Unfit(unfit) => {
                self.told(asked, "skipped", unfit.reason());
                let words = format!("this pod gets no sidecar of the mesh: {}", unfit.words());
                response.warnings = Some(vec![cut(&words)]);
            }
        }
        response
    }

    fn refused(
        &self,
        mut response: AdmissionResponse,
        asked: &Asked,
        refused: &Refused,
    ) -> AdmissionResponse {
        self.told(asked, "refused", refused.reason());
        response = response.deny(refused);
        let unreadable = matches!(refused, Refused::Unreadable(_));
        response.result.code = if unreadable { 400 } else { 403 };
        response.result.reason = String::from(if unreadable {
            "BadRequest"
        } else {
            "Forbidden"
        });
        response.result.status = Some(StatusSummary::Failure);
        response
    }

    fn told(&self, asked: &Asked, outcome: &'static str, reason: &'static str) {
        self.metrics.answered(outcome, reason, asked.dry_run);
        let name = asked.object.as_ref().map(|pod| {
            let named = pod.metadata.name.clone();
            named.or_else(|| pod.metadata.generate_name.clone())
        });
        let (namespace, name) = (asked.namespace.as_deref(), name.flatten());
        tracing::info!(
            namespace,
            name,
            outcome,
            reason,
            dry_run = asked.dry_run,
            "a pod was looked at"
        );
    }
}

/// The request of a review, or what is wrong with it.
fn read(body: &[u8]) -> Result<Asked, (StatusCode, &'static str)> {
    let bad = |words| Err((StatusCode::BAD_REQUEST, words));
    // What serde says of a fault quotes what it read.
    let Ok(review) = serde_json::from_slice::<AdmissionReview<DynamicObject>>(body) else {
        return bad("not an AdmissionReview of admission.k8s.io/v1");
    };
    if review.types.kind != "AdmissionReview" || review.types.api_version != "admission.k8s.io/v1" {
        return bad("not an AdmissionReview of admission.k8s.io/v1");
    }
    match review.try_into() {
        Ok(asked) => Ok(asked),
        Err(_) => bad("an AdmissionReview without a request"),
    }
}

/// As the contract has it: bytes as base64, for which the library writes a list of numbers.
fn written(response: AdmissionResponse) -> Value {
    let patch = response
        .patch
        .as_deref()
        .map(|patch| STANDARD.encode(patch));
    let mut review = json!(response.into_review());
    if let Some(patch) = patch {
        review["response"]["patch"] = json!(patch);
    }
    review
}

/// A pod as JSON.
fn of_a_pod(object: &DynamicObject) -> Option<Value> {
    let pod = object
        .types
        .as_ref()
        .is_some_and(|types| types.kind == "Pod" && types.api_version == "v1");
    pod.then(|| serde_json::to_value(object).ok()).flatten()
}

/// What differs, a whole part at a time: short, and right whatever the API server has made of the parts.
fn patch(before: &Value, after: &Value) -> Patch {
    let at = |value: &'_ Value, path: &[&str]| -> Option<Value> {
        path.iter()
            .try_fold(value.clone(), |value, key| value.get(key).cloned())
    };
    let changed = CHANGED.iter().filter_map(|path| {
        let value = at(after, path)?;
        (at(before, path).as_ref() != Some(&value)).then(|| {
            PatchOperation::Add(AddOperation {
                path: PointerBuf::from_tokens(path.iter().copied()),
                value,
            })
        })
    });
    Patch(changed.collect())
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(LONGEST_WARNING)).rev();
    let end = end.into_iter().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests;
