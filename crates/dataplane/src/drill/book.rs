//! When each floor is asked next, and what came of it. What is no longer wanted is forgotten with its numbers.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::BackendId;
use tokio::time::Instant;

use super::wanted::Wanted;

/// When a floor that did not answer is asked again, unless its interval is short.
const AGAIN: Duration = Duration::from_mins(1);
/// Longest interval that is kept; the door refuses longer ones.
const LONGEST: Duration = Duration::from_hours(168);

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The whole answer came.
    Succeeded,
    /// It had others to serve: neither a proof nor a fault.
    Busy,
    /// It did not answer.
    Failed,
    /// Policy lets it serve nobody.
    Refused,
}

impl Outcome {
    pub(crate) const ALL: [Self; 4] = [Self::Succeeded, Self::Busy, Self::Failed, Self::Refused];

    /// The word of the label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// All drills of this process.
#[derive(Debug, Default)]
pub(crate) struct Drills {
    entries: Mutex<BTreeMap<BackendId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    /// When it last answered, or since when it is drilled.
    proved: Instant,
    next: Instant,
    running: bool,
    /// Whether it answered when it was last asked and not busy.
    answered: Option<bool>,
    took: Option<Duration>,
    counts: BTreeMap<Outcome, u64>,
}

/// One floor, for metrics.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) backend: BackendId,
    /// Since it last answered, or since it is drilled.
    pub(crate) age: Duration,
    pub(crate) interval: Duration,
    pub(crate) answered: Option<bool>,
    /// Time of the last drill that succeeded.
    pub(crate) took: Option<Duration>,
    pub(crate) counts: [(Outcome, u64); Outcome::ALL.len()],
}

impl Drills {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the floors those that are wanted: what is new is asked within `within`, what is gone is forgotten.
    pub(super) fn keep(&self, wanted: Vec<Wanted>, within: Duration) {
        let now = Instant::now();
        let mut entries = self.lock();
        let mut kept = BTreeMap::new();
        for wanted in wanted {
            let id = wanted.floor.clone();
            let entry = match entries.remove(&id) {
                Some(mut entry) => {
                    if wanted.interval < entry.wanted.interval {
                        entry.next = entry.next.min(now + spread(&wanted, wanted.interval));
                    }
                    Entry { wanted, ..entry }
                }
                None => Entry {
                    proved: now,
                    next: now + within.mul_f64(chance(&id)),
                    running: false,
                    answered: None,
                    took: None,
                    counts: BTreeMap::new(),
                    wanted,
                },
            };
            kept.insert(id, entry);
        }
        *entries = kept;
    }

    /// Floors whose time has come; each until it [`ended`](Self::ended).
    pub(super) fn due(&self, now: Instant) -> Vec<Wanted> {
        let mut entries = self.lock();
        let waiting = entries.values_mut();
        let due = waiting.filter(|entry| !entry.running && entry.next <= now);
        due.map(|entry| {
            entry.running = true;
            entry.wanted.clone()
        })
        .collect()
    }

    /// When the next time comes.
    pub(super) fn next(&self) -> Option<Instant> {
        let entries = self.lock();
        let waiting = entries.values().filter(|entry| !entry.running);
        waiting.map(|entry| entry.next).min()
    }

    /// Notes how a drill ended.
    pub(super) fn ended(&self, floor: &BackendId, outcome: Outcome, took: Duration) {
        let now = Instant::now();
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(floor) else {
            return;
        };
        entry.running = false;
        *entry.counts.entry(outcome).or_default() += 1;
        let interval = entry.wanted.interval.min(LONGEST);
        let pause = match outcome {
            Outcome::Succeeded => {
                (entry.proved, entry.took) = (now, Some(took));
                entry.answered = Some(true);
                interval
            }
            Outcome::Busy => AGAIN.min(interval / 4),
            Outcome::Failed | Outcome::Refused => {
                entry.answered = Some(false);
                AGAIN.min(interval / 4)
            }
        };
        entry.next = now + spread(&entry.wanted, pause);
    }

    /// All of them, for metrics.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let entries = self.lock();
        let shown = |(id, entry): (&BackendId, &Entry)| Shown {
            backend: id.clone(),
            age: entry.proved.elapsed(),
            interval: entry.wanted.interval,
            answered: entry.answered,
            took: entry.took,
            counts: Outcome::ALL
                .map(|outcome| (outcome, entry.counts.get(&outcome).copied().unwrap_or(0))),
        };
        entries.iter().map(shown).collect()
    }
}

/// From 0 to 1, another one each time: gateways that start together do not ask together for ever.
fn chance(id: &BackendId) -> f64 {
    let drawn = RandomState::new().hash_one(id) >> 32;
    f64::from(u32::try_from(drawn).unwrap_or(0)) / f64::from(u32::MAX)
}

/// A time up to a tenth shorter.
fn spread(wanted: &Wanted, time: Duration) -> Duration {
    time.min(LONGEST).mul_f64(1.0 - 0.1 * chance(&wanted.floor))
}
