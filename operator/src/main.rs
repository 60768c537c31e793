//! `mesh-operator`.

fn main() {}
