//! The one place where the data plane finds what is declared. A source swaps the whole snapshot;
//! a request reads it once per decision and once per attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use mesh_core::Snapshot;
use tokio::sync::watch;

/// Holds the newest good snapshot. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    rejected: AtomicU64,
}

impl SnapshotStore {
    /// A store that begins with this snapshot.
    pub fn new(first: Snapshot) -> Self {
        let (changed, _) = watch::channel(first.generation);
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(first),
                changed,
                rejected: AtomicU64::new(0),
            }),
        }
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// Puts another snapshot in its place and numbers it: its generation becomes one more than the
    /// present one's, whatever it says. Gives the generation.
    pub fn replace(&self, mut next: Snapshot) -> u64 {
        let mut generation = 0;
        // The sender's lock makes number and swap one step.
        self.shared.changed.send_modify(|number| {
            *number += 1;
            generation = *number;
            next.generation = generation;
            self.shared.current.store(Arc::new(next));
        });
        generation
    }

    /// Counts a snapshot that was not accepted; the present one stays.
    pub fn reject(&self) {
        self.shared.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Snapshots that were not accepted so far.
    pub fn rejected(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    /// Tells of every swap, by generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Snapshot;

    use super::SnapshotStore;

    #[test]
    fn a_swap_counts_up_and_is_told_and_a_rejection_changes_nothing() {
        let empty = || Snapshot::empty("default", jiff::Timestamp::UNIX_EPOCH);
        let store = SnapshotStore::new(empty());
        let listener = store.subscribe();
        store.reject();
        assert!(!listener.has_changed().expect("alive"));
        assert_eq!((store.current().generation, store.rejected()), (0, 1));
        assert_eq!(store.replace(empty()), 1);
        assert_eq!(store.replace(empty()), 2);
        assert!(listener.has_changed().expect("alive"));
        assert_eq!(store.current().generation, 2);
    }
}
