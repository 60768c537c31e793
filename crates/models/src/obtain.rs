//! The sources of one artifact, tried in order, each judged by the digest alone. Refuses to move or
//! change a file that is the user's.

use std::path::{Path, PathBuf};

use crate::access::{bearer, pair};
use crate::digest::Digest;
use crate::error::{Error, NoSource, SourceError, SourceFailure, Stop};
use crate::fetch::{Fetch, discard};
use crate::http::Asker;
use crate::place::{Place, place};
use crate::progress::Phase;
use crate::resolve::{Resolved, Resolver, Wanted, resolved};
use crate::room;
use crate::spec::{Access, SourceSpec};
use crate::store::Stamp;
use crate::target::Target;
use crate::{oci, s3};

/// A complete file in the folder of partial ones, flushed to the disk, not yet judged.
pub(crate) struct Arrived<'a> {
    pub(crate) partial: &'a Path,
    pub(crate) expected: Option<Digest>,
    pub(crate) sha256: Digest,
}

impl Resolver {
    pub(crate) async fn try_sources(
        &self,
        wanted: &Wanted<'_>,
        expected: Option<Digest>,
        key: &str,
        network: bool,
    ) -> Result<Resolved, Error> {
        let artifact = wanted.artifact.path.as_str();
        let mut failures = Vec::new();
        for source in &wanted.cache.sources {
            match self
                .try_source(wanted, source, expected, key, network)
                .await
            {
                Ok(found) => return Ok(found),
                Err(Stop::All(error)) => return Err(error.during(artifact, &source.to_string())),
                Err(Stop::Source(error)) => {
                    tracing::debug!(%source, reason = error.reason(), "source did not serve");
                    let from = source.to_string();
                    wanted.failed(&from, &error);
                    failures.push(SourceFailure { from, error });
                }
            }
        }
        if let Some(full) = room::lacking(artifact, &failures) {
            // What an earlier fetch left fills the disk, too; the full disk is the error to tell.
            let _ = discard(&self.store.partial(key));
            return Err(full);
        }
        Err(Error::NoSource(Box::new(NoSource {
            cache: wanted.cache.name.clone(),
            artifact: artifact.to_owned(),
            sha256: expected,
            failures,
        })))
    }

    async fn try_source(
        &self,
        wanted: &Wanted<'_>,
        source: &SourceSpec,
        expected: Option<Digest>,
        key: &str,
        network: bool,
    ) -> Result<Resolved, Stop> {
        let home = self.settings.home.as_deref();
        let label = source.to_string();
        match place(source, &wanted.artifact.path, &self.settings.base_dir, home)? {
            Place::Path(path) => self.try_file(wanted, &path, &label, expected).await,
            Place::Copy { path, root } => {
                self.try_copy(wanted, (&path, &root), &label, expected, key)
                    .await
            }
            _ if !network => Err(SourceError::Offline.into()),
            place => {
                let (asker, target) = self.target(wanted, source, place, expected).await?;
                // A registry names a digest itself.
                let expected = expected.or_else(|| target.sha256());
                let fetch = Fetch {
                    asker,
                    target,
                    expected,
                    partial: self.store.partial(key),
                };
                self.try_target(wanted, &fetch, &label).await
            }
        }
    }

    /// What is to be fetched, with the keys that it needs.
    async fn target<'a>(
        &'a self,
        wanted: &Wanted<'a>,
        source: &SourceSpec,
        place: Place,
        expected: Option<Digest>,
    ) -> Result<(Asker<'a>, Target), Stop> {
        let (settings, cancel) = (&self.settings, wanted.cancel);
        let standard = Access::default();
        let access = source.access().unwrap_or(&standard);
        let client = self.client(access)?;
        let asker = Asker {
            client,
            settings,
            cancel,
        };
        let target = match place {
            Place::Path(_) | Place::Copy { .. } => return Err(SourceError::Offline.into()),
            Place::Url(url) => Target::Plain {
                url,
                authorization: bearer(settings, access)?,
            },
            Place::Object(location) => {
                let pair = pair(settings, access, s3::FORM)?;
                Target::Object(s3::Object::new(location, pair)?)
            }
            Place::Registry(reference) => {
                let login = oci::login(pair(settings, access, oci::FORM)?)?;
                let artifact = &wanted.artifact.path;
                let blob = oci::locate(&asker, &reference, login, artifact, expected).await?;
                Target::Blob(blob)
            }
        };
        Ok((asker, target))
    }

    async fn try_file(
        &self,
        wanted: &Wanted<'_>,
        path: &Path,
        label: &str,
        expected: Option<Digest>,
    ) -> Result<Resolved, Stop> {
        let path = find_file(path, wanted)?;
        if let Some(known) = self
            .store
            .known(&path)
            .filter(|known| expected.is_none_or(|sha256| sha256 == known.sha256))
        {
            return Ok(resolved(wanted, path, &known, true));
        }
        let (actual, stamp) = self.hash(wanted, &path, label).await?;
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(SourceError::WrongDigest {
                expected,
                actual,
                quarantined: None,
            }
            .into());
        }
        Ok(self.kept(wanted, path, (actual, stamp), label)?)
    }

    async fn try_target(
        &self,
        wanted: &Wanted<'_>,
        fetch: &Fetch<'_>,
        label: &str,
    ) -> Result<Resolved, Stop> {
        let mut meter = wanted.meter(label, Phase::Downloading);
        let mut fetched = fetch.run(&mut meter).await?;
        let other = |expected: Digest| expected != fetched.sha256;
        if fetched.resumed && fetch.expected.is_some_and(other) {
            // The beginning may be another source's: judge this one by its own bytes alone.
            fetch.discard()?;
            fetched = fetch.run(&mut meter).await?;
        }
        let arrived = Arrived {
            partial: &fetch.partial,
            expected: fetch.expected,
            sha256: fetched.sha256,
        };
        self.accept(wanted, &arrived, label)
    }

    /// Judges what has arrived.
    pub(crate) fn accept(
        &self,
        wanted: &Wanted<'_>,
        arrived: &Arrived<'_>,
        label: &str,
    ) -> Result<Resolved, Stop> {
        let (actual, partial) = (arrived.sha256, arrived.partial);
        if let Some(expected) = arrived.expected.filter(|expected| *expected != actual) {
            let moved = self.set_aside(wanted, partial, label, expected, actual)?;
            discard(partial)?;
            return Err(SourceError::WrongDigest {
                expected,
                actual,
                quarantined: Some(moved),
            }
            .into());
        }
        let path = self.store.keep(partial, actual)?;
        discard(partial)?;
        let metadata =
            std::fs::metadata(&path).map_err(|error| Error::store("read", &path, error))?;
        Ok(self.kept(wanted, path, (actual, Stamp::of(&metadata)), label)?)
    }
}

/// The file that a `file` source means, absolute and without links.
pub(crate) fn find_file(path: &Path, wanted: &Wanted<'_>) -> Result<PathBuf, SourceError> {
    let path = if path.is_dir() {
        path.join(wanted.artifact.path.as_str())
    } else {
        path.to_path_buf()
    };
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(SourceError::NotFound {
                what: path.display().to_string(),
            });
        }
        Err(source) => return Err(SourceError::Read { path, source }),
    };
    if !path.is_file() {
        return Err(SourceError::Refused {
            why: format!("{} is not a file", path.display()),
        });
    }
    Ok(path)
}
