//! Answers of an upstream, read into events: chunks of a stream, whole answers, vectors, and the
//! error objects of many servers. Upstreams are outside: everything is checked and bounded, nothing
//! of an answer is quoted in a message, and whether an answer is complete is said by its finish
//! reasons, not by the connection.

mod answer;
mod chunk;
mod delta;
mod failure;
#[cfg(test)]
mod tests;
mod vectors;

pub use answer::answer;
pub use chunk::ChunkReader;
pub use failure::UpstreamError;
pub use vectors::vectors;

/// Most choices of one answer; the limit of `n` in a request.
pub const MAX_CHOICES: u32 = 128;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not JSON, or JSON of another shape. The text is ours.
    #[error("{0}")]
    Invalid(&'static str),
    /// The upstream says that it failed, within a 200.
    #[error("the upstream reported an error")]
    Upstream(Box<UpstreamError>),
    /// A choice has no finish reason.
    #[error("the answer has no finish reason")]
    Cut,
}

impl ReadError {
    /// Name of the cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Upstream(_) => "Upstream",
            Self::Cut => "Cut",
        }
    }
}
