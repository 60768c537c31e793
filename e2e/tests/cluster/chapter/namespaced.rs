//! A second release beside the first, for its own namespace only.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::world::{HOME, RELEASE, TEAM, World, until};

const SOLO: &str = "solo";
const LIMIT: Duration = Duration::from_mins(3);
/// SHA-256 of `secret`.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const CHILDREN: &str =
    "deployments,services,networkpolicies,poddisruptionbudgets,serviceaccounts,configmaps";

fn install(world: &World) {
    world.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SOLO, "labels": {
        "pod-security.kubernetes.io/enforce": "restricted", "inferencemesh.dev/mesh": "own"}}}),
    );
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": SOLO, "name": "mesh-api-keys"}, "stringData": {"alice": HASH}}));
    let chart = world.path("charts/inference-mesh");
    let small = "scope=namespaced,crds.install=false,operator.replicas=1,gateway.replicas=1,floor.kvMemory=64Mi";
    world.helm(&[
        "install",
        RELEASE,
        &chart,
        "-n",
        SOLO,
        "--set",
        small,
        "--wait",
        "--timeout",
        "3m",
    ]);
    until("its floor is made", LIMIT, || {
        world
            .try_kubectl(&["get", "-n", SOLO, "inferencebackend/floor"])
            .ok()
    });
    for object in [
        "modelcache/floor",
        "inferencebackend/floor",
        "sovereigntypolicy/default",
    ] {
        world.wait(SOLO, object, "Ready", LIMIT);
    }
}

fn ask(world: &World, token: &str, words: &str) -> crate::application::Said {
    let url = format!("http://mesh-gateway.{SOLO}.svc:8080/v1");
    world.ask(TEAM, &json!({"base_url": url, "token": token, "model": "smollm2", "text": words, "max_tokens": 4}))
}

fn answers(world: &World) {
    let said = until("its floor answers", Duration::from_mins(1), || {
        let said = ask(world, "secret", "Hello");
        (said.status() == 200).then_some(said)
    });
    let class = said.header("mesh-sovereignty-class");
    assert_eq!(class, "RentedHardware", "{said:?}");
    let audience = "--audience=inferencemesh.dev";
    let token = |namespace: &str| {
        let said = world.kubectl(&["create", "token", "-n", namespace, "default", audience]);
        said.trim().to_owned()
    };
    let said = ask(world, &token(SOLO), "Hello");
    assert_eq!(said.status(), 200, "{said:?}");
    let said = ask(world, &token(TEAM), "Hello");
    assert_eq!(said.status(), 401, "a caller of elsewhere: {said:?}");
    // Nothing is owned where nodes cannot be seen.
    let said = ask(world, "secret", "Charge 4111 1111 1111 1111 please.");
    assert_eq!(said.status(), 403, "{said:?}");
    assert!(said.text().is_empty(), "{said:?}");
    // The same, by the chart's own test.
    let one = ["--filter", "name=mesh-test-restricted"];
    let said = world.helm(&[&["test", RELEASE, "-n", SOLO], &one[..]].concat());
    assert!(said.contains("Succeeded"), "{said}");
}

/// Nothing was asked for that a Role cannot give, and nothing more is granted.
fn rights(world: &World) {
    for account in ["mesh-operator", "mesh-gateway"] {
        let user = format!("--as=system:serviceaccount:{SOLO}:{account}");
        for (verb, resource) in [
            ("list", "nodes"),
            ("list", "namespaces"),
            ("list", "inferencebackends"),
            ("list", "pods"),
            ("get", "secrets"),
        ] {
            let asked = ["auth", "can-i", verb, resource, &user, "--all-namespaces"];
            // "no" is an exit status too.
            let said = world.try_kubectl(&asked);
            assert!(said.is_err(), "{account} may {verb} {resource}");
        }
    }
    let record = std::fs::read_to_string(world.cluster.audit_log()).unwrap();
    let prefix = format!("system:serviceaccount:{SOLO}:mesh-");
    let refused: Vec<&str> = record
        .lines()
        .filter(|line| line.contains(&prefix))
        .filter(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            text(&event["user"]["username"]).starts_with(&prefix)
                && text(&event["annotations"]["authorization.k8s.io/decision"]) == "forbid"
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// The mesh of the cluster writes nothing there: what a worker may be reached by names its own gateway.
fn left_alone(world: &World) {
    let policy = world
        .get(&["-n", SOLO, "networkpolicy/floor-worker"])
        .to_string();
    assert!(
        policy.contains(&format!("\"kubernetes.io/metadata.name\":\"{SOLO}\"")),
        "{policy}"
    );
    let generation = || {
        let object = world.get(&["-n", SOLO, "networkpolicy/floor-worker"]);
        object["metadata"]["generation"].clone()
    };
    let first = generation();
    // Long enough for both operators to have looked at it again.
    world.kubectl(&[
        "label",
        "-n",
        SOLO,
        "inferencebackend/floor",
        "looked=again",
    ]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(generation(), first, "two operators write one object");
}

pub(crate) fn beside(world: &World) {
    install(world);
    answers(world);
    let floor = world.get(&["-n", SOLO, "inferencebackend/floor"]);
    let class = &floor["status"]["sovereignty"]["class"];
    assert_eq!(class, "RentedHardware", "{}", floor["status"]);
    left_alone(world);
    rights(world);
    world.helm(&[
        "uninstall",
        RELEASE,
        "-n",
        SOLO,
        "--wait",
        "--timeout",
        "2m",
    ]);
    until("nothing of it is left", Duration::from_mins(2), || {
        let label = "app.kubernetes.io/part-of=inference-mesh";
        let left = world.kubectl(&["get", CHILDREN, "-n", SOLO, "-l", label, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    world.kubectl(&["get", "-n", SOLO, "inferencebackend/floor"]);
    world.kubectl(&["get", "-n", HOME, "deployment/floor-worker"]);
    let said = world.ask(
        TEAM,
        &json!({"model": "smollm2", "text": "Hello", "max_tokens": 4}),
    );
    assert_eq!(
        said.status(),
        200,
        "the mesh of the cluster serves on: {said:?}"
    );
    world.kubectl(&["delete", "namespace", SOLO, "--timeout=60s"]);
}
