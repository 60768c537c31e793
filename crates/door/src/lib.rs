//! What stands before every front of the mesh, whoever is behind it: how a request is refused, how much of
//! it is taken in, which pages of a browser are heard, what its headers ask for.
//!
//! Refuses to know backends, policies and callers: those are the data plane's, and the sidecar has none.

pub mod body;
mod error;
mod hints;
pub mod id;
mod kept;
pub mod origin;
pub mod panic;
mod report;
mod shed;
mod surface;

pub use error::{Error, Tried, decision_header};
pub use hints::{Hints, PRIVACY};
pub use kept::{Finished, Kept, Outcome};
pub use report::Report;
pub use shed::{Memory, Places, limit};
pub use surface::{surface_asked, surface_of};
