//! A ledger in memory, for tests: it keeps what it is given and can be told to fail, or not to answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::channel::oneshot;
use jiff::Timestamp;

use crate::{Entry, Ledger, NotDurable, Pending, Receipt, State, settled};

/// Keeps entries for as long as it lives. Never for production: nothing is on disk.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    mode: Mode,
    waiting: Vec<Waiting>,
}

/// Entries and who is told.
type Waiting = (Vec<Entry>, oneshot::Sender<Result<Receipt, NotDurable>>);

#[derive(Debug, Clone, Default)]
enum Mode {
    #[default]
    Good,
    /// Refuses, and says so in its state if `known`.
    Failing {
        error: NotDurable,
        known: bool,
    },
    Silent,
}

impl Memory {
    /// One that is empty and good.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every append fails with this; `known`: [`Ledger::state`] says so too, as of a ledger that is known to be
    /// down. Those that wait get the same.
    pub fn fail(&self, error: NotDurable, known: bool) {
        let mut inner = self.lock();
        for (_, answer) in inner.waiting.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
        inner.mode = Mode::Failing { error, known };
    }

    /// From now on nothing is answered, until [`heal`](Self::heal) or [`fail`](Self::fail).
    pub fn hold(&self) {
        self.lock().mode = Mode::Silent;
    }

    /// From now on everything is kept, first what waits.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.mode = Mode::Good;
        for (entries, answer) in std::mem::take(&mut inner.waiting) {
            let receipt = inner.keep(entries);
            let _ = answer.send(Ok(receipt));
        }
    }

    /// What it has kept.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, entries: Vec<Entry>) -> Receipt {
        let first = self.entries.len() as u64;
        self.entries.extend(entries);
        Receipt {
            first,
            size: self.entries.len() as u64,
        }
    }
}

impl Ledger for Memory {
    fn append(&self, entries: Vec<Entry>) -> Pending {
        let mut inner = self.lock();
        match inner.mode.clone() {
            Mode::Good => settled(Ok(inner.keep(entries))),
            Mode::Failing { error, .. } => settled(Err(error)),
            Mode::Silent => {
                let (sender, answer) = oneshot::channel();
                inner.waiting.push((entries, sender));
                Box::pin(answer.map(|answer| answer.unwrap_or(Err(NotDurable::Closed))))
            }
        }
    }

    fn state(&self) -> State {
        let reason = match &self.lock().mode {
            Mode::Failing { error, known: true } => Some(error.to_string()),
            _ => None,
        };
        State {
            durable: reason.is_none(),
            since: Timestamp::UNIX_EPOCH,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::executor::block_on;

    use super::Memory;
    use crate::entry::tests::lost;
    use crate::{Ledger, NotDurable, Receipt};

    #[test]
    fn it_keeps_what_it_is_given_and_fails_when_told() {
        let ledger = Memory::new();
        let kept = block_on(ledger.append(vec![lost(1), lost(2)]));
        assert_eq!(kept, Ok(Receipt { first: 0, size: 2 }));
        ledger.fail(NotDurable::Busy, false);
        assert_eq!(
            block_on(ledger.append(vec![lost(3)])),
            Err(NotDurable::Busy)
        );
        assert!(ledger.state().durable);
        ledger.fail(NotDurable::Busy, true);
        assert!(!ledger.state().durable);
        assert_eq!(ledger.entries(), [lost(1), lost(2)]);
    }

    #[test]
    fn one_that_holds_answers_when_it_is_healed_even_those_that_nobody_waits_for() {
        let ledger = Memory::new();
        ledger.hold();
        drop(ledger.append(vec![lost(1)]));
        let mut waits = ledger.append(vec![lost(2)]);
        assert_eq!((&mut waits).now_or_never(), None);
        ledger.heal();
        assert_eq!(block_on(waits), Ok(Receipt { first: 1, size: 2 }));
        assert_eq!(ledger.entries(), [lost(1), lost(2)]);
    }
}
