//! A second release beside the first, for its own namespace only, with the values of an installation that has no way out:
//! its images have names of a registry that is not there, and nothing leaves the cluster while it comes, answers and goes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chapter::egress;
use crate::chapter::install::text;
use crate::world::{HOME, IMAGES, RELEASE, TEAM, World, until};

const SOLO: &str = "solo";
/// Registry of the profile `airgap`, as it comes.
const INSIDE: &str = "registry.inside.example/mesh";
/// Somewhere in the internet.
const AWAY: &str = "192.0.2.1:443";
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
    // The password of a registry that nobody is to ask.
    let secret = json!({"auths": {"registry.inside.example": {"auth": "eDp5"}}}).to_string();
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": SOLO, "name": "registry-inside"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": secret}}));
    let chart = world.path("charts/inference-mesh");
    let small = "scope=namespaced,crds.install=false,operator.replicas=1,gateway.replicas=1,floor.kvMemory=64Mi,\
                 operator.drainDelaySeconds=1,gateway.drainDelaySeconds=1";
    let egress = format!(
        "networkPolicy.gateway.egress.cidrs={{{}/32}}",
        egress::api_server(world)
    );
    world.helm(&[
        "install",
        RELEASE,
        &chart,
        "-n",
        SOLO,
        "-f",
        &world.path("charts/inference-mesh/ci/airgap.yaml"),
        "--set",
        small,
        "--set",
        &egress,
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

/// The images that are here already, under the names that they have where nothing comes from elsewhere.
fn mirrored(world: &World) {
    let version = env!("CARGO_PKG_VERSION");
    for image in IMAGES {
        let (from, to) = (
            format!("inferencemesh.local/{image}:{version}"),
            format!("{INSIDE}/{image}:{version}"),
        );
        world.cluster.tag_image(&from, &to).unwrap();
    }
}

/// Every container of the release is of that registry, those of `helm test` and of the hook too.
fn of_the_registry(world: &World) {
    let mut seen = std::collections::BTreeSet::new();
    let pods = world.get(&["pods", "-n", SOLO]);
    for pod in pods["items"].as_array().unwrap() {
        let spec = &pod["spec"];
        for list in [&spec["containers"], &spec["initContainers"]] {
            for container in list.as_array().into_iter().flatten() {
                seen.insert(text(&container["image"]).to_owned());
            }
        }
    }
    // What the kubelet said of those that are gone: an image pulled would be told.
    let events = world.get(&["events", "-n", SOLO]);
    for event in events["items"].as_array().unwrap() {
        let (reason, message) = (text(&event["reason"]), text(&event["message"]));
        assert!(reason != "Pulling" && reason != "Failed", "{message}");
        if reason == "Pulled" {
            let image = message.split('"').nth(1).unwrap();
            seen.insert(image.to_owned());
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
    for image in &seen {
        assert!(image.starts_with(INSIDE), "{image}");
    }
}

/// Nothing left the cluster; and what leaves is seen.
fn stayed_inside(world: &World) {
    assert_eq!(
        world.cluster.counted_departures().unwrap(),
        0,
        "packets left"
    );
    egress::dial(world, TEAM, &[AWAY]);
    assert!(world.cluster.counted_departures().unwrap() > 0);
}

pub(crate) fn beside(world: &World) {
    mirrored(world);
    world.cluster.count_departures().unwrap();
    install(world);
    answers(world);
    of_the_registry(world);
    stayed_inside(world);
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
