//! Whether the ledger is worth asking, by what came of asking it. It says so itself too, but one whose disk hangs says
//! nothing; then one request a second finds out, and all others go on at once.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::AGAIN;

/// What came of asking.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// While the last attempt has failed: when somebody may try.
    failing: Mutex<Option<Instant>>,
}

impl Trust {
    fn with<T>(&self, work: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        work(&mut self.failing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True if the last attempt has not failed.
    pub(super) fn well(&self) -> bool {
        self.with(|failing| failing.is_none())
    }

    /// True if somebody may try.
    pub(super) fn worth(&self, now: Instant) -> bool {
        self.with(|failing| failing.is_none_or(|at| now >= at))
    }

    /// Somebody tries: others wait for what comes of it.
    pub(super) fn tries(&self, now: Instant) {
        self.with(|failing| {
            if let Some(at) = failing {
                *at = now + AGAIN;
            }
        });
    }

    /// True if that is news.
    pub(super) fn good(&self) -> bool {
        self.with(|failing| failing.take().is_some())
    }

    /// True if that is news.
    pub(super) fn bad(&self, now: Instant) -> bool {
        self.with(|failing| failing.replace(now + AGAIN).is_none())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{AGAIN, Trust};

    #[test]
    fn after_a_failure_one_in_a_second_tries_until_it_is_good_again() {
        let (trust, now) = (Trust::default(), Instant::now());
        assert!(trust.well() && trust.worth(now) && !trust.good());
        assert!(trust.bad(now), "news");
        assert!(!trust.bad(now), "no news");
        assert!(!trust.well() && !trust.worth(now));
        assert!(trust.worth(now + AGAIN));
        trust.tries(now + AGAIN);
        assert!(!trust.worth(now + AGAIN), "somebody does");
        assert!(trust.worth(now + AGAIN * 2));
        assert!(trust.good() && trust.well() && trust.worth(now));
        trust.tries(now);
        assert!(trust.well());
    }
}
