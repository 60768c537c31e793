//! Whole answers, of upstreams that were not asked for a stream.

use super::chunk::{Chunk, ChunkReader, is_error, object};
use super::{ReadError, UpstreamError};
use crate::{Event, Surface};

/// Reads a whole answer of a chat or completions request into the events that a stream would have
/// given, the usage last.
///
/// # Errors
/// [`ReadError::Invalid`] if it is not an answer, [`ReadError::Upstream`] if it is an error object,
/// [`ReadError::Cut`] if a choice has no finish reason.
pub fn answer(surface: Surface, bytes: &[u8]) -> Result<Vec<Event>, ReadError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(ReadError::Invalid("not UTF-8"));
    };
    if text.trim().is_empty() {
        return Err(ReadError::Invalid("an empty body"));
    }
    let chunk: Chunk<'_> = object(text)?;
    if is_error(&chunk) {
        return Err(ReadError::Upstream(Box::new(UpstreamError::read(bytes))));
    }
    let choices = chunk.choices.as_ref().map_or(0, Vec::len);
    if choices == 0 {
        return Err(ReadError::Invalid("an answer without choices"));
    }
    let mut reader = ChunkReader::new(surface, 1);
    let mut events = Vec::new();
    reader.take(chunk, &mut events)?;
    if !reader.complete(true) {
        return Err(ReadError::Cut);
    }
    events.extend(reader.take_usage().map(Event::Usage));
    Ok(events)
}
