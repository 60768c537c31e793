//! Promises of the clients against scripted model servers.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken arrangement of a test should end it"
)]

mod body;
mod egress;
mod failures;
mod local;
mod pods;
mod probe;
mod proxies;
mod streams;
mod trust;
mod vectors;
mod world;
