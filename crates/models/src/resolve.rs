//! From a specification to verified local files: what is already there, then each source in order. The
//! digest decides. Refuses to give a path whose bytes were not hashed, or have changed since.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Client;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::access::client;
use crate::digest::{Digest, Stopped, hash_file};
use crate::error::{Error, Failed, SourceError, Stop};
use crate::pin::Pin;
use crate::progress::{Listener, Meter, Phase, Progress};
use crate::spec::{Access, ArtifactSpec, CacheSpec, SourceSpec};
use crate::store::{Known, Quarantined, Stamp, Store};

/// Limits and habits of a [`Resolver`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where relative paths of `file` sources start.
    pub base_dir: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// False: only what is on this machine is tried.
    pub network: bool,
    /// Largest file that is downloaded, in bytes.
    pub max_bytes: u64,
    /// Limit for the connection, TLS included.
    pub connect_timeout: Duration,
    /// Limit for silence: until the headers, and between two pieces of the body.
    pub read_timeout: Duration,
    /// A slower source, over twice the silence limit, is given up.
    pub min_bytes_per_second: u64,
    /// Further tries of one source after a broken connection, each going on where the last one ended.
    pub retries: u32,
    /// Pause before such a try.
    pub retry_pause: Duration,
    /// Redirects followed per request.
    pub max_redirects: usize,
    /// Connections for one large file whose server can continue at any place; 1 = always one.
    pub connections: usize,
    /// What is left of a file must be larger than this for several connections.
    pub parallel_from: u64,
    /// Bytes asked for at once on each of several connections; all of them are held in memory.
    pub piece: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_dir: PathBuf::from("."),
            home: None,
            network: true,
            max_bytes: 1 << 40,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            min_bytes_per_second: 1024,
            retries: 4,
            retry_pause: Duration::from_secs(2),
            max_redirects: 5,
            connections: 4,
            parallel_from: 64 << 20,
            piece: 8 << 20,
        }
    }
}

/// A local file whose bytes have the wanted digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The artifact's path in the specification.
    pub artifact: String,
    /// Where it is on this machine, absolute.
    pub path: PathBuf,
    /// Its digest: the wanted one, or the one that is now pinned.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
    /// The source that gave it, as a person would name it.
    pub source: String,
    /// When its bytes were last hashed.
    pub verified_at: Timestamp,
    /// True if it lies outside the store and belongs to the user.
    pub in_place: bool,
}

/// Obtains and verifies artifacts. Cheap to share by reference; any number of resolves may run at
/// once, and the same artifact is fetched once.
#[derive(Debug)]
pub struct Resolver {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    client: OnceLock<Client>,
}

/// One artifact on its way.
pub(crate) struct Wanted<'a> {
    pub(crate) cache: &'a CacheSpec,
    pub(crate) artifact: &'a ArtifactSpec,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) listener: Listener<'a>,
    pub(crate) failed: Failures<'a>,
}

/// Hears of sources that did not serve. Called from async code: it must not block.
pub(crate) type Failures<'a> = &'a (dyn Fn(&Failed<'_>) + Send + Sync);

/// Which sources may be tried, and who hears of it.
#[derive(Clone, Copy)]
struct Terms<'a> {
    network: bool,
    cancel: &'a CancellationToken,
    listener: Listener<'a>,
    failed: Failures<'a>,
}

impl Wanted<'_> {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.cache.name, self.artifact.path)
    }

    pub(crate) fn failed(&self, source: &str, error: &SourceError) {
        (self.failed)(&Failed {
            artifact: self.artifact.path.as_str(),
            source,
            error,
        });
    }

    pub(crate) fn meter(&self, source: &str, phase: Phase) -> Meter<'_> {
        Meter::new(self.listener, self.artifact.path.as_str(), source, phase)
    }
}

impl Resolver {
    /// A resolver over a store. Makes no connection and reads nothing yet.
    pub fn new(store: Store, settings: Settings) -> Self {
        Self {
            store,
            settings,
            client: OnceLock::new(),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Every artifact of a cache as a verified local file, in the order of the specification. Fetches
    /// what is missing; stops at the first artifact that no source has.
    pub async fn resolve(
        &self,
        cache: &CacheSpec,
        cancel: &CancellationToken,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Vec<Resolved>, Error> {
        self.resolve_reporting(cache, cancel, progress, &|_| ())
            .await
    }

    /// Like [`resolve`](Self::resolve); `failed` hears of every source that was tried in vain, also
    /// when a later one serves.
    pub async fn resolve_reporting(
        &self,
        cache: &CacheSpec,
        cancel: &CancellationToken,
        progress: &(dyn Fn(&Progress) + Send + Sync),
        failed: &(dyn Fn(&Failed<'_>) + Send + Sync),
    ) -> Result<Vec<Resolved>, Error> {
        let terms = Terms {
            network: self.settings.network,
            cancel,
            listener: progress,
            failed,
        };
        self.resolve_with(cache, terms).await
    }

    /// Like [`resolve`](Self::resolve), but only from the store and from `file` sources: what a start
    /// without waiting can use.
    pub async fn locate(
        &self,
        cache: &CacheSpec,
        cancel: &CancellationToken,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Vec<Resolved>, Error> {
        let terms = Terms {
            network: false,
            cancel,
            listener: progress,
            failed: &|_| (),
        };
        self.resolve_with(cache, terms).await
    }

    async fn resolve_with(
        &self,
        cache: &CacheSpec,
        terms: Terms<'_>,
    ) -> Result<Vec<Resolved>, Error> {
        check(cache)?;
        let mut found = Vec::with_capacity(cache.artifacts.len());
        for artifact in &cache.artifacts {
            let wanted = Wanted {
                cache,
                artifact,
                cancel: terms.cancel,
                listener: terms.listener,
                failed: terms.failed,
            };
            let one = self.one(&wanted, terms.network).await;
            found.push(one.map_err(|error| error.during(artifact.path.as_str(), "the store"))?);
        }
        Ok(found)
    }

    async fn one(&self, wanted: &Wanted<'_>, network: bool) -> Result<Resolved, Error> {
        if let Some(found) = self.remembered(wanted, self.expected(wanted)?) {
            return Ok(found);
        }
        let key = match self.expected(wanted)? {
            Some(sha256) => format!("sha256-{sha256}"),
            None => format!("first-{}", Digest::of(wanted.name().as_bytes())),
        };
        let _lock = self.store.lock(&key, wanted.cancel).await?;
        // Whoever held the lock may have fetched or pinned it meanwhile.
        let expected = self.expected(wanted)?;
        if let Some(found) = self.stored(wanted, expected).await? {
            return Ok(found);
        }
        let found = self.try_sources(wanted, expected, &key, network).await?;
        if expected.is_none() {
            let pin = Pin {
                sha256: found.sha256,
                source: found.source.clone(),
                pinned_at: Timestamp::now(),
            };
            self.store
                .set_pin(&wanted.cache.name, wanted.artifact.path.as_str(), pin)?;
        }
        Ok(found)
    }

    /// The stated digest, else the pinned one.
    pub(crate) fn expected(&self, wanted: &Wanted<'_>) -> Result<Option<Digest>, Error> {
        match wanted.artifact.sha256 {
            Some(sha256) => Ok(Some(sha256)),
            None => self
                .store
                .pin(&wanted.cache.name, wanted.artifact.path.as_str()),
        }
    }

    /// A file of the store that was hashed before and is unchanged.
    fn remembered(&self, wanted: &Wanted<'_>, expected: Option<Digest>) -> Option<Resolved> {
        let sha256 = expected?;
        let path = self.store.path_of(sha256);
        let known = self
            .store
            .known(&path)
            .filter(|known| known.sha256 == sha256)?;
        Some(resolved(wanted, path, &known, false))
    }

    /// A file of the store, hashed again if it is not remembered.
    async fn stored(
        &self,
        wanted: &Wanted<'_>,
        expected: Option<Digest>,
    ) -> Result<Option<Resolved>, Error> {
        if let Some(found) = self.remembered(wanted, expected) {
            return Ok(Some(found));
        }
        let Some(expected) = expected else {
            return Ok(None);
        };
        let path = self.store.path_of(expected);
        if !path.is_file() {
            return Ok(None);
        }
        match self.hash(wanted, &path, "the store").await {
            Ok((actual, stamp)) if actual == expected => self
                .kept(wanted, path, (actual, stamp), "the store")
                .map(Some),
            Ok((actual, _)) => {
                let moved = self.set_aside(wanted, &path, "the store", expected, actual)?;
                tracing::warn!(path = %moved.display(), "stored model file was damaged and is fetched again");
                let quarantined = Some(moved);
                wanted.failed(
                    "the store",
                    &SourceError::WrongDigest {
                        expected,
                        actual,
                        quarantined,
                    },
                );
                Ok(None)
            }
            Err(Stop::All(error)) => Err(error),
            Err(Stop::Source(error)) => {
                tracing::warn!(path = %path.display(), %error, "stored model file cannot be read and is fetched again");
                wanted.failed("the store", &error);
                Ok(None)
            }
        }
    }

    /// Hashes a file and makes sure that it stayed the same meanwhile.
    pub(crate) async fn hash(
        &self,
        wanted: &Wanted<'_>,
        path: &Path,
        label: &str,
    ) -> Result<(Digest, Stamp), Stop> {
        let unreadable = |source| SourceError::Read {
            path: path.to_path_buf(),
            source,
        };
        let before = Stamp::of(&std::fs::metadata(path).map_err(unreadable)?);
        let mut meter = wanted.meter(label, Phase::Verifying);
        meter.start(0, Some(before.size));
        let read = hash_file(path, u64::MAX, wanted.cancel, |done| meter.at(done)).await;
        let (hasher, _) = read.map_err(|stopped| match stopped {
            Stopped::Cancelled => Stop::All(Error::Cancelled),
            Stopped::Read(error) => unreadable(error).into(),
        })?;
        let after = Stamp::of(&std::fs::metadata(path).map_err(unreadable)?);
        if before != after {
            return Err(SourceError::Changed {
                path: path.to_path_buf(),
            }
            .into());
        }
        Ok((hasher.finish(), after))
    }

    /// Remembers a verified file.
    pub(crate) fn kept(
        &self,
        wanted: &Wanted<'_>,
        path: PathBuf,
        (sha256, stamp): (Digest, Stamp),
        label: &str,
    ) -> Result<Resolved, Error> {
        let in_place = path != self.store.path_of(sha256);
        let names = [wanted.name()].into();
        let known = Known {
            sha256,
            stamp,
            source: label.to_owned(),
            verified_at: Timestamp::now(),
            names,
        };
        self.store.remember(&path, known.clone())?;
        Ok(resolved(wanted, path, &known, in_place))
    }

    pub(crate) fn set_aside(
        &self,
        wanted: &Wanted<'_>,
        file: &Path,
        label: &str,
        expected: Digest,
        actual: Digest,
    ) -> Result<PathBuf, Error> {
        let (name, source) = (wanted.name(), label.to_owned());
        let note = Quarantined {
            path: PathBuf::new(),
            name,
            source,
            expected,
            actual,
            at: Timestamp::now(),
        };
        self.store.quarantine(file, note)
    }

    /// The client, made on first need: a machine without CA certificates can still use local files.
    /// A source with trust or proxy of its own gets one of its own.
    pub(crate) fn client(&self, access: &Access) -> Result<Client, Stop> {
        if access.ca_file.is_some() || access.proxy.is_some() {
            return client(&self.settings, access);
        }
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let made = client(&self.settings, access)?;
        Ok(self.client.get_or_init(|| made).clone())
    }
}

pub(crate) fn resolved(
    wanted: &Wanted<'_>,
    path: PathBuf,
    known: &Known,
    in_place: bool,
) -> Resolved {
    Resolved {
        artifact: wanted.artifact.path.to_string(),
        path,
        sha256: known.sha256,
        size: known.stamp.size,
        source: known.source.clone(),
        verified_at: known.verified_at,
        in_place,
    }
}

/// What no attempt can mend.
pub(crate) fn check(cache: &CacheSpec) -> Result<(), Error> {
    let fails = |problem: String| {
        Err(Error::Spec {
            cache: cache.name.clone(),
            problem,
        })
    };
    if cache.artifacts.is_empty() {
        return fails("`artifacts` is empty".to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = cache
        .artifacts
        .iter()
        .find(|artifact| !seen.insert(&artifact.path))
    {
        return fails(format!("artifact {} appears twice", twice.path));
    }
    let several = cache.artifacts.len() > 1;
    for source in &cache.sources {
        if let SourceSpec::Http { url, .. } = source
            && several
            && Url::parse(url).is_ok_and(|url| !url.path().ends_with('/'))
        {
            return fails(format!(
                "{source} is one file, but there are several artifacts: end the URL with a slash"
            ));
        }
    }
    Ok(())
}
