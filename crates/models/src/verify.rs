//! Hashing again what was verified before: bit rot, a changed file, a replaced file. Never fetches.

use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::{Error, SourceError, Stop};
use crate::obtain::find_file;
use crate::place::{Place, place};
use crate::progress::Progress;
use crate::resolve::{Resolved, Resolver, Wanted, check};
use crate::spec::{ArtifactSpec, CacheSpec, SourceSpec};

/// What a verification found for one artifact.
#[derive(Debug)]
pub struct Verification {
    /// The artifact's path.
    pub artifact: String,
    /// The digest it must have; none if it was never used and none is stated.
    pub expected: Option<Digest>,
    /// The result.
    pub outcome: Outcome,
}

/// The result for one artifact.
#[derive(Debug)]
pub enum Outcome {
    /// The bytes are the wanted ones.
    Intact(Resolved),
    /// Nothing is on this machine.
    Missing,
    /// Other bytes: [`SourceError::WrongDigest`] or an unreadable file. A damaged file of the store is
    /// now in quarantine; a file of the user's was left where it is.
    Damaged(SourceError),
}

impl Resolver {
    /// Hashes every artifact of a cache that is on this machine, whatever is remembered of it.
    pub async fn verify(
        &self,
        cache: &CacheSpec,
        cancel: &CancellationToken,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Vec<Verification>, Error> {
        check(cache)?;
        let mut found = Vec::with_capacity(cache.artifacts.len());
        for artifact in &cache.artifacts {
            let wanted = Wanted {
                cache,
                artifact,
                cancel,
                listener: progress,
                failed: &|_| (),
            };
            found.push(self.verify_one(&wanted, artifact).await?);
        }
        Ok(found)
    }

    async fn verify_one(
        &self,
        wanted: &Wanted<'_>,
        artifact: &ArtifactSpec,
    ) -> Result<Verification, Error> {
        let expected = self.expected(wanted)?;
        let outcome = match expected {
            Some(expected) => self.verify_stored(wanted, expected).await?,
            None => None,
        };
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => self.verify_in_place(wanted, expected).await?,
        };
        Ok(Verification {
            artifact: artifact.path.to_string(),
            expected,
            outcome,
        })
    }

    async fn verify_stored(
        &self,
        wanted: &Wanted<'_>,
        expected: Digest,
    ) -> Result<Option<Outcome>, Error> {
        let path = self.store.path_of(expected);
        if !path.is_file() {
            return Ok(None);
        }
        let label = self
            .store
            .known(&path)
            .map_or_else(|| "the store".to_owned(), |known| known.source);
        match self.hash(wanted, &path, &label).await {
            Ok((actual, stamp)) if actual == expected => self
                .kept(wanted, path, (actual, stamp), &label)
                .map(Outcome::Intact)
                .map(Some),
            Ok((actual, _)) => {
                let quarantined = Some(self.set_aside(wanted, &path, &label, expected, actual)?);
                self.store.forget(&path)?;
                Ok(Some(Outcome::Damaged(SourceError::WrongDigest {
                    expected,
                    actual,
                    quarantined,
                })))
            }
            Err(Stop::Source(error)) => Ok(Some(Outcome::Damaged(error))),
            Err(Stop::All(error)) => Err(error),
        }
    }

    /// The first `file` source that has the file is the one that would be used.
    async fn verify_in_place(
        &self,
        wanted: &Wanted<'_>,
        expected: Option<Digest>,
    ) -> Result<Outcome, Error> {
        let mut damaged = None;
        for source in &wanted.cache.sources {
            match self.verify_source(wanted, source, expected).await {
                Ok(found) => return Ok(Outcome::Intact(found)),
                Err(Stop::Source(SourceError::NotFound { .. } | SourceError::Offline)) => {}
                Err(Stop::Source(error)) => damaged = damaged.or(Some(error)),
                Err(Stop::All(error)) => return Err(error),
            }
        }
        Ok(damaged.map_or(Outcome::Missing, Outcome::Damaged))
    }

    async fn verify_source(
        &self,
        wanted: &Wanted<'_>,
        source: &SourceSpec,
        expected: Option<Digest>,
    ) -> Result<Resolved, Stop> {
        if source.access().is_some() {
            return Err(SourceError::Offline.into());
        }
        let home = self.settings.home.as_deref();
        let Place::Path(path) =
            place(source, &wanted.artifact.path, &self.settings.base_dir, home)?
        else {
            return Err(SourceError::Offline.into());
        };
        let path = find_file(&path, wanted)?;
        let label = source.to_string();
        let (actual, stamp) = self.hash(wanted, &path, &label).await?;
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            self.store.forget(&path)?;
            return Err(SourceError::WrongDigest {
                expected,
                actual,
                quarantined: None,
            }
            .into());
        }
        Ok(self.kept(wanted, path, (actual, stamp), &label)?)
    }
}
