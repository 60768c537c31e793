//! Pods that controllers make of what people write.

use std::collections::BTreeSet;

use mesh_cluster::Tier;
use serde_json::{Value, json};

use super::{SOON, World, carries, container};

/// One of each kind that makes pods.
fn objects() -> Vec<Value> {
    let meta = |name: &str| json!({"namespace": "guarded", "name": name});
    let template = |name: &str, restart: &str| {
        json!({"metadata": {"labels": {"app": name}}, "spec": {
            "restartPolicy": restart, "containers": [container("app")], "initContainers": [container("migrate")]}})
    };
    let selector = |name: &str| json!({"matchLabels": {"app": name}});
    let always = |name: &str| template(name, "Always");
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("deployment"),
            "spec": {"selector": selector("deployment"), "template": always("deployment")}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta("stateful"),
            "spec": {"serviceName": "stateful", "selector": selector("stateful"), "template": always("stateful")}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta("daemon"),
            "spec": {"selector": selector("daemon"), "template": always("daemon")}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta("job"),
            "spec": {"template": template("job", "Never")}}),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta("cron"),
            "spec": {"schedule": "* * * * *", "suspend": true, "jobTemplate": {"spec": {"template": template("cron", "OnFailure")}}}}),
    ]
}

#[test]
fn whatever_makes_pods_makes_them_with_sidecars() {
    let Some(world) = World::start("injectmade", Tier::FakeNodes) else {
        return;
    };
    world.bundles();
    for object in objects() {
        world.stage.apply(&object).unwrap();
    }
    // As a person does who does not want to wait for the hour.
    let now = [
        "create",
        "job",
        "-n",
        "guarded",
        "cron-now",
        "--from=cronjob/cron",
    ];
    world.stage.kubectl(&now).unwrap();
    let wanted: BTreeSet<&str> = ["cron", "daemon", "deployment", "job", "stateful"].into();
    let made = || {
        let pods = world.stage.get(&["pods", "-n", "guarded"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let found: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["labels"]["app"].as_str())
            .collect();
        Ok((found == wanted).then_some(pods.clone()))
    };
    let pods = world
        .stage
        .until("every kind has a pod", 3 * SOON, made)
        .unwrap();
    for pod in pods {
        assert!(carries(&pod), "{}", pod["metadata"]["name"]);
        let init = pod["spec"]["initContainers"][1]["env"].to_string();
        assert!(init.contains("http://127.0.0.1:14141/v1"), "{init}");
    }
    let lacking = world.stage.refused().unwrap();
    assert!(lacking.is_empty(), "rights are lacking: {lacking:?}");
}
