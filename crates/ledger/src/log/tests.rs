use std::fs;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures::executor::block_on;
use futures::future::join_all;
use tempfile::TempDir;

use super::{Log, OpenError, Options, Segments, segments, set_aside};
use crate::check::{Check, Report};
use crate::entry::tests::lost;
use crate::{Entry, Event, LARGEST_ENTRY, Ledger, NotDurable, Receipt};

fn open(folder: &Path) -> Log {
    Log::open(folder, Options::default()).expect("a log")
}

fn append(log: &Log, entries: Vec<Entry>) -> Result<Receipt, NotDurable> {
    block_on(log.append(entries))
}

/// What somebody finds who verifies the folder.
fn verified(folder: &Path) -> (Report, Vec<Entry>) {
    let mut check = Check::default();
    let mut entries = Vec::new();
    let files = segments(folder).expect("segments");
    let scanned = check.scan(BufReader::new(Segments::new(files)), |_, line| {
        entries.push(line.entry().expect("an entry"));
    });
    scanned.expect("a log that holds");
    (check.finish().expect("a log that holds"), entries)
}

fn newest(folder: &Path) -> std::path::PathBuf {
    segments(folder)
        .expect("segments")
        .pop()
        .expect("a segment")
}

fn add(folder: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(newest(folder))
        .expect("a file");
    file.write_all(bytes).expect("written");
}

#[test]
fn what_was_told_as_kept_is_there_when_the_log_is_opened_again() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    assert!(log.state().durable);
    assert_eq!(
        append(&log, vec![lost(0), lost(1)]),
        Ok(Receipt { first: 0, size: 2 })
    );
    assert_eq!(
        append(&log, vec![lost(2)]),
        Ok(Receipt { first: 2, size: 3 })
    );
    let key = log.key().clone();
    drop(log);
    let log = open(folder.path());
    assert_eq!(log.key(), &key);
    assert_eq!(
        append(&log, vec![lost(3)]),
        Ok(Receipt { first: 3, size: 4 })
    );
    let (report, entries) = verified(folder.path());
    assert_eq!((report.size, report.unsigned, report.torn), (4, 0, 0));
    assert_eq!(entries, (0..4).map(lost).collect::<Vec<_>>());
    assert_eq!(report.key, key);
}

#[test]
fn many_at_once_share_writes_and_each_is_told_its_own_place() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    let told = block_on(join_all(
        (0..500).map(|number| log.append(vec![lost(number), lost(number)])),
    ));
    for (number, told) in (0..).zip(told) {
        assert_eq!(told.expect("kept").first, number * 2);
    }
    let figures = log.figures();
    assert_eq!((figures.size, figures.written), (1000, 1000));
    assert!(figures.commits < 501, "{figures:?}");
    log.close();
    assert_eq!(append(&log, vec![lost(0)]), Err(NotDurable::Closed));
    assert_eq!(verified(folder.path()).0.size, 1000);
}

#[test]
fn what_nobody_waits_for_is_written_before_the_end() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    for number in 0..10 {
        drop(log.append(vec![lost(number)]));
    }
    drop(log);
    assert_eq!(verified(folder.path()).1.len(), 10);
}

#[test]
fn what_a_crash_has_torn_is_left_out_and_what_is_whole_is_kept() {
    let folder = TempDir::new().expect("a folder");
    let whole = serde_json::to_string(&lost(1)).expect("JSON");
    for torn in [
        "",
        "{\"v\":1,\"time",
        "\0\0\0\0\n\0",
        "{\"checkpoint\":\"half\n",
    ] {
        let log = open(folder.path());
        let size = append(&log, vec![lost(0)]).expect("kept").size;
        drop(log);
        add(folder.path(), format!("{whole}\n{torn}").as_bytes());
        let log = open(folder.path());
        assert_eq!(
            append(&log, vec![lost(2)]).expect("kept").first,
            size + 1,
            "{torn:?}"
        );
        drop(log);
        let (report, entries) = verified(folder.path());
        assert_eq!((report.unsigned, report.torn), (0, 0));
        assert_eq!(entries[entries.len() - 3..], [lost(0), lost(1), lost(2)]);
    }
}

#[test]
fn a_log_that_was_changed_before_its_newest_checkpoint_is_not_written_to() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    append(&log, vec![lost(1), lost(2)]).expect("kept");
    append(&log, vec![lost(3)]).expect("kept");
    drop(log);
    let path = newest(folder.path());
    let good = fs::read_to_string(&path).expect("text");
    let first_line = good.lines().next().expect("a head").len();
    for damaged in [
        good.replace("\"count\":1", "\"count\":7"),
        good.replacen("\"count\":1", "count", 1),
        good[first_line + 1..].to_owned(),
        good[..=first_line].to_owned(),
        String::new(),
    ] {
        fs::write(&path, &damaged).expect("written");
        let refused = Log::open(folder.path(), Options::default());
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{damaged}: {refused:?}"
        );
        assert_eq!(
            fs::read_to_string(&path).expect("text"),
            damaged,
            "left as it was"
        );
    }
    fs::write(&path, &good).expect("written");
    fs::remove_file(folder.path().join("key")).expect("removed");
    let refused = Log::open(folder.path(), Options::default());
    assert!(matches!(refused, Err(OpenError::NoKey)), "{refused:?}");
}

#[test]
fn one_process_writes_and_nobody_else_may_read_the_key() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    let refused = Log::open(folder.path(), Options::default());
    assert!(matches!(refused, Err(OpenError::InUse)), "{refused:?}");
    #[cfg(unix)]
    for name in ["key", "00000000000000000000.log"] {
        let metadata = fs::metadata(folder.path().join(name)).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(log);
    open(folder.path());
}

fn small() -> Options {
    Options {
        segment_bytes: 4096,
        ..Options::default()
    }
}

/// A log of 60 entries; how many segments it has.
fn many(folder: &Path) -> usize {
    let log = Log::open(folder, small()).expect("a log");
    for number in 0..60 {
        append(&log, vec![lost(number)]).expect("kept");
    }
    drop(log);
    segments(folder).expect("segments").len()
}

#[test]
fn a_log_of_many_segments_holds_and_the_oldest_go_with_a_word() {
    let folder = TempDir::new().expect("a folder");
    let before = many(folder.path());
    assert!(before > 4, "{before}");
    assert_eq!(verified(folder.path()).0.size, 60);

    let options = Options {
        most_bytes: Some(10_000),
        ..small()
    };
    let log = Log::open(folder.path(), options).expect("a log");
    append(&log, vec![lost(60)]).expect("kept");
    // What has become too much goes before the next write.
    append(&log, vec![lost(61)]).expect("kept");
    drop(log);
    let (report, entries) = verified(folder.path());
    assert!(
        report.first > 0 && report.segments < before as u64,
        "{report:?}"
    );
    let removed: Vec<u64> = entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Removed { before } => Some(*before),
            _ => None,
        })
        .collect();
    assert_eq!(removed.last(), Some(&report.first));
    let bytes: u64 = segments(folder.path())
        .expect("segments")
        .iter()
        .map(|path| fs::metadata(path).expect("a file").len())
        .sum();
    assert!(bytes <= 10_000 + 4096, "{bytes}");

    // Somebody else removes one more.
    fs::remove_file(&segments(folder.path()).expect("segments")[0]).expect("removed");
    let mut check = Check::default();
    let files = segments(folder.path()).expect("segments");
    check
        .scan(BufReader::new(Segments::new(files)), |_, _| ())
        .expect("each by itself holds");
    assert!(check.finish().is_err());
}

#[test]
fn what_is_older_than_is_kept_goes_with_its_segment() {
    let folder = TempDir::new().expect("a folder");
    let log = Log::open(folder.path(), small()).expect("a log");
    // All of these say that they are of 1970, which nobody need believe.
    for number in 0..40 {
        append(&log, vec![lost(number)]).expect("kept");
    }
    drop(log);
    let files = segments(folder.path()).expect("segments");
    let days_ago = SystemTime::now() - Duration::from_hours(48);
    for old in &files[..2] {
        let file = fs::File::options().append(true).open(old).expect("a file");
        file.set_modified(days_ago).expect("old");
    }
    let options = Options {
        keep: Some(Duration::from_hours(24)),
        ..small()
    };
    let log = Log::open(folder.path(), options).expect("a log");
    append(&log, vec![lost(40)]).expect("kept");
    append(&log, vec![lost(41)]).expect("kept");
    drop(log);
    let (report, entries) = verified(folder.path());
    let left = segments(folder.path()).expect("segments");
    assert_eq!(left[0], files[2], "two were old");
    assert!(report.first > 0, "{report:?}");
    assert!(entries.contains(&lost(41)));
}

#[test]
fn nobody_writes_in_the_name_of_the_log_and_what_is_too_large_is_refused_at_once() {
    let folder = TempDir::new().expect("a folder");
    let options = Options {
        waiting_bytes: 1000,
        ..Options::default()
    };
    let log = Log::open(folder.path(), options).expect("a log");
    let mut entry = lost(0);
    entry.gateway = String::from("mesh-ledger");
    entry.event = Event::Removed { before: 9 };
    assert!(matches!(
        append(&log, vec![entry]),
        Err(NotDurable::Refused(_))
    ));
    let mut entry = lost(0);
    entry.gateway = "x".repeat(LARGEST_ENTRY);
    assert!(matches!(
        append(&log, vec![entry]),
        Err(NotDurable::Refused(_))
    ));
    assert!(matches!(
        append(&log, vec![lost(0); 100]),
        Err(NotDurable::Refused(_))
    ));
    assert_eq!(
        append(&log, vec![lost(0)]),
        Ok(Receipt { first: 0, size: 1 })
    );
}

#[test]
fn a_last_write_that_came_to_disk_in_parts_is_cut_off_and_kept_aside() {
    for ended in [true, false] {
        let folder = TempDir::new().expect("a folder");
        let log = open(folder.path());
        append(&log, vec![lost(1)]).expect("kept");
        append(&log, vec![lost(2), lost(3), lost(4)]).expect("kept");
        drop(log);
        let path = newest(folder.path());
        let good = fs::read_to_string(&path).expect("text");
        let third = good.find("\"count\":3").expect("there");
        let hole = good[..third - 60].to_owned() + &"\0".repeat(100) + &good[third + 40..];
        let torn = if ended {
            hole.as_str()
        } else {
            hole.trim_end()
        };
        fs::write(&path, torn).expect("written");
        let log = open(folder.path());
        let told = append(&log, vec![lost(5)]).expect("kept");
        assert_eq!(told.first, 2, "what stands before the hole is whole");
        drop(log);
        assert_eq!(verified(folder.path()).1, [lost(1), lost(2), lost(5)]);
        let names = fs::read_dir(folder.path()).expect("a folder");
        let mut paths = names.map(|entry| entry.expect("a file").path());
        let aside = paths.find(|path| path.extension().is_some_and(|kind| kind == "torn"));
        let aside = fs::read_to_string(aside.expect("what was cut off")).expect("text");
        assert!(aside.contains("\"count\":4"), "{aside}");
    }
}

#[test]
fn a_log_that_cannot_be_opened_is_set_aside_once_and_another_begins() {
    let folder = TempDir::new().expect("a folder");
    let log = open(folder.path());
    append(&log, vec![lost(1)]).expect("kept");
    let key = log.key().clone();
    assert!(matches!(
        set_aside(folder.path(), "one"),
        Err(OpenError::InUse)
    ));
    drop(log);
    fs::remove_file(folder.path().join("key")).expect("removed");
    assert!(set_aside(folder.path(), "one").expect("moved"));
    let log = open(folder.path());
    assert_ne!(log.key(), &key);
    assert_eq!(
        append(&log, vec![lost(2)]),
        Ok(Receipt { first: 0, size: 1 })
    );
    drop(log);
    assert!(!set_aside(folder.path(), "one").expect("there already"));
    assert_eq!(verified(folder.path()).1, [lost(2)]);
    assert_eq!(verified(&folder.path().join("aside/one")).1, [lost(1)]);
}

#[test]
fn what_was_set_aside_half_is_set_aside_whole_and_never_written_over() {
    let folder = TempDir::new().expect("a folder");
    let begun = folder.path().join("aside/one.part");
    append(&open(folder.path()), vec![lost(1)]).expect("kept");
    // Interrupted behind the key: the log stays shut until the rest has followed.
    fs::create_dir_all(&begun).expect("a folder");
    fs::rename(folder.path().join("key"), begun.join("key")).expect("moved");
    let shut = Log::open(folder.path(), Options::default());
    assert!(matches!(shut, Err(OpenError::NoKey)));
    assert!(set_aside(folder.path(), "one").expect("moved"));
    assert_eq!(verified(&folder.path().join("aside/one")).1, [lost(1)]);

    // Interrupted behind all of it: another log was begun, which is not moved over the first.
    fs::rename(folder.path().join("aside/one"), &begun).expect("moved");
    append(&open(folder.path()), vec![lost(2)]).expect("kept");
    fs::remove_file(folder.path().join("key")).expect("removed");
    assert!(!set_aside(folder.path(), "one").expect("it was done"));
    assert_eq!(verified(folder.path()).1, [lost(2)]);
    assert_eq!(verified(&folder.path().join("aside/one")).1, [lost(1)]);
}

mod moody;
