//! Applications that were not changed, in a namespace that was labeled: a sidecar is put into their pods. They are
//! answered through the gateway with the pod's own credential, by the floor while there is no gateway, and Jobs end.

use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::ask::{self, CLOUD, cloud_log};
use crate::chapter::install::text;
use crate::world::{APP, HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(2);
const BESIDE: &str = "beside";
/// More than this is more than is promised.
const MOST: u64 = 20 << 20;
const TRUST: &str = "configmap/mesh-trust";

/// The pod of an application as its people wrote it: it knows nothing of the mesh.
fn pod(world: &World, name: &str, args: &[&str]) -> Value {
    let mut pod = world.python.pod(BESIDE, name, Cluster::PAUSE_IMAGE, args);
    pod["spec"]["serviceAccountName"] = json!(APP);
    pod
}

fn asked(world: &World, words: &str) -> Said {
    world.ask(BESIDE, &json!({"model": "smollm2", "text": words, "max_tokens": 4, "token": "sk-of-the-application"}))
}

fn gateways(world: &World, replicas: u64) {
    let wanted = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", HOME, "deployment/mesh-gateway", &wanted]);
}

pub(crate) fn beside(world: &World) {
    ask::with_cloud(world);
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": BESIDE, "labels": {"inferencemesh.dev/inject": "enabled"}}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": BESIDE, "name": APP}}));
    until("the namespace is told whom to trust", LIMIT, || {
        world.try_kubectl(&["get", "-n", BESIDE, TRUST]).ok()
    });
    world.apply(&pod(world, APP, &["-c", "import signal; signal.pause()"]));
    world.wait(BESIDE, &format!("pod/{APP}"), "Ready", LIMIT);
    let made = world.get(&["-n", BESIDE, &format!("pod/{APP}")]);
    let first = &made["spec"]["initContainers"][0];
    assert_eq!(first["name"], "mesh-sidecar", "{made}");
    assert_eq!(
        made["metadata"]["labels"]["inferencemesh.dev/injected"],
        "true"
    );
    let said = until("a gateway answers through the sidecar", LIMIT, || {
        let said = asked(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        said.header("mesh-degraded").is_empty().then_some(said)
    });
    assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
    let said = asked(world, "Charge 4111 1111 1111 1111");
    assert_eq!(
        (said.status(), said.header("mesh-privacy")),
        (200, "restricted"),
        "{said:?}"
    );
    let restricted = json!({"model": "big", "text": "Charge 4111 1111 1111 1111 for the sidecar's guest", "token": "any"});
    let said = world.ask(BESIDE, &restricted);
    assert_ne!(said.header("mesh-backend"), CLOUD, "{said:?}");
    let public = json!({"model": "big", "text": "What the sidecar lets through.", "token": "any"});
    let said = until("what is public goes to the cloud", LIMIT, || {
        let said = world.ask(BESIDE, &public);
        (said.header("mesh-backend") == CLOUD).then_some(said)
    });
    assert_eq!(said.status(), 200, "{said:?}");
    let log = cloud_log(world);
    assert!(log.contains("the sidecar lets through"), "{log}");
    assert!(
        !log.contains("the sidecar's guest") && !log.contains("4111"),
        "{log}"
    );
    small(world);
    outdated(world);
}

/// As the kubelet counts it, after it has served.
fn small(world: &World) {
    let bytes = until("the kubelet has counted", Duration::from_mins(1), || {
        let raw = world.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary"]);
        let summary: Value = serde_json::from_str(&raw).unwrap_or_default();
        let pods = summary["pods"].as_array()?.iter();
        let mut containers = pods
            .filter(|pod| pod["podRef"]["namespace"] == BESIDE)
            .flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
        let found = containers.find(|container| text(&container["name"]) == "mesh-sidecar")?;
        found["memory"]["workingSetBytes"]
            .as_u64()
            .filter(|bytes| *bytes > 0)
    });
    println!("  mesh-sidecar: {} KiB", bytes >> 10);
    assert!(bytes <= MOST, "it uses {} KiB", bytes >> 10);
}

pub(crate) fn without_gateways(world: &World) {
    let before = world.get(&["-n", HOME, "deployment/mesh-gateway"]);
    let before = before["spec"]["replicas"].as_u64().unwrap_or(1);
    gateways(world, 0);
    // From now on every request is answered, by whomever.
    let said = until("the floor answers in place of the gateways", LIMIT, || {
        let said = asked(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        (said.header("mesh-degraded") == "floor_only").then_some(said)
    });
    assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
    assert_eq!(
        said.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{said:?}"
    );
    world.fires("MeshGatewayAbsent", &[]);
    gateways(world, before);
    until("a gateway answers again", LIMIT, || {
        let said = asked(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        said.header("mesh-degraded").is_empty().then_some(())
    });
    world.wait(HOME, "deployment/mesh-gateway", "Available", LIMIT);
}

/// A sidecar of a template that pods get no longer, as after an upgrade of the chart.
fn outdated(world: &World) {
    let annotation = "inferencemesh.dev/injected-template";
    let made = world.get(&["-n", BESIDE, &format!("pod/{APP}")]);
    let template = text(&made["metadata"]["annotations"][annotation]).to_owned();
    assert!(!template.is_empty(), "{made}");
    let mark = |hash: &str| {
        let mark = format!("{annotation}={hash}");
        let pod = format!("pod/{APP}");
        world.kubectl(&["annotate", "-n", BESIDE, &pod, &mark, "--overwrite"]);
    };
    world.silent("MeshPodsOutdated", &[]);
    mark("another");
    world.fires("MeshPodsOutdated", &[]);
    mark(&template);
    world.silent("MeshPodsOutdated", &[]);
}

pub(crate) fn job(world: &World) {
    let asked =
        json!({"model": "smollm2", "text": "Hello", "max_tokens": 4, "token": "any"}).to_string();
    let pod = pod(world, "once", &[&world.python.script("ask.py"), &asked]);
    let mut template =
        json!({"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]});
    template["spec"]["restartPolicy"] = json!("Never");
    // As long as most pods get, so that an end that waits for it would be seen.
    template["spec"]["terminationGracePeriodSeconds"] = json!(30);
    world.apply(&json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": BESIDE, "name": "once"},
        "spec": {"backoffLimit": 0, "template": template}}));
    world.wait(BESIDE, "job/once", "Complete", LIMIT);
}

/// The official SDK for Node, in a Job of its own.
pub(crate) fn node(world: &World) {
    let mut pod = world
        .node
        .pod(BESIDE, "node", Cluster::PAUSE_IMAGE, &world.path("e2e/app"));
    pod["spec"]["restartPolicy"] = json!("Never");
    let template = json!({"metadata": {"labels": {"app": "node"}}, "spec": pod["spec"]});
    world.apply(&json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": BESIDE, "name": "node"},
        "spec": {"backoffLimit": 0, "template": template}}));
    let ended = until("the Job of Node ends", LIMIT, || {
        let job = world.get(&["-n", BESIDE, "job/node"]);
        let ended = |way: &str| job["status"][way].as_u64().unwrap_or_default() > 0;
        (ended("succeeded") || ended("failed")).then_some(ended("succeeded"))
    });
    let log = world.kubectl(&["logs", "-n", BESIDE, "job/node", "-c", "app"]);
    assert!(ended, "{log}");
    let said = Said::parse(&log).unwrap();
    assert_eq!(said.status(), 200, "{said:?}");
    assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
    assert!(!said.text().is_empty(), "{said:?}");
    // Prometheus has found the new gateways meanwhile.
    world.silent("MeshGatewayAbsent", &[]);
}

/// While the operator's pods are replaced, pods that ask for a sidecar are made without a pause.
pub(crate) fn operator_rolled_out(world: &World) {
    let mut asking = pod(world, "rolled", &["-c", "pass"]);
    asking["metadata"] = json!({"namespace": BESIDE, "generateName": "rolled-"});
    let file = format!("{}/rolled.json", world.scratch("rolled"));
    std::fs::write(&file, asking.to_string()).unwrap();
    let create = ["create", "--dry-run=server", "-o", "json", "-f", &file];
    let operators = || {
        let component = "app.kubernetes.io/component=operator";
        let pods = world.get(&["pods", "-n", HOME, "-l", component]);
        let mut names: Vec<String> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| text(&pod["metadata"]["name"]).to_owned())
            .collect();
        names.sort();
        names
    };
    let before = operators();
    world.kubectl(&["rollout", "restart", "-n", HOME, "deployment/mesh-operator"]);
    let mut made = 0;
    until("all are others", LIMIT, || {
        for _ in 0..5 {
            let said = world.kubectl(&create);
            assert!(said.contains("mesh-sidecar"), "{said}");
            made += 1;
        }
        let now = operators();
        let others = now.iter().all(|name| !before.contains(name));
        (others && now.len() == before.len()).then_some(())
    });
    println!("  {made} pods looked at while the operator was replaced, none refused");
    assert!(made > 10, "only {made} pods in all that time");
}

/// Who should carry the sidecar is not started without, and nobody else is affected.
pub(crate) fn without_webhook(world: &World) {
    let operators = |replicas: u64| {
        let wanted = format!("--replicas={replicas}");
        world.kubectl(&["scale", "-n", HOME, "deployment/mesh-operator", &wanted]);
    };
    let before = world.get(&["-n", HOME, "deployment/mesh-operator"]);
    operators(0);
    let component = "app.kubernetes.io/component=operator";
    world.kubectl(&[
        "wait",
        "-n",
        HOME,
        "pod",
        "-l",
        component,
        "--for=delete",
        "--timeout=60s",
    ]);
    let sleeping = ["-c", "import signal; signal.pause()"];
    let refused = world.cluster.apply(&pod(world, "late", &sleeping), "e2e");
    let said = refused.unwrap_err();
    assert!(said.contains("inject.inferencemesh.dev"), "{said}");
    let mut other = pod(world, "late", &sleeping);
    other["metadata"]["namespace"] = json!(TEAM);
    world.apply(&other);
    world.kubectl(&["delete", "-n", TEAM, "pod/late", "--wait=false"]);
    // What runs goes on.
    assert_eq!(asked(world, "Hello").status(), 200);
    operators(before["spec"]["replicas"].as_u64().unwrap_or(1));
    world.wait(HOME, "deployment/mesh-operator", "Available", LIMIT);
    until("pods are made again", LIMIT, || {
        world
            .cluster
            .apply(&pod(world, "late", &sleeping), "e2e")
            .ok()
    });
    world.kubectl(&["delete", "namespace", BESIDE, "--wait=false"]);
}
