//! SHA-256 digests: parsing, printing, and hashing files in steps that neither block the runtime nor
//! ignore a caller who left. Refuses every other algorithm.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// How much is hashed between two looks at the cancellation token.
pub(crate) const STEP: usize = 4 * 1024 * 1024;

/// The SHA-256 of an artifact's bytes. Prints as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits, optionally after `sha256:`")]
pub struct InvalidDigest;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if hex.len() != 64 {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? * 16 + nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, InvalidDigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidDigest),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in the making.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Why hashing a file stopped early.
#[derive(Debug)]
pub(crate) enum Stopped {
    Cancelled,
    Read(io::Error),
}

/// A file that is hashed step by step on the blocking pool.
struct Reading {
    file: File,
    hasher: Hasher,
    buffer: Vec<u8>,
    read: u64,
}

/// Hashes at most `limit` bytes of a file; `seen` hears the bytes done so far after every step.
/// Gives the hasher (so that a download can go on from there) and the number of bytes it has seen.
pub(crate) async fn hash_file(
    path: &Path,
    limit: u64,
    cancel: &CancellationToken,
    mut seen: impl FnMut(u64),
) -> Result<(Hasher, u64), Stopped> {
    let path: PathBuf = path.to_path_buf();
    let mut reading = blocking(move || {
        let file = File::open(path)?;
        Ok(Reading {
            file,
            hasher: Hasher::default(),
            buffer: vec![0; STEP],
            read: 0,
        })
    })
    .await?;
    loop {
        if cancel.is_cancelled() {
            return Err(Stopped::Cancelled);
        }
        let before = reading.read;
        reading = blocking(move || reading.step(limit)).await?;
        seen(reading.read);
        if reading.read == before {
            return Ok((reading.hasher, reading.read));
        }
    }
}

impl Reading {
    fn step(mut self, limit: u64) -> io::Result<Self> {
        let room = usize::try_from(limit - self.read).unwrap_or(STEP).min(STEP);
        let mut filled = 0;
        while filled < room {
            match self.file.read(&mut self.buffer[filled..room]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.hasher.update(&self.buffer[..filled]);
        self.read += filled as u64;
        Ok(self)
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Stopped> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Stopped::Read),
        Err(gone) => Err(Stopped::Read(io::Error::other(gone))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_prints_what_it_was_read_from() {
        let digest: Digest = format!("sha256:{}", ABC.to_uppercase()).parse().unwrap();
        assert_eq!(digest, Digest::of(b"abc"));
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("\"{ABC}\"")
        );
    }

    #[test]
    fn what_is_not_64_hexadecimal_digits_is_refused() {
        for text in [
            "",
            "sha256:",
            &ABC[1..],
            &format!("{ABC}0"),
            &ABC.replace('b', "g"),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
        assert!(serde_json::from_str::<Digest>("\"sha512:00\"").is_err());
    }

    #[tokio::test]
    async fn a_file_is_hashed_up_to_the_limit_and_a_cancelled_hash_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abcdef").unwrap();
        let cancel = CancellationToken::new();
        let mut steps = Vec::new();
        let (hasher, read) = hash_file(&path, 3, &cancel, |done| steps.push(done))
            .await
            .ok()
            .unwrap();
        assert_eq!((hasher.finish().to_string(), read), (ABC.to_owned(), 3));
        assert_eq!(steps.last(), Some(&3));
        cancel.cancel();
        assert!(matches!(
            hash_file(&path, 3, &cancel, |_| {}).await,
            Err(Stopped::Cancelled)
        ));
    }
}
