//! The content-addressed folder: verified files under their digest, partial downloads, quarantine, and
//! an index of what was verified when.
//!
//! ```text
//! <root>/sha256/<hex>            verified, read-only
//! <root>/partial/<key>{,.json}   a download to go on with
//! <root>/quarantine/<hex>{,.json} wrong bytes and why; the newest three
//! <root>/locks/<key>             held while a file is fetched or written (flock; dies with its process)
//! <root>/index.json              a memory, rebuilt if damaged;  pins.json is not
//! ```
//!
//! Refuses to leave a half-written file under a final name: everything is written beside, flushed to
//! the disk and renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::Error;

/// Quarantined files kept; older ones are removed, or a hostile mirror could fill the disk.
const QUARANTINED: usize = 3;
const LOCK_POLL: Duration = Duration::from_millis(25);

/// A folder of verified model files; several processes may use it at once.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A verified file that the store knows, its own or one used where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Absolute path.
    pub path: PathBuf,
    /// The digest its bytes had.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
    /// `cache/artifact` names under which it was asked for.
    pub names: Vec<String>,
    /// The source that gave it.
    pub source: String,
    /// When its bytes were last hashed.
    pub verified_at: Timestamp,
    /// True if it lies outside the store and belongs to the user.
    pub in_place: bool,
}

/// A download with wrong bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// Where the bytes are.
    #[serde(skip)]
    pub path: PathBuf,
    /// `cache/artifact` that was wanted.
    pub name: String,
    /// The source that gave it.
    pub source: String,
    /// The wanted digest.
    pub expected: Digest,
    /// The digest found.
    pub actual: Digest,
    /// When it was found out.
    pub at: Timestamp,
}

/// What tells a file from a changed one without reading it. ctime is part of it, because tools that
/// copy files set mtime back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One line of the index.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known {
    pub(crate) sha256: Digest,
    pub(crate) stamp: Stamp,
    pub(crate) source: String,
    pub(crate) verified_at: Timestamp,
    #[serde(default)]
    pub(crate) names: BTreeSet<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    files: BTreeMap<PathBuf, Known>,
}

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Store {
    /// Opens the store, creating its folders.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root: PathBuf = root.into();
        let root = std::path::absolute(&root).map_err(|error| Error::store("find", root, error))?;
        for folder in ["sha256", "partial", "quarantine", "locks"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|error| Error::store("create", path, error))?;
        }
        Ok(Self { root })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a verified file with this digest is, or would be.
    pub fn path_of(&self, sha256: Digest) -> PathBuf {
        self.root.join("sha256").join(sha256.to_string())
    }

    /// Every file that was verified and still exists, in the order of paths.
    pub fn list(&self) -> Vec<Stored> {
        let own = self.root.join("sha256");
        let listed = |(path, known): (PathBuf, Known)| Stored {
            in_place: !path.starts_with(&own),
            path,
            sha256: known.sha256,
            size: known.stamp.size,
            names: known.names.into_iter().collect(),
            source: known.source,
            verified_at: known.verified_at,
        };
        self.index()
            .files
            .into_iter()
            .filter(|(path, _)| path.is_file())
            .map(listed)
            .collect()
    }

    /// The files in quarantine, newest first.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let Ok(entries) = fs::read_dir(self.root.join("quarantine")) else {
            return Vec::new();
        };
        let read = |entry: fs::DirEntry| {
            let note = entry.path();
            note.extension().filter(|extension| *extension == "json")?;
            let mut found: Quarantined = serde_json::from_slice(&fs::read(&note).ok()?).ok()?;
            found.path = note.with_extension("");
            Some(found)
        };
        let mut found: Vec<Quarantined> = entries.flatten().filter_map(read).collect();
        found.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        found
    }

    pub(crate) fn partial(&self, key: &str) -> PathBuf {
        self.root.join("partial").join(key)
    }

    /// What is known of a file, if it is still the same file.
    pub(crate) fn known(&self, path: &Path) -> Option<Known> {
        let known = self.index().files.remove(path)?;
        let metadata = fs::metadata(path).ok()?;
        (metadata.is_file() && Stamp::of(&metadata) == known.stamp).then_some(known)
    }

    /// Remembers a verified file; names of earlier uses are kept.
    pub(crate) fn remember(&self, path: &Path, mut known: Known) -> Result<(), Error> {
        self.change(|index| {
            if let Some(earlier) = index
                .files
                .get(path)
                .filter(|earlier| earlier.sha256 == known.sha256)
            {
                known.names.extend(earlier.names.iter().cloned());
            }
            index.files.insert(path.to_path_buf(), known);
        })
    }

    pub(crate) fn forget(&self, path: &Path) -> Result<(), Error> {
        self.change(|index| {
            index.files.remove(path);
        })
    }

    /// Moves a complete, flushed partial file under its digest, read-only.
    pub(crate) fn keep(&self, partial: &Path, sha256: Digest) -> Result<PathBuf, Error> {
        let path = self.path_of(sha256);
        let mut permissions = fs::metadata(partial)
            .map_err(|error| Error::store("read", partial, error))?
            .permissions();
        permissions.set_readonly(true);
        fs::set_permissions(partial, permissions)
            .map_err(|error| Error::store("protect", partial, error))?;
        fs::rename(partial, &path).map_err(|error| Error::store("rename", &path, error))?;
        sync_folder(&path)?;
        Ok(path)
    }

    /// Moves wrong bytes aside and says why beside them.
    pub(crate) fn quarantine(&self, file: &Path, mut note: Quarantined) -> Result<PathBuf, Error> {
        note.path = self.root.join("quarantine").join(note.actual.to_string());
        let text = serde_json::to_vec_pretty(&note)
            .map_err(|error| Error::store("write", &note.path, error.into()))?;
        write_atomically(&note.path.with_extension("json"), &text)?;
        fs::rename(file, &note.path).map_err(|error| Error::store("rename", &note.path, error))?;
        for old in self.quarantined().into_iter().skip(QUARANTINED) {
            remove(&old.path)?;
            remove(&old.path.with_extension("json"))?;
        }
        Ok(note.path)
    }

    /// Waits for a lock of its own among processes and tasks.
    pub(crate) async fn lock(&self, key: &str, cancel: &CancellationToken) -> Result<Lock, Error> {
        loop {
            if let Some(lock) = self.try_lock(key)? {
                return Ok(lock);
            }
            // flock cannot wake an async task; another process may be downloading for an hour.
            tokio::select! {
                () = tokio::time::sleep(LOCK_POLL) => {}
                () = cancel.cancelled() => return Err(Error::Cancelled),
            }
        }
    }

    /// Takes a lock that is only ever held for the time of one small write.
    pub(crate) fn lock_now(&self, key: &str) -> Result<Lock, Error> {
        let (path, file) = self.lock_file(key)?;
        file.lock()
            .map_err(|error| Error::store("lock", path, error))?;
        Ok(Lock { _file: file })
    }

    fn try_lock(&self, key: &str) -> Result<Option<Lock>, Error> {
        let (path, file) = self.lock_file(key)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::store("lock", path, error)),
        }
    }

    fn lock_file(&self, key: &str) -> Result<(PathBuf, File), Error> {
        let path = self.root.join("locks").join(key);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        match opened {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(Error::store("lock", path, error)),
        }
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// The index; a damaged one is an empty one, since hashing again rebuilds it.
    fn index(&self) -> Index {
        let path = self.index_path();
        let Ok(text) = fs::read(&path) else {
            return Index::default();
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "model index is damaged and is made anew");
            Index::default()
        })
    }

    fn change(&self, edit: impl FnOnce(&mut Index)) -> Result<(), Error> {
        let _lock = self.lock_now("index")?;
        let path = self.index_path();
        let mut index = self.index();
        edit(&mut index);
        index.files.retain(|path, _| path.exists());
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|error| Error::store("write", &path, error.into()))?;
        write_atomically(&path, &text)
    }
}

/// Removes a file; one that is already gone is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::store("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Writes beside, flushes, renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mark = format!(
        "{}-{}.tmp",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let beside = path.with_extension(mark);
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(error) = written {
        // The first error is the one to tell; what is left behind is only a temporary file.
        let _ = fs::remove_file(&beside);
        return Err(Error::store("write", path, error));
    }
    sync_folder(path)
}

/// Makes a rename survive a power cut.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::store("flush", folder, error))
}
