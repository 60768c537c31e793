//! Events, written as the answer of an OpenAI surface: chunks of a stream, a whole answer, or
//! vectors. The form is OpenAI's published API description. No I/O, and no decision about when a
//! stream is complete: whoever drives the events says so with [`done`] or [`failed`].

mod chunk;
mod merge;
mod vectors;
mod whole;

use crate::Surface;
use crate::openai::error::ErrorBody;

pub use chunk::ChunkWriter;
pub use vectors::{Encoding, embeddings};
pub use whole::{TooLarge, Whole};

/// What is the same on every part of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which endpoint was called.
    pub surface: Surface,
    /// One per answer, for example `chatcmpl-01J…`.
    pub id: String,
    /// Seconds since 1970, one per answer.
    pub created: i64,
    /// The model that serves, not the one that was asked for.
    pub model: String,
    /// Identity of what serves; absent if nobody knows.
    pub system_fingerprint: Option<String>,
}

/// Appends the frame that ends a complete stream.
pub fn done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

/// Appends the frame that ends a stream which was cut: an error object, and no `[DONE]`. The
/// official SDKs raise on a frame with an `error` key.
pub fn failed(body: &ErrorBody, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    json(body, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends `value` as JSON. Writing to memory a value that is made of strings, numbers and maps
/// with string keys cannot fail.
fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}
