//! Remembers for a moment that the gateway did not answer, so that not every request waits to find out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// First rest; it doubles.
const FIRST: Duration = Duration::from_millis(250);
/// Longest rest.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    length: Duration,
    /// One request finds out whether it is back.
    trial: bool,
    /// It takes connections and says nothing: whoever asked would wait for long.
    mute: bool,
}

/// Whether the gateway is asked.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    rest: Mutex<Rest>,
}

impl Breaker {
    /// True if the gateway may be asked now. While it rests, one request after each rest tries.
    pub(crate) fn admits(&self) -> bool {
        let mut rest = self.rest();
        if rest.mute {
            return false;
        }
        let Some(until) = rest.until else {
            return true;
        };
        let now = Instant::now();
        if now < until {
            return false;
        }
        rest.until = Some(now + rest.length);
        rest.trial = true;
        true
    }

    /// It answered. True if it had not before.
    pub(crate) fn answered(&self) -> bool {
        let mut rest = self.rest();
        rest.length = Duration::ZERO;
        rest.trial = false;
        let mute = std::mem::take(&mut rest.mute);
        rest.until.take().is_some() || mute
    }

    /// It hangs: until it answers the stream of snapshots, which is opened again and again, nobody else asks it.
    /// True if it had answered before.
    pub(crate) fn silent(&self) -> bool {
        let mut rest = self.rest();
        !std::mem::replace(&mut rest.mute, true) && rest.until.is_none()
    }

    /// It did not. True if it had before.
    pub(crate) fn failed(&self) -> bool {
        let mut rest = self.rest();
        let first = rest.until.is_none();
        if !first && !rest.trial {
            // One of many that were on their way when it went: that is one failure.
            return false;
        }
        rest.trial = false;
        rest.length = (rest.length * 2).clamp(FIRST, LONGEST);
        rest.until = Some(Instant::now() + rest.length);
        first
    }

    /// True while it rests.
    pub(crate) fn resting(&self) -> bool {
        let rest = self.rest();
        rest.until.is_some() || rest.mute
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Breaker;

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_after_each_rest_and_an_answer_ends_it() {
        let breaker = Breaker::default();
        assert!(breaker.admits() && breaker.admits());
        assert!(breaker.failed());
        assert!(!breaker.admits() && breaker.resting());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(breaker.admits(), "one tries");
        assert!(!breaker.admits(), "and the others do not wait for it");
        for _ in 0..10 {
            assert!(!breaker.failed());
        }
        tokio::time::advance(Duration::from_millis(499)).await;
        assert!(
            !breaker.admits(),
            "it rests twice as long, whoever else failed"
        );
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(breaker.admits());
        assert!(breaker.answered());
        assert!(breaker.admits() && breaker.admits() && !breaker.resting());
        assert!(!breaker.answered());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_not_asked_until_it_answers() {
        let breaker = Breaker::default();
        assert!(breaker.silent() && !breaker.silent());
        tokio::time::advance(Duration::from_mins(5)).await;
        assert!(!breaker.admits() && breaker.resting());
        assert!(breaker.answered());
        assert!(breaker.admits() && !breaker.resting());
    }
}
