//! Tools for the shipped binary as a user runs it: start `mesh up`, call it over a socket, measure it.
//! Knows no product library: what it checks is what anybody outside can see.

pub mod bench;
pub mod http;
pub mod mesh;
pub mod upstream;
