//! From an older chart to this one, back, and forth again, and away, with Helm 4 and with Helm 3. There is no older
//! release yet, so one is made of this chart: another version, a kind without one of its fields, one Deployment with
//! other settings.

use std::path::Path;

use super::world::{HELM, HELM_3, World};

const HOME: &str = "mesh-system";
const NO_HOOKS: &str = "--no-hooks";
const KIND: &str = "files/crds/inference-backend.yaml";
/// A field that the older kind has not.
const FIELD: &str = "              limits:";

/// A copy of the chart, older.
fn older(world: &World) -> String {
    let (from, to) = (world.chart_folder(), world.cluster.folder().join("older"));
    copy(&from, &to);
    let edit = |file: &str, edit: &dyn Fn(&str) -> String| {
        let path = to.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = edit(&text);
        assert_ne!(edited, text, "{file}");
        std::fs::write(path, edited).unwrap();
    };
    edit("Chart.yaml", &|text| {
        text.replace("version: 0.1.0", "version: 0.0.9")
    });
    edit("templates/gateway.yaml", &|text| {
        text.replace("failureThreshold: 60", "failureThreshold: 30")
    });
    edit(KIND, &|text| without(text, FIELD));
    to.display().to_string()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A text without a line and what is indented below it.
fn without(text: &str, line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let mut skipping = false;
    let kept = text.lines().filter(|each| {
        let deeper = each.len() - each.trim_start().len() > indent;
        skipping = *each == line || skipping && deeper;
        !skipping
    });
    kept.fold(String::new(), |text, line| text + line + "\n")
}

/// Whether the served kind has the field, and the gateway's startup probe.
fn standing(world: &World) -> (bool, String) {
    let path = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.limits.type}";
    let field = world.kubectl(&["get", "crd/inferencebackends.inferencemesh.dev", "-o", path]);
    let path = "jsonpath={.spec.template.spec.containers[0].startupProbe.failureThreshold}";
    let probe = world.kubectl(&["get", "-n", HOME, "deployment/mesh-gateway", "-o", path]);
    (field == "object", probe)
}

#[test]
fn an_upgrade_brings_new_fields_and_keeps_objects_and_a_rollback_goes_back() {
    if let Some(world) = World::with("chartupgrade", HELM) {
        there_and_back(&world);
        gone(&world, "v4.");
    }
}

#[test]
fn helm_3_installs_upgrades_goes_back_and_uninstalls() {
    if let Some(world) = World::with("charthelm3", HELM_3) {
        there_and_back(&world);
        gone(&world, "v3.");
    }
}

/// The kinds and all objects stay, unless they were said not to be kept.
fn gone(world: &World, version: &str) {
    let said = world.helm_alone(&["version", "--short"]).unwrap();
    assert!(said.starts_with(version), "{said}");
    let place = ["-n", HOME, NO_HOOKS];
    world.helm("uninstall", "mesh", &place).unwrap();
    let old = ["get", "-n", HOME, "inferencebackend/old"];
    world.kubectl(&old);
    let mut lost = place.to_vec();
    lost.extend(["--set", "crds.keep=false"]);
    let notes = world.helm("install", "mesh", &lost).unwrap();
    assert!(notes.contains("ALL objects"), "{notes}");
    world.kubectl(&old);
    world.helm("uninstall", "mesh", &place).unwrap();
    let label = "app.kubernetes.io/part-of=inference-mesh";
    let left = || world.kubectl(&["get", "crd", "-l", label, "-o", "name"]);
    // The API server deletes their objects first.
    for _ in 0..300 {
        if left().trim().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(left().trim().is_empty(), "{}", left());
    world.try_kubectl(&old).unwrap_err();
}

fn there_and_back(world: &World) {
    world.namespace(HOME);
    let older = older(world);
    let place = ["-n", HOME, NO_HOOKS];
    world.helm_chart("install", &older, &place).unwrap();
    assert_eq!(standing(world), (false, String::from("30")));
    let object = |name: &str, limits: &str| {
        let text = format!(
            "apiVersion: inferencemesh.dev/v1alpha1\nkind: InferenceBackend\nmetadata: {{name: {name}, namespace: {HOME}}}\nspec:\n  external: {{url: \"http://127.0.0.1:9/v1\"}}\n  models: [{{name: m}}]\n{limits}"
        );
        world.file(&format!("{name}.yaml"), &text)
    };
    let apply = |file: &str| world.try_kubectl(&["apply", "--server-side", "-f", file]);
    world.cluster_knows("inferencebackends.inferencemesh.dev");
    // For a moment the API server does not know the kind's protection yet, and stays closed.
    let (old, new) = (
        object("old", ""),
        object("new", "  limits: {concurrentRequests: 3}\n"),
    );
    let mut said = apply(&old);
    for _ in 0..200 {
        if said.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        said = apply(&old);
    }
    said.unwrap();
    assert!(
        apply(&new).unwrap_err().contains("limits"),
        "the older kind has it not"
    );

    world.helm("upgrade", "mesh", &place).unwrap();
    assert_eq!(standing(world), (true, String::from("60")));
    world.kubectl(&["get", "-n", HOME, "inferencebackend/old"]);
    apply(&new).unwrap();

    world
        .helm_alone(&["rollback", "mesh", "1", "-n", HOME, NO_HOOKS])
        .unwrap();
    assert_eq!(standing(world), (false, String::from("30")));
    for name in ["old", "new"] {
        world.kubectl(&["get", "-n", HOME, &format!("inferencebackend/{name}")]);
    }
    world.helm("upgrade", "mesh", &place).unwrap();
    assert_eq!(standing(world), (true, String::from("60")));
    let limit = "jsonpath={.spec.limits.concurrentRequests}";
    let kept = world.kubectl(&["get", "-n", HOME, "inferencebackend/new", "-o", limit]);
    assert_eq!(kept, "3", "what was said is still said");
}
