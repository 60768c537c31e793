//! Test toolbox: things to build a small world with, in one process, on loopback. Used only as a
//! dev-dependency and by the bench; no product code may depend on it.

pub mod accounts;
pub mod front;
pub mod proxy;
pub mod upstream;
