//! Room on the disk for a file: asked for before anything is written, and told when it ran out. Refuses to begin what
//! cannot end, since a disk that it fills is full for everybody; a disk that does not say how full it is, is tried.

use std::path::Path;

use crate::error::{Error, Room, Stop};

/// Whether what is left of a file of `total` bytes fits beside the `start` bytes of it that are there.
pub(crate) fn fits(partial: &Path, start: u64, total: u64) -> Result<(), Error> {
    let free = partial.parent().and_then(free);
    match free.map(|free| start.saturating_add(free)) {
        Some(there) if there < total => Err(Error::DiskFull {
            path: partial.to_path_buf(),
            room: Room {
                needed: Some(total),
                there: Some(there),
            },
        }),
        Some(_) | None => Ok(()),
    }
}

/// The same error, with how much was written when the disk was full.
pub(crate) fn written(error: Error, bytes: u64) -> Error {
    match error {
        Error::DiskFull { path, mut room } => {
            room.there = Some(bytes);
            Error::DiskFull { path, room }
        }
        other => other,
    }
}

/// The same, with how much there was to write.
pub(crate) fn needed(stop: Stop, total: Option<u64>) -> Stop {
    match stop {
        Stop::All(Error::DiskFull { path, mut room }) => {
            room.needed = total;
            Stop::All(Error::DiskFull { path, room })
        }
        other => other,
    }
}

/// The same, with both.
pub(crate) fn of(stop: Stop, total: u64, bytes: u64) -> Stop {
    match needed(stop, Some(total)) {
        Stop::All(error) => Stop::All(written(error, bytes)),
        other @ Stop::Source(_) => other,
    }
}

/// Bytes that may still be written into a folder, where its file system says.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // Some that are made of other programs say nothing but zeros.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_what_is_free_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let partial = folder.path().join("m");
        fits(&partial, 0, 1).expect("a byte fits");
        let full = fits(&partial, 0, u64::MAX).expect_err("nothing is so large");
        assert_eq!(full.reason(), "DiskFull");
        let said = full.to_string();
        assert!(
            said.contains("(it has 18446744073709551615 bytes, there is room for "),
            "{said}"
        );
        fits(&partial, u64::MAX, u64::MAX).expect("it is there already");
        fits(Path::new("/nowhere/at/all"), 0, u64::MAX).expect("who cannot be asked is tried");
    }

    #[test]
    fn a_disk_that_ran_full_tells_how_far_it_went() {
        let full = || Error::store("write", "/m", std::io::ErrorKind::StorageFull.into());
        let said = written(full(), 7).to_string();
        assert!(said.contains("(there was room for 7 bytes)"), "{said}");
        let Stop::All(both) = of(Stop::All(full()), 9, 7) else {
            panic!("another source does not help");
        };
        assert!(
            both.to_string()
                .contains("(it has 9 bytes, there is room for 7)"),
            "{both}"
        );
        let other = written(Error::Cancelled, 7);
        assert!(matches!(other, Error::Cancelled), "{other}");
    }
}
