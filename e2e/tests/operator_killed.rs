//! The operator ends by `kill -9` in the middle of each of its steps, once before the API server has seen
//! the step and once after, before the answer came. The next one takes up whatever was left: everything is
//! there once, and what it says is of now.
#![expect(
    clippy::unwrap_used,
    reason = "a chapter that cannot go on ends by a panic"
)]

use std::process::ExitCode;
use std::time::Duration;

use mesh_cluster::Tier;
use mesh_e2e::operator::{HOME, Operator};
use mesh_e2e::proxy::{Moment, Proxy, Request};
use mesh_e2e::stage::{Stage, backend, cache, children, namespace, policy};
use mesh_e2e::story;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// What is held: a name for its namespace, and a part of its path. Children are made at their collection.
const STEPS: &[(&str, &str)] = &[
    ("cachestatus", "modelcaches/model/status"),
    ("account", "/serviceaccounts"),
    ("network", "/networkpolicies"),
    ("service", "/services"),
    ("deployment", "/deployments"),
    ("budget", "/poddisruptionbudgets"),
    ("backendstatus", "inferencebackends/floor/status"),
    ("revision", "controllerrevisions"),
    ("policystatus", "sovereigntypolicies/rules/status"),
];

const CHAPTERS: &[story::Chapter<Stage>] = &[
    (
        "killed_before_any_step_reaches_the_api_server_it_converges_when_it_comes_back",
        |stage| steps(stage, Moment::Before),
    ),
    (
        "killed_after_any_step_was_done_it_converges_when_it_comes_back",
        |stage| steps(stage, Moment::After),
    ),
    ("killed_while_it_renews_its_lease_another_takes_it", lease),
    (
        "killed_between_two_versions_of_a_spec_only_the_newer_is_left",
        update,
    ),
    ("no_right_was_missing_for_any_of_this", |stage| {
        assert_eq!(stage.refused().unwrap(), Vec::<String>::new());
    }),
];

fn main() -> ExitCode {
    story::run(
        || {
            let stage = Stage::start("killed", Tier::ControlPlane)?;
            stage.floor()?;
            Ok(stage)
        },
        CHAPTERS,
        Stage::diagnosis,
    )
}

fn proxy(stage: &Stage) -> Proxy {
    let settings = stage.settings("x").unwrap();
    Proxy::start(&settings.kubeconfig, stage.cluster.folder()).unwrap()
}

/// Who was killed cannot give its lease up; the time until it may be taken is another story's.
fn free(stage: &Stage) {
    let none = r#"{"spec": {"holderIdentity": ""}}"#;
    let patch = [
        "patch",
        "lease",
        "mesh-operator",
        "-n",
        HOME,
        "--type=merge",
        "-p",
        none,
    ];
    stage.kubectl(&patch).unwrap();
}

fn declare(stage: &Stage, name: &str) {
    stage.apply(&namespace(name)).unwrap();
    stage.apply(&cache(name, "model")).unwrap();
    stage.apply(&backend(name, "floor", "model", 2)).unwrap();
    stage.apply(&policy(name, "rules")).unwrap();
}

fn steps(stage: &Stage, moment: Moment) {
    let when = format!("{moment:?}").to_lowercase();
    let mut last: Option<String> = None;
    for (step, path) in STEPS {
        let room = format!("{step}-{when}");
        let proxy = proxy(stage);
        let settings = stage.settings(step).unwrap().through(proxy.kubeconfig());
        let operator = stage.begin(&settings).unwrap();
        operator.leads(SOON).unwrap();
        if let Some(last) = last.take() {
            converged(stage, &last);
        }
        let (inside, path) = (format!("/namespaces/{room}/"), *path);
        proxy.hold(moment, move |request: &Request| {
            request.writes() && request.path(&inside) && request.path(path)
        });
        declare(stage, &room);
        let held = proxy.held(SOON).unwrap();
        assert!(held.writes(), "{held:?}");
        operator.kill();
        drop(proxy);
        free(stage);
        last = Some(room);
    }
    let operator = stage.lead("last").unwrap();
    converged(stage, &last.unwrap());
    quiet(stage, &operator);
    assert!(operator.terminate().unwrap().success());
}

/// Everything once, nothing else, and said of the spec that is.
fn converged(stage: &Stage, room: &str) {
    let mut wanted = children("floor");
    wanted.push(String::from("poddisruptionbudget.policy/floor-worker"));
    stage
        .until(&format!("all children are in {room}"), SOON, || {
            let made = stage.made(room)?;
            let (revisions, others): (Vec<_>, Vec<_>) = made
                .into_iter()
                .partition(|name| name.starts_with("controllerrevision"));
            let mut others = others;
            others.sort();
            wanted.sort();
            anyhow::ensure!(others == wanted, "{others:?}");
            anyhow::ensure!(revisions.len() == 1, "{revisions:?}");
            Ok(Some(()))
        })
        .unwrap();
    let conditions = [
        ("modelcache", "model", "Ready", "True"),
        ("inferencebackend", "floor", "Reconciling", "True"),
        ("sovereigntypolicy", "rules", "Accepted", "True"),
    ];
    for (kind, name, condition, status) in conditions {
        stage
            .condition([room, kind, name], condition, status, SOON)
            .unwrap();
        let object = stage.get(&["-n", room, kind, name]).unwrap();
        assert_eq!(
            object["status"]["observedGeneration"],
            object["metadata"]["generation"]
        );
    }
    // Applied twice, made once.
    let deployment = stage
        .get(&["-n", room, "deployment", "floor-worker"])
        .unwrap();
    assert_eq!(deployment["metadata"]["generation"], 1);
    let owners = deployment["metadata"]["ownerReferences"]
        .as_array()
        .unwrap();
    assert_eq!(owners.len(), 1);
}

fn quiet(stage: &Stage, operator: &Operator) {
    stage.settled(operator, SOON).unwrap();
    let before = stage.wrote().unwrap();
    stage.apply(&namespace("nothing-of-ours")).unwrap();
    stage.settled(operator, SOON).unwrap();
    assert_eq!(stage.wrote().unwrap().len(), before.len());
}

fn lease(stage: &Stage) {
    for moment in [Moment::Before, Moment::After] {
        let proxy = proxy(stage);
        let settings = stage
            .settings("renews")
            .unwrap()
            .through(proxy.kubeconfig());
        let operator = stage.begin(&settings).unwrap();
        operator.leads(SOON).unwrap();
        proxy.hold(moment, |request: &Request| {
            request.method == "PUT" && request.path("/leases/mesh-operator")
        });
        proxy.held(SOON).unwrap();
        operator.kill();
        drop(proxy);
        // Not freed: it is taken when its time is over.
        let next = stage.lead("next").unwrap();
        assert!(next.terminate().unwrap().success());
    }
}

fn update(stage: &Stage) {
    let operator = stage.lead("update").unwrap();
    declare(stage, "update");
    converged(stage, "update");
    operator.terminate().unwrap();
    let proxy = proxy(stage);
    let settings = stage
        .settings("update")
        .unwrap()
        .through(proxy.kubeconfig());
    let operator = stage.begin(&settings).unwrap();
    operator.leads(SOON).unwrap();
    proxy.hold(Moment::After, |request: &Request| {
        request.writes() && request.path("/namespaces/update/deployments/floor-worker")
    });
    stage
        .apply(&backend("update", "floor", "model", 3))
        .unwrap();
    proxy.held(SOON).unwrap();
    operator.kill();
    drop(proxy);
    stage
        .apply(&backend("update", "floor", "model", 1))
        .unwrap();
    free(stage);
    let operator = stage.lead("update").unwrap();
    let done = || {
        let deployment: Value = stage.get(&["-n", "update", "deployment", "floor-worker"])?;
        let budgets = stage.get(&["-n", "update", "poddisruptionbudgets"])?;
        let none = budgets["items"].as_array().is_some_and(Vec::is_empty);
        Ok((deployment["spec"]["replicas"] == 1 && none).then_some(()))
    };
    stage
        .until("one replica and no budget", SOON, done)
        .unwrap();
    let object = ["update", "inferencebackend", "floor"];
    stage
        .condition(object, "Reconciling", "True", SOON)
        .unwrap();
    assert!(operator.terminate().unwrap().success());
}
