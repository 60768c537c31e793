//! What the API server said of tokens, and how many questions of a namespace are on their way: each namespace has its
//! share, so that the tokens of one keep no other waiting.
//!
//! Refuses to grow: who needs room for one more answer gets it from the namespace that has most.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Answer, Asker, BRIEF, PAUSE};

/// Tokens of which an answer is kept.
pub(super) const MOST: usize = 16_384;
/// Questions of one namespace on their way at once: some for requests, as many for streams.
const SHARE: usize = 4;
/// Not more often is it looked which answers no longer count.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) type Hash = [u8; 32];

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One for requests and one for streams.
pub(super) struct Both<T> {
    request: T,
    stream: T,
}

impl<T> Both<T> {
    pub(super) const fn new(request: T, stream: T) -> Self {
        Self { request, stream }
    }

    pub(super) const fn of(&self, asker: Asker) -> &T {
        match asker {
            Asker::Request => &self.request,
            Asker::Stream => &self.stream,
        }
    }
}

/// Of one token: the last answer and of when it is, and whose turn it is to ask.
pub(super) struct Slot {
    last: Mutex<Option<(Instant, Answer)>>,
    pub(super) turn: Both<tokio::sync::Mutex<()>>,
}

impl Slot {
    fn new() -> Self {
        Self {
            last: Mutex::default(),
            turn: Both::new(tokio::sync::Mutex::default(), tokio::sync::Mutex::default()),
        }
    }

    /// The answer, if it counted at `at` or is younger.
    pub(super) fn counts(&self, oldest: Duration, at: Instant) -> Option<Answer> {
        let last = *lock(&self.last);
        let (since, answer) = last?;
        let lives = match answer {
            Answer::Holds => oldest,
            Answer::TakenBack => oldest.min(BRIEF),
            Answer::Unknown => PAUSE,
        };
        (at.saturating_duration_since(since) < lives).then_some(answer)
    }

    /// Keeps the answer, unless a younger one is there; a question in vain takes nothing away that still counts.
    pub(super) fn keep(&self, oldest: Duration, since: Instant, answer: Answer) {
        if answer == Answer::Unknown && self.counts(oldest, since).is_some() {
            return;
        }
        let mut last = lock(&self.last);
        if last.is_none_or(|(before, _)| before <= since) {
            *last = Some((since, answer));
        }
    }
}

/// Of one namespace.
struct Tenant {
    slots: HashMap<Hash, Arc<Slot>>,
    /// Oldest first.
    order: VecDeque<Hash>,
    share: Arc<Both<Semaphore>>,
}

impl Tenant {
    fn new() -> Self {
        Self {
            slots: HashMap::new(),
            order: VecDeque::new(),
            share: Arc::new(Both::new(Semaphore::new(SHARE), Semaphore::new(SHARE))),
        }
    }
}

/// By namespace.
#[derive(Default)]
pub(super) struct Kept {
    tenants: HashMap<String, Tenant>,
    count: usize,
    swept: Option<Instant>,
}

impl Kept {
    /// The slot of a token, and the share of its namespace.
    pub(super) fn find(
        &mut self,
        namespace: &str,
        hash: Hash,
        oldest: Duration,
    ) -> (Arc<Slot>, Arc<Both<Semaphore>>) {
        if let Some(tenant) = self.tenants.get(namespace)
            && let Some(slot) = tenant.slots.get(&hash)
        {
            return (Arc::clone(slot), Arc::clone(&tenant.share));
        }
        if self.count >= MOST {
            self.sweep(oldest);
        }
        if self.count >= MOST {
            self.displace();
        }
        let tenant = self
            .tenants
            .entry(namespace.to_owned())
            .or_insert_with(Tenant::new);
        let slot = Arc::new(Slot::new());
        tenant.slots.insert(hash, Arc::clone(&slot));
        tenant.order.push_back(hash);
        self.count += 1;
        (slot, Arc::clone(&tenant.share))
    }

    /// Forgets what no longer counts.
    fn sweep(&mut self, oldest: Duration) {
        let now = Instant::now();
        if self.swept.is_some_and(|before| now - before < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.tenants.retain(|_, tenant| {
            let Tenant {
                slots,
                order,
                share,
            } = tenant;
            // Who waits for an answer holds the slot.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.counts(oldest, now).is_some()
            });
            order.retain(|hash| slots.contains_key(hash));
            !slots.is_empty() || Arc::strong_count(share) > 1
        });
        self.count = self.tenants.values().map(|tenant| tenant.slots.len()).sum();
    }

    /// The namespace that has most gives up its oldest. Who waits for that one still gets it.
    fn displace(&mut self) {
        let most = self.tenants.values_mut().max_by_key(|one| one.slots.len());
        if let Some(tenant) = most
            && let Some(hash) = tenant.order.pop_front()
            && tenant.slots.remove(&hash).is_some()
        {
            self.count -= 1;
        }
    }

    /// How many answers are kept, and how many of one namespace.
    #[cfg(test)]
    pub(super) fn count(&self, namespace: &str) -> (usize, usize) {
        let of = self.tenants.get(namespace);
        (self.count, of.map_or(0, |tenant| tenant.slots.len()))
    }
}
