//! How long a watch rests after it was interrupted: short enough that a kind that was just installed is
//! soon seen, long enough that an API server that starts is not stormed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(5);
/// Without an interruption for this long, the next rest is the first again.
const QUIET: Duration = Duration::from_secs(20);

/// Longest time until a kind that need not be served is looked for again: it comes with a new API server.
const ABSENT: Duration = Duration::from_mins(10);

/// How long a kind that need not be served is not looked for.
pub(crate) fn absent() -> Duration {
    shortened(ABSENT)
}

/// By up to half, by chance.
fn shortened(full: Duration) -> Duration {
    // A hasher's keys are random; no more is needed of chance here.
    let chance = RandomState::new().hash_one(()).to_le_bytes()[0];
    full.mul_f64(1.0 - f64::from(chance) / 512.0)
}

/// Ever longer, up to a limit, each shortened by chance so that many do not come back at once.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    taken: u32,
    last: Option<Instant>,
}

impl Iterator for Rest {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last > QUIET) {
            self.taken = 0;
        }
        self.last = Some(now);
        let full = FIRST.saturating_mul(1 << self.taken.min(8)).min(LONGEST);
        self.taken = self.taken.saturating_add(1);
        Some(shortened(full))
    }
}

impl Backoff for Rest {
    /// A watch says that it begins before it has asked anything, so that alone is no success.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use kube::runtime::utils::Backoff;

    use super::{FIRST, LONGEST, QUIET, Rest};

    #[tokio::test(start_paused = true)]
    async fn rests_grow_to_a_limit_and_begin_anew_after_quiet_times_only() {
        let mut rest = Rest::default();
        let first = rest.next().unwrap();
        assert!(first >= FIRST / 2 && first <= FIRST);
        for _ in 0..8 {
            rest.reset();
            assert!(rest.next().unwrap() <= LONGEST);
        }
        assert!(rest.next().unwrap() >= LONGEST / 2);
        tokio::time::advance(QUIET * 2).await;
        assert!(rest.next().unwrap() <= FIRST);
    }
}
