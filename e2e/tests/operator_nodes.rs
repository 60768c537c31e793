//! The operator with a real controller-manager and scheduler, and nodes and pods that only seem to be: what
//! is left behind, nodes that change hands, and how it does with hundreds of backends.
//!
//! `MESH_SCALE` is the number of backends (200 without it); each has five pods.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program of its own: a chapter that cannot go on ends by a panic, and measured numbers are told"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_cluster::Tier;
use mesh_e2e::operator::{HOME, Operator};
use mesh_e2e::stage::{Stage, backend, cache, children, namespace, ownership};
use mesh_e2e::story;
use serde_json::json;

const SOON: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_mins(10);
const BACKENDS: usize = 200;
const PODS: u32 = 5;
const ROOMS: usize = 10;
const READY: &str = "conditions{kind=\"InferenceBackend\",condition=\"Ready\",status=\"True\"}";

#[path = "operator_nodes/lost.rs"]
mod lost;
#[path = "operator_nodes/stored.rs"]
mod stored;

const CHAPTERS: &[story::Chapter<Stage>] = &[
    ("a_node_falls_silent", lost::falls_silent),
    ("a_backend_is_ready_soon_after_it_is_applied", ready),
    (
        "what_is_deleted_while_the_operator_is_down_leaves_nothing",
        deleted,
    ),
    ("a_namespace_ends_with_the_operator_down", namespace_ends),
    (
        "pods_that_want_larger_volumes_of_their_own_get_a_new_statefulset",
        larger,
    ),
    (
        "pods_that_get_volumes_of_their_own_serve_before_those_without_go",
        moves,
    ),
    (
        "files_move_into_a_shared_volume_and_out_of_it_while_pods_serve_and_operators_are_killed",
        stored::moves,
    ),
    (
        "what_ran_on_a_lost_node_says_so_or_goes_elsewhere_and_nothing_is_there_twice",
        lost::converges,
    ),
    (
        "hundreds_of_backends_cost_nothing_at_rest_and_little_for_a_change",
        scale,
    ),
    ("a_node_that_is_no_longer_owned_is_told", node),
    ("no_right_was_missing_for_any_of_this", |stage| {
        assert_eq!(stage.refused().unwrap(), Vec::<String>::new());
    }),
];

fn main() -> ExitCode {
    story::run(
        || Stage::start("fake", Tier::FakeNodes),
        CHAPTERS,
        Stage::diagnosis,
    )
}

fn room(stage: &Stage, name: &str) {
    stage.apply(&namespace(name)).unwrap();
    stage.apply(&cache(name, "model")).unwrap();
}

fn lead(stage: &Stage) -> Operator {
    // As the chart has it: here is load.
    let settings = stage.settings("fake").unwrap();
    let operator = stage
        .begin(&settings.env("MESH_LEASE_SECONDS", "15"))
        .unwrap();
    operator.leads(SOON).unwrap();
    operator
}

/// Applies and waits until it is Ready; how long that took.
fn apply_to_ready(stage: &Stage, room: &str, name: &str) -> Duration {
    let since = Instant::now();
    stage.apply(&backend(room, name, "model", 1)).unwrap();
    let object = [room, "inferencebackend", name];
    stage.condition(object, "Ready", "True", SOON).unwrap();
    since.elapsed()
}

fn ready(stage: &Stage) {
    let operator = lead(stage);
    room(stage, "ready");
    let took = apply_to_ready(stage, "ready", "a");
    println!("  from apply to Ready: {:.1} s", took.as_secs_f32());
    assert_eq!(stage.made("ready").unwrap(), children("a"));
    assert!(operator.terminate().unwrap().success());
}

/// Until nothing of the operator's is left in a namespace.
fn nothing(stage: &Stage, room: &str) {
    let none = || Ok(stage.made(room)?.is_empty().then_some(()));
    stage.until("nothing is left", SOON, none).unwrap();
}

/// A StatefulSet keeps the volumes of its pods as they were: it is made anew around them.
fn larger(stage: &Stage) {
    let operator = lead(stage);
    // Not a room, whose cache is of another sort: an operator that sees the backend first would begin with that.
    stage.apply(&namespace("larger")).unwrap();
    let of = |size: &str| {
        let mut cache = cache("larger", "model");
        let storage = json!({"nodeLocal": {"storageClassName": "disks", "diskBudget": size}});
        cache["spec"]["storage"] = storage;
        cache
    };
    let set = || stage.get(&["-n", "larger", "statefulset", "a-worker"]);
    stage.apply(&of("1Gi")).unwrap();
    stage.apply(&backend("larger", "a", "model", 1)).unwrap();
    let made = || Ok(set()?["metadata"]["uid"].as_str().map(str::to_owned));
    let first = stage.until("it is made", SOON, made).unwrap();
    let pod = || stage.get(&["-n", "larger", "pod", "a-worker-0"]);
    stage
        .until("it has a pod", SOON, || Ok(pod().ok()))
        .unwrap();
    stage.apply(&of("2Gi")).unwrap();
    stage.apply(&backend("larger", "a", "model", 2)).unwrap();
    let grown = || {
        let set = set()?;
        let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
        let good = claim["resources"]["requests"]["storage"] == "2Gi"
            && set["spec"]["replicas"] == 2
            && set["metadata"]["uid"] != first.as_str();
        Ok(good.then_some(()))
    };
    stage.until("it has larger volumes", SOON, grown).unwrap();
    let second = || stage.get(&["-n", "larger", "pod", "a-worker-1"]).ok();
    stage
        .until("a pod is added to the one that was there", SOON, || {
            Ok(second())
        })
        .unwrap();
    stage
        .kubectl(&["delete", "-n", "larger", "inferencebackend", "a"])
        .unwrap();
    nothing(stage, "larger");
    assert!(operator.terminate().unwrap().success());
}

/// From no volume to one of its own and back: whatever ran its pods goes once what takes its place serves.
fn moves(stage: &Stage) {
    let operator = lead(stage);
    room(stage, "moves");
    apply_to_ready(stage, "moves", "a");
    let stored = |storage: serde_json::Value| {
        let mut cache = cache("moves", "model");
        cache["spec"]["storage"] = storage;
        stage.apply(&cache).unwrap();
    };
    let get = |what: &str| stage.get(&["-n", "moves", what]).ok();
    let serving = || {
        let selector = ["-n", "moves", "pods", "-l", "inferencemesh.dev/backend=a"];
        let pods = stage.get(&selector)?;
        let ready = |pod: &serde_json::Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let pods = pods["items"].as_array().into_iter().flatten();
        Ok::<usize, anyhow::Error>(pods.filter(|pod| ready(pod)).count())
    };
    let alone = |workload: &str, other: &str| {
        let what = format!("{workload} alone runs its pods");
        let found = || {
            assert!(serving()? > 0, "nobody serves");
            let good = get(workload).is_some() && get(other).is_none();
            Ok(good.then_some(()))
        };
        stage.until(&what, SOON, found).unwrap();
    };
    stored(json!({"nodeLocal": {"storageClassName": "home", "diskBudget": "1Gi"}}));
    // Its pod waits for a volume, and the one before it serves.
    stage
        .until("a pod with a volume is wanted", SOON, || {
            Ok(get("pod/a-worker-0"))
        })
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    let old = get("deployment/a-worker").unwrap();
    assert!(old["metadata"]["deletionTimestamp"].is_null() && serving().unwrap() == 1);
    // And that it does not end is told.
    let object = ["moves", "inferencebackend", "a"];
    stage.condition(object, "Ready", "False", SOON).unwrap();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "home"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "home", "hostPath": {"path": "/home"}}});
    stage.apply(&volume).unwrap();
    alone("statefulset/a-worker", "deployment/a-worker");
    stored(json!({"emptyDir": {}}));
    alone("deployment/a-worker", "statefulset/a-worker");
    stage.condition(object, "Ready", "True", SOON).unwrap();
    stage
        .kubectl(&["delete", "-n", "moves", "inferencebackend", "a"])
        .unwrap();
    nothing(stage, "moves");
    stage
        .kubectl(&["delete", "persistentvolume", "home", "--wait=false"])
        .unwrap();
    assert!(operator.terminate().unwrap().success());
}

fn deleted(stage: &Stage) {
    let operator = lead(stage);
    room(stage, "deleted");
    apply_to_ready(stage, "deleted", "a");
    apply_to_ready(stage, "deleted", "b");
    operator.kill();
    let delete = ["delete", "-n", "deleted", "inferencebackend", "a", "b"];
    stage.kubectl(&delete).unwrap();
    nothing(stage, "deleted");
    // Who comes back does not make them again.
    let free = r#"{"spec": {"holderIdentity": ""}}"#;
    let patch = [
        "patch",
        "lease",
        "mesh-operator",
        "-n",
        HOME,
        "--type=merge",
        "-p",
        free,
    ];
    stage.kubectl(&patch).unwrap();
    let operator = lead(stage);
    stage.settled(&operator, SOON).unwrap();
    nothing(stage, "deleted");
    assert!(operator.terminate().unwrap().success());
}

fn namespace_ends(stage: &Stage) {
    let operator = lead(stage);
    room(stage, "ends");
    apply_to_ready(stage, "ends", "a");
    operator.terminate().unwrap();
    stage
        .kubectl(&["delete", "namespace", "ends", "--timeout=60s"])
        .unwrap();
    let left = stage.kubectl(&["get", "namespaces", "-o", "name"]).unwrap();
    assert!(!left.contains("namespace/ends"), "{left}");
}

fn class(stage: &Stage, wanted: &str) {
    let found = || {
        let floor = stage.get(&["-n", HOME, "inferencebackend", "floor"])?;
        let class = floor["status"]["sovereignty"]["class"].clone();
        anyhow::ensure!(class == wanted, "the class is {class}");
        Ok(Some(()))
    };
    stage
        .until(&format!("the class is {wanted}"), LONG, found)
        .unwrap();
}

fn node(stage: &Stage) {
    let operator = lead(stage);
    stage
        .kubectl(&["label", "node", "cpu-0", "cpu-1", "owned=yes"])
        .unwrap();
    stage.apply(&cache(HOME, "model")).unwrap();
    stage.apply(&ownership(Some(("owned", "yes")))).unwrap();
    let mut floor = backend(HOME, "floor", "model", 1);
    floor["spec"]["inCluster"]["nodeSelector"] = json!({"owned": "yes"});
    stage.apply(&floor).unwrap();
    let object = [HOME, "inferencebackend", "floor"];
    stage.condition(object, "Ready", "True", SOON).unwrap();
    class(stage, "OwnHardware");
    // The pod that serves, and not one that another has taken the place of.
    let serving = || {
        let pods = ["-n", HOME, "pods", "-l", "inferencemesh.dev/backend=floor"];
        let pods = stage.get(&pods)?;
        let nodes = pods["items"].as_array().into_iter().flatten();
        let nodes = nodes.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let nodes = nodes.filter_map(|pod| Some(pod["spec"]["nodeName"].as_str()?.to_owned()));
        Ok(<[String; 1]>::try_from(nodes.collect::<Vec<_>>()).ok())
    };
    let [node] = stage.until("one pod serves", LONG, serving).unwrap();
    stage.kubectl(&["label", "node", &node, "owned-"]).unwrap();
    class(stage, "RentedHardware");
    stage
        .kubectl(&["label", "node", &node, "owned=yes"])
        .unwrap();
    class(stage, "OwnHardware");
    assert!(operator.terminate().unwrap().success());
}

/// Sums of a counter by one of its labels.
fn by(text: &str, metric: &str, label: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("mesh_operator_")?.strip_prefix(metric));
    for line in lines {
        let value = line
            .split(&format!("{label}=\""))
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let number = line
            .split(' ')
            .next_back()
            .and_then(|number| number.parse::<f64>().ok());
        if let (Some(value), Some(number)) = (value, number) {
            *sums.entry(value.to_owned()).or_default() += number;
        }
    }
    sums
}

fn everything(operator: &Operator) -> (f64, f64) {
    let number = |name: &str| {
        operator
            .metric(&format!("{name}{{scope=\"everything\"}}"))
            .unwrap()
    };
    (number("passes_total"), number("pass_duration_seconds_sum"))
}

/// As many as wanted are Ready, as the operator counts them.
fn all_ready(stage: &Stage, operator: &Operator, wanted: f64) {
    let all = || {
        std::thread::sleep(Duration::from_secs(1));
        let ready = operator.metric(READY)?;
        anyhow::ensure!(ready >= wanted, "{ready} of {wanted} are Ready");
        Ok(Some(()))
    };
    stage.until("all are Ready", LONG, all).unwrap();
}

fn scale(stage: &Stage) {
    let count = std::env::var("MESH_SCALE")
        .ok()
        .and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(BACKENDS);
    let operator = lead(stage);
    stage.settled(&operator, SOON).unwrap();
    let wanted = operator.metric(READY).unwrap() + f64::from(u32::try_from(count).unwrap());
    let since = Instant::now();
    for number in 0..ROOMS {
        let name = format!("scale-{number}");
        room(stage, &name);
        let items: Vec<_> = (0..count / ROOMS)
            .map(|number| backend(&name, &format!("b-{number}"), "model", PODS))
            .collect();
        stage
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
            .unwrap();
    }
    println!(
        "  {count} backends applied after {:.0} s",
        since.elapsed().as_secs_f32()
    );
    all_ready(stage, &operator, wanted);
    println!(
        "  {count} backends with {} pods Ready after {:.0} s",
        count * PODS as usize,
        since.elapsed().as_secs_f32()
    );
    stage.settled(&operator, LONG).unwrap();
    let text = operator.get("/metrics").unwrap().text();
    println!(
        "  memory {} MiB, CPU {:.0} s (debug build)",
        operator.memory().unwrap() >> 20,
        operator.cpu().unwrap().as_secs_f32()
    );
    println!(
        "  requests so far by verb: {:?}",
        by(&text, "api_requests_total", "verb")
    );
    at_rest(stage, &operator);
    change(stage, &operator);
    assert!(operator.terminate().unwrap().success());
}

/// Over a minute and a whole pass nothing is written.
fn at_rest(stage: &Stage, operator: &Operator) {
    let leases = || {
        stage
            .asked()
            .unwrap()
            .iter()
            .filter(|event| event["objectRef"]["resource"] == "leases" && event["verb"] == "update")
            .count()
    };
    let (wrote, renewed, cpu, passes) = (
        stage.wrote().unwrap().len(),
        leases(),
        operator.cpu().unwrap(),
        everything(operator),
    );
    let since = Instant::now();
    stage
        .until(
            "everything was looked at again",
            Duration::from_mins(2),
            || {
                std::thread::sleep(Duration::from_secs(1));
                let whole = everything(operator).0 > passes.0;
                Ok((whole && since.elapsed() >= Duration::from_mins(1)).then_some(()))
            },
        )
        .unwrap();
    stage.settled(operator, SOON).unwrap();
    let now = everything(operator);
    let all = stage.wrote().unwrap();
    assert!(all.len() == wrote, "written at rest: {:?}", &all[wrote..]);
    println!(
        "  at rest for {:.0} s: no write, {} renewals of the lease, CPU {:.1} s; a pass over everything {:.0} ms",
        since.elapsed().as_secs_f32(),
        leases() - renewed,
        operator.cpu().unwrap().saturating_sub(cpu).as_secs_f32(),
        1000.0 * (now.1 - passes.1) / (now.0 - passes.0)
    );
}

/// One change writes little, however many others there are.
fn change(stage: &Stage, operator: &Operator) {
    let before = stage.wrote().unwrap().len();
    let took = apply_to_ready(stage, "scale-0", "b-0");
    stage.settled(operator, SOON).unwrap();
    let wrote = stage.wrote().unwrap();
    let wrote = &wrote[before..];
    println!(
        "  a change: Ready again after {:.1} s, {} writes",
        took.as_secs_f32(),
        wrote.len()
    );
    assert!(wrote.len() <= 8, "{wrote:?}");
    let strange: Vec<&String> = wrote
        .iter()
        .filter(|line| !line.contains("scale-0/b-0"))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    let took = apply_to_ready(stage, "scale-0", "new");
    println!(
        "  from apply to Ready among the others: {:.1} s",
        took.as_secs_f32()
    );
}
