//! Containers that are put beside a running pod do not get at what its sidecar has.

use serde_json::{Value, json};

use super::{SOON, World, carries, pod};

/// What the API server says to one more container beside, in a dry run or for good.
fn beside(world: &World, namespace: &str, container: &Value, dry: bool) -> Result<String, String> {
    let name = "debugged";
    let there = format!("pod/{name}");
    let found = world.stage.get(&["-n", namespace, &there]);
    let mut object = found.map_err(|error| error.to_string())?;
    let mut all = object["spec"]["ephemeralContainers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    all.push(container.clone());
    object["spec"]["ephemeralContainers"] = json!(all);
    let file = world.stage.cluster.folder().join("debugged.json");
    std::fs::write(&file, object.to_string()).map_err(|error| error.to_string())?;
    let dry = if dry { "?dryRun=All" } else { "" };
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/ephemeralcontainers{dry}");
    let args = ["replace", "--raw", &path, "-f", &file.display().to_string()];
    let as_tenant = ["--as=tenant", "--as-group=system:masters"];
    world
        .stage
        .cluster
        .kubectl(&[&args[..], &as_tenant].concat())
}

pub(super) fn kept_out(world: &World) {
    for namespace in ["asking", "plain"] {
        world.stage.apply(&pod(namespace, "debugged", "")).unwrap();
    }
    let made = world.stage.get(&["-n", "asking", "pod/debugged"]).unwrap();
    assert!(carries(&made));
    let container = |name: &str, more: &Value| {
        let mut one = json!({"name": name, "image": "debug:1"});
        for (key, value) in more.as_object().unwrap() {
            one[key] = value.clone();
        }
        one
    };
    let mounts = |volume: &str| json!({"volumeMounts": [{"name": volume, "mountPath": "/seen"}]});
    let spied = container("spies", &mounts("mesh-sidecar-snapshot"));
    let first = || Ok(beside(world, "asking", &spied, true).err());
    let said = world.stage.until("it is refused", SOON, first).unwrap();
    assert!(said.contains("the sidecar's own"), "{said}");
    let volumes = made["spec"]["volumes"].as_array().unwrap();
    let names = volumes.iter().filter_map(|one| one["name"].as_str());
    let ours: Vec<&str> = names.filter(|name| name.starts_with("mesh-")).collect();
    assert!(ours.len() >= 3, "{volumes:?}");
    for volume in ours {
        let said = beside(world, "asking", &container("spies", &mounts(volume)), true);
        let said = said.expect_err(volume);
        assert!(said.contains("the sidecar's own"), "{volume}: {said}");
    }
    let shares = container("shares", &json!({"targetContainerName": "mesh-sidecar"}));
    let said = beside(world, "asking", &shares, true).expect_err("its processes");
    assert!(said.contains("processes are its own"), "{said}");
    // Whoever looks at the application is let in, and again beside the first.
    let looks = |name: &str| container(name, &json!({"targetContainerName": "app"}));
    beside(world, "asking", &looks("looks"), false).unwrap();
    beside(world, "asking", &looks("looks-again"), true).unwrap();
    let said = beside(world, "asking", &spied, true).expect_err("the second");
    assert!(said.contains("the sidecar's own"), "{said}");
    // And a pod without a sidecar has its volumes for itself.
    beside(world, "plain", &looks("looks"), true).unwrap();
}
