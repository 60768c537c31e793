//! Installing, looking, uninstalling.

use std::time::Duration;

use serde_json::Value;

use crate::chapter::quickstart;
use crate::world::{HOME, TEAM, World, until};

pub(crate) const KINDS: [&str; 3] = ["modelcaches", "inferencebackends", "sovereigntypolicies"];

pub(crate) fn floor(world: &World) {
    let begun = std::time::Instant::now();
    quickstart::install(world);
    floor_is_ready(world, begun);
}

/// Once the release is installed.
pub(crate) fn floor_is_ready(world: &World, begun: std::time::Instant) {
    let limit = Duration::from_mins(3);
    world.wait(HOME, "modelcache/floor", "Ready", limit);
    world.wait(HOME, "inferencebackend/floor", "Ready", limit);
    world.wait(HOME, "sovereigntypolicy/default", "Ready", limit);
    println!("  floor Ready after {:.1} s", begun.elapsed().as_secs_f32());
    let backend = world.get(&["-n", HOME, "inferencebackend/floor"]);
    assert_eq!(
        backend["status"]["sovereignty"]["class"], "OwnHardware",
        "{}",
        backend["status"]
    );
    assert_eq!(
        backend["status"]["observedGeneration"],
        backend["metadata"]["generation"]
    );
    world.application(TEAM);
}

pub(crate) fn restricted(world: &World) {
    let lax = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": HOME, "name": "lax"},
        "spec": {"containers": [{"name": "a", "image": "nowhere.invalid/a"}]}});
    let said = world.cluster.apply(&lax, "e2e").unwrap_err();
    assert!(
        said.contains("violates PodSecurity \"restricted"),
        "the namespace enforces it: {said}"
    );
    let pods = world.get(&["pods", "-n", HOME]);
    let pods = pods["items"].as_array().unwrap();
    assert!(
        pods.len() >= 3,
        "operator, gateway and floor: {}",
        pods.len()
    );
    for pod in pods {
        let name = &pod["metadata"]["name"];
        let worker = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker";
        let token = pod["spec"]["automountServiceAccountToken"] != false;
        assert!(
            !(worker && token),
            "{name} needs no token of the API server"
        );
        for container in pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .chain(pod["spec"]["initContainers"].as_array())
            .flatten()
        {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        }
    }
}

pub(crate) fn samples(world: &World) {
    world.kubectl(&[
        "apply",
        "--server-side",
        "-R",
        "-f",
        &world.path("deploy/samples/cluster"),
    ]);
    let limit = Duration::from_mins(3);
    for kind in KINDS {
        let objects = world.get(&[kind, "-A"]);
        for object in objects["items"].as_array().unwrap() {
            let (namespace, name) = (
                text(&object["metadata"]["namespace"]),
                text(&object["metadata"]["name"]),
            );
            world.wait(namespace, &format!("{kind}/{name}"), "Ready", limit);
        }
    }
    let listed = world.kubectl(&["get", "mesh", "-A"]);
    assert!(
        listed.contains("inferencebackend.inferencemesh.dev/floor"),
        "{listed}"
    );
}

pub(crate) fn uninstall(world: &World) {
    quickstart::uninstall(world);
    kinds_are_left(world);
}

/// Once the release is uninstalled.
pub(crate) fn kinds_are_left(world: &World) {
    for kind in KINDS {
        let crd = format!("crd/{kind}.inferencemesh.dev");
        world.kubectl(&["get", &crd]);
    }
    let floor = world.get(&["-n", HOME, "inferencebackend/floor"]);
    assert_eq!(
        text(&floor["metadata"]["name"]),
        "floor",
        "objects of the user stay"
    );
    let gone = || {
        let left = world.kubectl(&[
            "get",
            "deployments,services,networkpolicies,poddisruptionbudgets,pods",
            "-n",
            HOME,
            "-o",
            "name",
        ]);
        let cluster = world.kubectl(&["get", "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingwebhookconfigurations", "-l", "app.kubernetes.io/part-of=inference-mesh", "-o", "name"]);
        (left.trim().is_empty() && cluster.trim().is_empty())
            .then_some(())
            .ok_or_else(|| format!("{left}{cluster}"))
    };
    let mut last = String::new();
    until(
        "nothing of the release is left",
        Duration::from_mins(2),
        || gone().map_err(|left| last = left).ok(),
    );
    drop(last);
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
