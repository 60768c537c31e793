//! The operator ends by `kill -9` in the middle of each of its steps: of an installation, of a change, of files that are
//! brought into a volume and taken away, of another workload in place of the one that serves, of a confinement, of
//! another authority, of a removal. The next one takes up whatever was left: in the end everything is there once, and
//! what it says is of now. The test plays the controllers and kubelets; where real ones are, `operator_nodes` kills, too.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program of its own: a chapter that cannot go on ends by a panic, and how many were killed is told"
)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_cluster::Tier;
use mesh_e2e::lives::{Played, free};
use mesh_e2e::operator::{Settings, rendered};
use mesh_e2e::proxy::{Moment, Proxy, Request};
use mesh_e2e::stage::{Stage, backend, cache, namespace, policy};
use mesh_e2e::story;
use serde_json::{Value, json};

#[path = "operator_killed/acts.rs"]
mod acts;
#[path = "operator_killed/authority.rs"]
mod authority;
#[path = "operator_killed/closed.rs"]
mod closed;
#[path = "operator_killed/files.rs"]
mod files;
#[path = "operator_killed/room.rs"]
mod room;
#[path = "operator_killed/workloads.rs"]
mod workloads;

use authority::Kept;
use room::Room;

const SOON: Duration = Duration::from_secs(30);
const BOTH: &[Moment] = &[Moment::Before, Moment::After];
const AFTER: &[Moment] = &[Moment::After];

const CHAPTERS: &[story::Chapter<Stage>] = &[
    (
        "killed_before_and_after_each_step_of_an_installation_everything_is_there_once",
        acts::installation,
    ),
    (
        "killed_in_each_step_of_a_change_only_the_newer_is_left",
        acts::change,
    ),
    (
        "killed_in_each_step_of_files_in_a_volume_they_are_fetched_once_and_go_with_the_last_pod",
        files::volume,
    ),
    (
        "killed_in_each_step_from_one_workload_to_another_one_of_them_is_always_there",
        workloads::moved,
    ),
    (
        "killed_in_each_step_of_a_confinement_the_namespace_is_closed_proven_and_opened",
        closed::confined,
    ),
    (
        "killed_in_each_step_to_another_authority_nobody_meets_one_that_was_not_announced",
        authority::replaced,
    ),
    (
        "killed_in_each_step_of_a_removal_nothing_is_left",
        acts::removal,
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
        || Stage::start("killed", Tier::ControlPlane),
        CHAPTERS,
        Stage::diagnosis,
    )
}

/// An operator of the chart, with everything that it can be asked to do.
fn settings(stage: &Stage) -> Settings {
    stage
        .settings("one")
        .unwrap()
        .env("MESH_SIDECAR_IMAGE", "inferencemesh.local/sidecar:test")
        .env("MESH_INJECT_LISTEN", "127.0.0.1:0")
        .env("MESH_CANARY_IMAGE", "inferencemesh.local/operator:test")
        .env("MESH_CANARY_INTERVAL", "1h")
        .env("MESH_LLAMACPP_NVIDIA_IMAGE", "engines.example/llamacpp:1")
}

/// What is there without an operator: a pod that serves as the floor, and the chart's webhooks.
fn around(stage: &Stage) {
    stage.serving().unwrap();
    let hooks = rendered(&stage.cluster, "templates/injection.yaml").unwrap();
    let file = stage.cluster.folder().join("hooks.yaml");
    std::fs::write(&file, hooks).unwrap();
    let file = file.display().to_string();
    stage
        .kubectl(&["apply", "--server-side", "-f", &file])
        .unwrap();
}

fn declare(stage: &Stage, name: &str) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": name, "name": "default"}});
    let all = [
        namespace(name),
        account,
        cache(name, "model"),
        backend(name, "floor", "model", 2),
        policy(name, "rules"),
    ];
    let all = json!({"apiVersion": "v1", "kind": "List", "items": all});
    stage.apply(&all).unwrap();
}

/// Of what [`declare`] declares everything once, nothing else, and said of the specs that are.
fn made(room: &Room) -> Result<()> {
    room.holds(&[
        "Deployment/floor-worker",
        "NetworkPolicy/floor-worker",
        "Service/floor-worker",
        "ServiceAccount/floor-worker",
        "PodDisruptionBudget/floor-worker",
        "ConfigMap/mesh-trust",
    ])?;
    ensure!(room.revisions() == [1], "{:?}", room.revisions());
    room.says(["ModelCache", "model"], "Ready", "True")?;
    room.says(["InferenceBackend", "floor"], "Reconciling", "True")?;
    room.says(["SovereigntyPolicy", "rules"], "Accepted", "True")
}

/// That members in a namespace are told of everybody who is trusted.
fn trusted(room: &Room, authority: &Kept) -> Result<()> {
    let told = room.entries("mesh-trust")?;
    ensure!(told["ca.crt"] == authority.trusted(), "{told:?}");
    Ok(())
}

fn told(played: &Played) {
    let (killed, steps) = (played.killed, played.steps.len());
    println!("  {killed} were killed, in {steps} steps");
}

fn proxy(stage: &Stage) -> Proxy {
    let settings = stage.settings("x").unwrap();
    Proxy::start(&settings.kubeconfig, stage.cluster.folder()).unwrap()
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
    stage.floor().unwrap();
    let operator = stage.lead("update").unwrap();
    declare(stage, "update");
    let there = || made(&Room::look(stage, "update")?).map(Some);
    stage.until("the room is made", SOON, there).unwrap();
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
    free(stage).unwrap();
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
