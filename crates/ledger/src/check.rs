//! Who verifies a log: reads it line by line from its oldest kept entry on, builds the tree again and compares it with
//! every checkpoint in it, and with those that somebody has kept elsewhere.
//!
//! Finds every change, removal, insertion and change of order of entries before the newest checkpoint. That entries were
//! cut off the end together with their checkpoints it finds by a checkpoint kept elsewhere, and nothing else can.

use std::io::{self, BufRead, Read};

use crate::Event;
use crate::checkpoint::Checkpoint;
use crate::entry::{LARGEST_ENTRY, Line};
use crate::note::{NoteError, PublicKey};
use crate::record::{self, Record};
use crate::tree::Frontier;

/// Longest line: an entry, or the few hundred bytes that the others have.
const LONGEST_LINE: u64 = LARGEST_ENTRY as u64 + 1;

/// Where a log is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, before entry {entry}: {what}")]
pub struct Fault {
    /// Number of the line that was read, from 1.
    pub line: u64,
    /// Number of the entry that would have come next.
    pub entry: u64,
    /// What is wrong.
    pub what: Broken,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The line is none of a log.
    #[error("not a line of a log: {0}")]
    Line(String),
    /// It does not begin with the first line of a segment.
    #[error("it does not begin as a log does")]
    Beginning,
    /// A segment does not go on where the last one ended.
    #[error("the next segment begins at entry {0}")]
    Gap(u64),
    /// A segment stands for other entries than those before it.
    #[error("the next segment follows other entries than these")]
    Frontier,
    /// Another key than the one asked for, or than before.
    #[error("the key is {0}, not the one asked for")]
    Key(String),
    /// The note is not signed as it must be.
    #[error("the checkpoint: {0}")]
    Note(#[from] NoteError),
    /// A checkpoint from elsewhere is none of this log.
    #[error("the checkpoint that was kept: {0}")]
    KeptNote(NoteError),
    /// A checkpoint stands behind another number of entries than it says.
    #[error("the checkpoint is of {0} entries")]
    Size(u64),
    /// The entries before a checkpoint are not those that were signed.
    #[error("the entries before the checkpoint are not those that were signed")]
    Root,
    /// The same for a checkpoint that was kept elsewhere.
    #[error("the first {0} entries are not those of the checkpoint that was kept")]
    Kept(u64),
    /// There are fewer entries than a kept checkpoint says.
    #[error("entries are missing at the end: the checkpoint that was kept is of {0}")]
    Cut(u64),
    /// The oldest entries are gone, and the log does not say that it has removed them.
    #[error("entries before {first} are gone, and the log has removed those before {removed} only")]
    Missing {
        /// Number of the oldest entry that is there.
        first: u64,
        /// What the log says.
        removed: u64,
    },
    /// There is no checkpoint.
    #[error("there is no checkpoint")]
    NoCheckpoint,
}

/// A log that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose signatures hold.
    pub key: PublicKey,
    /// Number of the oldest entry that is there.
    pub first: u64,
    /// Entries since the log began.
    pub size: u64,
    /// Segments read.
    pub segments: u64,
    /// Checkpoints that hold.
    pub checkpoints: u64,
    /// The newest of them, as it is written: keep it elsewhere.
    pub newest: String,
    /// Entries after it: of a log that is being written, or that was not ended in order.
    pub unsigned: u64,
    /// Bytes of a line that has no end, for the same reasons.
    pub torn: u64,
    /// Kept checkpoints that are older than the oldest entry: nothing can be said of them.
    pub too_old: Vec<u64>,
}

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It is broken.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A log that is being read.
#[derive(Debug, Default)]
pub struct Check {
    expected: Option<PublicKey>,
    kept: Vec<String>,
    wanted: Vec<Checkpoint>,
    key: Option<PublicKey>,
    tree: Frontier,
    before: Frontier,
    removed: u64,
    segments: u64,
    checkpoints: u64,
    newest: Option<(u64, String)>,
    torn: u64,
    line: u64,
}

impl Check {
    /// Nothing is read yet. `key`: who must have signed, else whoever the log says. `kept`: checkpoints (signed notes) from
    /// elsewhere.
    pub fn new(key: Option<PublicKey>, kept: Vec<String>) -> Self {
        Self {
            expected: key,
            kept,
            ..Self::default()
        }
    }

    /// Reads all of `input`; `each` sees every entry with its number.
    ///
    /// # Errors
    /// If it cannot be read, or is broken.
    pub fn scan(
        &mut self,
        mut input: impl BufRead,
        mut each: impl FnMut(u64, &Line),
    ) -> Result<(), ScanError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut input)
                .take(LONGEST_LINE + 1)
                .read_until(b'\n', &mut line)?;
            let Some((b'\n', text)) = line.split_last() else {
                if line.len() as u64 > LONGEST_LINE {
                    self.line += 1;
                    let long = String::from("it is longer than any");
                    return Err(self.fault(Broken::Line(long)).into());
                }
                self.torn = line.len() as u64;
                return Ok(());
            };
            let number = self.tree.size();
            if let Some(entry) = self.read(text)? {
                each(number, &entry);
            }
        }
    }

    /// Reads one line, without its end; gives the entry if it is one.
    ///
    /// # Errors
    /// If the log is broken there. Nothing must be read after that.
    pub fn read(&mut self, line: &[u8]) -> Result<Option<Line>, Fault> {
        self.line += 1;
        let read = record::parse(line).map_err(Broken::Line);
        let done = read.and_then(|record| match record {
            Record::Head { key, before } => self.head(key, before).map(|()| None),
            Record::Entry(line) => self.entry(&line).map(|()| Some(line)),
            Record::Checkpoint(note) => self.checkpoint(note).map(|()| None),
        });
        done.map_err(|what| self.fault(what))
    }

    fn fault(&self, what: Broken) -> Fault {
        Fault {
            line: self.line,
            entry: self.tree.size(),
            what,
        }
    }

    fn head(&mut self, key: PublicKey, before: Frontier) -> Result<(), Broken> {
        let known = self.key.as_ref().or(self.expected.as_ref());
        if known.is_some_and(|known| *known != key) {
            return Err(Broken::Key(key.to_string()));
        }
        if self.key.is_some() {
            if before.size() != self.tree.size() {
                return Err(Broken::Gap(before.size()));
            }
            if before != self.tree {
                return Err(Broken::Frontier);
            }
        } else {
            for note in &self.kept {
                let kept = Checkpoint::open(note, &key).map_err(Broken::KeptNote)?;
                self.wanted.push(kept);
            }
            (self.before, self.tree, self.key) = (before.clone(), before, Some(key));
            self.compare()?;
        }
        self.segments += 1;
        Ok(())
    }

    fn entry(&mut self, line: &Line) -> Result<(), Broken> {
        if self.key.is_none() {
            return Err(Broken::Beginning);
        }
        if let Some(Event::Removed { before }) = line.of_ledger().map(|entry| entry.event) {
            self.removed = self.removed.max(before);
        }
        self.tree.push(line.leaf());
        self.compare()
    }

    fn checkpoint(&mut self, note: String) -> Result<(), Broken> {
        let key = self.key.as_ref().ok_or(Broken::Beginning)?;
        let checkpoint = Checkpoint::open(&note, key)?;
        if checkpoint.size != self.tree.size() {
            return Err(Broken::Size(checkpoint.size));
        }
        if checkpoint != Checkpoint::of(&self.tree) {
            return Err(Broken::Root);
        }
        self.checkpoints += 1;
        self.newest = Some((checkpoint.size, note));
        Ok(())
    }

    /// With the checkpoints from elsewhere that are of as many entries as were read.
    fn compare(&self) -> Result<(), Broken> {
        let size = self.tree.size();
        let mut here = self
            .wanted
            .iter()
            .filter(|kept| kept.size == size)
            .peekable();
        if here.peek().is_some() {
            let root = self.tree.root();
            if here.any(|kept| kept.root != root) {
                return Err(Broken::Kept(size));
            }
        }
        Ok(())
    }

    /// Nothing more will be read.
    ///
    /// # Errors
    /// If what was read does not hold as a whole.
    pub fn finish(self) -> Result<Report, Fault> {
        let size = self.tree.size();
        let longest = self.wanted.iter().map(|kept| kept.size).max();
        let broken = match (&self.key, &self.newest, longest) {
            (None, ..) => Some(Broken::Beginning),
            (_, None, _) => Some(Broken::NoCheckpoint),
            (_, _, Some(longest)) if longest > size => Some(Broken::Cut(longest)),
            _ if self.before.size() > self.removed => Some(Broken::Missing {
                first: self.before.size(),
                removed: self.removed,
            }),
            _ => None,
        };
        if let Some(what) = broken {
            return Err(self.fault(what));
        }
        let fault = self.fault(Broken::NoCheckpoint);
        let (Some(key), Some((signed, newest))) = (self.key, self.newest) else {
            return Err(fault);
        };
        let old = self.wanted.iter().map(|kept| kept.size);
        Ok(Report {
            key,
            first: self.before.size(),
            size,
            segments: self.segments,
            checkpoints: self.checkpoints,
            newest,
            unsigned: size - signed,
            torn: self.torn,
            too_old: old.filter(|size| *size < self.before.size()).collect(),
        })
    }

    /// What stands for the entries before the first that is there; empty before anything was read.
    pub fn before(&self) -> &Frontier {
        &self.before
    }

    /// The fault of a log without a checkpoint.
    pub(crate) fn nothing(&self) -> Fault {
        self.fault(Broken::NoCheckpoint)
    }

    /// What has been read so far, without a judgment of the whole.
    pub(crate) fn so_far(&self) -> (&Frontier, Option<u64>) {
        (&self.tree, self.newest.as_ref().map(|(size, _)| *size))
    }
}

#[cfg(test)]
mod tests;
