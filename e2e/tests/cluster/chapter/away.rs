//! Other ways to come and to go, after the story's own release is gone: with kinds that are not kept, and without Helm.
//! Neither waits until anything answers: that there is something to remove is enough.

use std::time::Duration;

use crate::world::{HOME, RELEASE, World, until};

const LIMIT: Duration = Duration::from_mins(2);
const KINDS: &str = "app.kubernetes.io/part-of=inference-mesh";
const MADE: &str = "app.kubernetes.io/managed-by=mesh-operator";
const CHILDREN: &str = "deployments,services,networkpolicies,serviceaccounts,configmaps";

fn floor_is_made(world: &World) {
    until("the floor is made", LIMIT, || {
        let made = ["get", "-n", HOME, "deployment/floor-worker"];
        world.try_kubectl(&made).ok()
    });
}

fn nothing_is_made(world: &World) {
    let left = world.kubectl(&["get", CHILDREN, "-A", "-l", MADE, "-o", "name"]);
    assert!(left.trim().is_empty(), "{left}");
}

fn kinds(world: &World) -> String {
    let said = world.kubectl(&["get", "crd", "-l", KINDS, "-o", "name"]);
    said.trim().to_owned()
}

/// The hook runs first, so that nothing of theirs is left, and then they go, with everybody's objects.
pub(crate) fn with_kinds(world: &World) {
    let chart = world.path("charts/inference-mesh");
    let values = "crds.keep=false,operator.replicas=1,gateway.replicas=1,operator.drainDelaySeconds=0,gateway.drainDelaySeconds=0";
    world.helm(&["install", RELEASE, &chart, "-n", HOME, "--set", values]);
    floor_is_made(world);
    world.helm(&["uninstall", RELEASE, "-n", HOME, "--timeout", "2m"]);
    nothing_is_made(world);
    until("the kinds are gone", LIMIT, || {
        kinds(world).is_empty().then_some(())
    });
}

/// As `docs/operations/kustomize.md` says it.
pub(crate) fn without_helm(world: &World) {
    let folder = |part: &str| world.path(&format!("deploy/kustomize/{part}"));
    let apply = |part: &str| {
        world.kubectl(&["apply", "--server-side", "-k", &folder(part)]);
    };
    // Of kinds that are new the API server has to read first.
    apply("kinds");
    apply("mesh");
    floor_is_made(world);
    apply("uninstall");
    let job = "job/mesh-uninstall";
    let complete = "--for=condition=Complete";
    world.kubectl(&["wait", "-n", HOME, complete, job, "--timeout=2m"]);
    nothing_is_made(world);
    for part in ["uninstall", "mesh"] {
        let delete = ["delete", "--ignore-not-found", "--wait=false", "-k"];
        world.kubectl(&[&delete[..], &[folder(part).as_str()]].concat());
    }
    assert_eq!(kinds(world).lines().count(), 3, "kinds stay");
}
