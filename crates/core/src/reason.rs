//! Names of constraints and of refusals to the caller: one spelling for errors, headers, metrics.

use std::fmt;

use serde::Serialize;

/// A hard rule that can refuse a backend (label `constraint` of `refusals_total`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// The sovereignty class is below the minimum for the level.
    MinimumClass,
    /// The backend's own `maxPrivacy` is below the level.
    MaxPrivacy,
    /// A seat, data center or law is denied or not allowed, or the claims that would say so are
    /// absent or expired.
    Jurisdiction,
    /// The model's license is denied or unknown where an allow list stands.
    License,
    /// Retention or training beyond what policy admits, or claims absent or expired.
    Retention,
    /// A feature that the request cannot do without is not enforced by the backend.
    Feature,
    /// The request does not fit the context window.
    ContextWindow,
    /// The backend does not serve the caller's namespace.
    Availability,
    /// `local` was asked for and the backend is not on owned hardware.
    LocalOnly,
    /// Top-level fields we do not know may not go to this backend at this level.
    UnknownFields,
    /// The embedding declaration differs from the one asked for.
    Embedding,
    /// The policy admits nothing for this kind of need (hosted tools, remote addresses).
    HostedTool,
    /// The backend is another mesh, and requests are not sent to those yet.
    PeerTraffic,
    /// The record of the decision must be durable, it cannot be written now, and this is not the floor.
    Audit,
}

impl Constraint {
    /// All constraints.
    pub const ALL: [Self; 14] = [
        Self::MinimumClass,
        Self::MaxPrivacy,
        Self::Jurisdiction,
        Self::License,
        Self::Retention,
        Self::Feature,
        Self::ContextWindow,
        Self::Availability,
        Self::LocalOnly,
        Self::UnknownFields,
        Self::Embedding,
        Self::HostedTool,
        Self::PeerTraffic,
        Self::Audit,
    ];

    /// The snake_case word of errors, headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MinimumClass => "minimum_class",
            Self::MaxPrivacy => "max_privacy",
            Self::Jurisdiction => "jurisdiction",
            Self::License => "license",
            Self::Retention => "retention",
            Self::Feature => "feature",
            Self::ContextWindow => "context_window",
            Self::Availability => "availability",
            Self::LocalOnly => "local_only",
            Self::UnknownFields => "unknown_fields",
            Self::Embedding => "embedding",
            Self::HostedTool => "hosted_tool",
            Self::PeerTraffic => "peer_traffic",
            Self::Audit => "audit",
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request was not answered as asked: header `mesh-reason`, and `code` of the error object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// 400: the body or a header is not understood.
    InvalidRequest,
    /// 400: a field that may not be sent on.
    UnsupportedParameter,
    /// 400: larger than every declared window.
    ContextLengthExceeded,
    /// 401: key missing or wrong.
    InvalidApiKey,
    /// 403: Host or Origin is foreign.
    ForeignOrigin,
    /// 403: the policy refused every candidate.
    PolicyDenied,
    /// 404: no backend serves that name.
    ModelNotFound,
    /// 404: no such path.
    NotFound,
    /// 405: wrong method.
    MethodNotAllowed,
    /// 408: the body took too long.
    RequestTimeout,
    /// 413: the body is too large.
    RequestTooLarge,
    /// 415: not `application/json`.
    UnsupportedMediaType,
    /// 429: more requests at once than allowed.
    Overloaded,
    /// 429: the floor's queue is full or too slow.
    FloorBusy,
    /// 501: part of the contract, not built yet.
    NotSupported,
    /// 503: admitted backends exist, none could answer.
    NoBackend,
    /// 500: a fault of ours.
    Internal,
    /// In-band: the stream was cut after the first token.
    StreamInterrupted,
    /// Other 4xx of an upstream, passed on scrubbed.
    UpstreamRejected,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::UnsupportedParameter,
        Self::ContextLengthExceeded,
        Self::InvalidApiKey,
        Self::ForeignOrigin,
        Self::PolicyDenied,
        Self::ModelNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::RequestTooLarge,
        Self::UnsupportedMediaType,
        Self::Overloaded,
        Self::FloorBusy,
        Self::NotSupported,
        Self::NoBackend,
        Self::Internal,
        Self::StreamInterrupted,
        Self::UpstreamRejected,
    ];

    /// The reason of this word.
    pub fn of(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str().as_bytes() == word)
    }

    /// The snake_case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::InvalidApiKey => "invalid_api_key",
            Self::ForeignOrigin => "foreign_origin",
            Self::PolicyDenied => "policy_denied",
            Self::ModelNotFound => "model_not_found",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::RequestTooLarge => "request_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Overloaded => "overloaded",
            Self::FloorBusy => "floor_busy",
            Self::NotSupported => "not_supported",
            Self::NoBackend => "no_backend",
            Self::Internal => "internal",
            Self::StreamInterrupted => "stream_interrupted",
            Self::UpstreamRejected => "upstream_rejected",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
