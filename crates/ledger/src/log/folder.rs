//! Opening a folder: its key, its segments, and what a crash has left at the end of the newest.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use jiff::Timestamp;
use mesh_core::hex;

use super::Segment;
use super::disk::{self, Disk, Files};
use crate::check::{Check, Fault};
use crate::checkpoint::Checkpoint;
use crate::note::{NoteError, PublicKey, Signer};
use crate::record::{self, Record};
use crate::tree::Frontier;

const KEY: &str = "key";
const LOCK: &str = "lock";
/// What names of logs begin with; the rest is random.
const ORIGIN: &str = "inferencemesh.dev/ledger";
/// Lines at the beginning of a segment among which its first entry is looked for.
const FIRST_LINES: usize = 64;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another process writes there.
    #[error("another process writes to this log")]
    InUse,
    /// The key cannot be used.
    #[error("the file `key` cannot be used: {0}")]
    Key(#[from] NoteError),
    /// There are entries and no key: whoever goes on would not be who began.
    #[error(
        "the file `key` is missing, and there are entries: put it back, or move them away to begin a new log"
    )]
    NoKey,
    /// Entries were changed.
    #[error(
        "segment {name} is damaged: {fault}; see `mesh audit verify`, and move the folder's files away to begin a new log"
    )]
    Damaged {
        /// File.
        name: String,
        /// Where, by the lines of that file.
        fault: Fault,
    },
}

/// A folder that is open for writing.
pub(super) struct Found {
    pub(super) disk: Box<dyn Disk>,
    pub(super) signer: Signer,
    pub(super) tree: Frontier,
    pub(super) segments: Vec<Segment>,
}

pub(super) fn open(folder: &Path) -> Result<Found, OpenError> {
    let because = |what| move |source| OpenError::Io { what, source };
    fs::create_dir_all(folder).map_err(because("the folder of the log cannot be made"))?;
    let lock = held(folder)?;
    let firsts = firsts(folder).map_err(because("the folder of the log cannot be read"))?;
    let signer = key(folder, firsts.is_empty())?;
    let unread = because("a segment cannot be read");
    let mut all = Vec::new();
    for first in &firsts {
        all.push(look(&folder.join(disk::name(*first)), *first).map_err(unread)?);
    }
    let (tree, newest) = if let Some(newest) = all.last_mut() {
        let path = folder.join(disk::name(newest.first));
        let (tree, bytes) = recover(&path, signer.public())?;
        newest.bytes = bytes;
        (tree, disk::append_to(&path))
    } else {
        let tree = Frontier::default();
        let bytes = beginning(&signer, &tree);
        all.push(Segment {
            first: 0,
            bytes: bytes.len() as u64,
            started: None,
            written: Timestamp::now(),
        });
        (tree, disk::create(folder, 0, &bytes))
    };
    let newest = newest.map_err(because("a segment cannot be opened for writing"))?;
    Ok(Found {
        disk: Box::new(Files::new(folder, newest, lock)),
        signer,
        tree,
        segments: all,
    })
}

/// What every segment begins with: what came before, signed.
pub(super) fn beginning(signer: &Signer, before: &Frontier) -> Vec<u8> {
    let head = record::head(signer.public(), before);
    let checkpoint = record::checkpoint(Checkpoint::of(before).sign(signer));
    format!("{head}\n{checkpoint}\n").into_bytes()
}

fn held(folder: &Path) -> Result<File, OpenError> {
    let because = |source| OpenError::Io {
        what: "the file `lock` cannot be used",
        source,
    };
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let lock = options.open(folder.join(LOCK)).map_err(because)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
        // Some file systems of networks have no locks: then it is up to who starts processes that there is one.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(
                "this file system has no locks: nothing keeps a second process from writing here"
            );
            Ok(lock)
        }
        Err(TryLockError::Error(error)) => Err(because(error)),
    }
}

fn key(folder: &Path, new: bool) -> Result<Signer, OpenError> {
    let because = |what| move |source| OpenError::Io { what, source };
    match fs::read_to_string(folder.join(KEY)) {
        Ok(text) => Ok(Signer::parse(text.trim_end())?),
        Err(error) if error.kind() == ErrorKind::NotFound && new => {
            let mut random = [0; 8];
            rand::fill(&mut random).map_err(|_| NoteError::Make)?;
            let signer = Signer::generate(&format!("{ORIGIN}/{}", hex(&random)))?;
            let text = signer.private().map(|text| format!("{text}\n"));
            disk::write_whole(folder, KEY, text.expose().as_bytes())
                .and_then(|_| disk::sync_folder(folder))
                .map_err(because("the file `key` cannot be written"))?;
            Ok(signer)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(OpenError::NoKey),
        Err(source) => Err(because("the file `key` cannot be read")(source)),
    }
}

/// First entries of the segments that are there, in order.
fn firsts(folder: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(folder)? {
        firsts.extend(entry?.file_name().to_str().and_then(disk::first));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// A segment by its size and its first entry.
fn look(path: &Path, first: u64) -> io::Result<Segment> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let written = Timestamp::try_from(metadata.modified()?).map_err(io::Error::other)?;
    let mut started = None;
    for line in BufReader::new(file).split(b'\n').take(FIRST_LINES) {
        if let Ok(Record::Entry(line)) = record::parse(&line?) {
            started = line.time();
            break;
        }
    }
    Ok(Segment {
        first,
        bytes: metadata.len(),
        started,
        written,
    })
}

/// Reads the newest segment: its tree, and how many of its bytes are good. What is behind the newest checkpoint and not
/// whole was left by a crash, before anybody was told that it is kept.
fn recover(path: &Path, key: &PublicKey) -> Result<(Frontier, u64), OpenError> {
    let because = |source| OpenError::Io {
        what: "the newest segment cannot be read",
        source,
    };
    let mut text = Vec::new();
    let mut file = File::open(path).map_err(because)?;
    file.read_to_end(&mut text).map_err(because)?;
    let mut check = Check::new(Some(key.clone()), Vec::new());
    let mut good = 0;
    let mut fault = None;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some((b'\n', whole)) = line.split_last() else {
            break;
        };
        if let Err(found) = check.read(whole) {
            fault = Some(found);
            break;
        }
        good += line.len();
    }
    let damaged = |fault| OpenError::Damaged {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        fault,
    };
    let rest = &text[good..];
    let signed = check.so_far().1;
    match fault {
        _ if signed.is_none() => {
            let fault = fault.unwrap_or_else(|| check.nothing());
            return Err(damaged(fault));
        }
        Some(fault) if !of_the_last_write(rest, key) => return Err(damaged(fault)),
        _ => {}
    }
    if !rest.is_empty() {
        let bytes = rest.len();
        tracing::warn!(
            bytes,
            "the log was not ended in order: what is not whole at its end is cut off, and kept aside"
        );
        let name = format!(
            "{}.{good}.torn",
            path.file_name().unwrap_or_default().to_string_lossy()
        );
        let kept = path
            .parent()
            .map(|folder| disk::write_whole(folder, &name, rest));
        // On a full disk it is lost: nobody was told that it is kept.
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "it cannot be kept");
        }
    }
    Ok((check.so_far().0.clone(), good as u64))
}

/// True if all of this may have been left by one write that a crash has torn: parts of a file come to disk in any order,
/// so its checkpoint may be there and what stands before it not. Behind a checkpoint nothing was begun before it was on disk.
fn of_the_last_write(rest: &[u8], key: &PublicKey) -> bool {
    let lines: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    let mut signed = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| match record::parse(line) {
            Ok(Record::Checkpoint(note)) => Checkpoint::open(&note, key).is_ok(),
            _ => false,
        });
    match (signed.next(), signed.next()) {
        (None, _) => true,
        // Behind it there is the end of its line at most.
        (Some((at, _)), None) => lines[at + 1..].iter().all(|line| line.is_empty()),
        _ => false,
    }
}

/// Moves everything of a log into a folder of its own inside of this one, so that a new log can begin here. False if that
/// folder is there already: then it was done before.
///
/// # Errors
/// If somebody writes there, or something cannot be moved.
pub fn set_aside(folder: &Path, name: &str) -> Result<bool, OpenError> {
    let because = |source| OpenError::Io {
        what: "the log cannot be set aside",
        source,
    };
    let _lock = held(folder)?;
    let aside = folder.join("aside").join(name);
    if aside.exists() {
        return Ok(false);
    }
    // Under another name until all of it is there: who was interrupted goes on.
    let begun = folder.join("aside").join(format!("{name}.part"));
    fs::create_dir_all(&begun).map_err(because)?;
    let entries = fs::read_dir(folder).map_err(because)?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(because)?;
    files.retain(|file| of_a_log(file));
    // All was moved then, and what is here now is of the log that was begun afterwards.
    let over = files.iter().any(|file| begun.join(file).exists());
    if !over {
        // The key first: nothing is ever signed by it again, whatever is left behind.
        files.sort_unstable_by_key(|file| file != KEY);
        for file in files {
            fs::rename(folder.join(&file), begun.join(&file)).map_err(because)?;
        }
        disk::sync_folder(&begun).map_err(because)?;
    }
    fs::rename(&begun, &aside).map_err(because)?;
    disk::sync_folder(&folder.join("aside")).map_err(because)?;
    disk::sync_folder(folder).map_err(because)?;
    Ok(!over)
}

/// True of the key, the segments and what was cut off them.
fn of_a_log(file: &OsStr) -> bool {
    let torn = Path::new(file)
        .extension()
        .is_some_and(|kind| kind == "torn");
    let name = file.to_str();
    torn || name.is_some_and(|name| name == KEY || disk::first(name).is_some())
}

/// The files of the segments of a folder, the oldest first.
///
/// # Errors
/// If the folder cannot be read.
pub fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let firsts = firsts(folder)?;
    Ok(firsts
        .into_iter()
        .map(|first| folder.join(disk::name(first)))
        .collect())
}

/// Files read one after the other, each opened when the one before has ended.
#[derive(Debug)]
pub struct Segments {
    rest: std::vec::IntoIter<PathBuf>,
    open: Option<File>,
}

impl Segments {
    /// Reads these.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self {
            rest: files.into_iter(),
            open: None,
        }
    }
}

impl Read for Segments {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                let read = file.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            match self.rest.next() {
                Some(next) => self.open = Some(File::open(next)?),
                None => return Ok(0),
            }
        }
    }
}
