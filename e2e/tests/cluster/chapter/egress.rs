//! What the network lets through, with NetworkPolicies enforced: the release's own, those of workers and
//! of pods that fetch. Each forbidden way is first shown to lead somewhere, with the engine off.

use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::chapter::install::text;
use crate::world::{HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(1);
/// A namespace with a pod that answers whoever gets there.
pub(crate) const OUTSIDE: &str = "outside";
/// A port that no policy speaks of.
const STRAY: u16 = 9999;
/// Program in [`Cluster::TALK_IMAGE`].
const TALK: &str = "/talk";
const INJECTED: &str = "inferencemesh.dev/injected=true";

/// Address of the pod that answers; it is made if it is not there.
pub(crate) fn outside(world: &World) -> String {
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OUTSIDE}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": OUTSIDE, "name": "default"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": OUTSIDE, "name": "answers", "labels": {"app": "answers"}},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [{"name": "talk", "image": Cluster::TALK_IMAGE,
            "imagePullPolicy": "Never", "args": ["serve", STRAY.to_string()]}]}}));
    world.wait(OUTSIDE, "pod/answers", "Ready", LIMIT);
    let pod = world.get(&["-n", OUTSIDE, "pod/answers"]);
    format!("{}:{STRAY}", text(&pod["status"]["podIP"]))
}

/// How each target answers the application of a namespace.
pub(crate) fn dial(world: &World, namespace: &str, targets: &[&str]) -> Value {
    let script = world.python.script("dial.py");
    let args = [&[script.as_str()], targets].concat();
    let done = world.exec(namespace, &args).output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "dial.py: {errors}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A pod of the release that is ready.
fn pod(world: &World, component: &str) -> (String, String) {
    let selector = format!("app.kubernetes.io/component={component}");
    let found = until(&format!("a {component} is ready"), LIMIT, || {
        let pods = world.get(&["pods", "-n", HOME, "-l", &selector]);
        let ready = |pod: &&Value| {
            pod["status"]["containerStatuses"][0]["ready"] == true
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        pods["items"].as_array()?.iter().find(ready).cloned()
    });
    let name = text(&found["metadata"]["name"]).to_owned();
    (name, text(&found["status"]["podIP"]).to_owned())
}

/// A container beside those of a running pod, in its network: it answers at a port and can be told to dial.
pub(crate) fn beside(world: &World, namespace: &str, pod: &str) {
    let image = format!("--image={}", Cluster::TALK_IMAGE);
    let port = STRAY.to_string();
    let debug = [
        "debug",
        "-n",
        namespace,
        pod,
        &image,
        "-c",
        "beside",
        "--profile=restricted",
    ];
    world.kubectl(&[&debug[..], &["--attach=false", "--", TALK, "serve", &port]].concat());
    until("the container beside runs", LIMIT, || {
        let object = world.get(&["-n", namespace, &format!("pod/{pod}")]);
        let all = object["status"]["ephemeralContainerStatuses"].as_array()?;
        all.iter()
            .any(|one| one["name"] == "beside" && one["state"]["running"].is_object())
            .then_some(())
    });
}

/// Whether a pod with such a container gets an answer.
pub(crate) fn answered(world: &World, namespace: &str, pod: &str, target: &str) -> bool {
    let exec = ["exec", "-n", namespace, pod, "-c", "beside", "--"];
    let said = world.kubectl(&[&exec[..], &[TALK, "dial", target]].concat());
    let said: Value = serde_json::from_str(&said).unwrap();
    said[target] == true
}

/// The same questions with and without the engine; comes back with it on.
pub(crate) fn without_and_with_engine<T>(world: &World, ask: impl Fn() -> T) -> (T, T) {
    world.cluster.enforce_network_policies(false).unwrap();
    let without = ask();
    world.cluster.enforce_network_policies(true).unwrap();
    (without, ask())
}

/// The release's pods answer at the ports that they promise and at no other; a model server answers pods
/// with a sidecar only, and goes nowhere.
pub(crate) fn enforced(world: &World) {
    let outside = outside(world);
    let (worker, worker_ip) = pod(world, "worker");
    let (operator, operator_ip) = pod(world, "operator");
    let (gateway, gateway_ip) = pod(world, "gateway");
    for pod in [&worker, &operator, &gateway] {
        beside(world, HOME, pod);
    }
    let stray = |ip: &str| format!("{ip}:{STRAY}");
    let serving = format!("{worker_ip}:8444");
    let forbidden = [
        stray(&worker_ip),
        stray(&operator_ip),
        stray(&gateway_ip),
        serving.clone(),
    ];
    let allowed = [
        format!("{worker_ip}:8081"),
        format!("{operator_ip}:8081"),
        format!("{operator_ip}:8443"),
        format!("{gateway_ip}:8080"),
        format!("{gateway_ip}:8443"),
    ];
    let all: Vec<&str> = forbidden
        .iter()
        .chain(&allowed)
        .map(String::as_str)
        .collect();
    let (without, with) = without_and_with_engine(world, || {
        let out = answered(world, HOME, &worker, &outside);
        (dial(world, TEAM, &all), out)
    });
    assert!(without.1, "nothing keeps the worker from {outside}");
    assert!(!with.1, "the worker gets to {outside}");
    for target in &all {
        assert_eq!(without.0[target], "open", "{}", without.0);
    }
    for target in &forbidden {
        assert_eq!(with.0[target], "silent", "{}", with.0);
    }
    for target in &allowed {
        assert_eq!(with.0[target], "open", "{}", with.0);
    }
    // A gateway may go anywhere as the chart comes, since clouds have names.
    assert!(
        answered(world, HOME, &gateway, &outside),
        "a gateway reaches clouds"
    );
    with_a_sidecar(world, &serving);
}

/// Whoever carries the label of a sidecar is let in to a model server, and only while it carries it.
fn with_a_sidecar(world: &World, serving: &str) {
    let answers = |how: &str| {
        until(&format!("{serving} is {how}"), LIMIT, || {
            (dial(world, TEAM, &[serving])[serving] == how).then_some(())
        });
    };
    labeled(world, || answers("open"));
    answers("silent");
}

/// Does something while the application carries the label of a sidecar.
pub(crate) fn labeled<T>(world: &World, act: impl FnOnce() -> T) -> T {
    world.kubectl(&["label", "pod", "-n", TEAM, "app", INJECTED]);
    let done = act();
    world.kubectl(&[
        "label",
        "pod",
        "-n",
        TEAM,
        "app",
        "inferencemesh.dev/injected-",
    ]);
    done
}

/// With the gateway's addresses narrowed it serves as before and goes nowhere else.
pub(crate) fn narrowed(world: &World) {
    let outside = outside(world);
    let (gateway, _) = pod(world, "gateway");
    if !has_beside(world, &gateway) {
        beside(world, HOME, &gateway);
    }
    let api = api_server(world);
    let cidr = format!("networkPolicy.gateway.egress.cidrs={{{api}/32}}");
    apply_networks(world, &["--set", &cidr]);
    until("the gateway is held", LIMIT, || {
        (!answered(world, HOME, &gateway, &outside)).then_some(())
    });
    for _ in 0..3 {
        let said = world.ask(
            TEAM,
            &json!({"model": "smollm2", "text": "Hello", "max_tokens": 4}),
        );
        assert_eq!(said.status(), 200, "{said:?}");
    }
    apply_networks(world, &[]);
    until("the gateway is free again", LIMIT, || {
        answered(world, HOME, &gateway, &outside).then_some(())
    });
}

/// Where it listens, which is not the address of its Service.
pub(crate) fn api_server(world: &World) -> String {
    let api = world.get(&["endpoints", "-n", "default", "kubernetes"]);
    text(&api["subsets"][0]["addresses"][0]["ip"]).to_owned()
}

/// True if the pod has a container beside.
fn has_beside(world: &World, pod: &str) -> bool {
    let object = world.get(&["-n", HOME, &format!("pod/{pod}")]);
    object["spec"]["ephemeralContainers"].is_array()
}

/// The release's own NetworkPolicies as the chart renders them with these values.
fn apply_networks(world: &World, values: &[&str]) {
    let chart = world.path("charts/inference-mesh");
    let template = [
        "template",
        "mesh",
        &chart,
        "-n",
        HOME,
        "--show-only",
        "templates/networkpolicy.yaml",
    ];
    let rendered = world.helm(&[&template[..], values].concat());
    let file = format!("{}/networks.yaml", world.scratch("networks"));
    std::fs::write(&file, rendered).unwrap();
    // Not as Helm, whose own labels the rendered text has not.
    world.kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=e2e",
        "-f",
        &file,
    ]);
}
