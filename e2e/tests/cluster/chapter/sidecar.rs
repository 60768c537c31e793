//! Applications that were not changed, in a namespace that was labeled: a sidecar is put into their pods. They are
//! answered through the gateway with the pod's own credential, by the floor while there is no gateway, and Jobs end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_cluster::Cluster;
use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::ask::{self, CLOUD, cloud_log};
use crate::chapter::install::text;
use crate::chapter::monitoring;
use crate::world::{APP, HOME, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(2);
pub(crate) const BESIDE: &str = "beside";
/// Between two kills of what Kubernetes starts again.
const KILL: Duration = Duration::from_millis(50);
/// More than this is more than is promised.
const MOST: u64 = 20 << 20;
/// Arguments of an application that does nothing by itself.
const SLEEPING: [&str; 2] = ["-c", "import signal; signal.pause()"];
const TRUST: &str = "configmap/mesh-trust";

/// The pod of an application as its people wrote it: it knows nothing of the mesh.
fn pod(world: &World, name: &str, args: &[&str]) -> Value {
    let mut pod = world.python.pod(BESIDE, name, Cluster::PAUSE_IMAGE, args);
    pod["spec"]["serviceAccountName"] = json!(APP);
    pod
}

pub(crate) fn asked(world: &World, words: &str) -> Said {
    asked_so(world, words, false)
}

fn asked_so(world: &World, words: &str, stream: bool) -> Said {
    world.ask(BESIDE, &json!({"model": "smollm2", "text": words, "max_tokens": 4, "stream": stream, "token": "sk-of-the-application"}))
}

/// An application with a sidecar, unless it is there.
pub(crate) fn application(world: &World) {
    let there = ["get", "-n", BESIDE, &format!("pod/{APP}")];
    if world.try_kubectl(&there).is_ok() {
        return;
    }
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": BESIDE, "labels": {"inferencemesh.dev/inject": "enabled"}}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": BESIDE, "name": APP}}));
    until("the namespace is told whom to trust", LIMIT, || {
        world.try_kubectl(&["get", "-n", BESIDE, TRUST]).ok()
    });
    world.apply(&pod(world, APP, &SLEEPING));
    world.wait(BESIDE, &format!("pod/{APP}"), "Ready", LIMIT);
}

pub(crate) fn beside(world: &World) {
    ask::with_cloud(world);
    application(world);
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

/// Every gateway: its name, its uid and how often it was started again.
fn gateways(world: &World) -> Vec<(String, String, u64)> {
    let component = "app.kubernetes.io/component=gateway";
    let pods = world.get(&["pods", "-n", HOME, "-l", component]);
    let one = |pod: &Value| {
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        let named = |key: &str| text(&pod["metadata"][key]).to_owned();
        (named("name"), named("uid"), restarts.unwrap_or_default())
    };
    let mut all: Vec<_> = pods["items"].as_array().unwrap().iter().map(one).collect();
    all.sort();
    all
}

/// Ends a loop of another thread, also when what it is for fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something while all of these pods are dead: what comes back is killed again at once.
fn while_killed(world: &World, pods: &[(String, String, u64)], act: impl FnOnce()) {
    let kill = || -> usize {
        let killed = pods.iter().map(|(_, uid, _)| world.cluster.kill_pod(uid));
        killed.map(Result::unwrap).sum()
    };
    assert!(kill() >= pods.len(), "no process of {pods:?} was found");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(KILL);
                kill();
            }
        });
        act();
    });
}

pub(crate) fn without_gateways(world: &World) {
    let before = gateways(world);
    assert!(!before.is_empty());
    while_killed(world, &before, || {
        for (words, stream) in [
            ("Hello", false),
            ("Hello", true),
            ("Charge 4111 1111 1111 1111", false),
        ] {
            let said = asked_so(world, words, stream);
            assert_eq!(said.status(), 200, "{said:?}");
            assert_eq!(said.header("mesh-degraded"), "floor_only", "{said:?}");
            assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
            assert_eq!(
                said.header("mesh-sovereignty-class"),
                "OwnHardware",
                "{said:?}"
            );
        }
        world.fires("MeshGatewayAbsent", &[]);
        counted(world);
    });
    // From the first request without gateways on everyone is answered, by whomever.
    until("a gateway answers again", LIMIT, || {
        let said = asked(world, "Hello");
        assert_eq!(said.status(), 200, "{said:?}");
        said.header("mesh-degraded").is_empty().then_some(())
    });
    world.wait(HOME, "deployment/mesh-gateway", "Available", LIMIT);
    until("all of them serve again", LIMIT, || {
        let now = gateways(world);
        let again = |(old, new): (&(String, String, u64), &(String, String, u64))| {
            old.1 == new.1 && new.2 > old.2
        };
        (now.len() == before.len() && before.iter().zip(&now).all(again)).then_some(())
    });
}

/// Tokens that passed no gateway are in the panel of tokens: what it shows is more than what gateways counted.
fn counted(world: &World) {
    let floor = "mesh_sidecar_tokens_total{backend=\"floor\", sovereignty_class=\"own_hardware\"}";
    let panel = monitoring::panel(world, "mesh-sovereignty", "Tokens by class");
    let gateways = "sum by (sovereignty_class) (rate(mesh_gateway_tokens_total[2m]))";
    let none = "0 * group by (sovereignty_class) (mesh_sidecar_tokens_total)";
    let all = [
        format!("sum(increase({floor}[2m])) > 0"),
        format!("({panel}) - ({gateways} or {none}) > 0"),
    ];
    let begun = std::time::Instant::now();
    until("tokens of the floor are in the panel", LIMIT, || {
        asked(world, "Hello");
        let prometheus = world.prometheus();
        prometheus.discover(world);
        let known = all.iter().all(|query| prometheus.knows(world, query));
        known.then_some(())
    });
    let took = begun.elapsed().as_secs_f32();
    println!("  tokens of a sidecar's floor are shown after {took:.1} s");
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
        .node()
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

/// While no operator runs: who should carry the sidecar is not started without, and nobody else is affected.
pub(crate) fn without_webhook(world: &World) {
    let refused = world.cluster.apply(&pod(world, "late", &SLEEPING), "e2e");
    let said = refused.unwrap_err();
    assert!(said.contains("inject.inferencemesh.dev"), "{said}");
    let mut other = pod(world, "late", &SLEEPING);
    other["metadata"]["namespace"] = json!(TEAM);
    world.apply(&other);
    world.kubectl(&["delete", "-n", TEAM, "pod/late", "--wait=false"]);
}

/// Pods with a sidecar are made again; then nothing of this is needed any more.
pub(crate) fn with_webhook(world: &World) {
    until("pods are made again", LIMIT, || {
        world
            .cluster
            .apply(&pod(world, "late", &SLEEPING), "e2e")
            .ok()
    });
    world.kubectl(&["delete", "namespace", BESIDE, "--wait=false"]);
}
