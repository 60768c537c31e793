//! Members of a mesh in one process: an endpoint that signs, servers, clients, and those who pretend.
#![cfg(test)]

mod peers;
mod rotation;
mod world;
