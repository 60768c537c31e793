//! A disk that refuses.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::{append, many, small, verified};
use crate::entry::tests::lost;
use crate::log::disk::Disk;
use crate::log::{Log, Options, Volume, folder, segments};
use crate::{Ledger, NotDurable, Receipt};

/// What a disk does from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Good,
    /// Takes half of what is written, then has no room.
    Full,
    /// Takes everything and cannot say that it is on disk.
    SyncFails,
    /// Makes no new file.
    BeginFails,
}

struct Moody {
    inner: Box<dyn Disk>,
    mood: Arc<Mutex<Mood>>,
    /// Room was held back and given free.
    released: bool,
}

impl Moody {
    fn mood(&self) -> Mood {
        *self.mood.lock().expect("a lock")
    }

    fn has_room(&self) {
        let mut mood = self.mood.lock().expect("a lock");
        if *mood == Mood::Full {
            *mood = Mood::Good;
        }
    }
}

impl Disk for Moody {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.mood() == Mood::Full && !self.released {
            self.inner.add(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.add(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.mood() {
            Mood::SyncFails => Err(io::Error::other("input/output error")),
            _ => self.inner.sync(),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.inner.cut(length)
    }

    fn begin(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        if self.mood() == Mood::BeginFails {
            return Err(io::Error::other("too many open files"));
        }
        self.inner.begin(first, bytes)
    }

    fn remove(&mut self, first: u64) -> io::Result<()> {
        self.inner.remove(first)?;
        self.has_room();
        Ok(())
    }

    fn reserve(&mut self) -> io::Result<()> {
        self.room()?;
        self.released = false;
        self.inner.reserve()
    }

    fn release(&mut self) -> io::Result<()> {
        self.released = true;
        self.inner.release()
    }

    fn room(&mut self) -> io::Result<()> {
        match self.mood() {
            Mood::Full => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn volume(&self) -> Option<Volume> {
        Some(Volume {
            total: 160_000,
            free: 1,
        })
    }
}

fn moody(folder: &Path, options: Options, mood: Mood) -> (Log, Arc<Mutex<Mood>>) {
    let mut found = folder::open(folder).expect("a folder");
    let mood = Arc::new(Mutex::new(mood));
    found.disk = Box::new(Moody {
        inner: found.disk,
        mood: Arc::clone(&mood),
        released: false,
    });
    (Log::start(found, options).expect("a log"), mood)
}

#[test]
fn a_disk_that_refuses_is_told_and_leaves_no_trace_once_it_takes_again() {
    for mood in [Mood::Full, Mood::SyncFails] {
        let folder = TempDir::new().expect("a folder");
        let (log, moods) = moody(folder.path(), Options::default(), Mood::Good);
        append(&log, vec![lost(0)]).expect("kept");
        *moods.lock().expect("a lock") = mood;
        for _ in 0..2 {
            let refused = append(&log, vec![lost(1)]);
            assert!(matches!(refused, Err(NotDurable::Disk(_))), "{refused:?}");
            let state = log.state();
            assert!(!state.durable && state.reason.is_some(), "{state:?}");
        }
        assert!(log.figures().failures >= 2);
        *moods.lock().expect("a lock") = Mood::Good;
        assert_eq!(
            append(&log, vec![lost(2)]),
            Ok(Receipt { first: 1, size: 2 })
        );
        assert!(log.state().durable);
        drop(log);
        let (report, entries) = verified(folder.path());
        assert_eq!((report.unsigned, report.torn), (0, 0));
        assert_eq!(entries, [lost(0), lost(2)]);
    }
}

#[test]
fn a_disk_that_takes_again_is_found_without_anybody_asking() {
    let folder = TempDir::new().expect("a folder");
    let (log, moods) = moody(folder.path(), Options::default(), Mood::Good);
    *moods.lock().expect("a lock") = Mood::Full;
    append(&log, vec![lost(1)]).expect_err("refused");
    *moods.lock().expect("a lock") = Mood::Good;
    while !log.state().durable {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(log);
    assert!(verified(folder.path()).1.is_empty());
}

#[test]
fn a_full_disk_gets_room_by_what_is_to_be_removed_and_needs_no_hand() {
    let folder = TempDir::new().expect("a folder");
    let before = many(folder.path());
    // Nothing may be removed: it stays full, and says so.
    let (log, moods) = moody(folder.path(), small(), Mood::Full);
    let refused = append(&log, vec![lost(60)]);
    assert!(matches!(refused, Err(NotDurable::Disk(_))), "{refused:?}");
    assert!(!log.state().durable);
    drop(log);
    assert_eq!(*moods.lock().expect("a lock"), Mood::Full);
    assert_eq!(segments(folder.path()).expect("segments").len(), before);
    for options in [
        Options {
            most_bytes: Some(15_000),
            ..small()
        },
        Options {
            most_percent: Some(5),
            ..small()
        },
    ] {
        let (log, _) = moody(folder.path(), options, Mood::Full);
        while !log.state().durable {
            std::thread::sleep(Duration::from_millis(10));
        }
        append(&log, vec![lost(61)]).expect("kept");
        drop(log);
        let (report, _) = verified(folder.path());
        assert!(report.first > 0, "{report:?}");
    }
    assert!(segments(folder.path()).expect("segments").len() < before);
    assert!(folder.path().join("reserve").exists(), "for the next time");
}

#[test]
fn where_the_next_segment_cannot_be_made_this_one_goes_on() {
    let folder = TempDir::new().expect("a folder");
    let (log, moods) = moody(folder.path(), small(), Mood::BeginFails);
    for number in 0..30 {
        append(&log, vec![lost(number)]).expect("kept");
    }
    assert_eq!(segments(folder.path()).expect("segments").len(), 1);
    *moods.lock().expect("a lock") = Mood::Good;
    for number in 30..60 {
        append(&log, vec![lost(number)]).expect("kept");
    }
    drop(log);
    assert!(segments(folder.path()).expect("segments").len() > 1);
    assert_eq!(
        verified(folder.path()).1,
        (0..60).map(lost).collect::<Vec<_>>()
    );
}

#[test]
fn nothing_in_a_new_segment_is_told_as_kept_before_its_name_is_on_disk() {
    let folder = TempDir::new().expect("a folder");
    let (log, moods) = moody(folder.path(), small(), Mood::Good);
    while segments(folder.path()).expect("segments").len() == 1 {
        append(&log, vec![lost(1)]).expect("kept");
    }
    *moods.lock().expect("a lock") = Mood::SyncFails;
    append(&log, vec![lost(2)]).expect_err("not told");
    *moods.lock().expect("a lock") = Mood::Good;
    append(&log, vec![lost(3)]).expect("kept");
    drop(log);
    let (_, entries) = verified(folder.path());
    assert!(!entries.contains(&lost(2)) && entries.contains(&lost(3)));
}
