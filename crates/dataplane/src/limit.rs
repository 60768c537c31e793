//! Declared limits of backends: requests at once and requests in a minute. What is over a limit is
//! not sent; the plan goes on with the next attempt.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::{Backend, BackendId};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_mins(1);

/// Counts what runs and what was sent, per backend. Backends without limits are not counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    counts: Arc<Mutex<HashMap<BackendId, Count>>>,
}

#[derive(Debug, Default)]
struct Count {
    running: u32,
    /// Starts of the last minute, oldest first; kept only where a limit per minute is declared, so
    /// its length is bounded by that limit.
    starts: VecDeque<Instant>,
}

/// A place among the requests that run at once; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    held: Option<(Limits, BackendId)>,
}

impl Limits {
    /// Takes a place; `None` if the backend is at a limit.
    pub(crate) fn take(&self, backend: &Backend) -> Option<Slot> {
        let limits = backend.limits;
        if limits.concurrent_requests.is_none() && limits.requests_per_minute.is_none() {
            return Some(Slot { held: None });
        }
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(backend.id.clone()).or_default();
        if !count.free(limits, now) {
            return None;
        }
        if limits.requests_per_minute.is_some() {
            count.starts.push_back(now);
        }
        count.running += 1;
        Some(Slot {
            held: Some((self.clone(), backend.id.clone())),
        })
    }

    /// True if a place could be taken.
    pub(crate) fn free(&self, backend: &Backend) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get_mut(&backend.id);
        count.is_none_or(|count| count.free(backend.limits, Instant::now()))
    }
}

impl Count {
    /// True if one more may start.
    fn free(&mut self, limits: mesh_core::Limits, now: Instant) -> bool {
        let over = limits
            .concurrent_requests
            .is_some_and(|most| self.running >= most);
        let Some(most) = limits.requests_per_minute else {
            return !over;
        };
        while self
            .starts
            .front()
            .is_some_and(|start| now.duration_since(*start) >= MINUTE)
        {
            self.starts.pop_front();
        }
        !over && u32::try_from(self.starts.len()).unwrap_or(u32::MAX) < most
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some((limits, backend)) = self.held.take() else {
            return;
        };
        let mut counts = limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&backend) {
            count.running = count.running.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::{Backend, BackendId, NamespaceSelector, Place, PrivacyLevel};

    use super::Limits;

    fn backend(at_once: Option<u32>, per_minute: Option<u32>) -> Backend {
        Backend {
            id: BackendId::home("default", "b"),
            place: Place::InProcess {
                model_cache: String::from("m"),
                kv_bytes: None,
                context_tokens: None,
            },
            models: Vec::new(),
            max_privacy: PrivacyLevel::Restricted,
            limits: mesh_core::Limits {
                concurrent_requests: at_once,
                requests_per_minute: per_minute,
            },
            available_to: NamespaceSelector::default(),
            request_overrides: serde_json::Map::new(),
            stream_upstream: true,
            hardware_vendor: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_are_limited_and_a_dropped_slot_is_free_again() {
        let (limits, backend) = (Limits::default(), backend(Some(2), None));
        let first = limits.take(&backend);
        let second = limits.take(&backend);
        assert!(first.is_some() && second.is_some() && limits.take(&backend).is_none());
        drop(first);
        assert!(limits.take(&backend).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_any_minute_are_limited_even_if_each_has_ended() {
        let (limits, backend) = (Limits::default(), backend(None, Some(2)));
        assert!(limits.take(&backend).is_some());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(limits.take(&backend).is_some());
        assert!(limits.take(&backend).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.take(&backend).is_some(), "the first is a minute ago");
        assert!(limits.take(&backend).is_none());
    }

    #[test]
    fn a_backend_without_limits_is_never_refused() {
        let (limits, backend) = (Limits::default(), backend(None, None));
        let slots: Vec<_> = (0..1000).map(|_| limits.take(&backend)).collect();
        assert!(slots.iter().all(Option::is_some));
    }
}
