//! What operator and gateway take while nothing happens.

use std::time::Duration;

use serde_json::Value;

use crate::chapter::install::text;
use crate::world::{HOME, World, until};

/// More than this would be a leak, or something held that nobody needs.
const MOST: u64 = 96 << 20;

/// Bytes in use by each container of the release, as the kubelet counts them.
fn containers(world: &World) -> Vec<(String, u64)> {
    let raw = world.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary"]);
    let summary: Value = serde_json::from_str(&raw).unwrap_or_default();
    let pods = summary["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["podRef"]["namespace"] == HOME)
        .flat_map(|pod| pod["containers"].as_array().into_iter().flatten())
        .filter_map(|container| {
            let name = text(&container["name"]).to_owned();
            let bytes = container["memory"]["workingSetBytes"].as_u64()?;
            matches!(name.as_str(), "operator" | "gateway").then_some((name, bytes))
        })
        .collect()
}

pub(crate) fn idle(world: &World) {
    let found = until("the kubelet has counted", Duration::from_mins(1), || {
        let found = containers(world);
        let both = ["operator", "gateway"]
            .iter()
            .all(|name| found.iter().any(|(own, bytes)| own == name && *bytes > 0));
        both.then_some(found)
    });
    for (name, bytes) in found {
        println!("  {name}: {} KiB", bytes >> 10);
        assert!(bytes < MOST, "{name} uses {} MiB", bytes >> 20);
    }
}
