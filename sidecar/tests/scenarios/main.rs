//! A sidecar between an application, a scripted gateway and a scripted floor, over real TLS on loopback: what
//! arrives where, and what does not.

mod ends;
mod falls;
mod peer;
mod raises;
mod relays;
mod snapshots;
mod world;
