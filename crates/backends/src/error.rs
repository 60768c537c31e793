//! Why an attempt failed, and what the table of semantics section 5 makes of it. One exhaustive
//! match per question; no other file of this crate decides about failover or health.
//!
//! Nothing here holds text of a request or an answer where it could be printed, nor a key or an
//! address of ours: the one text that travels, the error object for the caller, is `Sensitive`.

use std::time::Duration;

use mesh_core::Sensitive;
use mesh_protocol::openai::error::ErrorBody;

/// What the plan does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The next attempt of the plan (before the first token).
    NextAttempt,
    /// The error goes to the caller; nobody else is tried.
    ToCaller,
}

/// What the backend's health makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEffect {
    /// Says nothing about the backend.
    None,
    /// Counts as a failure.
    Failure,
    /// Counts as a failure, and the backend rests for the time it named.
    RateLimited(Option<Duration>),
    /// It will not work until somebody changes something; carries the reason (PascalCase).
    Marked(&'static str),
}

/// How far connecting came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectCause {
    /// The name has no address.
    Name,
    /// Nobody listens.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The connection ended, or was no HTTP, before the answer began.
    Closed,
    /// Anything else on the way.
    Other,
}

impl ConnectCause {
    const fn words(self) -> &'static str {
        match self {
            Self::Name => "its name could not be resolved",
            Self::Refused => "the connection was refused",
            Self::TimedOut => "connecting took too long",
            Self::Closed => "the connection ended before an answer",
            Self::Other => "the network failed",
        }
    }
}

/// What was wrong with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCause {
    /// No authority that counts here vouches for the certificate.
    Authority,
    /// The certificate is for another name.
    Name,
    /// The certificate is over, or not valid yet.
    Time,
    /// Anything else.
    Handshake,
}

impl TlsCause {
    const fn words(self) -> &'static str {
        match self {
            Self::Authority => "no authority that is trusted here vouches for its certificate",
            Self::Name => "its certificate is for another name",
            Self::Time => "its certificate has expired, or is not valid yet",
            Self::Handshake => "the certificate or the handshake was not accepted",
        }
    }
}

/// What became of a question to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyCause {
    /// It could not be reached, or hung up.
    Unreachable,
    /// It does not pass this on.
    Refused,
    /// It wants another user and password.
    Unauthorized,
    /// It, or what is behind it, did not answer in time.
    TimedOut,
}

impl ProxyCause {
    const fn words(self) -> &'static str {
        match self {
            Self::Unreachable => "the proxy could not be reached",
            Self::Refused => "the proxy refused to pass it on",
            Self::Unauthorized => "the proxy wants another user and password",
            Self::TimedOut => "nothing came through the proxy in time",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AttemptError {
    /// No connection, or none that lived until the answer began.
    #[error("could not connect: {}", .0.words())]
    Connect(ConnectCause),
    /// The TLS handshake failed: wrong name, unknown authority, expired.
    #[error("could not establish TLS: {}", .0.words())]
    Tls(TlsCause),
    /// The proxy that its author declared did not let it through.
    #[error("could not get through: {}", .0.words())]
    Proxy(ProxyCause),
    /// 5xx, 408, 409, 425 and statuses without a meaning here.
    #[error("the backend answered status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// 429.
    #[error("the backend is rate limited")]
    RateLimited {
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// 401, 402, 403, 404: our key, our bill or our configuration; never the caller's fault.
    #[error("the backend rejected us with status {status}")]
    Rejected {
        /// The status it means.
        status: u16,
    },
    /// The request does not fit this backend: context length or a parameter it does not know.
    #[error("the backend cannot take this request: {code}")]
    Unsupported {
        /// `context_length_exceeded` or `unsupported_parameter`.
        code: &'static str,
    },
    /// Other 400, 413, 422: for the caller.
    #[error("the backend found a fault in the request (status {status})")]
    CallerFault {
        /// The status.
        status: u16,
        /// The scrubbed error object.
        body: Sensitive<Box<ErrorBody>>,
    },
    /// 3xx; never followed.
    #[error("the backend tried to redirect us (status {status})")]
    Redirect {
        /// The status.
        status: u16,
    },
    /// A 2xx with another content type than asked for.
    #[error("the backend answered with an unexpected content type")]
    ContentType,
    /// Not the JSON it should be; also an empty body, or one over our limits.
    #[error("the backend answered with an invalid body: {what}")]
    InvalidBody {
        /// What is wrong, in words of ours.
        what: &'static str,
    },
    /// The backend said within a 200 that it failed.
    #[error("the backend reported an error within its answer")]
    ErrorEvent,
    /// The answer ended before its finish reason.
    #[error("the answer was cut")]
    Cut,
    /// Vectors of another length or number than declared or asked for.
    #[error("the backend answered with vectors of {answered} dimensions instead of {declared}")]
    Dimensions {
        /// Declared.
        declared: u32,
        /// Answered.
        answered: u32,
    },
    /// No first token in time. Made by the data plane.
    #[error("no first token in time")]
    Timeout,
    /// Silence between tokens. Made by the data plane.
    #[error("the answer stalled")]
    Stalled,
    /// The floor's queue is full or too slow.
    #[error("the floor is busy")]
    Busy {
        /// When to come back, from measured throughput.
        retry_after: Duration,
    },
    /// The prompt does not fit the window of a model in this process.
    #[error("the prompt of {tokens} tokens does not fit the window of {window}")]
    ContextLength {
        /// Tokens of the prompt.
        tokens: u32,
        /// Window.
        window: u32,
    },
    /// The key could not be had.
    #[error("could not get the credential: {what}")]
    Credentials {
        /// Name of the variable or file, and what is wrong with it.
        what: String,
    },
    /// The authority that its author declared cannot be used. Nothing was sent.
    #[error("could not get the authority to trust: {what}")]
    Authority {
        /// Its place, and what is wrong with it.
        what: String,
        /// It is not there; else it is no authority.
        missing: bool,
    },
    /// The address is not in the networks that make the backend ours. Nothing was sent.
    #[error("the address of the backend is not in the owned networks")]
    AddressOutsideNetworks,
    /// The address belongs to this machine or to the mesh itself. Nothing was sent.
    #[error("the address of the backend belongs to this machine or to the mesh itself")]
    AddressClosed,
    /// The request is of a higher level than it was admitted for: a fault of ours. Nothing was sent.
    #[error("the request was admitted for a lower level")]
    NotAdmitted,
    /// The backend cannot be spoken to as declared; nothing was sent.
    #[error("the backend is not usable: {0}")]
    Unusable(&'static str),
    /// A model in this process is not there or not ready.
    #[error("the local model is not ready: {0}")]
    NotReady(String),
    /// A model in this process failed. The text is the engine's and holds no prompt.
    #[error("the local model failed: {0}")]
    Local(String),
}

impl AttemptError {
    /// Name of the cause, for logs and conditions.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) => "Connect",
            Self::Tls(_) => "Tls",
            Self::Proxy(ProxyCause::Unauthorized) => PROXY_UNAUTHORIZED,
            Self::Proxy(_) => "Proxy",
            Self::Status { .. } => "Status",
            Self::RateLimited { .. } => "RateLimited",
            Self::Rejected { status } => rejection(*status),
            Self::Unsupported { .. } => "Unsupported",
            Self::CallerFault { .. } => "CallerFault",
            Self::Redirect { .. } => "Redirect",
            Self::ContentType => "ContentType",
            Self::InvalidBody { .. } => "InvalidBody",
            Self::ErrorEvent => "ErrorEvent",
            Self::Cut => "Cut",
            Self::Dimensions { .. } => "Dimensions",
            Self::Timeout => "Timeout",
            Self::Stalled => "Stalled",
            Self::Busy { .. } => "Busy",
            Self::ContextLength { .. } => "ContextLength",
            Self::Credentials { .. } => "Credentials",
            Self::Authority { .. } => "Authority",
            Self::AddressOutsideNetworks => "AddressOutsideNetworks",
            Self::AddressClosed => "AddressClosed",
            Self::NotAdmitted => "NotAdmitted",
            Self::Unusable(_) => "Unusable",
            Self::NotReady(_) => "NotReady",
            Self::Local(_) => "Local",
        }
    }

    /// Label `outcome` of `attempts_total`; one of [`OUTCOMES`](Self::OUTCOMES).
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Proxy(_) => "proxy",
            Self::Status { .. } => "status",
            Self::RateLimited { .. } => "rate_limited",
            Self::Rejected { .. } => "rejected",
            Self::Unsupported { .. } => "unsupported",
            Self::CallerFault { .. } => "caller_fault",
            Self::Redirect { .. } => "redirect",
            Self::ContentType => "content_type",
            Self::InvalidBody { .. } => "invalid_body",
            Self::ErrorEvent => "error_event",
            Self::Cut => "cut",
            Self::Dimensions { .. } => "dimensions",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Busy { .. } => "busy",
            Self::ContextLength { .. } => "context_length",
            Self::Credentials { .. } => "credentials",
            Self::Authority { .. } => "authority",
            Self::AddressOutsideNetworks => "address_outside_networks",
            Self::AddressClosed => "address_closed",
            Self::NotAdmitted => "not_admitted",
            Self::Unusable(_) => "unusable",
            Self::NotReady(_) => "not_ready",
            Self::Local(_) => "local",
        }
    }

    /// Every label that [`outcome`](Self::outcome) gives.
    pub const OUTCOMES: [&'static str; 26] = [
        "connect",
        "tls",
        "proxy",
        "status",
        "rate_limited",
        "rejected",
        "unsupported",
        "caller_fault",
        "redirect",
        "content_type",
        "invalid_body",
        "error_event",
        "cut",
        "dimensions",
        "timeout",
        "stalled",
        "busy",
        "context_length",
        "credentials",
        "authority",
        "address_outside_networks",
        "address_closed",
        "not_admitted",
        "unusable",
        "not_ready",
        "local",
    ];

    /// What the plan does next, as long as no token went to the caller.
    pub const fn action(&self) -> Action {
        match self {
            Self::CallerFault { .. } => Action::ToCaller,
            Self::Connect(_)
            | Self::Tls(_)
            | Self::Proxy(_)
            | Self::Authority { .. }
            | Self::Status { .. }
            | Self::RateLimited { .. }
            | Self::Rejected { .. }
            | Self::Unsupported { .. }
            | Self::Redirect { .. }
            | Self::ContentType
            | Self::InvalidBody { .. }
            | Self::ErrorEvent
            | Self::Cut
            | Self::Dimensions { .. }
            | Self::Timeout
            | Self::Stalled
            | Self::Busy { .. }
            | Self::ContextLength { .. }
            | Self::Credentials { .. }
            | Self::AddressOutsideNetworks
            | Self::AddressClosed
            | Self::NotAdmitted
            | Self::Unusable(_)
            | Self::NotReady(_)
            | Self::Local(_) => Action::NextAttempt,
        }
    }

    /// What the backend's health makes of it.
    pub const fn health(&self) -> HealthEffect {
        match self {
            Self::Connect(_)
            | Self::Tls(_)
            | Self::Proxy(ProxyCause::Unreachable | ProxyCause::Refused | ProxyCause::TimedOut)
            | Self::Status { .. }
            | Self::Redirect { .. }
            | Self::ContentType
            | Self::InvalidBody { .. }
            | Self::ErrorEvent
            | Self::Cut
            | Self::Dimensions { .. }
            | Self::Timeout
            | Self::Stalled
            | Self::Local(_) => HealthEffect::Failure,
            Self::RateLimited { retry_after } => HealthEffect::RateLimited(*retry_after),
            Self::Rejected { status } => HealthEffect::Marked(rejection(*status)),
            Self::Credentials { .. } => HealthEffect::Marked("CredentialsMissing"),
            Self::Proxy(ProxyCause::Unauthorized) => HealthEffect::Marked(PROXY_UNAUTHORIZED),
            Self::Authority { missing: true, .. } => HealthEffect::Marked("AuthorityMissing"),
            Self::Authority { missing: false, .. } => HealthEffect::Marked("AuthorityInvalid"),
            Self::AddressOutsideNetworks => HealthEffect::Marked("AddressOutsideNetworks"),
            Self::AddressClosed => HealthEffect::Marked("AddressClosed"),
            Self::Unusable(_) => HealthEffect::Marked("Unusable"),
            Self::Unsupported { .. }
            | Self::CallerFault { .. }
            | Self::NotAdmitted
            | Self::Busy { .. }
            | Self::ContextLength { .. }
            | Self::NotReady(_) => HealthEffect::None,
        }
    }
}

const PROXY_UNAUTHORIZED: &str = "ProxyUnauthorized";

/// Name of a rejection by its status.
const fn rejection(status: u16) -> &'static str {
    match status {
        401 => "Unauthorized",
        402 => "PaymentRequired",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "Rejected",
    }
}
