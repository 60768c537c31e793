//! What the gateway pushed of the policies: followed over one stream, kept in a file of the pod, and as good as
//! nothing until it has been read whole. What is of another version or cannot be meant leaves the one before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mesh_core::pushed::{LONGEST, Line, Pushed, Untaken};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

const FILE: &str = "snapshot.json";
const PART: &str = ".snapshot.json.part";
/// How long after the start a request waits for the first snapshot instead of doing without.
const FIRST: Duration = Duration::from_secs(2);

/// The newest good snapshot.
pub(crate) struct Snapshots {
    folder: PathBuf,
    current: watch::Sender<Option<Arc<Pushed>>>,
    confirmed: Mutex<Option<SystemTime>>,
    begun: Instant,
}

impl Snapshots {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            current: watch::Sender::new(None),
            confirmed: Mutex::default(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Pushed>> {
        self.current.borrow().clone()
    }

    /// The newest one; right after the start the first one, if it comes soon.
    pub(crate) async fn first(&self) -> Option<Arc<Pushed>> {
        let mut receiver = self.current.subscribe();
        let waiting = receiver.wait_for(Option::is_some);
        match tokio::time::timeout_at(self.begun + FIRST, waiting).await {
            Ok(Ok(pushed)) => pushed.clone(),
            _ => self.current(),
        }
    }

    /// Time since what is in use was last known to hold.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.current.borrow().as_ref()?;
        let confirmed = *self
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let passed = SystemTime::now().duration_since(confirmed?);
        Some(passed.unwrap_or_default())
    }

    pub(crate) fn confirm(&self, at: SystemTime) {
        let mut confirmed = self
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *confirmed = Some(at);
    }

    /// Takes one into use. True if it says something new.
    pub(crate) fn take(&self, pushed: Pushed, at: SystemTime) -> bool {
        self.confirm(at);
        self.current.send_if_modified(|current| {
            let new = current.as_deref() != Some(&pushed);
            if new {
                *current = Some(Arc::new(pushed));
            }
            new
        })
    }

    /// Takes what an earlier container of this pod has kept.
    ///
    /// # Errors
    /// If it is not to be used. `Ok(false)`: there is none.
    pub(crate) fn load(&self) -> Result<bool, Untaken> {
        let path = self.folder.join(FILE);
        let Ok(about) = std::fs::metadata(&path) else {
            return Ok(false);
        };
        if about.len() > LONGEST as u64 {
            return Err(Untaken::Form);
        }
        let text = std::fs::read(&path).map_err(|_| Untaken::Form)?;
        let Line::Snapshot(pushed) = Line::read(&text)? else {
            return Err(Untaken::Form);
        };
        let at = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(self.take(*pushed, at))
    }

    /// Keeps the one in use for the next container.
    pub(crate) async fn keep(&self) {
        let Some(pushed) = self.current() else { return };
        let text = Line::Snapshot(Box::new((*pushed).clone())).write();
        if let Err(error) = write(&self.folder, &text).await {
            tracing::warn!(%error, folder = %self.folder.display(), "the snapshot is not kept for the next start");
        }
    }
}

/// All of it or nothing, and for nobody else.
async fn write(folder: &Path, text: &[u8]) -> io::Result<()> {
    let part = folder.join(PART);
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&part).await?;
    file.write_all(text).await?;
    file.sync_all().await?;
    tokio::fs::rename(&part, folder.join(FILE)).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use mesh_core::pushed::{Pushed, Untaken, VERSION};
    use mesh_core::{PrivacyLevel, SovereigntyClass};
    use tokio::time::Instant;

    use super::{FILE, Snapshots};

    fn pushed(base_level: PrivacyLevel) -> Pushed {
        Pushed {
            version: VERSION,
            policies: Vec::new(),
            base_level,
            incomplete_level: PrivacyLevel::Restricted,
            default_latency: None,
            minimum_class: [SovereigntyClass::OwnHardware; 4],
            deadline_ms: 1000,
            substitution: true,
            floor: None,
        }
    }

    #[tokio::test]
    async fn the_next_container_begins_with_what_this_one_knew() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Snapshots::new(folder.path().to_path_buf());
        assert_eq!(first.load(), Ok(false));
        assert_eq!(first.age(), None);
        let now = SystemTime::now();
        assert!(first.take(pushed(PrivacyLevel::Internal), now));
        assert!(!first.take(pushed(PrivacyLevel::Internal), now));
        first.keep().await;
        let file = folder.path().join(FILE);
        let mode = std::fs::metadata(&file).expect("kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let next = Snapshots::new(folder.path().to_path_buf());
        assert_eq!(next.load(), Ok(true));
        assert_eq!(next.current(), first.current());
        assert!(next.age().is_some());
        for (text, why) in [
            ("{", Untaken::Form),
            ("{\"type\":\"alive\"}", Untaken::Form),
            ("{\"type\":\"snapshot\",\"version\":9}", Untaken::Version),
        ] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(next.load(), Err(why), "{text}");
            assert_eq!(next.current(), first.current(), "the one before stays");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_right_after_the_start_a_request_waits_for_the_first_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let snapshots = Snapshots::new(folder.path().to_path_buf());
        let begun = Instant::now();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            snapshots.take(pushed(PrivacyLevel::Public), SystemTime::now());
        };
        let (found, ()) = tokio::join!(snapshots.first(), soon);
        assert!(found.is_some());
        let none = Snapshots::new(folder.path().to_path_buf());
        assert_eq!(none.first().await, None);
        assert!(begun.elapsed() >= Duration::from_secs(2));
        let late = Instant::now();
        assert_eq!(none.first().await, None);
        assert!(late.elapsed() < Duration::from_secs(1));
    }
}
