//! What is done with the files of a folder, behind a trait so that tests can have a disk that refuses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Bytes that are held back, so that a full disk can still be told what is removed from it.
const RESERVE_BYTES: usize = 1 << 20;
const RESERVE: &str = "reserve";
/// Written and removed again, to see whether there is room.
const PROBE: &str = "probe";

/// The size of what a folder lies on, and what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Bytes of all of it.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

/// The newest segment of a folder, and the others by their first entry.
pub(super) trait Disk: Send {
    /// Adds to the newest segment.
    fn add(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was added is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Takes away what is behind `length`.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Makes a new segment that holds `bytes`, which is the newest from now on; or there is none, and the old one goes on.
    fn begin(&mut self, first: u64, bytes: &[u8]) -> io::Result<()>;
    /// Removes an older segment.
    fn remove(&mut self, first: u64) -> io::Result<()>;
    /// Holds some room back, if it is not held yet.
    fn reserve(&mut self) -> io::Result<()>;
    /// Gives that room free.
    fn release(&mut self) -> io::Result<()>;
    /// Whether there is room besides.
    fn room(&mut self) -> io::Result<()>;
    /// The size of it all, where that can be known.
    fn volume(&self) -> Option<Volume>;
}

/// A real folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    newest: File,
    /// A new name may not be on disk yet.
    unnamed: bool,
    /// Held as long as this lives.
    _lock: File,
}

impl Files {
    /// With `newest` as the file that is written to.
    pub(super) fn new(folder: &Path, newest: File, lock: File) -> Self {
        Self {
            folder: folder.to_owned(),
            newest,
            // Whoever made it may not have come to that.
            unnamed: true,
            _lock: lock,
        }
    }
}

impl Disk for Files {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.newest.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.newest.sync_data()?;
        if self.unnamed {
            sync_folder(&self.folder)?;
            self.unnamed = false;
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.newest.set_len(length)
    }

    fn begin(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.newest = create(&self.folder, first, bytes)?;
        // Nothing in it is told as kept before its name is on disk.
        self.unnamed = true;
        Ok(())
    }

    fn remove(&mut self, first: u64) -> io::Result<()> {
        fs::remove_file(self.folder.join(name(first)))?;
        sync_folder(&self.folder)
    }

    fn reserve(&mut self) -> io::Result<()> {
        let whole = fs::metadata(self.folder.join(RESERVE));
        if whole.is_ok_and(|found| found.len() == RESERVE_BYTES as u64) {
            return Ok(());
        }
        drop(write_whole(
            &self.folder,
            RESERVE,
            &vec![b'.'; RESERVE_BYTES],
        )?);
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        gone(fs::remove_file(self.folder.join(RESERVE)))?;
        sync_folder(&self.folder)
    }

    fn room(&mut self) -> io::Result<()> {
        let written = write_whole(&self.folder, PROBE, &vec![b'.'; RESERVE_BYTES]);
        gone(fs::remove_file(self.folder.join(PROBE)))?;
        written.map(drop)
    }

    fn volume(&self) -> Option<Volume> {
        volume(&self.folder)
    }
}

#[cfg(unix)]
fn volume(folder: &Path) -> Option<Volume> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(Volume {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

#[cfg(not(unix))]
fn volume(_: &Path) -> Option<Volume> {
    None
}

/// Removing what is not there is no fault.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Name of the file of a segment.
pub(super) fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The entry that a file of this name begins with, if it is the name of a segment.
pub(super) fn first(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?;
    let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}

/// Makes a segment, whole or not at all. That its name is on disk takes a sync of the folder.
pub(super) fn create(folder: &Path, first: u64, bytes: &[u8]) -> io::Result<File> {
    write_whole(folder, &name(first), bytes)
}

/// Opens a file to add to its end.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Makes a file that only its owner may read: whole or not at all. Its name is the last step, and what fails later is no
/// failure of this: whoever were told that there is no file would make another of the same number.
pub(super) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let part = folder.join(format!("{name}.part"));
    gone(fs::remove_file(&part))?;
    let written = write_new(&part, bytes).and_then(|file| {
        fs::rename(&part, folder.join(name))?;
        Ok(file)
    });
    if written.is_err() {
        // It was never there.
        drop(fs::remove_file(&part));
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
