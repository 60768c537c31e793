//! A sidecar between an application, a scripted gateway and a scripted floor, over real TLS on loopback: what
//! arrives where, and what does not.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

mod ends;
mod falls;
mod peer;
mod promised;
mod raises;
mod relays;
mod snapshots;
mod world;
