//! The chart against a real API server, without nodes: every template with several sets of values is
//! rendered, and taken by the server; two releases live beside each other or are refused; what is kept stays.
//! Needs the built programs of a Kubernetes and Helm (`cargo xtask tools`); where they cannot be had it says
//! that it is skipped, and fails with `CI=true`.

#[cfg(test)]
#[expect(
    clippy::unwrap_in_result,
    reason = "a test that cannot go on ends by a panic"
)]
mod chart {
    mod conform;
    mod hub;
    mod kustomize;
    mod ledger;
    mod narrow;
    mod refused;
    mod release;
    mod removed;
    mod render;
    mod rights;
    mod scaled;
    mod upgrade;
    mod world;
}
