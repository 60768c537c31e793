//! Nothing is written by who does not surely lead: every write passes here last. A lease that could not be
//! renewed ends by the clock, whatever the process was busy with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Open until a time; closed at first. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Open until then.
    pub(super) fn extend(&self, until: Instant) {
        *self.lock() = Some(until);
    }

    /// Closed from now on.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// True if writes may pass now.
    pub(crate) fn open(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::Fence;

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_by_the_clock_and_is_closed_before_anybody_leads() {
        let fence = Fence::default();
        assert!(!fence.open());
        fence.extend(Instant::now() + Duration::from_secs(10));
        assert!(fence.open());
        advance(Duration::from_secs(10)).await;
        assert!(!fence.open());
        fence.extend(Instant::now() + Duration::from_secs(10));
        fence.close();
        assert!(!fence.open());
    }
}
