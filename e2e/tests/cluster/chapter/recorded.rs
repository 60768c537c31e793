//! A policy asks for a durable record. The chart's ledger keeps it on a volume; while it is away only the floor answers and
//! nobody else hears anything; what was acknowledged outlives its being killed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::application::Said;
use crate::chapter::ask::{self, CLOUD};
use crate::chapter::command_line;
use crate::chapter::install::{self, text};
use crate::world::{HOME, RELEASE, TEAM, World, until};

const CLASS: &str = "mesh-test-audit";
/// Folder of the volume, among those that this machine and its nodes see.
const FOLDER: &str = "audit";
const LEDGER: &str = "mesh-ledger-0";
const ALERT: (&str, &[(&str, &str)]) = ("MeshAuditNotDurable", &[("namespace", HOME)]);
const LIMIT: Duration = Duration::from_mins(2);
/// Texts of requests, which no record may hold.
const SENT: &str = "Written down, and then sent.";
const HOMELY: &str = "Written down, and answered at home.";
const UNHEARD: &str = "Nobody may hear this while nothing is written.";

/// A volume of the only node for the chart's ledger, and what to tell the chart of it.
pub(crate) fn volume(world: &World) -> String {
    let folder = world.scratch(FOLDER);
    world.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    world.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLASS}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
        "persistentVolumeReclaimPolicy": "Retain", "local": {"path": folder},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}}));
    format!(
        "--set ledger.enabled=true --set ledger.persistence.storageClassName={CLASS} --set ledger.persistence.size=64Mi"
    )
}

/// The ledger, which an upgrade of the release has brought, or else this one brings; and a policy that asks.
pub(crate) fn ledger(world: &World) {
    let set = ["get", "-n", HOME, "statefulset/mesh-ledger"];
    if world.try_kubectl(&set).is_err() {
        let chart = world.path("charts/inference-mesh");
        let upgrade = ["upgrade", RELEASE, &chart, "-n", HOME, "--reuse-values"];
        let more = volume(world);
        let more: Vec<&str> = more.split(' ').collect();
        world.helm(&[&upgrade[..], &more].concat());
        let gateways = ["rollout", "status", "-n", HOME, "deployment/mesh-gateway"];
        world.kubectl(&[&gateways[..], &["--timeout=120s"]].concat());
    }
    world.wait(HOME, &format!("pod/{LEDGER}"), "Ready", LIMIT);
    asks_from(world, "Restricted");
}

fn asks_from(world: &World, level: &str) {
    let patch = json!({"spec": {"audit": {"durableFrom": level}}}).to_string();
    let policy = "sovereigntypolicy/organization";
    world.kubectl(&["patch", "-n", HOME, policy, "--type=merge", "-p", &patch]);
}

fn asked(world: &World, what: &str) -> Said {
    let said = world.ask(
        TEAM,
        &json!({"model": "big", "text": what, "max_tokens": 4}),
    );
    assert_eq!(said.status(), 200, "{said:?}");
    said
}

/// What is written of all decisions, as whoever has a kubeconfig sees it.
fn written(world: &World) -> Vec<Value> {
    let args = ["audit", "show", "--cluster", "--limit=0", "--output=json"];
    let said = command_line::good(world, &args);
    assert_eq!(said["holds"], true, "{}", said["fault"]);
    let entries = said["entries"].as_array().unwrap().iter();
    entries.map(|one| one["entry"].clone()).collect()
}

/// To whom it was about to be sent, by what is written; nothing if its decision is not.
fn sent(entries: &[Value], decision: &str) -> Vec<String> {
    let decided =
        |one: &&Value| one["event"] == "decided" && one["decision"]["decision"] == decision;
    if entries.iter().find(decided).is_none() {
        return Vec::new();
    }
    let sending = |one: &&Value| one["event"] == "sending" && one["decision"] == decision;
    let to = |one: &Value| text(&one["backend"]).to_owned();
    entries.iter().filter(sending).map(to).collect()
}

pub(crate) fn kept(world: &World) {
    ask::with_cloud(world);
    ledger(world);
    install::restricted(world);
    world.silent(ALERT.0, ALERT.1);
    asks_from(world, "Public");
    let first = until("what is public is written too", LIMIT, || {
        let said = asked(world, SENT);
        let to = sent(&written(world), said.header("mesh-decision"));
        (!to.is_empty()).then_some((said, to))
    });
    assert_eq!(
        (first.0.header("mesh-backend"), &*first.1),
        (CLOUD, &[CLOUD.to_owned()][..])
    );
    let request = json!({"model": "auto", "text": HOMELY, "max_tokens": 4, "headers": {"mesh-privacy": "confidential"}});
    let home = world.ask(TEAM, &request);
    // The floor, or another of the sort where others have made one.
    assert_eq!(
        home.header("mesh-sovereignty-class"),
        "OwnHardware",
        "{home:?}"
    );
    let entries = written(world);
    assert_eq!(
        sent(&entries, home.header("mesh-decision")),
        [home.header("mesh-backend")]
    );
    let caller = format!("serviceaccount:{TEAM}:app");
    let by = |one: &&Value| one["caller"]["subject"] == *caller;
    assert!(entries.iter().any(|one| by(&one)), "{entries:?}");
    away(world);
    killed(world);
    nothing_of_it(world);
    asks_from(world, "Restricted");
}

fn scale(world: &World, replicas: &str) {
    let replicas = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", HOME, "statefulset/mesh-ledger", &replicas]);
}

/// Without a ledger the floor answers, the cloud hears nothing, and somebody is told.
fn away(world: &World) {
    scale(world, "0");
    let pod = format!("pod/{LEDGER}");
    let gone = ["wait", "-n", HOME, &pod, "--for=delete", "--timeout=60s"];
    world.kubectl(&gone);
    let mut unheard = Vec::new();
    let prometheus = world.prometheus();
    prometheus.fires(world, ALERT, || {
        let said = asked(world, UNHEARD);
        assert_eq!(said.header("mesh-backend"), "floor", "{said:?}");
        let degraded = said.header("mesh-degraded");
        assert!(degraded.contains("audit_not_durable"), "{said:?}");
        unheard.push(said.header("mesh-decision").to_owned());
    });
    let heard = ask::cloud_log(world);
    assert!(heard.contains(SENT) && !heard.contains(UNHEARD), "{heard}");
    scale(world, "1");
    prometheus.silent(world, ALERT, || ());
    until("what the floor answered is written", LIMIT, || {
        let entries = written(world);
        let at_home = |decision: &String| sent(&entries, decision).contains(&String::from("floor"));
        unheard.iter().all(at_home).then_some(())
    });
    let back = until("the cloud is asked again", LIMIT, || {
        let said = asked(world, SENT);
        (said.header("mesh-backend") == CLOUD).then_some(said)
    });
    assert_eq!(back.header("mesh-degraded"), "", "{back:?}");
    assert!(!ask::cloud_log(world).contains(UNHEARD));
}

/// Killed without a warning while it is asked, it has all that it said it has.
fn killed(world: &World) {
    let pod = format!("pod/{LEDGER}");
    let of = || world.get(&["-n", HOME, &pod]);
    let uid = text(&of()["metadata"]["uid"]).to_owned();
    let answered = std::thread::scope(|scope| {
        let asks = scope.spawn(|| (0..8).map(|_| asked(world, SENT)).collect::<Vec<Said>>());
        let begun = written(world).len();
        until("it is at work", LIMIT, || {
            (written(world).len() > begun).then_some(())
        });
        assert!(
            world.cluster.kill_pod(&uid).unwrap() > 0,
            "nobody was killed"
        );
        asks.join().unwrap()
    });
    until("it was killed and is there again", LIMIT, || {
        let status = of()["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == 1 && status["ready"] == true).then_some(())
    });
    let by_cloud = |said: &&Said| said.header("mesh-backend") == CLOUD;
    let count = answered.iter().filter(by_cloud).count();
    assert!(count > 0, "{answered:?}");
    until("what the floor answered is written too", LIMIT, || {
        let entries = written(world);
        for said in answered.iter().filter(by_cloud) {
            let to = sent(&entries, said.header("mesh-decision"));
            assert!(
                to.contains(&CLOUD.to_owned()),
                "it was acknowledged: {said:?}"
            );
        }
        let all = |said: &Said| !sent(&entries, said.header("mesh-decision")).is_empty();
        answered.iter().all(all).then_some(())
    });
    let verified = command_line::good(world, &["audit", "verify", "--cluster", "--output=json"]);
    assert_eq!(verified["holds"], true, "{verified}");
}

/// Names and numbers are on the volume, and no text.
fn nothing_of_it(world: &World) {
    let folder = world.scratch(FOLDER);
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text);
        read += text.len();
        for words in [SENT, HOMELY, UNHEARD, "Written", "Nobody may"] {
            assert!(!text.contains(words), "{}: {words}", path.display());
        }
    }
    assert!(read > 4096, "{read}");
}
