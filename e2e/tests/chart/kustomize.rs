//! The folders of `deploy/kustomize`, for who does not use Helm.

use serde_json::Value;

use super::world::{HELM, World};

const HOME: &str = "mesh-system";

fn folder(world: &World, part: &str) -> String {
    let folder = world.chart_folder().join("../../deploy/kustomize");
    folder.join(part).display().to_string()
}

/// `kind name` of what Helm would install, but its hooks and tests.
fn of_helm(world: &World) -> Vec<String> {
    let args = ["-n", HOME, "--no-hooks", "--kube-version", "1.33.0"];
    let manifest = world.helm("template", "mesh", &args).unwrap();
    let file = world.file("helm.yaml", &manifest);
    let shown = ["create", "--dry-run=client", "-o", "json", "-f", &file];
    let objects = objects(&world.kubectl(&shown));
    let mine = |one: &&Value| one["metadata"]["labels"]["app.kubernetes.io/component"] != "test";
    objects.iter().filter(mine).map(named).collect()
}

/// What kubectl writes of several: one after another, or a list of them.
fn objects(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let split = |value: Value| match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value],
    };
    values.flat_map(|value| split(value.unwrap())).collect()
}

fn named(object: &Value) -> String {
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}",
        part(&object["kind"]),
        part(&object["metadata"]["name"])
    )
}

#[test]
fn kustomize_builds_what_helm_installs_and_the_api_server_takes_it() {
    let Some(world) = World::of_ours("chartkust", HELM) else {
        return;
    };
    let apply = |part: &str| {
        let said = world.kubectl_said(&[
            "apply",
            "--server-side",
            "--validate=strict",
            "-o",
            "json",
            "-k",
            &folder(&world, part),
        ]);
        let complaints = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{part}: {complaints}");
        assert!(!complaints.to_lowercase().contains("warn"), "{complaints}");
        let made = objects(&String::from_utf8_lossy(&said.stdout));
        made.iter().map(named).collect::<Vec<_>>()
    };
    let (mut made, mut wanted) = (apply("base"), of_helm(&world));
    wanted.push(format!("Namespace {HOME}"));
    made.sort();
    wanted.sort();
    assert_eq!(made, wanted);
    for kind in ["modelcaches", "inferencebackends", "sovereigntypolicies"] {
        world.cluster_knows(&format!("{kind}.inferencemesh.dev"));
    }
    built(&world);
    // Away again, as the page says: the Job, then the mesh. The kinds stay.
    assert!(apply("uninstall").contains(&String::from("Job mesh-uninstall")));
    let delete = |part: &str| {
        world.kubectl(&["delete", "--wait=false", "-k", &folder(&world, part)]);
    };
    delete("uninstall");
    world.kubectl(&["get", "deployment/mesh-gateway", "-n", HOME]);
    delete("mesh");
    world
        .try_kubectl(&["get", "clusterrole/mesh-gateway"])
        .unwrap_err();
    world.cluster_knows("sovereigntypolicies.inferencemesh.dev");
}

/// Nothing of Helm's, and with a registry of one's own nothing from elsewhere.
fn built(world: &World) {
    let built = world.kubectl(&["kustomize", &folder(world, "base")]);
    assert!(
        !built.contains("helm.sh/") && !built.contains("Helm"),
        "Helm's own"
    );
    assert!(built.contains("inferencemesh.local/sidecar:"));
    let built = world.kubectl(&["kustomize", &folder(world, "registry")]);
    assert!(
        !built.contains("inferencemesh.local"),
        "an image is left out"
    );
    let away = world.kubectl(&["kustomize", &folder(world, "registry-uninstall")]);
    let operator = format!(
        "registry.example/mesh/operator:{}",
        env!("CARGO_PKG_VERSION")
    );
    assert!(
        away.contains(&operator) && !away.contains("inferencemesh.local"),
        "{away}"
    );
    for image in ["operator", "gateway", "sidecar", "worker", "worker-floor"] {
        let image = format!(
            "registry.example/mesh/{image}:{}",
            env!("CARGO_PKG_VERSION")
        );
        assert!(built.contains(&image), "{image}");
    }
}
