//! Contract of routing: what may serve a request, in what order, and when a backend rests. Every
//! test goes through the public interface.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, like tests"
)]

mod admission;
mod checking;
mod classes;
mod deciding;
mod embeddings;
mod generate;
mod health;
mod networks;
mod oracle;
mod peers;
mod pods;
mod policies;
mod policy_tests;
mod properties;
mod recording;
mod scoring;
mod verdicts;
mod world;
