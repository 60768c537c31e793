//! Serving goes on: scaling, kills, outages, rollouts.

use std::time::{Duration, Instant};

use crate::chapter::install::text;
use crate::chapter::recorded;
use crate::world::{HOME, Load, RELEASE, World, until};

const LIMIT: Duration = Duration::from_mins(2);
/// Longer than an answer takes.
const OUTAGE: Duration = Duration::from_secs(8);

pub(crate) fn workers(world: &World) -> Vec<serde_json::Value> {
    let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=floor"]);
    let ready = |pod: &serde_json::Value| {
        pod["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        }) && pod["metadata"]["deletionTimestamp"].is_null()
    };
    pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pod| ready(pod))
        .cloned()
        .collect()
}

pub(crate) fn scale_to(world: &World, replicas: usize) {
    let replicas = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", HOME, "inferencebackend/floor", &replicas]);
}

pub(crate) fn two_workers(world: &World) {
    scale_to(world, 2);
    until("two workers are ready", LIMIT, || {
        (workers(world).len() == 2).then_some(())
    });
}

/// No request of the load failed, and there were enough to tell.
pub(crate) fn unharmed(load: Load<'_>, least: u64) {
    let (requests, failures) = load.finish().unwrap();
    assert!(requests >= least, "only {requests} requests");
    assert!(failures.is_empty(), "{failures:?}");
}

pub(crate) fn scale(world: &World) {
    let load = world.load("smollm2", 2);
    world.silent("MeshLastFloorAtRisk", &[("namespace", HOME)]);
    two_workers(world);
    until("status says two", LIMIT, || {
        (world.get(&["-n", HOME, "inferencebackend/floor"])["status"]["replicas"] == 2)
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    scale_to(world, 1);
    world.fires("MeshLastFloorAtRisk", &[("namespace", HOME)]);
    until("one worker is left", LIMIT, || {
        let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=floor"]);
        (pods["items"].as_array()?.len() == 1).then_some(())
    });
    unharmed(load, 4);
}

/// Something changes, so that gateways look anew.
fn change(world: &World) {
    let now = format!("{:?}", Instant::now()).replace(|c: char| !c.is_ascii_digit(), "");
    let mark = format!("changed={now}");
    world.kubectl(&[
        "annotate",
        "-n",
        HOME,
        "modelcache/floor",
        &mark,
        "--overwrite",
    ]);
}

pub(crate) fn api_outage(world: &World) {
    let load = world.load("smollm2", 1);
    let stale = ("MeshSnapshotStale", &[("namespace", HOME)][..]);
    world.prometheus().silent(world, stale, || change(world));
    world.cluster.kill("kube-apiserver").unwrap();
    let begun = Instant::now();
    world.fires(stale.0, stale.1);
    std::thread::sleep(OUTAGE.saturating_sub(begun.elapsed()));
    world.cluster.restart("kube-apiserver").unwrap();
    until("the API server is back", LIMIT, || {
        world.try_kubectl(&["get", "namespaces"]).ok()
    });
    // What comes after must not meet a network that still lives before the outage.
    world.cluster.services_settled().unwrap();
    world.prometheus().silent(world, stale, || change(world));
    unharmed(load, 3);
}

/// By an upgrade of the release, as a platform team does it: other values, the same everything else.
pub(crate) fn gateway_rollout(world: &World) {
    let load = world.load("smollm2", 2);
    let chart = world.path("charts/inference-mesh");
    let more = "gateway.podAnnotations.changed=yes";
    let upgrade = ["upgrade", RELEASE, &chart, "-n", HOME, "--reuse-values"];
    // The release gets a ledger, too.
    let ledger = recorded::volume(world);
    let ledger: Vec<&str> = ledger.split(' ').collect();
    world.helm(&[&upgrade[..], &["--set", more], &ledger].concat());
    let path = "jsonpath={.spec.template.metadata.annotations.changed}";
    let said = world.kubectl(&["get", "-n", HOME, "deployment/mesh-gateway", "-o", path]);
    assert_eq!(said, "yes");
    world.kubectl(&[
        "rollout",
        "status",
        "-n",
        HOME,
        "deployment/mesh-gateway",
        "--timeout=120s",
    ]);
    // Whoever still goes to an old one is harmed when it ends, not before.
    until("the old gateways have ended", LIMIT, || {
        let label = "app.kubernetes.io/component=gateway";
        let pods = world.get(&["pods", "-n", HOME, "-l", label]);
        (pods["items"].as_array()?.len() == 2).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    unharmed(load, 4);
}

/// Another template: pods of the old one go while answers come from them.
pub(crate) fn worker_rollout(world: &World) {
    let load = world.load("smollm2", 2);
    let before = workers(world);
    let more = r#"{"spec": {"inCluster": {"resources": {"requests": {"cpu": "251m"}}}}}"#;
    let floor = "inferencebackend/floor";
    world.kubectl(&["patch", "-n", HOME, floor, "--type=merge", "-p", more]);
    let names = |pods: &[serde_json::Value]| -> Vec<String> {
        let names = pods.iter().map(|pod| text(&pod["metadata"]["name"]));
        names.map(str::to_owned).collect()
    };
    let old = names(&before);
    until("all pods are of the new template", LIMIT, || {
        let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=floor"]);
        let now = names(pods["items"].as_array()?);
        let ready = workers(world).len();
        (ready > 0 && !now.iter().any(|name| old.contains(name))).then_some(())
    });
    world.wait(HOME, floor, "Ready", LIMIT);
    std::thread::sleep(Duration::from_secs(2));
    unharmed(load, 4);
}
