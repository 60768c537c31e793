//! Entries that nobody waits for, in order, within bounded memory. What finds no room is lost, counted, and told in the
//! log itself. Refuses to drop what it has taken in favor of what comes later: the beginning of an outage is what
//! explains it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use mesh_ledger::{Entry, Event};
use tokio::sync::watch;

/// Most bytes written at once, as far as they are known.
const BATCH_BYTES: usize = 1 << 20;
/// What an entry of names and numbers takes.
const SMALL: usize = 512;
/// A tree of values takes so much more than its text.
const TREE: usize = 4;

/// What waits.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    room: usize,
    /// Whether anything waits.
    waiting: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<(Arc<Entry>, usize)>,
    bytes: usize,
    lost: Option<(u64, Timestamp)>,
    /// The last batch was refused for good: the next one is a single entry, so that only what is at fault goes.
    single: bool,
}

/// What is written at once.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Vec<Arc<Entry>>,
    /// Of these, so many are of the queue.
    queued: usize,
    /// Told to be lost.
    lost: u64,
}

impl Batch {
    /// Its entries, for the ledger.
    pub(super) fn copy(&self) -> Vec<Entry> {
        self.entries.iter().map(|entry| (**entry).clone()).collect()
    }
}

impl Queue {
    /// With room for so many bytes.
    pub(super) fn new(room: usize) -> Self {
        Self {
            inner: Mutex::default(),
            room,
            waiting: watch::Sender::new(false),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut inner);
        let waits = !inner.entries.is_empty() || inner.lost.is_some();
        self.waiting
            .send_if_modified(|said| std::mem::replace(said, waits) != waits);
        done
    }

    pub(super) fn len(&self) -> usize {
        self.with(|inner| inner.entries.len())
    }

    /// Takes these. How many found no room.
    pub(super) fn push(&self, entries: Vec<Entry>) -> u64 {
        self.with(|inner| {
            let mut lost = 0;
            for entry in entries {
                let size = size(&entry);
                if inner.bytes + size > self.room {
                    lost += 1;
                    inner.lose(1, entry.time);
                } else {
                    inner.bytes += size;
                    inner.entries.push_back((Arc::new(entry), size));
                }
            }
            lost
        })
    }

    /// The first that wait, at most so many, and what `told` says of those that were lost.
    pub(super) fn batch(&self, most: usize, told: impl FnOnce(u64, Timestamp) -> Entry) -> Batch {
        self.with(|inner| {
            let most = if inner.single { 1 } else { most };
            let mut bytes = 0;
            let first = inner.entries.iter().take(most).take_while(|(_, size)| {
                let fits = bytes == 0 || bytes + size <= BATCH_BYTES;
                bytes += size;
                fits
            });
            let mut entries: Vec<Arc<Entry>> = first.map(|(entry, _)| Arc::clone(entry)).collect();
            let queued = entries.len();
            let lost = inner.lost.filter(|_| !inner.single || queued == 0);
            entries.extend(lost.map(|(count, since)| Arc::new(told(count, since))));
            Batch {
                entries,
                queued,
                lost: lost.map_or(0, |(count, _)| count),
            }
        })
    }

    /// The batch is written.
    pub(super) fn done(&self, batch: &Batch) {
        self.with(|inner| {
            inner.drop_first(batch.queued);
            inner.single = false;
            inner.lost = inner.lost.and_then(|(count, since)| {
                let left = count.saturating_sub(batch.lost);
                (left > 0).then_some((left, since))
            });
        });
    }

    /// The batch will never be taken. How many entries are lost by that: none if it was more than one, which are
    /// then tried one by one.
    pub(super) fn refused(&self, batch: &Batch) -> u64 {
        self.with(|inner| {
            if batch.entries.len() > 1 {
                inner.single = true;
                return 0;
            }
            inner.single = false;
            if batch.lost > 0 {
                // Not even that can be told.
                inner.lost = None;
            }
            let Some(entry) = batch.entries.first().filter(|_| batch.queued > 0) else {
                return 0;
            };
            inner.drop_first(batch.queued);
            inner.lose(1, entry.time);
            1
        })
    }

    /// Resolves when something waits.
    pub(super) async fn something(&self) {
        // The sender is ours.
        drop(self.waiting.subscribe().wait_for(|waits| *waits).await);
    }

    /// Resolves when nothing waits.
    pub(super) async fn nothing(&self) {
        drop(self.waiting.subscribe().wait_for(|waits| !waits).await);
    }
}

impl Inner {
    fn lose(&mut self, count: u64, at: Timestamp) {
        let (before, since) = self.lost.unwrap_or((0, at));
        self.lost = Some((before + count, since));
    }

    fn drop_first(&mut self, count: usize) {
        let gone: usize = self.entries.drain(..count).map(|(_, size)| size).sum();
        self.bytes = self.bytes.saturating_sub(gone);
    }
}

/// About what an entry takes in memory.
fn size(entry: &Entry) -> usize {
    match &entry.event {
        Event::Decided { decision, .. } => SMALL + TREE * decision.to_string().len(),
        _ => SMALL,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use mesh_ledger::{Entry, Event};

    use super::{Batch, Queue, SMALL};

    const MOST: usize = 16;

    fn next(queue: &Queue) -> Batch {
        queue.batch(MOST, told)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("an instant")
    }

    /// An entry that is told apart by its time.
    fn entry(second: i64) -> Entry {
        let event = Event::Lost {
            count: 1,
            since: at(0),
        };
        Entry::new("mesh", at(second), event)
    }

    fn told(count: u64, since: Timestamp) -> Entry {
        Entry::new("mesh", at(0), Event::Lost { count, since })
    }

    fn seconds(entries: &[Entry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.time.as_second()).collect()
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_with_when_it_began() {
        let queue = Queue::new(2 * SMALL);
        assert_eq!(queue.push(vec![entry(1), entry(2), entry(3)]), 1);
        assert_eq!(queue.push(vec![entry(4)]), 1);
        let first = next(&queue);
        assert_eq!(seconds(&first.copy()[..2]), [1, 2], "the oldest are kept");
        assert_eq!(first.copy()[2..], [told(2, at(3))]);
        // While it is written, more is lost: that is told the next time.
        assert_eq!(queue.push(vec![entry(5)]), 1);
        queue.done(&first);
        assert_eq!(queue.len(), 0);
        let second = next(&queue);
        assert_eq!(second.copy(), [told(1, at(3))]);
        queue.done(&second);
        assert_eq!(next(&queue).copy(), []);
    }

    #[test]
    fn a_batch_that_is_refused_for_good_is_tried_one_by_one_and_only_the_fault_goes() {
        let queue = Queue::new(1 << 20);
        queue.push(vec![entry(1), entry(2), entry(3)]);
        let all = next(&queue);
        assert_eq!(all.copy().len(), 3);
        assert_eq!(queue.refused(&all), 0);
        let one = next(&queue);
        assert_eq!(seconds(&one.copy()), [1]);
        assert_eq!(queue.refused(&one), 1, "the fault");
        let rest = next(&queue);
        assert_eq!(seconds(&rest.copy()[..2]), [2, 3]);
        assert_eq!(rest.copy()[2..], [told(1, at(1))]);
        queue.done(&rest);
        assert_eq!(next(&queue).copy(), []);
    }

    #[test]
    fn a_batch_is_bounded_and_what_follows_keeps_its_order() {
        let queue = Queue::new(1 << 20);
        queue.push((0..20).map(entry).collect());
        let first = next(&queue);
        assert_eq!(first.copy().len(), MOST);
        queue.done(&first);
        assert_eq!(seconds(&next(&queue).copy()), [16, 17, 18, 19]);
    }
}
