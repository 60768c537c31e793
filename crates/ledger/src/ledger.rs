//! Who keeps entries, as seen by who writes them.

use std::future::{Future, ready};
use std::pin::Pin;

use jiff::Timestamp;

use crate::Entry;

/// The answer to an append. Writing begins with the call, not with the first poll: who drops this has written all the same,
/// and does not learn whether it was kept.
pub type Pending = Pin<Box<dyn Future<Output = Result<Receipt, NotDurable>> + Send>>;

/// Entries are on disk: `first` is the number of the first one, counted from 0 since the log began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the first entry.
    pub first: u64,
    /// Entries of the whole log, these included.
    pub size: u64,
}

/// Why entries are not known to be on disk. They may be all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    /// No ledger can be reached.
    #[error("the ledger cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the ledger did not answer in time")]
    Timeout,
    /// More is waiting to be written than may wait.
    #[error("more entries wait for the ledger than may wait")]
    Busy,
    /// The disk refuses.
    #[error("the ledger cannot write: {0}")]
    Disk(String),
    /// It does not take these entries: they are too large, or it knows no such event. It would refuse them again.
    #[error("the ledger does not take this: {0}")]
    Refused(String),
    /// It was asked to end.
    #[error("the ledger has ended")]
    Closed,
}

impl NotDurable {
    /// The reason in PascalCase.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "LedgerUnreachable",
            Self::Timeout => "LedgerTimeout",
            Self::Busy => "LedgerBusy",
            Self::Disk(_) => "LedgerDisk",
            Self::Refused(_) => "LedgerRefused",
            Self::Closed => "LedgerClosed",
        }
    }

    /// True if the same entries would be refused again.
    pub const fn lasting(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Whether what is appended now would be kept, as far as is known without trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// True if the last attempt to write or to reach it was good.
    pub durable: bool,
    /// Since when that is so.
    pub since: Timestamp,
    /// Why not, for a person.
    pub reason: Option<String>,
}

/// Keeps entries. Cheap to call: neither function waits.
pub trait Ledger: Send + Sync {
    /// Writes these together, in this order, with no entry of others between them. How long the answer is waited for is
    /// the caller's matter, but an implementation that reaches over a network gives up by itself.
    fn append(&self, entries: Vec<Entry>) -> Pending;

    /// Whether it is worth asking.
    fn state(&self) -> State;
}

/// An answer that is known at once.
pub fn settled(answer: Result<Receipt, NotDurable>) -> Pending {
    Box::pin(ready(answer))
}
