//! OpenAI's wire formats: error object, chunks and answers read from an upstream, chunks and
//! answers written for a caller.

pub mod error;
pub mod read;
pub mod write;
