//! The log as requests see it: open, or shut with the reason why. One that cannot be opened is still shown, since whoever
//! must find out what happened to it has no other way to the volume.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use mesh_ledger::log::{OpenError, Options, segments, set_aside};
use mesh_ledger::{Ledger, Line, Log, NotDurable, Pending, State, settled};

/// The log of a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    folder: Arc<Path>,
    log: Result<Log, State>,
}

impl Keeper {
    /// Opens it; one that is damaged or without its key stays shut, unless it is to be set aside by this name and was not
    /// yet. Blocks.
    ///
    /// # Errors
    /// If the folder cannot be used at all.
    pub(crate) fn open(folder: &Path, options: Options, aside: &str) -> Result<Self, OpenError> {
        let mut opened = Log::open(folder, options.clone());
        if !aside.is_empty() && opened.as_ref().is_err_and(lasting) && set_aside(folder, aside)? {
            tracing::warn!(name = aside, "the log was set aside, and a new one begins");
            opened = Log::open(folder, options);
        }
        match opened {
            Ok(log) => Ok(Self::of(log, folder)),
            Err(error) if lasting(&error) => {
                tracing::error!(%error, "the log cannot be opened: nothing is kept");
                Ok(Self::shut(folder, error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// An open one.
    pub(crate) fn of(log: Log, folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            log: Ok(log),
        }
    }

    /// One that keeps nothing.
    pub(crate) fn shut(folder: &Path, reason: String) -> Self {
        Self {
            folder: folder.into(),
            log: Err(State {
                durable: false,
                since: Timestamp::now(),
                reason: Some(reason),
            }),
        }
    }

    pub(crate) fn log(&self) -> Option<&Log> {
        self.log.as_ref().ok()
    }

    pub(crate) fn state(&self) -> State {
        match &self.log {
            Ok(log) => log.state(),
            Err(state) => state.clone(),
        }
    }

    pub(crate) fn append(&self, lines: Vec<Line>) -> Pending {
        match &self.log {
            Ok(log) => log.append_lines(lines),
            Err(state) => settled(Err(NotDurable::Disk(
                state.reason.clone().unwrap_or_default(),
            ))),
        }
    }

    /// Files of the log and how much of each is on disk for certain, the oldest first.
    pub(crate) fn files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        if let Ok(log) = &self.log {
            let segments = log.segments().into_iter();
            let files = segments.map(|segment| (self.folder.join(segment.file()), segment.bytes));
            return Ok(files.collect());
        }
        let files = segments(&self.folder)?.into_iter();
        files
            .map(|file| {
                let length = file.metadata()?.len();
                Ok((file, length))
            })
            .collect()
    }
}

/// True if it would be the same at the next start.
fn lasting(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::Damaged { .. } | OpenError::NoKey | OpenError::Key(_)
    )
}
