//! What the leader finds: pods without a sidecar, and with an old one.

use serde_json::Value;

use super::{SOON, World, pod};

/// Waits until a number is so.
pub(super) fn number(world: &World, metric: &str, expected: f64) {
    let operator = world.operator.as_ref().unwrap();
    let found = || Ok(((operator.metric(metric)? - expected).abs() < 0.5).then_some(()));
    world.stage.until(metric, SOON, found).unwrap();
}

/// Waits for an event about a pod, which is told once.
pub(super) fn event(world: &World, name: &str, reason: &str) {
    let found = || {
        let selector = format!("regarding.name={name}");
        let args = ["events.events.k8s.io", "-A", "--field-selector", &selector];
        let events = world.stage.get(&args)?["items"].take();
        let events = events.as_array().cloned().unwrap_or_default();
        let of_it: Vec<&Value> = events
            .iter()
            .filter(|event| event["reason"] == reason)
            .collect();
        Ok((!of_it.is_empty()).then_some(of_it.len()))
    };
    assert_eq!(
        world.stage.until(reason, SOON, found).unwrap(),
        1,
        "{name}: told once"
    );
}

/// Pods that should carry a sidecar and do not, since they were there before, and those of an older template.
pub(super) fn told(world: &World) {
    number(world, "pods_uninjected", 0.0);
    // There before its namespace asked.
    world.stage.apply(&pod("never", "early", "")).unwrap();
    let label = [
        "label",
        "namespace",
        "never",
        "--overwrite",
        "inferencemesh.dev/inject=enabled",
    ];
    world.stage.kubectl(&label).unwrap();
    number(world, "pods_uninjected", 1.0);
    event(world, "early", "SidecarMissing");
    event(world, "foreign", "ForeignBaseUrl");
    let back = [
        "label",
        "namespace",
        "never",
        "--overwrite",
        "inferencemesh.dev/inject=disabled",
    ];
    world.stage.kubectl(&back).unwrap();
    number(world, "pods_uninjected", 0.0);
    outdated(world);
}

/// A pod of another template is counted and left as it is.
fn outdated(world: &World) {
    number(world, "pods_outdated", 0.0);
    let old = [
        "annotate",
        "pod",
        "plain",
        "-n",
        "guarded",
        "--overwrite",
        "inferencemesh.dev/injected-template=0",
    ];
    world.stage.kubectl(&old).unwrap();
    number(world, "pods_outdated", 1.0);
    let wrote = world.stage.wrote().unwrap();
    let touched: Vec<&String> = wrote.iter().filter(|line| line.contains(" pods")).collect();
    assert!(touched.is_empty(), "{touched:?}");
}
