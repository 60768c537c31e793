//! The operator while the API server, etcd, its watches or its Lease go away: on a real API server, without
//! nodes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program of its own: a chapter that cannot go on ends by a panic, and measured numbers are told"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_cluster::Tier;
use mesh_e2e::operator::{HOME, Operator, Settings};
use mesh_e2e::proxy::{Proxy, Request};
use mesh_e2e::stage::{Stage, backend, cache, children, namespace};
use mesh_e2e::story;
use serde_json::json;

#[path = "operator_outage/underway.rs"]
mod underway;

const SOON: Duration = Duration::from_secs(30);
/// The lease of [`Stage::settings`].
const LEASE: Duration = Duration::from_secs(6);

const CHAPTERS: &[story::Chapter<Stage>] = &[
    (
        "an_api_server_that_was_restarted_is_worked_with_again",
        |stage| restarted(stage, "kube-apiserver"),
    ),
    (
        "an_etcd_that_was_restarted_on_its_data_is_worked_with_again",
        |stage| restarted(stage, "etcd"),
    ),
    (
        "a_watch_that_is_gone_is_begun_anew_and_nothing_is_missed_or_written_twice",
        gone,
    ),
    ("a_lease_that_another_took_is_respected_at_once", taken),
    ("who_is_cut_off_stops_before_another_begins", cut_off),
    (
        "a_standby_takes_over_at_once_when_the_leader_is_asked_to_end",
        asked_to_end,
    ),
    (
        "a_standby_takes_over_within_the_lease_when_the_leader_is_killed",
        killed,
    ),
];

fn main() -> ExitCode {
    story::run(
        || Stage::start("outage", Tier::ControlPlane),
        CHAPTERS,
        Stage::diagnosis,
    )
}

fn declare(stage: &Stage, room: &str, name: &str) {
    stage.apply(&namespace(room)).unwrap();
    stage.apply(&cache(room, "model")).unwrap();
    stage.apply(&backend(room, name, "model", 1)).unwrap();
}

fn complete(stage: &Stage, room: &str, names: &[&str]) {
    let mut all: Vec<String> = names.iter().flat_map(|name| children(name)).collect();
    all.sort();
    let done = || Ok((stage.made(room)? == all).then_some(()));
    stage.until("all children are there", SOON, done).unwrap();
}

/// With the lease that the chart has.
fn long(stage: &Stage, identity: &str) -> Settings {
    stage
        .settings(identity)
        .unwrap()
        .env("MESH_LEASE_SECONDS", "15")
}

fn leading(stage: &Stage, settings: &Settings) -> Operator {
    let operator = stage.begin(settings).unwrap();
    operator.leads(SOON).unwrap();
    operator
}

fn restarted(stage: &Stage, daemon: &str) {
    stage.ours();
    let room = format!("restart-{daemon}");
    let operator = leading(stage, &long(stage, daemon));
    declare(stage, &room, "before");
    complete(stage, &room, &["before"]);
    let underway = underway::begun(stage, &format!("underway-{daemon}"));
    stage.settled(&operator, SOON).unwrap();
    stage.cluster.kill(daemon).unwrap();
    // What was known stays known.
    operator.readiness(200, "ready", SOON).unwrap();
    stage.cluster.restart(daemon).unwrap();
    stage
        .until("the API server answers", SOON, || {
            Ok(stage.kubectl(&["get", "--raw", "/readyz"]).ok())
        })
        .unwrap();
    let since = Instant::now();
    declare(stage, &room, "after");
    complete(stage, &room, &["after", "before"]);
    println!(
        "  converged {:.1} s after it answered again",
        since.elapsed().as_secs_f32()
    );
    underway.goes_on(stage, &operator);
    let leads = operator.metric("leader").unwrap();
    assert!(leads > 0.5, "it did not lead any more");
    assert!(operator.terminate().unwrap().success());
}

fn gone(stage: &Stage) {
    let direct = stage.settings("gone").unwrap();
    let proxy = Proxy::start(&direct.kubeconfig, stage.cluster.folder()).unwrap();
    let operator = leading(stage, &direct.through(proxy.kubeconfig()));
    declare(stage, "gone", "before");
    complete(stage, "gone", &["before"]);
    stage.settled(&operator, SOON).unwrap();
    let before = stage.wrote().unwrap().len();
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "The resourceVersion for the provided watch is too old."});
    for kind in [
        "/inferencebackends",
        "/deployments",
        "/pods",
        "/modelcaches",
    ] {
        proxy.answer(1, 410, &status, move |request: &Request| {
            request.path(kind) && request.target.contains("watch=true")
        });
    }
    proxy.sever();
    stage.apply(&backend("gone", "while", "model", 1)).unwrap();
    complete(stage, "gone", &["before", "while"]);
    stage
        .until("every watch was told that it is gone", SOON, || {
            Ok((proxy.unanswered() == 0).then_some(()))
        })
        .unwrap();
    stage.settled(&operator, SOON).unwrap();
    let wrote = stage.wrote().unwrap();
    let again: Vec<&String> = wrote[before..]
        .iter()
        .filter(|line| line.contains("before"))
        .collect();
    assert!(again.is_empty(), "written again: {again:?}");
    operator.readiness(200, "ready", SOON).unwrap();
    assert!(operator.terminate().unwrap().success());
}

fn taken(stage: &Stage) {
    let mut operator = leading(stage, &stage.settings("owner").unwrap());
    stage.settled(&operator, SOON).unwrap();
    let intruder = r#"{"spec": {"holderIdentity": "intruder"}}"#;
    let patch = [
        "patch",
        "lease",
        "mesh-operator",
        "-n",
        HOME,
        "--type=merge",
        "-p",
        intruder,
    ];
    stage.kubectl(&patch).unwrap();
    let ended = operator.ended(SOON).unwrap();
    assert_eq!(ended.code(), Some(2));
    operator.wait_for("the lease is lost", SOON).unwrap();
    let before = stage.wrote().unwrap().len();
    declare(stage, "taken", "a");
    // The intruder does not renew, so the next one waits for as long as a lease lasts, and writes nothing.
    let since = Instant::now();
    let next = stage.begin(&stage.settings("next").unwrap()).unwrap();
    next.readiness(200, "ready", SOON).unwrap();
    assert!(next.metric("leader").unwrap() < 0.5);
    let early = stage.wrote().unwrap().len();
    if since.elapsed() < LEASE {
        assert_eq!(early, before);
    }
    next.leads(SOON).unwrap();
    assert!(since.elapsed() >= LEASE, "{:?}", since.elapsed());
    complete(stage, "taken", &["a"]);
    assert!(next.terminate().unwrap().success());
}

/// When a line was written, as the log says; sorts as text.
fn time(operator: &Operator, part: &str) -> String {
    let text = operator.written();
    let line = text.lines().find(|line| line.contains(part)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["timestamp"].as_str().unwrap().to_owned()
}

fn cut_off(stage: &Stage) {
    let direct = stage.settings("cut").unwrap();
    let proxy = Proxy::start(&direct.kubeconfig, stage.cluster.folder()).unwrap();
    let mut old = leading(stage, &direct.through(proxy.kubeconfig()));
    let new = stage.begin(&stage.settings("new").unwrap()).unwrap();
    new.readiness(200, "ready", SOON).unwrap();
    stage.settled(&old, SOON).unwrap();
    proxy.close();
    proxy.sever();
    declare(stage, "cut", "a");
    new.leads(SOON).unwrap();
    assert_eq!(old.ended(SOON).unwrap().code(), Some(2));
    let (stopped, began) = (time(&old, "the lease is lost"), time(&new, "\"leading\""));
    assert!(stopped < began, "{stopped} and only then {began}");
    complete(stage, "cut", &["a"]);
    assert!(new.terminate().unwrap().success());
}

fn asked_to_end(stage: &Stage) {
    let old = leading(stage, &long(stage, "old"));
    let new = stage.begin(&long(stage, "new")).unwrap();
    new.readiness(200, "ready", SOON).unwrap();
    let since = Instant::now();
    assert!(old.terminate().unwrap().success());
    new.leads(SOON).unwrap();
    let took = since.elapsed();
    println!(
        "  taken over after {:.1} s of a lease of 15 s",
        took.as_secs_f32()
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    declare(stage, "asked", "a");
    complete(stage, "asked", &["a"]);
    assert!(new.terminate().unwrap().success());
}

fn killed(stage: &Stage) {
    let old = leading(stage, &stage.settings("old").unwrap());
    let new = stage.begin(&stage.settings("new").unwrap()).unwrap();
    new.readiness(200, "ready", SOON).unwrap();
    let since = Instant::now();
    old.kill();
    new.leads(SOON).unwrap();
    let took = since.elapsed();
    println!(
        "  taken over after {:.1} s of a lease of 6 s",
        took.as_secs_f32()
    );
    assert!(took < 2 * LEASE, "{took:?}");
    declare(stage, "killed", "a");
    complete(stage, "killed", &["a"]);
    assert!(new.terminate().unwrap().success());
}
