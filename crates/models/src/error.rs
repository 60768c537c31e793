//! What can go wrong while a model is obtained, in words that tell a person what to do. Messages name
//! URLs without query and user part: signed links carry secrets there.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::digest::Digest;

/// A failure of the store, or of every source of an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification contradicts itself; nothing was tried.
    #[error("model cache {cache}: {problem}")]
    Spec {
        /// The cache's name.
        cache: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder or file of the store could not be used.
    #[error("could not {step} {}", path.display())]
    Store {
        /// The step, as a verb: `create`, `lock`, `write`, `rename`.
        step: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk (or quota) of the store has no room left. The partial file is already removed.
    #[error("no space left for {}{room}: free some space there or choose another model folder; the partial file was removed", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// How much of it would have.
        room: Room,
        /// What was on its way, as far as that is known.
        tried: Option<Box<Tried>>,
    },
    /// The pins cannot be read, so it is unknown what was trusted before.
    #[error("the pins in {} are damaged ({problem}): restore the file, or delete it to trust the next download of artifacts without sha256", path.display())]
    PinsDamaged {
        /// The pins' file.
        path: PathBuf,
        /// What the parser said.
        problem: String,
    },
    /// The HTTP client could not be set up, for example because no CA certificates were found.
    #[error("could not set up the download client: {problem}")]
    Client {
        /// The cause.
        problem: String,
    },
    /// No source had the artifact.
    #[error(transparent)]
    NoSource(Box<NoSource>),
    /// The caller left.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The variant as a condition reason and log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Spec { .. } => "InvalidSpec",
            Self::Store { .. } => "StoreUnusable",
            Self::DiskFull { .. } => "DiskFull",
            Self::PinsDamaged { .. } => "PinsDamaged",
            Self::Client { .. } => "ClientUnusable",
            Self::NoSource(none) => none.reason(),
            Self::Cancelled => "Cancelled",
        }
    }

    pub(crate) fn store(step: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if out_of_space(&source) {
            return Self::DiskFull {
                path,
                room: Room::default(),
                tried: None,
            };
        }
        Self::Store { step, path, source }
    }

    /// The same error; a full disk learns what was on its way, if it does not know.
    pub(crate) fn during(mut self, artifact: &str, from: &str) -> Self {
        if let Self::DiskFull { tried, .. } = &mut self {
            tried.get_or_insert_with(|| {
                Box::new(Tried {
                    artifact: artifact.to_owned(),
                    source: from.to_owned(),
                })
            });
        }
        self
    }
}

/// One artifact from one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The artifact's path.
    pub artifact: String,
    /// The source, as a person would name it; `the store` for what is written beside the files.
    pub source: String,
}

/// How much of a file fits, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes of the whole file.
    pub needed: Option<u64>,
    /// Bytes for which there was room.
    pub there: Option<u64>,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.needed, self.there) {
            (Some(needed), Some(there)) => {
                write!(f, " (it has {needed} bytes, there is room for {there})")
            }
            (Some(needed), None) => write!(f, " (it has {needed} bytes)"),
            (None, Some(there)) => write!(f, " (there was room for {there} bytes)"),
            (None, None) => Ok(()),
        }
    }
}

/// True for a full disk and for an exhausted quota.
pub(crate) fn out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Every source was tried; this is the list of what each said.
#[derive(Debug, thiserror::Error)]
pub struct NoSource {
    /// The cache's name.
    pub cache: String,
    /// The artifact's path.
    pub artifact: String,
    /// The digest that was wanted, if one was known.
    pub sha256: Option<Digest>,
    /// What each source said, in the order of the attempts.
    pub failures: Vec<SourceFailure>,
}

impl NoSource {
    /// `Corrupt` if some source had other bytes, else `SourceUnavailable`.
    pub fn reason(&self) -> &'static str {
        let corrupt = |failure: &SourceFailure| {
            matches!(
                failure.error,
                SourceError::WrongDigest { .. } | SourceError::OtherDigest { .. }
            )
        };
        if self.failures.iter().any(corrupt) {
            "Corrupt"
        } else {
            "SourceUnavailable"
        }
    }
}

impl fmt::Display for NoSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "could not obtain {} of model cache {}",
            self.artifact, self.cache
        )?;
        if self.failures.is_empty() {
            formatter.write_str(": it has no sources; add one under `sources`")?;
            return Ok(());
        }
        for failure in &self.failures {
            write!(formatter, "\n  {failure}")?;
        }
        write!(
            formatter,
            "\n  put the file into one of these places by hand, or correct a source, and try again"
        )?;
        if let Some(sha256) = self.sha256 {
            write!(formatter, " (its sha256 must be {sha256})")?;
        }
        Ok(())
    }
}

/// One source and why it did not serve.
#[derive(Debug, thiserror::Error)]
#[error("{from}: {error}")]
pub struct SourceFailure {
    /// The source, as a person would name it.
    pub from: String,
    /// What happened.
    pub error: SourceError,
}

/// A source that was tried in vain, told while the next one is about to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The artifact's path.
    pub artifact: &'a str,
    /// The source, as a person would name it; `the store` for a file that was here and is damaged.
    pub source: &'a str,
    /// What happened.
    pub error: &'a SourceError,
}

/// Why one source did not serve. None of these says that the next source will fail too.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is there.
    #[error("{what} does not exist")]
    NotFound {
        /// The file or URL looked at.
        what: String,
    },
    /// Something is there that is not used on principle.
    #[error("refused: {why}")]
    Refused {
        /// The rule and what would satisfy it.
        why: String,
    },
    /// The server wants credentials or denies access.
    #[error("{url} answered {status}: the file is private or the repository is gated")]
    Denied {
        /// The URL without query.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The server answered with a status that is no file.
    #[error("{url} answered {status}")]
    Status {
        /// The URL without query.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection failed or broke.
    #[error("could not read {url}: {problem}")]
    Transport {
        /// The URL without query.
        url: String,
        /// The chain of causes.
        problem: String,
    },
    /// The server did not answer or stopped sending.
    #[error("{url} was silent for {after:?}")]
    Silent {
        /// The URL without query.
        url: String,
        /// The configured limit.
        after: Duration,
    },
    /// The body ended before its announced length.
    #[error("{url} ended after {received} of {announced} bytes")]
    Truncated {
        /// The URL without query.
        url: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes promised.
        announced: u64,
    },
    /// The server sends, but so slowly that it would never end.
    #[error("{url} was slower than {limit} bytes/s")]
    Slow {
        /// The URL without query.
        url: String,
        /// The configured limit.
        limit: u64,
    },
    /// The key that the source names is not there or not usable. Never says what it holds.
    #[error("credentials: {problem}")]
    Credentials {
        /// What is wrong and where.
        problem: String,
    },
    /// A registry's manifest says that the file has another digest, so it was not fetched.
    #[error("{what} has digest {actual} instead of {expected}; it was not fetched")]
    OtherDigest {
        /// What has it.
        what: String,
        /// The wanted digest.
        expected: Digest,
        /// The digest named.
        actual: Digest,
    },
    /// The file is larger than the limit.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The source says that the file is larger than what is free. Nothing of it was written.
    #[error("no space left for {}{room}", path.display())]
    DiskFull {
        /// The file that would not fit.
        path: PathBuf,
        /// How much of it would.
        room: Room,
    },
    /// The bytes are not the wanted ones.
    #[error("wrong digest: {actual} instead of {expected}{}", kept(quarantined.as_ref()))]
    WrongDigest {
        /// The wanted digest.
        expected: Digest,
        /// The digest found.
        actual: Digest,
        /// Where a downloaded file was moved to; none for a file of the user's, which stays.
        quarantined: Option<PathBuf>,
    },
    /// A local file could not be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file changed while it was hashed.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Networks are switched off by the caller.
    #[error("not tried: only local files were asked for")]
    Offline,
}

fn kept(quarantined: Option<&PathBuf>) -> String {
    match quarantined {
        Some(path) => format!("; moved to {}", path.display()),
        None => "; the file was left where it is".to_owned(),
    }
}

impl SourceError {
    /// The variant as a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::Refused { .. } => "Refused",
            Self::Denied { .. } => "Denied",
            Self::Status { .. } => "Status",
            Self::Transport { .. } => "Transport",
            Self::Silent { .. } => "Silent",
            Self::Truncated { .. } => "Truncated",
            Self::TooLarge { .. } => "TooLarge",
            Self::DiskFull { .. } => "DiskFull",
            Self::WrongDigest { .. } => "WrongDigest",
            Self::Read { .. } => "Read",
            Self::Changed { .. } => "Changed",
            Self::Offline => "Offline",
            Self::Slow { .. } => "Slow",
            Self::Credentials { .. } => "Credentials",
            Self::OtherDigest { .. } => "OtherDigest",
        }
    }

    /// The cause in the words of a ModelCache's status and events.
    pub fn status_reason(&self) -> &'static str {
        match self {
            Self::WrongDigest { .. } | Self::OtherDigest { .. } | Self::Changed { .. } => {
                "DigestMismatch"
            }
            Self::Truncated { .. } => "Truncated",
            Self::Silent { .. } | Self::Slow { .. } => "Timeout",
            Self::Status { .. } => "HttpError",
            Self::NotFound { .. } => "NotFound",
            Self::Transport { .. } | Self::Read { .. } => "Unreachable",
            Self::Refused { .. } | Self::Offline => "Refused",
            Self::TooLarge { .. } => "TooLarge",
            Self::DiskFull { .. } => "DiskFull",
            Self::Denied { .. } | Self::Credentials { .. } => "CredentialsRefused",
        }
    }

    /// True if wrong bytes of it are now in quarantine.
    pub fn quarantined(&self) -> bool {
        matches!(
            self,
            Self::WrongDigest {
                quarantined: Some(_),
                ..
            }
        )
    }

    /// True if the same request may succeed a moment later.
    pub(crate) fn transient(&self) -> bool {
        match self {
            Self::Transport { .. }
            | Self::Silent { .. }
            | Self::Slow { .. }
            | Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 416 | 425 | 429 | 500..=599),
            Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Denied { .. }
            | Self::Credentials { .. }
            | Self::OtherDigest { .. }
            | Self::TooLarge { .. }
            | Self::DiskFull { .. }
            | Self::WrongDigest { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Offline => false,
        }
    }
}

/// What stops one source: its own failure (the next one is tried), or one that ends everything.
#[derive(Debug)]
pub(crate) enum Stop {
    Source(SourceError),
    All(Error),
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::All(error)
    }
}
