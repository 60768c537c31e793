//! What is answered at each path.

pub(crate) mod backend;
pub(crate) mod explain;
pub(crate) mod later;
pub(crate) mod model;
pub(crate) mod serve;
