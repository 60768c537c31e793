//! A bounded reader over the head of a GGUF file.
//!
//! Every length that the file announces is compared with what is left of the file *before* memory is taken for it, so a
//! file of a few bytes can never ask for gigabytes. Refuses to read past the announced length of the file.

use std::io::{BufReader, ErrorKind, Read};

use super::{Error, MAX_STRING};

/// Reads little-endian values and knows how much of the file is left.
pub(super) struct Cursor<R> {
    reader: BufReader<R>,
    position: u64,
    file_len: u64,
}

impl<R: Read> Cursor<R> {
    /// Starts at offset 0 of a file of `file_len` bytes; `reader` must stand there.
    pub(super) fn new(reader: R, file_len: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, reader),
            position: 0,
            file_len,
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Checks that `count` items of at least `bytes_each` bytes can still follow.
    pub(super) fn ensure(
        &self,
        count: u64,
        bytes_each: u64,
        what: &'static str,
    ) -> Result<(), Error> {
        let remaining = self.file_len.saturating_sub(self.position);
        match count.checked_mul(bytes_each) {
            Some(needed) if needed <= remaining => Ok(()),
            _ => Err(Error::CountTooLarge {
                what,
                count,
                remaining,
            }),
        }
    }

    /// Fills `buffer` or says where the file ends.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let wanted = buffer.len() as u64;
        if self.file_len.saturating_sub(self.position) < wanted {
            return Err(Error::Truncated {
                at: self.position,
                wanted,
            });
        }
        self.reader
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Error::Truncated {
                    at: self.position,
                    wanted,
                },
                _ => Error::Io {
                    at: self.position,
                    source: error,
                },
            })?;
        self.position += wanted;
        Ok(())
    }

    /// Reads `N` bytes, for the `from_le_bytes` of a number.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// Appends the bytes of a length-prefixed string to `into`, at most `limit` of them.
    pub(super) fn string_into(
        &mut self,
        into: &mut Vec<u8>,
        limit: u64,
        what: &'static str,
    ) -> Result<(), Error> {
        let length = self.u64()?;
        self.ensure(length, 1, what)?;
        let Some(length) = usize::try_from(length).ok().filter(|_| length <= limit) else {
            return Err(Error::StringTooLong {
                what,
                length,
                limit,
            });
        };
        let start = into.len();
        into.resize(start + length, 0);
        self.fill(into.get_mut(start..).unwrap_or_default())
    }

    /// Reads a length-prefixed UTF-8 string of at most `limit` bytes.
    pub(super) fn string(&mut self, limit: u64, what: &'static str) -> Result<String, Error> {
        let start = self.position;
        let mut bytes = Vec::new();
        self.string_into(&mut bytes, limit.min(MAX_STRING), what)?;
        String::from_utf8(bytes).map_err(|_| Error::NotUtf8 { what, at: start })
    }
}
