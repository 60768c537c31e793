//! What was decided and to whom it is about to be sent, written down before it is sent, where a policy asks
//! (`audit.durableFrom`).
//!
//! ```text
//!  attempt ──► before ──► decided, sending ──► ledger ──► on disk: it is sent
//!                 │                              └──────► not in time: only the floor goes on
//!                 └──► the floor, without a ledger ──► Queue ──► ledger, when it is back
//!  its end ─────────────────────────────────────────────┘
//! ```
//!
//! Refuses to hold a request up for longer than a bounded time, to keep more than a bounded amount of memory, and to
//! write what a caller wrote: a model's name is written only if it is declared. Drills and probes are nobody's requests
//! and come not here.

mod entries;
mod numbers;
mod queue;
mod trace;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_ledger::{Entry, Event, Ledger, NotDurable};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use numbers::Numbers;
pub(crate) use trace::{Record, Trace, Trail};

use crate::clock::Clock;
use queue::Queue;
use trust::Trust;

/// How long the writing of what nobody waits for may take, and of what is told at the end.
const PATIENT: Duration = Duration::from_secs(10);
/// What could not be written is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// And where it may have been written all the same, after this at last.
const SELDOM: Duration = Duration::from_mins(1);
/// Most entries written at once.
const BATCH: usize = 256;

/// How records are kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name of this process in entries.
    pub(crate) gateway: String,
    /// Longest time for which a request waits for its record.
    pub(crate) wait: Duration,
    /// Memory for what waits to be written, in bytes.
    pub(crate) memory: usize,
}

/// Writes records. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Option<Arc<dyn Ledger>>,
    settings: Settings,
    clock: Clock,
    trust: Trust,
    queue: Queue,
    numbers: Numbers,
    ended: CancellationToken,
}

impl Recorder {
    pub(crate) fn new(ledger: Option<Arc<dyn Ledger>>, settings: Settings, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                ledger,
                queue: Queue::new(settings.memory),
                settings,
                clock,
                trust: Trust::default(),
                numbers: Numbers::default(),
                ended: CancellationToken::new(),
            }),
        }
    }

    /// True if it is worth trying to write now.
    pub(crate) fn durable(&self) -> bool {
        self.ledger_says() && self.shared.trust.worth(Instant::now())
    }

    /// True if there is somebody to write to who has not said yet that it is kept.
    pub(crate) fn reaching(&self) -> bool {
        self.shared.ledger.is_some() && !self.ledger_says()
    }

    /// True if what was last tried was written, and the ledger says nothing else.
    pub(crate) fn well(&self) -> bool {
        self.ledger_says() && self.shared.trust.well()
    }

    fn ledger_says(&self) -> bool {
        let ledger = self.shared.ledger.as_ref();
        ledger.is_some_and(|ledger| ledger.state().durable)
    }

    pub(crate) fn numbers(&self) -> &Numbers {
        &self.shared.numbers
    }

    /// Entries that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    fn entry(&self, event: Event) -> Entry {
        let shared = &self.shared;
        Entry::new(shared.settings.gateway.clone(), (shared.clock)(), event)
    }

    /// Writes these now, and waits a bounded time.
    async fn write(&self, entries: Vec<Entry>) -> Result<(), NotDurable> {
        let shared = &self.shared;
        let Some(ledger) = &shared.ledger else {
            return Err(NotDurable::Unreachable(String::from("none is installed")));
        };
        let started = Instant::now();
        shared.trust.tries(started);
        let words = words(&entries);
        let pending = ledger.append(entries);
        let written = timeout(shared.settings.wait, pending).await;
        let written = written.unwrap_or(Err(NotDurable::Timeout)).map(drop);
        shared.numbers.waited(started.elapsed());
        self.learn(&written);
        if written.is_ok() {
            shared.numbers.written(&words);
        }
        written
    }

    /// These are written as soon as it can be; nobody waits.
    pub(crate) fn later(&self, entries: Vec<Entry>) {
        if self.shared.ledger.is_none() {
            let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            self.shared.numbers.lost(count);
            return;
        }
        let lost = self.shared.queue.push(entries);
        if lost > 0 {
            self.shared.numbers.lost(lost);
        }
    }

    fn learn(&self, written: &Result<(), NotDurable>) {
        match written {
            Ok(()) => {
                if self.shared.trust.good() {
                    tracing::info!("records of decisions can be written again");
                }
            }
            // It says something of these entries and nothing of the ledger.
            Err(error) if error.lasting() => {
                tracing::error!(reason = error.reason(), "the ledger does not take a record");
            }
            Err(error) => {
                if self.shared.trust.bad(Instant::now()) {
                    let reason = error.reason();
                    tracing::warn!(
                        reason,
                        "records of decisions cannot be written: the floor only"
                    );
                }
            }
        }
    }

    /// Writes what waits, until the end; nothing to run without a ledger.
    pub(crate) fn writing(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let ledger = self.shared.ledger.clone()?;
        let recorder = self.clone();
        Some(async move {
            let ended = recorder.shared.ended.clone();
            ended.run_until_cancelled(recorder.drain(&*ledger)).await;
        })
    }

    async fn drain(&self, ledger: &dyn Ledger) {
        let mut pace = Pace::default();
        loop {
            self.shared.queue.something().await;
            let written = self.drain_once(ledger, pace.most).await;
            if let Some(rest) = pace.after(&written) {
                tokio::time::sleep(rest).await;
            }
        }
    }

    /// One batch of at most so many entries.
    async fn drain_once(&self, ledger: &dyn Ledger, most: usize) -> Result<(), NotDurable> {
        let shared = &self.shared;
        let batch = shared.queue.batch(most, |count, since| {
            // What is lost stands before what came after it.
            self.entry(Event::Lost { count, since })
        });
        let entries = batch.copy();
        let words = words(&entries);
        let pending = ledger.append(entries);
        let written = timeout(PATIENT, pending).await;
        let written = written.unwrap_or(Err(NotDurable::Timeout)).map(drop);
        self.learn(&written);
        match &written {
            Ok(()) => {
                shared.numbers.written(&words);
                shared.queue.done(&batch);
            }
            Err(error) if error.lasting() => {
                shared.numbers.lost(shared.queue.refused(&batch));
            }
            Err(_) => {}
        }
        written
    }

    /// Waits at most `limit` for what waits to be written, then ends. Nothing is written afterwards.
    pub(crate) async fn end(&self, limit: Duration) {
        let shared = &self.shared;
        if shared.ledger.is_some() && timeout(limit, shared.queue.nothing()).await.is_err() {
            let entries = shared.queue.len();
            tracing::error!(entries, "ended before all records could be written");
        }
        shared.ended.cancel();
    }
}

/// How much is written at once, and when it is tried again. A ledger that is too slow may have written what it did not
/// acknowledge in time: it is given less, and ever more seldom.
#[derive(Debug)]
struct Pace {
    most: usize,
    rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            most: BATCH,
            rest: AGAIN,
        }
    }
}

impl Pace {
    /// How long to rest.
    fn after(&mut self, written: &Result<(), NotDurable>) -> Option<Duration> {
        match written {
            Ok(()) => {
                self.most = (self.most * 2).min(BATCH);
                self.rest = AGAIN;
                None
            }
            // What is at fault is looked for at once.
            Err(error) if error.lasting() => None,
            Err(NotDurable::Timeout) => {
                self.most = (self.most / 2).max(1);
                let rest = self.rest;
                self.rest = (self.rest * 2).min(SELDOM);
                Some(rest)
            }
            Err(_) => Some(AGAIN),
        }
    }
}

/// Who asks for records: `mesh` if a policy of the mesh namespace does, `team` if another one does.
pub(crate) fn asking(snapshot: &Snapshot) -> impl Iterator<Item = &'static str> {
    let asks = |home: bool| {
        let mut policies = snapshot.policies.iter();
        policies.any(|policy| {
            policy.durable_from.is_some()
                && (policy.id.namespace == snapshot.mesh_namespace) == home
        })
    };
    let found = [(asks(true), "mesh"), (asks(false), "team")];
    found
        .into_iter()
        .filter_map(|(asks, word)| asks.then_some(word))
}

/// Label `event` of each.
fn words(entries: &[Entry]) -> Vec<&'static str> {
    let word = |entry: &Entry| match entry.event {
        Event::Decided { .. } => "decided",
        Event::Sending(_) => "sending",
        Event::Ended(_) => "ended",
        Event::Lost { .. } => "lost",
        // Written by the log itself.
        Event::Removed { .. } => "removed",
    };
    entries.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use mesh_ledger::NotDurable;

    use super::{AGAIN, BATCH, Pace, SELDOM};

    #[test]
    fn a_ledger_that_is_too_slow_is_given_less_and_ever_more_seldom_until_it_is_not() {
        let mut pace = Pace::default();
        let slow = Err(NotDurable::Timeout);
        assert_eq!(pace.after(&slow), Some(AGAIN));
        assert_eq!(pace.after(&slow), Some(AGAIN * 2));
        for _ in 0..20 {
            pace.after(&slow);
        }
        assert_eq!((pace.most, pace.after(&slow)), (1, Some(SELDOM)));
        // One that is not there has written nothing.
        assert_eq!(pace.after(&Err(NotDurable::Closed)), Some(AGAIN));
        assert_eq!(pace.after(&Err(NotDurable::Refused(String::new()))), None);
        assert_eq!(pace.after(&Ok(())), None);
        assert_eq!(pace.after(&slow), Some(AGAIN), "it was good in between");
        for _ in 0..20 {
            pace.after(&Ok(()));
        }
        assert_eq!(pace.most, BATCH);
    }
}
