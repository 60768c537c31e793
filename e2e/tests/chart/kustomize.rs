//! The folders of `deploy/kustomize`, for who does not use Helm.

use serde_json::Value;

use super::world::World;

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
    let list: Value = serde_json::from_str(&world.kubectl(&shown)).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    let kept =
        items.filter(|one| one["metadata"]["labels"]["app.kubernetes.io/component"] != "test");
    kept.map(named).collect()
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
    let Some(world) = World::start("chartkustomize") else {
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
        let list: Value = serde_json::from_slice(&said.stdout).unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(named)
            .collect::<Vec<_>>()
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
    for image in ["operator", "gateway", "sidecar", "worker", "worker-floor"] {
        let image = format!(
            "registry.example/mesh/{image}:{}",
            env!("CARGO_PKG_VERSION")
        );
        assert!(built.contains(&image), "{image}");
    }
}
