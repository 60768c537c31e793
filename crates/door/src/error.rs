//! Every way in which a request is not answered, and the one match that gives it a status, an
//! OpenAI error type, a reason and advice about retrying. No other file names a status code.
//!
//! Messages hold no text of the request, no key and no address of ours: they name fields, limits,
//! constraints and backends.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mesh_core::{BackendId, Constraint, DecisionId, Reason, Sensitive};
use mesh_protocol::openai::error::ErrorBody;
use serde_json::Value;

use crate::Outcome;

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

/// Names the decision that an answer belongs to.
pub fn decision_header(headers: &mut HeaderMap, decision: &DecisionId) {
    if let Ok(value) = HeaderValue::from_str(&decision.0) {
        headers.insert("mesh-decision", value);
    }
}

const INVALID: &str = "invalid_request_error";
const FORBIDDEN: &str = "permission_error";
const BUSY: &str = "rate_limit_exceeded";
const SERVER: &str = "server_error";
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
        self.shape().2
    }

    /// The one table: status, OpenAI's type, reason.
    fn shape(&self) -> (u16, &'static str, Reason) {
        match self {
            Self::InvalidRequest { .. } => (400, INVALID, Reason::InvalidRequest),
            Self::UnsupportedParameter { .. } => (400, INVALID, Reason::UnsupportedParameter),
            Self::ContextLengthExceeded { .. } => (400, INVALID, Reason::ContextLengthExceeded),
            Self::InvalidApiKey => (401, INVALID, Reason::InvalidApiKey),
            Self::ForeignOrigin { .. } => (403, FORBIDDEN, Reason::ForeignOrigin),
            Self::PolicyDenied { .. } => (403, FORBIDDEN, Reason::PolicyDenied),
            Self::ModelNotFound { .. } => (404, INVALID, Reason::ModelNotFound),
            Self::NotFound => (404, INVALID, Reason::NotFound),
            Self::MethodNotAllowed => (405, INVALID, Reason::MethodNotAllowed),
            Self::RequestTimeout { .. } => (408, "timeout_error", Reason::RequestTimeout),
            Self::RequestTooLarge { .. } => (413, INVALID, Reason::RequestTooLarge),
            Self::UnsupportedMediaType => (415, INVALID, Reason::UnsupportedMediaType),
            Self::Overloaded => (429, BUSY, Reason::Overloaded),
            Self::FloorBusy { .. } => (429, BUSY, Reason::FloorBusy),
            Self::Internal => (500, SERVER, Reason::Internal),
            // In-band only: the status has been sent.
            Self::StreamInterrupted { .. } => (500, SERVER, Reason::StreamInterrupted),
            Self::NotSupported { .. } => (501, SERVER, Reason::NotSupported),
            Self::NoBackend { .. } => (503, "service_unavailable_error", Reason::NoBackend),
            Self::UpstreamRejected { status, .. } => {
                let status = if (400..500).contains(status) {
                    *status
                } else {
                    400
                };
                (status, INVALID, Reason::UpstreamRejected)
            }
        }
    }

    /// `x-should-retry`, where the official SDKs would guess wrong: they try every status from 500
    /// on again, and a policy does not change its mind.
    const fn should_retry(&self) -> Option<&'static str> {
        match self {
            Self::ForeignOrigin { .. } | Self::PolicyDenied { .. } | Self::NotSupported { .. } => {
                Some("false")
            }
            _ => None,
        }
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded => Some(SOON),
            Self::FloorBusy { retry_after } | Self::NoBackend { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
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
        let (_, kind, reason) = self.shape();
        let mut body = ErrorBody::new(self.to_string(), kind, self.param(), reason.as_str());
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
        let (status, _, reason) = self.shape();
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let word = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, word("application/json"));
        headers.insert("mesh-reason", word(reason.as_str()));
        if let Some(decision) = decision {
            decision_header(headers, decision);
        }
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        if let Some(retry) = self.should_retry() {
            headers.insert("x-should-retry", word(retry));
        }
        response
            .extensions_mut()
            .insert(Outcome::of(reason.as_str()));
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.respond(None)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use mesh_core::{Constraint, Sensitive};
    use mesh_protocol::openai::error::ErrorBody;

    use super::Error;

    fn all() -> Vec<Error> {
        let half = Duration::from_millis(500);
        let body = ErrorBody::new("bad", "invalid_request_error", None, "invalid_image");
        vec![
            Error::invalid("n", "wrong"),
            Error::UnsupportedParameter {
                fields: vec![String::from("zeta")],
            },
            Error::ContextLengthExceeded { largest: Some(10) },
            Error::InvalidApiKey,
            Error::ForeignOrigin { header: "Host" },
            Error::PolicyDenied {
                constraints: vec![Constraint::MinimumClass],
            },
            Error::ModelNotFound { usable: Vec::new() },
            Error::NotFound,
            Error::MethodNotAllowed,
            Error::RequestTimeout { limit: half },
            Error::RequestTooLarge { limit: 10 },
            Error::UnsupportedMediaType,
            Error::Overloaded,
            Error::FloorBusy { retry_after: half },
            Error::NotSupported { what: "x" },
            Error::NoBackend {
                message: String::from("none"),
                tried: Vec::new(),
                retry_after: Duration::ZERO,
            },
            Error::Internal,
            Error::StreamInterrupted { cause: "x" },
            Error::UpstreamRejected {
                status: 422,
                body: Sensitive::new(Box::new(body)),
            },
        ]
    }

    #[test]
    fn every_429_and_503_says_when_to_come_back_and_every_403_not_to() {
        for error in all() {
            let response = error.respond(None);
            let (status, headers) = (response.status().as_u16(), response.headers());
            let after = headers.get("retry-after").map(HeaderValue::as_bytes);
            let waits = matches!(status, 429 | 503);
            assert_eq!(after, waits.then_some(b"1".as_slice()), "{error}");
            let never = headers
                .get("x-should-retry")
                .is_some_and(|value| value == "false");
            assert_eq!(never, matches!(status, 403 | 501), "{error}");
            let reason = headers.get("mesh-reason").expect("a reason");
            assert_eq!(reason, error.reason().as_str());
        }
    }

    #[test]
    fn the_code_is_our_reason_unless_an_upstream_said_a_better_one() {
        for error in all() {
            let code = error.body().error.code.expect("a code");
            if let Error::UpstreamRejected { .. } = error {
                assert_eq!(code, "invalid_image");
            } else {
                assert_eq!(code, error.reason().as_str());
            }
        }
    }
}
