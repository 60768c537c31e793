//! Alerts of the chart, each by what it is about: it fires while that is so, and is silent before and afterwards.
//! Others fire in the chapters that make what they are about: no floor and no operator in `floor`, no gateway and old
//! sidecars in `sidecar`, an old view and one place of the floor in `serve`, a network that confines no longer in `confine`.

use std::time::Duration;

use jiff::{Span, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::chapter::ask;
use crate::world::{HOME, TEAM, World, until};

const CLOUD: (&str, &str) = (HOME, "a-cloud");
const GONE: (&str, &str) = (HOME, "no-cloud");
/// A namespace whose floor cannot be made.
const ADRIFT: &str = "adrift";
const UNREADABLE: (&str, &str) = (TEAM, "unreadable");

/// The date so many days from now.
fn day(from_now: i64) -> String {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = today.checked_add(Span::new().days(from_now)).unwrap();
    day.to_string()
}

fn declare(world: &World, (namespace, name): (&str, &str), change: impl FnOnce(&mut Value)) {
    let mut backend = ask::backend(namespace, name);
    // A company and a name of their own, so that what others ask is no matter here.
    backend["spec"]["models"][0]["name"] = json!(name);
    backend["spec"]["cloud"]["provider"] = json!(name);
    change(&mut backend["spec"]);
    world.apply(&backend);
}

fn remove(world: &World, (namespace, name): (&str, &str)) {
    world.kubectl(&["delete", "-n", namespace, "inferencebackend", name]);
}

/// Asks once; who answers is another chapter's.
fn asked(world: &World, model: &str) {
    let request = json!({"model": model, "text": "Hello", "max_tokens": 1});
    assert_eq!(world.ask(TEAM, &request).status(), 200);
}

fn fires(world: &World, alert: &str, of: &[(&str, &str)]) {
    let prometheus = world.prometheus();
    prometheus.fires(world, (alert, of), || asked(world, GONE.1));
}

fn silent(world: &World, alert: &str, of: &[(&str, &str)]) {
    let prometheus = world.prometheus();
    prometheus.silent(world, (alert, of), || asked(world, GONE.1));
}

/// All the while a cloud that does not answer is asked: it rests, is tried again, and rests; it comes and goes.
pub(crate) fn fire(world: &World) {
    ask::with_cloud(world);
    let flapping = ("MeshBackendFlapping", &[("backend", GONE.1)]);
    world.silent(flapping.0, flapping.1);
    declare(world, GONE, |spec| {
        spec["cloud"]["url"] = json!("http://cloud.clouds.svc:8001/v1");
    });
    claims(world);
    concentration(world);
    not_ready(world);
    no_floor(world);
    uninjected(world);
    fires(world, flapping.0, flapping.1);
    drilled_in_vain(world);
    remove(world, GONE);
}

/// Nothing of what alerts were about is left.
pub(crate) fn silent_in_the_end(world: &World) {
    world.quiet();
}

fn claims(world: &World) {
    let of = [("backend", CLOUD.1)];
    let until_day = |from_now: i64| {
        let expires = day(from_now);
        declare(world, CLOUD, |spec| {
            spec["cloud"]["claims"]["expires"] = json!(expires);
        });
    };
    until_day(400);
    silent(world, "MeshClaimExpiresSoon", &of);
    until_day(3);
    fires(world, "MeshClaimExpiresSoon", &of);
    silent(world, "MeshClaimExpired", &of);
    until_day(-3);
    fires(world, "MeshClaimExpired", &of);
    silent(world, "MeshClaimExpiresSoon", &of);
    until_day(400);
    silent(world, "MeshClaimExpired", &of);
}

/// The limit is the policy's: this company has few of all tokens, and more than a policy wants.
fn concentration(world: &World) {
    let of = [("provider", CLOUD.1)];
    let limit = |share: &Value| {
        let patch = json!({"spec": {"concentration": share}}).to_string();
        let policy = "sovereigntypolicy/organization";
        world.kubectl(&["patch", "-n", HOME, policy, "--type=merge", "-p", &patch]);
    };
    limit(&json!({"maxShare": "1"}));
    asked(world, CLOUD.1);
    silent(world, "MeshProviderConcentration", &of);
    limit(&json!({"maxShare": "0.001"}));
    let alert = ("MeshProviderConcentration", &of[..]);
    let prometheus = world.prometheus();
    prometheus.fires(world, alert, || asked(world, CLOUD.1));
    limit(&json!({"maxShare": "1"}));
    silent(world, "MeshProviderConcentration", &of);
    limit(&Value::Null);
    remove(world, CLOUD);
}

/// A backend whose key its author may not use.
fn not_ready(world: &World) {
    let of = [("kind", "InferenceBackend")];
    silent(world, "MeshObjectsNotReady", &of);
    declare(world, UNREADABLE, |_| {});
    fires(world, "MeshObjectsNotReady", &of);
    remove(world, UNREADABLE);
    silent(world, "MeshObjectsNotReady", &of);
}

/// A tenant's floor in a namespace whose quota has no room for it: the operator fails to make it again and again, and
/// its drills fail. That of the mesh answers all the while.
fn no_floor(world: &World) {
    let fails = ("MeshOperatorErrors", [("kind", "InferenceBackend")]);
    world.silent(fails.0, &fails.1);
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ADRIFT}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"namespace": ADRIFT, "name": "full"},
        "spec": {"hard": {"count/deployments.apps": "0"}}}));
    until("the quota counts", Duration::from_mins(1), || {
        let quota = world.get(&["-n", ADRIFT, "resourcequota/full"]);
        quota["status"]["used"].is_object().then_some(())
    });
    let object = |kind: &str, name: &str, spec: &Value| {
        world.apply(
            &json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"namespace": ADRIFT, "name": name}, "spec": spec}),
        );
    };
    let artifact = json!({"path": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"});
    object(
        "ModelCache",
        "m",
        &json!({"artifacts": [artifact], "sources": [{"builtin": {}}]}),
    );
    object(
        "InferenceBackend",
        "own",
        &json!({"inCluster": {"modelRef": {"name": "m"}}, "models": [{"name": "own"}]}),
    );
    let floor = json!({"backendRef": {"name": "own"}, "drill": {"interval": "1m"}});
    object("SovereigntyPolicy", "adrift", &json!({"floor": floor}));
    world.fires(fails.0, &fails.1);
}

fn drilled_in_vain(world: &World) {
    let of = ("MeshFloorDrillFailed", &[("backend", "adrift/own")][..]);
    let home = ("MeshFloorDrillFailed", &[("backend", "floor")][..]);
    world.fires(of.0, of.1);
    let answered = "mesh_gateway_floor_drill_succeeded{backend=\"floor\"} == 1";
    until("the other floor is drilled", Duration::from_mins(1), || {
        world.prometheus().knows(world, answered).then_some(())
    });
    world.silent(home.0, home.1);
    world.kubectl(&["delete", "-n", ADRIFT, "sovereigntypolicy", "adrift"]);
    world.silent(of.0, of.1);
    world.kubectl(&["delete", "namespace", ADRIFT, "--wait=false"]);
    world.silent("MeshOperatorErrors", &[("kind", "InferenceBackend")]);
}

/// A namespace that asks for sidecars after its pods were made.
fn uninjected(world: &World) {
    let label = |wanted: &str| world.kubectl(&["label", "namespace", TEAM, wanted]);
    silent(world, "MeshPodsUninjected", &[]);
    label("inferencemesh.dev/inject=enabled");
    fires(world, "MeshPodsUninjected", &[]);
    label("inferencemesh.dev/inject-");
    silent(world, "MeshPodsUninjected", &[]);
}
