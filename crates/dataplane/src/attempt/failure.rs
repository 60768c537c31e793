//! What the failed attempts of one request add up to.

use std::time::Duration;

use mesh_backends::AttemptError;
use mesh_core::{BackendId, Constraint, Reason};
use mesh_protocol::openai::error::ErrorObject;
use mesh_routing::Attempt;

use crate::health::AttemptKind;
use crate::metrics::Phase;
use crate::respond::{Error, Tried};

/// When to come back if nobody says.
const SOON: Duration = Duration::from_secs(1);

/// Why one attempt of the plan did not answer.
#[derive(Debug)]
pub(super) enum Cause {
    /// It was sent, or sending failed.
    Attempt {
        /// Why.
        error: AttemptError,
        /// Tokens had come.
        begun: bool,
    },
    /// The newest snapshot refuses it.
    Refused(Constraint),
    /// It is at a declared limit.
    Limited,
    /// Its breaker is open.
    Resting,
    /// Too many retries went there.
    RetryBudget,
    /// No time is left.
    Deadline,
}

impl Cause {
    /// Label `outcome` of `attempts_total`.
    pub(super) const fn outcome(&self) -> &'static str {
        match self {
            Self::Attempt { error, .. } => error.outcome(),
            Self::Refused(_) => "refused",
            Self::Limited => "limited",
            Self::Resting => "resting",
            Self::RetryBudget => "retry_budget",
            Self::Deadline => "deadline",
        }
    }

    /// For the caller, without any text of request or answer.
    fn message(&self) -> String {
        match self {
            Self::Attempt { error, .. } => error.to_string(),
            Self::Refused(constraint) => format!("refused by policy ({constraint})"),
            Self::Limited => String::from("at its declared limit"),
            Self::Resting => String::from("rests after failures"),
            Self::RetryBudget => String::from("took too many retries"),
            Self::Deadline => String::from("no time was left"),
        }
    }
}

/// All failures so far, in order.
#[derive(Debug, Default)]
pub(super) struct Failures {
    list: Vec<(BackendId, Cause)>,
}

impl Failures {
    pub(super) fn push(&mut self, attempt: &Attempt, cause: Cause) {
        let backend = attempt.admitted().backend().id.clone();
        self.list.push((backend, cause));
    }

    /// The next attempt is a failover only if something was really sent before.
    pub(super) fn kind(&self) -> AttemptKind {
        if self.phase().is_some() {
            AttemptKind::Failover
        } else {
            AttemptKind::First
        }
    }

    /// True if somebody was not asked because no record could be written.
    pub(super) fn unrecorded(&self) -> bool {
        let audit = |cause: &Cause| matches!(cause, Cause::Refused(Constraint::Audit));
        self.list.iter().any(|(_, cause)| audit(cause))
    }

    /// When the last attempt that was sent failed.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.list.iter().rev().find_map(|(_, cause)| match cause {
            Cause::Attempt { begun: true, .. } => Some(Phase::MidAnswer),
            Cause::Attempt { begun: false, .. } => Some(Phase::BeforeFirstToken),
            _ => None,
        })
    }

    /// What the caller is told. `resting`: somebody else was admitted and was not asked, so that a
    /// prompt too long for those who were is not the caller's fault.
    pub(super) fn into_error(self, resting: bool) -> Error {
        if let Some(retry_after) = self.find(|error| match error {
            AttemptError::Busy { retry_after } => Some(*retry_after),
            _ => None,
        }) {
            return Error::FloorBusy { retry_after };
        }
        let mut constraints = Vec::new();
        for (_, cause) in &self.list {
            if let Cause::Refused(constraint) = cause
                && !constraints.contains(constraint)
            {
                constraints.push(*constraint);
            }
        }
        let refused = |cause: &Cause| matches!(cause, Cause::Refused(_));
        if !self.list.is_empty() && self.all(refused) {
            return Error::PolicyDenied { constraints };
        }
        if !self.list.is_empty() && !resting && self.all(too_long) {
            let largest = self.find(|error| match error {
                AttemptError::ContextLength { window, .. } => Some(*window),
                _ => None,
            });
            return Error::ContextLengthExceeded { largest };
        }
        let retry_after = self.find(|error| match error {
            AttemptError::RateLimited { retry_after } => *retry_after,
            _ => None,
        });
        let tried = self
            .list
            .iter()
            .map(|(backend, cause)| Tried {
                backend: backend.clone(),
                message: cause.message(),
            })
            .collect();
        Error::NoBackend {
            message: String::from("no backend could answer"),
            tried,
            retry_after: retry_after.unwrap_or(SOON),
        }
    }

    fn all(&self, is: impl Fn(&Cause) -> bool) -> bool {
        self.list.iter().all(|(_, cause)| is(cause))
    }

    fn find<T>(&self, pick: impl Fn(&AttemptError) -> Option<T>) -> Option<T> {
        self.list.iter().rev().find_map(|(_, cause)| match cause {
            Cause::Attempt { error, .. } => pick(error),
            _ => None,
        })
    }
}

fn ours(error: &ErrorObject) -> bool {
    error.code.as_deref() == Some(Reason::InvalidRequest.as_str())
}

/// A fault that a backend found in the request, as the caller gets it.
pub(super) fn to_caller(error: AttemptError) -> Error {
    match error {
        // A model of this process says it in our words; an upstream in its own.
        AttemptError::CallerFault { body, .. } if ours(&body.expose().error) => {
            let error = body.into_exposed().error;
            Error::InvalidRequest {
                message: error.message,
                param: error.param,
            }
        }
        AttemptError::CallerFault { status, body } => Error::UpstreamRejected { status, body },
        _ => Error::Internal,
    }
}

fn too_long(cause: &Cause) -> bool {
    let Cause::Attempt { error, .. } = cause else {
        return false;
    };
    match error {
        AttemptError::ContextLength { .. } => true,
        AttemptError::Unsupported { code } => *code == "context_length_exceeded",
        _ => false,
    }
}
