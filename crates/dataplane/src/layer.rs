//! The layers of the stack, one per file. Their order, and why, is in [`stack`](crate::stack).

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod observe;
pub(crate) mod origin;
pub(crate) mod request_id;
