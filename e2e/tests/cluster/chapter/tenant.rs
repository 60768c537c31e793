//! What a tenant cannot reach by a backend of its own: parts of the mesh, by whatever name or address.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World, until};

/// Nothing of it may be in any answer.
const PROMPT: &str = "A prompt that stays where it is.";

fn pod_ip(world: &World, component: &str) -> String {
    let selector = format!("app.kubernetes.io/component={component}");
    let pods = world.get(&["pods", "-n", HOME, "-l", &selector]);
    text(&pods["items"][0]["status"]["podIP"]).to_owned()
}

fn external(name: &str, url: &str) -> Value {
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": TEAM, "name": name},
        "spec": {"external": {"url": url, "insecurePlaintext": true}, "models": [{"name": name}]}})
}

/// Who answers the name of a tenant's backend.
fn server(world: &World, name: &str) -> (u64, String) {
    let said = world.ask(
        TEAM,
        &json!({"model": name, "text": PROMPT, "max_tokens": 4}),
    );
    (said.status(), said.header("mesh-backend").to_owned())
}

/// Names of backends of the tenant, and where they point.
fn places(world: &World) -> Vec<(&'static str, String)> {
    let service = world.get(&["service", "-n", HOME, "mesh-gateway"]);
    let api_server = world.get(&["service", "-n", "default", "kubernetes"]);
    // The tenant's own name for a worker of the mesh.
    world.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": TEAM, "name": "rebound"}, "spec": {"type": "ExternalName", "externalName": "floor-worker.mesh-system.svc.cluster.local"}}));
    vec![
        (
            "to-worker",
            format!("http://{}:8000/v1", pod_ip(world, "worker")),
        ),
        (
            "to-gateway",
            format!("http://{}:8080/v1", pod_ip(world, "gateway")),
        ),
        (
            "to-operator",
            format!("http://{}:8081/v1", pod_ip(world, "operator")),
        ),
        (
            "to-service",
            format!("http://{}:8080/v1", text(&service["spec"]["clusterIP"])),
        ),
        (
            "to-name",
            String::from("http://mesh-gateway.mesh-system.svc:8080/v1"),
        ),
        (
            "to-api",
            format!("https://{}/v1", text(&api_server["spec"]["clusterIP"])),
        ),
        (
            "to-rebound",
            String::from("http://rebound.team.svc:8000/v1"),
        ),
    ]
}

/// Another mesh, of which the tenant says that it listens where a server does.
fn peer() -> Value {
    let key = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
    let peer = json!({"address": "cloud.clouds.svc:8000", "identity": key, "trust": "Open"});
    json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": TEAM, "name": "to-peer"},
        "spec": {"peer": peer, "models": [{"name": "to-peer"}]}})
}

/// It is judged, shown with its reason, and nothing of a request comes there.
fn never_asked(world: &World) {
    let said = world.ask(
        TEAM,
        &json!({"model": "to-peer", "text": "To a peer.", "max_tokens": 4}),
    );
    assert_eq!(
        (said.status(), said.header("mesh-degraded")),
        (200, "model_substituted"),
        "the floor stands in: {said:?}"
    );
    let log = world.kubectl(&["logs", "-n", "clouds", "cloud"]);
    assert!(!log.contains("To a peer."), "somebody asked the peer");
    let shown = until("the peer is judged", Duration::from_secs(30), || {
        let found = world.kubectl(&["get", "ib", "-n", TEAM, "to-peer"]);
        found.contains("OpenSwarm").then_some(found)
    });
    assert!(
        shown.contains("PeerTrafficNotServed") && shown.contains("Unknown"),
        "{shown}"
    );
}

pub(crate) fn addresses(world: &World) {
    let places = places(world);
    world.apply(&peer());
    world.apply(&external("to-cloud", "http://cloud.clouds.svc:8000/v1"));
    for (name, url) in &places {
        world.apply(&external(name, url));
    }
    // What is no part of the mesh is reached, and by then the others are known too.
    until(
        "the tenant's own server answers",
        Duration::from_secs(30),
        || (server(world, "to-cloud") == (200, String::from("team/to-cloud"))).then_some(()),
    );
    for (name, url) in &places {
        let (status, backend) = server(world, name);
        assert!(!backend.starts_with("team/"), "{url}: {status} {backend}");
    }
    for component in ["worker", "gateway", "operator"] {
        let selector = format!("app.kubernetes.io/component={component}");
        let log = world.kubectl(&[
            "logs",
            "-n",
            HOME,
            "-l",
            &selector,
            "--all-containers",
            "--tail=-1",
        ]);
        assert!(!log.contains(PROMPT), "{component}: {log}");
    }
    never_asked(world);
    world.kubectl(&["delete", "inferencebackend", "-n", TEAM, "to-peer"]);
    for (name, _) in &places {
        world.kubectl(&["delete", "inferencebackend", "-n", TEAM, name]);
    }
    world.kubectl(&["delete", "inferencebackend", "-n", TEAM, "to-cloud"]);
}

/// A tenant that may write EndpointSlices and pods makes itself a worker of nobody.
pub(crate) fn forged(world: &World) {
    let cloud = world.get(&["pod", "-n", "clouds", "cloud"]);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"namespace": HOME, "name": "forged", "labels": {
            "inferencemesh.dev/backend": "floor", "kubernetes.io/service-name": "floor-worker"}},
        "addressType": "IPv4", "ports": [{"name": "api", "port": 8000, "protocol": "TCP"}],
        "endpoints": [{"addresses": [text(&cloud["status"]["podIP"])], "nodeName": "n1", "conditions": {"ready": true}}]});
    world.apply(&slice);
    let asked = |log: &str| log.matches(PROMPT).count();
    let before = asked(&world.kubectl(&["logs", "-n", "clouds", "cloud"]));
    for number in 0..8 {
        let text = format!("{PROMPT} {number}");
        let said = world.ask(TEAM, &json!({"model": "smollm2", "text": text, "max_tokens": 2, "headers": {"mesh-privacy": "restricted"}}));
        assert_eq!(said.status(), 200, "{said:?}");
    }
    let after = asked(&world.kubectl(&["logs", "-n", "clouds", "cloud"]));
    assert_eq!(after, before, "a slice of anybody was believed");
    world.kubectl(&["delete", "endpointslice", "-n", HOME, "forged"]);
}
