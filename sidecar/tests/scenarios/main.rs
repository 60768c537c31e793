//! A sidecar between an application, a scripted gateway and a scripted floor, over real TLS on loopback: what
//! arrives where, and what does not.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

mod ends;
mod falls;
#[expect(dead_code, reason = "the measurement in examples needs more of it")]
mod peer;
#[expect(dead_code, reason = "the measurement in examples needs more of it")]
mod process;
mod promised;
mod raises;
mod relays;
mod snapshots;
mod tokens;
#[expect(dead_code, reason = "the measurement in examples needs more of it")]
mod world;
