//! Bytes to types and back, for every wire the mesh speaks. Typed only where we act; the rest of a
//! request is kept as it came, in order. No I/O, no policy, no knowledge of backends.
//!
//! - [`request`]: a request of an application, one type for all surfaces.
//! - [`event`]: the one typed stream between a backend's reader and the caller's writer.
//! - [`openai`]: OpenAI's wire formats around these two.
//! - [`sse`]: server-sent events.

pub mod event;
pub mod openai;
pub mod request;
pub mod sse;

pub use event::{Event, FinishReason, Usage};
pub use request::{ModelRequest, ParseError, Surface};
