use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::prelude::*;

use super::{Broken, Check, Report, ScanError};
use crate::checkpoint::Checkpoint;
use crate::entry::tests::lost;
use crate::note::Signer;
use crate::record;
use crate::tree::Frontier;
use crate::{Entry, Event, Line};

static SIGNER: LazyLock<Signer> =
    LazyLock::new(|| Signer::generate("inferencemesh.dev/ledger/1").expect("a key"));

/// Writes a log: `plan` is how many entries stand between checkpoints, and 0 begins a segment.
struct Book {
    lines: Vec<Vec<u8>>,
    tree: Frontier,
    notes: Vec<String>,
}

impl Book {
    fn new(plan: &[u64]) -> Self {
        let mut book = Self {
            lines: Vec::new(),
            tree: Frontier::default(),
            notes: Vec::new(),
        };
        book.segment();
        for count in plan {
            if *count == 0 {
                book.segment();
                continue;
            }
            for _ in 0..*count {
                book.entry(&lost(book.tree.size()));
            }
            book.sign();
        }
        book
    }

    fn segment(&mut self) {
        self.lines
            .push(record::head(SIGNER.public(), &self.tree).into_bytes());
        self.sign();
    }

    fn entry(&mut self, entry: &Entry) {
        let line = Line::try_from(entry).expect("a line");
        self.tree.push(line.leaf());
        self.lines.push(line.bytes().to_vec());
    }

    fn sign(&mut self) {
        let note = Checkpoint::of(&self.tree).sign(&SIGNER);
        self.notes.push(note.clone());
        self.lines.push(record::checkpoint(note).into_bytes());
    }

    /// Leaves out all segments before the last.
    fn shorten(&mut self) {
        let head = self
            .lines
            .iter()
            .rposition(|line| line.starts_with(b"{\"segment\""));
        self.lines.drain(..head.expect("a head"));
    }

    fn text(&self) -> Vec<u8> {
        self.lines
            .iter()
            .flat_map(|line| [line.as_slice(), b"\n"].concat())
            .collect()
    }
}

type Entries = Vec<(u64, Vec<u8>)>;

fn read(text: &[u8], kept: Vec<String>) -> Result<(Report, Entries), Broken> {
    let mut check = Check::new(Some(SIGNER.public().clone()), kept);
    let mut entries = Vec::new();
    let scanned = check.scan(text, |number, line| {
        entries.push((number, line.bytes().to_vec()));
    });
    match scanned {
        Ok(()) => check
            .finish()
            .map(|report| (report, entries))
            .map_err(|fault| fault.what),
        Err(ScanError::Fault(fault)) => Err(fault.what),
        Err(ScanError::Io(error)) => panic!("{error}"),
    }
}

#[test]
fn a_log_as_it_was_written_holds_and_every_entry_is_shown_with_its_number() {
    let book = Book::new(&[3, 1, 0, 2, 0, 0, 5]);
    let (report, entries) = read(&book.text(), book.notes.clone()).expect("holds");
    assert_eq!((report.first, report.size, report.segments), (0, 11, 4));
    assert_eq!(
        (report.unsigned, report.torn, report.checkpoints),
        (0, 0, 8)
    );
    assert_eq!(Some(&report.newest), book.notes.last());
    assert!(entries.iter().map(|(number, _)| *number).eq(0..11));
    assert_eq!(read(b"", Vec::new()), Err(Broken::Beginning));
}

#[test]
fn what_a_crash_leaves_behind_the_newest_checkpoint_is_told_and_no_fault() {
    let mut book = Book::new(&[2]);
    book.entry(&lost(2));
    let text = [book.text(), b"{\"v\":1,\"ti".to_vec()].concat();
    let (report, _) = read(&text, Vec::new()).expect("holds");
    assert_eq!((report.size, report.unsigned, report.torn), (3, 1, 10));
}

#[test]
fn entries_cut_off_with_their_checkpoints_are_found_by_a_checkpoint_kept_elsewhere() {
    let book = Book::new(&[2, 3]);
    let mut cut = Book::new(&[2]);
    assert!(
        read(&cut.text(), Vec::new()).is_ok(),
        "nothing else can tell"
    );
    assert_eq!(read(&cut.text(), book.notes.clone()), Err(Broken::Cut(5)));
    // And so is another history, signed by who has the key.
    cut.entry(&lost(99));
    (0..4).for_each(|number| cut.entry(&lost(number)));
    cut.sign();
    assert_eq!(read(&cut.text(), book.notes.clone()), Err(Broken::Kept(5)));
    assert_eq!(
        read(&book.text(), vec![String::from("nonsense")]).map(|_| ()),
        Err(Broken::KeptNote(crate::NoteError::Form))
    );
}

#[test]
fn old_segments_may_be_gone_only_if_the_log_says_so() {
    let mut book = Book::new(&[2, 0, 2]);
    let early = book.notes[1].clone();
    book.shorten();
    let missing = Broken::Missing {
        first: 2,
        removed: 0,
    };
    assert_eq!(read(&book.text(), Vec::new()), Err(missing));
    let by = |gateway: &str, before| {
        Entry::new(gateway, Timestamp::UNIX_EPOCH, Event::Removed { before })
    };
    book.entry(&by("gateway-1", 2));
    book.entry(&by("mesh-ledger", 1));
    book.sign();
    let missing = Broken::Missing {
        first: 2,
        removed: 1,
    };
    assert_eq!(read(&book.text(), Vec::new()), Err(missing));
    book.entry(&by("mesh-ledger", 2));
    book.sign();
    let (report, _) = read(&book.text(), vec![early, book.notes[4].clone()]).expect("holds");
    assert_eq!(
        (report.first, report.size, report.too_old),
        (2, 7, Vec::new())
    );
}

#[test]
fn a_kept_checkpoint_that_is_older_than_what_is_kept_is_told() {
    let mut book = Book::new(&[1, 1, 0, 2]);
    let early = book.notes[1].clone();
    book.shorten();
    book.entry(&Entry::new(
        "mesh-ledger",
        Timestamp::UNIX_EPOCH,
        Event::Removed { before: 2 },
    ));
    book.sign();
    let (report, _) = read(&book.text(), vec![early]).expect("holds");
    assert_eq!(report.too_old, [1]);
}

#[test]
fn another_key_is_not_taken_for_the_one_asked_for() {
    let book = Book::new(&[1]);
    let other = Signer::generate(SIGNER.public().name()).expect("a key");
    let mut check = Check::new(Some(other.public().clone()), Vec::new());
    let scanned = check.scan(book.text().as_slice(), |_, _| ());
    let Err(ScanError::Fault(fault)) = scanned else {
        panic!("{scanned:?}");
    };
    assert_eq!(fault.what, Broken::Key(SIGNER.public().to_string()));
    assert_eq!((fault.line, fault.entry), (1, 0));
}

#[test]
fn a_line_without_end_is_not_read_for_ever() {
    let text = [Book::new(&[1]).text(), vec![b' '; 3 << 20]].concat();
    assert!(matches!(read(&text, Vec::new()), Err(Broken::Line(_))));
}

/// One change to a text.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    RemoveByte(prop::sample::Index),
    InsertByte(prop::sample::Index, u8),
    RemoveLine(prop::sample::Index),
    RepeatLine(prop::sample::Index),
    SwapLines(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 1..=u8::MAX).prop_map(|(at, by)| Change::Flip(at, by)),
        at().prop_map(Change::RemoveByte),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::InsertByte(at, byte)),
        at().prop_map(Change::RemoveLine),
        at().prop_map(Change::RepeatLine),
        (at(), at()).prop_map(|(one, other)| Change::SwapLines(one, other)),
        at().prop_map(Change::Cut),
    ]
}

fn changed(book: &Book, change: &Change) -> Vec<u8> {
    let (mut text, mut lines) = (book.text(), book.lines.clone());
    match change {
        Change::Flip(at, by) => {
            let at = at.index(text.len());
            text[at] ^= by;
            return text;
        }
        Change::RemoveByte(at) => {
            text.remove(at.index(text.len()));
            return text;
        }
        Change::InsertByte(at, byte) => {
            text.insert(at.index(text.len()), *byte);
            return text;
        }
        Change::Cut(at) => {
            text.truncate(at.index(text.len()));
            return text;
        }
        Change::RemoveLine(at) => drop(lines.remove(at.index(lines.len()))),
        Change::RepeatLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Change::SwapLines(one, other) => {
            lines.swap(one.index(book.lines.len()), other.index(book.lines.len()));
        }
    }
    lines
        .iter()
        .flat_map(|line| [line.as_slice(), b"\n"].concat())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Against the newest checkpoint, kept elsewhere: either the change is found, or no entry is another (a checkpoint in the
    /// middle may be there twice or not at all).
    #[test]
    fn every_change_of_an_entry_its_place_or_its_presence_is_found(
        plan in prop::collection::vec(0_u64..4, 1..8),
        change in change(),
    ) {
        let book = Book::new(&plan);
        let newest = book.notes.last().cloned().expect("a checkpoint");
        let (_, before) = read(&book.text(), vec![newest.clone()]).expect("holds");
        if let Ok((_, after)) = read(&changed(&book, &change), vec![newest]) {
            prop_assert_eq!(before, after);
        }
    }
}
