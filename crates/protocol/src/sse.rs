//! Server-sent events, read incrementally and written (WHATWG HTML, section "Server-sent events").
//!
//! The reader takes bytes in any pieces and is bounded: a line or an event over its limit is an
//! error, and nothing is kept beyond one unfinished event. It knows nothing about JSON or OpenAI.
//!
//! Two things differ from the standard on purpose. At the end of the stream an event that lacks its
//! blank line still counts (see [`Reader::finish`]): some model servers end with a bare
//! `data: [DONE]`. And `id` belongs to the event that carries it, since nobody here reconnects.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Error, Limits, Reader, SseEvent};
pub use writer::{comment, data, event};

/// The text of the event that ends an OpenAI stream.
pub const DONE: &str = "[DONE]";
