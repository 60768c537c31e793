//! Scenarios of the data plane in one process: the real stack, real sockets to scripted clouds, a
//! floor that is played. One file per promise.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the test"
)]

mod answers_are_openai;
mod drills;
mod embeddings;
mod explain;
mod failover;
mod front_door;
mod leaving;
mod metrics_contract;
mod peers;
mod policy_changes;
mod proxies;
mod pushed;
mod record_text;
mod records;
mod secrets_stay_home;
mod streams;
mod time_limits;
mod world;
