//! What is done with the files of a folder, behind a trait so that tests can have a disk that refuses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The newest segment of a folder, and the others by their first entry.
pub(super) trait Disk: Send {
    /// Adds to the newest segment.
    fn add(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was added is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Takes away what is behind `length`.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Makes a new segment that holds `bytes`, whole or not at all, and is the newest from now on.
    fn begin(&mut self, first: u64, bytes: &[u8]) -> io::Result<()>;
    /// Removes an older segment.
    fn remove(&mut self, first: u64) -> io::Result<()>;
}

/// A real folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    newest: File,
    /// Held as long as this lives.
    _lock: File,
}

impl Files {
    /// With `newest` as the file that is written to.
    pub(super) fn new(folder: &Path, newest: File, lock: File) -> Self {
        Self {
            folder: folder.to_owned(),
            newest,
            _lock: lock,
        }
    }
}

impl Disk for Files {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.newest.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.newest.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.newest.set_len(length)
    }

    fn begin(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.newest = create(&self.folder, first, bytes)?;
        Ok(())
    }

    fn remove(&mut self, first: u64) -> io::Result<()> {
        fs::remove_file(self.folder.join(name(first)))?;
        sync_folder(&self.folder)
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

/// Makes a segment, whole or not at all.
pub(super) fn create(folder: &Path, first: u64, bytes: &[u8]) -> io::Result<File> {
    write_whole(folder, &name(first), bytes)?;
    append_to(&folder.join(name(first)))
}

/// Opens a file to add to its end.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Makes a file that only its owner may read: whole or not at all, and there after a crash.
pub(super) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, folder.join(name))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
