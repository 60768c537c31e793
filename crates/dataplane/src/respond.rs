//! What goes back to the caller: errors, headers, whole answers and streams.

mod body;
mod error;
mod header;
mod stream;

pub(crate) use body::{Finished, Kept, Outcome};
pub use error::{Error, Tried};
pub(crate) use header::{Report, decision_header};
pub(crate) use stream::{Answer, sse};
