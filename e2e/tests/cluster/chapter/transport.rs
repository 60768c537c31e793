//! Who reaches a model server, and who proves what: without anybody's word but certificates and tokens.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::egress;
use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(2);
const FLOOR: &str = "spiffe://inferencemesh.dev/ns/mesh-system/sa/floor-worker";

/// One request of the application, without an SDK.
fn peer(world: &World, request: &Value) -> Value {
    let script = world.python.script("peer.py");
    let done = world
        .exec(TEAM, &[&script, &request.to_string()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "peer.py: {errors}");
    serde_json::from_slice(&done.stdout).unwrap()
}

fn floor(world: &World) -> Option<Value> {
    let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=floor"]);
    let serves = |pod: &&Value| {
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        ready && pod["metadata"]["deletionTimestamp"].is_null()
    };
    pods["items"].as_array()?.iter().find(serves).cloned()
}

fn address(world: &World) -> String {
    let pod = until("the floor serves", LIMIT, || floor(world));
    text(&pod["status"]["podIP"]).to_owned()
}

fn authorities(world: &World) -> String {
    let trust = world.get(&["configmap/mesh-trust", "-n", HOME]);
    text(&trust["data"]["ca.crt"]).to_owned()
}

/// Where no network policy helps, the worker itself must.
pub(crate) fn plain_text(world: &World) {
    let address = address(world);
    world.cluster.enforce_network_policies(false).unwrap();
    speaks_tls_only(world, &address);
    world.cluster.enforce_network_policies(true).unwrap();
}

fn speaks_tls_only(world: &World, address: &str) {
    let said = peer(
        world,
        &json!({"url": format!("http://{address}:8000/v1/models"), "token": true}),
    );
    assert!(text(&said["error"]).contains("ConnectionRefused"), "{said}");
    let said = peer(
        world,
        &json!({"url": format!("http://{address}:8444/v1/models"), "token": true}),
    );
    assert!(
        said["error"].is_string() && said["status"].is_null(),
        "{said}"
    );
}

/// The network lets pods with a sidecar through to the worker, which looks at who they are.
pub(crate) fn identities(world: &World) {
    egress::labeled(world, || prove(world));
}

fn prove(world: &World) {
    let (address, ca) = (address(world), authorities(world));
    let models = format!("https://{address}:8444/v1/models");
    let ask = |token: &Value| {
        peer(
            world,
            &json!({"url": models, "ca": ca, "names": false, "token": token}),
        )
    };
    let api = world.kubectl(&["create", "token", "-n", TEAM, "app"]);
    for token in [Value::Null, json!("nonsense"), json!(api.trim())] {
        let said = ask(&token);
        assert_eq!(said["status"], 401, "{said}");
        assert!(text(&said["text"]).contains("invalid_api_key"), "{said}");
    }
    let said = ask(&json!(true));
    assert_eq!(said["status"], 200, "{said}");
    assert_eq!(
        said["names"],
        json!([FLOOR]),
        "it is who it should be: {said}"
    );
    // The way of a sidecar to the floor.
    let question = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4});
    let chat = format!("https://{address}:8444/v1/chat/completions");
    let said = peer(
        world,
        &json!({"url": chat, "ca": ca, "names": false, "token": true, "body": question}),
    );
    assert_eq!(said["status"], 200, "{said}");
    assert!(text(&said["text"]).contains("chat.completion"), "{said}");
    // Nobody else's authority makes this one's certificates good.
    let said = peer(
        world,
        &json!({"url": models, "names": false, "token": true}),
    );
    assert!(
        text(&said["error"]).contains("CERTIFICATE_VERIFY_FAILED"),
        "{said}"
    );
}

pub(crate) fn gateway(world: &World) {
    let ca = authorities(world);
    let url = format!("https://mesh-gateway.{HOME}.svc:8443/v1/models");
    // By its name, as every client does.
    let said = peer(world, &json!({"url": url, "ca": ca, "token": true}));
    assert_eq!(said["status"], 200, "{said}");
    let said = peer(world, &json!({"url": url, "ca": ca}));
    assert_eq!(said["status"], 401, "{said}");
}

pub(crate) fn trusted_where_served(world: &World) {
    let name = "trusted";
    let there = || {
        world
            .try_kubectl(&["get", "-n", name, "configmap/mesh-trust"])
            .ok()
    };
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    assert!(there().is_none(), "nobody serves there");
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend", "metadata": {"namespace": name, "name": "b"},
        "spec": {"inCluster": {"modelRef": {"name": "absent"}}, "models": [{"name": "own"}]}}));
    until("members there know whom to trust", LIMIT, there);
    world.kubectl(&["delete", "-n", name, "inferencebackend/b"]);
    until("it goes with the last of them", LIMIT, || {
        there().is_none().then_some(())
    });
    world.kubectl(&["delete", "namespace", name, "--wait=false"]);
}

pub(crate) fn uninstalled(world: &World) {
    let secret = world.kubectl(&["get", "secrets", "-n", HOME, "-o", "name"]);
    assert!(!secret.contains("mesh-ca"), "{secret}");
    let trusted = world.kubectl(&["get", "configmaps", "-A", "-o", "name"]);
    assert!(!trusted.contains("mesh-trust"), "{trusted}");
}
