//! What Prometheus and Grafana are given: rules and dashboards that load, ask only for numbers that the binaries
//! serve, fire when they should and are silent when they should. Needs `promtool` (Debian package `prometheus`),
//! which is installed where that is ours to do; elsewhere it says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod monitoring {
    mod dashboards;
    mod promql;
    mod rules;
    mod served;
}
