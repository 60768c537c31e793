//! The core of the story on a cluster that somebody else runs, with what Helm and kubectl can do: nothing here needs its
//! nodes. What does is left out, and that is said at the end. Begins only where there is no mesh, and takes away what it
//! made, the kinds too.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chapter::{ask, floor, install, serve};
use crate::world::{HOME, RELEASE, TEAM, World, until};

const LIMIT: Duration = Duration::from_mins(3);
/// Registry and folder, and version, of the images; without them those of the chart, which are on the nodes.
const REGISTRY: &str = "MESH_IMAGE_REGISTRY";
const TAG: &str = "MESH_IMAGE_TAG";
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";

/// What is not told here.
pub(crate) const LEFT_OUT: &str = "they kill processes, cut links, count packets, switch the network's policies, read the audit log, watch alerts from inside its network, or bring files to nodes";

/// A mesh that is there is somebody's.
fn nobodys(world: &World) {
    let mut there = world.kubectl(&["get", "deployments", "-A", "-l", OURS, "-o", "name"]);
    for kind in install::KINDS {
        let crd = format!("crd/{kind}.inferencemesh.dev");
        there += &world.kubectl(&["get", &crd, "--ignore-not-found", "-o", "name"]);
    }
    for namespace in [HOME, TEAM, ask::CLOUDS] {
        let name = format!("namespace/{namespace}");
        there += &world.kubectl(&["get", &name, "--ignore-not-found", "-o", "name"]);
    }
    assert!(
        there.trim().is_empty(),
        "the cluster of KUBECONFIG has what this story makes: {}",
        there.trim().replace('\n', ", ")
    );
}

fn installed(world: &World) {
    nobodys(world);
    let begun = Instant::now();
    let chart = world.path("charts/inference-mesh");
    let mut args = vec![
        String::from("install"),
        RELEASE.to_owned(),
        chart,
        String::from("-n"),
        HOME.to_owned(),
    ];
    for (value, variable) in [("image.registry", REGISTRY), ("image.tag", TAG)] {
        if let Ok(given) = std::env::var(variable) {
            args.extend([String::from("--set"), format!("{value}={given}")]);
        }
    }
    let more = ["--create-namespace", "--wait", "--timeout", "5m"];
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more).collect();
    world.helm(&args);
    until("the floor is made", LIMIT, || {
        let made = ["get", "-n", HOME, "inferencebackend/floor"];
        world.try_kubectl(&made).ok()
    });
    install::floor_is_ready(world, begun);
}

fn scaled(world: &World) {
    let load = world.load("smollm2", 2);
    serve::two_workers(world);
    serve::scale_to(world, 1);
    until("one worker is left", LIMIT, || {
        let pods = world.get(&["pods", "-n", HOME, "-l", "inferencemesh.dev/backend=floor"]);
        (pods["items"].as_array()?.len() == 1).then_some(())
    });
    serve::unharmed(load, 4);
}

/// As near to `kill -9` as a cluster lets somebody come who is not on its nodes.
fn killed(world: &World) {
    serve::two_workers(world);
    let load = world.load("smollm2", 2);
    let victim = serve::workers(world).remove(0)["metadata"].take();
    let name = victim["name"].as_str().unwrap();
    let delete = [
        "delete",
        "pod",
        "-n",
        HOME,
        name,
        "--grace-period=0",
        "--force",
    ];
    world.kubectl(&delete);
    let said = world.ask(
        TEAM,
        &json!({"model": "smollm2", "text": "Hello", "max_tokens": 4}),
    );
    assert_eq!(said.status(), 200, "{said:?}");
    let another = |pod: &Value| pod["metadata"]["uid"] != victim["uid"];
    until("another has its place", LIMIT, || {
        let workers = serve::workers(world);
        (workers.len() == 2 && workers.iter().all(another)).then_some(())
    });
    // A stream that came from the victim is cut, since it began; nothing else fails.
    let (requests, failures) = load.finish().unwrap();
    assert!(requests >= 4, "only {requests} requests");
    assert!(failures.len() <= 2, "{failures:?}");
    serve::scale_to(world, 1);
}

fn uninstalled(world: &World) {
    world.helm(&["uninstall", RELEASE, "-n", HOME, "--timeout", "5m"]);
    install::kinds_are_left(world);
    for kind in install::KINDS {
        let crd = format!("crd/{kind}.inferencemesh.dev");
        world.kubectl(&["delete", &crd, "--timeout=2m"]);
    }
    let namespaces = ["namespace", HOME, TEAM, ask::CLOUDS];
    let delete = ["delete", "--ignore-not-found", "--timeout=3m"];
    world.kubectl(&[&delete[..], &namespaces].concat());
}

/// In order, as the story of ours.
pub(crate) const CHAPTERS: &[crate::Chapter] = &[
    (
        "helm_install_brings_up_a_floor_that_is_ready_in_a_given_cluster",
        installed,
    ),
    (
        "an_application_pod_gets_the_models_answer_through_the_gateway",
        ask::answer,
    ),
    ("nobody_is_served_without_a_token_of_ours", ask::strangers),
    ("a_card_number_never_reaches_the_cloud_pod", ask::card),
    ("scaling_under_load_fails_no_request", scaled),
    ("a_worker_that_is_gone_at_once_is_not_missed", killed),
    (
        "the_last_floor_can_be_neither_deleted_nor_scaled_away",
        floor::protected,
    ),
    (
        "helm_uninstall_keeps_the_kinds_and_nothing_else_stays",
        uninstalled,
    ),
];
