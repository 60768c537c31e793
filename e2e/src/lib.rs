//! Tools for the shipped binary as a user runs it: start `mesh up`, call it over a socket, measure it.
//! Knows no product library: what it checks is what anybody outside can see.

pub mod api_server;
pub mod bench;
mod child;
pub mod http;
pub mod lives;
pub mod mesh;
pub mod operator;
pub mod part;
pub mod prometheus;
pub mod proxy;
pub mod rights;
pub mod stage;
pub mod story;
pub mod upstream;
