//! Room on the disk for a file: asked for before anything is written, and told when it ran out. Refuses to begin what
//! cannot end, since a disk that it fills is full for everybody; a disk that does not say how full it is, is tried.

use std::path::Path;

use crate::error::{Error, Room, SourceError, SourceFailure, Stop};

/// Whether a file that is said to have `total` bytes fits, the `present` bytes of its partial file counted in: they are
/// built on, or freed before the first one is written. Who says it may be wrong, so that is the source's failure.
pub(crate) fn fits(partial: &Path, present: u64, total: u64) -> Result<(), SourceError> {
    let free = partial.parent().and_then(free);
    match free.map(|free| present.saturating_add(free)) {
        Some(there) if there < total => Err(SourceError::DiskFull {
            path: partial.to_path_buf(),
            room: Room {
                needed: Some(total),
                there: Some(there),
            },
        }),
        Some(_) | None => Ok(()),
    }
}

/// The full disk that kept an artifact from coming, where no source served: of several sizes the smallest, with which
/// it would have come.
pub(crate) fn lacking(artifact: &str, failures: &[SourceFailure]) -> Option<Error> {
    let full = failures.iter().filter_map(|failure| match &failure.error {
        SourceError::DiskFull { path, room } => Some((failure, path, *room)),
        _ => None,
    });
    let (failure, path, room) = full.min_by_key(|(_, _, room)| room.needed)?;
    let (path, tried) = (path.clone(), None);
    let error = Error::DiskFull { path, room, tried };
    Some(error.during(artifact, &failure.from))
}

/// The same error, with how much was written when the disk was full.
pub(crate) fn written(mut error: Error, bytes: u64) -> Error {
    if let Error::DiskFull { room, .. } = &mut error {
        room.there = Some(bytes);
    }
    error
}

/// The same, with how much there was to write.
pub(crate) fn needed(mut stop: Stop, total: Option<u64>) -> Stop {
    if let Stop::All(Error::DiskFull { room, .. }) = &mut stop {
        room.needed = total;
    }
    stop
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
        assert!(!full.transient(), "a moment later it is as large");
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
