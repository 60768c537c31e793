//! What goes back to the caller: errors, headers, whole answers and streams.

mod stream;

pub(crate) use mesh_door::{Error, Finished, Kept, Outcome, Report, Tried, decision_header};
pub(crate) use stream::{Answer, sse};
