//! What deciding reads of health, and the health that is assumed where nothing is running.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::BackendId;

use super::{Admission, OpenCause};

/// Health as deciding sees it, at one instant.
pub trait HealthView {
    /// Whether the model of a backend can be asked now.
    fn admission(&self, backend: &BackendId, model: &str) -> Admission;

    /// Moving average of its time to the first token.
    fn time_to_first_token(&self, backend: &BackendId, model: &str) -> Option<Duration>;

    /// True if the record of a decision can be written durably now.
    fn durable(&self) -> bool {
        true
    }

    /// True if this is assumed rather than known.
    fn assumed(&self) -> bool {
        false
    }
}

/// Everything is well, except what is named: for decisions from files and for a policy's tests.
#[derive(Debug, Clone, Default)]
pub struct AssumedHealth {
    down: BTreeSet<String>,
}

impl AssumedHealth {
    /// Everything is well.
    pub fn well() -> Self {
        Self::default()
    }

    /// Everything but these backends, by bare name or `namespace/name`.
    pub fn without<S: Into<String>>(down: impl IntoIterator<Item = S>) -> Self {
        Self {
            down: down.into_iter().map(Into::into).collect(),
        }
    }
}

impl HealthView for AssumedHealth {
    fn admission(&self, backend: &BackendId, _model: &str) -> Admission {
        if self.down.is_empty()
            || !(self.down.contains(&backend.name) || self.down.contains(&backend.to_string()))
        {
            return Admission::Yes;
        }
        Admission::No {
            retry_in: Duration::ZERO,
            cause: OpenCause::RateLimited,
        }
    }

    fn time_to_first_token(&self, _backend: &BackendId, _model: &str) -> Option<Duration> {
        None
    }

    fn assumed(&self) -> bool {
        true
    }
}
