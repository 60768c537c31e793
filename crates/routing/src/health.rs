//! Whether a backend can be asked now: a circuit breaker per backend and model, the moving average
//! of its time to the first token, and a budget for retries. Pure state machines; the instant is an
//! argument everywhere ([`Tick`]).
//!
//! ```text
//!            5 failures in a row, or half of 10 calls in 30 s; 429; 401/402/403/404
//!   closed ───────────────────────────────────────────────────────────────► open
//!     ▲                                                                       │ until its time
//!     │ the trial call ends well                                              ▼
//!     └────────────────────────────────────────────────────────────────── half-open
//!                                     (one trial call at a time; a failed one opens for twice as long)
//! ```
//!
//! Only a real trial call closes a breaker: an active probe of `/health` cannot, since a server may
//! answer that well and every request badly. Cuts and stalls in mid-stream count as failures. A
//! trial call that never reports gives its place back after [`TRIAL_LEASE`], so nothing stays open
//! for ever.

mod book;
mod breaker;
mod budget;
mod view;

use std::time::Duration;

pub use book::{HealthAt, HealthBook, HealthStatus};
pub use breaker::{Health, Permit};
pub use budget::RetryBudget;
pub use view::{AssumedHealth, HealthView};

/// Failures in a row that open a breaker.
pub const CONSECUTIVE_FAILURES: u32 = 5;
/// Length of the sliding window of the failure rate.
pub const WINDOW: Duration = Duration::from_secs(30);
/// Calls within the window below which the rate says nothing.
pub const WINDOW_CALLS: u32 = 10;
/// First time a breaker stays open after failures; doubles with every failed trial call.
pub const FIRST_OPEN: Duration = Duration::from_secs(1);
/// Longest time a breaker stays open after failures.
pub const LONGEST_OPEN: Duration = Duration::from_mins(1);
/// Rest after a 429 that names no time; doubles likewise.
pub const FIRST_RATE_LIMITED: Duration = Duration::from_secs(2);
/// Longest Retry-After that is believed.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// First time a backend is left alone after 401, 402, 403 or 404: somebody has to mend something.
pub const FIRST_MARKED: Duration = Duration::from_secs(30);
/// Longest such time.
pub const LONGEST_MARKED: Duration = Duration::from_mins(10);
/// A trial call that has not reported by then no longer keeps others out.
pub const TRIAL_LEASE: Duration = Duration::from_secs(30);

/// An instant as the time since some fixed start (of the process, say). Monotonic if the caller's
/// clock is; an earlier instant than the last one counts as no time passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub Duration);

impl Tick {
    /// This instant plus `time`.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Time from `earlier` to this instant; zero if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What became of a call, as far as health is concerned (`semantics` section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first token arrived this long after the call was sent.
    FirstToken(Duration),
    /// The answer ended as it should.
    Success,
    /// Connect, TLS, 5xx, 408, 409, 425, invalid JSON, wrong content type, redirect, timeout.
    Failure,
    /// The stream was cut or stalled after the first token.
    Interrupted,
    /// 429, with Retry-After if there was one.
    RateLimited(Option<Duration>),
    /// 401, 402, 403 or 404, or 407 of a proxy: the status.
    Marked(u16),
    /// Ended without telling anything about the backend: the caller left, or the request was at
    /// fault.
    Neutral,
}

/// Why a breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenCause {
    /// Too many failures.
    Failures,
    /// It asked for a rest (429).
    RateLimited,
    /// It refused us with this status; somebody has to mend something.
    Marked(u16),
}

impl OpenCause {
    /// For conditions, log fields and metric labels.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Failures => "Failures",
            Self::RateLimited => "RateLimited",
            Self::Marked(401) => "Unauthorized",
            Self::Marked(402) => "PaymentRequired",
            Self::Marked(403) => "Forbidden",
            Self::Marked(407) => "ProxyUnauthorized",
            Self::Marked(_) => "NotFound",
        }
    }
}

/// Whether a call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Yes,
    /// One trial call.
    Probe,
    /// Not before `retry_in` has passed.
    No {
        /// Time to wait.
        retry_in: Duration,
        /// Why.
        cause: OpenCause,
    },
}

impl Admission {
    /// True unless the answer is no.
    pub const fn available(self) -> bool {
        !matches!(self, Self::No { .. })
    }
}

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Nothing that others see.
    Same,
    /// The breaker opened (or stays open for longer).
    Opened {
        /// For how long.
        rest: Duration,
        /// Why.
        cause: OpenCause,
    },
    /// The breaker closed.
    Closed,
}
