//! A file of a mounted folder into the store: copied and hashed in one pass, because the mount is not
//! there when the file is served. Refuses links that lead out of the mount.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher, STEP, Stopped, blocking};
use crate::error::{Error, SourceError, Stop};
use crate::obtain::{Arrived, find_file};
use crate::progress::Phase;
use crate::resolve::{Resolved, Resolver, Wanted};
use crate::room;
use crate::store::remove;

/// Both ends of a copy, moved step by step on the blocking pool.
struct Copying {
    from: File,
    to: File,
    hasher: Hasher,
    buffer: Vec<u8>,
    done: u64,
    limit: u64,
}

/// Which end failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
    TooLarge,
}

impl Resolver {
    pub(crate) async fn try_copy(
        &self,
        wanted: &Wanted<'_>,
        (path, root): (&Path, &Path),
        label: &str,
        expected: Option<Digest>,
        key: &str,
    ) -> Result<Resolved, Stop> {
        let path = find_file(path, wanted)?;
        inside(&path, root)?;
        let partial = self.store.partial(key);
        let sha256 = match self.copy(wanted, &path, &partial, label).await {
            Ok(sha256) => sha256,
            Err(stop) => {
                // Half a copy is worth nothing: it is as quick to begin again.
                remove(&partial)?;
                return Err(stop);
            }
        };
        let arrived = Arrived {
            partial: &partial,
            expected,
            sha256,
        };
        self.accept(wanted, &arrived, label)
    }

    async fn copy(
        &self,
        wanted: &Wanted<'_>,
        path: &Path,
        partial: &Path,
        label: &str,
    ) -> Result<Digest, Stop> {
        let limit = self.settings.max_bytes;
        let told = |failed| match failed {
            Failed::Reading(source) => Stop::Source(SourceError::Read {
                path: path.to_path_buf(),
                source,
            }),
            Failed::Writing(source) => Stop::All(Error::store("write", partial, source)),
            Failed::TooLarge => Stop::Source(SourceError::TooLarge { limit }),
        };
        let (from, to) = (path.to_path_buf(), partial.to_path_buf());
        let (mut copying, size) = away(move || Copying::open(&from, &to, limit))
            .await?
            .map_err(told)?;
        room::fits(partial, 0, size)?;
        let mut meter = wanted.meter(label, Phase::Downloading);
        meter.start(0, Some(size));
        loop {
            if wanted.cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            let before = copying.done;
            let stepped = away(move || copying.step()).await?.map_err(told);
            copying = stepped.map_err(|stop| room::of(stop, size, before))?;
            meter.at(copying.done);
            if copying.done == before {
                break;
            }
        }
        away(move || copying.finish()).await?.map_err(told)
    }
}

/// A volume's content is not to be trusted: a link in it must not reach the other files of the pod.
fn inside(path: &Path, root: &Path) -> Result<(), SourceError> {
    let refused = |why: String| SourceError::Refused { why };
    let root: PathBuf = root
        .canonicalize()
        .map_err(|error| refused(format!("{} cannot be used: {error}", root.display())))?;
    if path.starts_with(&root) {
        return Ok(());
    }
    Err(refused(format!(
        "{} is a link that leads out of {}",
        path.display(),
        root.display()
    )))
}

/// File work off the async threads; only its own failures are left to look at.
async fn away<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<Result<T, Failed>, Stop> {
    blocking(move || Ok(work()))
        .await
        .map_err(|stopped| match stopped {
            Stopped::Cancelled => Error::Cancelled.into(),
            Stopped::Read(error) => Error::store("use", "the blocking pool", error).into(),
        })
}

impl Copying {
    fn open(from: &Path, to: &Path, limit: u64) -> Result<(Self, u64), Failed> {
        let from = File::open(from).map_err(Failed::Reading)?;
        let size = from.metadata().map_err(Failed::Reading)?.len();
        let to = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(to)
            .map_err(Failed::Writing)?;
        let copying = Self {
            from,
            to,
            hasher: Hasher::default(),
            buffer: vec![0; STEP],
            done: 0,
            limit,
        };
        Ok((copying, size))
    }

    fn step(mut self) -> Result<Self, Failed> {
        let count = loop {
            match self.from.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(Failed::Reading)?,
            }
        };
        let Some(bytes) = self.buffer.get(..count) else {
            return Err(Failed::Reading(io::ErrorKind::InvalidData.into()));
        };
        self.done = self.done.saturating_add(count as u64);
        if self.done > self.limit {
            return Err(Failed::TooLarge);
        }
        self.to.write_all(bytes).map_err(Failed::Writing)?;
        self.hasher.update(bytes);
        Ok(self)
    }

    fn finish(self) -> Result<Digest, Failed> {
        self.to.sync_all().map_err(Failed::Writing)?;
        Ok(self.hasher.finish())
    }
}
