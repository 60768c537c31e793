//! Who is who inside a mesh: ServiceAccount tokens, verified without asking anybody.
//!
//! Refuses: deciding what somebody may do. It says who sent something, or that it does not know.

mod token;

pub use token::{AUDIENCE, Error, ServiceAccount, TokenVerifier};
