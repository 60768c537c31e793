//! Promises of the clients against scripted model servers.

mod body;
mod egress;
mod failures;
mod local;
mod probe;
mod streams;
mod vectors;
mod world;
