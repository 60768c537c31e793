//! The partial file: opened where it is to go on, hashed in order as it grows. A full disk removes it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::{Fetch, discard};
use crate::digest::{Digest, Hasher, Stopped, hash_file};
use crate::error::{Error, SourceError, Stop};
use crate::room;

/// The partial file, opened, with its hash so far.
pub(super) struct Sink {
    file: File,
    hasher: Hasher,
    pub(super) written: u64,
}

impl Fetch<'_> {
    /// Opens the partial file at `start` and hashes what is before.
    pub(super) async fn open(&self, start: u64) -> Result<Sink, Stop> {
        let hasher = match start {
            0 => Hasher::default(),
            _ => self.hash_present(start).await?,
        };
        let path = self.partial.clone();
        blocking(move || {
            let opened = OpenOptions::new()
                .create(true)
                .truncate(start == 0)
                .append(start > 0)
                .write(true)
                .open(&path);
            let file = opened.map_err(|error| Error::store("write", path, error))?;
            Ok(Sink {
                file,
                hasher,
                written: start,
            })
        })
        .await
    }

    pub(super) async fn hash_present(&self, start: u64) -> Result<Hasher, Stop> {
        match hash_file(&self.partial, start, self.asker.cancel, |_| {}).await {
            Ok((hasher, read)) if read == start => Ok(hasher),
            Ok(_) => Err(SourceError::Changed {
                path: self.partial.clone(),
            }
            .into()),
            Err(Stopped::Cancelled) => Err(Error::Cancelled.into()),
            Err(Stopped::Read(error)) => Err(Error::store("read", &self.partial, error).into()),
        }
    }

    pub(super) async fn append(&self, mut sink: Sink, batch: Vec<u8>) -> Result<Sink, Stop> {
        let path = self.partial.clone();
        blocking(move || {
            if let Err(error) = sink.file.write_all(&batch) {
                let error = room::written(Error::store("write", &path, error), sink.written);
                return Err(given_up(&path, error));
            }
            sink.hasher.update(&batch);
            sink.written += batch.len() as u64;
            Ok(sink)
        })
        .await
    }

    /// Flushes to the disk.
    pub(super) async fn finish(&self, sink: Sink) -> Result<Digest, Stop> {
        let path = self.partial.clone();
        blocking(move || {
            if let Err(error) = sink.file.sync_all() {
                return Err(given_up(&path, Error::store("flush", &path, error)));
            }
            Ok(sink.hasher.finish())
        })
        .await
    }
}

/// A full disk is not helped by keeping the file that filled it.
fn given_up(partial: &Path, error: Error) -> Error {
    if matches!(error, Error::DiskFull { .. }) {
        // The full disk is the error to tell.
        let _ = discard(partial);
    }
    error
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Stop> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Stop::All),
        Err(gone) => {
            Err(Error::store("use", "the blocking pool", std::io::Error::other(gone)).into())
        }
    }
}
