//! The thread that writes.

use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::disk::Disk;
use super::folder::{Found, beginning};
use super::{Options, Segment, Shared, Standing, Waiting, lock};
use crate::checkpoint::Checkpoint;
use crate::entry::LEDGER;
use crate::note::Signer;
use crate::record;
use crate::tree::Frontier;
use crate::{Entry, Event, Line, NotDurable, Receipt, State};

/// Most bytes of one write, as long as one request has no more.
const BATCH: usize = 4 << 20;
/// How often a disk that refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether something is old enough to go, while nothing is written.
const LOOK: Duration = Duration::from_mins(10);
/// A volume has room for at least this many segments, so that the oldest can go.
const PARTS: u64 = 16;

pub(super) struct Writer {
    disk: Box<dyn Disk>,
    signer: Signer,
    options: Options,
    shared: Arc<Shared>,
    tree: Frontier,
    segments: Vec<Segment>,
    /// There may be more in the newest segment than is known to be good.
    dirty: bool,
    failed: bool,
    /// It failed for want of room.
    full: bool,
    /// When what is too old could not be removed.
    untidy: Option<Timestamp>,
}

/// Which room is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// What everybody may use.
    Free,
    /// What was held back to say what is removed.
    HeldBack,
}

enum Work {
    Batch(Vec<Waiting>),
    Nothing,
    End,
}

impl Writer {
    pub(super) fn new(found: Found, options: Options, shared: Arc<Shared>) -> Self {
        Self {
            disk: found.disk,
            signer: found.signer,
            options,
            shared,
            tree: found.tree,
            segments: found.segments,
            dirty: true,
            failed: true,
            full: false,
            untidy: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.work() {
                Work::Batch(batch) => self.commit(batch),
                Work::Nothing if self.failed => self.try_again(),
                Work::Nothing => self.hold_back(),
                Work::End => return,
            }
            if !self.failed {
                self.turn();
            }
            if !self.failed || self.full {
                self.tidy();
            }
        }
    }

    /// Waits for something to do.
    fn work(&self) -> Work {
        let mut queue = lock(&self.shared.queue);
        if queue.waiting.is_empty() && !queue.closed {
            let wait = if self.failed { AGAIN } else { LOOK };
            let woken = self.shared.wake.wait_timeout(queue, wait);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut bytes, mut count) = (0, 0);
        for waiting in &queue.waiting {
            let more = size(waiting);
            if count > 0 && bytes + more > BATCH {
                break;
            }
            (bytes, count) = (bytes + more, count + 1);
        }
        queue.bytes -= bytes;
        match (count, queue.closed) {
            (0, true) => Work::End,
            (0, false) => Work::Nothing,
            _ => Work::Batch(queue.waiting.drain(..count).collect()),
        }
    }

    fn commit(&mut self, batch: Vec<Waiting>) {
        let lines: Vec<&Line> = batch.iter().flat_map(|waiting| &waiting.lines).collect();
        let first = self.tree.size();
        let written = self.write(&lines, Room::Free);
        let mut next = first;
        for waiting in batch {
            let answer = match &written {
                Ok(()) => Ok(Receipt {
                    first: next,
                    size: self.tree.size(),
                }),
                Err(error) => Err(NotDurable::Disk(error.to_string())),
            };
            next += waiting.lines.len() as u64;
            // Who asked may have gone.
            let _ = waiting.answer.send(answer);
        }
    }

    /// Finds out whether the disk takes anything, by one more checkpoint.
    pub(super) fn try_again(&mut self) {
        // The state tells how that went.
        drop(self.write(&[], Room::Free));
        if !self.failed {
            self.hold_back();
        }
    }

    /// Without that room a full disk would have to be mended by hand.
    fn hold_back(&mut self) {
        if let Err(error) = self.disk.reserve() {
            tracing::warn!(%error, "no room can be held back for the log");
        }
    }

    /// Writes entries and a checkpoint; then they are on disk, or the log is as it was.
    fn write(&mut self, lines: &[&Line], room: Room) -> io::Result<()> {
        let begun = Timestamp::now();
        let mut tree = self.tree.clone();
        let mut text = Vec::new();
        for line in lines {
            tree.push(line.leaf());
            text.extend_from_slice(line.bytes());
            text.push(b'\n');
        }
        let checkpoint = record::checkpoint(Checkpoint::of(&tree).sign(&self.signer));
        text.extend_from_slice(checkpoint.as_bytes());
        text.push(b'\n');
        let written = self.put(&text, room);
        if written.is_ok() {
            self.tree = tree;
            if let Some(newest) = self.segments.last_mut() {
                newest.bytes += text.len() as u64;
                newest.written = begun;
                if !lines.is_empty() {
                    newest.started.get_or_insert(begun);
                }
            }
        }
        self.tell(lines.len() as u64, begun, written.as_ref().err());
        written
    }

    fn put(&mut self, text: &[u8], room: Room) -> io::Result<()> {
        if self.full && room == Room::Free {
            // A few lines may fit into the last block and the next ones not: that is no disk that takes again.
            self.disk.room()?;
        }
        if self.dirty {
            // Also after a failed sync: whether its pages are on disk is not known, and another sync would not tell. They
            // are written again.
            let good = self.segments.last().map_or(0, |newest| newest.bytes);
            self.disk.cut(good)?;
        }
        self.dirty = true;
        self.disk.add(text)?;
        self.disk.sync()?;
        self.dirty = false;
        Ok(())
    }

    fn tell(&mut self, lines: u64, begun: Timestamp, error: Option<&io::Error>) {
        let now = Timestamp::now();
        let mut standing = lock(&self.shared.standing);
        let Standing {
            state,
            figures,
            segments,
        } = &mut *standing;
        let reason = error.map(ToString::to_string);
        if let Some(reason) = &reason {
            figures.failures += 1;
            if state.reason.as_ref() != Some(reason) {
                tracing::error!(%reason, "the log cannot be written");
            }
        } else {
            figures.commits += 1;
            figures.written += lines;
            figures.commit_time += now.duration_since(begun).try_into().unwrap_or_default();
            if self.failed {
                tracing::info!(entries = self.tree.size(), "the log is written");
            }
        }
        self.failed = reason.is_some();
        let kind = error.map(io::Error::kind);
        self.full = matches!(
            kind,
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        );
        figures.volume = self.disk.volume();
        figures.size = self.tree.size();
        if state.durable == self.failed {
            state.since = now;
        }
        *state = State {
            durable: !self.failed,
            since: state.since,
            reason,
        };
        segments.clone_from(&self.segments);
    }

    /// Begins the next segment, if it is time. If that fails, this one goes on.
    fn turn(&mut self) {
        let Some(newest) = self.segments.last() else {
            return;
        };
        // One without entries would be followed by one of the same name.
        let any = newest.first < self.tree.size();
        let old = newest
            .started
            .is_some_and(|started| older(started, self.options.segment_age));
        let most = self
            .disk
            .volume()
            .map_or(u64::MAX, |volume| volume.total / PARTS);
        let most = self.options.segment_bytes.min(most);
        let full = newest.bytes >= most;
        if !any || !(old || full) || self.dirty {
            return;
        }
        let (first, bytes) = (self.tree.size(), beginning(&self.signer, &self.tree));
        if let Err(error) = self.disk.begin(first, &bytes) {
            tracing::warn!(%error, "the next segment of the log cannot be made");
            return;
        }
        self.segments.push(Segment {
            first,
            bytes: bytes.len() as u64,
            started: None,
            written: Timestamp::now(),
        });
        lock(&self.shared.standing)
            .segments
            .clone_from(&self.segments);
    }

    /// Removes what is older or more than is kept: whole segments, and the log says so first.
    fn tidy(&mut self) {
        let count = self.surplus();
        let Some(before) = self.segments.get(count).map(|segment| segment.first) else {
            return;
        };
        if count == 0 || self.untidy.is_some_and(|since| !older(since, LOOK)) {
            return;
        }
        self.untidy = None;
        if self.full
            && let Err(error) = self.disk.release()
        {
            tracing::warn!(%error, "no room can be given free for the log");
        }
        let entry = Entry::new(LEDGER, Timestamp::now(), Event::Removed { before });
        let told = Line::try_from(&entry).map_err(io::Error::other);
        if told
            .and_then(|line| self.write(&[&line], Room::HeldBack))
            .is_err()
        {
            return;
        }
        for _ in 0..count {
            let first = self.segments[0].first;
            match self.disk.remove(first) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, first, "an old segment of the log cannot be removed");
                    self.untidy = Some(Timestamp::now());
                    break;
                }
            }
            self.segments.remove(0);
            tracing::info!(first, "an old segment of the log was removed");
            lock(&self.shared.standing).figures.removed += 1;
        }
        lock(&self.shared.standing)
            .segments
            .clone_from(&self.segments);
        self.hold_back();
    }

    /// How many of the oldest segments are to go.
    fn surplus(&self) -> usize {
        let mut total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let percent = self.options.most_percent.zip(self.disk.volume());
        let share =
            percent.map(|(percent, volume)| volume.total / 100 * u64::from(percent.min(100)));
        let most = self.options.most_bytes.into_iter().chain(share).min();
        let older_ones = self.segments.iter().rev().skip(1).rev();
        let go = older_ones.take_while(|segment| {
            let keep = self.options.keep;
            let old = keep.is_some_and(|keep| older(segment.written, keep));
            let much = most.is_some_and(|most| total > most);
            total -= segment.bytes;
            old || much
        });
        go.count()
    }
}

fn size(waiting: &Waiting) -> usize {
    waiting
        .lines
        .iter()
        .map(|line| line.bytes().len() + 1)
        .sum()
}

fn older(than: Timestamp, age: Duration) -> bool {
    let passed = Timestamp::now().duration_since(than);
    SignedDuration::try_from(age).is_ok_and(|age| passed >= age)
}
