//! `mesh-gateway`.

fn main() {}
