//! From a chart that is really older, the first that this repository had, to this one, back, and forth again, and
//! away, with Helm 4 and with Helm 3, hooks and all; and nothing of the user's is lost on the way.

use serde_json::Value;

use super::world::{HELM, HELM_3, World, text};

const HOME: &str = "mesh-system";
const TEAM: &str = "legal";
const NO_HOOKS: &str = "--no-hooks";
const OLDER: &str = "../../e2e/tests/chart/older";
const ARCHIVE: &str = "inference-mesh-423e55e.tgz";
/// Kinds of what is the user's.
const KINDS: &str = "modelcaches,inferencebackends,sovereigntypolicies,secrets,configmaps";

/// Objects with fields that the older kinds have not, by kind and field.
const NEW: [(&str, &str, &str); 2] = [
    (
        "ModelCache",
        "family",
        "{family: llama, license: MIT, artifacts: [{path: a.gguf, sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53}], sources: [{builtin: {}}]}",
    ),
    (
        "InferenceBackend",
        "hardwareVendor",
        "{hardwareVendor: nvidia, external: {url: \"https://10.9.9.9/v1\"}, models: [{name: m}]}",
    ),
];

fn older(world: &World, file: &str) -> String {
    let folder = world.chart_folder().join(OLDER);
    folder.join(file).display().to_string()
}

/// An object of [`NEW`] as a file.
fn new(world: &World, (kind, _, spec): (&str, &str, &str)) -> String {
    let name = kind.to_lowercase();
    let manifest = format!(
        "apiVersion: inferencemesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: new, namespace: {HOME}}}\nspec: {spec}\n"
    );
    world.file(&format!("new-{name}.yaml"), &manifest)
}

fn apply(world: &World, file: &str) -> Result<String, String> {
    world.try_kubectl(&["apply", "--server-side", "--validate=strict", "-f", file])
}

/// For a moment the API server does not know a kind's protection yet, and stays closed.
fn applied(world: &World, file: &str) {
    let mut said = apply(world, file);
    for _ in 0..200 {
        if said.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        said = apply(world, file);
    }
    said.unwrap();
}

/// What people made before the upgrade, and what the older operator made for them at the installation.
fn objects(world: &World) {
    applied(world, &older(world, "objects.yaml"));
    let path = "jsonpath={.data.objects\\.yaml}";
    let bootstrap = world.kubectl(&["get", "-n", HOME, "configmap/mesh-bootstrap", "-o", path]);
    let file = world.file("bootstrap.yaml", &bootstrap);
    let args = [
        "apply",
        "--server-side",
        "--field-manager=mesh-operator",
        "-n",
        HOME,
        "-f",
        &file,
    ];
    world.kubectl(&args);
    let key = [
        "create",
        "secret",
        "generic",
        "mesh-api-keys",
        "-n",
        HOME,
        "--from-literal=alice=hash",
    ];
    world.kubectl(&key);
    world.kubectl(&[
        "create",
        "configmap",
        "notes",
        "-n",
        TEAM,
        "--from-literal=a=b",
    ]);
}

/// Everything of the user's, but what the API server counts: who it is, and what was said.
fn yours(world: &World) -> Vec<String> {
    let all = world.kubectl(&["get", KINDS, "-A", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let mine = all["items"].as_array().unwrap().iter().filter(|object| {
        let meta = &object["metadata"];
        let ours = meta["labels"]["app.kubernetes.io/part-of"] == "inference-mesh";
        let helms = text(&object["type"]).starts_with("helm.sh/");
        let there = [HOME, TEAM].contains(&text(&meta["namespace"]));
        there && !ours && !helms && meta["name"] != "new"
    });
    let told = mine.map(|object| {
        let meta = &object["metadata"];
        format!(
            "{} {} {} {} {} {}",
            object["kind"],
            meta["name"],
            meta["uid"],
            meta["labels"],
            object["spec"],
            object["data"]
        )
    });
    told.collect()
}

/// What was made before can still be written: nothing that was valid has become invalid.
fn still_writable(world: &World, mark: &str) {
    for object in [
        "modelcache/smollm2-135m",
        "inferencebackend/small",
        "inferencebackend/example-cloud",
        "inferencebackend/floor",
        "sovereigntypolicy/default",
    ] {
        let mark = format!("mark={mark}");
        world.kubectl(&["annotate", "--overwrite", "-n", HOME, object, &mark]);
    }
    let mark = format!("mark={mark}");
    world.kubectl(&[
        "annotate",
        "--overwrite",
        "-n",
        TEAM,
        "sovereigntypolicy/legal",
        &mark,
    ]);
}

/// Whether the release is of today: its webhook, and a port of its operator that came later.
fn today(world: &World) -> bool {
    let webhook = world.try_kubectl(&["get", "mutatingwebhookconfiguration/mesh-inject"]);
    let path = "jsonpath={.spec.template.spec.containers[0].ports[*].name}";
    let ports = world.kubectl(&["get", "-n", HOME, "deployment/mesh-operator", "-o", path]);
    assert_eq!(
        webhook.is_ok(),
        ports.contains("sign"),
        "half of each: {ports}"
    );
    webhook.is_ok()
}

#[test]
fn an_upgrade_from_an_older_chart_brings_new_fields_and_loses_nothing_and_a_rollback_goes_back() {
    if let Some(world) = World::with("chartupgrade", HELM) {
        there_and_back(&world);
        gone(&world, "v4.");
    }
}

#[test]
fn helm_3_installs_an_older_chart_upgrades_goes_back_and_uninstalls() {
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
    let old = ["get", "-n", HOME, "inferencebackend/small"];
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
    let place = ["-n", HOME];
    let archive = older(world, ARCHIVE);
    world.helm_chart("install", &archive, &place).unwrap();
    for kind in ["modelcaches", "inferencebackends", "sovereigntypolicies"] {
        world.cluster_knows(&format!("{kind}.inferencemesh.dev"));
    }
    objects(world);
    let before = yours(world);
    assert_eq!(before.len(), 9, "{before:#?}");
    assert!(!today(world));
    for one in NEW {
        let said = apply(world, &new(world, one)).unwrap_err();
        assert!(said.contains(one.1), "the older kind has it not: {said}");
    }

    world.helm("upgrade", "mesh", &place).unwrap();
    assert!(today(world));
    assert_eq!(yours(world), before);
    still_writable(world, "upgraded");
    for one in NEW {
        applied(world, &new(world, one));
    }

    let back = ["rollback", "mesh", "1", "-n", HOME];
    world.helm_alone(&back).unwrap();
    assert!(!today(world));
    assert_eq!(yours(world), before);
    still_writable(world, "back");

    world.helm("upgrade", "mesh", &place).unwrap();
    assert!(today(world));
    assert_eq!(yours(world), before);
    still_writable(world, "again");
    let said = world.kubectl(&[
        "get",
        "-n",
        HOME,
        "inferencebackend/new",
        "-o",
        "jsonpath={.spec.hardwareVendor}",
    ]);
    assert_eq!(said, "nvidia", "what was said is still said");
}
