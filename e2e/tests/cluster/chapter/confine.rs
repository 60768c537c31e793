//! A confined namespace: what its applications reach, and whether the mesh notices that a network keeps
//! it, keeps it no longer, or that somebody widens it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chapter::ask::{self, CLOUDS, cloud_log};
use crate::chapter::egress::{OUTSIDE, dial, outside};
use crate::chapter::install::text;
use crate::chapter::restricted;
use crate::world::{APP, HOME, World, until};

pub(crate) const CLOSED: &str = "closed";
/// Answers questions of names over UDP; it is there from the first confinement on.
pub(crate) const RESOLVER: &str = "resolver.outside.svc:5300";
const PROMPT: &str = "A prompt that must not leave by itself.";
/// Until a canary has run and been heard of; one that gets out tries for 20 s.
const LIMIT: Duration = Duration::from_mins(2);
const BINDING: &str = "validatingadmissionpolicybinding/mesh-confinement";

fn ip(world: &World, namespace: &str, pod: &str) -> String {
    let pod = world.get(&["-n", namespace, &format!("pod/{pod}")]);
    text(&pod["status"]["podIP"]).to_owned()
}

/// The policy, and what of the outside it allows.
fn policy(world: &World, allowed: &str) {
    world.apply(&json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "metadata": {"namespace": HOME, "name": "confined"},
        "spec": {
            "selector": {"namespaceSelector": {"matchLabels": {"inferencemesh.dev/confine": "enabled"}}},
            "floor": {"backendRef": {"name": "floor"}},
            "egress": {"confine": true, "allow": [{"cidr": format!("{allowed}/32"), "ports": [9999]}]},
        }}));
}

/// Waits until `Enforced` says this; gives its message.
fn enforced(world: &World, status: &str, reason: &str) -> String {
    let begun = Instant::now();
    let found = until(&format!("Enforced is {status}, {reason}"), LIMIT, || {
        let object = world.get(&["-n", HOME, "sovereigntypolicy/confined"]);
        let all = object["status"]["conditions"].as_array()?.iter();
        let mut all = all.filter(|one| one["type"] == "Enforced");
        all.find(|one| one["status"] == status && one["reason"] == reason)
            .cloned()
    });
    println!(
        "  Enforced {status}, {reason} after {:.1} s: {}",
        begun.elapsed().as_secs_f32(),
        text(&found["message"])
    );
    text(&found["message"]).to_owned()
}

/// Waits until the alert about this reason fires, or is silent.
fn not_enforced(world: &World, reason: &str, fires: bool) {
    let of = [("reason", reason)];
    let wait = if fires { World::fires } else { World::silent };
    wait(world, "MeshEgressNotEnforced", &of);
}

/// Confines a namespace with an application that has a sidecar, and waits for the proof.
fn confine(world: &World) {
    let allowed = ip(world, OUTSIDE, "answers");
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLOSED}}));
    let label =
        |wanted: &str| world.kubectl(&["label", "namespace", CLOSED, "--overwrite", wanted]);
    label("inferencemesh.dev/inject=enabled");
    until("the namespace is told whom to trust", LIMIT, || {
        world
            .try_kubectl(&["get", "-n", CLOSED, "configmap/mesh-trust"])
            .ok()
    });
    world.application(CLOSED);
    let made = world.get(&["-n", CLOSED, &format!("pod/{APP}")]);
    let first = &made["spec"]["initContainers"][0]["name"];
    assert_eq!(first, "mesh-sidecar", "{made}");
    policy(world, &allowed);
    label("inferencemesh.dev/confine=enabled");
    let begun = Instant::now();
    let told = enforced(world, "True", "Succeeded");
    assert!(
        told.contains("pods that read a folder of confine.hostPaths: 1"),
        "{told}"
    );
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "proved only after {:?}",
        begun.elapsed()
    );
}

/// The application's own call to the cloud, past the mesh; true if it was answered.
pub(crate) fn direct(world: &World, cloud: &str, words: &str) -> bool {
    let script = world.python.script("peer.py");
    let asked = json!({"url": format!("http://{cloud}:8000/v1/chat/completions"), "timeout": 4,
        "body": {"model": "big", "messages": [{"role": "user", "content": words}]}});
    let done = world
        .exec(CLOSED, &[&script, &asked.to_string()])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    said["status"] == 200
}

/// A resolver that is none of the cluster's.
fn resolver(world: &World) {
    let script = world.python.script("resolver.py");
    world.python_pod(OUTSIDE, "resolver", &[&script, "5300"]);
    world.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": OUTSIDE, "name": "resolver"},
        "spec": {"selector": {"app": "resolver"}, "ports": [{"port": 5300, "protocol": "UDP"}]}}));
}

pub(crate) fn proved(world: &World) {
    let allowed = outside(world);
    resolver(world);
    ask::with_cloud(world);
    confine(world);
    let cloud = ip(world, CLOUDS, "cloud");
    reaches_what_it_may(world, &allowed, &cloud);
    restricted::by_three_ways(world, &ip(world, CLOSED, APP), &cloud);
    escapes_are_refused(world);
    canary_is_harmless(world);
    age_is_told(world);
}

fn reaches_what_it_may(world: &World, allowed: &str, cloud: &str) {
    let pods = |component: &str| {
        let selector = format!("app.kubernetes.io/component={component}");
        let pods = world.get(&["pods", "-n", HOME, "-l", &selector]);
        text(&pods["items"][0]["status"]["podIP"]).to_owned()
    };
    let gateway = format!("mesh-gateway.{HOME}.svc");
    let open = [
        format!("{gateway}:8080"),
        format!("{gateway}:8443"),
        allowed.to_owned(),
        // The way of its sidecar while there is no gateway.
        format!("{}:8444", pods("worker")),
    ];
    let api = world.get(&["service", "-n", "default", "kubernetes"]);
    let closed = [
        format!("{cloud}:8000"),
        format!("{}:8081", pods("operator")),
        format!("{}:8443", pods("operator")),
        format!("{}:8081", pods("gateway")),
        format!("{}:443", text(&api["spec"]["clusterIP"])),
    ];
    let all: Vec<&str> = open.iter().chain(&closed).map(String::as_str).collect();
    let said = dial(world, CLOSED, &all);
    for target in &open {
        assert_eq!(said[target], "open", "{said}");
    }
    for target in &closed {
        assert_eq!(said[target], "silent", "{said}");
    }
}

/// No pod is made there that would get out by its node, also not by what makes pods.
fn escapes_are_refused(world: &World) {
    let pod = |spec: &Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": CLOSED, "name": "wild"},
            "spec": {"containers": [{"name": "c", "image": mesh_cluster::Cluster::PAUSE_IMAGE}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    for spec in [
        json!({"hostNetwork": true}),
        json!({"hostPID": true}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/var/run"}}]}),
    ] {
        let said = world.cluster.apply(&pod(&spec), "tenant").unwrap_err();
        assert!(said.contains("would escape by its node"), "{said}");
    }
    let script = world.python.script("dial.py");
    let image = mesh_cluster::Cluster::PAUSE_IMAGE;
    let mut writes = world.python.pod(CLOSED, "writes", image, &[&script]);
    writes["spec"]["serviceAccountName"] = json!(APP);
    writes["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] = json!(false);
    let said = world.cluster.apply(&writes, "tenant").unwrap_err();
    assert!(said.contains("a pod with hostPath would escape"), "{said}");
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": CLOSED, "name": "wild"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod(&json!({"hostPID": true, "restartPolicy": "Never"}))["spec"]}}});
    job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
    world.apply(&job);
    until("it is told why the Job makes no pod", LIMIT, || {
        let selector = "--field-selector=involvedObject.name=wild";
        let events = world.kubectl(&["get", "events", "-n", CLOSED, selector, "-o", "json"]);
        events.contains("would escape by its node").then_some(())
    });
    world.kubectl(&["delete", "-n", CLOSED, "job/wild"]);
}

fn canary_is_harmless(world: &World) {
    let pods = world.get(&["pods", "-n", CLOSED, "-l", "inferencemesh.dev/canary"]);
    let pods = pods["items"].as_array().unwrap();
    assert!(
        !pods.is_empty() && pods.len() <= 3,
        "{} canaries",
        pods.len()
    );
    for pod in pods {
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        let tries = pod["spec"]["containers"][0]["args"].to_string();
        assert!(
            tries.contains(&format!("dns://{RESOLVER}")) && tries.contains("own-dns="),
            "{tries}"
        );
        let beside = &pod["spec"]["initContainers"];
        assert!(beside.is_null(), "it speaks for itself: {pod}");
        let policies = world.get(&["networkpolicies", "-n", CLOSED]);
        assert_eq!(
            policies["items"].as_array().unwrap().len(),
            1,
            "the application's and no other"
        );
    }
}

fn age_is_told(world: &World) {
    let selector = "app.kubernetes.io/component=operator";
    let pods = world.get(&["pods", "-n", HOME, "-l", selector]);
    let address = text(&pods["items"][0]["status"]["podIP"]).to_owned();
    let script = world.python.script("peer.py");
    let asked = json!({"url": format!("http://{address}:8081/metrics")});
    let done = world
        .exec(crate::world::TEAM, &[&script, &asked.to_string()])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let start = format!("mesh_operator_egress_proof_age_seconds{{namespace=\"{CLOSED}\"}} ");
    let mut lines = text(&said["text"]).lines();
    let age = lines.find_map(|line| line.strip_prefix(&start));
    let age: f64 = age.expect("the age of the proof").parse().unwrap();
    assert!(age < 120.0, "the proof is {age} s old");
}

/// The network stops to enforce anything, and starts again.
pub(crate) fn noticed(world: &World) {
    let cloud = ip(world, CLOUDS, "cloud");
    let unproved = ("MeshEgressUnproved", [("namespace", CLOSED)]);
    world.silent(unproved.0, &unproved.1);
    not_enforced(world, "NotEnforced", false);
    world.cluster.enforce_network_policies(false).unwrap();
    let told = enforced(world, "False", "NotEnforced");
    not_enforced(world, "NotEnforced", true);
    for words in [
        "does not enforce NetworkPolicies",
        "operator-admin",
        &format!("dns:{RESOLVER}"),
    ] {
        assert!(told.contains(words), "{told}");
    }
    // What was silent before leads somewhere.
    assert!(direct(world, &cloud, PROMPT) && cloud_log(world).contains(PROMPT));
    assert!(world.cluster.counted_packets().unwrap().of_pod > 0);
    world.fires(unproved.0, &unproved.1);
    world.cluster.enforce_network_policies(true).unwrap();
    enforced(world, "True", "Succeeded");
    assert!(!direct(world, &cloud, PROMPT));
    world.silent(unproved.0, &unproved.1);
    not_enforced(world, "NotEnforced", false);
    let events = [
        "events",
        "-n",
        HOME,
        "--field-selector=involvedObject.name=confined",
    ];
    let events = world.kubectl(&[&["get"], &events[..]].concat());
    assert!(
        events.contains("NotEnforced") && events.contains("EgressEnforced"),
        "{events}"
    );
}

/// Somebody opens the namespace while the API server does not refuse it.
pub(crate) fn widened(world: &World) {
    let cloud = ip(world, CLOUDS, "cloud");
    let theirs = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": CLOSED, "name": "theirs"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}});
    let refused = || world.cluster.apply(&theirs, "tenant").err();
    let told = until("a foreign policy is refused", LIMIT, refused);
    assert!(told.contains("would open it"), "{told}");
    let mut binding = world.get(&[BINDING]);
    let meta = binding["metadata"].as_object_mut().unwrap();
    meta.retain(|key, _| ["name", "labels", "annotations"].contains(&key.as_str()));
    world.kubectl(&["delete", BINDING]);
    until("it is no longer refused", LIMIT, || {
        world.cluster.apply(&theirs, "tenant").ok()
    });
    let told = enforced(world, "False", "EgressWidened");
    assert!(told.contains("closed/theirs"), "{told}");
    not_enforced(world, "EgressWidened", true);
    until("it lets out", LIMIT, || {
        direct(world, &cloud, PROMPT).then_some(())
    });
    world.kubectl(&["delete", "networkpolicy", "-n", CLOSED, "theirs"]);
    world.apply(&binding);
    enforced(world, "True", "Succeeded");
    not_enforced(world, "EgressWidened", false);
    until("nothing gets out", LIMIT, || {
        (!direct(world, &cloud, PROMPT)).then_some(())
    });
    opened(world);
}

/// Without the label nothing of it is left.
fn opened(world: &World) {
    world.kubectl(&["label", "namespace", CLOSED, "inferencemesh.dev/confine-"]);
    until("the namespace is open", LIMIT, || {
        let left = world.kubectl(&["get", "networkpolicies,jobs", "-n", CLOSED, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    enforced(world, "Unknown", "NothingToConfine");
    world.kubectl(&["delete", "-n", HOME, "sovereigntypolicy/confined"]);
    world.kubectl(&["delete", "namespace", CLOSED, "--wait=false"]);
}
