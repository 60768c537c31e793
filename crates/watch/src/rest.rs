//! How long a watch rests after it was interrupted: short enough that a kind that was just installed is
//! soon seen, long enough that an API server that starts is not stormed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(6);
/// Without an interruption for this long, the next rest is the first again.
pub(crate) const QUIET: Duration = Duration::from_secs(20);

/// Ever longer, up to a limit, each shortened by chance so that many do not come back at once.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    taken: u32,
}

impl Iterator for Rest {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let full = FIRST.saturating_mul(1 << self.taken.min(8)).min(LONGEST);
        self.taken = self.taken.saturating_add(1);
        // A hasher's keys are random; no more is needed of chance here.
        let chance = RandomState::new().hash_one(self.taken).to_le_bytes()[0];
        Some(full - full.mul_f64(f64::from(chance) / 512.0))
    }
}

impl Backoff for Rest {
    fn reset(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, LONGEST, Rest};

    #[test]
    fn rests_grow_to_a_limit_and_are_never_less_than_half() {
        let rests: Vec<_> = Rest::default().take(12).collect();
        assert!(rests[0] >= FIRST / 2 && rests[0] <= FIRST);
        assert!(rests.iter().all(|rest| *rest <= LONGEST));
        assert!(rests.iter().skip(6).all(|rest| *rest >= LONGEST / 2));
    }
}
