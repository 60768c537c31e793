//! The log in a folder of this machine.
//!
//! ```text
//!  key                        who signs, of this log alone
//!  00000000000000000000.log   the segment that begins with entry 0
//!  00000000000000031415.log   the next one: what the first line says stands for all before it
//!  lock                       held while a process writes here
//!  reserve                    room that is given free when there is none
//!  ….torn                     what was cut off a segment's end
//! ```
//!
//! One thread of its own writes: whatever waits goes into one write and one `fdatasync`, with a checkpoint at its end, and
//! only then is anybody told. Entries that were not told as kept may be there all the same.
//!
//! Refuses: a folder that another process writes to, and one that was damaged before its newest checkpoint. What a crash
//! left at its end is kept as far as it is whole. A disk that refuses is an answer, never an end: it is tried again every
//! second. What is to be removed is removed from a full one too: some room is held back for the word about it.

mod disk;
mod folder;
mod writer;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use jiff::Timestamp;

pub use disk::Volume;
pub use folder::{OpenError, Segments, segments, set_aside};

use crate::note::PublicKey;
use crate::{Entry, Ledger, Line, NotDurable, Pending, Receipt, State, settled};

/// Sizes and times of a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment of this many bytes is followed by the next.
    pub segment_bytes: u64,
    /// And so is one whose oldest entry is as old as this.
    pub segment_age: Duration,
    /// Segments whose newest entry is older than this are removed; none: never.
    pub keep: Option<Duration>,
    /// The oldest segments are removed while all together have more bytes than this; none: never. The newest stays.
    pub most_bytes: Option<u64>,
    /// The same for so many hundredths of the volume; none: never.
    pub most_percent: Option<u8>,
    /// Bytes of entries that may wait to be written.
    pub waiting_bytes: usize,
}

impl Options {
    /// Keeps as many days, and as many MiB of all segments together; 0: whatever there is.
    #[must_use]
    pub fn keeping(days: u32, mebibytes: u64) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            keep: (days > 0).then(|| DAY.saturating_mul(days)),
            most_bytes: (mebibytes > 0).then(|| mebibytes.saturating_mul(1 << 20)),
            ..Self::default()
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_age: Duration::from_hours(24),
            keep: None,
            most_bytes: None,
            most_percent: None,
            waiting_bytes: 16 << 20,
        }
    }
}

/// A segment that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Number of its first entry.
    pub first: u64,
    /// Bytes that are on disk for certain.
    pub bytes: u64,
    /// When its oldest entry was made, which only says when the next segment begins; none if it has none.
    pub(crate) started: Option<Timestamp>,
    /// When it was last written, by the clock of this machine: what an entry says of itself makes nothing older go.
    pub(crate) written: Timestamp,
}

impl Segment {
    /// Name of its file.
    pub fn file(&self) -> String {
        disk::name(self.first)
    }
}

/// Numbers for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Entries since the log began.
    pub size: u64,
    /// Entries written by this process.
    pub written: u64,
    /// Writes that are on disk.
    pub commits: u64,
    /// Time these took together.
    pub commit_time: Duration,
    /// Writes that failed.
    pub failures: u64,
    /// Segments removed by this process.
    pub removed: u64,
    /// The volume, as it was after the last write, where that can be known.
    pub volume: Option<Volume>,
}

/// A log that is open for writing. Cheap to clone; the last one that goes waits for what is queued.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    key: PublicKey,
    waiting_bytes: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Between those who append and the thread that writes.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    lines: Vec<Line>,
    answer: oneshot::Sender<Result<Receipt, NotDurable>>,
}

#[derive(Debug)]
struct Standing {
    state: State,
    figures: Figures,
    segments: Vec<Segment>,
}

impl Log {
    /// Opens the log of `folder`, or begins one there. Reads the newest segment, which takes as long as its size says.
    ///
    /// # Errors
    /// If the folder cannot be used, somebody else writes there, or it was damaged.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        let found = folder::open(folder)?;
        Self::start(found, options)
    }

    fn start(found: folder::Found, options: Options) -> Result<Self, OpenError> {
        let key = found.signer.public().clone();
        let waiting_bytes = options.waiting_bytes;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            standing: Mutex::new(Standing {
                state: State {
                    durable: false,
                    since: Timestamp::now(),
                    reason: Some(String::from("nothing was written yet")),
                },
                figures: Figures::default(),
                segments: found.segments.clone(),
            }),
        });
        let mut writer = writer::Writer::new(found, options, Arc::clone(&shared));
        writer.try_again();
        let thread = std::thread::Builder::new()
            .name(String::from("ledger"))
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io {
                what: "the thread of the log",
                source,
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                key,
                waiting_bytes,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Who verifies what this signs.
    pub fn key(&self) -> &PublicKey {
        &self.inner.key
    }

    /// As [`Ledger::append`], for entries that somebody else has written down. None of them may be one that only the log
    /// itself writes.
    pub fn append_lines(&self, lines: Vec<Line>) -> Pending {
        if lines.iter().any(|line| line.of_ledger().is_some()) {
            let message = String::from("an entry in the name of the ledger itself");
            return settled(Err(NotDurable::Refused(message)));
        }
        let shared = &self.inner.shared;
        let bytes: usize = lines.iter().map(|line| line.bytes().len() + 1).sum();
        let (answer, told) = oneshot::channel();
        let mut queue = lock(&shared.queue);
        if queue.closed {
            return settled(Err(NotDurable::Closed));
        }
        if bytes > self.inner.waiting_bytes {
            return settled(Err(NotDurable::Refused(format!("{bytes} bytes at once"))));
        }
        if queue.bytes + bytes > self.inner.waiting_bytes {
            return settled(Err(NotDurable::Busy));
        }
        queue.bytes += bytes;
        queue.waiting.push(Waiting { lines, answer });
        drop(queue);
        shared.wake.notify_one();
        Box::pin(told.map(|told| told.unwrap_or(Err(NotDurable::Closed))))
    }

    /// The segments that are there, the oldest first.
    pub fn segments(&self) -> Vec<Segment> {
        lock(&self.inner.shared.standing).segments.clone()
    }

    /// Numbers for metrics.
    pub fn figures(&self) -> Figures {
        lock(&self.inner.shared.standing).figures.clone()
    }

    /// Takes nothing more, and waits until what is queued is written. Blocks.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Ledger for Log {
    fn append(&self, entries: Vec<Entry>) -> Pending {
        let lines: Result<Vec<Line>, _> = entries.iter().map(Line::try_from).collect();
        match lines {
            Ok(lines) => self.append_lines(lines),
            Err(error) => settled(Err(NotDurable::Refused(error.to_string()))),
        }
    }

    fn state(&self) -> State {
        lock(&self.inner.shared.standing).state.clone()
    }
}

impl Inner {
    fn close(&self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A thread that panicked has nothing left to wait for; its answers are `Closed`.
            drop(thread.join());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
