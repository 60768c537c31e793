//! Watches a directory by looking once in a while: names, sizes, times and inodes are compared, and
//! only a change is read (ADR 7).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::SnapshotStore;
use crate::clock::Clock;
use crate::source::{FileSource, Loaded, Rejected};

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(500);

/// What tells one state of a directory from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(Vec<(PathBuf, u64, Option<SystemTime>, u64)>);

impl FileSource {
    /// Looks for changes since `seen` until `stop`; every change is loaded. Take `seen` with
    /// [`fingerprint`](Self::fingerprint) before the first load, so that no edit falls between. A good one is given to `accepted`
    /// with its warnings and then put into the store; a bad one is counted and given to `rejected`,
    /// and what is in the store stays.
    pub async fn watch(
        self,
        mut seen: Fingerprint,
        store: SnapshotStore,
        clock: Clock,
        stop: CancellationToken,
        accepted: impl Fn(&Loaded) + Send + Sync,
        rejected: impl Fn(&Rejected) + Send + Sync,
    ) {
        let mut settling = false;
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let source = self.clone();
            // Asks the file system, which may be slow: not on the threads that serve.
            let Ok(now) = tokio::task::spawn_blocking(move || source.fingerprint()).await else {
                continue;
            };
            if now != seen {
                // An editor may still be writing: read when two looks in a row agree.
                (seen, settling) = (now, true);
                continue;
            }
            if !settling {
                continue;
            }
            settling = false;
            let (source, time) = (self.clone(), clock());
            let Ok(outcome) = tokio::task::spawn_blocking(move || source.load(time)).await else {
                continue;
            };
            match outcome {
                Ok(loaded) => {
                    accepted(&loaded);
                    store.replace(loaded.snapshot);
                }
                Err(problems) => {
                    store.reject();
                    rejected(&problems);
                }
            }
        }
    }

    /// The state of the files as they are now. Reads none of them.
    pub fn fingerprint(&self) -> Fingerprint {
        let files = self.files().unwrap_or_default();
        let states = files.into_iter().filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            Some((
                path,
                metadata.len(),
                metadata.modified().ok(),
                inode(&metadata),
            ))
        });
        Fingerprint(states.collect())
    }
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.ino()
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> u64 {
    0
}
