//! The durable audit of a cluster. One process keeps the log on a volume of its own (`mesh-gateway ledger`), since gateways
//! come and go; every gateway writes to it and waits for the answer.
//!
//! ```text
//!  gateways ──mTLS──► POST /v1/entries   lines of JSON in, {"first","size"} out once they are on disk
//!                     GET  /v1/state     whether they would be
//!  who may forward a port of the pod ──► 127.0.0.1: GET /v1/log   the whole log, as it is on disk
//! ```
//!
//! Refuses: to keep anything of anybody but gateways, known by certificate; to change or to leave out what is kept.

mod book;
mod client;
mod wire;

pub(crate) use book::{Options, run};
pub(crate) use client::{Remote, Writing};

#[cfg(test)]
mod tests;
