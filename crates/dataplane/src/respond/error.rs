//! Every way in which a request is not answered, and the one match that gives it a status, an
//! OpenAI error type, a reason and advice about retrying. No other file names a status code.
//!
//! Messages hold no text of the request, no key and no address of ours: they name fields, limits,
//! constraints and backends.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use mesh_core::{BackendId, Constraint, DecisionId, Reason, Sensitive};
use mesh_protocol::openai::error::ErrorBody;
use serde_json::Value;

use super::Outcome;
use super::header::decision_header;

/// A backend that was tried, or could not be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The backend.
    pub backend: BackendId,
    /// For a person.
    pub message: String,
}

/// Why a request is not answered as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The body or a header is not understood.
    #[error("{message}")]
    InvalidRequest {
        /// What is wrong.
        message: String,
        /// The field or header.
        param: Option<String>,
    },
    /// Fields that may not go where the request could go.
    #[error("{}", unsupported(.fields))]
    UnsupportedParameter {
        /// Their names.
        fields: Vec<String>,
    },
    /// Larger than every declared window.
    #[error("the request is longer than the largest context window it may use{}", window(*.largest))]
    ContextLengthExceeded {
        /// That window in tokens, if it is known.
        largest: Option<u32>,
    },
    /// Key missing or wrong.
    #[error("a valid API key is needed: send it as `authorization: Bearer <key>`")]
    InvalidApiKey,
    /// `Host` or `Origin` is foreign.
    #[error(
        "this {header} is not served here: add it to the listed hosts, or call by a loopback name"
    )]
    ForeignOrigin {
        /// Which header.
        header: &'static str,
    },
    /// Policy refused every candidate.
    #[error("the policy refuses every backend that could serve this request: {}", words(.constraints))]
    PolicyDenied {
        /// The constraints that did.
        constraints: Vec<Constraint>,
    },
    /// Nobody serves that name.
    #[error("no backend serves a model of that name; usable: {}", names(.usable))]
    ModelNotFound {
        /// Names the caller may use.
        usable: Vec<String>,
    },
    /// No such path.
    #[error("there is nothing at this path")]
    NotFound,
    /// Wrong method.
    #[error("this path takes another method")]
    MethodNotAllowed,
    /// The body took too long.
    #[error("the request body did not arrive within {} seconds", .limit.as_secs())]
    RequestTimeout {
        /// The time it had.
        limit: Duration,
    },
    /// The body is too large.
    #[error("the request body is larger than {limit} bytes")]
    RequestTooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not JSON.
    #[error("the content type must be application/json")]
    UnsupportedMediaType,
    /// More requests at once than allowed.
    #[error("too many requests at once; try again shortly")]
    Overloaded,
    /// The floor's queue is full or too slow.
    #[error("the local model is busy; try again in {} seconds", seconds(*.retry_after))]
    FloorBusy {
        /// When to come back.
        retry_after: Duration,
    },
    /// Part of the contract, not built yet.
    #[error("not supported yet: {what}")]
    NotSupported {
        /// What.
        what: &'static str,
    },
    /// Admitted backends exist, none could answer.
    #[error("{message}{}", list(.tried))]
    NoBackend {
        /// What happened.
        message: String,
        /// Per backend, why not.
        tried: Vec<Tried>,
        /// When to come back.
        retry_after: Duration,
    },
    /// A fault of ours.
    #[error("something went wrong on our side; the request id says where to look")]
    Internal,
    /// The stream was cut after the first token.
    #[error("the answer was interrupted: {cause}")]
    StreamInterrupted {
        /// Why, in words without any text of the answer.
        cause: &'static str,
    },
    /// A fault an upstream found in the request, passed on scrubbed.
    #[error("the backend found a fault in the request")]
    UpstreamRejected {
        /// Its status, one of the 400s.
        status: u16,
        /// Its error object.
        body: Sensitive<Box<ErrorBody>>,
    },
}

/// The shape of an error on the wire.
struct Shape {
    status: StatusCode,
    kind: &'static str,
    reason: Reason,
    /// `x-should-retry`, where the official SDKs would guess wrong.
    should_retry: Option<bool>,
    retry_after: Option<Duration>,
}

const INVALID: &str = "invalid_request_error";
const SOON: Duration = Duration::from_secs(1);

impl Error {
    /// A fault of a field or header.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::InvalidRequest {
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    /// The reason, as in the header `mesh-reason`.
    pub fn reason(&self) -> Reason {
        self.shape().reason
    }

    fn shape(&self) -> Shape {
        let shape = |status, kind, reason| Shape {
            status,
            kind,
            reason,
            should_retry: None,
            retry_after: None,
        };
        let bad = |reason| shape(StatusCode::BAD_REQUEST, INVALID, reason);
        match self {
            Self::InvalidRequest { .. } => bad(Reason::InvalidRequest),
            Self::UnsupportedParameter { .. } => bad(Reason::UnsupportedParameter),
            Self::ContextLengthExceeded { .. } => bad(Reason::ContextLengthExceeded),
            Self::InvalidApiKey => shape(StatusCode::UNAUTHORIZED, INVALID, Reason::InvalidApiKey),
            Self::ForeignOrigin { .. } => Shape {
                should_retry: Some(false),
                ..shape(
                    StatusCode::FORBIDDEN,
                    "permission_error",
                    Reason::ForeignOrigin,
                )
            },
            Self::PolicyDenied { .. } => Shape {
                should_retry: Some(false),
                ..shape(
                    StatusCode::FORBIDDEN,
                    "permission_error",
                    Reason::PolicyDenied,
                )
            },
            Self::ModelNotFound { .. } => {
                shape(StatusCode::NOT_FOUND, INVALID, Reason::ModelNotFound)
            }
            Self::NotFound => shape(StatusCode::NOT_FOUND, INVALID, Reason::NotFound),
            Self::MethodNotAllowed => shape(
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID,
                Reason::MethodNotAllowed,
            ),
            Self::RequestTimeout { .. } => shape(
                StatusCode::REQUEST_TIMEOUT,
                "timeout_error",
                Reason::RequestTimeout,
            ),
            Self::RequestTooLarge { .. } => shape(
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID,
                Reason::RequestTooLarge,
            ),
            Self::UnsupportedMediaType => shape(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                INVALID,
                Reason::UnsupportedMediaType,
            ),
            Self::Overloaded => busy(Reason::Overloaded, SOON),
            Self::FloorBusy { retry_after } => busy(Reason::FloorBusy, *retry_after),
            Self::NotSupported { .. } => Shape {
                // The SDKs would try every status from 500 on again.
                should_retry: Some(false),
                ..shape(
                    StatusCode::NOT_IMPLEMENTED,
                    "server_error",
                    Reason::NotSupported,
                )
            },
            Self::NoBackend { retry_after, .. } => Shape {
                retry_after: Some(*retry_after),
                ..shape(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "service_unavailable_error",
                    Reason::NoBackend,
                )
            },
            Self::Internal => internal(Reason::Internal),
            // In-band only: the status has been sent.
            Self::StreamInterrupted { .. } => internal(Reason::StreamInterrupted),
            Self::UpstreamRejected { status, .. } => {
                let status = StatusCode::from_u16(*status)
                    .ok()
                    .filter(StatusCode::is_client_error)
                    .unwrap_or(StatusCode::BAD_REQUEST);
                shape(status, INVALID, Reason::UpstreamRejected)
            }
        }
    }

    /// The error object for the body.
    pub fn body(&self) -> ErrorBody {
        if let Self::UpstreamRejected { body, .. } = self {
            let mut body = ErrorBody::clone(body.expose());
            let code = &mut body.error.code;
            code.get_or_insert_with(|| Reason::UpstreamRejected.to_string());
            return body;
        }
        let shape = self.shape();
        let mut body = ErrorBody::new(
            self.to_string(),
            shape.kind,
            self.param(),
            shape.reason.as_str(),
        );
        if let Self::PolicyDenied { constraints } = self {
            let names = constraints.iter().map(|one| Value::from(one.as_str()));
            let more = &mut body.error.more;
            more.insert(String::from("constraints"), names.collect());
        }
        body
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::InvalidRequest { param, .. } => param.clone(),
            Self::UnsupportedParameter { fields } => fields.first().cloned(),
            Self::ModelNotFound { .. } => Some(String::from("model")),
            _ => None,
        }
    }

    /// The response, with the decision it belongs to if one was made.
    pub fn respond(&self, decision: Option<&DecisionId>) -> Response {
        let shape = self.shape();
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = shape.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            "mesh-reason",
            HeaderValue::from_static(shape.reason.as_str()),
        );
        if let Some(decision) = decision {
            decision_header(headers, decision);
        }
        if let Some(after) = shape.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        if let Some(retry) = shape.should_retry {
            let word = if retry { "true" } else { "false" };
            headers.insert("x-should-retry", HeaderValue::from_static(word));
        }
        response
            .extensions_mut()
            .insert(Outcome::of(shape.reason.as_str()));
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.respond(None)
    }
}

fn busy(reason: Reason, retry_after: Duration) -> Shape {
    Shape {
        status: StatusCode::TOO_MANY_REQUESTS,
        kind: "rate_limit_exceeded",
        reason,
        should_retry: None,
        retry_after: Some(retry_after),
    }
}

fn internal(reason: Reason) -> Shape {
    Shape {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        kind: "server_error",
        reason,
        should_retry: None,
        retry_after: None,
    }
}

/// Whole seconds, rounded up: coming back a moment too early would be refused again.
fn seconds(duration: Duration) -> u64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    whole.max(1)
}

fn words(constraints: &[Constraint]) -> String {
    let words: Vec<&str> = constraints.iter().map(|one| one.as_str()).collect();
    words.join(", ")
}

fn unsupported(fields: &[String]) -> String {
    format!(
        "these fields are not known and may not be sent on at this privacy level: {}",
        fields.join(", ")
    )
}

fn window(largest: Option<u32>) -> String {
    largest.map_or_else(String::new, |tokens| format!(" ({tokens} tokens)"))
}

fn names(usable: &[String]) -> String {
    if usable.is_empty() {
        return String::from("none");
    }
    usable.join(", ")
}

fn list(tried: &[Tried]) -> String {
    let each: Vec<String> = tried
        .iter()
        .map(|one| format!("{}: {}", one.backend, one.message))
        .collect();
    if each.is_empty() {
        return String::new();
    }
    format!(" ({})", each.join("; "))
}
