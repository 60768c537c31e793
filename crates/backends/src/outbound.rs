//! What goes into an attempt and what comes out of it, the same for upstreams and for models in
//! this process.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use mesh_core::policy::Overflow;
use mesh_core::{LatencyClass, PrivacyLevel};
use mesh_protocol::{Event, ModelRequest};

use crate::AttemptError;

/// What is sent, besides the `Admitted`.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// The request as the application wrote it.
    pub request: Arc<ModelRequest>,
    /// Partition of caches together with `level`: never leaves this process.
    pub tenant: String,
    /// Level of the request.
    pub level: PrivacyLevel,
    /// How long the caller can wait.
    pub latency: LatencyClass,
    /// No other backend is admitted: first in the floor's queue.
    pub sole: bool,
    /// The policy keeps half of the floor for requests without an alternative.
    pub protect: bool,
    /// What the floor does with a prompt that is too large for it.
    pub overflow: Overflow,
    /// Leave out `tools`, `tool_choice` and what belongs to them: the caller can do without, the
    /// backend has none.
    pub drop_tools: bool,
}

/// The answer, event by event. Dropping it cancels the work upstream or in the engine at once.
/// After an `Err` nothing follows.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, AttemptError>> + Send>>;

/// An attempt that was accepted: the upstream's headers are there (2xx, right content type), or
/// the engine has taken the request.
pub struct Started {
    /// The answer.
    pub events: EventStream,
    /// The floor left old turns out.
    pub context_trimmed: bool,
    /// Known at once only in this process; upstreams say it, if at all, with their first chunk.
    pub system_fingerprint: Option<String>,
    /// Response headers of the upstream that may be passed on.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started")
            .field("context_trimmed", &self.context_trimmed)
            .field("system_fingerprint", &self.system_fingerprint)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// A model served in this process. The binary that owns an engine implements it.
pub trait LocalModel: Send + Sync {
    /// Whether it can answer now; the error says why not, in words for a person.
    fn ready(&self) -> Result<(), String>;

    /// Family of the model, as its file states it; `None` while nothing is loaded.
    fn family(&self) -> Option<String> {
        None
    }

    /// Takes the request. Resolves once the engine accepted it, which may be after a wait in its
    /// queue.
    fn start(&self, outbound: Outbound) -> BoxFuture<'_, Result<Started, AttemptError>>;
}
